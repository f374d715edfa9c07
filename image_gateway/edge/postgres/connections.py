"""Connections to Postgres: how each is opened, and that it can only read."""

import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast

import psycopg
from psycopg.rows import dict_row

from image_gateway.core.model import Secret
from image_gateway.core.rows import ViewRow

CONNECT_SECONDS: Final = 3
OPTIONS: Final[Mapping[str, str | int]] = {
    "application_name": "image-gateway",
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""Seconds, but ``tcp_user_timeout`` in milliseconds: how soon a host that is gone is noticed."""

AsyncConnection = psycopg.AsyncConnection[dict[str, Any]]


async def connect(database: Secret, *, autocommit: bool) -> AsyncConnection:
    """A new connection whose transactions are read-only; raises ``psycopg.Error``, ``OSError``."""
    options: dict[str, Any] = dict(OPTIONS)
    try:
        connection: AsyncConnection = await psycopg.AsyncConnection.connect(
            database.reveal(),
            autocommit=autocommit,
            prepare_threshold=None,
            row_factory=dict_row,
            **options,
        )
    except UnicodeError as error:
        # From the resolver, for a text that cannot be a host name.
        raise psycopg.OperationalError("the host name in the URL is not valid") from error
    try:
        # By transaction, not by SET: a transaction pooler would keep a SET for its other clients.
        # It sends nothing, and yet psycopg yields here to a loop that was busy for 5 ms (3.3.9): a
        # caller may be cancelled meanwhile, and would leave the connection open.
        await connection.set_read_only(True)
    except BaseException:
        await connection.close()
        raise
    return connection


@asynccontextmanager
async def connected(database: Secret, *, autocommit: bool) -> AsyncIterator[AsyncConnection]:
    """The same, closed at the end of a block."""
    connection = await connect(database, autocommit=autocommit)
    try:
        yield connection
    finally:
        await connection.close()


def hang_up(connection: AsyncConnection) -> None:
    """Shut the socket down under libpq, which then sees a server that is gone and gives up.

    Cancelling psycopg during a statement waits for the server, for up to 10 s (3.3.9); closing the
    socket while the event loop watches it makes libuv abort the process.
    """
    with suppress(psycopg.Error, OSError):
        raw_socket = socket.socket(fileno=connection.fileno())
        try:
            raw_socket.shutdown(socket.SHUT_RDWR)
        finally:
            raw_socket.detach()


def rows(fetched: Sequence[object]) -> list[ViewRow]:
    """The rows that ``dict_row`` makes, typed: a type checker does not see them."""
    return cast("list[ViewRow]", fetched)
