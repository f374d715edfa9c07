"""What the phases of a request leave, and the record that is made of it."""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.calls.model import CallSource
from image_gateway.core.errors import Source
from image_gateway.core.records import builder
from image_gateway.core.records.builder import (
    Arrival,
    Asked,
    Called,
    FoundCall,
    Made,
    RecordBuilder,
    Sent,
)
from image_gateway.core.records.phases import Phase, Timeline
from image_gateway.core.records.prices import Price, Prices
from image_gateway.core.records.record import AttemptRecord
from image_gateway.core.request import intent
from image_gateway.core.request.model_names import ModelNames
from image_gateway.core.routing.failover import Action, Stage
from tests.core.builders import PNG, PRICES, Clock, key, parse, read

TIME = datetime(2026, 11, 5, 12, 30, 1, 234_567, tzinfo=UTC)


def make(clock: Clock | None = None) -> RecordBuilder:
    return RecordBuilder(Arrival(TIME, "req-1"), Timeline(clock or Clock()))


def shown(made: RecordBuilder) -> dict[str, Any]:
    return made.build(Sent(), PRICES).as_json()


def test_a_head_a_key_and_what_was_sent_arrive_under_their_names() -> None:
    arrival = Arrival(TIME, "req-1", "192.0.2.1", "edits", "/v1/images/edits", "curl/8")
    made = RecordBuilder(arrival, Timeline(Clock()))
    made.key = key(key_id="k", key_name="n", group_id="g", owner_id="o")
    made.body_form = "multipart"
    built = made.build(Sent(200, 12, 34), PRICES).as_json()
    assert {name: value for name, value in built.items() if value is not None} == {
        "schema_version": 2,
        "time": "2026-11-05T12:30:01.234Z",
        "request_id": "req-1",
        "client_address": "192.0.2.1",
        "user_agent": "curl/8",
        "key_id": "k",
        "key_name": "n",
        "group_id": "g",
        "owner_id": "o",
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


def test_a_request_names_its_call_and_who_started_it() -> None:
    made = make()
    assert {name for name, value in shown(made).items() if name.startswith("call_") and value} == (
        set()
    )
    made.found_call = FoundCall("0123abcd", CallSource.TAKEN_OVER, "req-0")
    built = json.loads(json.dumps(shown(made)))
    assert (built["call_id"], built["call_source"], built["call_request_id"]) == (
        "0123abcd",
        "taken-over",
        "req-0",
    )
    assert (built["request_id"], built["attempts"], built["usage"]) == ("req-1", [], None)


def test_the_first_failure_is_the_one_that_counts() -> None:
    made = make()
    made.fail("upstream_cut", Source.UPSTREAM)
    made.fail("client_left", Source.CLIENT)
    built = shown(made)
    assert (built["error_code"], built["error_source"]) == ("upstream_cut", "upstream")


def test_the_account_that_answers_is_named_and_every_attempt_is_kept() -> None:
    made = make()
    first = AttemptRecord("a", "codex", action=Action.NEXT, upstream_ms=20)
    made.attempt(first, Called("/codex/images/generations"))
    made.attempt(
        AttemptRecord("b", "azure", upstream_ms=22), Called("/openai/v1/images/generations")
    )
    built = shown(made)
    assert built["upstream_path"] == "/openai/v1/images/generations"
    assert (built["account_name"], built["dialect"]) == ("b", "azure")
    assert [each["account_name"] for each in built["attempts"]] == ["a", "b"]
    assert built["upstream_ms"] == 42
    made.answering = first
    assert shown(made)["account_name"] == "a"
    made.answering = None
    assert (shown(made)["account_name"], shown(made)["dialect"]) == (None, None)


def test_a_request_that_breaks_off_may_be_billed_for_what_was_sent() -> None:
    made = make()
    made.attempt(AttemptRecord("a", "codex", stage=Stage.CONNECT), Called("/path"))
    made.break_off()
    assert not made.may_be_billed
    made.attempt(AttemptRecord("b", "codex", stage=Stage.SENT), Called("/path"))
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


GIVEN = ("size_given", "quality_given", "background_given")


@pytest.mark.parametrize(
    ("source", "given"),
    [
        (
            {"size": "1536x1024", "quality": "low", "background": "opaque"},
            ("1536x1024", "low", "opaque"),
        ),
        ({"size": None, "b64_json": "\x000"}, (None, None, None)),
        ({"size": 5, "quality": "\x001", "background": "a red cat"}, (None, None, None)),
        ({"size": "x" * 33, "quality": "x" * 32}, (None, "x" * 32, None)),
        ({}, (None, None, None)),
    ],
)
def test_what_came_back_is_recorded_beside_what_was_asked(
    source: dict[str, object], given: tuple[str | None, ...]
) -> None:
    made = make()
    made.asked = Asked(size="auto", quality="high")
    made.made = Made.of(2, {"total_tokens": 3, "more": {"x": 1}}, source)
    built = shown(made)
    assert (built["response_image_count"], built["usage"]) == (2, {"total_tokens": 3})
    assert (built["size"], built["quality"]) == ("auto", "high")
    assert tuple(built[name] for name in GIVEN) == given


def test_size_and_quality_stay_known_where_the_next_picture_does_not_say_them() -> None:
    first = Made.of(1, None, {"size": "1536x1024", "quality": "low"})
    second = Made.of(2, None, {"quality": "high"}, first)
    assert (second.pictures, second.size, second.quality) == (2, "1536x1024", "high")


def test_an_answer_may_report_three_usages() -> None:
    made = make()
    svg = {"model": "gpt-5.5", "output_tokens": 4}
    made.made = Made.of(
        1, {"input_tokens": 1}, {"svg_usage": svg}, usage_text={"output_tokens": 2, "x": "hush"}
    )
    built = shown(made)
    assert built["usage"] == {"input_tokens": 1}
    assert built["usage_text"] == {"output_tokens": 2}
    assert built["svg_usage"] == svg


# -- what it costs ---------------------------------------------------------------------------


USED = {"input_tokens": 10, "output_tokens": 1000, "total_tokens": 1010}
MAIN = Price(text_in=Decimal(1), cached_text_in=Decimal("0.1"), text_out=Decimal(10))
DETAILED = {**USED, "input_tokens_details": {"text_tokens": 4, "image_tokens": 6}}


PLAIN = Called("/path")


def cost(
    made: Made | None,
    dialect: str = "openai",
    endpoint: str = "generations",
    model: str = "gpt-image-2",
    called: Called = PLAIN,
) -> object:
    record = RecordBuilder(Arrival(TIME, "req-1", endpoint=endpoint), Timeline(Clock()))
    record.asked = Asked(upstream_model=model)
    record.attempt(AttemptRecord("a", dialect), called)
    record.made = made
    prices = Prices({**PRICES.models, "gpt-5.5": MAIN})
    return record.build(Sent(), prices).as_json()["cost_usd"]


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [("openai", 0.03005), ("azure", 0.03005), ("codex", None), ("unknown", None)],
)
def test_a_picture_costs_where_its_upstream_has_a_price_for_it(
    dialect: str, expected: float | None
) -> None:
    assert cost(Made(1, USED), dialect=dialect) == expected


def test_a_call_that_brought_nothing_has_no_known_cost() -> None:
    assert cost(None) is None
    assert cost(Made(1)) is None
    assert make().build(Sent(), PRICES).cost_usd is None


def test_only_a_generation_is_known_to_have_no_pictures_in() -> None:
    assert cost(Made(1, USED), endpoint="edits") is None
    assert cost(Made(1, DETAILED), endpoint="edits") == 0.030068


@pytest.mark.parametrize(
    ("model", "called", "expected"),
    [
        ("gpt-5.5", Called("/p", "gpt-image-2", "other"), 0.030068 + 0.00019),
        ("gpt-image-2", Called("/p", "gpt-image-2.6-flare", "gpt-5.5-2026"), 0.030068 + 0.00019),
        ("gpt-image-2", Called("/p", "gpt-image-2"), None),
        ("gpt-image-2", Called("/p", None, "gpt-5.5"), None),
        ("gpt-image-2", Called("/p", "gpt-image-9", "gpt-5.5"), None),
        ("gpt-7", Called("/p", "gpt-image-2", "gpt-5.5"), None),
    ],
)
def test_a_responses_call_costs_its_pictures_and_its_main_model(
    model: str, called: Called, expected: float | None
) -> None:
    made = Made(1, DETAILED, {"input_tokens": 90, "output_tokens": 10})
    found = cost(made, endpoint="responses", model=model, called=called)
    assert found == (None if expected is None else round(expected, 6))


def intended(**body: object) -> Asked:
    value, lifted = read(json.dumps({"input": "a cat", **body}).encode())
    return Asked.of_intent(intent.parse(value, lifted, ModelNames(key()), "gpt-image-2"), b"key")


TOOL = {"type": "image_generation", "size": "1024x1024", "quality": "low"}


def test_an_intent_asks_by_its_tool() -> None:
    asked = intended(model="gpt-5", tools=[{"type": "web_search"}, TOOL])
    assert (asked.size, asked.quality) == ("1024x1024", "low")
    asked = intended(model="gpt-5", tools=[{**TOOL, "size": "hush " * 2000, "quality": 5}])
    assert (asked.size, asked.quality) == (None, None)


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
