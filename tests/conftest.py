"""Fixtures that every room's tests may use."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from image_gateway.demo import postgres
from tests.parts import examples
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream

# ``ci`` holds unless pytest gets --hypothesis-profile; tests with a count of examples of their own
# take it from tests/parts/examples.py, which follows the profile.
settings.register_profile("ci", deadline=None, max_examples=examples.CI)
settings.register_profile("fast", deadline=None, max_examples=examples.FAST)
settings.load_profile("ci")

_SLOW_FIXTURES = {"postgres_url", "make_gateway"}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """With CI=true nothing may be skipped: a skip there is a promise that nobody checked."""
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts Postgres or a daemon is slow, without a mark of its own.  The tests on a machine
    of their own come first: mostly they wait, while the others work.
    """
    for item in items:
        if not _SLOW_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("machine") is not None and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip("it boots a machine, which only root may do"))
    items.sort(key=lambda item: item.get_closest_marker("machine") is None)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The session's Postgres, for the superuser."""
    with postgres.embedded() as url:
        yield url


@pytest.fixture
def plane(postgres_url: str) -> Iterator[Plane]:
    """A fresh standalone control plane."""
    made = Plane(postgres_url)
    made.create()
    yield made
    made.drop()


@pytest.fixture(scope="session")
def shared_plane(postgres_url: str) -> Iterator[Plane]:
    """The control plane behind ``gateway``; tests add keys and accounts of their own."""
    made = Plane(postgres_url)
    made.create()
    yield made
    made.drop()


@pytest.fixture(scope="session")
def gateway(shared_plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One daemon with default settings, shared by all tests that need no other."""
    made = Gateway(tmp_path_factory.mktemp("gateway"), shared_plane.reader_url).start()
    yield made
    code = made.stop()
    assert code == 0, made.words()


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """A maker of daemons with settings of their own; those still running are killed at the end."""
    made: list[Gateway] = []

    def make(database_url: str, **options: Any) -> Gateway:
        folder = tmp_path / f"gateway{len(made)}"
        folder.mkdir()
        made.append(Gateway(folder, database_url, **options))
        return made[-1]

    yield make
    for gateway in made:
        gateway.kill()


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """An upstream that draws, until a test scripts it otherwise."""
    async with ScriptedUpstream() as made:
        yield made
