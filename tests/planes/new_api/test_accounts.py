"""Channels of new-api as the gateway's accounts: which are used, how they are called and signed."""

import json
from typing import Any

import psycopg
import pytest

from image_gateway.core.model import Account, Credential, Proxy, Secret
from tests.planes.new_api.database import NewApi

pytestmark = pytest.mark.slow

PICTURE = {"gpt-image-2": "gpt-image-2"}
LOGIN = {"type": "codex", "access_token": "at", "refresh_token": "rt", "account_id": "acc"}
CLOUDFLARE = "https://gateway.ai.cloudflare.com/v1/ID/NAME/openai"
UNREADABLE = "model_mapping_unreadable"
PLAIN = '{"gpt-image-2": "x"}'


def test_channels_with_an_image_model_are_accounts(api: NewApi) -> None:
    found = api.accounts()
    assert {name: (each.dialect, each.status) for name, each in found.items()} == {
        "1": ("openai", "active"),
        "2#0": ("openai", "active"),
        "2#2": ("openai", "active"),
        "3": ("azure", "active"),
        "4": ("codex", "active"),
        "5": ("codex", UNREADABLE),
        "6": ("openai", "auto_disabled"),
    }
    one = found["1"]
    assert one.deployments == {"gpt-image-2": "gpt-image-2.5-flare-2026-09-08"}
    assert (one.base_url, one.credential) == (None, Credential(Secret("sk-up-1"), "api_key"))
    assert one.proxy == Proxy("socks5://10.0.0.9:1080", Secret("pu"), Secret("p@ss"))
    assert (one.routing_weight, one.image_max_concurrency, one.image_enabled) == (20, 3, True)
    for name, secret in (("2#0", "sk-up-2a"), ("2#2", "sk-up-2c")):
        assert found[name].credential == Credential(Secret(secret), "api_key")
        assert (found[name].base_url, found[name].proxy) == (
            "https://compat.example.test/v1",
            None,
        )
        assert found[name].routing_weight == 5
    azure = found["3"]
    assert (azure.base_url, azure.api_version) == (
        "https://NAME.openai.azure.com",
        "2025-04-01-preview",
    )
    assert azure.deployments == {"gpt-image-2": "mydeployment"}
    assert found["4"].credential == Credential(Secret("at-4"), "access_token", "acc-4")
    assert (found["4"].deployments, found["4"].base_url) == (PICTURE, None)
    assert found["5"].credential is None


def test_the_login_of_a_codex_channel_stays_in_new_api(api: NewApi) -> None:
    assert "rt-4" not in str(api.account_rows()["4"])


def added(api: NewApi, **columns: Any) -> Account:
    name = api.add_channel("group", **columns)
    return api.accounts()[name]


@pytest.mark.parametrize(
    ("columns", "url"),
    [
        ({}, None),
        ({"base_url": ""}, None),
        ({"base_url": None}, None),
        ({"base_url": " https://a.test/ "}, "https://a.test/v1"),
        ({"base_url": "https://a.test/api/v3"}, "https://a.test/api/v3"),
        ({"base_url": CLOUDFLARE}, CLOUDFLARE),
        ({"type": 8, "base_url": "https://a.test/p/v1/images/generations"}, "https://a.test/p/v1"),
        ({"type": 8, "base_url": "http://a.test/images/edits/"}, "http://a.test"),
        ({"type": 3, "base_url": "https://a.test/"}, "https://a.test"),
        ({"type": 57, "key": json.dumps(LOGIN), "base_url": ""}, None),
        (
            {"type": 57, "key": json.dumps(LOGIN), "base_url": "https://a.test"},
            "https://a.test/backend-api/codex",
        ),
    ],
)
def test_calls_go_to_the_url_that_new_api_would_use(
    api: NewApi, columns: dict[str, Any], url: str | None
) -> None:
    account = added(api, **columns)
    assert (account.status, account.base_url) == ("active", url)


@pytest.mark.parametrize(
    "columns",
    [
        {"type": 8, "base_url": None},
        {"type": 8, "base_url": "https://a.test/v1"},
        {"type": 8, "base_url": "https://a.test/v1/chat/completions"},
        {"type": 8, "base_url": "https://a.test/{model}/images/generations"},
        {"type": 3, "base_url": CLOUDFLARE},
    ],
)
def test_a_url_that_leads_elsewhere_takes_its_channel_out(
    api: NewApi, columns: dict[str, Any]
) -> None:
    assert added(api, **columns).status == "base_url_unusable"


@pytest.mark.parametrize(
    ("other", "version"),
    [
        ("", "2025-04-01-preview"),
        (None, "2025-04-01-preview"),
        (" ", "2025-04-01-preview"),
        ("2026-01-01", "2026-01-01"),
    ],
)
def test_an_azure_channel_has_new_api_s_version_if_it_names_none(
    api: NewApi, other: str | None, version: str
) -> None:
    account = added(api, type=3, base_url="https://a.test", other=other)
    assert account.api_version == version


def test_the_version_of_azure_is_no_other_channel_s(api: NewApi) -> None:
    assert added(api, other="2026-01-01").api_version is None


@pytest.mark.parametrize(
    ("kind", "created_time", "name"),
    [
        (3, 1746835199, "my-v15"),
        (3, None, "my-v15"),
        (3, 1746835200, "my-v1.5"),
        (1, 1746835199, "my-v1.5"),
    ],
)
def test_old_azure_channels_drop_the_dots_of_their_deployments(
    api: NewApi, kind: int, created_time: int | None, name: str
) -> None:
    account = added(
        api,
        type=kind,
        base_url="https://a.test",
        created_time=created_time,
        model_mapping='{"gpt-image-2": "my-v1.5"}',
    )
    assert account.deployments == {"gpt-image-2": name}


@pytest.mark.parametrize(
    ("mapping", "deployments", "status"),
    [
        (None, PICTURE, "active"),
        ("", PICTURE, "active"),
        (" {} ", PICTURE, "active"),
        ("null", PICTURE, "active"),
        ('{"other": "x", "gpt-image-2": null}', PICTURE, "active"),
        ('{"gpt-image-2": ""}', PICTURE, "active"),
        ('{"gpt-image-2": "gpt-image-2"}', PICTURE, "active"),
        (PLAIN, {"gpt-image-2": "x"}, "active"),
        ('{"gpt-image-2": "a", "a": "b", "b": "b"}', {"gpt-image-2": "b"}, "active"),
        ('{"gpt-image-2": "a", "a": "gpt-image-2"}', {}, "model_mapping_cycle"),
        ('{"gpt-image-2": "a", "a": "b", "b": "a"}', {}, "model_mapping_cycle"),
        ('{"gpt-image-2": "a", "other": 5}', {}, UNREADABLE),
        ('{"gpt-image-2": ["a"]}', {}, UNREADABLE),
        ("[]", {}, UNREADABLE),
        ('"x"', {}, UNREADABLE),
        ("{", {}, UNREADABLE),
        ('{"gpt-image-2": "\\u0000"}', {}, UNREADABLE),
    ],
)
def test_models_are_called_by_the_name_at_the_end_of_the_chain(
    api: NewApi, mapping: str | None, deployments: dict[str, str], status: str
) -> None:
    account = added(api, model_mapping=mapping)
    assert (account.deployments, account.status) == (deployments, status)


def test_a_chain_that_is_a_circle_costs_its_own_model_alone(api: NewApi) -> None:
    account = added(
        api,
        models="gpt-image-1,gpt-image-2,openai/gpt-image-2,gpt-5.5",
        model_mapping='{"gpt-image-1": "a", "a": "b", "b": "a", "gpt-image-2": "c"}',
    )
    assert account.status == "active"
    assert account.deployments == {"gpt-image-2": "c", "openai/gpt-image-2": "openai/gpt-image-2"}


@pytest.mark.parametrize(
    ("setting", "proxy"),
    [
        (None, None),
        ("", None),
        ("{}", None),
        ("null", None),
        ('{"proxy": ""}', None),
        ('{"proxy": null}', None),
        ('{"proxy": " HTTP://p.test:8080/ "}', Proxy("http://p.test:8080")),
        (
            '{"proxy": "socks5h://u:p@[::1]:1"}',
            Proxy("socks5h://[::1]:1", Secret("u"), Secret("p")),
        ),
        (
            '{"proxy": "http://%C3%A9:a%3Ab%25@p.test"}',
            Proxy("http://p.test", Secret("é"), Secret("a:b%")),
        ),
    ],
)
def test_calls_go_through_the_proxy_of_the_channel(
    api: NewApi, setting: str | None, proxy: Proxy | None
) -> None:
    account = added(api, setting=setting)
    assert (account.status, account.proxy) == ("active", proxy)


@pytest.mark.parametrize(
    "setting",
    [
        "{",
        "[]",
        "5",
        '{"proxy": 5}',
        '{"proxy": ["http://p.test"]}',
        '{"proxy": "p.test:8080"}',
        '{"proxy": "ftp://p.test"}',
        '{"proxy": "http://%ff:x@p.test"}',
        '{"proxy": "http://p.test/path"}',
        '{"proxy": " "}',
        '{"Proxy": "http://p.test"}',
        '{"proxy": "", "PROXY": "http://p.test"}',
    ],
)
def test_an_account_whose_proxy_cannot_be_read_never_connects_without_it(
    api: NewApi, setting: str
) -> None:
    account = added(api, setting=setting)
    assert (account.status, account.proxy) == ("proxy_unavailable", None)


@pytest.mark.parametrize(
    "columns",
    [
        {"key": ""},
        {"key": " \n"},
        {"type": 57, "key": "not json"},
        {"type": 57, "key": "[]"},
        {"type": 57, "key": '{"access_token": "at"}'},
        {"type": 57, "key": '{"account_id": "acc", "access_token": 5}'},
    ],
)
def test_a_channel_whose_key_cannot_be_read_has_no_credential(
    api: NewApi, columns: dict[str, Any]
) -> None:
    account = added(api, **columns)
    assert (account.status, account.credential) == ("no_credential", None)


@pytest.mark.parametrize(
    ("status", "expected"),
    [(2, "disabled"), (3, "auto_disabled"), (0, "disabled"), (None, "disabled")],
)
def test_a_channel_that_is_off_says_how(api: NewApi, status: int | None, expected: str) -> None:
    assert added(api, status=status).status == expected


# -- several keys in one channel -------------------------------------------------------------------


def keys_of(api: NewApi, key: str, info: str, **columns: Any) -> dict[str, str | None]:
    """The accounts of a channel with several keys: what follows its id, and their secrets."""
    name = api.add_channel("group", key=key, channel_info=info, **columns)
    return {
        found.removeprefix(name): None
        if account.credential is None
        else account.credential.token.reveal()
        for found, account in api.accounts().items()
        if found.split("#")[0] == name
    }


MULTI = '{"is_multi_key": true, "multi_key_status_list": %s}'


@pytest.mark.parametrize(
    ("key", "info", "accounts"),
    [
        ("a\nb", MULTI % "null", {"#0": "a", "#1": "b"}),
        ("\na\r\n\n b\n", MULTI % "{}", {"#0": "a", "#1": None, "#2": "b"}),
        ("a\nb\nc", MULTI % '{"0": 2, "1": 1, "2": 3}', {"#1": "b"}),
        ("a\nb", MULTI % '{"0": 2, "1": 2}', {}),
        ("a", MULTI % "{}", {"#0": "a"}),
        ("", MULTI % "{}", {}),
        (' ["a", "b"]', MULTI % '{"1": 3}', {"#0": "a"}),
        ('["a', MULTI % "{}", {"#0": '["a'}),
        ("a", MULTI % '"x"', {"#0": "a"}),
        # One key, whatever it looks like.
        ("a", '{"is_multi_key": false}', {"": "a"}),
        ("a", None, {"": "a"}),
        ("a", "[]", {"": "a"}),
        ("a", '{"is_multi_key": "true"}', {"": "a"}),
    ],
)
def test_each_key_of_a_channel_that_is_on_is_an_account(
    api: NewApi, key: str, info: str, accounts: dict[str, str | None]
) -> None:
    assert keys_of(api, key, info) == accounts


def test_the_logins_of_a_codex_channel_are_accounts_each(api: NewApi) -> None:
    logins = [{**LOGIN, "access_token": token} for token in ("a", "b", "c")]
    found = keys_of(api, json.dumps(logins), MULTI % '{"1": 2}', type=57)
    assert found == {"#0": "a", "#2": "c"}


# -- what the gateway adds -------------------------------------------------------------------------


def test_options_of_the_gateway_bind_an_account(api: NewApi) -> None:
    name = api.add_channel("group", weight=90)
    api.insert(
        "image_adapter.account_options",
        account_name=name,
        image_enabled=False,
        image_max_concurrency=9,
        responses_model="m",
        codex_route="responses",
        same_account_retries=2,
        fails_free=True,
    )
    account = api.accounts()[name]
    assert (account.image_enabled, account.image_max_concurrency) == (False, 9)
    assert (account.responses_model, account.codex_route) == ("m", "responses")
    assert (account.same_account_retries, account.fails_free) == (2, True)
    assert account.routing_weight == 100
    api.execute("UPDATE image_adapter.account_options SET routing_weight = 7")
    assert api.accounts()[name].routing_weight == 7


@pytest.mark.parametrize("name", ["1", "99999", "2#0"])
def test_the_names_of_channels_are_kept_for_them(api: NewApi, name: str) -> None:
    """Also of those that do not exist yet: ids only grow."""
    with pytest.raises(psycopg.errors.UniqueViolation, match="kept for a channel of new-api"):
        api.insert("image_adapter.accounts", account_name=name, dialect="openai")
