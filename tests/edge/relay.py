"""A way to Postgres on which things go wrong, while other ways stay open."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from tests.parts.fault_proxy import FaultProxy, Streams


class Relay(FaultProxy):
    """Passes a Unix socket's bytes on to Postgres; open it by ``async with``."""

    def __init__(self, database_url: str) -> None:
        super().__init__(0)
        parts = urlsplit(database_url)
        [host] = parse_qs(parts.query)["host"]
        self._path = f"{host}/.s.PGSQL.5432"
        self._folder = Path(tempfile.mkdtemp(prefix="relay-"))
        self.url = urlunsplit(parts._replace(query=f"host={quote(str(self._folder))}"))

    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__(*error)
        shutil.rmtree(self._folder)

    async def _listen(self) -> asyncio.Server:
        path = self._folder / ".s.PGSQL.5432"
        path.unlink(missing_ok=True)
        return await asyncio.start_unix_server(self._serve, path)

    async def _connect(self) -> Streams:
        return await asyncio.open_unix_connection(self._path)
