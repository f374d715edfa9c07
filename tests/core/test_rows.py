"""Rows of the control plane: what becomes of each column, and what is refused."""

import base64
import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core import model
from image_gateway.core.model import Account, Credential, Proxy, Secret
from image_gateway.core.rows import RowError, account_from_row, key_from_row, token_expiry
from tests.core.builders import account, account_row, key, key_row

# -- keys ------------------------------------------------------------------------------------


def test_a_key_row_with_nulls_allows_nothing_and_limits_nothing() -> None:
    made = key_from_row(key_row())
    assert made == key(
        key_hash="ab" * 32,
        key_name="",
        status="",
        image_enabled=False,
        group_image_enabled=False,
    )


def test_every_column_of_a_key_arrives() -> None:
    row = key_row(
        key_name="one",
        status="active",
        image_enabled=True,
        group_id="g",
        group_image_enabled=True,
        quota_remaining=9_000_000_000,
        max_concurrency=2,
        min_start_interval_ms=250,
        allowed_models=["a", "b"],
        model_map={"a": "b"},
        account_names=["z", "y"],
        route_strategy="fixed",
    )
    made = key_from_row(row)
    assert made.key_hash == "ab" * 32
    assert (made.key_id, made.key_name, made.status) == ("key-1", "one", "active")
    assert (made.image_enabled, made.group_id, made.group_image_enabled) == (True, "g", True)
    assert made.quota_remaining == 9_000_000_000
    assert (made.max_concurrency, made.min_start_interval_ms) == (2, 250)
    assert made.allowed_models == frozenset({"a", "b"})
    assert made.model_map == {"a": "b"}
    assert made.account_names == ("z", "y")
    assert made.route_strategy == "fixed"


_LATER: dict[str, Any] = {
    "quota_allows": False,
    "images_remaining": 3,
    "cost_remaining": 0.25,
    "owner_id": "ada",
    "owner_max_concurrency": 4,
    "json_keepalive_seconds": 0,
}


def test_what_version_2_added_comes_as_json_or_as_columns() -> None:
    """The daemon reads it as JSON, because a view of version 1 lacks it; commands have columns."""
    end = datetime(2027, 1, 31, 12, tzinfo=UTC)
    text = json.dumps({"expires_at": "2027-01-31T12:00:00+00:00", **_LATER})
    assert key_from_row(key_row(contract_2=text)) == key_from_row(
        key_row(expires_at=end, **{**_LATER, "cost_remaining": Decimal("0.25")})
    )
    made = key_from_row(key_row(contract_2=text))
    assert made.expires_at == end
    assert {name: getattr(made, name) for name in _LATER} == _LATER


@pytest.mark.parametrize("text", [None, "{}", json.dumps(dict.fromkeys(_LATER))])
def test_what_a_view_of_version_1_lacks_is_null(text: str | None) -> None:
    made = key_from_row(key_row(contract_2=text))
    assert made == key_from_row(key_row())
    assert (made.expires_at, made.quota_allows, made.images_remaining) == (None, True, None)


@pytest.mark.parametrize("text", ["infinity", "10000-01-01T00:00:00+00:00"])
def test_a_time_that_python_does_not_reach_is_never(text: str) -> None:
    assert key_from_row(key_row(expires_at=text)).expires_at is None


@pytest.mark.parametrize("text", ["-infinity", "0044-03-15T00:00:00+00:00 BC"])
def test_a_time_before_all_times_is_over(text: str) -> None:
    expired = key_from_row(key_row(expires_at=text)).expires_at
    assert expired is not None
    assert expired < datetime(2, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("column", ["image_enabled", "group_image_enabled"])
@pytest.mark.parametrize("value", [None, False, 1, "true", "t"])
def test_a_switch_of_a_key_is_on_only_where_it_is_true(column: str, value: object) -> None:
    assert getattr(key_from_row(key_row(**{column: value})), column) is False


@pytest.mark.parametrize("column", ["max_concurrency", "min_start_interval_ms"])
@pytest.mark.parametrize("value", [None, 0])
def test_null_and_zero_are_unlimited(column: str, value: object) -> None:
    assert getattr(key_from_row(key_row(**{column: value})), column) is None


def test_a_quota_of_zero_is_no_missing_quota() -> None:
    assert key_from_row(key_row(quota_remaining=0)).quota_remaining == 0


def test_an_empty_list_allows_nothing_and_null_allows_all() -> None:
    made = key_from_row(key_row(allowed_models=[], account_names=[]))
    assert (made.allowed_models, made.account_names) == (frozenset(), ())
    made = key_from_row(key_row(allowed_models=None, account_names=None))
    assert (made.allowed_models, made.account_names) == (None, None)


@pytest.mark.parametrize("strategy", [None, "auto"])
def test_the_strategy_is_auto_unless_fixed(strategy: str | None) -> None:
    assert key_from_row(key_row(route_strategy=strategy)).route_strategy == "auto"


# -- accounts --------------------------------------------------------------------------------


def test_an_account_row_with_nulls_has_the_promised_defaults() -> None:
    assert account_from_row(account_row()) == account(
        status="", image_enabled=False, image_max_concurrency=3, credential=None
    )


def test_every_column_of_an_account_arrives() -> None:
    blocked = datetime(2026, 11, 5, tzinfo=UTC)
    made = account_from_row(
        account_row(
            dialect="azure",
            status="active",
            image_enabled=True,
            image_max_concurrency=7,
            base_url="https://east.openai.azure.com/openai?x=1",
            api_version="2025-04-01-preview",
            deployments={"gpt-image-2": "pictures"},
            credential={"api_key": "abc"},
            client_version="1.2.3",
            responses_model="gpt-5",
            codex_route="responses",
            proxy_url="socks5h://proxy:1080",
            proxy_username="u",
            proxy_password="p",
            routing_weight=0.5,
            used_percent_primary=10,
            used_percent_secondary=99.5,
            same_account_retries=2,
            blocked_until=blocked,
        )
    )
    assert made == Account(
        account_name="alpha",
        dialect="azure",
        status="active",
        image_enabled=True,
        image_max_concurrency=7,
        base_url="https://east.openai.azure.com/openai?x=1",
        api_version="2025-04-01-preview",
        deployments={"gpt-image-2": "pictures"},
        credential=Credential(Secret("abc"), "api_key"),
        client_version="1.2.3",
        responses_model="gpt-5",
        codex_route="responses",
        proxy=Proxy("socks5h://proxy:1080", Secret("u"), Secret("p")),
        routing_weight=0.5,
        used_percent_primary=10.0,
        used_percent_secondary=99.5,
        same_account_retries=2,
        blocked_until=blocked,
    )


def test_an_image_switch_of_an_account_that_is_null_is_off() -> None:
    assert account_from_row(account_row(image_enabled=None)).image_enabled is False
    assert account_from_row(account_row(image_enabled=True)).image_enabled is True


@pytest.mark.parametrize("slots", [1, 3, 1024])
def test_an_account_may_have_1_to_1024_slots(slots: int) -> None:
    made = account_from_row(account_row(image_max_concurrency=slots))
    assert made.image_max_concurrency == slots


@pytest.mark.parametrize("dialect", ["codex", "openai"])
def test_only_azure_needs_a_base_url(dialect: str) -> None:
    assert account_from_row(account_row(dialect=dialect)).base_url is None
    with pytest.raises(RowError, match="base_url"):
        account_from_row(account_row(dialect="azure"))


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1", "https://h.example:8443/v1?k=1", "http://[::1]:80/"]
)
def test_a_base_url_is_http_or_https_on_any_host(url: str) -> None:
    assert account_from_row(account_row(base_url=url)).base_url == url


@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
def test_four_kinds_of_proxy_are_known(scheme: str) -> None:
    made = account_from_row(account_row(proxy_url=f"{scheme}://proxy:3128"))
    assert made.proxy == Proxy(f"{scheme}://proxy:3128")


def test_a_proxy_s_name_without_a_proxy_is_no_proxy() -> None:
    assert account_from_row(account_row(proxy_username="u", proxy_password="p")).proxy is None


@pytest.mark.parametrize("retries", [None, 0, -3])
def test_retries_below_one_are_none(retries: int | None) -> None:
    assert account_from_row(account_row(same_account_retries=retries)).same_account_retries == 0


@pytest.mark.parametrize("column", ["base_url", "api_version", "client_version"])
def test_an_empty_text_is_null(column: str) -> None:
    assert getattr(account_from_row(account_row(**{column: ""})), column) is None


# -- what breaks the contract ----------------------------------------------------------------

_SECRET = "hush4711"

_BAD_KEYS: list[tuple[str, Any]] = [
    ("key_hash", None),
    ("key_hash", ""),
    ("key_id", None),
    ("key_id", [_SECRET]),
    ("key_name", 4711),
    ("status", [_SECRET]),
    ("group_id", 4711),
    ("quota_remaining", _SECRET),
    ("quota_remaining", 1.5),
    ("quota_remaining", True),
    ("max_concurrency", _SECRET),
    ("max_concurrency", -1),
    ("min_start_interval_ms", 2.5),
    ("min_start_interval_ms", -4711),
    ("allowed_models", _SECRET),
    ("allowed_models", [_SECRET, 1]),
    ("model_map", [_SECRET]),
    ("model_map", {_SECRET: 1}),
    ("model_map", _SECRET),
    ("model_map", f'["{_SECRET}"]'),
    ("model_map", '{"m": 4711}'),
    ("account_names", _SECRET),
    ("account_names", [None]),
    ("route_strategy", _SECRET),
    ("route_strategy", 4711),
    ("expires_at", _SECRET),
    ("expires_at", "2026-01-01T00:00:00"),
    ("expires_at", 4711),
    ("quota_allows", "false"),
    ("images_remaining", 47.11),
    ("cost_remaining", "4711"),
    ("cost_remaining", float("nan")),
    ("owner_id", 4711),
    ("owner_max_concurrency", -4711),
    ("json_keepalive_seconds", -4711),
    ("contract_2", _SECRET),
    ("contract_2", f'["{_SECRET}"]'),
]

_BAD_ACCOUNTS: list[tuple[str, Any]] = [
    ("account_name", None),
    ("account_name", ""),
    ("account_name", 4711),
    ("dialect", None),
    ("dialect", _SECRET),
    ("status", 4711),
    ("image_max_concurrency", 0),
    ("image_max_concurrency", -1),
    ("image_max_concurrency", 1025),
    ("image_max_concurrency", 2.0),
    ("image_max_concurrency", True),
    ("base_url", f"ftp://{_SECRET}/"),
    ("base_url", _SECRET),
    ("base_url", "https://"),
    ("base_url", f"https://{_SECRET}:99999/"),
    ("base_url", f"https://{_SECRET}:port/"),
    ("base_url", f"https://[{_SECRET}"),
    ("base_url", f"https://user:{_SECRET}@host/"),
    ("base_url", f"https://{_SECRET}@host/"),
    ("base_url", f"https://:{_SECRET}@host/"),
    ("base_url", f"https://host/ {_SECRET}"),
    ("base_url", f"https://hóst/{_SECRET}"),
    ("base_url", f"https://host/\x7f{_SECRET}"),
    ("base_url", 4711),
    ("base_url", f"https://{_SECRET}/a/../b"),
    ("base_url", f"https://{_SECRET}/a/%2e%2E"),
    ("base_url", f"https://{_SECRET}/."),
    ("base_url", f"https://{_SECRET}/a%2f..%2fb"),
    ("api_version", 4711),
    ("deployments", [_SECRET]),
    ("deployments", {"m": 4711}),
    ("credential", _SECRET),
    ("credential", [_SECRET]),
    ("credential", f'["{_SECRET}"]'),
    ("credential", f'{{"api_key": "{_SECRET}'),
    ("credential", f'{{"api_key": "{_SECRET}\\ud800"}}'),
    ("deployments", _SECRET),
    ("credential", {"access_token": f"{_SECRET}\n"}),
    ("credential", {"access_token": f"{_SECRET}é"}),
    ("credential", {"access_token": "fine", "account_id": f"{_SECRET}\r\nx: y"}),
    ("credential", {"api_key": f"{_SECRET}\0"}),
    ("client_version", f"{_SECRET}\r\n"),
    ("responses_model", 4711),
    ("codex_route", _SECRET),
    ("proxy_url", f"ftp://{_SECRET}"),
    ("proxy_url", f"http://user:{_SECRET}@proxy:1"),
    ("proxy_url", _SECRET),
    ("routing_weight", 0),
    ("routing_weight", -1.0),
    ("routing_weight", float("inf")),
    ("routing_weight", float("nan")),
    ("routing_weight", _SECRET),
    ("routing_weight", True),
    ("used_percent_primary", _SECRET),
    ("used_percent_secondary", float("nan")),
    ("same_account_retries", 1.5),
    ("blocked_until", _SECRET),
    ("blocked_until", datetime(2026, 1, 1)),  # noqa: DTZ001 - the fault to be found
]


def _raised(build: Callable[[dict[str, object]], object], row: dict[str, object]) -> RowError:
    with pytest.raises(RowError) as raised:
        build(row)
    return raised.value


def _assert_names_the_column_alone(error: RowError, column: str) -> None:
    assert str(error).split(" ")[0] == column
    # What a log of the whole chain would show, source lines left out.
    shown = [line for line in traceback.format_exception(error) if not line.startswith("  File")]
    assert not [line for line in shown if _SECRET in line or "4711" in line]


@pytest.mark.parametrize(("column", "value"), _BAD_KEYS)
def test_a_key_row_that_breaks_the_contract_names_its_column_and_never_the_value(
    column: str, value: object
) -> None:
    error = _raised(key_from_row, key_row(**{column: value}))
    _assert_names_the_column_alone(error, column)


@pytest.mark.parametrize(("column", "value"), _BAD_ACCOUNTS)
def test_an_account_row_that_breaks_the_contract_names_its_column_and_never_the_value(
    column: str, value: object
) -> None:
    error = _raised(account_from_row, account_row(**{column: value}))
    _assert_names_the_column_alone(error, column)


@pytest.mark.parametrize("column", ["proxy_username", "proxy_password"])
def test_a_proxy_s_secrets_must_be_text(column: str) -> None:
    row = account_row(proxy_url="http://proxy:1", **{column: 4711})
    _assert_names_the_column_alone(_raised(account_from_row, row), column)


@pytest.mark.parametrize("username", [f"{_SECRET}:", f":{_SECRET}", f"a:{_SECRET}"])
def test_a_proxy_s_user_name_holds_no_colon(username: str) -> None:
    """No proxy could tell it from the password behind it."""
    row = account_row(proxy_url="http://proxy:1", proxy_username=username)
    _assert_names_the_column_alone(_raised(account_from_row, row), "proxy_username")
    row = account_row(proxy_url="http://proxy:1", proxy_username="u", proxy_password="a:b")
    assert account_from_row(row).proxy == Proxy("http://proxy:1", Secret("u"), Secret("a:b"))


_CELLS = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.datetimes()
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
_KEY_COLUMNS = sorted(model.Key.__dataclass_fields__)
_ACCOUNT_COLUMNS = sorted(
    {*Account.__dataclass_fields__, "proxy_url", "proxy_username", "proxy_password"} - {"proxy"}
)


@given(st.dictionaries(st.sampled_from(_KEY_COLUMNS), _CELLS, max_size=3))
def test_any_key_row_makes_a_key_or_a_row_error(cells: dict[str, object]) -> None:
    broken = None
    try:
        made = key_from_row(key_row(**cells))
    except RowError as error:
        broken, made = str(error), key()
    assert broken is None or broken.split(" ")[0] in _KEY_COLUMNS
    assert made.key_hash
    assert made.key_id
    assert made.route_strategy in {"fixed", "auto"}


@given(st.dictionaries(st.sampled_from(_ACCOUNT_COLUMNS), _CELLS, max_size=3))
def test_any_account_row_makes_a_sane_account_or_a_row_error(cells: dict[str, object]) -> None:
    broken = None
    try:
        made = account_from_row(account_row(**cells))
    except RowError as error:
        broken, made = str(error), account()
    assert broken is None or broken.split(" ")[0] in _ACCOUNT_COLUMNS
    assert made.account_name
    assert 1 <= made.image_max_concurrency <= 1024
    assert 0 < made.routing_weight < float("inf")
    assert made.same_account_retries >= 0


# -- credentials -----------------------------------------------------------------------------

_FULL = Credential(Secret("tok"), "access_token", "acct")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"access_token": "tok", "account_id": "acct"}, _FULL),
        ({"accessToken": "tok", "accountId": "acct"}, _FULL),
        ({"tokens": {"access_token": "tok", "account_id": "acct"}}, _FULL),
        ({"tokens": {"accessToken": "tok", "accountId": "acct"}}, _FULL),
        ({"access_token": "tok", "account": {"id": "acct"}}, _FULL),
        ({"tokens": {"access_token": "tok"}, "account": {"id": "acct"}}, _FULL),
        ({"access_token": "tok"}, Credential(Secret("tok"), "access_token")),
        ({"access_token": "tok", "api_key": "key"}, Credential(Secret("tok"), "access_token")),
        ({"api_key": "key"}, Credential(Secret("key"), "api_key")),
        ({"apiKey": "key"}, Credential(Secret("key"), "api_key")),
        ({"api_key": "key", "account_id": "acct"}, Credential(Secret("key"), "api_key")),
        (
            {"access_token": "tok", "tokens": {"access_token": "old", "account_id": "acct"}},
            _FULL,
        ),
        ({"access_token": "", "tokens": {"access_token": "tok", "account_id": "acct"}}, _FULL),
        ({"access_token": None, "api_key": "key"}, Credential(Secret("key"), "api_key")),
        ({"access_token": 5}, None),
        ({"tokens": "tok"}, None),
        ({"account": ["acct"], "account_id": "acct"}, None),
        ({"refresh_token": "tok"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_every_shape_of_a_credential_is_read(value: object, expected: Credential | None) -> None:
    assert account_from_row(account_row(credential=value)).credential == expected


def test_a_jsonb_column_may_come_as_its_text() -> None:
    made = account_from_row(
        account_row(
            credential='{"access_token": "tok", "account": {"id": "acct"}}',
            deployments='{"a": "b"}',
        )
    )
    assert (made.credential, made.deployments) == (_FULL, {"a": "b"})
    assert key_from_row(key_row(model_map='{"a": "b"}')).model_map == {"a": "b"}
    assert account_from_row(account_row(credential="null")).credential is None
    assert account_from_row(account_row(deployments="null")).deployments is None


@pytest.mark.parametrize("name", ["is_fedramp", "isFedramp"])
@pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), ("true", False)])
def test_fedramp_is_only_what_is_true(name: str, value: object, *, expected: bool) -> None:
    made = account_from_row(account_row(credential={"access_token": "tok", name: value}))
    assert made.credential is not None
    assert made.credential.is_fedramp is expected


def _jwt(payload: bytes) -> str:
    middle = base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
    return f"eyJhbGciOiJSUzI1NiJ9.{middle}.c2lnbmF0dXJl"


@given(st.integers(0, 2**40), st.text(max_size=12))
def test_a_token_s_own_expiry_is_read_whatever_its_padding(expiry: int, subject: str) -> None:
    token = _jwt(json.dumps({"sub": subject, "exp": expiry}).encode())
    assert token_expiry(token) == expiry
    made = account_from_row(account_row(credential={"access_token": token}))
    assert made.credential is not None
    assert made.credential.expires_at == expiry


@pytest.mark.parametrize(
    "token",
    [
        "",
        "opaque",
        "a.b",
        "a.b.c.d",
        "a.!!!!.c",
        "a.é.c",
        _jwt(b"not json"),
        _jwt(b"[1]"),
        _jwt(b"{}"),
        _jwt(b'{"exp":"1800000000"}'),
        _jwt(b'{"exp":null}'),
        _jwt(b"\xff\xfe"),
    ],
)
def test_a_token_that_names_no_expiry_has_none(token: str) -> None:
    assert token_expiry(token) is None


@given(st.text(max_size=40))
def test_any_text_may_be_a_token(token: str) -> None:
    assert token_expiry(token) is None or "." in token


def test_an_api_key_has_no_expiry() -> None:
    made = account_from_row(account_row(credential={"api_key": _jwt(b'{"exp":1}')}))
    assert made.credential is not None
    assert made.credential.expires_at is None
