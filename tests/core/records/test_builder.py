"""What the phases of a request leave, and the record that is made of it."""

import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.errors import Source
from image_gateway.core.records import builder
from image_gateway.core.records.builder import Arrival, Asked, Made, RecordBuilder, Sent
from image_gateway.core.records.phases import Phase, Timeline
from image_gateway.core.records.record import AttemptRecord
from image_gateway.core.routing.failover import Action, Stage
from tests.core.builders import PNG, Clock, key, parse

TIME = datetime(2026, 11, 5, 12, 30, 1, 234_567, tzinfo=UTC)


def make(clock: Clock | None = None) -> RecordBuilder:
    return RecordBuilder(Arrival(TIME, "req-1"), Timeline(clock or Clock()))


def shown(made: RecordBuilder) -> dict[str, Any]:
    return made.build(Sent()).as_json()


def test_a_head_a_key_and_what_was_sent_arrive_under_their_names() -> None:
    arrival = Arrival(TIME, "req-1", "192.0.2.1", "edits", "/v1/images/edits")
    made = RecordBuilder(arrival, Timeline(Clock()))
    made.key = key(key_id="k", key_name="n", group_id="g")
    made.body_form = "multipart"
    built = made.build(Sent(200, 12, 34)).as_json()
    assert {name: value for name, value in built.items() if value is not None} == {
        "schema_version": 1,
        "time": "2026-11-05T12:30:01.234Z",
        "request_id": "req-1",
        "client_address": "192.0.2.1",
        "key_id": "k",
        "key_name": "n",
        "group_id": "g",
        "endpoint": "edits",
        "path": "/v1/images/edits",
        "body_form": "multipart",
        "request_bytes": 12,
        "status": 200,
        "attempts": [],
        "response_bytes": 34,
        "total_ms": 0,
        "client_left": False,
        "may_be_billed": False,
    }
    assert "c0ffee" not in repr(built)


def test_what_is_asked_for_is_recorded_without_its_prompt_and_its_pictures() -> None:
    secret = "hush " * 100
    long = "data:image/png;base64," + "A" * 8000
    value = {
        "prompt": secret,
        "images": [PNG, long, "https://hush.example/"],
        "mask": PNG,
        "n": 3,
        "size": "1024x1024",
        "quality": "high",
        "user": "hush",
        "model": "public",
    }
    asked = Asked.of_image(parse(value, "edits", model_map={"public": "inner"}), b"key")
    assert "hush" not in repr(asked)
    assert "base64" not in repr(asked)
    assert asked == Asked(
        model="public",
        upstream_model="inner",
        size="1024x1024",
        quality="high",
        n=3,
        stream=False,
        input_image_count=4,
        input_image_bytes=18 + 6000 + 18,
        prompt_chars=500,
        prompt_hmac=builder.prompt_hmac(b"key", secret),
    )
    made = make()
    made.asked = asked
    built = shown(made)
    assert all(built[name] == getattr(asked, name) for name in Asked.__slots__)


def test_what_a_request_did_not_ask_for_is_null() -> None:
    asked = Asked.of_image(parse({"stream": True}), b"key")
    assert (asked.size, asked.quality, asked.n) == (None, None, 1)
    assert (asked.stream, asked.input_image_count, asked.input_image_bytes) == (True, 0, 0)


def test_the_first_failure_is_the_one_that_counts() -> None:
    made = make()
    made.fail("upstream_cut", Source.UPSTREAM)
    made.fail("client_left", Source.CLIENT)
    built = shown(made)
    assert (built["error_code"], built["error_source"]) == ("upstream_cut", "upstream")


def test_the_account_that_answers_is_named_and_every_attempt_is_kept() -> None:
    made = make()
    first = AttemptRecord("a", "codex", action=Action.NEXT, upstream_ms=20)
    made.attempt(first)
    made.attempt(AttemptRecord("b", "azure", upstream_ms=22))
    built = shown(made)
    assert (built["account_name"], built["dialect"]) == ("b", "azure")
    assert [each["account_name"] for each in built["attempts"]] == ["a", "b"]
    assert built["upstream_ms"] == 42
    made.answering = first
    assert shown(made)["account_name"] == "a"
    made.answering = None
    assert (shown(made)["account_name"], shown(made)["dialect"]) == (None, None)


def test_a_request_that_breaks_off_may_be_billed_for_what_was_sent() -> None:
    made = make()
    made.attempt(AttemptRecord("a", "codex", stage=Stage.CONNECT))
    made.break_off()
    assert not made.may_be_billed
    made.attempt(AttemptRecord("b", "codex", stage=Stage.SENT))
    made.break_off()
    assert shown(made)["may_be_billed"] is True


def test_the_times_are_those_of_the_phases() -> None:
    clock = Clock()
    made = make(clock)
    for phase, seconds in (
        (Phase.RECEIVED, 0.001),
        (Phase.AUTHENTICATED, 0.020),
        (Phase.READ, 0.003),
        (Phase.ADMITTED, 0.0),
        (Phase.WAITING, 0.400),
        (Phase.SENT, 5.0),
        (Phase.WAITING, 0.100),
        (Phase.SENT, 6.0),
        (Phase.ANSWERED, 0.05),
        (Phase.ARRIVING, 0.5),
        (Phase.ARRIVING, 0.2),
        (Phase.ARRIVING, 0.0),
        (Phase.DELIVERED, 0.08),
        (Phase.RECORDED, 0.0),
    ):
        made.enter(phase)
        clock.now += seconds
    built = shown(made)
    times = ("auth_ms", "body_ms", "wait_ms", "upstream_ms", "stream_ms", "total_ms")
    assert [built[name] for name in times] == [4, 20, 500, 11_000, 700, 12_354]


def test_a_phase_that_was_not_entered_took_no_time_that_is_known() -> None:
    made = make()
    made.enter(Phase.RECEIVED)
    made.enter(Phase.DELIVERED)
    built = shown(made)
    assert built["auth_ms"] == 0
    for name in ("body_ms", "wait_ms", "upstream_ms", "stream_ms"):
        assert built[name] is None


def test_the_time_to_an_answer_that_never_came_is_not_known() -> None:
    clock = Clock()
    made = make(clock)
    made.enter(Phase.SENT)
    clock.now += 5
    made.enter(Phase.RECORDED)
    assert shown(made)["upstream_ms"] is None


def test_a_call_without_attempts_is_timed_to_the_head_of_its_answer() -> None:
    clock = Clock()
    made = make(clock)
    made.enter(Phase.SENT)
    clock.now += 5
    made.enter(Phase.ANSWERED)
    clock.now += 2
    assert shown(made)["upstream_ms"] == 5000


# -- what came back --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "input_tokens": 1,
                "output_tokens": 2,
                "total_tokens": 3,
                "input_tokens_details": {"image_tokens": 1},
            },
            {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        ),
        ({"total_tokens": 0}, {"total_tokens": 0}),
        ({"input_tokens": 1, "output_tokens": "2", "total_tokens": 3.0}, {"input_tokens": 1}),
        ({"input_tokens": True}, None),
        ({"input_tokens": None}, None),
        ({"prompt": "hush"}, None),
        ({}, None),
        ([], None),
        ("hush", None),
        (None, None),
        (5, None),
    ],
)
def test_usage_is_the_three_sums_and_nothing_else(
    usage: object, expected: dict[str, int] | None
) -> None:
    assert builder.sums(usage) == expected
    made = make()
    made.made = Made.of(1, usage, {})
    assert shown(made)["usage"] == expected


@pytest.mark.parametrize(
    ("first", "size", "quality"),
    [
        ({"size": "1536x1024", "quality": "low"}, "1536x1024", "low"),
        ({"size": None, "b64_json": "\x000"}, "auto", "high"),
        ({"size": 5, "quality": "\x001"}, "auto", "high"),
        ({}, "auto", "high"),
    ],
)
def test_what_came_back_is_recorded_and_what_it_does_not_say_stays_as_asked(
    first: dict[str, object], size: str, quality: str
) -> None:
    made = make()
    made.asked = Asked(size="auto", quality="high")
    made.made = Made.of(2, {"total_tokens": 3, "more": {"x": 1}}, first)
    built = shown(made)
    assert (built["response_image_count"], built["usage"]) == (2, {"total_tokens": 3})
    assert (built["size"], built["quality"]) == (size, quality)


def test_size_and_quality_stay_known_where_the_next_picture_does_not_say_them() -> None:
    first = Made.of(1, None, {"size": "1536x1024", "quality": "low"})
    second = Made.of(2, None, {"quality": "high"}, first)
    assert (second.pictures, second.size, second.quality) == (2, "1536x1024", "high")


# -- the prompt's hash -----------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=40), st.text(max_size=40))
def test_the_prompt_s_hash_is_an_hmac_under_the_key(secret: bytes, prompt: str) -> None:
    encoded = prompt.encode("utf-8", "surrogatepass")
    made = builder.prompt_hmac(secret, prompt)
    assert made == hmac.digest(secret, encoded, "sha256").hex()
    assert made != hashlib.sha256(encoded).hexdigest()


def test_half_a_surrogate_pair_can_be_hashed_too() -> None:
    assert len(builder.prompt_hmac(b"key", "\ud83d")) == 64


def test_another_key_or_prompt_gives_another_hash() -> None:
    hashes = {builder.prompt_hmac(each, prompt) for each in (b"k1", b"k2") for prompt in ("a", "b")}
    assert len(hashes) == 4
