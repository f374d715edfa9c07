"""A daemon with a text API behind it, and keys for accounts with a Responses route."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.daemon.conftest import Door, MakeDoor, open_door
from tests.daemon.responses.calls import (
    TextApi,
)
from tests.parts.gateway import Gateway, free_port
from tests.parts.plane import Plane
from tests.parts.upstream import (
    ScriptedUpstream,
    drawn,
    streams,
)


@pytest.fixture(scope="module")
def text_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def served(
    shared_plane: Plane,
    text_port: int,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Gateway]:
    """A daemon with a text API behind it, in which nobody waits for a slot.

    A module's ``SETTINGS`` are for its daemon.
    """
    settings = getattr(request.module, "SETTINGS", {})
    text_api_url = f"http://127.0.0.1:{text_port}"
    made = Gateway(
        tmp_path_factory.mktemp("served"),
        shared_plane.reader_url,
        **{"text_api_url": text_api_url, "slot_wait_seconds": 0, **settings},
    ).start()
    yield made
    code = made.stop()
    assert code == 0, made.words()


@pytest.fixture
async def text_api(text_port: int) -> AsyncIterator[TextApi]:
    """The text API behind ``served``."""
    async with TextApi(text_port) as made:
        yield made


@pytest.fixture
def make(served: Gateway, shared_plane: Plane, upstream: ScriptedUpstream) -> MakeDoor:
    """A maker of keys for one account with a Responses route, on the daemon with a text API."""
    upstream.script = streams(drawn())

    def made(**options: Any) -> Door:
        return open_door(served, shared_plane, upstream, "codex-responses", **options)

    return made


@pytest.fixture
def door(make: MakeDoor) -> Door:
    return make()


@pytest.fixture
async def other(upstream: ScriptedUpstream) -> AsyncIterator[ScriptedUpstream]:
    """The upstream of a second account."""
    async with ScriptedUpstream(streams(drawn())) as made:
        yield made
