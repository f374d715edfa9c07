"""Whatever new-api's columns hold, both views can be read."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from image_gateway import sql
from image_gateway.core.rows import RowError, account_from_row, key_from_row
from tests.parts.examples import scaled
from tests.planes.new_api.database import NewApi, secret_of

pytestmark = pytest.mark.slow

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
NAMES = st.sampled_from(["odd", "auto", "default", "vip", "gpt-image-2", "a", "", " "]) | TEXT
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.floats(allow_nan=False)
    | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


def written(document: Any) -> str:
    """JSON as somebody may have typed it, with numbers and bytes that jsonb refuses."""
    return re.sub(r"\bInfinity\b", "1e9999", json.dumps(document)).replace("odd", "\\u0000")


TYPED = JSON.map(json.dumps) | JSON.map(written)
"""Texts with JSON, and texts that look like it."""
OBJECTS = st.sampled_from(["UserUsableGroups", "GroupRatio", "AutoGroups", "QuotaPerUnit"])
INFOS = st.fixed_dictionaries(
    {
        "is_multi_key": st.just(True) | JSON,
        "multi_key_status_list": st.dictionaries(st.sampled_from("012"), st.integers(0, 3)) | JSON,
    }
).map(json.dumps)
SETTINGS = st.fixed_dictionaries(
    {"proxy": st.sampled_from(["http://u:p@p.test:1", "socks5://p.test:99999", "x"]) | JSON}
).map(json.dumps)
CHANNEL_KEYS = (
    st.sampled_from(
        ["", "\n", "a\n\nb", "é", "[1, {}]", '{"access_token": "a", "account_id": "b"}']
    )
    | TEXT
    | TYPED
)
NUMBERS = st.none() | st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 4, 2**63 - 1])
ODD: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "tokens": {
        "user_id": NUMBERS,
        "status": NUMBERS,
        "name": st.none() | TEXT,
        "expired_time": NUMBERS,
        "remain_quota": NUMBERS,
        "unlimited_quota": st.none() | st.booleans(),
        "model_limits_enabled": st.none() | st.booleans(),
        "model_limits": st.none() | NAMES,
        "allow_ips": st.none() | TEXT,
        "group": st.none() | NAMES,
        "auto_groups": st.none() | TYPED,
    },
    "users": {"status": NUMBERS, "quota": NUMBERS, "group": st.none() | NAMES},
    "channels": {
        "type": st.sampled_from([1, 3, 8, 57]),
        "key": CHANNEL_KEYS,
        "status": NUMBERS,
        "weight": NUMBERS,
        "created_time": NUMBERS,
        "base_url": st.none()
        | st.sampled_from(["https://a.test", "http://u:p@a.test/images/edits", "glm-coding-plan"])
        | TEXT,
        "other": st.none() | TEXT,
        "models": st.just("gpt-image-2,odd") | NAMES | st.none(),
        "model_mapping": st.none() | TYPED,
        "setting": st.none() | TYPED | SETTINGS,
        "channel_info": st.none() | TYPED | INFOS,
    },
    "abilities": {"enabled": st.none() | st.booleans(), "priority": NUMBERS, "weight": NUMBERS},
    "options": {"key": OBJECTS, "value": st.none() | TYPED},
}
ROWS: Final = {
    "tokens": "id = 900",
    "users": "id = 900",
    "channels": "id = 900",
    "abilities": "channel_id = 900",
    "options": "\"key\" = 'odd'",
}


@settings(max_examples=scaled(100))
@given(
    values=st.fixed_dictionaries(
        {table: st.fixed_dictionaries(columns) for table, columns in ODD.items()}
    ),
)
def test_no_value_makes_a_view_fail_or_costs_another_row(
    odd: "psycopg.Connection[dict[str, Any]]", values: dict[str, dict[str, Any]]
) -> None:
    with odd.transaction(force_rollback=True):
        odd.execute("DELETE FROM options")
        odd.execute("INSERT INTO options VALUES ('odd', '')")
        for table, columns in values.items():
            changes = ", ".join(f'"{name}" = %({name})s' for name in columns)
            odd.execute(f"UPDATE {table} SET {changes} WHERE {ROWS[table]}".encode(), columns)
        rows = odd.execute(sql.query("daemon/accounts").encode()).fetchall()
        [key] = odd.execute(sql.query("daemon/key").encode(), {"key_hash": HASH}).fetchall()
        odd.execute("TABLE image_gateway.warnings").fetchall()
        odd.execute("SELECT FROM image_gateway.keys").fetchall()
    key_from_row(key)
    assert len({row["account_name"] for row in rows}) == len(rows)
    fine = next(row for row in rows if row["account_name"] == "1")
    assert account_from_row(fine).status == "active"
    setting = values["channels"]["setting"] or ""
    for row in rows:
        if row["account_name"].startswith("900"):
            # What only the gateway can judge: it leaves the row out.
            assert re.match("$|base_url |credential |proxy_", said_of(row)), row
            # It never goes out without the proxy that new-api wants for it.
            if "http://u:p@p.test:1" in setting and row["proxy_url"] is None:
                assert row["status"] != "active"


def said_of(row: dict[str, Any]) -> str:
    """Why the gateway leaves an account out; nothing if it does not."""
    try:
        account_from_row(row)
    except RowError as error:
        return str(error)
    return ""


HASH: Final = hashlib.sha256(secret_of("Odd").encode()).hexdigest()


@pytest.fixture(scope="module")
def odd(server_url: str) -> Iterator["psycopg.Connection[dict[str, Any]]"]:
    """A connection to a new-api with one row of each kind to spoil, whose types are the widest."""
    made = NewApi(server_url)
    made.create_bare()
    made.execute(
        "ALTER TABLE tokens ADD auto_groups text; ALTER TABLE channels ALTER channel_info TYPE text"
    )
    made.install()
    made.add_user(id=900)
    made.add_token("Odd", id=900, user_id=900)
    made.add_channel("default", id=900)
    made.execute("INSERT INTO options VALUES ('odd', '')")
    with psycopg.connect(made.url, row_factory=dict_row, autocommit=True) as connection:
        yield connection
    made.drop()
