"""A standalone control plane in a database of its own, on the session's Postgres."""

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from image_gateway.demo import postgres


class Plane:
    """One database with the standalone schema; ``url`` may write, ``reader_url`` may not."""

    def __init__(self, server_url: str, name: str | None = None) -> None:
        self._server_url = server_url
        self.name = name or f"plane_{secrets.token_hex(6)}"
        self.url = urlunsplit(urlsplit(server_url)._replace(path=f"/{self.name}"))
        self.reader_url = self.url.replace("//postgres:@", "//image_gateway_reader:@", 1)

    def create(self, schema: str | None = None) -> None:
        """Make the database; ``schema`` None: the standalone one with its reader."""
        with psycopg.connect(self._server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.name)))
        self.execute(postgres.schema() if schema is None else schema)

    def drop(self) -> None:
        with psycopg.connect(self._server_url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self.name))
            )

    def execute(self, statement: str, values: Mapping[str, Any] | None = None) -> None:
        if statement:
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(statement.encode(), values)

    def ask(self, query: str) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def locks(self) -> int:
        """Advisory locks in this database: slots, and places of keys and owners."""
        [[count]] = self.ask(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return int(count)

    def add_key(self, **columns: Any) -> str:
        """A key with the given columns of ``image_control.keys``; gives its secret."""
        secret = f"sk-test-{secrets.token_hex(16)}"
        columns.setdefault("key_id", f"key-{secrets.token_hex(4)}")
        columns["key_hash"] = hashlib.sha256(secret.encode()).hexdigest()
        self._insert("keys", columns)
        return secret

    def add_account(self, name: str, base_url: str | None, **columns: Any) -> None:
        """A Codex account with a token, unless the columns say otherwise."""
        columns = {
            "account_name": name,
            "dialect": "codex",
            "base_url": base_url,
            "credential": {"access_token": f"token-of-{name}", "account_id": f"id-of-{name}"},
            **columns,
        }
        self._insert("accounts", columns)

    def add_group(self, group_id: str, *, image_enabled: bool) -> None:
        self._insert("groups", {"group_id": group_id, "image_enabled": image_enabled})

    def update(self, table: str, where: Mapping[str, Any], **columns: Any) -> None:
        """Change rows of a table of the standalone schema."""
        statement = sql.SQL("UPDATE image_control.{} SET {} WHERE {}").format(
            sql.Identifier(table),
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name))
                for name in columns
            ),
            sql.SQL(" AND ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(f"where_{name}"))
                for name in where
            ),
        )
        values = _plain(columns) | {f"where_{name}": value for name, value in where.items()}
        with psycopg.connect(self.url, autocommit=True) as connection:
            assert connection.execute(statement, values).rowcount == 1

    def _insert(self, table: str, columns: Mapping[str, Any]) -> None:
        statement = sql.SQL("INSERT INTO image_control.{} ({}) VALUES ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join(map(sql.Placeholder, columns)),
        )
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement, _plain(columns))


def _plain(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: Jsonb(value) if isinstance(value, dict) else value for name, value in columns.items()
    }
