"""An outage that begins right after a change: what goes on, and what is never served stale.

What a change concerns is not read anew by itself here: nobody gets to it before the outage.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator

import pytest

from image_gateway.core.model import Key
from image_gateway.edge.postgres import cache, control_plane
from image_gateway.edge.postgres.cache import (
    AWAY_SECONDS,
    Entry,
    Freshness,
    Outage,
    UnavailableError,
)
from image_gateway.edge.postgres.control_plane import ControlPlane
from tests.edge.conftest import MAX_STALE_SECONDS, TTL_SECONDS, Attentive, Clock, OpenControl
from tests.edge.relay import Relay
from tests.edge.server import Toll
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.plane import Plane

GENERAL = ["", "keys", "accounts", "something else"]


@pytest.fixture
def slow_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_plane, "REFRESH_SECONDS", 3600)


@pytest.fixture
def toll(plane: Plane) -> Iterator[Toll]:
    with Toll(plane) as made:
        yield made


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


async def known(control: ControlPlane, secret: str) -> Key:
    key = await control.key(secret)
    assert key is not None
    return key


async def tell(plane: Plane, control: Attentive, payload: str) -> None:
    """Send a notification and wait until it was acted on."""
    control.heard.clear()
    plane.execute("SELECT pg_notify('image_gateway_changed', %(it)s)", {"it": payload})
    await eventually(lambda: payload in control.heard)


@pytest.mark.usefixtures("slow_refresh")
@pytest.mark.parametrize("payload", GENERAL)
async def test_what_is_known_outlives_an_outage_that_begins_with_a_general_notification(
    plane: Plane, open_control: OpenControl, clock: Clock, payload: str
) -> None:
    secret = plane.add_key()
    plane.add_account("a", None)
    async with (
        Relay(plane.reader_url) as relay,
        open_control(relay.url, plane.reader_url) as control,
    ):
        key = await known(control, secret)
        grant = await control.grant(key)
        relay.cut()
        await tell(plane, control, payload)
        assert await control.key(secret) == key
        assert await control.grant(key) == grant
        assert set(control.known_accounts()[0]) == {"a"}
        clock.turn_on(MAX_STALE_SECONDS - BOUND_SECONDS)
        assert await control.key(secret) == key
        assert await control.grant(key) == grant
        clock.turn_on(BOUND_SECONDS)
        with pytest.raises(UnavailableError):
            await control.key(secret)
        with pytest.raises(UnavailableError):
            await control.grant(key)


@pytest.mark.usefixtures("slow_refresh")
async def test_a_key_that_was_named_is_never_served_stale_and_the_others_go_on(
    plane: Plane, open_control: OpenControl, clock: Clock
) -> None:
    named, other = plane.add_key(key_id="named"), plane.add_key()
    plane.add_account("a", None)
    async with (
        Relay(plane.reader_url) as relay,
        open_control(relay.url, plane.reader_url) as control,
    ):
        await known(control, named)
        key = await known(control, other)
        grant = await control.grant(key)
        relay.cut()
        plane.update("keys", {"key_id": "named"}, status="disabled")
        await eventually(lambda: f"key:{hash_of(named)}" in control.heard)
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await control.key(named)
            assert await control.key(other) == key
            assert await control.grant(key) == grant
            # A general notification brings nothing back.
            await tell(plane, control, "")
        await relay.open()
        clock.turn_on(AWAY_SECONDS)
        assert (await known(control, named)).status == "disabled"


@pytest.mark.usefixtures("slow_refresh")
async def test_an_account_that_was_named_serves_no_call_and_the_others_go_on(
    plane: Plane, open_control: OpenControl, clock: Clock
) -> None:
    secret = plane.add_key()
    plane.add_account("named", None)
    plane.add_account("other", None)
    async with (
        Relay(plane.reader_url) as relay,
        open_control(relay.url, plane.reader_url) as control,
    ):
        key = await known(control, secret)
        before = (await control.grant(key)).accounts
        assert before["named"].status == "active"
        relay.cut()
        plane.update("accounts", {"account_name": "named"}, status="off")
        await eventually(lambda: "account:named" in control.heard)
        for _ in range(2):
            accounts = (await control.grant(key)).accounts
            assert accounts["other"] == before["other"]
            assert accounts["named"].status != "active"
            assert accounts["named"].credential is None
            assert control.known_accounts()[0] == {"other": before["other"]}
            again = await control.reread("named", clock.monotonic())
            assert again == accounts["named"], "no credential from before the change"
            assert await control.key(secret) == key
            # A general notification brings nothing back.
            await tell(plane, control, "")
        assert before["named"].status == "active", "a request works on one snapshot to its end"
        await relay.open()
        clock.turn_on(AWAY_SECONDS)
        await tell(plane, control, "accounts")
        accounts = (await control.grant(key)).accounts
        assert accounts["named"].status == "off"
        assert accounts["named"].credential is not None


@pytest.mark.usefixtures("slow_refresh")
async def test_an_account_that_nobody_knows_is_named_without_harm(
    plane: Plane, open_control: OpenControl
) -> None:
    plane.add_account("a", None)
    async with (
        Relay(plane.reader_url) as relay,
        open_control(relay.url, plane.reader_url) as control,
    ):
        await tell(plane, control, "account:nobody")
        accounts = await control.accounts()
        relay.cut()
        await tell(plane, control, "account:nobody")
        assert await control.accounts() == accounts


@pytest.mark.usefixtures("slow_refresh")
@pytest.mark.parametrize("payload", ["accounts", "account:a"])
async def test_what_began_to_be_read_before_a_general_notification_is_a_last_resort_only(
    plane: Plane, toll: Toll, open_control: OpenControl, payload: str
) -> None:
    """And before one that named an account not even that."""
    plane.add_account("a", None)
    async with (
        Relay(plane.reader_url) as relay,
        open_control(relay.url, plane.reader_url) as control,
    ):
        with toll.shut("accounts"):
            early = asyncio.create_task(control.accounts())
            await eventually(lambda: toll.held() == 1)
            await tell(plane, control, payload)
        assert set(await early) == {"a"}
        toll.paid()
        late = await control.accounts()
        assert toll.paid() == {"accounts": 1}, "it is not fresh"
        with toll.shut("accounts"):
            await tell(plane, control, "accounts")
            early = asyncio.create_task(control.accounts())
            await eventually(lambda: toll.held() == 1)
            await tell(plane, control, payload)
        await early
        relay.cut()
        accounts = await control.accounts()
        assert (accounts == late) is (payload == "accounts")
        assert accounts["a"].status == ("active" if payload == "accounts" else "changed")


@pytest.mark.usefixtures("slow_refresh")
async def test_what_began_to_be_read_first_is_a_last_resort_where_nothing_else_is_known(
    plane: Plane, toll: Toll, open_control: OpenControl
) -> None:
    plane.add_account("a", None)
    async with (
        Relay(plane.reader_url) as relay,
        open_control(relay.url, plane.reader_url) as control,
    ):
        with toll.shut("accounts"):
            early = asyncio.create_task(control.accounts())
            await eventually(lambda: toll.held() == 1)
            await tell(plane, control, "accounts")
        accounts = await early
        relay.cut()
        assert await control.accounts() == accounts
        await tell(plane, control, "account:a")
        assert (await control.accounts())["a"].status == "changed"


class Source:
    """Loads that a test answers."""

    def __init__(self) -> None:
        self.loads: list[asyncio.Future[str]] = []
        self.entry = Entry(self._load, Freshness(TTL_SECONDS, MAX_STALE_SECONDS), Outage())

    def _load(self) -> asyncio.Future[str]:
        self.loads.append(asyncio.get_running_loop().create_future())
        return self.loads[-1]

    async def ask(self) -> "asyncio.Task[str]":
        """Somebody who waits for a load of his own."""
        number = len(self.loads)
        asked = asyncio.create_task(self.entry.get())
        await eventually(lambda: len(self.loads) > number)
        return asked


async def test_an_older_answer_that_comes_late_replaces_no_newer_one() -> None:
    source = Source()
    early = await source.ask()
    source.entry.expire()
    late = await source.ask()
    source.loads[1].set_result("new")
    assert await late == "new"
    source.loads[0].set_result("old")
    assert await early == "old"
    assert await source.entry.get() == "new"


@pytest.mark.parametrize(
    ("change", "left"),
    [(Entry.expire, "newer"), (Entry.drop, None), (lambda it: it.revise(str.upper), "OLD")],
    ids=["expire", "drop", "revise"],
)
async def test_what_is_left_after_a_change_that_came_during_a_load(
    change: Callable[[Entry[str]], None], left: str | None
) -> None:
    source = Source()
    first = await source.ask()
    source.loads[0].set_result("old")
    await first
    source.entry.expire()
    early = await source.ask()
    change(source.entry)
    source.loads[1].set_result("newer")
    assert await early == "newer", "who asked before the change may see what was then"
    known = source.entry.peek()
    assert (known and known[0]) == left
    late = await source.ask()
    source.loads[2].set_exception(UnavailableError())
    if left is None:
        with pytest.raises(UnavailableError):
            await late
    else:
        assert await late == left


@pytest.mark.usefixtures("slow_refresh")
@pytest.mark.parametrize("payload", ["", "keys", "accounts", "account:a"])
async def test_a_notification_ends_an_outage_that_nobody_saw_the_end_of(
    plane: Plane, open_control: OpenControl, clock: Clock, payload: str
) -> None:
    """What changed acts at once, although the last look-up had failed."""
    secret = plane.add_key(key_id="k")
    plane.add_account("a", None)
    plane.add_account("b", None)
    async with (
        Relay(plane.reader_url) as relay,
        open_control(relay.url, plane.reader_url) as control,
    ):
        key = await known(control, secret)
        await control.grant(key)
        relay.cut()
        clock.turn_on(TTL_SECONDS)
        assert await known(control, secret) == key
        assert control.is_away
        await relay.open()
        clock.turn_on(AWAY_SECONDS)
        plane.execute(
            "ALTER TABLE image_control.keys DISABLE TRIGGER USER;"
            "ALTER TABLE image_control.accounts DISABLE TRIGGER USER"
        )
        plane.update("keys", {"key_id": "k"}, key_name="new")
        plane.execute("UPDATE image_control.accounts SET status = 'off'")
        await tell(plane, control, payload)
        if "accounts" not in payload and "account:" not in payload:
            assert (await known(control, secret)).key_name == "new"
        if payload != "keys":
            found = {each.status for each in (await control.grant(key)).accounts.values()}
            assert found == {"off"}


@pytest.mark.usefixtures("slow_refresh")
async def test_notifications_in_an_outage_cost_known_keys_no_wait(
    plane: Plane, open_control: OpenControl, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LISTEN hears, and no look-up is answered: that is tried once in ``AWAY_SECONDS``."""
    monkeypatch.setattr(cache, "AWAY_SECONDS", MAX_STALE_SECONDS)
    secret = plane.add_key()
    plane.add_account("a", None)
    async with (
        Relay(plane.reader_url) as relay,
        open_control(relay.url, plane.reader_url) as control,
    ):
        key = await known(control, secret)
        grant = await control.grant(key)
        relay.cut()
        clock.turn_on(TTL_SECONDS)
        assert await control.key(secret) == key
        for payload in GENERAL:
            control.changed(payload)
            for asked in (control.key(secret), control.grant(key)):
                task = asyncio.ensure_future(asked)
                await asyncio.sleep(0)
                assert task.done(), "it waited"
                assert task.result() in (key, grant)


async def test_a_key_that_is_named_while_it_is_looked_up_is_read_anew_by_itself(
    plane: Plane, toll: Toll, open_control: OpenControl
) -> None:
    secret = plane.add_key(key_id="k", key_name="old")
    async with open_control(plane.reader_url) as control:
        with toll.shut("keys"):
            early = asyncio.create_task(known(control, secret))
            await eventually(lambda: toll.held() == 1)
            plane.update("keys", {"key_id": "k"}, key_name="new")
            await eventually(lambda: control.heard)
        assert (await early).key_name == "old"
        await eventually(lambda: repr(control) == "<ControlPlane 1 keys, listening=True>")
        toll.paid()
        assert (await known(control, secret)).key_name == "new"
        assert toll.paid() == {}


@pytest.mark.usefixtures("slow_refresh")
async def test_a_look_up_whose_key_was_named_meanwhile_shows_that_keys_can_be_read(
    plane: Plane, toll: Toll, open_control: OpenControl
) -> None:
    secret = plane.add_key(key_id="k")
    async with (
        Relay(plane.reader_url) as relay,
        open_control(relay.url, plane.reader_url) as control,
    ):
        with toll.shut("keys"):
            early = asyncio.create_task(known(control, secret))
            await eventually(lambda: toll.held() == 1)
            await tell(plane, control, f"key:{hash_of(secret)}")
        await early
        relay.cut()
        assert await control.keys_can_be_read()
