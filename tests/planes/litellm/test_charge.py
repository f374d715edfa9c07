"""The litellm adapter on real Postgres: a call in LiteLLM's books, once."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.planes.litellm.rows import (
    KEY,
    MEMBER,
    OLD_KEY,
    ORGANIZATION,
    ORGANIZATION_MEMBER,
    PROJECT,
    SPEND_LOG,
    TEAM,
    USER,
    LiteLlm,
    hashed,
)

pytestmark = pytest.mark.slow

TOKENS: Final = {"total": 1300, "input": 100, "cached_input": 40, "output": 1200}
LARGEST: Final = 2**31 - 1
AT: Final = datetime.now(UTC).replace(microsecond=500_000)
"""When the calls were: one of long ago is not charged."""


def call(key_id: str, request_id: str | None = None, **changed: Any) -> dict[str, Any]:
    """The arguments of a charge; two calls with the same key are the same call."""
    return {
        "request_id": request_id or f"req_{key_id}",
        "key_id": key_id,
        "at": AT,
        "model": "gpt-image-2",
        "account_name": "pool",
        "tokens": Jsonb(TOKENS),
        "images": 2,
        "cost": Decimal("0.25"),
        **changed,
    }


def everybody(db: LiteLlm, **columns: Any) -> tuple[str, dict[str, Any]]:
    """A key of a member of a team in an organization's project; its id, and theirs."""
    user = db.add_user()
    organization = db.add_organization(100, 1)
    team = db.add_team(
        organization_id=organization,
        team_alias="painters",
        members_with_roles=Jsonb([{"user_id": user, "role": "user"}]),
    )
    project = db.add_project(team_id=team)
    db.add(ORGANIZATION_MEMBER, user_id=user, organization_id=organization)
    ids = {"user_id": user, "team_id": team, "project_id": project}
    secret = db.add_token(key_alias="ada", **ids, **columns)
    return hashed(secret), ids | {"organization_id": organization}


def spent(db: LiteLlm, table: str, *columns: str, **ids: str) -> Sequence[Any]:
    named = " AND ".join(f"{name} = '{value}'" for name, value in ids.items())
    rows = db.ask(f'SELECT {", ".join(columns or ("spend",))} FROM "{table}" WHERE {named}')
    [row] = rows
    return row  # type: ignore[no-any-return] # a row is a tuple of what the table holds


def test_a_call_stands_wherever_litellm_shows_what_was_spent(still: LiteLlm) -> None:
    key_id, ids = everybody(still, spend=1, total_spend=3)
    still.add(MEMBER, user_id=ids["user_id"], team_id=ids["team_id"], spend=5)
    assert still.charge(**call(key_id)) == "charged"
    assert spent(still, KEY, "spend", "total_spend", "last_active IS NULL", token=key_id) == (
        1.25,
        3.25,
        False,
    )
    assert spent(still, USER, user_id=ids["user_id"]) == (0.25,)
    assert spent(still, TEAM, team_id=ids["team_id"]) == (0.25,)
    # What LiteLLM counted before it had total_spend is in spend alone.
    assert spent(
        still, MEMBER, "spend", "total_spend", user_id=ids["user_id"], team_id=ids["team_id"]
    ) == (5.25, 5.25)
    assert spent(still, ORGANIZATION, organization_id=ids["organization_id"]) == (1.25,)
    assert spent(
        still,
        ORGANIZATION_MEMBER,
        organization_id=ids["organization_id"],
        user_id=ids["user_id"],
    ) == (0.25,)
    assert spent(still, PROJECT, project_id=ids["project_id"]) == (0.25,)
    log = spent(
        still,
        SPEND_LOG,
        'call_type, spend, total_tokens, prompt_tokens, completion_tokens, "startTime", "endTime",'
        ' model, model_group, "user", team_id, organization_id, status, metadata',
        request_id=f"image:req_{key_id}",
        api_key=key_id,
    )
    assert log == (
        "aimage_generation",
        0.25,
        1300,
        100,
        1200,
        AT.replace(tzinfo=None),
        AT.replace(tzinfo=None),
        "gpt-image-2",
        "gpt-image-2",
        ids["user_id"],
        ids["team_id"],
        ids["organization_id"],
        "success",
        {
            "status": "success",
            "user_api_key": key_id,
            "user_api_key_alias": "ada",
            "user_api_key_user_id": ids["user_id"],
            "user_api_key_team_id": ids["team_id"],
            "user_api_key_team_alias": "painters",
            "user_api_key_org_id": ids["organization_id"],
            "image_gateway": {"account_name": "pool", "images": 2},
        },
    )


def test_a_personal_key_s_call_stands_with_the_key_and_its_user(still: LiteLlm) -> None:
    user = still.add_user()
    key_id = hashed(still.add_token(user_id=user))
    assert still.charge(**call(key_id)) == "charged"
    assert spent(still, KEY, token=key_id) == spent(still, USER, user_id=user) == (0.25,)


def test_a_member_of_a_team_without_a_row_gets_one_as_from_litellm(still: LiteLlm) -> None:
    key_id, ids = everybody(still)
    member = {"user_id": ids["user_id"], "team_id": ids["team_id"]}
    assert still.charge(**call(key_id)) == "charged"
    assert spent(still, MEMBER, "spend", "total_spend", **member) == (0.25, 0.25)
    # Who is no member any more does not become one.
    still.execute(f"DELETE FROM \"{MEMBER}\" WHERE team_id = '{ids['team_id']}'")
    still.change(TEAM, {"team_id": ids["team_id"]}, members_with_roles={})
    assert still.charge(**call(key_id, "later")) == "charged"
    assert still.ask(f"SELECT 1 FROM \"{MEMBER}\" WHERE team_id = '{ids['team_id']}'") == []


def test_a_call_is_charged_once(still: LiteLlm) -> None:
    key_id, ids = everybody(still)
    words = [still.charge(**call(key_id, cost=Decimal(cost))) for cost in (1, 2)]
    assert words == ["charged", "charged_before"]
    # Its row may be gone: LiteLLM prunes its log.
    still.execute(f"DELETE FROM \"{SPEND_LOG}\" WHERE api_key = '{key_id}'")
    assert still.charge(**call(key_id)) == "charged_before"
    assert spent(still, KEY, token=key_id) == spent(still, TEAM, team_id=ids["team_id"]) == (1.0,)
    # Or the adapter's own record, when it was uninstalled meanwhile.
    assert still.charge(**call(key_id, "other")) == "charged"
    still.execute("TRUNCATE image_adapter.charges")
    assert still.charge(**call(key_id, "other")) == "charged_before"
    assert spent(still, KEY, token=key_id) == (1.25,)


def test_two_at_a_time_charge_a_call_once(still: LiteLlm) -> None:
    key_id, ids = everybody(still)
    words: list[str] = []
    together = threading.Barrier(4)

    def charge(request_id: str) -> None:
        together.wait()
        words.append(still.charge(**call(key_id, request_id)))

    threads = [threading.Thread(target=charge, args=[f"both{number % 2}"]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(words) == ["charged", "charged", "charged_before", "charged_before"]
    assert spent(still, KEY, token=key_id) == spent(still, TEAM, team_id=ids["team_id"]) == (0.5,)


def test_a_charge_fails_whole_or_not_at_all(still: LiteLlm) -> None:
    key_id, ids = everybody(still, spend=1.7e308)
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        still.charge(**call(key_id, cost=Decimal("1.7e308")))
    assert spent(still, TEAM, team_id=ids["team_id"]) == (0.0,)
    assert still.charge(**call(key_id)) == "charged"


def test_a_call_of_no_key_or_of_long_ago_is_not_charged(still: LiteLlm) -> None:
    key_id, _ = everybody(still)
    assert still.charge(**call("nobody")) == "unknown_key"
    assert still.charge(**call(key_id, at=AT - timedelta(days=401))) == "too_old"
    assert spent(still, KEY, token=key_id) == (0.0,)
    assert still.ask("SELECT 1 FROM image_adapter.charges WHERE key_id = 'nobody'") == []
    # The key may come back, as from a restored backup.
    still.add(KEY, token="nobody")
    assert still.charge(**call("nobody")) == "charged"


def test_a_call_before_a_key_was_regenerated_is_charged_to_its_successor(still: LiteLlm) -> None:
    key_id, _ = everybody(still)
    successor = f"{key_id[:-4]}next"
    still.add(OLD_KEY, id=key_id, token=key_id, active_token_id=successor, revoke_at="2026-01-01")
    assert still.charge(**call(key_id, "first")) == "charged"
    assert spent(still, KEY, token=key_id) == (0.25,)
    still.change(KEY, {"token": key_id}, token=successor)
    assert still.charge(**call(key_id)) == "charged"
    assert spent(still, KEY, token=successor) == (0.5,)
    assert spent(still, SPEND_LOG, "api_key", request_id=f"image:req_{key_id}") == (successor,)


def test_a_key_that_is_regenerated_meanwhile_is_charged_when_asked_again(still: LiteLlm) -> None:
    """Never half: `usage apply` asks again after a serialization failure."""
    key_id, ids = everybody(still)
    successor = f"{key_id[:-4]}next"
    with psycopg.connect(still.url) as litellm, ThreadPoolExecutor(1) as threads:
        litellm.execute(
            f'INSERT INTO "{OLD_KEY}" (id, token, active_token_id, revoke_at)'
            " VALUES (%(old)s, %(old)s, %(new)s, '2099-01-01')",
            {"old": key_id, "new": successor},
        )
        litellm.execute(f'UPDATE "{KEY}" SET token = %s WHERE token = %s', (successor, key_id))
        charging = threads.submit(still.charge, **call(key_id))
        while not still.ask(
            "SELECT 1 FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            assert not charging.done()
        litellm.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            charging.result()
    assert spent(still, TEAM, team_id=ids["team_id"]) == (0.0,)
    assert still.charge(**call(key_id)) == "charged"
    assert spent(still, KEY, token=successor) == (0.25,)


@pytest.mark.parametrize(
    ("changed", "spend", "total_tokens"),
    [
        ({"cost": None}, 0.0, 1300),
        ({"cost": Decimal(0)}, 0.0, 1300),
        ({"cost": Decimal(-5)}, 0.0, 1300),
        ({"cost": Decimal("NaN")}, 0.0, 1300),
        ({"cost": Decimal("Infinity")}, 0.0, 1300),
        ({"cost": Decimal("1e-400")}, 0.0, 1300),
        ({"images": -3}, 0.25, 1300),
        ({"images": None}, 0.25, 1300),
        ({"tokens": None}, 0.25, 0),
        ({"tokens": Jsonb([])}, 0.25, 0),
        ({"tokens": Jsonb({"total": -5, "input": "7", "output": 1e300})}, 0.25, 0),
        ({"tokens": Jsonb({"total": 10**30})}, 0.25, LARGEST),
        ({"model": None, "account_name": None}, 0.25, 1300),
    ],
)
def test_odd_numbers_are_clamped_and_the_call_is_noted(
    still: LiteLlm, changed: dict[str, Any], spend: float, total_tokens: int
) -> None:
    """A cost that is not known is charged as none."""
    key_id, _ = everybody(still)
    assert still.charge(**call(key_id, **changed)) == "charged"
    assert spent(still, KEY, token=key_id) == (spend,)
    assert spent(still, SPEND_LOG, "spend", "total_tokens", api_key=key_id) == (
        spend,
        total_tokens,
    )


def test_pictures_that_are_left_are_used_up(still: LiteLlm) -> None:
    secret = still.add_token()
    still.add("image_adapter.key_options", key_id=hashed(secret), images_remaining=3)
    assert still.charge(**call(hashed(secret))) == "charged"
    assert still.charge(**call(hashed(secret))) == "charged_before"
    assert still.key(secret).images_remaining == 1


def test_gateways_are_told_once_that_nothing_is_left(still: LiteLlm) -> None:
    """Each charge else would cost every gateway a look-up."""
    team = still.add_team(max_budget=0.6)
    key_id = hashed(still.add_token(team_id=team))
    by_pictures = hashed(still.add_token())
    still.add("image_adapter.key_options", key_id=by_pictures, images_remaining=4)
    with psycopg.connect(still.url, autocommit=True) as listener:
        listener.execute("LISTEN image_gateway_changed")
        heard: list[list[str]] = []
        for key, count in ((key_id, 4), (by_pictures, 3)):
            for number in range(count):
                assert still.charge(**call(key, f"{key}-{number}")) == "charged"
                still.execute("NOTIFY image_gateway_changed, 'the end'")
                told: list[str] = []
                for notification in listener.notifies(timeout=20):
                    if notification.payload == "the end":
                        break
                    told.append(notification.payload)
                heard.append(sorted(told))
    assert heard == [
        [],
        [],
        [f"key:{key_id}", "keys"],
        [],
        [],
        [f"key:{by_pictures}", "keys"],
        [],
    ]


def test_a_log_that_is_split_by_time_needs_no_room_for_an_old_call(litellm: LiteLlm) -> None:
    """LiteLLM's runbook partitions it; a part that is dropped takes no row any more."""
    litellm.execute(
        f'ALTER TABLE "{SPEND_LOG}" RENAME TO whole;'
        f'CREATE TABLE "{SPEND_LOG}" (LIKE whole INCLUDING DEFAULTS,'
        ' PRIMARY KEY (request_id, "startTime")) PARTITION BY RANGE ("startTime");'
        f'CREATE TABLE newest PARTITION OF "{SPEND_LOG}"'
        f" FOR VALUES FROM ('{AT.date()}') TO ('{AT.date() + timedelta(days=1)}');"
        "DROP TABLE whole"
    )
    litellm.install()
    key_id, _ = everybody(litellm)
    earlier = AT - timedelta(days=30)
    for _ in range(2):
        litellm.charge(**call(key_id))
        litellm.charge(**call(key_id, "earlier", at=earlier))
    assert spent(litellm, KEY, token=key_id) == (0.5,)
    assert litellm.ask(f'SELECT request_id FROM "{SPEND_LOG}"') == [(f"image:req_{key_id}",)]


def test_columns_that_came_later_need_not_be_there(litellm: LiteLlm) -> None:
    litellm.execute(
        f'ALTER TABLE "{KEY}" DROP total_spend, DROP last_active;'
        f'ALTER TABLE "{MEMBER}" DROP total_spend'
    )
    key_id, ids = everybody(litellm)
    assert litellm.charge(**call(key_id)) == "charged"
    assert spent(litellm, KEY, token=key_id) == (0.25,)
    assert spent(litellm, MEMBER, user_id=ids["user_id"], team_id=ids["team_id"]) == (0.25,)
