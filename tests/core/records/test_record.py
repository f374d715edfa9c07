"""The record: exactly the promised fields, and none that could hold what nobody may see."""

import json
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.calls.model import CallSource
from image_gateway.core.errors import Source
from image_gateway.core.records import record
from image_gateway.core.records.record import AttemptRecord, Record
from image_gateway.core.routing.failover import Action, Stage

FIELDS = (
    "schema_version",
    "time",
    "request_id",
    "call_id",
    "call_source",
    "call_request_id",
    "client_address",
    "user_agent",
    "key_id",
    "key_name",
    "group_id",
    "owner_id",
    "endpoint",
    "path",
    "body_form",
    "request_bytes",
    "model",
    "upstream_model",
    "size",
    "quality",
    "n",
    "stream",
    "input_image_count",
    "input_image_bytes",
    "prompt_chars",
    "prompt_hmac",
    "status",
    "error_code",
    "error_source",
    "account_name",
    "dialect",
    "upstream_path",
    "attempts",
    "response_bytes",
    "response_image_count",
    "size_given",
    "quality_given",
    "background_given",
    "usage",
    "usage_text",
    "svg_usage",
    "cost_usd",
    "auth_ms",
    "body_ms",
    "wait_ms",
    "upstream_ms",
    "stream_ms",
    "total_ms",
    "client_left",
    "may_be_billed",
)
ATTEMPT_FIELDS = (
    "account_name",
    "dialect",
    "stage",
    "status",
    "error_code",
    "action",
    "upstream_ms",
    "reason",
)
TIME = datetime(2026, 11, 5, 12, 30, 1, 234_567, tzinfo=UTC)


def shown(**facts: Any) -> dict[str, Any]:
    """The JSON of a record of which only these facts are known."""
    return Record(TIME, "req-1", **facts).as_json()


def test_the_fields_are_exactly_the_promised_ones_in_their_order() -> None:
    assert record.FIELDS == FIELDS
    assert tuple(shown()) == FIELDS


def test_an_attempt_has_exactly_the_promised_fields_in_their_order() -> None:
    assert tuple(shown(attempts=(AttemptRecord("a", "codex"),))["attempts"][0]) == ATTEMPT_FIELDS


def test_what_is_not_known_is_null() -> None:
    built = shown()
    assert built["schema_version"] == 2
    known = {"schema_version", "time", "request_id", "attempts", "client_left", "may_be_billed"}
    assert {name for name, value in built.items() if value is None} == set(FIELDS) - known
    assert built["attempts"] == []
    assert built["client_left"] is False
    assert built["may_be_billed"] is False


@pytest.mark.parametrize("source", [None, *CallSource])
@pytest.mark.parametrize("failed", [None, *Source])
def test_a_request_that_found_a_call_saves_a_purchase_unless_the_gateway_failed_it(
    source: CallSource | None, failed: Source | None
) -> None:
    """Also one whose client has left again: it would have bought another picture."""
    found = source in {CallSource.JOINED, CallSource.TAKEN_OVER, CallSource.REPLAYED}
    assert record.saves_purchase(source, failed) == (found and failed is not Source.GATEWAY)


@pytest.mark.parametrize("odd", ["bought", 5, [], {}, True])
def test_what_is_no_way_to_a_call_saves_nothing(odd: object) -> None:
    assert not record.saves_purchase(odd, None)
    assert record.saves_purchase("joined", odd)


def test_every_fact_arrives_under_its_own_name() -> None:
    facts: dict[str, Any] = {
        name: f"value of {name}"
        for name in FIELDS
        if name not in {"schema_version", "time", "request_id", "attempts"}
    }
    built = shown(**facts)
    assert {name: built[name] for name in facts} == facts


def test_every_fact_of_an_attempt_arrives_under_its_own_name() -> None:
    facts: dict[str, Any] = {name: f"value of {name}" for name in ATTEMPT_FIELDS}
    other = AttemptRecord("b", "codex", status=500, upstream_ms=7)
    assert shown(attempts=(AttemptRecord(**facts), other))["attempts"] == [
        facts,
        {
            "account_name": "b",
            "dialect": "codex",
            "stage": None,
            "status": 500,
            "error_code": None,
            "action": None,
            "upstream_ms": 7,
            "reason": None,
        },
    ]


def test_the_time_is_rfc_3339_in_utc() -> None:
    assert shown()["time"] == "2026-11-05T12:30:01.234Z"


@given(st.datetimes(timezones=st.just(UTC)))
def test_any_time_can_be_read_back(moment: datetime) -> None:
    text = Record(moment, "req-1").as_json()["time"]
    assert isinstance(text, str)
    assert text.endswith("Z")
    assert abs((datetime.fromisoformat(text) - moment).total_seconds()) < 0.001


def test_texts_are_cut_to_256_characters_everywhere() -> None:
    long = "é" * 300
    attempt = AttemptRecord(long, long, error_code=long)
    built = shown(path=long, model=long, size=long, attempts=(attempt,))
    for name in ("path", "model", "size"):
        assert built[name] == "é" * 256
    for name in ("account_name", "dialect", "error_code"):
        assert built["attempts"][0][name] == "é" * 256
    assert shown(path="x" * 256)["path"] == "x" * 256


def test_a_long_list_of_attempts_is_whole() -> None:
    attempts = tuple(AttemptRecord(f"a{number}", "codex") for number in range(300))
    assert len(shown(attempts=attempts)["attempts"]) == 300


def test_a_record_is_plain_json() -> None:
    attempt = AttemptRecord("a", "codex", stage=Stage.ANSWER, action=Action.DELIVER, status=200)
    built = shown(error_source=Source.UPSTREAM, attempts=(attempt,), usage={"input_tokens": 1})
    assert json.loads(orjson.dumps(built)) == built
    assert type(built["error_source"]) is str
    assert built["attempts"][0]["stage"] == "answer"
    assert type(built["attempts"][0]["action"]) is str


def test_an_attempt_that_goes_on_does_not_change_what_was_written() -> None:
    attempt = AttemptRecord("a", "codex")
    built = shown(attempts=(attempt,))
    attempt.status = 500
    assert [each["status"] for each in built["attempts"]] == [None]


@pytest.mark.parametrize(
    ("stage", "action", "expected"),
    [
        (Stage.CONNECT, None, False),
        (Stage.CONNECT, Action.NEXT, False),
        (Stage.SENT, None, True),
        (Stage.SENT, Action.NEXT, False),
        (Stage.SENT, Action.REPLACE, False),
        (Stage.ANSWER, None, True),
        (Stage.STREAM, Action.DELIVER, True),
        (Stage.ANSWER, Action.RETURN, False),
    ],
)
def test_an_attempt_that_was_sent_and_did_not_end_may_be_billed(
    stage: Stage, action: Action | None, *, expected: bool
) -> None:
    assert AttemptRecord("a", "codex", stage, action=action).may_be_billed is expected
