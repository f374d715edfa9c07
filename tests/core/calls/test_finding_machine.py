"""One process, clients that come, leave and ask again, and upstreams that end as they like.

The machine does with each decision of the table what a gateway must do with it, and counts what was
bought.  Direct clients are seen to leave; behind a proxy all seem to be served.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from image_gateway.core.calls import finding
from image_gateway.core.calls.finding import (
    Asking,
    CallView,
    Join,
    RefuseName,
    RefuseRepeated,
    Replay,
    Start,
    TakeOver,
)
from image_gateway.core.calls.model import CallIdentity, CallState
from tests.core.calls.views import GUARD

_LONGEST_RETRY: Final = 60.0
"""Seconds after which every client has asked again, or never does."""
_LONGEST_SENDING: Final = 20.0
_REQUESTS: Final = (("k", "f"), ("k", "f"), ("k", "f"), ("k", "g"), ("l", "f"))
"""Keys and fingerprints; most are equal."""
_SURE: Final = {CallState.MADE, CallState.FAULT}
_ENDS: Final = [state for state in CallState if state is not CallState.RUNNING]


@dataclass(eq=False)
class Program:
    """One call of a program, with as many tries as its client makes of it.

    ``counts``: its client counts its retries in a header.  ``lost``: the call of its last try;
    ``lost_at``: it has not asked again since then.
    """

    asking: Asking
    counts: bool
    call: "Call | None" = None
    lost: "Call | None" = None
    lost_at: float | None = None
    pictures: int = 0


@dataclass(eq=False)
class Call:
    """A call, and what is true of it: who waits, who has gone without being seen to go, and whether
    a program has its answer.
    """

    view: CallView
    started_by: Program
    waiting: list[Program] = field(default_factory=list)
    unseen: int = 0
    claimed_by: Program | None = None
    was_received: bool = False

    def change(self, **changes: object) -> None:
        """Set what others see of it."""
        self.view = replace(self.view, **changes)  # type: ignore[arg-type]  # names of its fields

    def look(self) -> CallView:
        """How the table sees it."""
        return replace(
            self.view,
            clients=len(self.waiting) + self.unseen,
            is_claimed=self.claimed_by is not None,
        )

    @property
    def may_have_made_a_picture(self) -> bool:
        """Whether buying again now could be a second purchase."""
        state = self.view.state
        return state in {CallState.RUNNING, CallState.MADE, CallState.UNKNOWN}


class FindingMachine(RuleBasedStateMachine):
    """Any order of events, against a count of purchases."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.programs: list[Program] = []
        self.calls: dict[str, Call] = {}
        self.removed: set[str] = set()
        # Purchases that the table cannot prevent, by key and fingerprint.
        self.excused: dict[tuple[str, str], int] = {}

    @initialize(is_proxied=st.booleans())
    def opens(self, *, is_proxied: bool) -> None:
        self.is_proxied = is_proxied

    # -- what a gateway does with a decision -------------------------------------------------------

    def _ask(self, program: Program, *, is_retry: bool) -> None:
        asking = replace(program.asking, is_sure_retry=is_retry and program.counts)
        views = [call.look() for call in self.calls.values()]
        found = finding.find(asking, views, self.now, GUARD)
        program.lost_at = None
        match found:
            case Start(uses_up=used):
                if used is not None:
                    self._use_up(self.calls[used])
                elif is_retry:
                    self._check_new_call_of_retry(program)
                self._start(program)
            case Join(call_id=call_id) | Replay(call_id=call_id):
                self._attach(program, self._found(program, call_id))
            case TakeOver(call_id=call_id):
                call = self._found(program, call_id)
                assert call.claimed_by is None, "a claim is exclusive"
                assert not call.waiting, "a client is there"
                assert not call.was_received, "an answer that somebody has is taken over"
                call.claimed_by = program
                self._attach(program, call)
            case RefuseRepeated(call_id=call_id):
                call = self._found(program, call_id)
                assert not call.view.told_repeated, "warned twice of one call"
                call.change(told_repeated=True)
            case RefuseName():
                raise AssertionError("no name was used for two requests")

    def _check_new_call_of_retry(self, program: Program) -> None:
        """What the last try may have bought is gone, or somebody else has it or was told of it."""
        assert program.lost is not None
        call = program.lost.look()
        if call.state is CallState.NOTHING:
            return
        if program.asking.name is not None or program.counts:
            assert not call.is_running, "another call while the first one runs"
            assert not call.has_answer, "another call although the first one has an answer"
        elif not self.is_proxied and (call.is_running or (call.is_kept and call.state in _SURE)):
            assert call.clients or call.was_delivered, "another call, and nobody has the first one"
        if call.state is CallState.UNKNOWN:
            assert call.ended_at is not None
            was_warned = call.told_repeated or self.now - call.ended_at >= GUARD
            assert was_warned, "another call, and nobody was warned of the first one"

    def _found(self, program: Program, call_id: str) -> Call:
        call = self.calls[call_id]
        asking, identity = program.asking, call.view.identity
        assert (identity.key_tag, identity.fingerprint, identity.name) == (
            asking.key_tag,
            asking.fingerprint,
            asking.name,
        )
        return call

    def _use_up(self, call: Call) -> None:
        assert call.view.state is CallState.NOTHING
        assert not call.view.used_up, "one answer let two retries through"
        call.change(used_up=True)
        if not call.started_by.counts:
            # Its own retry does not say what it is, so it was a new call and used up nothing.
            self._excuse(call.started_by)

    def _excuse(self, program: Program) -> None:
        request = program.asking.key_tag, program.asking.fingerprint
        self.excused[request] = self.excused.get(request, 0) + 1

    def _start(self, program: Program) -> None:
        asking = program.asking
        identity = CallIdentity(
            call_id=f"call-{len(self.calls):03}",
            request_id="req",
            key_tag=asking.key_tag,
            fingerprint=asking.fingerprint,
            name=asking.name,
            endpoint="generations",
            created_at=self.now,
        )
        call = Call(CallView(identity, CallState.RUNNING), program)
        self.calls[identity.call_id] = call
        self._attach(program, call)

    def _attach(self, program: Program, call: Call) -> None:
        assert call.view.is_running or call.view.is_kept, "nothing to wait for"
        assert call.view.state is not CallState.NOTHING, "an answer that is worth another try"
        program.call = call
        call.waiting.append(program)

    def _detach(self, program: Program) -> Call:
        call = program.call
        assert call is not None
        call.waiting.remove(program)
        if call.claimed_by is program:
            call.claimed_by = None
        program.call = None
        program.lost = call
        return call

    # -- clients -----------------------------------------------------------------------------------

    @rule(request=st.sampled_from(_REQUESTS), counts=st.booleans())
    def a_program_calls(self, request: tuple[str, str], *, counts: bool) -> None:
        program = Program(Asking(*request), counts)
        self.programs.append(program)
        self._ask(program, is_retry=False)

    @rule(request=st.sampled_from(_REQUESTS), counts=st.booleans())
    def a_program_names_its_call(self, request: tuple[str, str], *, counts: bool) -> None:
        program = Program(Asking(*request, name=f"name-{len(self.programs)}"), counts)
        self.programs.append(program)
        self._ask(program, is_retry=False)

    def _waiting(self) -> list[Program]:
        return [program for program in self.programs if program.call is not None]

    def _served(self) -> list[Program]:
        return [
            program
            for program in self._waiting()
            if program.call is not None and not program.call.view.is_running
        ]

    def _lost(self) -> list[Program]:
        return [program for program in self.programs if program.lost_at is not None]

    @precondition(lambda self: self._waiting())
    @rule(data=st.data())
    def a_client_leaves(self, data: st.DataObject) -> None:
        """Before it has the whole answer."""
        program = data.draw(st.sampled_from(self._waiting()))
        call = self._detach(program)
        program.lost_at = self.now
        if not self.is_proxied:
            call.change(was_left=True)
        elif call.view.is_running:
            call.unseen += 1

    @precondition(lambda self: self._served())
    @rule(data=st.data())
    def an_answer_arrives(self, data: st.DataObject) -> None:
        program = data.draw(st.sampled_from(self._served()))
        call = self._detach(program)
        call.was_received = True
        if not self.is_proxied:
            call.change(was_left=False, was_delivered=True)
        if call.view.state is CallState.MADE:
            program.pictures += 1
        elif call.view.state is CallState.NOTHING or (
            # Who counts its retries is an official SDK, and obeys ``x-should-retry: false``.
            call.view.state is CallState.UNKNOWN and not program.counts
        ):
            program.lost_at = self.now

    @precondition(lambda self: self._lost())
    @rule(data=st.data())
    def a_client_asks_again(self, data: st.DataObject) -> None:
        program = data.draw(st.sampled_from(self._lost()))
        if self.is_proxied and not program.counts:
            self._excuse(program)
        self._ask(program, is_retry=True)

    @precondition(lambda self: self._lost())
    @rule(data=st.data())
    def a_client_gives_up(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self._lost())).lost_at = None

    # -- upstreams and time ------------------------------------------------------------------------

    def _running(self) -> list[Call]:
        return [call for call in self.calls.values() if call.view.is_running]

    @precondition(lambda self: self._running())
    @rule(data=st.data(), state=st.sampled_from(_ENDS))
    def an_upstream_ends(self, data: st.DataObject, state: CallState) -> None:
        call = data.draw(st.sampled_from(self._running()))
        call.unseen = 0
        call.change(state=state, ended_at=self.now, is_kept=state is not CallState.NOTHING)

    @precondition(lambda self: any(call.view.is_kept for call in self.calls.values()))
    @rule(data=st.data())
    def an_answer_is_removed(self, data: st.DataObject) -> None:
        """For want of room, but never one that is being sent."""
        kept = [call for call in self.calls.values() if call.view.is_kept and not call.waiting]
        if kept:
            call = data.draw(st.sampled_from(kept))
            call.change(is_kept=False)
            if call.view.state is CallState.MADE:
                self.removed.add(call.view.identity.call_id)

    @rule(seconds=st.floats(0, 120))
    def time_passes(self, seconds: float) -> None:
        """As far as clients let it."""
        latest = [program.lost_at + _LONGEST_RETRY for program in self._lost() if program.lost_at]
        for program in self._served():
            assert program.call is not None
            ended_at = program.call.view.ended_at
            assert ended_at is not None
            latest.append(max(self.now, ended_at + _LONGEST_SENDING))
        self.now = min([self.now + seconds, *latest])

    # -- what holds at all times -------------------------------------------------------------------

    def _bought(self) -> list[Call]:
        return [
            call
            for call_id, call in self.calls.items()
            if call.may_have_made_a_picture and call_id not in self.removed
        ]

    @invariant()
    def no_more_is_bought_than_is_asked_for(self) -> None:
        """Each program's call is one purchase at most, among equal calls taken together."""
        for request in set(_REQUESTS):
            asked = [
                program
                for program in self.programs
                if program.asking.name is None
                and (program.asking.key_tag, program.asking.fingerprint) == request
            ]
            bought = [
                call
                for call in self._bought()
                if call.view.identity.name is None
                and (call.view.identity.key_tag, call.view.identity.fingerprint) == request
            ]
            assert len(bought) <= len(asked) + self.excused.get(request, 0)

    @invariant()
    def a_name_is_bought_once(self) -> None:
        names = [call.view.identity.name for call in self._bought() if call.view.identity.name]
        assert len(names) == len(set(names))

    @invariant()
    def no_program_gets_more_than_it_asked_for(self) -> None:
        assert all(program.pictures <= 1 for program in self.programs)


TestFindingMachine = FindingMachine.TestCase
TestFindingMachine.settings = settings(stateful_step_count=40)
