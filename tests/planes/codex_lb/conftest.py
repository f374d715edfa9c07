"""Databases of codex-lb."""

from collections.abc import Iterator

import pytest

from tests.planes.codex_lb.database import CodexLb


@pytest.fixture(scope="module")
def lb(server_url: str) -> Iterator[CodexLb]:
    """One codex-lb for all tests of a file that only add keys and accounts of their own."""
    made = CodexLb(server_url)
    made.create_bare()
    for _ in range(2):
        made.install()
    yield made
    made.drop()


@pytest.fixture
def fresh(server_url: str) -> Iterator[CodexLb]:
    """A codex-lb without the adapter."""
    made = CodexLb(server_url)
    made.create_bare()
    yield made
    made.drop()
