"""Each report of a real upstream or client is held by tests: ``reports.toml`` names them."""

import ast
import tomllib
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
REPORTS = tomllib.loads((TESTS / "reports.toml").read_text("utf-8"))["report"]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report["what"][:60])
def test_the_tests_of_a_report_are_there(report: dict[str, list[str]]) -> None:
    assert report["tests"]
    for name in report["tests"]:
        path, _, function = name.partition("::")
        tree = ast.parse((TESTS / path).read_text("utf-8"))
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        assert function in {node.name for node in tree.body if isinstance(node, kinds)}, name
