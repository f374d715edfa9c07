"""Databases of new-api."""

from collections.abc import Iterator

import pytest

from tests.planes.new_api.database import NewApi


@pytest.fixture(scope="module")
def api(server_url: str) -> Iterator[NewApi]:
    """One new-api for all tests of a file that only add rows of their own."""
    made = NewApi(server_url)
    made.create_bare()
    for _ in range(2):
        made.install()
    yield made
    made.drop()


@pytest.fixture
def fresh(server_url: str) -> Iterator[NewApi]:
    """A new-api without the adapter."""
    made = NewApi(server_url)
    made.create_bare()
    yield made
    made.drop()
