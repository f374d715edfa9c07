"""A sub2api with the adapter for all tests, whose rows are brought back, and one without it."""

from collections.abc import Iterator

import pytest

from tests.planes.sub2api.plane import Sub2Api


@pytest.fixture(scope="package")
def still(server_url: str) -> Iterator[Sub2Api]:
    """One with the adapter installed; a test only adds rows of its own."""
    made = Sub2Api(server_url)
    made.create_bare()
    made.install()
    made.save()
    yield made
    made.drop()


@pytest.fixture
def fresh(still: Sub2Api) -> Iterator[Sub2Api]:
    """The same, for a test that counts rows or changes those that others read."""
    still.restore()
    yield still
    still.restore()


@pytest.fixture
def bare(server_url: str) -> Iterator[Sub2Api]:
    """One of the test's own, without the adapter."""
    made = Sub2Api(server_url)
    made.create_bare()
    yield made
    made.drop()
