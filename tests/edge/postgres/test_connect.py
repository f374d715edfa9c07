"""A connection is handed over or closed: whoever gives up on the way leaves none behind."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from image_gateway.core.model import Secret
from image_gateway.edge.postgres import connections
from tests.parts.eventually import eventually


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nothing is closed because the garbage collector happens to come by."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("error", [asyncio.CancelledError, psycopg.ProgrammingError])
async def test_what_fails_after_the_connect_closes_the_connection(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    made: list[psycopg.AsyncConnection[Any]] = []

    async def fail(connection: psycopg.AsyncConnection[Any], *_: Any) -> None:
        made.append(connection)
        raise error

    monkeypatch.setattr(psycopg.AsyncConnection, "set_read_only", fail)
    with pytest.raises(error):
        await connections.connect(Secret(postgres_url), autocommit=True)
    [connection] = made
    assert connection.closed


async def test_a_connect_on_a_busy_loop_that_is_cancelled_closes_its_connection(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where psycopg itself yields to a loop that was busy for ``MAX_BUSY_TIME``."""
    monkeypatch.setattr(psycopg.waiting, "MAX_BUSY_TIME", 0)
    made: list[psycopg.AsyncConnection[Any]] = []
    set_read_only = psycopg.AsyncConnection.set_read_only

    async def cancelled(connection: psycopg.AsyncConnection[Any], *values: Any) -> None:
        made.append(connection)
        connecting.cancel()
        await set_read_only(connection, *values)

    monkeypatch.setattr(psycopg.AsyncConnection, "set_read_only", cancelled)
    connecting = asyncio.create_task(connections.connect(Secret(postgres_url), autocommit=True))
    await asyncio.wait([connecting])
    assert connecting.cancelled()
    assert [connection.closed for connection in made] == [True]


@pytest.mark.usefixtures("no_collector")
async def test_a_connect_that_takes_too_long_hangs_up(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        bound.reschedule(asyncio.get_running_loop().time())
        await reader.read()
        ended.set()
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / ".s.PGSQL.5432")
    url = Secret(f"postgresql://somebody@/some?host={tmp_path}")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as bound:
            await connections.connect(url, autocommit=True)
    await eventually(ended.is_set)
    server.close()
