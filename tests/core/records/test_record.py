"""The record: exactly the promised fields, and none that could hold what nobody may see."""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.errors import Source, UpstreamError
from image_gateway.core.records import record
from image_gateway.core.records.record import AttemptRecord, RecordBuilder
from image_gateway.core.routing.failover import Action, Stage
from tests.core.builders import PNG, key, parse, split

FIELDS = (
    "schema_version",
    "time",
    "request_id",
    "client_address",
    "key_id",
    "key_name",
    "group_id",
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
    "attempts",
    "response_bytes",
    "response_image_count",
    "usage",
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
)
_TIME = datetime(2026, 11, 5, 12, 30, 1, 234_567, tzinfo=UTC)


def _draft(**changes: Any) -> RecordBuilder:
    return RecordBuilder(_TIME, "req-1", **changes)


def test_the_fields_are_exactly_the_promised_ones_in_their_order() -> None:
    assert record.FIELDS == FIELDS
    assert tuple(record.build(_draft())) == FIELDS


def test_an_attempt_has_exactly_the_promised_fields_in_their_order() -> None:
    built = record.build(_draft(attempts=[AttemptRecord("a", "codex")]))
    assert isinstance(built["attempts"], list)
    assert tuple(built["attempts"][0]) == ATTEMPT_FIELDS


def test_what_is_not_known_is_null() -> None:
    built = record.build(_draft())
    assert built["schema_version"] == 1
    known = {"schema_version", "time", "request_id", "attempts", "client_left", "may_be_billed"}
    assert {name for name, value in built.items() if value is None} == set(FIELDS) - known
    assert built["attempts"] == []
    assert built["client_left"] is False
    assert built["may_be_billed"] is False


def test_every_fact_arrives_under_its_own_name() -> None:
    facts: dict[str, Any] = {
        name: f"value of {name}"
        for name in FIELDS
        if name not in {"schema_version", "time", "request_id", "attempts"}
    }
    built = record.build(_draft(**facts))
    assert {name: built[name] for name in facts} == facts


def test_every_fact_of_an_attempt_arrives_under_its_own_name() -> None:
    facts: dict[str, Any] = {name: f"value of {name}" for name in ATTEMPT_FIELDS}
    other = AttemptRecord("b", "codex", status=500, upstream_ms=7)
    built = record.build(_draft(attempts=[AttemptRecord(**facts), other]))
    assert built["attempts"] == [
        facts,
        {
            "account_name": "b",
            "dialect": "codex",
            "stage": None,
            "status": 500,
            "error_code": None,
            "action": None,
            "upstream_ms": 7,
        },
    ]


def test_the_time_is_rfc_3339_in_utc() -> None:
    assert record.build(_draft())["time"] == "2026-11-05T12:30:01.234Z"


@given(st.datetimes(timezones=st.just(UTC)))
def test_any_time_can_be_read_back(moment: datetime) -> None:
    text = record.build(RecordBuilder(moment, "req-1"))["time"]
    assert isinstance(text, str)
    assert text.endswith("Z")
    found = datetime.fromisoformat(text)
    assert abs((found - moment).total_seconds()) < 0.001


def test_texts_are_cut_to_256_characters_everywhere() -> None:
    long = "é" * 300
    attempt = AttemptRecord(long, long, error_code=long)
    built = record.build(_draft(path=long, model=long, size=long, attempts=[attempt]))
    for name in ("path", "model", "size"):
        assert built[name] == "é" * 256
    assert isinstance(built["attempts"], list)
    for name in ("account_name", "dialect", "error_code"):
        assert built["attempts"][0][name] == "é" * 256
    assert record.build(_draft(path="x" * 256))["path"] == "x" * 256


def test_a_long_list_of_attempts_is_whole() -> None:
    attempts = [AttemptRecord(f"a{number}", "codex") for number in range(300)]
    built = record.build(_draft(attempts=attempts))
    assert isinstance(built["attempts"], list)
    assert len(built["attempts"]) == 300


def test_a_record_is_plain_json() -> None:
    attempt = AttemptRecord("a", "codex", stage=Stage.ANSWER, action=Action.DELIVER, status=200)
    built = record.build(
        _draft(error_source=Source.UPSTREAM, attempts=[attempt], usage={"input_tokens": 1})
    )
    assert json.loads(orjson.dumps(built)) == built
    assert type(built["error_source"]) is str
    assert isinstance(built["attempts"], list)
    assert built["attempts"][0]["stage"] == "answer"
    assert type(built["attempts"][0]["action"]) is str


def test_a_draft_that_goes_on_does_not_change_a_record() -> None:
    draft = _draft(attempts=[AttemptRecord("a", "codex")])
    built = record.build(draft)
    draft.attempts[0].status = 500
    draft.attempts.append(AttemptRecord("b", "codex"))
    assert isinstance(built["attempts"], list)
    assert [attempt["status"] for attempt in built["attempts"]] == [None]


def test_drafts_share_no_attempts() -> None:
    first, second = _draft(), _draft()
    first.attempts.append(AttemptRecord("a", "codex"))
    assert second.attempts == []


# -- what is noted ---------------------------------------------------------------------------


def test_a_key_is_noted_by_its_names_alone() -> None:
    draft = _draft()
    draft.record_key(key(key_id="k", key_name="n", group_id="g"))
    built = record.build(draft)
    assert (built["key_id"], built["key_name"], built["group_id"]) == ("k", "n", "g")
    assert "c0ffee" not in repr(built)


def test_a_request_is_noted_without_its_prompt_and_its_pictures() -> None:
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
    draft = _draft()
    draft.record_request(parse(value, "edits", model_map={"public": "inner"}), b"key")
    built = record.build(draft)
    assert "hush" not in repr(built)
    assert "base64" not in repr(built)
    noted = {name: item for name, item in built.items() if item is not None}
    assert noted == {
        "schema_version": 1,
        "time": "2026-11-05T12:30:01.234Z",
        "request_id": "req-1",
        "model": "public",
        "upstream_model": "inner",
        "size": "1024x1024",
        "quality": "high",
        "n": 3,
        "stream": False,
        "input_image_count": 4,
        "input_image_bytes": 18 + 6000 + 18,
        "prompt_chars": 500,
        "prompt_hmac": record.prompt_hmac(b"key", secret),
        "attempts": [],
        "client_left": False,
        "may_be_billed": False,
    }


def test_what_a_request_did_not_ask_for_is_null() -> None:
    draft = _draft()
    draft.record_request(parse({"stream": True}), b"key")
    built = record.build(draft)
    assert (built["size"], built["quality"], built["n"]) == (None, None, 1)
    assert (built["stream"], built["input_image_count"], built["input_image_bytes"]) == (True, 0, 0)


def test_the_first_failure_is_the_one_that_counts() -> None:
    draft = _draft()
    draft.record_failure("upstream_cut", Source.UPSTREAM)
    draft.record_failure("client_left", Source.CLIENT)
    built = record.build(draft)
    assert (built["error_code"], built["error_source"]) == ("upstream_cut", "upstream")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UpstreamError(code="moderation_blocked", type="t"), "moderation_blocked"),
        (UpstreamError(type="server_error"), "server_error"),
        (UpstreamError(code="404"), "404"),
        (UpstreamError(code="a.b-c_D9"), "a.b-c_D9"),
        (UpstreamError(code="x" * 64), "x" * 64),
        (UpstreamError(code="x" * 65), None),
        (UpstreamError(code="The prompt: a cat"), None),
        (UpstreamError(code="a\n"), None),
        (UpstreamError(code="\u0661"), None),
        (UpstreamError("message only"), None),
        (UpstreamError(), None),
    ],
)
def test_an_upstream_s_code_is_a_code_and_no_sentence(
    error: UpstreamError, expected: str | None
) -> None:
    assert record.upstream_code(error) == expected


# -- the prompt's hash -----------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=40), st.text(max_size=40))
def test_the_prompt_s_hash_is_an_hmac_under_the_key(secret: bytes, prompt: str) -> None:
    encoded = prompt.encode("utf-8", "surrogatepass")
    made = record.prompt_hmac(secret, prompt)
    assert made == hmac.digest(secret, encoded, "sha256").hex()
    assert made != hashlib.sha256(encoded).hexdigest()


def test_half_a_surrogate_pair_can_be_hashed_too() -> None:
    assert len(record.prompt_hmac(b"key", "\ud83d")) == 64


def test_another_key_or_prompt_gives_another_hash() -> None:
    hashes = {record.prompt_hmac(each, prompt) for each in (b"k1", b"k2") for prompt in ("a", "b")}
    assert len(hashes) == 4


def test_a_hash_fits_a_record() -> None:
    made = record.prompt_hmac(b"key", "a cat")
    assert record.build(_draft(prompt_hmac=made))["prompt_hmac"] == made
    assert len(made) == 64


# -- what an answer says ---------------------------------------------------------------------


def _metered(chunks: list[bytes], **known: Any) -> RecordBuilder:
    draft, meter = _draft(**known), record.AnswerMeter()
    for chunk in chunks:
        meter.feed(chunk)
    meter.close(draft)
    return draft


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
    assert record.sums(usage) == expected
    draft = _metered([json.dumps({"data": [], "usage": usage}).encode()])
    assert draft.usage == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"data": [{"b64_json": "x"}, {"url": "y"}]}, 2),
        ({"data": [{}], "n": 5}, 1),
        ({"data": []}, 0),
        ({"data": {"0": {}}}, 0),
        ({"data": None}, 0),
        ({"data": "xx"}, 0),
        ({}, 0),
        ([], None),
        ([[1, 2]], None),
        (None, None),
        ("data", None),
    ],
)
def test_pictures_are_counted_not_believed(answer: object, expected: int | None) -> None:
    assert _metered([json.dumps(answer).encode()]).response_image_count == expected


@pytest.mark.parametrize(
    ("first", "size", "quality"),
    [
        ({"size": "1536x1024", "quality": "low"}, "1536x1024", "low"),
        ({"size": None, "b64_json": "\x000"}, "auto", "high"),
        ({"size": 5, "quality": "\x001"}, "auto", "high"),
        ({}, "auto", "high"),
    ],
)
def test_what_came_back_is_noted_and_what_it_does_not_say_stays_as_asked(
    first: dict[str, object], size: str, quality: str
) -> None:
    draft = _draft(size="auto", quality="high")
    draft.record_answer(2, {"total_tokens": 3, "more": {"x": 1}}, first)
    assert (draft.response_image_count, draft.usage) == (2, {"total_tokens": 3})
    assert (draft.size, draft.quality) == (size, quality)
    draft.record_answer(1, None, {})
    assert (draft.response_image_count, draft.usage) == (1, None)


_ANSWERS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63),
        st.floats(allow_nan=False, allow_infinity=False),  # JSON has neither
        st.text(max_size=4),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["usage", "data", "input_tokens", "output_tokens", "total_tokens"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


@given(_ANSWERS)
def test_no_answer_is_too_hostile_to_be_counted(answer: object) -> None:
    draft = _metered([json.dumps({"data": answer, "usage": answer}).encode()])
    usage, count = draft.usage, draft.response_image_count
    assert usage == record.sums(answer)
    assert count is None or (type(count) is int and count >= 0)
    if usage is not None:
        assert usage
        assert set(usage) <= {"input_tokens", "output_tokens", "total_tokens"}
        assert all(type(value) is int for value in usage.values())


_ANSWER = {
    "data": [{"b64_json": "A" * 9000}, {"url": "https://hush.example/"}],
    "size": "1024x1536",
    "quality": "low",
    "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "more": {"x": 4}},
}


@given(st.data())
def test_an_answer_is_counted_on_its_way_in_whatever_pieces_it_comes(data: st.DataObject) -> None:
    text = json.dumps(_ANSWER).encode()
    draft = _metered(data.draw(split(text)))
    assert draft.response_image_count == 2
    assert draft.usage == {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    assert (draft.size, draft.quality) == ("1024x1536", "low")


@pytest.mark.parametrize("answer", [{}, {"size": None, "quality": 5}, {"size": "x" * 5000}, []])
def test_what_came_back_replaces_what_was_asked_for_only_where_it_says_so(answer: Any) -> None:
    draft = _metered([json.dumps(answer).encode()], size="auto", quality="high")
    assert (draft.size, draft.quality) == ("auto", "high")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"]",
        b"[]",
        b"null",
        b'{"data":[{}]',
        b'{"data":[1]} x',
        b'{"data":["\\u0000"]}',
        b"[" * 100,
        b'{"data":[1]}\xff',
    ],
)
def test_an_answer_that_cannot_be_read_passes_uncounted_and_may_be_billed(text: bytes) -> None:
    for chunks in ([text], [text[at : at + 1] for at in range(len(text))], [text, b"more", b"}"]):
        draft = _metered(chunks, size="auto")
        assert (draft.response_image_count, draft.usage, draft.size) == (None, None, "auto")
        assert draft.may_be_billed


@pytest.mark.parametrize(
    "more",
    [
        b'"revised_prompt":"cut \\ud83d"',
        b'"revised_prompt":"\\ude00 cut"',
        b'"cut \\ud83d":1',
        b'"values":[' + b"1," * 200_000 + b"1]",
    ],
)
def test_an_odd_answer_is_counted_as_far_as_it_can_be_read(more: bytes) -> None:
    """Half a surrogate pair, and more values than a client may send: paid for all the same."""
    text = b'{"data":[{"b64_json":"AA==",%b},{}],"usage":{"total_tokens":7}}' % more
    draft = _metered([text])
    assert (draft.response_image_count, draft.usage) == (2, {"total_tokens": 7})
    assert not draft.may_be_billed


def test_an_answer_of_more_than_its_bound_is_not_held() -> None:
    chunk = b"1," * 8192
    meter, draft = record.AnswerMeter(), _draft()
    meter.feed(b'{"values":[')
    for _ in range(1024):
        meter.feed(chunk)
    assert meter._skeleton is None
    assert meter.close(draft)
    assert draft.may_be_billed


@pytest.mark.parametrize("inside", [b"\n", b"\\q", b"\xff", b"\\ud800"])
def test_a_picture_is_only_counted_and_not_checked(inside: bytes) -> None:
    """It passes through as it is; checking it would cost half of passing it on."""
    text = b'{"data":[{"b64_json":"' + b"A" * 9000 + inside + b'"},{}]}'
    assert _metered([text]).response_image_count == 2
    assert _metered([text[:5000], text[5000:]]).response_image_count == 2


def test_an_answer_that_was_broken_once_stays_uncounted() -> None:
    draft = _metered([b"]", b'{"data":[{}],"size":"1x1"}'])
    assert (draft.response_image_count, draft.size) == (None, None)


@given(st.binary(max_size=40), _ANSWERS)
def test_no_answer_stops_the_meter(junk: bytes, answer: object) -> None:
    text = json.dumps(answer).encode()
    data = answer.get("data") if isinstance(answer, dict) else None
    pictures = len(data) if isinstance(data, list) else 0
    expected = pictures if isinstance(answer, dict) else None
    assert _metered([text]).response_image_count in {expected, None}
    assert tuple(record.build(_metered([junk, text]))) == record.FIELDS
