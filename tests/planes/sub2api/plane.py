"""A sub2api with the adapter over it, and what a client of one of its keys is told."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql as composing
from psycopg.types.json import Jsonb

from image_gateway.core.errors import Refusal
from image_gateway.core.model import Account, Key
from image_gateway.core.routing import admission
from tests.planes.database import PlaneDatabase


class Sub2Api(PlaneDatabase):
    """``planes/sub2api.sql`` has the rows; rows that a test adds are those of user 1."""

    def __init__(self, server_url: str) -> None:
        super().__init__(server_url, "sub2api")

    def save(self) -> None:
        """Note all rows, for ``restore``."""
        copies = [
            f"CREATE TABLE saved.{schema}_{name} AS TABLE {schema}.{name}"
            for schema, name in self._tables()
        ]
        self.execute(";\n".join(["CREATE SCHEMA saved", *copies]))

    def restore(self) -> None:
        """Bring all rows back to what they were; no trigger and no foreign key sees it."""
        tables = self._tables()
        statements = [
            "BEGIN; SET LOCAL session_replication_role = replica",
            *(f"DELETE FROM {schema}.{name}" for schema, name in tables),
            *(
                f"INSERT INTO {schema}.{name} TABLE saved.{schema}_{name}"
                for schema, name in tables
            ),
            "COMMIT",
        ]
        self.execute(";\n".join(statements))

    def _tables(self) -> list[tuple[str, str]]:
        return self.ask(
            "SELECT schemaname, tablename FROM pg_tables"
            " WHERE schemaname IN ('public', 'image_adapter') ORDER BY 1, 2"
        )

    def add(self, table: str, **columns: Any) -> int:
        """A row of one of sub2api's tables; gives its id, 0 where the table has none."""
        statement = composing.SQL("INSERT INTO public.{} ({}) VALUES ({}) RETURNING {}").format(
            composing.Identifier(table),
            composing.SQL(", ").join(map(composing.Identifier, columns)),
            composing.SQL(", ").join(map(composing.Placeholder, columns)),
            composing.SQL("0" if table in _LINKS else "id"),
        )
        return self._one(statement, columns)

    def add_key(self, **columns: Any) -> str:
        """A key of user 1 in group 1; gives its secret."""
        columns = {"user_id": 1, "group_id": 1, "name": "a key", **columns}
        secret: str = columns.setdefault("key", f"sk-{self.number()}")
        self.add("api_keys", **columns)
        return secret

    def add_codex(self, group_id: int | None = None, **columns: Any) -> str:
        """An account with a login; gives its name here."""
        credentials = {"access_token": "token", "refresh_token": "PLANTED", "id_token": "PLANTED"}
        return self._add_account(
            group_id, **{"type": "oauth", "credentials": credentials, **columns}
        )

    def add_openai(self, group_id: int | None = None, /, **columns: Any) -> str:
        """An account with an API key; gives its name here."""
        return self._add_account(
            group_id, **{"type": "apikey", "credentials": {"api_key": "secret"}, **columns}
        )

    def _add_account(self, group_id: int | None, **columns: Any) -> str:
        columns = {"name": "one", "platform": "openai", **columns}
        number = self.add("accounts", **columns)
        if group_id is not None:
            self.add("account_groups", account_id=number, group_id=group_id)
        return f"{number}:{columns['name']}"

    def account(self, name: str) -> Account:
        return self.accounts()[name]

    def number(self) -> int:
        """A number that was not given before."""
        return self._one(composing.SQL("SELECT nextval('public.api_keys_id_seq')"), {})

    def _one(
        self, statement: composing.SQL | composing.Composed, columns: Mapping[str, Any]
    ) -> int:
        plain = {
            name: Jsonb(value) if isinstance(value, dict | list) else value
            for name, value in columns.items()
        }
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(statement, plain).fetchone()
        assert row is not None
        number: int = row[0]
        return number


_LINKS = ("account_groups", "user_allowed_groups", "user_group_rate_multipliers")


def told(key: Key) -> str:
    """The code of the error that a client of the key gets, or ``ok``."""
    try:
        admission.check_switches(key, datetime.now(UTC))
        admission.check_quota(key)
    except Refusal as refusal:
        return refusal.code
    return "ok"
