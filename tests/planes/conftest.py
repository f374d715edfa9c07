"""The Postgres servers of the adapters' tests: the oldest that they promise, and the newest."""

from collections.abc import Iterator

import pytest

from image_gateway.demo import postgres
from tests.edge.server import hurry
from tests.parts.packaged_postgres import packaged


@pytest.fixture(scope="package", params=[15, 18], ids="postgres-{}".format)
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server for each version, for all tests of this folder."""
    with packaged(15) if request.param == 15 else postgres.embedded(request.param) as url:
        hurry(url)
        yield url
