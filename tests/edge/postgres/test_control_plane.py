"""The control plane's edge against a real Postgres: what is known, for how long, and when not."""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import psycopg
import pytest

from image_gateway import sql
from image_gateway.core.model import Credential, Key, Secret
from image_gateway.demo import postgres
from image_gateway.edge.postgres import cache, control_plane
from image_gateway.edge.postgres.cache import AWAY_SECONDS, Freshness, UnavailableError
from image_gateway.edge.postgres.contract import ContractError, check
from image_gateway.edge.postgres.control_plane import UNKNOWN_SECONDS, ControlPlane
from tests.edge.conftest import (
    MAX_STALE_SECONDS,
    TTL_SECONDS,
    Attentive,
    Clock,
    OpenControl,
)
from tests.edge.relay import Relay
from tests.edge.server import READER, Server, Toll, hurry
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.plane import Plane

T = TypeVar("T")

NO_TRIGGERS = """
ALTER TABLE image_control.keys DISABLE TRIGGER USER;
ALTER TABLE image_control.groups DISABLE TRIGGER USER;
ALTER TABLE image_control.accounts DISABLE TRIGGER USER;
"""


@pytest.fixture(scope="module", autouse=True)
def _hurry(postgres_url: str) -> None:
    hurry(postgres_url)


@pytest.fixture(scope="module")
def still_plane(postgres_url: str) -> Iterator[Plane]:
    """One control plane for all tests that change nothing in it."""
    made = Plane(postgres_url)
    made.create()
    yield made
    made.drop()


@pytest.fixture
def toll(plane: Plane) -> Iterator[Toll]:
    with Toll(plane) as made:
        yield made


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def a_secret() -> str:
    return f"sk-{secrets.token_hex(8)}"


def nowhere(url: str) -> str:
    """The same database where nobody listens."""
    return url.partition("?")[0] + "?host=/nonexistent"


async def known(control: ControlPlane, secret: str) -> Key:
    key = await control.key(secret)
    assert key is not None
    return key


async def account_names(control: ControlPlane, secret: str) -> set[str]:
    return set((await control.grant(await known(control, secret))).accounts)


async def at_once(asked: Awaitable[T]) -> T:
    """The result, which must be there without anything having been waited for."""
    task = asyncio.ensure_future(asked)
    await asyncio.sleep(0)
    if not task.done():
        task.cancel()
        raise AssertionError("it waited")
    return task.result()


async def until_known(control: ControlPlane, secret: str) -> Key:
    """Ask until Postgres answers again."""

    async def answered() -> Key | None:
        with contextlib.suppress(UnavailableError):
            return await known(control, secret)
        return None

    key = await eventually(answered)
    assert key is not None
    return key


# -- keys ------------------------------------------------------------------------------------------


async def test_a_key_is_found_by_its_secret(plane: Plane, open_control: OpenControl) -> None:
    plane.add_group("painters", image_enabled=True)
    secret = plane.add_key(
        key_id="k1",
        key_name="Ada",
        group_id="painters",
        quota_limit=10,
        quota_used=3,
        max_concurrency=2,
        min_start_interval_ms=250,
        allowed_models=["gpt-image-2"],
        model_map={"pretty": "gpt-image-2"},
        account_names=["b", "a"],
        route_strategy="fixed",
    )
    plane.add_key(key_id="k2")
    async with open_control(plane.reader_url) as control:
        assert await control.key(secret) == Key(
            key_hash=hash_of(secret),
            key_id="k1",
            key_name="Ada",
            status="active",
            image_enabled=True,
            group_id="painters",
            group_image_enabled=True,
            quota_remaining=7,
            max_concurrency=2,
            min_start_interval_ms=250,
            allowed_models=frozenset({"gpt-image-2"}),
            model_map={"pretty": "gpt-image-2"},
            account_names=("b", "a"),
            route_strategy="fixed",
        )


async def test_a_key_without_a_group_has_its_groups_consent(
    plane: Plane, open_control: OpenControl
) -> None:
    plane.add_group("readers", image_enabled=False)
    alone, grouped = plane.add_key(), plane.add_key(group_id="readers")
    async with open_control(plane.reader_url) as control:
        assert (await known(control, alone)).group_image_enabled
        assert not (await known(control, grouped)).group_image_enabled


@pytest.mark.parametrize("secret", ["sk-unknown", "", "\xe9\udcff\0", "x" * 10_000])
async def test_a_secret_that_nobody_gave_out_is_no_key(
    still_plane: Plane, open_control: OpenControl, secret: str
) -> None:
    async with open_control(still_plane.reader_url) as control:
        assert await control.key(secret) is None


async def test_a_secret_counts_by_its_bytes_whatever_they_spell(
    plane: Plane, open_control: OpenControl
) -> None:
    """A header comes as latin-1; who made the key hashed its UTF-8."""
    plane.execute(
        "INSERT INTO image_control.keys (key_id, key_hash) VALUES ('k', %(it)s)",
        {"it": hash_of("schlüssel-€")},
    )
    async with open_control(plane.reader_url) as control:
        header = "schlüssel-€".encode().decode("latin-1")
        assert (await known(control, header)).key_id == "k"


async def test_that_a_key_does_not_exist_is_remembered_for_a_moment_only(
    plane: Plane, toll: Toll, open_control: OpenControl, clock: Clock
) -> None:
    plane.execute(NO_TRIGGERS)
    secret = a_secret()
    async with open_control(plane.reader_url) as control:
        for _ in range(5):
            assert await control.key(secret) is None
        assert toll.paid() == {"keys": 1}
        plane.execute(
            "INSERT INTO image_control.keys (key_id, key_hash) VALUES ('new', %(key_hash)s)",
            {"key_hash": hash_of(secret)},
        )
        clock.turn_on(UNKNOWN_SECONDS)
        assert (await known(control, secret)).key_id == "new"


async def test_a_new_key_works_at_once_although_it_was_asked_for_before(
    plane: Plane, open_control: OpenControl
) -> None:
    secret = a_secret()
    async with open_control(plane.reader_url) as control:
        assert await control.key(secret) is None
        plane.execute(
            "INSERT INTO image_control.keys (key_id, key_hash) VALUES ('new', %(key_hash)s)",
            {"key_hash": hash_of(secret)},
        )
        await eventually(lambda: control.heard)
        # The real second in which the guess is remembered is not over: only NOTIFY can know.
        assert (await known(control, secret)).key_id == "new"


async def test_many_callers_cost_one_look_up(
    plane: Plane, toll: Toll, open_control: OpenControl
) -> None:
    secret, guess = plane.add_key(), a_secret()
    plane.add_account("a", None)
    async with open_control(plane.reader_url) as control:
        with toll.shut("keys"):
            asked = [asyncio.create_task(control.key(secret)) for _ in range(20)]
            guessed = [asyncio.create_task(control.key(guess)) for _ in range(20)]
            await eventually(lambda: toll.held() == 2)
        keys = await asyncio.gather(*asked)
        assert {key.key_hash for key in keys if key} == {hash_of(secret)}
        assert await asyncio.gather(*guessed) == [None] * 20
        assert toll.paid() == {"keys": 2}
        with toll.shut("accounts"):
            granted = [asyncio.create_task(control.grant(key)) for key in keys if key]
            await eventually(lambda: toll.held() == 1)
        grants = await asyncio.gather(*granted)
        assert {tuple(grant.accounts) for grant in grants} == {("a",)}
        assert toll.paid() == {"accounts": 1}


async def test_a_caller_who_leaves_takes_nothing_from_the_others(
    plane: Plane, toll: Toll, open_control: OpenControl
) -> None:
    secret = plane.add_key()
    async with open_control(plane.reader_url) as control:
        with toll.shut("keys"):
            first = asyncio.create_task(known(control, secret))
            await eventually(lambda: toll.held() == 1)
            second = asyncio.create_task(known(control, secret))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait([first])
        assert first.cancelled()
        assert (await second).key_hash == hash_of(secret)
        assert toll.paid() == {"keys": 1}


async def test_a_guess_whose_caller_left_is_remembered_no_longer_than_another(
    plane: Plane, toll: Toll, open_control: OpenControl, clock: Clock
) -> None:
    plane.execute(NO_TRIGGERS)
    secret = a_secret()
    async with open_control(plane.reader_url) as control:
        with toll.shut("keys"):
            asked = asyncio.create_task(control.key(secret))
            await eventually(lambda: toll.held() == 1)
            asked.cancel()
            await asyncio.wait([asked])
        await eventually(lambda: toll.paid() == {"keys": 1})
        await asyncio.sleep(0)
        plane.execute(
            "INSERT INTO image_control.keys (key_id, key_hash) VALUES ('new', %(key_hash)s)",
            {"key_hash": hash_of(secret)},
        )
        clock.turn_on(UNKNOWN_SECONDS)
        assert (await known(control, secret)).key_id == "new"


async def test_a_key_is_asked_for_again_when_its_time_is_over_and_not_before(
    plane: Plane, toll: Toll, open_control: OpenControl, clock: Clock
) -> None:
    plane.execute(NO_TRIGGERS)
    secret = plane.add_key(key_id="k", key_name="old")
    async with open_control(plane.reader_url) as control:
        await known(control, secret)
        plane.update("keys", {"key_id": "k"}, key_name="new")
        clock.turn_on(TTL_SECONDS - BOUND_SECONDS)
        assert (await known(control, secret)).key_name == "old"
        assert toll.paid() == {"keys": 1}
        clock.turn_on(BOUND_SECONDS)
        assert (await known(control, secret)).key_name == "new"
        assert toll.paid() == {"keys": 1}


async def test_a_broken_key_is_unavailable_and_no_other_pays_for_it(
    plane: Plane, open_control: OpenControl, caplog: pytest.LogCaptureFixture
) -> None:
    plane.execute("ALTER TABLE image_control.keys DROP CONSTRAINT keys_route_strategy_check")
    broken, good = plane.add_key(key_id="b", route_strategy="mystery"), plane.add_key()
    async with open_control(plane.reader_url) as control:
        with pytest.raises(UnavailableError):
            await control.key(broken)
        assert (await known(control, good)).key_hash == hash_of(good)
        assert "the row of key b breaks the contract: route_strategy" in caplog.text
        assert "mystery" not in caplog.text
        assert hash_of(broken) not in caplog.text
        plane.update("keys", {"key_id": "b"}, route_strategy="fixed")
        await eventually(lambda: f"key:{hash_of(broken)}" in control.heard)
        assert (await known(control, broken)).route_strategy == "fixed"


async def test_the_caches_are_bounded_and_guesses_push_no_key_out(
    plane: Plane, toll: Toll, open_control: OpenControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_plane, "_MOST_KEYS", 3)
    monkeypatch.setattr(control_plane, "_MOST_UNKNOWN", 2)
    keys = [plane.add_key() for _ in range(4)]
    guesses = [a_secret() for _ in range(10)]
    async with open_control(plane.reader_url) as control:
        for secret in (*keys[:3], keys[0], keys[3]):
            await known(control, secret)
        assert toll.paid() == {"keys": 4}
        assert repr(control) == "<ControlPlane 3 keys, listening=True>"
        # The one that was not used for longest made room.
        for secret in (keys[0], keys[2], keys[3]):
            await known(control, secret)
        assert toll.paid() == {}
        for guess in guesses:
            assert await control.key(guess) is None
        assert len(control._unknown) <= 2
        assert toll.paid() == {"keys": 10}
        for secret in (keys[0], keys[2], keys[3]):
            await known(control, secret)
        assert toll.paid() == {}


# -- accounts --------------------------------------------------------------------------------------


async def test_all_keys_share_one_snapshot_of_the_accounts(
    plane: Plane, toll: Toll, open_control: OpenControl, clock: Clock
) -> None:
    plane.execute(NO_TRIGGERS)
    plane.add_account("a", "https://a.example/codex", image_max_concurrency=7)
    ada, bob = plane.add_key(), plane.add_key()
    async with open_control(plane.reader_url) as control:
        first = await control.grant(await known(control, ada))
        plane.add_account("b", None)
        second = await control.grant(await known(control, bob))
        assert first.key.key_hash == hash_of(ada)
        assert second.accounts is first.accounts
        assert toll.paid() == {"keys": 2, "accounts": 1}
        account = first.accounts["a"]
        assert account.base_url == "https://a.example/codex"
        assert account.image_max_concurrency == 7
        assert account.credential == Credential(Secret("token-of-a"), "access_token", "id-of-a")
        clock.turn_on(TTL_SECONDS)
        third = await control.grant(first.key)
        assert set(third.accounts) == {"a", "b"}
        assert set(first.accounts) == {"a"}, "a request works on one snapshot to its end"


async def test_a_broken_account_is_left_out_and_the_others_work(
    plane: Plane, open_control: OpenControl, caplog: pytest.LogCaptureFixture
) -> None:
    plane.add_account("good", None)
    plane.add_account("bad", None, credential={"access_token": "planted\nsecret"})
    secret = plane.add_key()
    async with open_control(plane.reader_url) as control:
        assert await account_names(control, secret) == {"good"}
        assert "left out of service: account bad: credential" in caplog.text
        assert "planted" not in caplog.text
        plane.update("accounts", {"account_name": "bad"}, credential={"access_token": "whole"})
        await eventually(lambda: "account:bad" in control.heard)
        assert await account_names(control, secret) == {"good", "bad"}


BROKEN_ACCOUNTS: list[str] = [
    """credential = '{"access_token": "planted\\nsecret"}'""",
    """credential = ('{"access_token": 1' || repeat('0', 400) || '}')::jsonb""",
    """credential = (repeat('[', 2000) || repeat(']', 2000))::jsonb""",
    "dialect = 'planted'",
    "image_max_concurrency = 2000000000",
    "base_url = 'https://who:planted@a.example'",
    "proxy_url = 'gopher://planted'",
    "routing_weight = 'NaN'",
    "routing_weight = 'infinity'",
    """deployments = '{"a": 1}'""",
    "client_version = E'planted\\n'",
]


async def test_no_account_can_be_so_broken_that_another_suffers(
    plane: Plane, open_control: OpenControl, caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(plane.url, autocommit=True) as connection:
        for (name,) in connection.execute(
            "SELECT conname FROM pg_constraint"
            " WHERE conrelid = 'image_control.accounts'::regclass AND contype = 'c'"
        ).fetchall():
            connection.execute(
                f"ALTER TABLE image_control.accounts DROP CONSTRAINT {name}".encode()
            )
    plane.add_account("good", None)
    for number, column in enumerate(BROKEN_ACCOUNTS):
        plane.add_account(f"bad{number}", None)
        plane.execute(
            f"UPDATE image_control.accounts SET {column} WHERE account_name = 'bad{number}'"
        )
    secret = plane.add_key()
    async with open_control(plane.reader_url) as control:
        assert await account_names(control, secret) == {"good"}
    for number, column in enumerate(BROKEN_ACCOUNTS):
        named = column.partition(" ")[0]
        assert f"left out of service: account bad{number}: {named} " in caplog.text
    assert "planted" not in caplog.text
    findings = await check(Secret(plane.reader_url))
    assert findings.accounts == 1 + len(BROKEN_ACCOUNTS)
    assert len(findings.broken_accounts) == len(BROKEN_ACCOUNTS)
    assert "planted" not in repr(findings)


async def test_an_account_may_be_blocked_until_any_moment_that_postgres_knows(
    plane: Plane, open_control: OpenControl
) -> None:
    moments = {
        "infinity": True,
        "20000-01-01": True,
        "-infinity": False,
        "4000-01-01 BC": False,
    }
    for moment in moments:
        plane.add_account(moment, None, blocked_until=moment)
    secret = plane.add_key()
    async with open_control(plane.reader_url) as control:
        grant = await control.grant(await known(control, secret))
    found = {name: account.blocked_until for name, account in grant.accounts.items()}
    now = datetime.now(UTC)
    assert {name: moment is not None and moment > now for name, moment in found.items()} == moments


async def test_a_broken_account_is_complained_of_once(
    plane: Plane, toll: Toll, open_control: OpenControl, caplog: pytest.LogCaptureFixture
) -> None:
    plane.add_account("bad", None, credential={"access_token": "planted\nsecret"})
    secret = plane.add_key()
    async with open_control(plane.reader_url) as control:
        for _ in range(3):
            control.changed("accounts")
            assert await account_names(control, secret) == set()
        assert toll.paid()["accounts"] == 3
    assert caplog.text.count("left out of service") == 1


async def test_an_account_that_is_read_again_shows_its_new_credential(
    plane: Plane, open_control: OpenControl, clock: Clock
) -> None:
    plane.execute(NO_TRIGGERS)
    plane.add_account("a", None)
    secret = plane.add_key()
    async with open_control(plane.reader_url) as control:
        old = await control.grant(await known(control, secret))
        plane.update("accounts", {"account_name": "a"}, credential={"access_token": "renewed"})
        again = await control.reread("a", clock.monotonic())
        assert again is not None
        assert again.credential == Credential(Secret("renewed"), "access_token")
        new = await control.grant(old.key)
        assert new.accounts["a"] == again, "later requests see it too"
        assert await control.reread("nobody", clock.monotonic()) is None


async def test_a_credential_that_is_read_again_comes_from_after_the_question(
    plane: Plane, toll: Toll, open_control: OpenControl, clock: Clock
) -> None:
    plane.execute(NO_TRIGGERS)
    plane.add_account("a", None)
    secret = plane.add_key()
    async with open_control(plane.reader_url) as control:
        key = await known(control, secret)
        with toll.shut("accounts"):
            early = asyncio.create_task(control.grant(key))
            await eventually(lambda: toll.held() == 1)
            plane.update("accounts", {"account_name": "a"}, credential={"access_token": "renewed"})
            late = asyncio.create_task(control.reread("a", clock.monotonic()))
            await eventually(lambda: toll.held() == 2)
        again = await late
        assert again is not None
        assert again.credential == Credential(Secret("renewed"), "access_token")
        await early
        assert (await control.grant(key)).accounts["a"] == again


async def test_credentials_that_are_refused_together_are_read_again_together(
    plane: Plane, toll: Toll, open_control: OpenControl, clock: Clock
) -> None:
    plane.execute(NO_TRIGGERS)
    plane.add_account("a", None)
    secret = plane.add_key()
    async with open_control(plane.reader_url) as control:
        key = await known(control, secret)
        await control.grant(key)
        toll.paid()
        since = clock.monotonic()
        plane.update("accounts", {"account_name": "a"}, credential={"access_token": "renewed"})
        again = await asyncio.gather(*(control.reread("a", since) for _ in range(20)))
        assert {it.credential for it in again if it} == {
            Credential(Secret("renewed"), "access_token")
        }
        assert toll.paid() == {"accounts": 1}
        assert (await control.reread("a", since)) == again[0]
        assert toll.paid() == {}, "what was read after that moment will do"


async def test_an_account_is_as_it_was_known_when_postgres_cannot_be_asked_again(
    plane: Plane, open_control: OpenControl, clock: Clock
) -> None:
    plane.add_account("a", None)
    secret = plane.add_key()
    async with Relay(plane.reader_url) as relay, open_control(relay.url) as control:
        grant = await control.grant(await known(control, secret))
        relay.cut()
        assert await control.reread("a", clock.monotonic()) == grant.accounts["a"]
    async with open_control(nowhere(plane.reader_url), listening=False) as control:
        assert await control.reread("a", clock.monotonic()) is None


# -- changes ---------------------------------------------------------------------------------------

TOLD: list[tuple[str, set[str]]] = [
    ("key:{first}", {"first"}),
    ("key:{other}", set()),
    ("keys", {"first", "second", "guess"}),
    ("accounts", {"accounts"}),
    ("account:a", {"accounts"}),
    ("account:nobody", {"accounts"}),
    ("account:", {"first", "second", "guess", "accounts"}),
    ("", {"first", "second", "guess", "accounts"}),
    ("key:", {"first", "second", "guess", "accounts"}),
    ("something else", {"first", "second", "guess", "accounts"}),
]


async def test_what_a_notification_concerns_is_read_anew_and_nothing_else(
    plane: Plane, toll: Toll, open_control: OpenControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is asked here must not have been asked by itself already.
    monkeypatch.setattr(control_plane, "REFRESH_SECONDS", 3600)
    first, second, guess = plane.add_key(), plane.add_key(), a_secret()
    async with open_control(plane.reader_url) as control:
        key = await known(control, first)
        questions: dict[str, Callable[[], Awaitable[object]]] = {
            "first": lambda: control.key(first),
            "second": lambda: control.key(second),
            "guess": lambda: control.key(guess),
            "accounts": lambda: control.grant(key),
        }
        for pattern, concerned in TOLD:
            control.changed("")
            for ask in questions.values():
                await ask()
            toll.paid()
            control.heard.clear()
            payload = pattern.format(first=hash_of(first), other=hash_of("other"))
            plane.execute("SELECT pg_notify('image_gateway_changed', %(it)s)", {"it": payload})
            await eventually(lambda: control.heard)
            assert control.heard == [payload]
            asked = set()
            for name, ask in questions.items():
                await ask()
                if toll.paid():
                    asked.add(name)
            assert asked == concerned, pattern


CHANGES: list[tuple[str, list[str]]] = [
    ("INSERT INTO image_control.groups (group_id) VALUES ('g'), ('empty')", ["keys"]),
    (
        "INSERT INTO image_control.keys VALUES ('k', '', '{k}'), ('l', '', '{l}')",
        ["key:{k}", "key:{l}"],
    ),
    ("INSERT INTO image_control.accounts VALUES ('a', 'codex'), ('b', 'codex')", ["accounts"]),
    ("UPDATE image_control.keys SET status = 'disabled' WHERE key_id = 'k'", ["key:{k}"]),
    ("UPDATE image_control.keys SET quota_used = 1", []),
    ("UPDATE image_control.keys SET quota_limit = 2", ["key:{k}", "key:{l}"]),
    ("UPDATE image_control.keys SET quota_used = 2 WHERE key_id = 'k'", ["key:{k}"]),
    ("UPDATE image_control.keys SET quota_used = 3 WHERE key_id = 'k'", []),
    ("UPDATE image_control.keys SET quota_used = 0", ["key:{k}"]),
    ("UPDATE image_control.keys SET key_hash = '{n}' WHERE key_id = 'k'", ["key:{k}", "key:{n}"]),
    ("DELETE FROM image_control.keys WHERE key_id = 'l'", ["key:{l}"]),
    ("UPDATE image_control.groups SET image_enabled = false", ["keys"]),
    ("DELETE FROM image_control.groups WHERE group_id = 'empty'", ["keys"]),
    ("TRUNCATE image_control.keys CASCADE", ["keys"]),
    ("UPDATE image_control.accounts SET status = 'off'", ["account:a", "account:b"]),
    ("UPDATE image_control.accounts SET status = 'off'", []),
    ("UPDATE image_control.accounts SET used_percent_primary = 5", ["accounts"]),
    ("UPDATE image_control.accounts SET used_percent_secondary = 5", ["accounts"]),
    (
        "UPDATE image_control.accounts SET used_percent_primary = 6, credential = '{{}}'",
        ["account:a", "account:b"],
    ),
    (
        "UPDATE image_control.accounts SET account_name = 'c' WHERE account_name = 'b'",
        ["account:b"],
    ),
    ("BEGIN; UPDATE image_control.accounts SET status = 'on'; ROLLBACK", []),
    ("SELECT * FROM image_gateway.accounts", []),
    ("DELETE FROM image_control.accounts", ["account:a", "account:c"]),
    ("INSERT INTO image_control.accounts VALUES (repeat('é', 9000), 'codex')", ["accounts"]),
    ("DELETE FROM image_control.accounts", ["account:" + "é" * 1892]),
    ("TRUNCATE image_control.accounts", ["accounts"]),
]


async def test_the_standalone_plane_tells_of_every_change_as_it_is_committed(
    plane: Plane, open_control: OpenControl
) -> None:
    names = {name: hash_of(a_secret()) for name in "kln"}
    async with open_control(plane.reader_url) as control:
        for number, (statement, payloads) in enumerate(CHANGES):
            plane.execute(statement.format(**names))
            end = f"the end of {number}"
            plane.execute("SELECT pg_notify('image_gateway_changed', %(it)s)", {"it": end})
            await eventually(partial(control.heard.__contains__, end))
            expected = sorted(text.format(**names) for text in payloads)
            assert sorted(control.heard[:-1]) == expected, statement
            control.heard.clear()


async def test_a_change_acts_at_once(plane: Plane, open_control: OpenControl) -> None:
    plane.add_group("g", image_enabled=True)
    secret = plane.add_key(key_id="k", group_id="g")
    plane.add_account("a", None)
    async with open_control(plane.reader_url) as control:
        key = await known(control, secret)
        assert key.group_image_enabled
        assert (await control.grant(key)).accounts["a"].image_enabled
        plane.update("groups", {"group_id": "g"}, image_enabled=False)
        plane.update("keys", {"key_id": "k"}, status="disabled")
        plane.update("accounts", {"account_name": "a"}, image_enabled=False)
        await eventually(lambda: len(control.heard) == 3)
        key = await known(control, secret)
        assert (key.status, key.group_image_enabled) == ("disabled", False)
        assert not (await control.grant(key)).accounts["a"].image_enabled
        plane.execute("DELETE FROM image_control.keys")
        await eventually(lambda: len(control.heard) == 4)
        assert await control.key(secret) is None


async def test_a_key_that_was_looked_up_before_its_change_is_not_kept(
    plane: Plane, toll: Toll, open_control: OpenControl
) -> None:
    secret = plane.add_key(key_id="k", key_name="old")
    async with open_control(plane.reader_url) as control:
        with toll.shut("keys"):
            early = asyncio.create_task(known(control, secret))
            await eventually(lambda: toll.held() == 1)
            plane.update("keys", {"key_id": "k"}, key_name="new")
            await eventually(lambda: control.heard)
        assert (await early).key_name == "old", "who asked before the change may see what was then"
        assert (await known(control, secret)).key_name == "new"


async def test_who_asks_after_a_change_does_not_join_a_look_up_from_before_it(
    plane: Plane, toll: Toll, open_control: OpenControl
) -> None:
    secret = plane.add_key(key_id="k", key_name="old")
    async with open_control(plane.reader_url) as control:
        with toll.shut("keys"):
            early = asyncio.create_task(known(control, secret))
            await eventually(lambda: toll.held() == 1)
            plane.update("keys", {"key_id": "k"}, key_name="new")
            await eventually(lambda: control.heard)
            late = asyncio.create_task(known(control, secret))
            await eventually(lambda: toll.held() == 2)
        assert (await late).key_name == "new"
        await early
        assert (await known(control, secret)).key_name == "new"


async def test_a_guess_that_was_looked_up_before_the_key_was_made_is_not_kept(
    plane: Plane, toll: Toll, open_control: OpenControl
) -> None:
    secret = a_secret()
    async with open_control(plane.reader_url) as control:
        with toll.shut("keys"):
            early = asyncio.create_task(control.key(secret))
            await eventually(lambda: toll.held() == 1)
            plane.execute(
                "INSERT INTO image_control.keys (key_id, key_hash) VALUES ('new', %(it)s)",
                {"it": hash_of(secret)},
            )
            await eventually(lambda: control.heard)
        assert await early is None
        assert (await known(control, secret)).key_id == "new"


async def test_accounts_that_were_looked_up_before_their_change_are_not_kept(
    plane: Plane, toll: Toll, open_control: OpenControl
) -> None:
    secret = plane.add_key()
    plane.add_account("a", None)
    async with open_control(plane.reader_url) as control:
        key = await known(control, secret)
        with toll.shut("accounts"):
            early = asyncio.create_task(control.grant(key))
            await eventually(lambda: toll.held() == 1)
            plane.add_account("b", None)
            await eventually(lambda: control.heard)
        assert set((await early).accounts) == {"a"}
        assert set((await control.grant(key)).accounts) == {"a", "b"}


async def test_no_notification_is_lost_while_the_connection_is_tried(
    plane: Plane, open_control: OpenControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_plane, "_LISTEN_CHECK_SECONDS", 0.001)
    async with open_control(plane.reader_url) as control:
        wanted = [f"key:{number:064x}" for number in range(200)]
        connection = await psycopg.AsyncConnection.connect(plane.url, autocommit=True)
        async with connection:
            for payload in wanted:
                await connection.execute("SELECT pg_notify('image_gateway_changed', %s)", [payload])
        await eventually(lambda: len(control.heard) >= len(wanted))
        assert control.heard == wanted


async def end_listening(plane: Plane, control: Attentive) -> None:
    """End the LISTEN session and wait for its successor."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'image-gateway' AND query LIKE 'LISTEN%'"
    )
    with psycopg.connect(plane.url, autocommit=True) as connection:
        [(old,)] = connection.execute(query).fetchall()
        connection.execute("SELECT pg_terminate_backend(%s)", [old])

        def successor() -> bool:
            found = [pid for (pid,) in connection.execute(query).fetchall() if pid != old]
            return bool(found) and control.listening

        await eventually(successor)


async def test_a_new_listen_connection_doubts_everything(
    plane: Plane, open_control: OpenControl
) -> None:
    plane.execute(NO_TRIGGERS)
    secret, guess = plane.add_key(key_id="k", key_name="old"), a_secret()
    plane.add_account("a", None)
    async with open_control(plane.reader_url) as control:
        assert await account_names(control, secret) == {"a"}
        assert await control.key(guess) is None
        plane.update("keys", {"key_id": "k"}, key_name="new")
        plane.add_account("b", None)
        plane.execute(
            "INSERT INTO image_control.keys (key_id, key_hash) VALUES ('new', %(it)s)",
            {"it": hash_of(guess)},
        )
        await end_listening(plane, control)
        assert (await known(control, secret)).key_name == "new"
        assert await account_names(control, secret) == {"a", "b"}
        assert (await known(control, guess)).key_id == "new"


async def test_what_was_looked_up_before_a_new_listen_connection_is_not_kept(
    plane: Plane, toll: Toll, open_control: OpenControl
) -> None:
    plane.execute(NO_TRIGGERS)
    secret, guess = plane.add_key(key_id="k", key_name="old"), a_secret()
    async with open_control(plane.reader_url) as control:
        with toll.shut("keys"):
            early = asyncio.create_task(known(control, secret))
            guessed = asyncio.create_task(control.key(guess))
            await eventually(lambda: toll.held() == 2)
            plane.update("keys", {"key_id": "k"}, key_name="new")
            plane.execute(
                "INSERT INTO image_control.keys (key_id, key_hash) VALUES ('new', %(it)s)",
                {"it": hash_of(guess)},
            )
            await end_listening(plane, control)
        assert (await early).key_name == "old"
        assert await guessed is None
        assert (await known(control, secret)).key_name == "new"
        assert (await known(control, guess)).key_id == "new"


async def test_a_new_listen_connection_keeps_what_was_known_as_a_last_resort(
    plane: Plane, open_control: OpenControl
) -> None:
    secret = plane.add_key()
    plane.add_account("a", None)
    async with (
        Relay(plane.reader_url) as relay,
        open_control(relay.url, plane.reader_url) as control,
    ):
        await account_names(control, secret)
        relay.cut()
        await end_listening(plane, control)
        assert await account_names(control, secret) == {"a"}


async def test_without_listen_changes_are_seen_within_the_time_to_live(
    plane: Plane, open_control: OpenControl, clock: Clock
) -> None:
    secret = plane.add_key(key_id="k", key_name="old")
    direct = nowhere(plane.reader_url)
    async with open_control(plane.reader_url, direct, listening=False) as control:
        await known(control, secret)
        plane.update("keys", {"key_id": "k"}, key_name="new")
        clock.turn_on(TTL_SECONDS)
        assert (await known(control, secret)).key_name == "new"
        assert not control.listening


# -- Postgres away ---------------------------------------------------------------------------------


async def test_what_is_known_outlives_postgres_for_its_time_and_no_longer(
    plane: Plane, open_control: OpenControl, clock: Clock
) -> None:
    secret = plane.add_key()
    plane.add_account("a", None)
    async with Relay(plane.reader_url) as relay, open_control(relay.url) as control:
        key = await known(control, secret)
        grant = await control.grant(key)
        relay.cut()
        clock.turn_on(TTL_SECONDS)
        assert await control.key(secret) == key
        assert await control.grant(key) == grant
        clock.turn_on(MAX_STALE_SECONDS - TTL_SECONDS - BOUND_SECONDS)
        assert await control.key(secret) == key
        assert await control.grant(key) == grant
        clock.turn_on(BOUND_SECONDS)
        with pytest.raises(UnavailableError):
            await control.key(secret)
        with pytest.raises(UnavailableError):
            await control.grant(key)
        await relay.open()
        assert await until_known(control, secret) == key
        assert await control.grant(key) == grant


async def test_an_unknown_key_is_unavailable_and_never_refused_while_postgres_is_away(
    plane: Plane, open_control: OpenControl, clock: Clock
) -> None:
    guess = a_secret()
    async with Relay(plane.reader_url) as relay, open_control(relay.url) as control:
        assert await control.key(guess) is None
        relay.cut()
        clock.turn_on(UNKNOWN_SECONDS)
        for _ in range(3):
            for secret in (guess, a_secret()):
                with pytest.raises(UnavailableError):
                    await control.key(secret)
        await relay.open()
        clock.turn_on(AWAY_SECONDS)
        secret = plane.add_key()
        assert (await until_known(control, secret)).key_hash == hash_of(secret)
        assert await control.key(guess) is None


async def test_an_outage_makes_no_queue_of_unknown_keys(
    plane: Plane, open_control: OpenControl
) -> None:
    async with Relay(plane.reader_url) as relay, open_control(relay.url) as control:
        relay.cut()
        with pytest.raises(UnavailableError):
            await control.key(a_secret())
        for _ in range(100):
            task = asyncio.create_task(control.key(a_secret()))
            for _ in range(10):
                await asyncio.sleep(0)
            assert task.done(), "it waited"
            assert isinstance(task.exception(), UnavailableError)


async def test_a_flood_of_unknown_keys_is_refused_and_is_no_outage(
    plane: Plane, toll: Toll, open_control: OpenControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_plane, "_MOST_WAITING", 5)
    monkeypatch.setattr(control_plane, "POOL_SECONDS", BOUND_SECONDS)
    secret = plane.add_key()
    async with open_control(plane.reader_url) as control:
        with toll.shut("keys"):
            guesses = [asyncio.create_task(control.key(a_secret())) for _ in range(50)]
            outcome = asyncio.gather(*guesses, return_exceptions=True)
            await eventually(lambda: toll.held() == 4)
            await eventually(lambda: sum(task.done() for task in guesses) == 45)
        answers = await outcome
        assert answers.count(None) == 5, "who was waiting already is served"
        assert sum(isinstance(it, UnavailableError) for it in answers) == 45
        assert (await known(control, secret)).key_hash == hash_of(secret)


async def test_nothing_is_kept_of_guesses_whose_callers_left_in_an_outage(
    plane: Plane, open_control: OpenControl
) -> None:
    async with Relay(plane.reader_url) as relay, open_control(relay.url) as control:
        relay.cut()
        guesses = [asyncio.create_task(control.key(a_secret())) for _ in range(10)]
        await asyncio.sleep(0)
        assert len(control._asked) == 10
        for task in guesses:
            task.cancel()
        await asyncio.wait(guesses)
        await eventually(lambda: control._asked == {}, BOUND_SECONDS / 4)


async def test_an_outage_costs_a_known_key_one_wait_at_most(
    plane: Plane, open_control: OpenControl, clock: Clock
) -> None:
    secret = plane.add_key()
    plane.add_account("a", None)
    async with Relay(plane.reader_url) as relay, open_control(relay.url) as control:
        key = await known(control, secret)
        grant = await control.grant(key)
        relay.cut()
        clock.turn_on(TTL_SECONDS)
        await control.key(secret)
        await control.grant(key)
        for _ in range(20):
            clock.turn_on(AWAY_SECONDS)
            assert await at_once(control.key(secret)) == key
            assert await at_once(control.grant(key)) == grant


async def test_an_outage_that_one_key_met_costs_no_other_known_key_a_wait(
    plane: Plane, open_control: OpenControl, clock: Clock
) -> None:
    keys = [plane.add_key() for _ in range(4)]
    plane.add_account("a", None)
    async with Relay(plane.reader_url) as relay, open_control(relay.url) as control:
        for secret in keys:
            key = await known(control, secret)
        await control.grant(key)
        relay.cut()
        clock.turn_on(TTL_SECONDS)
        await known(control, keys[0])
        for secret in keys[1:]:
            clock.turn_on(AWAY_SECONDS)
            assert (await at_once(known(control, secret))).key_hash == hash_of(secret)
        clock.turn_on(AWAY_SECONDS)
        assert (await at_once(control.grant(key))).accounts


async def test_once_an_outage_is_over_nothing_old_is_served_any_more(
    plane: Plane, open_control: OpenControl, clock: Clock
) -> None:
    plane.execute(NO_TRIGGERS)
    secret, other = plane.add_key(key_id="k", key_name="old"), plane.add_key()
    async with (
        Relay(plane.reader_url) as relay,
        open_control(relay.url, plane.reader_url) as control,
    ):
        await known(control, secret)
        relay.cut()
        clock.turn_on(TTL_SECONDS)
        assert (await known(control, secret)).key_name == "old"
        await relay.open()
        clock.turn_on(AWAY_SECONDS)
        await until_known(control, other)
        plane.update("keys", {"key_id": "k"}, key_name="new")
        clock.turn_on(TTL_SECONDS)
        assert (await known(control, secret)).key_name == "new"


async def test_a_postgres_that_falls_silent_delays_a_known_key_once_and_heals(
    plane: Plane, open_control: OpenControl, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "LOAD_SECONDS", 0.3)
    secret = plane.add_key(key_id="k", key_name="old")
    async with (
        Relay(plane.reader_url) as relay,
        open_control(relay.url, plane.reader_url) as control,
    ):
        key = await known(control, secret)
        relay.stall()
        clock.turn_on(TTL_SECONDS)
        async with asyncio.timeout(BOUND_SECONDS):
            assert await control.key(secret) == key
        for _ in range(20):
            clock.turn_on(AWAY_SECONDS)
            assert await at_once(control.key(secret)) == key
        with pytest.raises(UnavailableError):
            await control.key(a_secret())
        plane.execute(NO_TRIGGERS)
        plane.update("keys", {"key_id": "k"}, key_name="new")
        await relay.open()

        async def is_read_again() -> bool:
            clock.turn_on(AWAY_SECONDS)
            return (await known(control, secret)).key_name == "new"

        await eventually(is_read_again)


async def test_a_key_named_during_its_failing_look_up_is_not_served_stale(
    plane: Plane, open_control: OpenControl, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "LOAD_SECONDS", 0.5)
    secret = plane.add_key(key_id="k")
    async with (
        Relay(plane.reader_url) as relay,
        open_control(relay.url, plane.reader_url) as control,
    ):
        await known(control, secret)
        relay.stall()
        clock.turn_on(TTL_SECONDS)
        asked = asyncio.create_task(control.key(secret))
        await asyncio.sleep(0)
        assert not asked.done()
        plane.update("keys", {"key_id": "k"}, status="disabled")
        await eventually(lambda: control.heard)
        with pytest.raises(UnavailableError):
            await asked
        relay.cut()


async def test_a_gateway_may_open_before_postgres_and_finds_it(
    plane: Plane, open_control: OpenControl, clock: Clock
) -> None:
    secret = plane.add_key()
    async with Relay(plane.reader_url) as relay:
        relay.cut()
        async with open_control(relay.url, listening=False) as control:
            with pytest.raises(UnavailableError):
                await control.key(secret)
            await relay.open()
            await eventually(lambda: control.listening)
            assert (await until_known(control, secret)).key_hash == hash_of(secret)


async def test_closing_ends_every_session_and_waits_for_nobody(
    plane: Plane, open_control: OpenControl
) -> None:
    secret = plane.add_key()
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'image-gateway'"
    with psycopg.connect(plane.url, autocommit=True) as connection:

        def sessions() -> Any:
            return connection.execute(f"{query} AND datname = current_database()").fetchall()

        async with open_control(plane.reader_url) as control:
            await known(control, secret)
            assert sessions() == [(2,)]
        await eventually(lambda: sessions() == [(0,)])
    async with (
        Relay(plane.reader_url) as relay,
        asyncio.timeout(BOUND_SECONDS),
        open_control(relay.url) as control,
    ):
        await known(control, secret)
        relay.stall()


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    with Server(postgres.VERSION) as made:
        yield made


@pytest.mark.parametrize("payload", ["", "keys", "accounts", "key"])
async def test_what_a_change_concerns_is_read_anew_before_somebody_asks(
    own_server: Server, open_control: OpenControl, clock: Clock, payload: str
) -> None:
    """An outage that begins after a change finds what was used before to go on with."""
    plane = Plane(own_server.url)
    plane.create()
    secret = plane.add_key(key_id="k", key_name="old")
    plane.add_account("a", None)
    async with open_control(plane.reader_url) as control:
        await control.grant(await known(control, secret))
        plane.execute(NO_TRIGGERS)
        plane.update("keys", {"key_id": "k"}, key_name="new")
        plane.add_account("b", None)
        told = f"key:{hash_of(secret)}" if payload == "key" else payload
        plane.execute("SELECT pg_notify('image_gateway_changed', %(it)s)", {"it": told})
        await eventually(lambda: told in control.heard)
        names = {"a"} if payload in {"keys", "key"} else {"a", "b"}
        await eventually(lambda: set(control.known_accounts()[0]) == names)
        name = "old" if payload == "accounts" else "new"

        def is_known() -> bool:
            entry = control._keys.get(hash_of(secret))
            held = entry and entry.peek()
            return bool(held and held[0] and held[0].key_name == name)

        await eventually(is_known)
        await asyncio.to_thread(own_server.kill)
        await eventually(lambda: not control.listening)
        clock.turn_on(TTL_SECONDS)
        key = await known(control, secret)
        assert key.key_name == name
        assert set((await control.grant(key)).accounts) == names
        await asyncio.to_thread(own_server.start)


@pytest.mark.parametrize("way", ["stop", "kill"])
async def test_a_restart_of_postgres_heals_without_help(
    own_server: Server, open_control: OpenControl, clock: Clock, way: str
) -> None:
    plane = Plane(own_server.url)
    plane.create()
    secret, gone = plane.add_key(key_id="k", key_name="old"), plane.add_key(key_id="gone")
    plane.add_account("a", None)
    async with open_control(plane.reader_url) as control:
        key = await known(control, secret)
        await known(control, gone)
        grant = await control.grant(key)
        await asyncio.to_thread(getattr(own_server, way))
        await eventually(lambda: not control.listening)
        clock.turn_on(TTL_SECONDS)
        assert await control.key(secret) == key
        assert await control.grant(key) == grant
        with pytest.raises(UnavailableError):
            await control.key(a_secret())
        await asyncio.to_thread(own_server.start)
        # Changed while nobody listened and, with the triggers off, told to nobody at all.
        plane.execute(NO_TRIGGERS)
        plane.update("keys", {"key_id": "k"}, key_name="new")
        plane.execute("DELETE FROM image_control.keys WHERE key_id = 'gone'")
        plane.add_account("b", None)
        new = plane.add_key()
        await eventually(lambda: control.listening)
        assert (await until_known(control, new)).key_hash == hash_of(new)

        async def all_is_new() -> bool:
            return (
                (await known(control, secret)).key_name == "new"
                and await control.key(gone) is None
                and set((await control.grant(key)).accounts) == {"a", "b"}
            )

        await eventually(all_is_new)
        plane.execute("NOTIFY image_gateway_changed, 'heard again'")
        await eventually(lambda: "heard again" in control.heard)


# -- read only -------------------------------------------------------------------------------------

SCRIBBLE = """
CREATE TABLE public.scribbles (line text);
GRANT ALL ON public.scribbles TO PUBLIC;
CREATE FUNCTION public.scribble() RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.scribbles VALUES ('written');
    RETURN 1;
END
$$;
"""
SCRIBBLING_ACCOUNTS = """
ALTER VIEW image_gateway.accounts RENAME TO pure_accounts;
CREATE VIEW image_gateway.accounts AS
SELECT a.* FROM public.scribble() AS s, image_gateway.pure_accounts AS a;
"""


def scribbles(plane: Plane) -> int:
    with psycopg.connect(plane.url) as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM public.scribbles").fetchall()
    assert isinstance(count, int)
    return count


async def test_a_look_up_cannot_write_even_for_a_superuser(
    plane: Plane, open_control: OpenControl
) -> None:
    """A view may call whatever its owner wrote; a look-up through it still changes nothing."""
    plane.execute(SCRIBBLE + SCRIBBLING_ACCOUNTS)
    plane.add_account("a", None)
    secret = plane.add_key()
    async with open_control(plane.url) as control:
        key = await known(control, secret)
        with pytest.raises(UnavailableError):
            await control.grant(key)
    assert scribbles(plane) == 0


async def test_check_cannot_write_even_for_a_superuser(plane: Plane) -> None:
    plane.execute(SCRIBBLE)
    plane.execute(version_is("public.scribble()"))
    with pytest.raises((ContractError, UnavailableError)):
        await check(Secret(plane.url))
    assert scribbles(plane) == 0


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM image_control.keys",
        "SELECT * FROM image_control.accounts",
        "SELECT * FROM image_control.groups",
        "INSERT INTO image_control.keys (key_id, key_hash) VALUES ('x', repeat('0', 64))",
        "UPDATE image_gateway.accounts SET status = 'off'",
        "DELETE FROM image_gateway.accounts",
        "TRUNCATE image_control.accounts",
        "CREATE TABLE public.mine (a int)",
        "CREATE TABLE image_gateway.mine (a int)",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
    ],
)
def test_the_readers_role_sees_the_contract_alone_and_can_write_nothing(
    still_plane: Plane, statement: str
) -> None:
    """By its grants, that is with its own setting of read-only switched off."""
    with psycopg.connect(still_plane.reader_url, autocommit=True) as connection:
        assert connection.execute("SHOW default_transaction_read_only").fetchall() == [("on",)]
        connection.execute("SELECT * FROM image_gateway.keys, image_gateway.accounts")
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


def test_the_readers_session_is_read_only_by_itself(plane: Plane) -> None:
    plane.execute(SCRIBBLE)
    with (
        psycopg.connect(plane.reader_url) as connection,
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
    ):
        connection.execute("INSERT INTO public.scribbles VALUES ('written')")


# -- check -----------------------------------------------------------------------------------------


async def test_check_finds_nothing_to_say_of_the_reader(plane: Plane) -> None:
    plane.add_account("a", None)
    plane.add_account("b", None, credential={"access_token": "planted\nsecret"})
    findings = await check(Secret(plane.reader_url))
    assert findings.accounts == 2
    assert [account.account_name for account in findings.sound_accounts] == ["a"]
    assert findings.broken_accounts == (
        "account b: credential must be printable ASCII, because it is sent in a header",
    )
    assert findings.writable == ()


async def test_check_reports_a_superuser(plane: Plane) -> None:
    findings = await check(Secret(plane.url))
    assert "it is a superuser" in findings.writable
    assert "it may write to tables in schema image_control" in findings.writable
    assert "it may create schemas in this database" in findings.writable


GRANTS: list[tuple[str, str]] = [
    ("INSERT ON image_control.keys", "it may write to tables in schema image_control"),
    ("UPDATE ON image_gateway.keys", "it may write to tables in schema image_gateway"),
    ("DELETE ON image_control.accounts", "it may write to tables in schema image_control"),
    ("TRUNCATE ON image_control.groups", "it may write to tables in schema image_control"),
    ("UPDATE (status) ON image_control.keys", "it may write to tables in schema image_control"),
    ("INSERT (key_id) ON image_control.keys", "it may write to tables in schema image_control"),
    ("CREATE ON SCHEMA image_gateway", "it may create tables in schema image_gateway"),
    ("CREATE ON DATABASE {database}", "it may create schemas in this database"),
]


@pytest.mark.parametrize(("right", "finding"), GRANTS)
async def test_check_finds_each_right_to_write(plane: Plane, right: str, finding: str) -> None:
    plane.execute(f"GRANT USAGE ON SCHEMA image_control TO {READER}")
    plane.execute(f"GRANT {right.format(database=plane.name)} TO {READER}")
    assert (await check(Secret(plane.reader_url))).writable == (finding,)


def version_is(expression: str) -> str:
    """SQL for a control plane whose contract has this version."""
    return (
        "CREATE OR REPLACE FUNCTION image_gateway.contract_version() RETURNS integer"
        f" LANGUAGE sql AS 'SELECT {expression}'"
    )


BROKEN_CONTRACTS: list[tuple[str, str, str]] = [
    ("DROP SCHEMA image_gateway CASCADE", "lacks the image gateway's contract", "standalone"),
    (
        "DROP FUNCTION image_gateway.contract_version",
        "lacks the image gateway's contract",
        "standalone",
    ),
    ("DROP VIEW image_gateway.keys", "lacks the image gateway's contract", "standalone"),
    ("DROP VIEW image_gateway.accounts", "lacks the image gateway's contract", "standalone"),
    (
        version_is("0"),
        "has contract version 0; this gateway needs 1",
        "standalone",
    ),
    (
        version_is("NULL::integer"),
        "has contract version null; this gateway needs 1",
        "standalone",
    ),
    (
        "ALTER VIEW image_gateway.keys RENAME COLUMN route_strategy TO strategy",
        'column "route_strategy" does not exist',
        "standalone",
    ),
    (
        "ALTER VIEW image_gateway.accounts RENAME COLUMN same_account_retries TO retries",
        'column "same_account_retries" does not exist',
        "standalone",
    ),
    (f"REVOKE USAGE ON SCHEMA image_gateway FROM {READER}", "may not read the control", "reader"),
    (f"REVOKE SELECT ON image_gateway.keys FROM {READER}", "may not read the control", "reader"),
    (
        f"REVOKE SELECT ON image_gateway.accounts FROM {READER}",
        "may not read the control",
        "reader",
    ),
    (
        f"REVOKE EXECUTE ON FUNCTION image_gateway.contract_version FROM PUBLIC, {READER}",
        "may not read the control",
        "reader",
    ),
]


@pytest.mark.parametrize(("damage", "complaint", "cure"), BROKEN_CONTRACTS)
async def test_a_broken_contract_is_named_together_with_its_cure(
    plane: Plane, damage: str, complaint: str, cure: str
) -> None:
    await check(Secret(plane.reader_url))
    plane.execute(damage)
    with pytest.raises(ContractError) as caught:
        await check(Secret(plane.reader_url))
    assert complaint in str(caught.value)
    assert f"`image-gateway schema {cure}`" in str(caught.value)


async def test_the_cure_that_check_names_cures(plane: Plane) -> None:
    plane.execute("DROP SCHEMA image_gateway CASCADE")
    with pytest.raises(ContractError):
        await check(Secret(plane.reader_url))
    plane.execute(postgres.schema())
    assert (await check(Secret(plane.reader_url))).writable == ()


async def test_a_contract_that_fails_is_told_in_postgress_own_words(plane: Plane) -> None:
    plane.execute(version_is("1 / 0"))
    with pytest.raises((ContractError, UnavailableError), match="division by zero"):
        await check(Secret(plane.reader_url))


async def test_a_later_contract_is_good_enough(plane: Plane) -> None:
    plane.execute(version_is("2"))
    assert (await check(Secret(plane.reader_url))).accounts == 0


async def test_check_says_that_nobody_listens(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = nowhere(plane.reader_url).replace(":@", ":planted-password@")
    with pytest.raises(UnavailableError, match=r"/nonexistent/") as caught:
        await check(Secret(url))
    assert "planted" not in str(caught.value)
    monkeypatch.setattr(control_plane, "LOAD_SECONDS", 0.3)
    async with Relay(plane.reader_url) as relay:
        relay.stall()
        async with asyncio.timeout(BOUND_SECONDS):
            with pytest.raises(UnavailableError):
                await check(Secret(relay.url))
        relay.cut()
        with pytest.raises(UnavailableError):
            await check(Secret(relay.url))


# -- the shipped SQL -------------------------------------------------------------------------------


async def test_the_shipped_sql_may_be_run_again_and_keeps_what_is_there(plane: Plane) -> None:
    plane.add_group("g", image_enabled=True)
    secret = plane.add_key(group_id="g")
    plane.add_account("a", None)
    for _ in range(2):
        plane.execute(sql.schema("standalone"))
        plane.execute(sql.schema("reader"))
    findings = await check(Secret(plane.reader_url))
    assert (findings.accounts, findings.writable) == (1, ())
    freshness = Freshness(TTL_SECONDS, MAX_STALE_SECONDS)
    url = Secret(plane.reader_url)
    async with Attentive(url, url, freshness) as control:
        assert (await known(control, secret)).group_image_enabled
        await eventually(lambda: control.listening)
        plane.update("accounts", {"account_name": "a"}, status="off")
        plane.execute("NOTIFY image_gateway_changed, 'the end'")
        await eventually(lambda: "the end" in control.heard)
        assert control.heard == ["account:a", "the end"], "each trigger stands once"


BAD_ROWS: list[tuple[str, str]] = [
    ("keys (key_id, key_hash)", "('k', repeat('A', 64))"),
    ("keys (key_id, key_hash)", "('k', repeat('a', 63))"),
    ("keys (key_id, key_hash, route_strategy)", "('k', repeat('a', 64), 'mystery')"),
    ("keys (key_id, key_hash, model_map)", "('k', repeat('a', 64), '[]')"),
    ("accounts (account_name, dialect)", "('a', 'mystery')"),
    ("accounts (account_name, dialect)", "('', 'codex')"),
    ("accounts (account_name, dialect)", "('a', 'azure')"),
    ("accounts (account_name, dialect, image_max_concurrency)", "('a', 'codex', 0)"),
    ("accounts (account_name, dialect, base_url)", "('a', 'codex', 'ftp://a')"),
]


@pytest.mark.parametrize(("columns", "values"), BAD_ROWS)
def test_the_standalone_plane_refuses_rows_that_no_gateway_could_use(
    still_plane: Plane, columns: str, values: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        still_plane.execute(f"INSERT INTO image_control.{columns} VALUES {values}")


async def test_it_all_works_on_postgres_16(open_control: OpenControl) -> None:
    with Server(16) as server:
        plane = Plane(server.url)
        plane.create()
        plane.execute(postgres.schema())
        assert (await check(Secret(plane.reader_url))).writable == ()
        plane.add_group("g", image_enabled=True)
        secret = plane.add_key(group_id="g")
        blocked_until = datetime(2030, 1, 1, tzinfo=UTC)
        plane.add_account("a", None, blocked_until=blocked_until, deployments={"m": "d"})
        async with open_control(plane.reader_url) as control:
            key = await known(control, secret)
            account = (await control.grant(key)).accounts["a"]
            assert account.blocked_until == blocked_until
            assert account.deployments == {"m": "d"}
            plane.update("groups", {"group_id": "g"}, image_enabled=False)
            await eventually(lambda: control.heard == ["keys"])
            assert not (await known(control, secret)).group_image_enabled
