"""A database with the store of a CLIProxyAPI and the adapter over it."""

from typing import Any

from psycopg.types.json import Jsonb

from image_gateway import sql
from tests.planes.database import PlaneDatabase


class Store(PlaneDatabase):
    """Its rows are those of ``cliproxyapi.sql``."""

    def __init__(self, server_url: str) -> None:
        super().__init__(server_url, "cliproxyapi")

    def create_elsewhere(self, schema: str) -> None:
        """Make the database with the store in a schema that no session looks into by itself."""
        self.create_bare()
        self.execute(
            f'CREATE SCHEMA "{schema}"; ALTER TABLE auth_store SET SCHEMA "{schema}";'
            f' ALTER TABLE config_store SET SCHEMA "{schema}"'
        )

    def install_from(self, schema: str) -> None:
        """Install as ``PGOPTIONS='-c search_path=...' psql`` does."""
        self.execute(f'SET search_path = "{schema}"; ' + sql.schema("cliproxyapi"))
        self.execute(sql.schema("reader"))

    def add_file(self, name: str, content: Any = None, **fields: Any) -> None:
        """A credential file; without a content a Codex login with a token and the fields."""
        login = {"type": "codex", "access_token": f"token-of-{name}", **fields}
        self.execute(
            "INSERT INTO auth_store (id, content) VALUES (%(name)s, %(content)s)",
            {"name": name, "content": Jsonb(login if content is None else content)},
        )

    def configure(self, text: str) -> None:
        """Save the whole configuration."""
        self.execute(
            "INSERT INTO config_store (id, content) VALUES ('config', %(text)s)"
            " ON CONFLICT (id) DO UPDATE SET content = excluded.content, updated_at = now()",
            {"text": text},
        )
