"""Credentials of CLIProxyAPI as the gateway sees them: which are used, how, through what."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from image_gateway import sql
from image_gateway.core.model import Credential, Proxy, Secret
from image_gateway.core.rows import RowError, account_from_row
from tests.parts.examples import scaled
from tests.planes.cliproxyapi.database import Store

pytestmark = pytest.mark.slow

STATUSES = {
    "codex-a.json": "active",
    "codex-b.json": "disabled",
    # Past its "expired", which may be older than the token.
    "codex-c.json": "active",
    "codex-d.json": "no_credential",
    # "disabled" is a text.
    "codex-f.json": "active",
    "team/codex-h.json": "active",
    "codex-i.json": "active",
}


def test_the_codex_credentials_of_the_store_are_accounts(store: Store) -> None:
    found = store.accounts()
    assert {name: found[name].status for name in found if name in STATUSES} == STATUSES
    assert "claude-g.json" not in found
    first = found["codex-a.json"]
    assert first.credential == Credential(Secret("at-a"), "access_token", "acc-a")
    assert (first.dialect, first.image_enabled, first.base_url) == ("codex", True, None)
    assert (first.deployments, first.routing_weight, first.proxy) == (None, 1.0, None)
    assert found["team/codex-h.json"].proxy == Proxy(
        "socks5://10.0.0.9:1080", Secret("u"), Secret("p@ss")
    )
    assert (found["codex-i.json"].proxy, found["codex-i.json"].routing_weight) == (None, 5.0)


def test_what_is_no_json_object_is_left_out_and_told(store: Store) -> None:
    assert "codex-e.json" not in store.accounts()
    assert store.warnings() == [
        'the credential "codex-e.json" of CLIProxyAPI is no JSON object; it is left out'
    ]


def test_no_refresh_token_can_be_read_by_the_gateway(store: Store) -> None:
    store.add_file("planted", refresh_token="PLANTED", id_token="PLANTED", email="PLANTED")
    assert "PLANTED" not in str(store.account_rows()["planted"])


def test_a_token_that_ended_by_its_own_word_is_not_used(store: Store) -> None:
    """The gateway reads the end from the token; "expired" beside it says nothing."""
    claims = base64.urlsafe_b64encode(json.dumps({"exp": 1_700_000_000}).encode()).decode()
    store.add_file("ended", access_token=f"h.{claims}.s", expired="2099-01-01T00:00:00Z")
    account = store.accounts()["ended"]
    assert account.status == "active"
    assert account.signed_by().expires_at == 1_700_000_000


@pytest.mark.parametrize(
    ("weight", "seen"),
    [
        (0.5, 0.5),
        (0, 1.0),
        (-3, 1.0),
        ("7", 1.0),
        (None, 1.0),
        (True, 1.0),
        pytest.param(10**400, 1e6, id="huge"),
        (1e-300, 1e-6),
    ],
)
def test_a_weight_counts_if_it_is_a_number_above_0(
    store: Store, request: pytest.FixtureRequest, weight: Any, seen: float
) -> None:
    store.add_file(request.node.name, weight=weight)
    assert store.accounts()[request.node.name].routing_weight == seen


def test_what_cliproxyapi_has_no_field_for_is_an_option_of_the_account(store: Store) -> None:
    store.add_file("options", weight=5)
    store.execute(
        "INSERT INTO image_adapter.account_options (account_name, image_enabled, routing_weight,"
        " image_max_concurrency, responses_model) VALUES ('options', false, 7, 9, 'gpt-5.4')"
    )
    account = store.accounts()["options"]
    assert (account.image_enabled, account.routing_weight) == (False, 7.0)
    assert (account.image_max_concurrency, account.responses_model) == (9, "gpt-5.4")


@pytest.mark.parametrize(
    ("proxy", "url"),
    [
        ("http://proxy:8080", "http://proxy:8080"),
        (" HTTPS://proxy:8080/ ", "https://proxy:8080"),
        ("Direct", None),
        ("none", None),
        ("", None),
        (None, None),
        ("ftp://proxy", "unavailable"),
        ("proxy:8080", "unavailable"),
        ("http://a@b@proxy", "unavailable"),
        ("http://%ff@proxy", "unavailable"),
        (7, "unavailable"),
        (["http://proxy"], "unavailable"),
        ({}, "unavailable"),
        (False, "unavailable"),
    ],
)
def test_an_account_goes_through_its_proxy_or_nowhere(
    store: Store, request: pytest.FixtureRequest, proxy: Any, url: str | None
) -> None:
    store.add_file(request.node.name, proxy_url=proxy)
    account = store.accounts()[request.node.name]
    if url == "unavailable":
        assert (account.status, account.proxy) == ("proxy_unavailable", None)
    else:
        assert (account.status, account.proxy and account.proxy.url) == ("active", url)


@pytest.fixture(scope="module")
def configured(server_url: str) -> Iterator[Store]:
    """A store whose configuration tests change."""
    made = Store(server_url)
    made.create_bare()
    made.install()
    yield made
    made.drop()


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ("proxy-url: http://all:8080", "http://all:8080"),
        ("proxy-url:\thttp://all:8080 \r", "http://all:8080"),
        ("proxy-url: http://all:8080   # for all", "http://all:8080"),
        ('proxy-url: "http://all:8080"', "http://all:8080"),
        ("proxy-url: 'http://all:8080' # for all", "http://all:8080"),
        ('"proxy-url": http://all:8080', "http://all:8080"),
        ('proxy-url: "direct"', None),
        ('proxy-url: ""', None),
        ("proxy-url: ''", None),
        ("proxy-url:", None),
        ("proxy-url: ~", None),
        ("proxy-url: null # none", None),
        ("proxy-url:  # none", None),
        ("  proxy-url: http://of-something-else:1", None),
        ("# proxy-url: http://all:8080", None),
        ("", None),
        # Sound YAML, maybe, and not read here.
        ("proxy-url: >-\n  http://all:8080", "unavailable"),
        ('proxy-url: "http:\\/\\/all:8080"', "unavailable"),
        ("proxy-url: *all", "unavailable"),
        ("proxy-url: {}", "unavailable"),
        ("proxy-url:\n  http://all:8080", "unavailable"),
        ("proxy-url: # for all\n\n  # all\n  http://all:8080", "unavailable"),
        ("proxy-url: # none\n  # none", None),
    ],
)
def test_a_credential_without_a_proxy_has_that_of_the_configuration(
    configured: Store, line: str, url: str | None
) -> None:
    configured.configure(f'port: 8317\n{line}\napi-keys:\n  - "sk-one"\n')
    found = configured.accounts()
    inherits = found["codex-a.json"]
    if url == "unavailable":
        assert (inherits.status, inherits.proxy) == ("proxy_unavailable", None)
    else:
        assert (inherits.status, inherits.proxy and inherits.proxy.url) == ("active", url)
    own = found["team/codex-h.json"].proxy
    assert own is not None
    assert own.url == "socks5://10.0.0.9:1080"
    assert (found["codex-i.json"].status, found["codex-i.json"].proxy) == ("active", None)


@pytest.mark.parametrize(
    ("configuration", "status"),
    [
        ('{"port": 8317, "proxy-url": "http://all:8080"}', "proxy_unavailable"),
        ('# JSON\n---\n{\n  "proxy-url": "http://all:8080"\n}\n', "proxy_unavailable"),
        ("  port: 8317\n  proxy-url: http://all:8080\n", "proxy_unavailable"),
        ("--- {proxy-url: http://all:8080}\n", "proxy_unavailable"),
        ("\ufeffproxy-url: http://all:8080\n", "proxy_unavailable"),
        ("? proxy-url\n: http://all:8080\n", "proxy_unavailable"),
        ('{"port": 8317}', "active"),
        ("\n# here\r\n---\r\nport: 8317\ncodex:\n  - proxy-url: http://one:8080\n", "active"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_not_taken_for_one_without_a_proxy(
    configured: Store, configuration: str, status: str
) -> None:
    configured.configure(configuration)
    assert configured.accounts()["codex-a.json"].status == status


def test_no_configuration_is_no_proxy(configured: Store) -> None:
    configured.execute("DELETE FROM config_store")
    assert configured.accounts()["codex-a.json"].status == "active"


def test_a_name_stands_for_one_account_and_a_credential_keeps_its_own(store: Store) -> None:
    store.add_file("taken")
    with pytest.raises(psycopg.errors.UniqueViolation, match='"taken" belongs to a credential'):
        store.execute(
            "INSERT INTO image_adapter.accounts (account_name, dialect) VALUES ('taken', 'openai')"
        )
    store.execute(
        "INSERT INTO image_adapter.accounts (account_name, dialect) VALUES ('later', 'openai')"
    )
    assert store.accounts()["later"].dialect == "openai"
    store.add_file("later", {"type": "claude", "access_token": "t"})
    assert store.accounts()["later"].dialect == "openai"
    store.execute('UPDATE auth_store SET content = content || \'{"type": "codex"}\'')
    assert store.accounts()["later"].dialect == "codex"


# -- anything at all in the store ------------------------------------------------------------------

_WORDS = "type codex access_token account_id disabled proxy_url weight direct http://u:p@proxy:1 %"
WORDS = st.sampled_from(_WORDS.split()) | st.text(
    # What jsonb itself refuses.
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    max_size=8,
)
NUMBERS = st.integers(-(10**400), 10**400) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=6),
    max_leaves=8,
)
LOGINS = st.dictionaries(WORDS, JSON, max_size=6).map(lambda each: {**each, "type": "codex"})


@settings(max_examples=scaled(100))
@given(content=JSON | LOGINS, configuration=WORDS | WORDS.map("proxy-url: {}".format))
def test_no_content_makes_the_view_fail_or_costs_another_row(
    odd: "psycopg.Connection[dict[str, Any]]", content: Any, configuration: str
) -> None:
    with odd.transaction(force_rollback=True):
        odd.execute("UPDATE auth_store SET content = %s WHERE id = 'odd'", [Jsonb(content)])
        odd.execute("UPDATE config_store SET content = %s", [configuration])
        rows = odd.execute(sql.query("daemon/accounts").encode()).fetchall()
        odd.execute("TABLE image_gateway.warnings").fetchall()
    accounts = {row["account_name"]: row for row in rows}
    assert account_from_row(accounts["team/codex-h.json"]).status == "active"
    if "odd" in accounts:
        try:
            said = account_from_row(accounts["odd"]).status
        except RowError as error:
            said = str(error)
        # A token or a proxy with odd letters is what only the gateway can judge.
        words = ("active", "disabled", "no_credential", "proxy_", "credential")
        assert said.startswith(words)


@pytest.fixture(scope="module")
def odd(store: Store) -> Iterator["psycopg.Connection[dict[str, Any]]"]:
    """A connection to a store with one credential to spoil."""
    store.add_file("odd")
    with psycopg.connect(store.url, row_factory=dict_row, autocommit=True) as connection:
        yield connection
