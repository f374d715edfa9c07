"""Whose fault an upstream's error is: real error bodies, and the row that knows each."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core import errors
from image_gateway.core.dialects import DIALECTS, faults
from image_gateway.core.dialects.faults import Fault, KnownError
from image_gateway.core.errors import UpstreamError
from image_gateway.core.request import intent
from image_gateway.core.request.intent import AnyRequest
from image_gateway.core.request.model_names import ModelNames
from tests.core.builders import key, parse, parse_form

FOLDER: Final = Path(__file__).parent / "errors"
PICTURE: Final = "data:image/png;base64,iVBORw0KGgo="
_FORM: Final = (
    b'--b\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    b"\x89PNG\r\n\x1a\n0000\r\n"
    b'--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\na cat\r\n--b--\r\n'
)


def _intent(**body: object) -> AnyRequest:
    value = {"model": "gpt-9", "input": "a cat", "temperature": 1, **body}
    return intent.parse(value, [], ModelNames(key()), "gpt-image-2")


REQUESTS: Final[dict[str, AnyRequest]] = {
    "generation": parse({"size": "1024x1024", "quality": "high"}),
    "edit as JSON": parse({"images": [PICTURE]}, "edits"),
    "edit as a form": parse_form(_FORM, b"b")[0],
    "intent with the tool": _intent(tools=[{"type": "image_generation"}]),
    "intent without the tool": _intent(tool_choice={"type": "image_generation"}),
    "intent for an image model": _intent(model="gpt-image-2"),
}
GENERATION: Final = REQUESTS["generation"]


def _examples(path: Path) -> list[tuple[str, dict[str, Any]]]:
    return [(path.stem, example) for example in tomllib.loads(path.read_text("utf-8"))["error"]]


CORPUS: Final = [case for path in sorted(FOLDER.glob("*.toml")) for case in _examples(path)]


def _find(dialect: str, example: dict[str, Any]) -> KnownError | None:
    error = errors.read_upstream_error(example["body"].encode())
    request = REQUESTS[example.get("request", "generation")]
    return faults.find(DIALECTS[dialect].known_errors, example["status"], error, request)


@pytest.mark.parametrize(("dialect", "example"), CORPUS)
def test_a_real_error_is_sorted_by_whose_fault_it_is(dialect: str, example: dict[str, Any]) -> None:
    known = _find(dialect, example)
    verdict = (None, None) if known is None else (known.name, known.fault)
    assert verdict == (example.get("row"), example.get("fault"))
    assert example["source"]


def test_the_verdicts_as_a_table() -> None:
    """Prints what becomes of each error of the corpus; ``pytest -s`` shows it."""
    lines = []
    for dialect, example in CORPUS:
        error = errors.read_upstream_error(example["body"].encode())
        known = _find(dialect, example)
        words = (error.message or error.code or error.type or "")[:60]
        verdict = "by its status" if known is None else f"{known.fault:8} {known.name}"
        lines.append(f"{dialect:7} {example['status']} {words:60} {verdict}")
    print("", *lines, sep="\n")
    assert len(lines) == len(CORPUS)


def _rows() -> Iterator[tuple[str, KnownError]]:
    for dialect in DIALECTS.values():
        yield from ((dialect.name, row) for row in dialect.known_errors)
    yield from (("all", row) for row in faults.COMMON)


def test_every_row_is_reached_by_a_real_error() -> None:
    reached = set()
    for dialect, example in CORPUS:
        known = _find(dialect, example)
        if known is not None:
            reached.add(known.name)
    names = {row.name for owner, row in _rows() if owner in {"codex", "azure", "openai", "all"}}
    assert names - reached == set()


def test_a_row_says_something_and_codes_are_in_lower_case() -> None:
    for _, row in _rows():
        assert row.statuses or row.codes or row.params or row.phrase is not None, row.name
        assert row.codes == {code.lower() for code in row.codes}, row.name
        assert row.meaning


@given(
    st.sampled_from([400, 403, 404, 415, 422, 429, 500, 503]),
    st.sampled_from(sorted(DIALECTS)),
    st.text(min_size=1, max_size=40),
)
def test_words_that_a_client_chose_stop_no_account(status: int, dialect: str, words: str) -> None:
    """An upstream quotes them behind words of its own."""
    phrases = [row.phrase.pattern for _, row in _rows() if row.phrase is not None]
    for quoted in (words, "Your account has been deactivated.", "billing_hard_limit_reached"):
        error = UpstreamError(f"Invalid value: '{quoted}'.", None, "size", "invalid_value")
        known = faults.find(DIALECTS[dialect].known_errors, status, error, GENERATION)
        assert phrases
        assert known is None or known.fault in {Fault.REQUEST, Fault.FORM}


@given(
    st.sampled_from(sorted(DIALECTS)),
    st.one_of(st.none(), st.integers(0, 999)),
    st.builds(UpstreamError, *[st.one_of(st.none(), st.text(max_size=30))] * 4),
    st.sampled_from(sorted(REQUESTS)),
)
def test_any_error_is_sorted(
    dialect: str, status: int | None, error: UpstreamError, request: str
) -> None:
    known = faults.find(DIALECTS[dialect].known_errors, status, error, REQUESTS[request])
    assert known is None or status is not None
    assert faults.for_client(error, REQUESTS[request]).code == error.code


@pytest.mark.parametrize(
    ("request_name", "field", "expected"),
    [
        ("generation", "size", "size"),
        ("generation", "tools[0].size", "size"),
        ("generation", "tools.0.quality", "quality"),
        ("generation", "tools[0].model", "model"),
        ("generation", "tools[0].action", None),
        ("generation", "tools", None),
        ("generation", "input[0].content[0].text", "prompt"),
        ("generation", "input", "prompt"),
        ("generation", "instructions", None),
        ("generation", "images", None),
        ("generation", "stream", None),
        ("generation", "[0]", None),
        ("edit as JSON", "images[0].image_url", "images[0].image_url"),
        ("edit as JSON", "input[0].content[1].image_url", "images"),
        ("edit as a form", "input[0].content[1].image_url", "image"),
        ("edit as a form", "image", "image"),
        ("edit as a form", "mask", None),
        ("intent with the tool", "tools[0].size", "tools[0].size"),
        ("intent with the tool", "temperature", "temperature"),
        ("intent with the tool", "store", None),
        ("intent for an image model", "tools", None),
    ],
)
def test_a_field_is_called_as_the_client_calls_it(
    request_name: str, field: str, expected: str | None
) -> None:
    assert faults.client_field(field, REQUESTS[request_name]) == expected


def test_an_error_for_the_client_has_its_names_in_the_message_too() -> None:
    error = UpstreamError("Invalid value for 'tools[0].size'.", None, "tools[0].size", "invalid")
    told = faults.for_client(error, GENERATION)
    assert (told.param, told.message) == ("size", "Invalid value for 'size'.")
