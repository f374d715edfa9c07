"""The page for people: whole without a script, alive with one, and nothing on it but text."""

import asyncio
import io
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.async_api import expect

from image_gateway.core.records.builder import Arrival, Asked, Called, RecordBuilder
from image_gateway.core.records.loop_lag import LoopLag
from image_gateway.core.records.phases import Timeline
from image_gateway.core.records.record import AttemptRecord, Record
from image_gateway.core.records.status import (
    AccountView,
    CallsView,
    CallTracker,
    CooldownView,
    Readiness,
    Status,
    WaitingView,
)
from image_gateway.core.routing.ranking import Condition
from image_gateway.ops import page as status_page
from tests.core.builders import Clock, key
from tests.daemon.conftest import Door, make_door
from tests.daemon.test_refusals import PROMPT, Held
from tests.parts.browser import Tab, tab
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream

pytestmark = pytest.mark.slow

BOUND_MS = BOUND_SECONDS * 1000


def root(gateway: Gateway) -> str:
    return f"http://127.0.0.1:{gateway.ops_port}"


def check_quiet(found: Tab, gateway: Gateway) -> None:
    """Nobody was asked but the ops port, and the console has nothing to say."""
    assert found.asked
    assert {url for url in found.asked if url != f"{root(gateway)}/status"} <= {"data:,"}
    assert found.complaints == []


@asynccontextmanager
async def held_call(door: Door, upstream: ScriptedUpstream) -> AsyncIterator[Held]:
    """A call that its upstream has and does not answer before the block ends."""
    upstream.script = held = Held()
    call = asyncio.create_task(door.post(PROMPT))
    try:
        await asyncio.wait_for(held.arrived.acquire(), BOUND_SECONDS)
        yield held
    finally:
        held.let_go.set()
        status, _, _ = await call
    assert status == 200


async def test_without_a_script_the_page_is_whole_and_loads_itself_anew(
    door: Door, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    assert (await door.post(b"{"))[0] == 400
    refused = await door.record(status=400)
    async with held_call(door, upstream), tab(f"{root(gateway)}/status", javascript=False) as found:
        page = found.page
        await expect(page.get_by_role("heading", level=1)).to_have_text("Ready")
        account = page.get_by_role("table", name="Accounts").get_by_role("row", name=door.account)
        await expect(account).to_contain_text("1 / 3")
        await expect(account).to_contain_text("usable")
        call = page.get_by_role("table", name="Calls in flight").get_by_role(
            "row", name=door.key_id
        )
        await expect(call).to_contain_text("upstream")
        await page.get_by_text("Client errors:").click()
        await expect(page.get_by_role("row", name=refused["request_id"])).to_contain_text(
            "invalid_body"
        )
        await expect(page.get_by_role("img", name="Calls per minute")).to_be_visible()
        await expect(page.get_by_role("img", name="Latency")).to_be_visible()
        async with page.expect_navigation(timeout=BOUND_MS):
            pass
        await expect(page.get_by_role("heading", level=1)).to_have_text("Ready")
        check_quiet(found, gateway)


async def test_with_a_script_a_call_comes_and_goes_and_what_is_unfolded_stays_so(
    door: Door, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async with tab(f"{root(gateway)}/status") as found:
        page = found.page
        await expect(page.get_by_role("status")).to_have_text("Live", timeout=BOUND_MS)
        call = page.get_by_role("row", name=door.key_id)
        await expect(call).to_have_count(0)
        await page.evaluate("window.isStillThere = true")
        await page.get_by_text("The same as a table").click()
        async with held_call(door, upstream):
            await expect(call).to_have_count(1, timeout=BOUND_MS)
            await expect(call).to_contain_text(door.account)
        await expect(call).to_have_count(0, timeout=BOUND_MS)
        await expect(page.get_by_text("The same as a table")).to_be_visible()
        figures = page.get_by_role("table", name="Calls and seconds in blocks of five minutes")
        await expect(figures).to_be_visible()
        assert await page.evaluate("window.isStillThere")
        check_quiet(found, gateway)


async def test_it_asks_nothing_while_nobody_looks(gateway: Gateway) -> None:
    async with tab(f"{root(gateway)}/status") as found:
        page = found.page
        await expect(page.get_by_role("status")).to_have_text("Live", timeout=BOUND_MS)
        await page.clock.install()
        await page.evaluate(
            """() => {
                let isHidden = true;
                Object.defineProperty(document, "hidden", { get: () => isHidden });
                window.look = () => {
                    isHidden = false;
                    document.dispatchEvent(new Event("visibilitychange"));
                };
            }"""
        )
        await expect(page.get_by_role("status")).to_contain_text("Paused", timeout=BOUND_MS)
        asked = len(found.asked)
        await page.clock.run_for(60_000)
        assert len(found.asked) == asked
        await page.evaluate("window.look()")
        await expect(page.get_by_role("status")).to_have_text("Live", timeout=BOUND_MS)
        asked = len(found.asked)
        await page.clock.run_for(2_000)
        await eventually(lambda: len(found.asked) > asked)
        check_quiet(found, gateway)


async def test_it_says_so_when_the_gateway_does_not_answer_any_more_and_when_it_does_again(
    make_gateway: Callable[..., Gateway], plane: Plane
) -> None:
    plane.add_account("one", "http://127.0.0.1:9")
    gateway = make_gateway(plane.reader_url).start()
    async with tab(f"{root(gateway)}/status") as found:
        page = found.page
        await expect(page.get_by_role("status")).to_have_text("Live", timeout=BOUND_MS)
        gateway.kill()
        await expect(page.get_by_role("status")).to_contain_text("No answer", timeout=BOUND_MS)
        await expect(page).to_have_title("No answer")
        await expect(page.get_by_role("row", name="one")).to_be_visible()
        gateway.start()
        await expect(page.get_by_role("status")).to_have_text("Live", timeout=BOUND_MS)
    assert gateway.stop() == 0


async def test_state_comes_first_ready_or_why_not_or_how_many_calls_are_left(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    async with tab(f"{root(gateway)}/status") as found:
        page, state = found.page, found.page.get_by_role("heading", level=1)
        await expect(state).to_have_text("Not ready")
        await expect(page.get_by_text("no account is usable")).to_be_visible()
        door = make_door(gateway, plane, upstream)
        await expect(state).to_have_text("Ready", timeout=BOUND_MS)
        async with held_call(door, upstream):
            assert gateway.process is not None
            gateway.process.terminate()
            await expect(state).to_have_text("Draining, 1 call left", timeout=BOUND_MS)
    assert gateway.wait() == 0


async def test_on_a_phone_the_page_is_no_wider_than_the_phone(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    plane.add_account("a-name-" * 12, upstream.url)
    door = make_door(gateway, plane, upstream, account_names=None)
    plane.update("keys", {"key_id": door.key_id}, key_id="key-" * 30)
    assert (await door.post(b"{"))[0] == 400
    async with (
        held_call(door, upstream),
        tab(f"{root(gateway)}/status", size=(320, 640), dark=True) as found,
    ):
        page = found.page
        await expect(page.get_by_role("row", name="key-key-")).to_have_count(1, timeout=BOUND_MS)
        await page.evaluate("document.querySelectorAll('details').forEach((it) => it.open = true)")
        width, inner = await page.evaluate(
            "[document.scrollingElement.scrollWidth, window.innerWidth]"
        )
        assert width <= inner == 320
        wide = await page.evaluate(
            "[...document.querySelectorAll('.scroll')].some((one) => one.scrollWidth > 320)"
        )
        assert wide, "no table was wide enough to prove anything"
        await page.screenshot(path=tmp_path / "phone.png", full_page=True)
        check_quiet(found, gateway)
    assert gateway.stop() == 0


async def test_it_is_light_by_day_and_dark_by_night(gateway: Gateway, tmp_path: Path) -> None:
    shades = []
    for name in ("light", "dark"):
        async with tab(f"{root(gateway)}/status", dark=name == "dark") as found:
            taken = await found.page.screenshot(path=tmp_path / f"{name}.png")
        picture = Image.open(io.BytesIO(taken)).convert("L")
        histogram = picture.histogram()
        seen = [shade for shade, count in enumerate(histogram) if count]
        assert seen[-1] - seen[0] > 150, f"{name} is blank"
        shades.append(histogram.index(max(histogram)))
    assert shades[0] > 230
    assert shades[1] < 40


async def test_no_other_script_runs_on_it(gateway: Gateway) -> None:
    async with tab(f"{root(gateway)}/status") as found:
        await found.page.evaluate(
            """() => {
                const script = document.createElement("script");
                script.textContent = "window.isOwned = true";
                document.body.append(script);
                document.body.setAttribute("onclick", "window.isOwned = true");
                document.body.click();
            }"""
        )
        assert await found.page.evaluate("window.isOwned") is None
        assert any("policy: script-src" in each for each in found.complaints)


async def test_hostile_names_are_shown_as_they_are(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream
) -> None:
    hostile = "<script>document.title='owned'</script>"
    model = "<img src=x onerror=alert(1)>"
    plane.add_account(hostile, upstream.url, deployments={model: "gpt-image-2"})
    key_id = f'"><b id=owned>{secrets.token_hex(4)}</b>'
    secret = plane.add_key(key_id=key_id)
    gateway = make_gateway(plane.reader_url).start()
    upstream.script = held = Held()
    door = Door(gateway, plane, key_id, secret, hostile)
    body = json.dumps({"prompt": "a cat", "model": model}).encode()
    call = asyncio.create_task(door.post(body))
    await asyncio.wait_for(held.arrived.acquire(), BOUND_SECONDS)
    async with tab(f"{root(gateway)}/status") as found:
        page = found.page
        for text in (hostile, key_id, model):
            await expect(page.get_by_text(text).first).to_be_visible(timeout=BOUND_MS)
        await expect(page.get_by_role("status")).to_have_text("Live", timeout=BOUND_MS)
        for text in (hostile, key_id, model):
            await expect(page.get_by_text(text).first).to_be_visible()
        assert await page.locator("#owned, main script, main img").count() == 0
        assert "Ready" in await page.title()
        check_quiet(found, gateway)
    held.let_go.set()
    assert (await call)[0] == 200
    assert gateway.stop() == 0


# -- as text ---------------------------------------------------------------------------------------


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))


def coming(now: datetime, request_id: str = "req_1", **facts: Any) -> RecordBuilder:
    """A request that has come, with these facts of its head."""
    return RecordBuilder(Arrival(now, request_id, **facts), Timeline(Clock()))


def drawn(word: str) -> str:
    """A page in which ``word`` stands wherever a text from outside can."""
    now = datetime(2026, 11, 21, 21, 4, tzinfo=UTC)
    board = CallTracker()
    for status, source in ((502, "upstream"), (400, "client")):
        record = Record(
            now, word, status=status, error_code=word, error_source=source, account_name=word
        )
        board.end(board.begin(coming(now)), record, now)
    call = coming(now, word, endpoint=word)
    call.key, call.asked = key(key_id=word), Asked(model=word)
    call.attempt(AttemptRecord(word, word), Called(word))
    board.begin(call)
    account = AccountView(
        word,
        word,
        Condition.FAILING,
        1,
        3,
        True,
        5.0,
        None,
        CooldownView(now, 429, word),
        1,
        3,
        now,
    )
    told = Readiness(False, (word,), word, word, True, True, 1.0, True, 1.0)
    return shown(board, now, told, account)


def shown(board: CallTracker, now: datetime, told: Readiness, *accounts: AccountView) -> str:
    """The page with what a board tells."""
    return status_page.page(
        Status(
            now,
            now,
            told,
            accounts,
            WaitingView(1, 2.0),
            board.in_flight(),
            CallsView(1, 2, 3, 4, 5),
            0,
            LoopLag(0.25, "read", "image_gateway.core"),
            0,
            board.last_hour(now),
            board.errors(),
            board.client_errors(),
        )
    ).decode()


def test_an_account_that_fails_says_how_often() -> None:
    assert "<small>3 failures in a row</small>" in drawn("word")


@pytest.mark.parametrize(
    ("others", "note"),
    [
        (0, "<dd>2<small>image calls in the last hour</small>"),
        (3, "<dd>2<small>image calls in the last hour, 3 requests for other things</small>"),
    ],
)
def test_text_lists_and_polls_are_no_pictures_that_were_served(others: int, note: str) -> None:
    now = datetime(2026, 11, 21, 21, 4, tzinfo=UTC)
    board = CallTracker()
    for source in ["made", "joined", *[None] * others]:
        call = board.begin(coming(now))
        record = Record(now, "req_1", status=200, total_ms=1000, call_source=source)
        board.end(call, record, now)
    told = Readiness(True, (), "1", "one", True, True, 1.0, True, 1.0)
    assert f"<dt>Served</dt>{note}" in shown(board, now, told)


@pytest.mark.parametrize("word", ["<script>x</script>", '" onload="x', "' autofocus '", "{style}"])
def test_no_text_from_outside_makes_a_tag_or_an_attribute(word: str) -> None:
    plain, hostile = _Tags(), _Tags()
    plain.feed(drawn("plain"))
    text = drawn(word)
    hostile.feed(text)
    assert hostile.found == plain.found
    assert text.count(word) == 0 or word == "{style}"
