"""A database of codex-lb with the adapter over it, to which tests add rows of their own."""

import hashlib
from typing import Any, Final

import psycopg
from psycopg import sql

from image_gateway.core.encrypted import Keyring
from image_gateway.core.model import Account, Secret
from image_gateway.core.rows import account_from_row
from tests.planes.database import PlaneDatabase

TOKEN: Final = (
    "gAAAAABqsTuAZGVmZ2hpamtsbW5vcHFycz9dTu4LkOisgxZj5gf2X_E3ZflpplA36Ikg21rLZ86Zzai0vy4Ie24R"
    "ip16Sl_xHWbbIs0j2QEwKyQVL_nEv6k="
)
"""An access token as codex-lb encrypts it: ``plane-test-access-token`` under ``KEY``."""
KEY: Final = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
KEYRING: Final = Keyring(Secret(KEY))
PASSWORD: Final = (
    "gAAAAABqsTuAPD0-P0BBQkNERUZHSElKS4MhGKzgHyzvtMW7PDcPVe2Y9OQsmwxuaE5bbjXkDK1L2NAMMgxTfs15"
    "fPUcZf56Qw=="
)
"""``proxy-pass`` under ``KEY``."""
FAR: Final = 2_000_000_000
"""In Unix seconds; the year 2033."""


class CodexLb(PlaneDatabase):
    """Its rows are those of ``codex_lb.sql``.  Its time zone is not UTC, which codex-lb keeps in
    columns without a time zone.
    """

    def __init__(self, server_url: str) -> None:
        super().__init__(server_url, "codex_lb")

    def create_bare(self) -> None:
        super().create_bare()
        self.execute(f"ALTER DATABASE {self.name} SET timezone = 'Asia/Kolkata'")

    def accounts(self) -> dict[str, Account]:
        return {name: account_from_row(row, KEYRING) for name, row in self.account_rows().items()}

    def insert(self, table: str, **columns: Any) -> None:
        """A row in a table, named with its schema where it is the adapter's own."""
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(*table.split(".")),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join(map(sql.Placeholder, columns)),
        )
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement, columns)

    def add_lb_key(self, key_id: str, **columns: Any) -> str:
        """An active key without limits; gives its secret."""
        secret = f"sk-clb-{key_id}"
        values = {
            "id": key_id,
            "name": f"name of {key_id}",
            "key_hash": hashlib.sha256(secret.encode()).hexdigest(),
            "key_prefix": secret[:15],
            "is_active": True,
        }
        self.insert("api_keys", **{**values, **columns})
        return secret

    def add_limit(self, key_id: str, limit_type: str, most: int, used: int, **columns: Any) -> None:
        """A limit that is reset in the far future."""
        values = {
            "api_key_id": key_id,
            "limit_type": limit_type,
            "limit_window": "daily",
            "max_value": most,
            "current_value": used,
            "reset_at": "2099-01-01",
        }
        self.insert("api_key_limits", **{**values, **columns})

    def add_lb_account(self, account_id: str, **columns: Any) -> None:
        """An active account whose token is ``TOKEN``."""
        values = {
            "id": account_id,
            "chatgpt_account_id": f"upstream id of {account_id}",
            "codex_installation_id": "installation",
            "email": "someone@example.test",
            "plan_type": "plus",
            "access_token_encrypted": TOKEN.encode(),
            "refresh_token_encrypted": b"PLANTED",
            "id_token_encrypted": b"PLANTED",
            "last_refresh": "2026-11-28 20:00",
            "status": "active",
        }
        self.insert("accounts", **{**values, **columns})

    def add_pool(self, pool_id: str, *, is_active: bool = True, **endpoint: Any) -> None:
        """A pool of one proxy, which is active, too."""
        values = {"id": pool_id, "name": pool_id, "scheme": "http", "host": "proxy", "port": 8080}
        self.insert("proxy_pools", id=pool_id, name=pool_id, is_active=is_active)
        self.insert("proxy_endpoints", **{**values, **endpoint})
        self.insert("proxy_pool_members", id=pool_id, pool_id=pool_id, endpoint_id=pool_id)

    def bind(self, account_id: str, pool_id: str, *, is_active: bool = True) -> None:
        self.insert(
            "account_proxy_bindings",
            id=account_id,
            account_id=account_id,
            pool_id=pool_id,
            is_active=is_active,
        )
