"""What becomes of a call that is kept, as two processes of one folder see it."""

import asyncio
import dataclasses
import os
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from image_gateway.core.calls.model import CallState
from image_gateway.core.codec.body_segments import Encoded, Span
from image_gateway.edge.file_span import FileSpan
from image_gateway.edge.kept.call import KeptCall
from image_gateway.edge.kept.store import MOST_FOUND, KeptCalls
from image_gateway.edge.spool import JoinedBody, Spools
from tests.edge.kept.parts import (
    HEADERS,
    KEY,
    NOW,
    Clock,
    answer,
    bytes_of,
    files,
    identity,
    is_found,
    joined,
    keep,
    one,
    open_files,
    tag,
)
from tests.parts.eventually import eventually

Stores = tuple[KeptCalls, KeptCalls]
MIB = 1024 * 1024


# -- from its start to its end ---------------------------------------------------------------------


async def test_a_call_runs_until_it_ends_for_its_own_process_and_for_others(
    stores: Stores, clock: Clock
) -> None:
    call = identity(name=tag("name"))
    with await stores[0].begin(call) as working:
        for store in stores:
            entry = await one(store, call)
            assert entry.identity == call
            assert (entry.state, entry.ended_at, entry.status) == (CallState.RUNNING, None, None)
            assert entry.has_clients
            assert not entry.was_left
        clock.now += 5
        await working.end(CallState.MADE, 200, HEADERS, b"picture")
        for store in stores:
            entry = await one(store, call)
            assert (entry.state, entry.ended_at) == (CallState.MADE, NOW + 5)
            assert (entry.status, entry.headers, entry.length) == (200, HEADERS, 7)
            assert entry.has_clients, "it is being sent its answer"
            assert await bytes_of(entry) == b"picture"


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 3 * MIB + 17], ids=str)
async def test_an_answer_of_bytes_is_kept(stores: Stores, size: int) -> None:
    await keep(stores[0], identity(), answer(size))
    assert await bytes_of(await one(stores[1], identity())) == answer(size)


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 3 * MIB + 17], ids=str)
async def test_an_answer_of_segments_in_spools_is_kept(
    stores: Stores, tmp_path: Path, size: int
) -> None:
    with (
        Spools(tmp_path, 1 << 30, 1 << 30) as spools,
        spools.open() as first,
        spools.open() as second,
    ):
        for start in range(0, size, 300_000):
            await first.write(answer(min(300_000, size - start), start))
        await second.write(b"second")
        span = Span(0, size)
        body = JoinedBody(
            (
                first.hold((b'{"data":"', span, b'",', Encoded(span))),
                second.hold((Span(1, 4), b"}")),
            )
        )
        with await stores[0].begin(identity()) as working:
            await working.end(CallState.MADE, 200, HEADERS, body)
        expected = await joined(body.play())
    entry = await one(stores[1], identity())
    assert entry.length == len(expected)
    assert await bytes_of(entry) == expected


@pytest.mark.parametrize("state", [state for state in CallState if state != "running"], ids=str)
async def test_each_way_to_end_is_kept(stores: Stores, state: CallState) -> None:
    await keep(stores[0], identity(), state=state)
    assert (await one(stores[1], identity())).state is state


async def test_a_call_without_an_end_that_nobody_works_on_has_an_unknown_outcome(
    stores: Stores, clock: Clock
) -> None:
    (await stores[0].begin(identity())).close()
    clock.now += 7
    entry = await one(stores[1], identity())
    assert (entry.state, entry.status, entry.length) == (CallState.UNKNOWN, None, 0)
    assert entry.was_left
    assert entry.ended_at == NOW + 7
    clock.now += 7
    entry = await one(stores[0], identity())
    assert entry.ended_at == NOW + 7, "its end is when it was first seen, for everybody"


async def test_an_abandoned_call_leaves_nothing(stores: Stores, keep_dir: Path) -> None:
    working = await stores[0].begin(identity(name=tag("name")))
    await working.abandon()
    assert not working.is_kept
    assert not await is_found(stores[1], identity())
    assert files(keep_dir) == []


# -- its client ------------------------------------------------------------------------------------


NOTED: list[Callable[[KeptCall], Coroutine[Any, Any, None]]] = [
    KeptCall.note_sent,
    KeptCall.note_delivered,
]


@pytest.mark.parametrize("note", NOTED, ids=["sent", "delivered"])
async def test_a_client_that_was_served_did_not_leave(
    stores: Stores, note: Callable[[KeptCall], Coroutine[Any, Any, None]]
) -> None:
    with await stores[0].begin(identity()) as working:
        await working.end(CallState.MADE, 200, HEADERS, b"picture")
        await note(working)
        seen = [await one(stores[1], identity())]
    seen.append(await one(stores[1], identity()))
    for entry in seen:
        assert entry.was_sent
        assert entry.was_delivered == (note is KeptCall.note_delivered)
        assert not entry.was_left
        assert not entry.has_clients


async def test_a_call_of_many_clients_stays_kept(stores: Stores, keep_dir: Path) -> None:
    with await stores[0].begin(identity()) as working:
        for _ in range(10_000):
            await working.note_sent()
        assert working.is_kept
    text = (keep_dir / "calls" / identity().call_id).read_bytes()
    assert text.count(b'"sent"') == 1


async def test_a_client_that_leaves_is_gone_while_the_call_goes_on(stores: Stores) -> None:
    with await stores[0].begin(identity()) as working:
        working.note_left()
        entry = await one(stores[1], identity())
        assert (entry.state, entry.was_left) == (CallState.RUNNING, True)
        await working.end(CallState.MADE, 200, HEADERS, b"picture")
        assert (await one(stores[1], identity())).was_left


async def test_a_client_whose_process_ends_before_it_is_served_is_gone(stores: Stores) -> None:
    """The kernel frees the locks of a killed process, as it does here."""
    await keep(stores[0], identity(), sent=False)
    entry = await one(stores[1], identity())
    assert (entry.state, entry.was_left) == (CallState.MADE, True)


async def test_what_others_note_is_seen_by_all(stores: Stores) -> None:
    await keep(stores[0], identity(), sent=False)
    entry = await one(stores[1], identity())
    assert not entry.told_repeated
    await entry.note_told()
    await entry.note_delivered()
    entry = await one(stores[0], identity())
    assert (entry.told_repeated, entry.was_delivered, entry.was_left) == (True, True, False)


# -- found -----------------------------------------------------------------------------------------


async def test_a_call_is_found_by_its_fingerprint_its_name_and_its_id(stores: Stores) -> None:
    call = identity(name=tag("name"))
    await keep(stores[0], call)
    assert (await one(stores[1], call)).identity == call
    every: dict[str, Any] = {"fingerprint": call.fingerprint, "name": call.name}
    for by in ({"fingerprint": call.fingerprint}, {"name": call.name}, every):
        assert [entry.identity for entry in await stores[1].find(KEY, **by)] == [call]
    assert await stores[1].find(KEY, fingerprint=tag("x"), name=tag("y")) == []
    assert await stores[1].call(KEY, "call_z") is None


async def test_others_see_how_far_a_call_with_an_id_is(stores: Stores) -> None:
    call = identity(has_id=True)
    with await stores[0].begin(call) as working:
        entry = await one(stores[1], call)
        assert (entry.was_asked, entry.gave_id, entry.was_left) == (False, False, False)
        await working.note_given()
        await working.note_asked()
        entry = await one(stores[1], call)
        assert (entry.was_asked, entry.gave_id, entry.was_left) == (True, True, False)
    assert not (await one(stores[1], call)).was_left
    plain = identity()
    with await stores[0].begin(plain):
        assert (await one(stores[1], plain)).was_asked


async def test_an_id_is_given_by_another_process_too(stores: Stores) -> None:
    call = identity(has_id=True)
    await keep(stores[0], call, sent=False)
    entry = await one(stores[1], call)
    assert (entry.gave_id, entry.was_left) == (False, True)
    await entry.note_given()
    entry = await one(stores[1], call)
    assert (entry.gave_id, entry.was_left) == (True, False)


async def test_what_is_forgotten_while_it_is_made_is_not_kept(
    stores: Stores, keep_dir: Path
) -> None:
    call = identity(has_id=True)
    with await stores[0].begin(call) as working:
        await working.forget()
        assert not await is_found(stores[1], call)
        await working.end(CallState.MADE, 200, HEADERS, b"picture")
    assert not await is_found(stores[1], call)
    assert files(keep_dir) == []


async def test_a_call_without_a_fingerprint_is_found_by_its_id(stores: Stores) -> None:
    call = identity(fingerprint="")
    await keep(stores[0], call)
    assert await is_found(stores[1], call)


async def test_another_key_finds_nothing(stores: Stores) -> None:
    call = identity(name=tag("name"))
    await keep(stores[0], call)
    other = tag("another key")
    assert await stores[1].find(other, fingerprint=call.fingerprint, name=call.name) == []
    assert await stores[1].call(other, call.call_id) is None
    assert await stores[1].of_key(other, 10) == []
    assert not await stores[1].has_any(other)


@pytest.mark.parametrize(
    "call_id",
    ["", ".", "..", "../calls/x", "x/../x", "call_\0", "call_1\n", "c" * 300, "ä", "/etc/passwd"],
    ids=["empty", "dot", "up", "path", "inner", "nul", "line", "long", "letter", "absolute"],
)
async def test_a_clients_own_text_as_an_id_finds_nothing(stores: Stores, call_id: str) -> None:
    assert await stores[0].call(KEY, call_id) is None
    assert stores[0].lost == 0


async def test_the_newest_calls_come_first_and_not_too_many(stores: Stores) -> None:
    calls = [identity(number, fingerprint=tag("same")) for number in range(MOST_FOUND + 6)]
    for call in sorted(calls, key=lambda call: tag(call.call_id)):  # in no order of theirs
        await keep(stores[0], call)
    found = await stores[1].find(KEY, fingerprint=tag("same"))
    newest = list(reversed(calls))
    assert [entry.identity for entry in found] == newest[:MOST_FOUND]
    assert [entry.identity for entry in await stores[1].of_key(KEY, 3)] == newest[:3]
    assert await stores[1].has_any(KEY)


async def test_an_answer_that_nobody_got_is_found_behind_many_that_were_sent(
    stores: Stores,
) -> None:
    """What a look-up saw as sent is left out of the next ones before they are cut off."""
    lost, *served = [identity(number, fingerprint=tag("same")) for number in range(MOST_FOUND + 6)]
    await keep(stores[0], lost, sent=False)
    for call in served:
        await keep(stores[0], call)
    first, second = [
        await stores[1].find(KEY, fingerprint=tag("same"), with_served=False) for _ in range(2)
    ]
    assert lost not in [entry.identity for entry in first]
    assert [entry.identity for entry in second] == [*reversed(served[:5]), lost]
    assert len(await stores[1].find(KEY, fingerprint=tag("same"))) == MOST_FOUND


@pytest.mark.parametrize(
    "changes",
    [{"call_id": "../x"}, {"key_tag": "no hex"}, {"fingerprint": "../" + tag("")}, {"name": ""}],
    ids=["call_id", "key_tag", "fingerprint", "name"],
)
async def test_an_identity_that_fits_no_file_name_is_an_error_of_the_caller(
    stores: Stores, keep_dir: Path, changes: dict[str, Any]
) -> None:
    odd = dataclasses.replace(identity(), **changes)
    with pytest.raises(ValueError, match="does not fit"):
        await stores[0].begin(odd)
    assert files(keep_dir) == []
    assert open_files(keep_dir) == []


# -- waited for ------------------------------------------------------------------------------------


async def test_who_waits_for_a_call_gets_what_it_made(stores: Stores) -> None:
    working = await stores[0].begin(identity())
    waiting = asyncio.create_task((await one(stores[1], identity())).wait(600))
    assert await eventually(lambda: open_files_of_waiters(stores))
    await working.end(CallState.MADE, 200, HEADERS, b"picture")
    async with asyncio.timeout(20):
        entry = await waiting
    assert entry is not None
    assert entry.has_clients, "its own client is still being sent the answer"
    working.close()
    assert (entry.state, await bytes_of(entry)) == (CallState.MADE, b"picture")


def open_files_of_waiters(stores: Stores) -> bool:
    """The journal is open twice: by who works on the call, and by who waits for it."""
    return len(open_files(stores[0]._folder.path)) == 2


async def test_who_waits_is_a_client_that_others_see(stores: Stores) -> None:
    with await stores[0].begin(identity()) as working:
        working.note_left()
        waiting = asyncio.create_task((await one(stores[1], identity())).wait(60))
        await eventually(lambda: one_has_clients(stores))
        waiting.cancel()
        await asyncio.wait([waiting])
        assert not (await one(stores[0], identity())).has_clients


async def one_has_clients(stores: Stores) -> bool:
    return (await one(stores[0], identity())).has_clients


async def test_a_wait_that_is_over_gives_the_call_as_it_is(stores: Stores) -> None:
    with await stores[0].begin(identity()):
        entry = await (await one(stores[1], identity())).wait(0.01)
        assert entry is not None
        assert entry.state is CallState.RUNNING


async def test_who_waits_for_a_call_that_is_abandoned_or_forgotten_gets_nothing(
    stores: Stores,
) -> None:
    for number in (1, 2):
        working = await stores[0].begin(identity(number))
        entry = await one(stores[1], identity(number))
        waiting = asyncio.create_task(entry.wait(600))
        await eventually(lambda: open_files_of_waiters(stores))
        await (working.abandon() if number == 1 else entry.forget())
        async with asyncio.timeout(20):
            assert await waiting is None, "though its process works on"
        working.close()


# -- claimed ---------------------------------------------------------------------------------------


async def test_of_two_requests_one_takes_a_call_over(stores: Stores) -> None:
    await keep(stores[0], identity(), sent=False)
    first, second = [await one(store, identity()) for store in stores]
    claim = await first.try_claim()
    assert claim is not None
    with claim:
        assert await second.try_claim() is None
        assert await first.try_claim() is None, "not even in one process"
        assert (await one(stores[1], identity())).is_claimed
    entry = await one(stores[1], identity())
    assert not entry.is_claimed
    again = await entry.try_claim()
    assert again is not None
    again.release()


async def test_a_claim_shows_what_an_earlier_one_delivered(stores: Stores) -> None:
    await keep(stores[0], identity(), sent=False)
    first, second = [await one(store, identity()) for store in stores]
    claim = await first.try_claim()
    assert claim is not None
    await first.note_delivered()
    claim.release()
    assert not second.was_delivered, "it was seen before"
    claim = await second.try_claim()
    assert claim is not None
    assert claim.entry.was_delivered
    claim.release()


async def test_a_running_call_can_be_claimed(stores: Stores) -> None:
    with await stores[0].begin(identity()) as working:
        working.note_left()
        claim = await (await one(stores[1], identity())).try_claim()
        assert claim is not None
        with claim:
            assert claim.entry.state is CallState.RUNNING
            assert (await one(stores[0], identity())).is_claimed


async def test_what_was_forgotten_cannot_be_claimed(stores: Stores) -> None:
    await keep(stores[0], identity(), sent=False)
    entry = await one(stores[1], identity())
    await entry.forget()
    assert await entry.try_claim() is None


# -- forgotten -------------------------------------------------------------------------------------


async def test_a_call_is_forgotten_for_everybody_at_once(stores: Stores, keep_dir: Path) -> None:
    call = identity(name=tag("name"))
    await keep(stores[0], call)
    entry = await one(stores[1], call)
    assert await entry.forget()
    assert not await entry.forget(), "it was there once"
    assert files(keep_dir) == []
    for store in stores:
        assert not await is_found(store, call)
    assert await entry.open_answer() is None
    await entry.note_delivered()
    assert files(keep_dir) == []


@pytest.mark.parametrize("left", [None, b"", b"half"], ids=["nothing", "empty", "half"])
async def test_a_call_whose_answer_is_gone_is_forgotten(
    stores: Stores, keep_dir: Path, left: bytes | None
) -> None:
    """A power loss may leave a journal without its answer; nobody must look for it for ever."""
    await keep(stores[0], identity())
    path = keep_dir / "answers" / identity().call_id
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    entry = await one(stores[1], identity())
    assert await entry.open_answer() is None
    assert files(keep_dir) == []


@pytest.mark.parametrize("size", [100, 2 * MIB], ids=["small", "large"])
async def test_the_answer_of_a_call_that_was_forgotten_while_it_ran_is_not_kept(
    stores: Stores, keep_dir: Path, tmp_path: Path, size: int
) -> None:
    with Spools(tmp_path, 1 << 30, 1 << 30) as spools, spools.open() as spool:
        await spool.write(answer(size))
        with await stores[0].begin(identity()) as working:
            assert not await working.is_forgotten()
            await (await one(stores[1], identity())).forget()
            assert await working.is_forgotten()
            await working.end(CallState.MADE, 200, HEADERS, spool.whole())
            await working.note_delivered()
    assert files(keep_dir) == []
    assert stores[0].lost == 0


async def test_an_answer_that_is_being_read_stays_readable(stores: Stores) -> None:
    await keep(stores[0], identity(), answer(MIB))
    entry = await one(stores[1], identity())
    opened = await entry.open_answer()
    assert opened is not None
    with opened:
        assert (await one(stores[0], identity())).has_clients
        await entry.forget()
        assert await joined(opened.play()) == answer(MIB)
        assert await joined(opened.play()) == answer(MIB), "any number of times"
        [span] = [part async for part in opened.outgoing()]
        assert isinstance(span, FileSpan)
        assert (span.start, span.stop) == (0, opened.length)
        assert await joined(span.play()) == answer(MIB)


# -- private ---------------------------------------------------------------------------------------


async def test_only_the_owner_can_read_what_is_kept(stores: Stores, keep_dir: Path) -> None:
    before = os.umask(0)
    try:
        await keep(stores[0], identity(name=tag("name")), answer(2 * MIB))
    finally:
        os.umask(before)
    for path in [keep_dir, *keep_dir.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert len(files(keep_dir)) == 5


async def test_no_descriptor_is_left_open(stores: Stores, keep_dir: Path) -> None:
    call = identity(name=tag("name"))
    await keep(stores[0], call)
    entry = await one(stores[1], call)
    assert await bytes_of(entry) == b"picture"
    claim = await entry.try_claim()
    assert claim is not None
    claim.release()
    claim.release()
    await entry.wait(0)
    await entry.note_told()
    await entry.forget()
    assert open_files(keep_dir) == []
