"""Databases of LiteLLM: a fresh one, and one for all tests that only add rows of their own."""

from collections.abc import Iterator

import pytest

from tests.planes.litellm.rows import LiteLlm


@pytest.fixture
def litellm(server_url: str) -> Iterator[LiteLlm]:
    """A fresh LiteLLM with the adapter installed."""
    made = LiteLlm(server_url)
    made.create_bare()
    made.install()
    yield made
    made.drop()


@pytest.fixture
def bare(server_url: str) -> Iterator[LiteLlm]:
    """A fresh LiteLLM without the adapter."""
    made = LiteLlm(server_url)
    made.create_bare()
    yield made
    made.drop()


@pytest.fixture(scope="module")
def still(server_url: str) -> Iterator[LiteLlm]:
    """One LiteLLM for all tests of a module that only add rows of their own."""
    made = LiteLlm(server_url)
    made.create_bare()
    made.install()
    yield made
    made.drop()
