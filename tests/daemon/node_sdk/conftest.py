"""Keys for the SDK, each with one account of a kind."""

from collections.abc import Callable

import pytest

from tests.daemon.conftest import Door
from tests.daemon.node_sdk.calls import open_door
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream


@pytest.fixture
def doors(gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream) -> Callable[..., Door]:
    """A maker of doors on the shared daemon."""
    return lambda kind, **key: open_door(kind, gateway, shared_plane, upstream, **key)


@pytest.fixture
def waiting(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> Callable[[str], Door]:
    """A maker of doors on a daemon that says so every 0.2 s while it waits."""
    gateway = make_gateway(plane.reader_url, keepalive_seconds=0.2).start()
    return lambda kind: open_door(kind, gateway, plane, upstream)
