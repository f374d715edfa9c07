"""Databases of CLIProxyAPI."""

from collections.abc import Iterator

import pytest

from tests.planes.cliproxyapi.database import Store


@pytest.fixture(scope="module")
def store(server_url: str) -> Iterator[Store]:
    """One store for all tests of a file that only add rows of their own."""
    made = Store(server_url)
    made.create_bare()
    for _ in range(2):
        made.install()
    yield made
    made.drop()


@pytest.fixture
def fresh(server_url: str) -> Iterator[Store]:
    """A store without the adapter."""
    made = Store(server_url)
    made.create_bare()
    yield made
    made.drop()
