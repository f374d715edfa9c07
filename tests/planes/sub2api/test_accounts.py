"""Accounts of sub2api: what the gateway knows of them, and which it does not use."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from image_gateway.core.model import Account, Credential, Proxy, Secret
from tests.core.builders import CATALOGUE
from tests.planes.sub2api.plane import Sub2Api

pytestmark = pytest.mark.slow


def moment(**ahead: float) -> str:
    """A time from now on, as sub2api writes it into JSON."""
    return (datetime.now(UTC) + timedelta(**ahead)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_an_account_is_seen_with_all_that_sub2api_knows(fresh: Sub2Api) -> None:
    account = fresh.account("1:codex-1")
    assert account == Account(
        account_name="1:codex-1",
        dialect="codex",
        status="active",
        image_enabled=True,
        image_max_concurrency=3,
        base_url=None,
        api_version=None,
        deployments=None,
        credential=Credential(Secret("at-1"), "access_token", "acc-1"),
        client_version=None,
        responses_model=None,
        codex_route="direct",
        proxy=Proxy("socks5://10.0.0.9:1080", Secret("pu"), Secret("p@ss:w/rd")),
        routing_weight=1.0,
        used_percent_primary=12.5,
        used_percent_secondary=80.0,
        same_account_retries=0,
        blocked_until=None,
    )


def test_the_other_accounts_are_seen_as_sub2api_would_use_them(fresh: Sub2Api) -> None:
    found = fresh.accounts()
    assert {name: account.status for name, account in found.items()} == {
        "1:codex-1": "active",
        "2:codex-limited": "active",
        "3:azure-like": "quota_exhausted",
        "4:bad-json": "no_credential",
        "5:expired": "expired",
        "7:codex-1": "not_schedulable",
        "8:image-cooled": "active",
    }
    now = datetime.now(UTC)
    blocked = {
        name
        for name, account in found.items()
        if account.blocked_until is not None and account.blocked_until > now
    }
    assert blocked == {"2:codex-limited", "8:image-cooled"}
    azure = found["3:azure-like"]
    assert (azure.dialect, azure.base_url) == ("openai", "https://NAME.openai.azure.com/openai/v1")
    assert azure.credential == Credential(Secret("ak-3"), "api_key")
    assert (azure.image_max_concurrency, azure.same_account_retries) == (1, 10)
    assert azure.deployments is not None
    assert azure.deployments["gpt-image-2"] == "my-deployment"
    assert azure.deployments["gpt-image-2.6-flare"] == "other-deployment"
    assert azure.deployments["chatgpt-image-latest"] == "all"
    assert found["2:codex-limited"].used_percent_primary is None
    assert found["7:codex-1"].proxy == Proxy("http://[fd00::7]:3128", None, None)


def test_no_refresh_token_and_no_key_can_be_read_by_the_gateway(fresh: Sub2Api) -> None:
    fresh.add_codex()
    with psycopg.connect(fresh.reader_url) as reader:
        accounts = reader.execute("TABLE image_gateway.accounts").fetchall()
        keys = reader.execute("TABLE image_gateway.keys").fetchall()
    for planted in ("rt-1", "it-1", "PLANTED"):
        assert planted not in str(accounts)
    assert "sk-s2a" not in str(keys)


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        ({"status": "error"}, "error"),
        ({"status": "disabled", "schedulable": False}, "disabled"),
        ({"schedulable": False}, "not_schedulable"),
        ({"expires_at": moment(days=-1)}, "expired"),
        ({"expires_at": moment(days=-1), "auto_pause_on_expired": False}, "active"),
        ({"expires_at": moment(days=1)}, "active"),
        ({"type": "setup-token"}, "unsupported_type"),
        ({"type": "upstream"}, "unsupported_type"),
        ({"credentials": {"api_key": ""}}, "no_credential"),
        ({"credentials": {"access_token": "not for this type"}}, "no_credential"),
        ({"credentials": ["api_key"]}, "no_credential"),
        ({"credentials": Jsonb(None)}, "no_credential"),
        ({"credentials": {"api_key": "k", "base_url": 7}}, "base_url_unreadable"),
        ({"credentials": {"api_key": "k", "base_url": None}}, "active"),
        ({"credentials": {"api_key": "k", "base_url": " "}}, "active"),
        ({"type": "oauth", "credentials": {"api_key": "not for this type"}}, "no_credential"),
        ({"type": "oauth", "credentials": {"access_token": {"encrypted": "x"}}}, "no_credential"),
    ],
)
def test_an_account_that_cannot_be_used_says_why(
    still: Sub2Api, columns: dict[str, Any], status: str
) -> None:
    assert still.account(still.add_openai(**columns)).status == status


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        ({"quota_limit": 10, "quota_used": 9.99}, "active"),
        ({"quota_limit": 10, "quota_used": 10}, "quota_exhausted"),
        ({"quota_limit": "10", "quota_used": "10.5"}, "quota_exhausted"),
        ({"quota_limit": 0, "quota_used": 10}, "active"),
        ({"quota_limit": [10], "quota_used": 10}, "active"),
        ({"quota_used": 10}, "active"),
        ({"quota_limit": 1}, "active"),
        ({"quota_daily_limit": 1, "quota_daily_used": 1, "quota_daily_start": moment(hours=-23)},
         "quota_exhausted"),
        ({"quota_daily_limit": 1, "quota_daily_used": 1, "quota_daily_start": moment(hours=-25)},
         "active"),
        ({"quota_daily_limit": 1, "quota_daily_used": 1}, "active"),
        ({"quota_daily_limit": 1, "quota_daily_used": 1, "quota_daily_start": "yesterday"},
         "active"),
        ({"quota_weekly_limit": 1, "quota_weekly_used": 1, "quota_weekly_start": moment(days=-6)},
         "quota_exhausted"),
        ({"quota_weekly_limit": 1, "quota_weekly_used": 1, "quota_weekly_start": moment(days=-8)},
         "active"),
        # A day of fixed hours ends at its own time, not after 24 hours.
        ({"quota_daily_limit": 1, "quota_daily_used": 1, "quota_daily_start": moment(hours=-2),
          "quota_daily_reset_mode": "fixed", "quota_daily_reset_at": moment(hours=-1)}, "active"),
        ({"quota_daily_limit": 1, "quota_daily_used": 1, "quota_daily_start": moment(hours=-40),
          "quota_daily_reset_mode": "fixed", "quota_daily_reset_at": moment(hours=1)},
         "quota_exhausted"),
        ({"quota_daily_limit": 1, "quota_daily_used": 1, "quota_daily_start": moment(hours=-1),
          "quota_daily_reset_mode": "fixed", "quota_daily_reset_at": moment(hours=-2)},
         "quota_exhausted"),
    ],
)  # fmt: skip
def test_an_account_s_own_money_runs_out_and_comes_back(
    still: Sub2Api, extra: dict[str, Any], status: str
) -> None:
    assert still.account(still.add_openai(extra=extra)).status == status
    # Only accounts with an API key have such a quota.
    assert still.account(still.add_codex(extra=extra)).status == "active"


@pytest.mark.parametrize(
    ("row", "proxy"),
    [
        ({"host": "proxy.example"}, Proxy("http://proxy.example:8080")),
        ({"protocol": "SOCKS5", "host": " 10.0.0.1 "}, Proxy("socks5://10.0.0.1:8080")),
        ({"host": "[fd00::7]"}, Proxy("http://[fd00::7]:8080")),
        ({"username": "u", "password": ""}, Proxy("http://proxy.example:8080")),
        (
            {"username": "u", "password": "p:@/"},
            Proxy("http://proxy.example:8080", Secret("u"), Secret("p:@/")),
        ),
        ({"expires_at": moment(days=1)}, Proxy("http://proxy.example:8080")),
        ({"expires_at": "infinity"}, Proxy("http://proxy.example:8080")),
        ({"expires_at": moment(days=-1)}, None),
        ({"status": "disabled"}, None),
        ({"deleted_at": moment(days=-1)}, None),
        ({"protocol": "ss"}, None),
        ({"port": 0}, None),
        ({"port": 70000}, None),
        ({"host": ""}, None),
        ({"host": "a b"}, None),
        ({"host": "user:pw@proxy.example"}, None),
        ({"host": "proxy.example/path"}, None),
        ({"username": "a:b", "password": "p"}, None),
    ],
)
def test_an_account_goes_by_its_proxy_or_not_at_all(
    still: Sub2Api, row: dict[str, Any], proxy: Proxy | None
) -> None:
    row = {"name": "p", "protocol": "http", "host": "proxy.example", "port": 8080, **row}
    account = still.account(still.add_codex(proxy_id=still.add("proxies", **row)))
    assert account.proxy == proxy
    assert account.status == ("active" if proxy else "proxy_unavailable")


@pytest.mark.parametrize(
    ("mapping", "deployments"),
    [
        (None, None),
        ({}, None),
        ([], None),
        ("gpt-image-2", None),
        ({"gpt-image-2": 7, "x": None}, None),
        ({"gpt-image-2": "d", "gpt-image-1": 7}, {"gpt-image-2": "d"}),
        ({"gpt-image-2": ""}, {}),
        ({"gpt-5.5": "gpt-5.5"}, {}),
        ({"gpt-5*": "gpt-5.5"}, {}),
        ({"draw": "gpt-image-2"}, {"draw": "gpt-image-2"}),
        ({"openai/GPT-Image-9": "x"}, {"openai/GPT-Image-9": "x"}),
        ({"gpt-image-1*": "one", "gpt-image-1.5": "exact"},
         {"gpt-image-1": "one", "gpt-image-1-mini": "one", "gpt-image-1.5": "exact"}),
        ({"gpt-image-1*": "short", "gpt-image-1-*": "long", "gpt-*-1": "no pattern"},
         {"gpt-image-1": "short", "gpt-image-1-mini": "long", "gpt-image-1.5": "short"}),
        ({"chatgpt*": "", "*": "all"}, dict.fromkeys(
            set(CATALOGUE.models) - {"chatgpt-image-latest"}, "all")),
    ],
)  # fmt: skip
def test_a_model_mapping_serves_its_own_names_and_those_of_its_patterns(
    still: Sub2Api, mapping: Any, deployments: dict[str, str] | None
) -> None:
    credentials = {"api_key": "k", "access_token": "t", "model_mapping": mapping}
    for name in (
        still.add_openai(credentials=credentials),
        still.add_codex(credentials=credentials),
    ):
        assert still.account(name).deployments == deployments


def test_patterns_stand_for_the_image_models_that_the_gateway_knows(fresh: Sub2Api) -> None:
    assert {name for (name,) in fresh.ask("TABLE image_adapter.image_models")} == set(
        CATALOGUE.models
    )
    name = fresh.add_openai(
        credentials={"api_key": "k", "model_mapping": {"dr*": "d", "sketch": "gpt-5.5"}}
    )
    assert fresh.account(name).deployments == {}
    fresh.execute("INSERT INTO image_adapter.image_models VALUES ('draw'), ('sketch')")
    assert fresh.account(name).deployments == {"draw": "d", "sketch": "gpt-5.5"}


@pytest.mark.parametrize(
    ("extra", "used"),
    [
        ({"codex_5h_used_percent": 40}, 40.0),
        ({"codex_5h_used_percent": "40.5"}, 40.5),
        ({"codex_5h_used_percent": 400}, 100.0),
        ({"codex_5h_used_percent": -1}, 0.0),
        ({"codex_5h_used_percent": 1e-300}, 0.0),
        ({"codex_5h_used_percent": 40, "codex_5h_reset_at": moment(hours=1)}, 40.0),
        ({"codex_5h_used_percent": 40, "codex_5h_reset_at": moment(hours=-1)}, 0.0),
        ({"codex_5h_used_percent": 40, "codex_5h_reset_at": "soon"}, 40.0),
        ({"codex_5h_used_percent": 40, "codex_5h_reset_after_seconds": 60,
          "codex_usage_updated_at": moment(hours=-1)}, 0.0),
        ({"codex_5h_used_percent": 40, "codex_5h_reset_after_seconds": 7200,
          "codex_usage_updated_at": moment(hours=-1)}, 40.0),
        ({"codex_5h_used_percent": 40, "codex_5h_reset_after_seconds": 1e300,
          "codex_usage_updated_at": moment(hours=-1)}, 40.0),
        ({"codex_5h_reset_at": moment(hours=-1)}, None),
        ([], None),
    ],
)  # fmt: skip
def test_a_codex_window_that_is_over_counts_as_unused(
    still: Sub2Api, extra: Any, used: float | None
) -> None:
    account = still.account(still.add_codex(extra=extra))
    assert (account.used_percent_primary, account.used_percent_secondary) == (used, None)
    assert still.account(still.add_openai(extra=extra)).used_percent_primary is None


@pytest.mark.parametrize(
    ("columns", "seen"),
    [({"concurrency": 7}, 7), ({"concurrency": -3}, 1), ({"concurrency": 2**31 - 1}, 1024)],
)
def test_slots_are_always_a_number_that_the_gateway_can_count(
    still: Sub2Api, columns: dict[str, Any], seen: int
) -> None:
    assert still.account(still.add_codex(**columns)).image_max_concurrency == seen


@pytest.mark.parametrize(
    ("pool", "retries"),
    [
        ({}, 0),
        ({"pool_mode": True}, 3),
        ({"pool_mode": True, "pool_mode_retry_count": 5}, 5),
        ({"pool_mode": True, "pool_mode_retry_count": -5}, 0),
        ({"pool_mode": True, "pool_mode_retry_count": 1e300}, 10),
        ({"pool_mode": "true", "pool_mode_retry_count": 5}, 0),
        ({"pool_mode_retry_count": 5}, 0),
    ],
)
def test_an_account_that_is_a_pool_is_tried_again(
    still: Sub2Api, pool: dict[str, Any], retries: int
) -> None:
    account = still.account(still.add_openai(credentials={"api_key": "k", **pool}))
    assert account.same_account_retries == retries


def test_accounts_of_a_lower_priority_weigh_next_to_nothing(fresh: Sub2Api) -> None:
    """Priorities are 10, 20 and 50; among fifty accounts each weight is still a number."""
    weights = {name: account.routing_weight for name, account in fresh.accounts().items()}
    assert (weights["1:codex-1"], weights["2:codex-limited"]) == (1.0, 1e-6)
    assert weights["7:codex-1"] == weights["8:image-cooled"] == pytest.approx(1e-12)
    for priority in range(100, 150):
        fresh.add_codex(priority=priority)
    assert min(account.routing_weight for account in fresh.accounts().values()) > 0


def test_the_adapter_s_own_options_hold_what_sub2api_does_not_say_of_an_account(
    fresh: Sub2Api,
) -> None:
    fresh.execute(
        "INSERT INTO image_adapter.account_options VALUES"
        " ('1:codex-1', true, 9, 0.5, 'gpt-5.4', 'responses', 2, false)"
    )
    fresh.execute(
        "INSERT INTO image_adapter.account_options (account_name, image_enabled)"
        " VALUES ('2:a name before', false)"
    )
    account = fresh.account("1:codex-1")
    assert (account.image_max_concurrency, account.routing_weight) == (9, 0.5)
    assert (account.responses_model, account.codex_route) == ("gpt-5.4", "responses")
    assert (account.same_account_retries, account.fails_free) == (2, False)
    # By the number: an account that is renamed in sub2api stays off.
    assert not fresh.account("2:codex-limited").image_enabled
    fresh.execute("INSERT INTO image_adapter.account_options (account_name) VALUES ('2:a')")
    assert not fresh.account("2:codex-limited").image_enabled


def test_the_adapter_s_own_accounts_stand_beside_sub2api_s(fresh: Sub2Api) -> None:
    fresh.execute(
        "INSERT INTO image_adapter.accounts (account_name, dialect, base_url, api_version,"
        " credential, deployments) VALUES ('east', 'azure', 'https://east.openai.azure.com',"
        ' \'2025-04-01-preview\', \'{"api_key": "k"}\', \'{"gpt-image-2": "mine"}\')'
    )
    east = fresh.account("east")
    assert (east.dialect, east.routing_weight, east.deployments) == (
        "azure",
        1.0,
        {"gpt-image-2": "mine"},
    )
    for statement in (
        "INSERT INTO image_adapter.accounts (account_name, dialect) VALUES ('9:new', 'openai')",
        "UPDATE image_adapter.accounts SET account_name = '1:codex-1'",
    ):
        with pytest.raises(psycopg.errors.UniqueViolation, match="begins like those of sub2api's"):
            fresh.execute(statement)
