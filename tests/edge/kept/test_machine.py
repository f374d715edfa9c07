"""Two processes' views of one folder against a model: what the model says is found is found.

The views are in one process, which makes no difference: locks belong to one opening of a file.
"""

import asyncio
import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from image_gateway.core.calls.model import CallIdentity, CallState
from image_gateway.edge.kept.call import KeptCall
from image_gateway.edge.kept.entry import Claim, KeptAnswer, KeptEntry
from image_gateway.edge.kept.store import KeptCalls
from tests.edge.kept.parts import NOW, Clock, answer, bytes_of, files, identity, joined, opened, tag
from tests.parts.examples import scaled

KEEP_SECONDS = 100.0
KEYS = [tag("key 1"), tag("key 2")]
FINGERPRINTS = [tag("fingerprint 1"), tag("fingerprint 2")]
NAMES = [tag("name 1"), tag("name 2")]
ENDS = [state for state in CallState if state is not CallState.RUNNING]


@dataclasses.dataclass(eq=False)
class Model:
    """What is to be seen of a call, and who holds it."""

    identity: CallIdentity
    working: KeptCall | None
    state: CallState = CallState.RUNNING
    ended_at: float | None = None
    seconds: float = KEEP_SECONDS
    body: bytes = b""
    has_client: bool = True
    was_sent: bool = False
    was_delivered: bool = False
    was_told: bool = False
    was_asked: bool = False
    is_forgotten: bool = False
    claim: Claim | None = None
    readings: list[KeptAnswer] = dataclasses.field(default_factory=list)

    def is_there(self, now: float) -> bool:
        if self.is_forgotten:
            return False
        return self.ended_at is None or now < self.ended_at + self.seconds

    def is_in_use(self) -> bool:
        return bool(self.state is CallState.RUNNING or self.claim or self.readings)

    def seen(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "state": self.state,
            "ended_at": self.ended_at,
            "length": len(self.body),
            "has_clients": self.has_client or bool(self.readings),
            "was_left": not (self.has_client or self.was_sent),
            "was_sent": self.was_sent,
            "was_delivered": self.was_delivered,
            "told_repeated": self.was_told,
            "was_asked": self.was_asked,
            "is_claimed": self.claim is not None,
        }


_SEEN = (
    "identity",
    "state",
    "ended_at",
    "length",
    "has_clients",
    "was_left",
    "was_sent",
    "was_delivered",
    "told_repeated",
    "was_asked",
    "is_claimed",
)


def shown(entry: KeptEntry) -> dict[str, Any]:
    """What changes of an entry in the course of a call."""
    return {name: getattr(entry, name) for name in _SEEN}


STORES = st.integers(0, 1)


class TwoProcesses(RuleBasedStateMachine):
    """Each rule does one thing with one call by one of the stores, and with its model."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock(NOW)
        self.folder = Path(tempfile.mkdtemp()) / "calls"
        self.stack = contextlib.AsyncExitStack()
        self.stores: list[KeptCalls] = []
        self.calls: list[Model] = []

    @initialize()
    def open(self) -> None:
        for _ in range(2):
            store = opened(self.folder, self.clock, seconds=KEEP_SECONDS)
            self.stores.append(self.run(self.stack.enter_async_context(store)))

    def teardown(self) -> None:
        if self.stores:
            for call in self.calls:
                self.let_go(call)
            self.clock.now += 2 * KEEP_SECONDS
            for store in self.stores * 2:
                self.run(store.sweep())
            self.clock.now += 2 * KEEP_SECONDS
            self.run(self.stores[0].sweep())
            left = files(self.folder)
            lost = [store.lost for store in self.stores]
            self.run(self.stack.aclose())
            assert (left, lost) == ([], [0, 0])
        self.runner.close()
        shutil.rmtree(self.folder.parent)

    def let_go(self, call: Model) -> None:
        if call.working is not None:
            call.working.close()
        if call.claim is not None:
            call.claim.release()
        for reading in call.readings:
            reading.close()

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    def draw(self, data: st.DataObject, **wanted: bool) -> Model:
        """A call of which all of this is so; else the example is of no use."""
        fitting = [call for call in self.calls if all(self.fits(call, **wanted))]
        if not fitting:
            return data.draw(st.nothing())
        return data.draw(st.sampled_from(fitting))

    def fits(self, call: Model, **wanted: bool) -> list[bool]:
        facts = {
            "works": call.working is not None,
            "runs": call.state is CallState.RUNNING,
            "there": call.is_there(self.clock.now),
            "claimed": call.claim is not None,
            "read": bool(call.readings),
        }
        return [facts[name] == value for name, value in wanted.items()]

    def has(self, **wanted: bool) -> bool:
        return any(all(self.fits(call, **wanted)) for call in self.calls)

    async def entry(self, store: int, call: Model) -> KeptEntry:
        key, call_id = call.identity.key_tag, call.identity.call_id
        entry = await self.stores[store].call(key, call_id)
        assert entry is not None
        return entry

    # -- the process that works on a call ----------------------------------------------------------

    @rule(
        store=STORES,
        key=st.sampled_from(KEYS),
        fingerprint=st.sampled_from(FINGERPRINTS),
        name=st.none() | st.sampled_from(NAMES),
        has_id=st.booleans(),
    )
    def begin(
        self, store: int, key: str, fingerprint: str, name: str | None, *, has_id: bool
    ) -> None:
        call = identity(
            len(self.calls), key_tag=key, fingerprint=fingerprint, name=name, has_id=has_id
        )
        working = self.run(self.stores[store].begin(call))
        was_asked = not (call.has_id or call.name)  # else it is kept before
        self.calls.append(Model(call, working, was_asked=was_asked))

    @precondition(lambda self: self.has(works=True, runs=True))
    @rule(
        data=st.data(),
        state=st.sampled_from(ENDS),
        size=st.sampled_from([0, 1, 5000]),
        seconds=st.sampled_from([None, 10.0, 1000.0]),
    )
    def end(self, data: st.DataObject, state: CallState, size: int, seconds: float | None) -> None:
        call = self.draw(data, works=True, runs=True)
        assert call.working is not None
        body = answer(size)
        self.run(call.working.end(state, 200, {}, body, seconds=seconds))
        call.state, call.ended_at, call.body = state, self.clock.now, body
        call.seconds = min(seconds or KEEP_SECONDS, KEEP_SECONDS)

    @precondition(lambda self: self.has(works=True))
    @rule(data=st.data(), note=st.sampled_from(["left", "sent", "delivered", "told", "asked"]))
    def note(self, data: st.DataObject, note: str) -> None:
        call = self.draw(data, works=True)
        assert call.working is not None
        if note == "left":
            call.working.note_left()
        elif note == "sent":
            self.run(call.working.note_sent())
        elif note == "delivered":
            self.run(call.working.note_delivered())
        elif note == "asked":
            self.run(call.working.note_asked())
        else:
            self.run(call.working.note_told())
        self.model_note(call, note)
        if note not in {"told", "asked"}:
            call.has_client = False

    def model_note(self, call: Model, note: str) -> None:
        call.was_sent |= note in {"sent", "delivered"}
        call.was_delivered |= note == "delivered"
        call.was_told |= note == "told"
        call.was_asked |= note == "asked"

    @precondition(lambda self: self.has(works=True))
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        """As when its process is killed; before its end that leaves an unknown outcome, unless
        nobody was asked.
        """
        call = self.draw(data, works=True)
        assert call.working is not None
        call.working.close()
        call.working, call.has_client = None, False
        if call.state is CallState.RUNNING:
            call.state = CallState.UNKNOWN if call.was_asked else CallState.NOTHING
            call.ended_at = self.clock.now

    @precondition(lambda self: self.has(works=True))
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        call = self.draw(data, works=True)
        assert call.working is not None
        self.run(call.working.abandon())
        call.working, call.is_forgotten = None, True

    @precondition(lambda self: self.has(works=True))
    @rule(data=st.data())
    def ask_whether_it_is_forgotten(self, data: st.DataObject) -> None:
        call = self.draw(data, works=True)
        assert call.working is not None
        is_gone = call.identity.call_id not in self.on_disk()
        assert self.run(call.working.is_forgotten()) == is_gone

    # -- everybody else ----------------------------------------------------------------------------

    @precondition(lambda self: self.has(there=True))
    @rule(data=st.data(), store=STORES)
    def claim(self, data: st.DataObject, store: int) -> None:
        call = self.draw(data, there=True)
        entry = self.run(self.entry(store, call))
        claim = self.run(entry.try_claim())
        assert (claim is None) == (call.claim is not None)
        if claim is not None:
            assert shown(claim.entry) == call.seen()
            call.claim = claim

    @precondition(lambda self: self.has(claimed=True))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        call = self.draw(data, claimed=True)
        assert call.claim is not None
        call.claim.release()
        call.claim = None

    @precondition(lambda self: self.has(there=True))
    @rule(data=st.data(), store=STORES, note=st.sampled_from(["sent", "delivered", "told"]))
    def note_by_another(self, data: st.DataObject, store: int, note: str) -> None:
        call = self.draw(data, there=True)
        entry = self.run(self.entry(store, call))
        self.run(getattr(entry, f"note_{note}")())
        self.model_note(call, note)

    @precondition(lambda self: self.has(there=True, runs=False))
    @rule(data=st.data(), store=STORES)
    def read(self, data: st.DataObject, store: int) -> None:
        call = self.draw(data, there=True, runs=False)
        entry = self.run(self.entry(store, call))
        reading = self.run(entry.open_answer())
        assert reading is not None
        call.readings.append(reading)

    @precondition(lambda self: self.has(read=True))
    @rule(data=st.data())
    def end_reading(self, data: st.DataObject) -> None:
        """Whatever happened meanwhile, the whole answer is there."""
        call = self.draw(data, read=True)
        reading = call.readings.pop()
        assert self.run(joined(reading.play())) == call.body
        reading.close()

    @precondition(lambda self: self.has(there=True))
    @rule(data=st.data(), store=STORES)
    def wait(self, data: st.DataObject, store: int) -> None:
        call = self.draw(data, there=True)
        entry = self.run(self.entry(store, call))
        again = self.run(entry.wait(0))
        assert shown(again) == call.seen()

    @precondition(lambda self: self.has(there=True))
    @rule(data=st.data(), store=STORES)
    def forget(self, data: st.DataObject, store: int) -> None:
        call = self.draw(data, there=True)
        entry = self.run(self.entry(store, call))
        assert self.run(entry.forget())
        call.is_forgotten = True

    @rule(seconds=st.sampled_from([1.0, 9.0, 50.0, 100.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(store=STORES)
    def sweep(self, store: int) -> None:
        self.run(self.stores[store].sweep())
        left = self.on_disk()
        for call in self.calls:
            is_left = call.identity.call_id in left
            if call.is_there(self.clock.now):
                assert is_left, "a sweep removes nothing that is there"
            elif not call.is_in_use():
                assert not is_left, "a sweep removes what is over"

    # -- what is seen ------------------------------------------------------------------------------

    def on_disk(self) -> set[str]:
        return {path.name for path in (self.folder / "calls").iterdir()}

    def expected(self, key: str, wanted: Sequence[bool]) -> list[dict[str, Any]]:
        found = [
            call.seen()
            for call, is_wanted in zip(self.calls, wanted, strict=True)
            if is_wanted and call.identity.key_tag == key and call.is_there(self.clock.now)
        ]
        return found[::-1]

    @invariant()
    def the_calls_of_a_key_are_as_they_should_be(self) -> None:
        for store in self.stores:
            for key in KEYS:
                found = self.run(store.of_key(key, 1000))
                wanted = [True] * len(self.calls)
                assert [shown(entry) for entry in found] == self.expected(key, wanted)
                if found:
                    assert self.run(store.has_any(key))

    @precondition(lambda self: self.calls)
    @rule(
        store=STORES,
        key=st.sampled_from(KEYS),
        fingerprint=st.none() | st.sampled_from(FINGERPRINTS),
        name=st.none() | st.sampled_from(NAMES),
    )
    def look_up(
        self,
        store: int,
        key: str,
        fingerprint: str | None,
        name: str | None,
    ) -> None:
        found = self.run(self.stores[store].find(key, fingerprint=fingerprint, name=name))
        wanted = [
            (name is not None and call.identity.name == name)
            or call.identity.fingerprint == fingerprint
            for call in self.calls
        ]
        assert [shown(entry) for entry in found] == self.expected(key, wanted)
        for entry in found:
            [call] = [call for call in self.calls if call.identity == entry.identity]
            assert self.run(bytes_of(entry)) == call.body


TestTwoProcesses = pytest.mark.slow(TwoProcesses.TestCase)
TestTwoProcesses.settings = settings(max_examples=scaled(60), stateful_step_count=40, deadline=None)
