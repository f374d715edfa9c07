"""A database of new-api with the adapter over it, to which tests add rows of their own."""

from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.planes.database import PlaneDatabase

UNIT: Final = 500_000
"""new-api's units in a USD."""


def secret_of(name: str) -> str:
    """The key of a token in ``new_api.sql``, as clients send it: 48 characters after ``sk-``."""
    return "sk-" + name.ljust(48, "0")


class NewApi(PlaneDatabase):
    """Its rows are those of ``new_api.sql``."""

    def __init__(self, server_url: str) -> None:
        super().__init__(server_url, "new_api")

    def insert(self, table: str, **columns: Any) -> int:
        """A row in a table, named with its schema where it is the adapter's own; gives its id."""
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING *").format(
            sql.Identifier(*table.split(".")),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join(map(sql.Placeholder, columns)),
        )
        plain = {
            name: Jsonb(value) if isinstance(value, dict) else value
            for name, value in columns.items()
        }
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(statement, plain).fetchone()
        assert row is not None
        first = row[0]
        return first if isinstance(first, int) else 0

    def add_user(self, **columns: Any) -> int:
        """A user who may spend 10 USD; gives the id."""
        known = self.ask("SELECT coalesce(max(id), 0) + 100 FROM users")[0][0]
        values = {"id": known, "username": f"user {known}", "password": "x", "quota": 10 * UNIT}
        return self.insert("users", **{**values, **columns})

    def add_token(self, name: str, **columns: Any) -> str:
        """A token of user 1 that is not limited; gives its key."""
        values = {
            "user_id": 1,
            "key": secret_of(name)[3:],
            "name": name,
            "unlimited_quota": True,
            "model_limits_enabled": False,
        }
        known = self.ask("SELECT max(id) + 100 FROM tokens")[0][0]
        self.insert("tokens", **{"id": known, **values, **columns})
        return secret_of(name)

    def add_channel(self, *groups: str, models: str = "gpt-image-2", **columns: Any) -> str:
        """A channel of type 1, with its abilities in groups; gives the name of its account."""
        values = {
            "id": self.ask("SELECT max(id) + 100 FROM channels")[0][0],
            "type": 1,
            "key": "sk-up",
            "name": "added",
            "models": models,
            "group": ",".join(groups),
            "created_time": 1_760_000_000,
            **columns,
        }
        self.insert("channels", **values)
        for group in groups:
            for model in models.split(","):
                self.insert(
                    "abilities",
                    group=group,
                    model=model,
                    channel_id=values["id"],
                    enabled=values.get("status", 1) == 1,
                    priority=values.get("priority", 0),
                    weight=values.get("weight", 0),
                )
        return str(values["id"])

    def set_option(self, name: str, value: str) -> None:
        """One of new-api's settings."""
        self.execute(
            "INSERT INTO options VALUES (%(name)s, %(value)s)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            {"name": name, "value": value},
        )
