"""A database with the tables and rows of somebody's control plane, and its adapter over them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from image_gateway import sql
from image_gateway.core.model import Account, Key
from image_gateway.core.rows import account_from_row, key_from_row
from tests.parts.plane import Plane

_FOLDER = Path(__file__).parent

_CATALOGUE = (
    """SELECT table_name, column_name, data_type, column_default, is_nullable
       FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2""",
    "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2",
    """SELECT tgrelid::regclass::text, tgname FROM pg_trigger
       WHERE NOT tgisinternal ORDER BY 1, 2""",
    "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1",
    "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'image%'",
)


class PlaneDatabase(Plane):
    """``url`` may do everything, ``reader_url`` only read, ``charger_url`` only charge.

    ``planes/NAME.sql`` beside this file has the control plane's tables and rows.
    """

    def __init__(self, server_url: str, plane: str) -> None:
        super().__init__(server_url)
        self.plane = plane
        self.charger_url = self.url.replace("//postgres:@", "//image_gateway_charger:@", 1)

    def create_bare(self) -> None:
        """Make the database with the control plane's own tables and rows alone."""
        self.create("")
        self.create_tables()

    def create_tables(self) -> None:
        """Make the control plane's own tables and rows in a database that is there."""
        self.execute(_FOLDER.joinpath(f"{self.plane}.sql").read_text("utf-8"))

    def install(self) -> None:
        """Install the adapter and its roles, as its page says."""
        self.execute(sql.schema(self.plane))
        self.execute(sql.schema("reader"))
        if self.plane != "standalone":
            self.execute(sql.schema("charger", self.plane))

    def key_row(self, secret: str) -> dict[str, Any] | None:
        """The row of a key as the daemon reads it."""
        values = {"key_hash": hashlib.sha256(secret.encode()).hexdigest()}
        rows = self._read("daemon/key", values)
        return rows[0] if rows else None

    def key(self, secret: str) -> Key:
        """A key as the daemon has it."""
        row = self.key_row(secret)
        assert row is not None, secret
        return key_from_row(row)

    def account_rows(self) -> dict[str, dict[str, Any]]:
        """The rows of all accounts as the daemon reads them."""
        rows = self._read("daemon/accounts")
        by_name = {row["account_name"]: row for row in rows}
        assert len(by_name) == len(rows), "an account's name stands for two"
        return by_name

    def accounts(self) -> dict[str, Account]:
        """All accounts as the daemon has them; raises ``RowError`` for a row it would leave out."""
        return {name: account_from_row(row) for name, row in self.account_rows().items()}

    def warnings(self) -> list[str]:
        """What the adapter tells ``check``."""
        return [row["warning"] for row in self._read("daemon/warnings")]

    def plan(self, name: str, values: Mapping[str, Any] | None = None) -> str:
        """How Postgres runs one of the daemon's queries."""
        statement = f"EXPLAIN {sql.query(name)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            lines = connection.execute(statement.encode(), values).fetchall()
        return "\n".join(line[0] for line in lines)

    def of_the_plane(self) -> list[list[Any]]:
        """What an adapter must leave as it was: the control plane's tables with their columns,
        indexes, triggers, functions and rows; and the gateway's schemas.
        """
        tables = self.ask("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        rows = [f'SELECT to_jsonb(t)::text FROM public."{name}" t ORDER BY 1' for (name,) in tables]
        return [self.ask(query) for query in (*_CATALOGUE, *rows)]

    def charge(self, *, url: str | None = None, **arguments: Any) -> str:
        """Charge a call as ``usage apply`` does; gives the function's word for it."""
        names = ", ".join(f"{name} => %({name})s" for name in arguments)
        statement = f"SELECT image_gateway.charge({names})"
        with psycopg.connect(url or self.charger_url, autocommit=True) as connection:
            row = connection.execute(statement.encode(), arguments).fetchone()
        assert row is not None
        word: str = row[0]
        return word

    def _read(self, name: str, values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        with psycopg.connect(self.reader_url, row_factory=dict_row) as connection:
            return connection.execute(sql.query(name).encode(), values).fetchall()
