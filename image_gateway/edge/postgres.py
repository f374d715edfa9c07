"""Connections to Postgres: how each is made, and that it can only read."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import psycopg
from psycopg.rows import dict_row

from image_gateway.core.model import Row, Secret

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

Connection = psycopg.AsyncConnection[dict[str, Any]]


async def connect(database: Secret, *, autocommit: bool) -> Connection:
    """A connection of its own, whose transactions are read-only; raises what psycopg does."""
    options: dict[str, Any] = dict(OPTIONS)
    try:
        connection: Connection = await psycopg.AsyncConnection.connect(
            database.reveal(),
            autocommit=autocommit,
            prepare_threshold=None,
            row_factory=dict_row,
            **options,
        )
    except UnicodeError as error:
        # What the resolver makes of a host that cannot be a name.
        raise psycopg.OperationalError("the host's name is not one") from error
    # By transaction, not by SET: a transaction pooler would keep a SET for its other clients.
    await connection.set_read_only(True)
    return connection


@asynccontextmanager
async def connected(database: Secret, *, autocommit: bool) -> AsyncIterator[Connection]:
    """The same for a block."""
    connection = await connect(database, autocommit=autocommit)
    try:
        yield connection
    finally:
        await connection.close()


def rows(found: Sequence[object]) -> list[Row]:
    """What ``dict_row`` makes, for a type checker that cannot see it."""
    return cast("list[Row]", found)
