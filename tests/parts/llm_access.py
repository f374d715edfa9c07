"""An llm-access database with the adapter over it.

Tables, columns, types and checks are those that llm-access's Postgres migrations leave, up to 0033,
as far as its Codex side goes; the columns of its other provider, which no image meets, are missing.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql as composing
from psycopg.types.json import Jsonb

from image_gateway import sql
from tests.parts.plane import Plane

NOW_MS: Final = 1_790_000_000_000

_AGE = ("created_at_ms bigint not null", "updated_at_ms bigint not null")
_STATUS = "status text not null check (status in ('active', 'disabled'))"
_OF_KEY = "key_id text primary key references llm_keys on delete cascade"

_TABLES: Final[Mapping[str, Sequence[str]]] = {
    "llm_keys": (
        "key_id text primary key",
        "name text not null",
        "secret text not null",
        "key_hash text not null",
        _STATUS,
        "provider_type text not null",
        "protocol_family text not null check (protocol_family in ('openai', 'anthropic'))",
        "public_visible boolean not null",
        "quota_billable_limit bigint not null check (quota_billable_limit >= 0)",
        *_AGE,
    ),
    "llm_key_route_config": (
        _OF_KEY,
        "route_strategy text",
        "fixed_account_name text",
        "auto_account_names_json jsonb",
        "account_group_id text",
        "model_name_map_json jsonb",
        "request_max_concurrency bigint",
        "request_min_start_interval_ms bigint",
        "codex_fast_enabled boolean not null default true",
        "codex_image_generation_enabled boolean not null default true",
        "codex_image_direct_generation_enabled boolean not null default false",
    ),
    "llm_key_usage_rollups": (
        _OF_KEY,
        *(
            f"{name} bigint not null default 0 check ({name} >= 0)"
            for name in (
                "input_uncached_tokens",
                "input_cached_tokens",
                "output_tokens",
                "billable_tokens",
                "codex_image_usage_tokens",
                "codex_image_usage_missing_events",
            )
        ),
        "codex_image_last_used_at_ms bigint",
        "last_used_at_ms bigint",
        "updated_at_ms bigint not null",
    ),
    "llm_runtime_config": (
        "id text primary key check (id = 'default')",
        "codex_client_version text not null",
        "codex_weight_free bigint not null default 1",
        "codex_weight_plus bigint not null default 10",
        "codex_weight_pro5x bigint not null default 50",
        "codex_weight_pro20x bigint not null default 200",
        "updated_at_ms bigint not null",
    ),
    "llm_account_groups": (
        "group_id text primary key",
        "provider_type text not null",
        "name text not null",
        "account_names_json jsonb not null",
        *_AGE,
    ),
    "llm_proxy_configs": (
        "proxy_config_id text primary key",
        "name text not null",
        "proxy_url text not null",
        "proxy_username text",
        "proxy_password text",
        _STATUS,
        *_AGE,
    ),
    "llm_proxy_bindings": (
        "provider_type text primary key",
        "proxy_config_id text not null references llm_proxy_configs",
        "updated_at_ms bigint not null",
    ),
    "llm_codex_accounts": (
        "account_name text primary key",
        "account_id text",
        "email text",
        "status text not null check (status in ('active', 'disabled', 'unavailable'))",
        "auth_json jsonb not null",
        "settings_json jsonb not null",
        "last_refresh_at_ms bigint",
        "last_error text",
        *_AGE,
    ),
    "llm_codex_status_cache": (
        "id text primary key check (id = 'default')",
        "snapshot_json jsonb not null",
        "updated_at_ms bigint not null",
    ),
}

TABLES: Final = (
    "".join(f"CREATE TABLE {name} ({', '.join(lines)});\n" for name, lines in _TABLES.items())
    + "CREATE UNIQUE INDEX uq_llm_keys_key_hash ON llm_keys (key_hash);\n"
)
"""What llm-access's migrations leave."""

ADAPTER: Final = sql.schema("llm_access") + sql.schema("reader")


def _columns(table: str) -> set[str]:
    return {line.split()[0] for line in _TABLES[table]}


class LlmAccess(Plane):
    """A database of llm-access; ``url`` may write, ``reader_url`` may not."""

    def install(self) -> None:
        """Make the database with llm-access's tables and the adapter over them."""
        self.create(TABLES)
        self.execute(ADAPTER)

    def add(self, table: str, **columns: Any) -> None:
        """A row in a table, named with its schema where it is the adapter's own."""
        if table.startswith("llm_"):
            for name in _columns(table) & {"created_at_ms", "updated_at_ms"}:
                columns.setdefault(name, NOW_MS)
        self._change(
            composing.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                composing.Identifier(*table.split(".")),
                composing.SQL(", ").join(map(composing.Identifier, columns)),
                composing.SQL(", ").join(map(composing.Placeholder, columns)),
            ),
            columns,
        )

    def change(self, table: str, where: Mapping[str, Any], **columns: Any) -> None:
        """Change the one row that ``where`` names."""
        self._change(
            composing.SQL("UPDATE {} SET {} WHERE {}").format(
                composing.Identifier(*table.split(".")),
                composing.SQL(", ").join(
                    composing.SQL("{} = {}").format(
                        composing.Identifier(name), composing.Placeholder(name)
                    )
                    for name in columns
                ),
                composing.SQL(" AND ").join(
                    composing.SQL("{} = {}").format(
                        composing.Identifier(name), composing.Placeholder(f"where_{name}")
                    )
                    for name in where
                ),
            ),
            columns | {f"where_{name}": value for name, value in where.items()},
        )

    def add_llm_key(
        self, key_id: str | None = None, *, used: int | None = None, **columns: Any
    ) -> str:
        """A Codex key; columns of its route configuration go there.  Gives its secret."""
        secret = f"sfk_{secrets.token_hex(16)}"
        key_id = key_id or f"key-{secrets.token_hex(4)}"
        routing = _columns("llm_key_route_config") & set(columns)
        route = {name: columns.pop(name) for name in routing}
        self.add(
            "llm_keys",
            **{
                "key_id": key_id,
                "name": f"name of {key_id}",
                "secret": secret,
                "key_hash": hashlib.sha256(secret.encode()).hexdigest(),
                "status": "active",
                "provider_type": "codex",
                "protocol_family": "openai",
                "public_visible": False,
                "quota_billable_limit": 1000,
                **columns,
            },
        )
        if route:
            self.add("llm_key_route_config", key_id=key_id, **route)
        if used is not None:
            self.add("llm_key_usage_rollups", key_id=key_id, billable_tokens=used)
        return secret

    def add_codex(self, account_name: str, auth_json: Any = None, **settings: Any) -> None:
        """An active Codex account that makes images, unless the settings say otherwise."""
        self.add(
            "llm_codex_accounts",
            account_name=account_name,
            status="active",
            auth_json={"tokens": {"access_token": f"token-of-{account_name}"}}
            if auth_json is None
            else auth_json,
            settings_json={"codex_image_generation_enabled": True, **settings},
        )

    def add_llm_group(
        self, group_id: str, names: Any, *, provider_type: str = "codex", on: bool | None = None
    ) -> None:
        """A group of llm-access; ``on`` None leaves the adapter's switch as it is."""
        self.add(
            "llm_account_groups",
            group_id=group_id,
            provider_type=provider_type,
            name=group_id,
            account_names_json=Jsonb(names),
        )
        if on is not None:
            self.add("image_adapter.groups", group_id=group_id, allow_image_generation=on)

    def add_proxy(self, proxy_config_id: str, url: str, **columns: Any) -> None:
        self.add(
            "llm_proxy_configs",
            **{
                "proxy_config_id": proxy_config_id,
                "name": proxy_config_id,
                "proxy_url": url,
                "status": "active",
                **columns,
            },
        )

    def see(self, accounts: Any) -> None:
        """Let llm-access have seen these budgets: the ``accounts`` of its snapshot."""
        self.execute("DELETE FROM llm_codex_status_cache")
        self.add(
            "llm_codex_status_cache", id="default", snapshot_json=Jsonb({"accounts": accounts})
        )

    def rows(self, query: str, url: str | None = None) -> list[tuple[Any, ...]]:
        with psycopg.connect(url or self.url) as connection:
            return connection.execute(query.encode()).fetchall()

    def _change(self, statement: composing.Composed, values: Mapping[str, Any]) -> None:
        plain = {
            name: Jsonb(value) if isinstance(value, dict | list) else value
            for name, value in values.items()
        }
        with psycopg.connect(self.url, autocommit=True) as connection:
            assert connection.execute(statement, plain).rowcount == 1
