"""The clients, started once for all tests, and keys for them."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import Door, MakeDoor, open_door
from tests.parts.clients import Programs
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import PNG, ScriptedUpstream

Ask = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    made = Programs()
    yield made
    made.close()


@pytest.fixture
def doors(gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream) -> MakeDoor:
    """A maker of keys for one account of a kind, on the shared daemon."""

    def make(kind: str, **options: Any) -> Door:
        return open_door(gateway, shared_plane, upstream, kind, **options)

    return make


@pytest.fixture
def ask(programs: Programs) -> Ask:
    """Have a client place an order at a door; gives what its user saw."""

    async def asked(name: str, door: Door, do: str, **order: Any) -> Any:
        return await programs[name].ask(
            {
                "do": do,
                "baseURL": door.gateway.base_url,
                "apiKey": door.secret,
                "model": "gpt-5.5" if do == "respond" else "gpt-image-2",
                "prompt": "a cat",
                "pictures": [],
                "then": None,
                "stream": False,
                "retries": None,
                "options": {},
                **order,
            }
        )

    return asked


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[[int], Sequence[str]]:
    """A maker of pictures in files, each with bytes of its own."""

    def make(count: int) -> Sequence[str]:
        paths = [tmp_path / f"picture {number}.png" for number in range(count)]
        for number, path in enumerate(paths):
            path.write_bytes(PNG + f"picture {number}\r\n--".encode())
        return [str(path) for path in paths]

    return make
