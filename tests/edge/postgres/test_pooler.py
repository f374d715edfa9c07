"""Whether a URL leads through a transaction pooler, asked of a real PgBouncer and a real Postgres.

What an idle pool, a busy one and a full one do differs; each is made here as it is met in life.
"""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from image_gateway.core.model import Secret
from image_gateway.edge.postgres import pooler
from image_gateway.edge.postgres.cache import LOAD_SECONDS
from tests.edge.relay import Relay
from tests.parts.eventually import eventually
from tests.parts.pgbouncer import pgbouncer
from tests.parts.plane import Plane

pytestmark = pytest.mark.slow

SLACK_SECONDS = 1.0
"""What a loaded machine may add to a bound."""
IN_TURN = pytest.mark.parametrize("in_turn", [0, 1], ids=["last-first", "in-turn"])


async def is_pooled(url: str) -> bool:
    """The answer, which must come in time whatever it is."""
    began = time.monotonic()
    try:
        return await pooler.is_pooled(Secret(url))
    finally:
        assert time.monotonic() - began < LOAD_SECONDS + SLACK_SECONDS


@pytest.fixture
def short_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is known to take all the time there is."""
    monkeypatch.setattr(pooler, "LOAD_SECONDS", 0.8)
    monkeypatch.setattr(pooler, "_ANSWER_SECONDS", 0.1)


@asynccontextmanager
async def stranger(
    url: str, *, autocommit: bool = False
) -> "AsyncIterator[psycopg.AsyncConnection[Any]]":
    """Another client of the same pool."""
    connection = await psycopg.AsyncConnection.connect(
        url, autocommit=autocommit, prepare_threshold=None
    )
    try:
        yield connection
    finally:
        await connection.close()


async def warm(url: str, processes: int) -> None:
    """Leave a pool with this many idle processes."""
    async with AsyncExitStack() as stack:
        strangers = [await stack.enter_async_context(stranger(url)) for _ in range(processes)]
        pids = set()
        for each in strangers:
            cursor = await each.execute("SELECT pg_backend_pid()")
            pids.add(await cursor.fetchone())
        assert len(pids) == processes
        for each in strangers:
            await each.commit()


@asynccontextmanager
async def traffic(url: str, clients: int, seconds: float = 0.002) -> AsyncIterator[None]:
    """Clients with one transaction, of one statement that lasts ``seconds``, after another."""

    async def work(client: "psycopg.AsyncConnection[Any]") -> None:
        while not enough:
            await client.execute("SELECT pg_sleep(%s)", [seconds])
            began.set()

    enough = False
    began = asyncio.Event()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            client = await stack.enter_async_context(stranger(url, autocommit=True))
            tasks.create_task(work(client))
        await began.wait()
        try:
            yield
        finally:
            enough = True


def pools(url: str) -> list[dict[str, Any]]:
    """What PgBouncer says of its pools of the database ``postgres``."""
    console = url.replace("/postgres?", "/pgbouncer?")
    with psycopg.connect(console, autocommit=True, row_factory=dict_row) as connection:
        rows = connection.execute("SHOW POOLS").fetchall()
    return [row for row in rows if row["database"] == "postgres"]


def waiting(url: str) -> int:
    """How many clients wait for a process."""
    return sum(int(pool["cl_waiting"]) for pool in pools(url))


# -- transaction poolers ---------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["tcp", "unix"])
@pytest.mark.parametrize("mode", ["transaction", "statement"])
@IN_TURN
async def test_an_unused_pool_is_found(
    postgres_url: str, mode: str, over: str, in_turn: int
) -> None:
    with pgbouncer(postgres_url, mode, over=over, server_round_robin=in_turn) as url:
        assert await is_pooled(url)


@pytest.mark.parametrize("processes", [2, 3, 4])
@IN_TURN
async def test_a_pool_with_idle_processes_is_found(
    postgres_url: str, processes: int, in_turn: int
) -> None:
    with pgbouncer(postgres_url, server_round_robin=in_turn) as url:
        await warm(url, processes)
        assert await is_pooled(url)


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("pool_size", [1, 2, 5])
@IN_TURN
async def test_a_busy_pool_is_found(
    postgres_url: str, mode: str, pool_size: int, in_turn: int
) -> None:
    settings: dict[str, Any] = {"default_pool_size": pool_size, "server_round_robin": in_turn}
    with pgbouncer(postgres_url, mode, **settings) as busy:
        async with traffic(busy, 6):
            assert await is_pooled(busy)


@pytest.mark.parametrize(("pool_size", "clients"), [(1, 3), (2, 4)])
async def test_a_pool_with_a_long_queue_is_found(
    postgres_url: str, pool_size: int, clients: int
) -> None:
    with pgbouncer(postgres_url, default_pool_size=pool_size) as url:
        async with traffic(url, clients, seconds=0.4):
            assert await is_pooled(url)


@IN_TURN
async def test_a_pool_of_one_process_is_found_without_waiting_for_it(
    postgres_url: str, in_turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooler, "_ANSWER_SECONDS", 60.0)
    with pgbouncer(postgres_url, default_pool_size=1, server_round_robin=in_turn) as url:
        assert await is_pooled(url)


async def test_a_pool_whose_only_process_is_taken_and_kept_between_two_questions_is_found(
    postgres_url: str,
) -> None:
    settings: dict[str, Any] = {"default_pool_size": 1, "admin_users": "postgres"}
    with pgbouncer(postgres_url, **settings) as url:
        async with stranger(url) as first, stranger(url) as second:
            await first.execute("SELECT 1")
            asked = asyncio.create_task(is_pooled(url))
            await eventually(lambda: waiting(url) == 1)
            # It stands behind the question that waits already, and before the next one.
            taking = asyncio.create_task(second.execute("SELECT 1"))
            await eventually(lambda: waiting(url) == 2)
            await first.commit()
            await taking
            assert await asked


async def test_a_full_pool_is_nobody_who_answers(postgres_url: str, short_bound: None) -> None:
    """Whether it is one for sessions or for transactions cannot be seen from outside."""
    for mode in ("transaction", "session"):
        with pgbouncer(postgres_url, mode, default_pool_size=1) as url:
            async with stranger(url) as first:
                await first.execute("SELECT 1")
                with pytest.raises(TimeoutError):
                    await is_pooled(url)


# -- what keeps a session in its process -----------------------------------------------------------


async def test_postgres_itself_is_no_pooler(postgres_url: str) -> None:
    assert not await is_pooled(postgres_url)


async def test_busy_postgres_itself_is_no_pooler(postgres_url: str) -> None:
    async with traffic(postgres_url, 6):
        assert not await is_pooled(postgres_url)


@pytest.mark.parametrize("over", ["tcp", "unix"])
@IN_TURN
async def test_a_session_pooler_is_no_transaction_pooler(
    postgres_url: str, over: str, in_turn: int
) -> None:
    with pgbouncer(postgres_url, "session", over=over, server_round_robin=in_turn) as url:
        assert not await is_pooled(url)
        await warm(url, 3)
        assert not await is_pooled(url)
        async with traffic(url, 6):
            assert not await is_pooled(url)


async def test_a_session_pooler_with_one_process_is_no_transaction_pooler(
    postgres_url: str,
) -> None:
    with pgbouncer(postgres_url, "session", default_pool_size=1) as url:
        assert not await is_pooled(url)


async def test_a_session_pooler_that_refuses_a_second_session_is_no_transaction_pooler(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooler, "_ANSWER_SECONDS", 3.0)
    settings: dict[str, Any] = {"default_pool_size": 1, "query_wait_timeout": 1}
    with pgbouncer(postgres_url, "session", **settings) as url:
        assert not await is_pooled(url)


# -- no answer -------------------------------------------------------------------------------------


async def test_a_stalled_way_ends_in_time(postgres_url: str, short_bound: None) -> None:
    async with Relay(postgres_url) as relay:
        relay.stall()
        with pytest.raises(TimeoutError):
            await is_pooled(relay.url)


async def test_postgres_that_falls_silent_is_no_pooler(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, short_bound: None
) -> None:
    provoke = pooler._provoke

    async def stall_first(*args: Any) -> bool | None:
        relay.stall()
        return await provoke(*args)

    monkeypatch.setattr(pooler, "_provoke", stall_first)
    async with Relay(postgres_url) as relay:
        with pytest.raises(TimeoutError):
            await is_pooled(relay.url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///postgres?host=/nonexistent",
        "postgresql://127.0.0.1:1/postgres",
        f"postgresql://{'a' * 70}/postgres",
        "postgresql://a..b/postgres",
        "no URL",
    ],
)
async def test_where_there_is_no_postgres_the_error_is_psycopgs(url: str) -> None:
    with pytest.raises(psycopg.Error):
        await is_pooled(url)


async def test_a_pool_keeps_its_process_and_no_client(postgres_url: str) -> None:
    """PgBouncer throws a process away whose client leaves in the midst of a transaction."""
    settings: dict[str, Any] = {"default_pool_size": 1, "admin_users": "postgres"}
    with pgbouncer(postgres_url, **settings) as url:
        assert await is_pooled(url)
        [pool] = await eventually(lambda: [p for p in pools(url) if p["cl_active"] == 0])
        assert (pool["cl_waiting"], pool["sv_active"], pool["sv_idle"]) == (0, 0, 1)


async def test_no_session_is_left_behind(plane: Plane) -> None:
    assert not await is_pooled(plane.url)
    with psycopg.connect(plane.url, autocommit=True) as connection:

        def others() -> int:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
            assert row is not None
            return int(row[0])

        await eventually(lambda: others() == 0)


def test_without_pgbouncer_the_tests_say_what_to_install(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with (
        pytest.raises(AssertionError, match="apt-get install pgbouncer"),
        pgbouncer(postgres_url),
    ):
        pass
