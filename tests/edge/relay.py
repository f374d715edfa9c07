"""A way to Postgres that can be cut and stalled, while other ways stay open."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit


class Relay:
    """Passes a Unix socket's bytes on to Postgres; open it by ``async with``.

    ``cut``: nobody listens, and who was connected is thrown out.  ``stall``: all is accepted, and
    nothing is passed on.
    """

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        [host] = parse_qs(parts.query)["host"]
        self._target = f"{host}/.s.PGSQL.5432"
        self._folder = Path(tempfile.mkdtemp(prefix="relay-"))
        self.url = urlunsplit(parts._replace(query=f"host={quote(str(self._folder))}"))
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self._folder)

    async def open(self) -> None:
        """Let everything through from now on."""
        self._flowing.set()
        if self._server is None:
            path = self._folder / ".s.PGSQL.5432"
            path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._serve, path)

    def stall(self) -> None:
        self._flowing.clear()

    def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._flowing.wait()
            inner_reader, inner_writer = await asyncio.open_unix_connection(self._target)
            self._writers.add(inner_writer)
            try:
                await asyncio.gather(
                    self._pump(reader, inner_writer), self._pump(inner_reader, writer)
                )
            finally:
                self._writers.discard(inner_writer)
                inner_writer.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        writer.close()
