"""Cooldowns are short, grow, end, and stay where they belong."""

from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from image_gateway.core.model import Credential, Secret
from image_gateway.core.routing.cooldowns import (
    FIRST_BACKOFF_SECONDS,
    LONGEST_SECONDS,
    CooldownKey,
    CooldownSpec,
    CooldownTracker,
    Scope,
    Target,
)
from tests.parts.examples import scaled


def on(model: str, endpoint: str = "generations") -> Target:
    return Target(model, endpoint)


_SECONDS = st.one_of(st.none(), st.floats(-10, 1e9))


def test_an_account_that_never_failed_need_not_be_left_alone() -> None:
    assert CooldownTracker().seconds_left("a", on("m"), 100.0) == 0


def test_a_cooldown_runs_down_and_ends_by_itself() -> None:
    """Once it is over the next call is the probe: nothing else has to happen first."""
    tracker = CooldownTracker()
    assert tracker.trip("a", on("m"), CooldownSpec(60.0), 100.0) == 60
    assert tracker.seconds_left("a", on("m"), 100.0) == 60
    assert tracker.seconds_left("a", on("m"), 150.0) == 10
    assert tracker.seconds_left("a", on("m"), 160.0) == 0
    assert tracker.seconds_left("a", on("m"), 170.0) == 0


def test_a_cooldown_of_the_account_holds_for_every_model() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(60.0), 0.0)
    assert tracker.seconds_left("a", on("other"), 0.0) == 60
    assert tracker.seconds_left("b", on("m"), 0.0) == 0


def test_a_missing_model_costs_the_account_no_other_model() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(60.0, Scope.MODEL), 0.0)
    assert tracker.seconds_left("a", on("m"), 0.0) == 60
    assert tracker.seconds_left("a", on("other"), 0.0) == 0
    assert tracker.seconds_left("b", on("m"), 0.0) == 0


def test_a_missing_endpoint_costs_the_model_no_other_endpoint() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("m", "edits"), CooldownSpec(60.0, Scope.ENDPOINT), 0.0)
    assert tracker.seconds_left("a", on("m", "edits"), 0.0) == 60
    assert tracker.seconds_left("a", on("m"), 0.0) == 0
    assert tracker.seconds_left("a", on("other", "edits"), 0.0) == 0


def test_the_longer_of_two_cooldowns_holds() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(60.0), 0.0)
    tracker.trip("a", on("m"), CooldownSpec(90.0, Scope.MODEL), 0.0)
    assert tracker.seconds_left("a", on("m"), 0.0) == 90
    assert tracker.seconds_left("a", on("other"), 0.0) == 60


def test_a_shorter_cooldown_does_not_shorten_a_longer_one() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(60.0), 0.0)
    tracker.trip("a", on("m"), CooldownSpec(1.0), 0.0)
    assert tracker.seconds_left("a", on("m"), 0.0) == 60


@given(_SECONDS, st.integers(0, 20))
def test_no_cooldown_is_longer_than_15_minutes_or_shorter_than_nothing(
    seconds: float | None, failures: int
) -> None:
    """Whatever an upstream names: 12 hours for a 404 were seen elsewhere."""
    tracker = CooldownTracker()
    for _ in range(failures):
        tracker.trip("a", on("m"), CooldownSpec(None), 0.0)
    length = tracker.trip("a", on("m"), CooldownSpec(seconds), 0.0)
    assert 0 <= length <= LONGEST_SECONDS == 900
    assert tracker.seconds_left("a", on("m"), 0.0) <= 900
    if seconds is not None:
        assert length == min(max(seconds, 0), 900)


def test_without_a_named_time_the_wait_doubles_with_each_failure_in_a_row() -> None:
    tracker = CooldownTracker()
    lengths = [tracker.trip("a", on("m"), CooldownSpec(None), 1000.0 * turn) for turn in range(11)]
    assert FIRST_BACKOFF_SECONDS == 5
    assert lengths == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900, 900]


def test_one_account_s_failures_do_not_lengthen_another_s_wait() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(None), 0.0)
    assert tracker.trip("b", on("m"), CooldownSpec(None), 0.0) == 5
    assert tracker.trip("a", on("m"), CooldownSpec(None, Scope.MODEL), 0.0) == 5


def test_a_row_of_failures_is_remembered_once_its_cooldown_is_over() -> None:
    """The probe that fails begins a longer one, whatever other accounts did meanwhile."""
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(None), 0.0)
    tracker.trip("b", on("m"), CooldownSpec(None), 1000.0)
    assert tracker.trip("a", on("m"), CooldownSpec(None), 2000.0) == 10


@pytest.mark.parametrize("scope", Scope)
def test_a_success_ends_the_cooldown_and_the_row_of_failures(scope: Scope) -> None:
    tracker = CooldownTracker()
    for _ in range(3):
        tracker.trip("a", on("m"), CooldownSpec(None, scope), 0.0)
    tracker.succeed("a", on("m"), 0.0)
    assert tracker.seconds_left("a", on("m"), 0.0) == 0
    assert tracker.trip("a", on("m"), CooldownSpec(None, scope), 0.0) == 5
    assert repr(tracker) == "<CooldownTracker of 1 keys>"


def test_a_success_says_nothing_of_another_model_or_account() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("gone"), CooldownSpec(60.0, Scope.MODEL), 0.0)
    tracker.trip("b", on("m"), CooldownSpec(60.0), 0.0)
    tracker.succeed("a", on("m"), 0.0)
    assert tracker.seconds_left("a", on("gone"), 0.0) == 60
    assert tracker.seconds_left("b", on("m"), 0.0) == 60


def test_a_success_says_nothing_of_what_was_learned_after_it_began() -> None:
    """A call of a minute that ends well must not undo the limit that another one met meanwhile."""
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(600.0), 30.0)
    tracker.succeed("a", on("m"), 10.0)
    assert tracker.seconds_left("a", on("m"), 30.0) == 600
    tracker.succeed("a", on("m"), 31.0)
    assert tracker.seconds_left("a", on("m"), 31.0) == 0


def test_a_success_says_nothing_of_a_cooldown_that_was_lengthened_after_it_began() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(5.0), 0.0)
    tracker.trip("a", on("m"), CooldownSpec(600.0), 20.0)
    tracker.succeed("a", on("m"), 10.0)
    assert tracker.seconds_left("a", on("m"), 20.0) == 600


def test_what_is_well_takes_no_memory() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(60.0), 0.0)
    tracker.trip("a", on("m"), CooldownSpec(60.0, Scope.MODEL), 0.0)
    assert repr(tracker) == "<CooldownTracker of 2 keys>"
    tracker.succeed("a", on("m"), 0.0)
    assert repr(tracker) == "<CooldownTracker of 0 keys>"


def test_two_cooldowns_that_are_over_leave_nothing() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(60.0), 0.0)
    tracker.trip("a", on("m"), CooldownSpec(30.0, Scope.MODEL), 0.0)
    assert tracker.seconds_left("a", on("m"), 100.0) == 0


def test_a_cooldown_begins_with_the_clock() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(0.25), 0.0)
    assert tracker.seconds_left("a", on("m"), 0.0) == 0.25


def test_what_is_over_is_forgotten_before_the_places_grow_without_end() -> None:
    """Clients may name as many models as they like."""
    tracker = CooldownTracker()
    for number in range(10_000):
        tracker.trip("a", on(f"model-{number}"), CooldownSpec(10.0, Scope.MODEL), 0.0)
    tracker.trip("a", on("still"), CooldownSpec(60.0, Scope.MODEL), 5.0)
    assert repr(tracker) == "<CooldownTracker of 10001 keys>"
    tracker.trip("a", on("one more"), CooldownSpec(None, Scope.MODEL), 20.0)
    assert repr(tracker) == "<CooldownTracker of 2 keys>"
    assert tracker.seconds_left("a", on("still"), 20.0) == 45
    assert tracker.trip("a", on("one more"), CooldownSpec(None, Scope.MODEL), 20.0) == 10
    assert tracker.trip("a", on("model-1"), CooldownSpec(None, Scope.MODEL), 20.0) == 5


def test_thousands_of_failures_in_a_row_are_still_a_wait() -> None:
    tracker = CooldownTracker()
    for _ in range(3000):
        length = tracker.trip("a", on("m"), CooldownSpec(None), 0.0)
    assert length == 900


def test_a_cooldown_ends_with_the_credential_that_it_is_of() -> None:
    old, new = (Credential(Secret(token), "api_key") for token in ("old", "new"))
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(60.0), 0.0, old)
    assert tracker.seconds_left("a", on("m"), 10.0, old) == 50.0
    assert tracker.seconds_left("a", on("m"), 10.0, new) == 0.0
    tracker.trip("a", on("m"), CooldownSpec(60.0), 10.0, new)
    assert tracker.seconds_left("a", on("m"), 10.0, new) == 60.0
    tracker.trip("b", on("m"), CooldownSpec(60.0), 0.0)
    assert tracker.seconds_left("b", on("m"), 0.0, new) == 60.0


def test_a_renewed_credential_does_not_serve_the_rest_of_its_predecessor_s_cooldown() -> None:
    old, new = (Credential(Secret(token), "api_key") for token in ("old", "new"))
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(600.0), 0.0, old)
    assert tracker.seconds_left("a", on("m"), 10.0, new) == 0.0
    tracker.trip("a", on("m"), CooldownSpec(5.0), 10.0, new)
    assert tracker.seconds_left("a", on("m"), 10.0, new) == 5.0


def test_a_late_answer_to_an_old_credential_does_not_end_the_new_one_s_cooldown() -> None:
    old, new = (Credential(Secret(token), "api_key") for token in ("old", "new"))
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(600.0), 0.0, new)
    tracker.trip("a", on("m"), CooldownSpec(300.0), 10.0, old)
    assert tracker.seconds_left("a", on("m"), 10.0, new) == 590.0


# -- probes ----------------------------------------------------------------------------------


def test_the_first_call_after_a_cooldown_is_a_probe_for_as_long_as_it_lasts() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(60.0), 0.0)
    with tracker.call("a", on("m"), 59.0):
        assert not tracker.is_half_open("a", on("m")), (
            "it was still cooling: nobody should have called"
        )
    with tracker.call("a", on("m"), 60.0):
        assert tracker.is_half_open("a", on("m"))
        assert not tracker.is_half_open("b", on("m"))
    assert not tracker.is_half_open("a", on("m"))


def test_a_well_account_is_never_probed() -> None:
    tracker = CooldownTracker()
    with tracker.call("a", on("m"), 0.0):
        assert not tracker.is_half_open("a", on("m"))


def test_a_probe_of_the_account_is_one_for_every_model_and_one_of_a_model_is_not() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(1.0), 0.0)
    tracker.trip("b", on("m"), CooldownSpec(1.0, Scope.MODEL), 0.0)
    with tracker.call("a", on("other"), 2.0), tracker.call("b", on("m"), 2.0):
        assert tracker.is_half_open("a", on("m"))
        assert tracker.is_half_open("b", on("m"))
        assert not tracker.is_half_open("b", on("other"))


def test_of_two_probes_one_is_enough() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(1.0), 0.0)
    with ExitStack() as first:
        first.enter_context(tracker.call("a", on("m"), 2.0))
        with tracker.call("a", on("m"), 3.0):
            first.close()
            assert tracker.is_half_open("a", on("m"))
        assert not tracker.is_half_open("a", on("m"))


def test_a_success_ends_a_probe_before_its_call_does() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(1.0), 0.0)
    with tracker.call("a", on("m"), 2.0):
        tracker.succeed("a", on("m"), 2.0)
        assert not tracker.is_half_open("a", on("m"))
    assert not tracker.is_half_open("a", on("m"))


def test_a_probe_that_breaks_off_is_none_any_more() -> None:
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(1.0), 0.0)
    with pytest.raises(KeyboardInterrupt), tracker.call("a", on("m"), 2.0):
        raise KeyboardInterrupt
    assert not tracker.is_half_open("a", on("m"))


def test_a_call_begun_before_a_cooldown_is_no_probe_of_it() -> None:
    """Its success would not end that cooldown, so nobody need wait for it."""
    tracker = CooldownTracker()
    tracker.trip("a", on("m"), CooldownSpec(5.0), 0.0)
    with tracker.call("a", on("m"), 10.0):
        tracker.trip("a", on("m"), CooldownSpec(5.0), 20.0)
        assert tracker.seconds_left("a", on("m"), 30.0) == 0
        assert not tracker.is_half_open("a", on("m"))


# -- any order of all of it ------------------------------------------------------------------

_CREDENTIALS = [Credential(Secret(name), "api_key") for name in ("old", "new", "newest")]
_TARGETS = [on("m"), on("m", "edits"), on("n")]
_Key = tuple[CooldownKey, Credential | None]


@dataclass
class _Known:
    """A cooldown as the model has it."""

    begun: float
    until: float
    failures: int


@dataclass(eq=False)
class _Call:
    """A call under way, and the cooldowns that it finds out about."""

    account_name: str
    target: Target
    began: float
    credential: Credential
    probed: list[_Known]
    open: ExitStack = field(default_factory=ExitStack)

    @property
    def places(self) -> dict[Scope, CooldownKey]:
        model, endpoint = self.target
        return {
            Scope.ACCOUNT: (self.account_name, None, None),
            Scope.MODEL: (self.account_name, model, None),
            Scope.ENDPOINT: (self.account_name, model, endpoint),
        }


class HealthMachine(RuleBasedStateMachine):
    """Calls, failures, successes and renewed credentials in any order, against a plain table."""

    def __init__(self) -> None:
        super().__init__()
        self.cooldowns = CooldownTracker()
        self.now = 0.0
        self.known: dict[_Key, _Known] = {}
        self.calls: list[_Call] = []

    @rule(eighths=st.integers(1, 8000))
    def time_passes(self, eighths: int) -> None:
        self.now += eighths / 8

    @rule(
        account_name=st.sampled_from(["a", "b"]),
        asked=st.sampled_from(_TARGETS),
        credential=st.sampled_from(_CREDENTIALS),
    )
    def a_call_begins(self, account_name: str, asked: Target, credential: Credential) -> None:
        call = _Call(account_name, asked, self.now, credential, [])
        call.probed = [each for each in self._met(call) if each.until <= self.now]
        call.open.enter_context(self.cooldowns.call(account_name, asked, self.now, credential))
        self.calls.append(call)

    def _met(self, call: _Call) -> list[_Known]:
        return [
            self.known[place, signed]
            for place in call.places.values()
            for signed in (None, call.credential)
            if (place, signed) in self.known
        ]

    def _ended(self, data: st.DataObject) -> _Call:
        return self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def a_call_is_cancelled(self, data: st.DataObject) -> None:
        self._ended(data).open.close()

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def a_call_is_served(self, data: st.DataObject) -> None:
        call = self._ended(data)
        self.cooldowns.succeed(call.account_name, call.target, call.began)
        for place, signed in list(self.known):
            if place in call.places.values() and self.known[place, signed].begun <= call.began:
                del self.known[place, signed]
        call.open.close()

    @precondition(lambda self: self.calls)
    @rule(
        data=st.data(),
        seconds=st.one_of(st.none(), st.sampled_from([0.0, 0.25, 5.0, 300.0, 1e9])),
        scope=st.sampled_from(Scope),
        depends=st.booleans(),
    )
    def a_call_is_refused(
        self, data: st.DataObject, seconds: float | None, scope: Scope, *, depends: bool
    ) -> None:
        call = self._ended(data)
        signed = call.credential if depends else None
        length = self.cooldowns.trip(
            call.account_name, call.target, CooldownSpec(seconds, scope), self.now, signed
        )
        place = call.places[scope]
        last = self.known.get((place, signed), _Known(0.0, 0.0, 0))
        wanted = 5.0 * 2.0**last.failures if seconds is None else seconds
        assert length == min(wanted, LONGEST_SECONDS)
        self.known[place, signed] = _Known(
            self.now, max(last.until, self.now + length), min(last.failures + 1, 8)
        )
        call.open.close()

    @invariant()
    def nobody_is_left_alone_for_longer_than_the_cap_or_for_nothing(self) -> None:
        for account_name in ("a", "b"):
            for target in (*_TARGETS, on("never failed")):
                for credential in _CREDENTIALS:
                    met = self._met(_Call(account_name, target, 0, credential, []))
                    expected = max([0.0, *(each.until - self.now for each in met)])
                    left = self.cooldowns.seconds_left(account_name, target, self.now, credential)
                    assert left == expected <= LONGEST_SECONDS

    @invariant()
    def a_probe_is_a_call_that_began_after_the_end_of_a_cooldown_that_still_counts(self) -> None:
        for account_name in ("a", "b"):
            for target in _TARGETS:
                for credential in _CREDENTIALS:
                    met = self._met(_Call(account_name, target, 0, credential, []))
                    expected = any(
                        one is other for call in self.calls for one in call.probed for other in met
                    )
                    assert self.cooldowns.is_half_open(account_name, target, credential) is expected

    @invariant()
    def only_what_is_not_well_takes_memory(self) -> None:
        held = {
            (place, signed)
            for place, found in self.cooldowns._cooldowns.items()
            for signed in found
        }
        assert held == set(self.known)
        assert len(self.cooldowns._probes) <= 6 * len(self.calls)

    def teardown(self) -> None:
        for call in self.calls:
            call.open.close()
        assert not self.cooldowns._probes, "a probe outlived its call"


HealthMachine.TestCase.settings = settings(
    max_examples=scaled(150), stateful_step_count=40, deadline=None
)
TestHealth = HealthMachine.TestCase
