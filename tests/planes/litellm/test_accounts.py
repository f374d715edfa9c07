"""The litellm adapter on real Postgres: accounts with LiteLLM's own credentials, and warnings."""

from typing import Any, Final

import pytest
from psycopg.types.json import Jsonb

from image_gateway.core.model import Credential, Secret
from image_gateway.core.rows import account_from_row
from tests.planes.litellm.rows import CREDENTIAL, KEY, MODEL, TEAM, USER, LiteLlm, hashed

pytestmark = pytest.mark.slow

SEALED: Final = (
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX8WhGI1QcbJb82FcfmBG_og0ecMJKjP35BEn-gbri",
    "v2:gcm:AAECAwQFBgcICQoL-ENeTX1obBkZkZIbEzPYXvkSyWECiDs5z47Lkyio",
)
"""The api_key of the rows, of either kind of encryption."""


def encrypted(value: str) -> str:
    return f'{{"encrypted": {{"value": "{value}", "scheme": "litellm"}}}}'


def seen(db: LiteLlm, name: str) -> tuple[Any, Any]:
    row = db.account_rows()[name]
    return row["status"], row["credential"]


@pytest.mark.parametrize(
    ("pointer", "status", "credential"),
    [
        ({"litellm_credential": "shared-openai"}, "active", encrypted(SEALED[0])),
        ({"litellm_model": "m1"}, "active", encrypted(SEALED[0])),
        ({"litellm_model": "m3"}, "active", encrypted(SEALED[1])),
        ({"litellm_model": "m4"}, "blocked", None),
        ({"litellm_model": "gone"}, "no_credential", None),
        ({"litellm_credential": "gone"}, "no_credential", None),
        ({"litellm_credential": None}, "no_credential", None),
        ({"litellm_credential": 5, "api_key": "its own"}, "no_credential", None),
        ({"api_key": "its own"}, "active", '{"api_key": "its own"}'),
        ({}, "active", "{}"),
        (None, "active", None),
    ],
)
def test_an_account_may_use_a_credential_that_litellm_keeps(
    still: LiteLlm, pointer: Any, status: str, credential: str | None
) -> None:
    name = str(pointer)
    still.add_own_account(name, pointer)
    assert seen(still, name) == (status, credential)


@pytest.mark.parametrize(
    ("params", "values", "credential"),
    [
        ({"api_key": "sealed-1"}, None, encrypted("sealed-1")),
        ({"litellm_credential_name": "NAME"}, {"api_key": "sealed-2"}, encrypted("sealed-2")),
        # LiteLLM prefers the model's own.
        (
            {"litellm_credential_name": "NAME", "api_key": "sealed-1"},
            {"api_key": "sealed-2"},
            encrypted("sealed-1"),
        ),
        # The name is ciphertext like every text there, but in old rows.
        ({"litellm_credential_name": "sealed"}, {"api_key": "sealed-2"}, None),
        ({"api_key": 5}, None, None),
        ({"api_key": " "}, None, None),
        ({}, None, None),
        (Jsonb([1]), None, None),
        (Jsonb("text"), None, None),
        (Jsonb(None), None, None),
        ({"litellm_credential_name": "NAME"}, Jsonb([1]), None),
    ],
)
def test_the_key_of_a_model_is_its_own_or_its_credential_s(
    still: LiteLlm, params: Any, values: Any, credential: str | None
) -> None:
    name = f"{params} {values}"
    if isinstance(params, dict):
        params = {each: name if text == "NAME" else text for each, text in params.items()}
    still.add(MODEL, model_id=name, model_name="gpt-image-2", litellm_params=params)
    if values is not None:
        still.add(CREDENTIAL, credential_id=name, credential_name=name, credential_values=values)
    still.add_own_account(name, {"litellm_model": name})
    assert seen(still, name) == ("no_credential" if credential is None else "active", credential)


def test_an_account_s_own_status_comes_first(still: LiteLlm) -> None:
    still.add_own_account("off", {"litellm_model": "m4"}, status="disabled")
    assert seen(still, "off")[0] == "disabled"


def test_everything_else_of_an_account_is_the_adapter_s(still: LiteLlm) -> None:
    still.add_own_account(
        "pool",
        {"api_key": "k"},
        base_url="https://pool.example/v1",
        deployments={"gpt-image-2": "theirs"},
        image_max_concurrency=9,
        routing_weight=2.5,
        same_account_retries=4,
        fails_free=True,
        responses_model="gpt-5.5",
        proxy_url="http://proxy.example:8080",
        proxy_username="u",
        proxy_password="p",
    )
    account = account_from_row(still.account_rows()["pool"])
    assert account.credential == Credential(Secret("k"), "api_key")
    assert (account.base_url, account.deployments) == (
        "https://pool.example/v1",
        {"gpt-image-2": "theirs"},
    )
    assert (account.image_max_concurrency, account.routing_weight) == (9, 2.5)
    assert (account.same_account_retries, account.fails_free) == (4, True)
    assert account.responses_model == "gpt-5.5"
    assert account.proxy is not None
    assert account.proxy.url == "http://proxy.example:8080"


# -- warnings --------------------------------------------------------------------------------------


def test_check_is_told_what_the_views_cannot_see(litellm: LiteLlm) -> None:
    assert litellm.warnings() == []
    litellm.change(KEY, {"key_alias": "active"}, model_max_budget={"gpt-image-2": {}})
    litellm.change(KEY, {"key_alias": "team"}, budget_limits=Jsonb([{"max_budget": 1}]))
    litellm.change(KEY, {"key_alias": "star"}, budget_limits=Jsonb([]))
    litellm.change(TEAM, {"team_id": "t1"}, budget_limits=Jsonb([{"max_budget": 1}]))
    litellm.change(USER, {"user_id": "u1"}, model_max_budget={"gpt-5.5": {}})
    litellm.add_own_account("pool", None, deployments={"gpt-image-2": "a", "acme-draw": "b"})
    litellm.add("image_adapter.key_options", key_id="gone")
    litellm.add("image_adapter.key_options", key_id=hashed("sk-ll-active"))
    budgets = (
        "of LiteLLM with budgets for single models (model_max_budget) or for several spans of time"
        " (budget_limits), which do not hold for pictures here"
    )
    name = (
        'the account "pool" serves "acme-draw", which image_adapter.image_models lacks: keys with a'
        " list of models cannot ask for it"
    )
    options = (
        'image_adapter.key_options has a row for "gone", which is no key of LiteLLM: a key that was'
        " regenerated has a new id, and has no options until its row has that"
    )
    assert sorted(litellm.warnings()) == sorted(
        [f"2 keys {budgets}", f"1 teams {budgets}", f"1 users {budgets}", name, options]
    )
