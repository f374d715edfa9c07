"""Connections to Postgres: how each is made, and that it can only read."""

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
"""How soon a host that is gone is noticed from here."""

AsyncConnection = psycopg.AsyncConnection[dict[str, Any]]


async def connect(database: Secret, *, autocommit: bool) -> AsyncConnection:
    """A connection of its own, whose transactions are read-only; raises what psycopg does."""
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
        # What the resolver makes of a host that cannot be a name.
        raise psycopg.OperationalError("the host's name is not one") from error
    try:
        # By transaction, not by SET: a transaction pooler would keep a SET for its other clients.
        # It asks nobody, and yet psycopg yields here to a loop that was busy for 5 ms (3.3.9): a
        # caller may be cancelled in between, and would leave the connection open.
        await connection.set_read_only(True)
    except BaseException:
        await connection.close()
        raise
    return connection


@asynccontextmanager
async def connected(database: Secret, *, autocommit: bool) -> AsyncIterator[AsyncConnection]:
    """The same for a block."""
    connection = await connect(database, autocommit=autocommit)
    try:
        yield connection
    finally:
        await connection.close()


def hang_up(connection: AsyncConnection) -> None:
    """End the connection under libpq, which takes it for the server's doing and gives up.

    To cancel psycopg in the midst of a statement is to wait for the server, for up to 10 s (3.3.9);
    and to close the socket while the event loop watches it makes libuv abort the process.
    """
    with suppress(psycopg.Error, OSError):
        wire = socket.socket(fileno=connection.fileno())
        try:
            wire.shutdown(socket.SHUT_RDWR)
        finally:
            wire.detach()


def rows(found: Sequence[object]) -> list[ViewRow]:
    """What ``dict_row`` makes, for a type checker that cannot see it."""
    return cast("list[ViewRow]", found)
