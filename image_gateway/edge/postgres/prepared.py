"""Prepared statements of one connection, for what every call asks.

To take a slot's lock and to give it back costs 45 us of CPU in this way and 225 us through
psycopg's cursors (measured, 3.3.9), and Postgres plans each statement once.  Parameters are arrays
of whole numbers and results whole numbers, which need none of psycopg's adaptation.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Final

from psycopg import errors, pq

from image_gateway import sql
from image_gateway.edge.postgres import connections

_PARAMETER: Final = re.compile(r"%\((\w+)\)s")
_GOOD: Final = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)

Row = tuple[int | None, ...]


class PreparedStatements:
    """The statements of one connection, which nobody else may use meanwhile.

    ``run`` raises ``psycopg.Error``, and ``TimeoutError`` after ``seconds``.  After an error, or a
    cancellation, the connection has been hung up.
    """

    def __init__(self, connection: connections.AsyncConnection, seconds: float) -> None:
        self._connection = connection
        self._libpq = connection.pgconn
        self._seconds = seconds
        self._parameters: dict[str, Sequence[str]] = {}

    def __repr__(self) -> str:
        return f"<PreparedStatements {', '.join(self._parameters)}>"

    async def run(
        self, name: str, values: Mapping[str, Sequence[int]] | None = None
    ) -> Sequence[Row]:
        """The rows of a query such as ``daemon/take_locks``."""
        try:
            if name not in self._parameters:
                await self._prepare(name)
            self._libpq.send_query_prepared(
                name.encode(), [_array((values or {})[each]) for each in self._parameters[name]]
            )
            return await self._rows()
        except BaseException:
            # What was asked last may still be answered, and must not be taken for the next answer.
            connections.hang_up(self._connection)
            raise

    async def _prepare(self, name: str) -> None:
        query, names = sql.query(name), list[str]()

        def number(parameter: re.Match[str]) -> str:
            if parameter[1] not in names:
                names.append(parameter[1])
            return f"${names.index(parameter[1]) + 1}"

        text = _PARAMETER.sub(number, query).replace("%%", "%")
        self._libpq.send_prepare(name.encode(), text.encode())
        await self._rows()
        self._parameters[name] = names

    async def _rows(self) -> Sequence[Row]:
        async with asyncio.timeout(self._seconds):
            # These statements are shorter than a socket's buffer; a server that reads nothing is
            # noticed by the time-out.
            while self._libpq.flush():  # noqa: ASYNC110 - libpq wakes nobody
                await asyncio.sleep(0.01)
            rows: list[Row] = []
            while True:
                while self._libpq.is_busy():
                    await _readable(self._libpq.socket)
                    self._libpq.consume_input()
                result = self._libpq.get_result()
                if result is None:
                    return rows
                if result.status not in _GOOD:
                    raise errors.error_from_result(result)
                rows += (
                    tuple(_number(result.get_value(at, column)) for column in range(result.nfields))
                    for at in range(result.ntuples)
                )


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _wake, readable)
    try:
        await readable
    finally:
        loop.remove_reader(descriptor)


def _wake(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


def _array(numbers: Sequence[int]) -> bytes:
    return b"{%b}" % ",".join(map(str, numbers)).encode()


def _number(value: bytes | None) -> int | None:
    return None if value is None else int(value)
