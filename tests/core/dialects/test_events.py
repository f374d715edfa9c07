"""What upstreams' events mean, and that what a client gets of them is whole and can be read."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core import errors
from image_gateway.core.codec import body_segments, json_scanner, json_skeleton
from image_gateway.core.codec.body_segments import Body
from image_gateway.core.codec.sse import EventSplitter
from image_gateway.core.dialects import events
from image_gateway.core.dialects.events import Event, EventKind, ParsedEvent, UrlEntry
from image_gateway.core.dialects.response_events import ResponseReader
from image_gateway.core.errors import UpstreamError
from image_gateway.core.request.catalogue import Endpoint
from tests.core.builders import play

G: Endpoint = "generations"
E: Endpoint = "edits"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
_WEBP = base64.b64encode(b"RIFF\0\0\0\0WEBP" + b"\xff\xfb" * 4000).decode()
SHARED = {"background": "opaque", "output_format": "png", "quality": "low", "size": "1x1"}


def event_of(value: object, name: str | None = None) -> tuple[Event, bytes]:
    """An event as it comes, and the spool that its long strings lie in."""
    text = json.dumps(value).encode()
    skeleton = json_skeleton.JsonSkeleton()
    skeleton.feed(text)
    return Event(name, skeleton.close(), skeleton.lifted), text


def happens(value: object, name: str | None = None) -> ParsedEvent:
    return events.read_image_event(event_of(value, name)[0])


def reads(*values: object) -> list[ParsedEvent]:
    reader = ResponseReader()
    return [reader.read(event_of(value)[0]) for value in values]


@pytest.mark.parametrize("error", ["", {}, {"code": None}, "warning: slow", None])
@pytest.mark.parametrize("kind", ["image_generation", "image_edit"])
def test_a_finished_picture_is_one_whatever_stands_beside_it(kind: str, error: object) -> None:
    picture = {"type": f"{kind}.completed", "b64_json": PNG, "error": error}
    assert happens(picture).kind is EventKind.PICTURE
    assert happens({**picture, "b64_json": "", "error": error or {}}).kind is EventKind.FAILURE
    partial = {**picture, "type": f"{kind}.partial_image", "error": {"message": "no"}}
    assert happens(partial).kind is EventKind.FAILURE


# -- an event itself -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        (None, {"type": "a"}, "a"),
        ("b", {"type": "a"}, "a"),
        ("b", {}, "b"),
        ("b", {"type": None}, "b"),
        ("b", {"type": 5}, "b"),
        ("b", {"type": ""}, "b"),
        ("b", {"type": "x" * 5000}, "b"),
        ("b", [], "b"),
        ("b", None, "b"),
        (None, "text", ""),
        (None, {}, ""),
    ],
)
def test_an_event_is_what_its_data_calls_it_else_its_own_name(
    name: str | None, value: object, kind: str
) -> None:
    assert event_of(value, name)[0].kind() == kind


def test_an_event_does_not_show_what_it_holds() -> None:
    event, _ = event_of({"b64_json": "hush"})
    assert "hush" not in repr(event)
    assert "hush" not in repr(events.read_image_event(event))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x", "x"),
        ("", ""),
        (json_skeleton.placeholder(0), None),
        (5, None),
        (None, None),
        ([], None),
    ],
)
def test_a_text_is_one_that_is_really_here(value: object, expected: str | None) -> None:
    assert events.text(value) == expected


# -- usage -----------------------------------------------------------------------------------

_USAGE = st.recursive(
    st.integers(0, 10**12),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3),
    max_leaves=6,
).filter(lambda value: isinstance(value, dict))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            {"input_tokens": 1, "input_tokens_details": {"image_tokens": 1, "text_tokens": 0}},
            {"input_tokens": 1, "input_tokens_details": {"image_tokens": 1, "text_tokens": 0}},
        ),
        ({"a": 1, "b": "hush", "c": True, "d": 1.5, "e": None, "f": [1]}, {"a": 1}),
        ({"a": {"b": {"c": 0, "d": "x"}}, "e": {"f": "x"}}, {"a": {"b": {"c": 0}}}),
        ({"a": "x"}, None),
        ({"a": {}}, None),
        ({"a": 2**53, "b": 2**53 + 1, "c": -1}, {"a": 2**53}),
        ({}, None),
        ([1], None),
        (5, None),
        ("hush", None),
        (None, None),
    ],
)
def test_usage_is_counts_and_nothing_else(value: object, expected: object) -> None:
    assert events.usage(value) == expected


@given(_USAGE)
def test_counts_are_kept_as_they_are(usage: dict[str, Any]) -> None:
    assert events.usage(usage) == usage


def _flat(usage: Mapping[str, Any] | None, at: str = "") -> dict[str, int]:
    found: dict[str, int] = {}
    for name, count in (usage or {}).items():
        found |= (
            _flat(count, f"{at}/{name}") if isinstance(count, dict) else {f"{at}/{name}": count}
        )
    return found


def test_usages_are_added_name_by_name() -> None:
    one = {"total_tokens": 3, "details": {"image_tokens": 1, "only": 7}, "first": 1}
    other = {"total_tokens": 4, "details": {"image_tokens": 2}, "second": {"x": 1}}
    assert events.add_usage(one, other) == {
        "total_tokens": 7,
        "details": {"image_tokens": 3, "only": 7},
        "first": 1,
        "second": {"x": 1},
    }
    assert one == {"total_tokens": 3, "details": {"image_tokens": 1, "only": 7}, "first": 1}


@given(st.lists(st.none() | st.dictionaries(st.sampled_from("ab"), st.integers(0, 9)), max_size=5))
def test_a_sum_of_usages_is_the_sum_of_each_name(usages: list[dict[str, int] | None]) -> None:
    total: Mapping[str, object] | None = None
    for usage in usages:
        total = events.add_usage(total, usage)
    for name in "ab":
        expected = sum((usage or {}).get(name, 0) for usage in usages)
        assert _flat(total).get(f"/{name}", 0) == expected


@given(st.none() | _USAGE, st.none() | _USAGE)
def test_no_name_of_a_usage_is_lost(one: Any, other: Any) -> None:
    total = events.add_usage(one, other)
    assert set(total or {}) == set(one or {}) | set(other or {})


# -- failures --------------------------------------------------------------------------------

_FAILURES: list[tuple[dict[str, Any], int, UpstreamError]] = [
    # nested
    (
        {"error": {"message": "m", "type": "t", "param": "p", "code": "rate_limit_exceeded"}},
        429,
        UpstreamError("m", "t", "p", "rate_limit_exceeded"),
    ),
    (
        {
            "error": {
                "message": "m",
                "type": "image_generation_user_error",
                "code": "moderation_blocked",
            }
        },
        400,
        UpstreamError("m", "image_generation_user_error", None, "moderation_blocked"),
    ),
    (
        {"error": {"message": "m", "type": "usage_limit_reached", "resets_in_seconds": 60}},
        429,
        UpstreamError("m", "usage_limit_reached", resets_in_seconds=60.0),
    ),
    (
        {"error": {"message": "m", "code": "server_error"}},
        500,
        UpstreamError("m", code="server_error"),
    ),
    ({"error": {"code": "slow_down"}}, 503, UpstreamError(code="slow_down")),
    ({"error": {"type": "error", "message": "m"}}, 500, UpstreamError("m", "error")),
    ({"error": {}}, 500, UpstreamError()),
    # flat
    (
        {"code": "content_policy_violation", "message": "m"},
        400,
        UpstreamError("m", code="content_policy_violation"),
    ),
    (
        {"code": "model_not_found", "message": "m", "param": "model"},
        404,
        UpstreamError("m", None, "model", "model_not_found"),
    ),
    ({"message": "m"}, 500, UpstreamError("m")),
    ({"error": None, "code": "token_expired"}, 401, UpstreamError(code="token_expired")),
    ({}, 500, UpstreamError()),
    # as text
    ({"error": "m"}, 500, UpstreamError("m")),
    ({"error": "m", "status": 400}, 400, UpstreamError("m")),
    # the status it names goes before what its code would mean
    ({"error": {"message": "m", "code": "x"}, "status": 429}, 429, UpstreamError("m", code="x")),
    ({"error": {"message": "m", "status_code": 503}}, 503, UpstreamError("m")),
    ({"status_code": 529, "message": "m"}, 529, UpstreamError("m")),
    # what is no status of an error is none
    ({"error": {"message": "m", "status": 200}}, 500, UpstreamError("m")),
    ({"error": {"message": "m", "status": "429"}}, 500, UpstreamError("m")),
    ({"error": {"message": "m", "status": 700}}, 500, UpstreamError("m")),
    ({"error": {"message": "m", "status": True}}, 500, UpstreamError("m")),
    # content of megabytes is none of an error's words
    (
        {"error": {"message": "m" * 5000, "code": "moderation_blocked"}},
        400,
        UpstreamError(code="moderation_blocked"),
    ),
    ({"error": "m" * 5000}, 500, UpstreamError()),
]


def _is_failure(found: ParsedEvent, status: int, error: UpstreamError) -> None:
    """With the words of its own; an error without any has at least ours."""
    assert found.error.message
    said = found.error if error.message is not None else replace(found.error, message=None)
    assert replace(found, error=said) == ParsedEvent(EventKind.FAILURE, status=status, error=error)


@pytest.mark.parametrize(("fields", "status", "error"), _FAILURES)
def test_a_failure_has_the_status_it_would_have_had_without_a_stream(
    fields: dict[str, Any], status: int, error: UpstreamError
) -> None:
    flat = {"type": "error", **fields}
    for found in (happens(flat), happens(fields, "error"), *reads(flat)):
        _is_failure(found, status, error)


@pytest.mark.parametrize(("fields", "status", "error"), _FAILURES)
def test_a_failed_response_is_that_failure(
    fields: dict[str, Any], status: int, error: UpstreamError
) -> None:
    if isinstance(fields.get("error"), dict) and "status" not in fields:
        failed = {"type": "response.failed", "response": {"status": "failed", **fields}}
        [found] = reads(failed)
        _is_failure(found, status, error)


@pytest.mark.parametrize("response", [{}, None, {"error": None}, {"status": "failed"}, [], "x"])
def test_a_failed_response_that_says_nothing_is_a_failure_all_the_same(response: object) -> None:
    """It must not end as a silence that somebody takes for a time-out."""
    [found] = reads({"type": "response.failed", "response": response})
    assert (found.kind, found.status, found.error.code) == (EventKind.FAILURE, 500, None)


_FIELDS = st.dictionaries(
    st.sampled_from(["error", "message", "code", "type", "status", "status_code", "param", "x"]),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-1, 700),
        st.text(max_size=4),
        st.sampled_from(["error", "x" * 5000, "moderation_blocked"]),
        st.dictionaries(
            st.sampled_from(["message", "code", "type", "status"]),
            st.one_of(st.integers(300, 700), st.sampled_from(["m", "slow_down", "y" * 5000])),
        ),
    ),
)


@given(_FIELDS)
def test_any_failure_has_a_status_of_an_error_and_plain_words(fields: dict[str, Any]) -> None:
    try:
        event, _ = event_of(fields)
    except json_scanner.ScanError:
        return  # NUL first
    found = events.failure(event.fields())
    assert 400 <= found.status < 600
    for words in (found.error.message, found.error.code, found.error.type, found.error.param):
        assert words is None or not json_skeleton.is_placeholder(words)


# -- the Images API's own events -------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["image_generation", "image_edit"])
def test_events_of_the_images_api_are_told_apart(prefix: str) -> None:
    partial = {"type": f"{prefix}.partial_image", "b64_json": "x", "partial_image_index": 0}
    assert happens(partial) == ParsedEvent(EventKind.PARTIAL, partial)
    done = {"type": f"{prefix}.completed", "b64_json": "x", **SHARED, "usage": {"total_tokens": 3}}
    assert happens(done) == ParsedEvent(EventKind.PICTURE, done, {"total_tokens": 3})
    unnamed = {"b64_json": "x"}
    assert happens(unnamed, f"{prefix}.completed") == ParsedEvent(EventKind.PICTURE, unnamed)
    assert happens({**done, "error": None}).kind is EventKind.PICTURE


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"type": "image_generation.started"}, None),
        ({"type": "ping"}, None),
        ({}, None),
        ([], None),
        ("[DONE]", None),
        (None, "keep-alive"),
        ({"message": "m"}, "message"),
    ],
)
def test_any_other_event_of_the_images_api_is_for_nobody(value: object, name: str | None) -> None:
    assert happens(value, name) == ParsedEvent(EventKind.OTHER)


ITEM = {
    "type": "image_generation_call",
    "id": "ig_1",
    "status": "completed",
    "result": PNG,
    "revised_prompt": "a nicer cat",
    "action": "generate",
    **SHARED,
}
PICTURE = {"b64_json": PNG, "revised_prompt": "a nicer cat", **SHARED}
ITEM_DONE = {"type": "response.output_item.done", "output_index": 0, "item": ITEM}
TOKENS = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}


# -- what the client gets --------------------------------------------------------------------


def _read_frame(text: bytes) -> tuple[str | None, Any]:
    """An event as the client reads it: exactly one frame, its data JSON."""
    pieces = list(EventSplitter().feed(text))
    assert [piece.ends for piece in pieces].count(True) == 1
    assert b"".join(piece.raw for piece in pieces) == text
    return pieces[-1].event, json.loads(b"".join(piece.data for piece in pieces))


@pytest.mark.parametrize("picture", [PNG, _WEBP])
@pytest.mark.parametrize(
    ("endpoint", "kind", "name"),
    [
        (G, "completed", "image_generation.completed"),
        (E, "completed", "image_edit.completed"),
        (G, "partial_image", "image_generation.partial_image"),
        (E, "partial_image", "image_edit.partial_image"),
    ],
)
def test_a_picture_goes_on_as_an_event_of_the_images_api(
    picture: str, endpoint: Endpoint, kind: str, name: str
) -> None:
    event, spool = event_of({**ITEM_DONE, "item": {**ITEM, "result": picture}})
    found = ResponseReader().read(event)
    fields = {**found.picture, "created_at": 5, "usage": dict(TOKENS)}
    made = events.frame(endpoint, kind, fields, event.lifted)
    text = play(made, spool)
    assert body_segments.length(made) == len(text)
    assert _read_frame(text) == (
        name,
        {"type": name, **PICTURE, "b64_json": picture, "created_at": 5, "usage": TOKENS},
    )


def test_a_large_picture_in_a_frame_is_a_span() -> None:
    event, _ = event_of({**ITEM_DONE, "item": {**ITEM, "result": _WEBP}})
    made = events.frame(G, "completed", ResponseReader().read(event).picture, event.lifted)
    assert sum(len(part) for part in made if isinstance(part, bytes)) < 400


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.sampled_from([G, E]))
def test_no_text_breaks_a_frame(words: str, endpoint: Endpoint) -> None:
    fields = {"b64_json": "QUJD", "revised_prompt": "x" + words}
    name, value = _read_frame(play(events.frame(endpoint, "completed", fields, []), b""))
    assert value == {"type": name, **fields}


def test_an_error_in_a_stream_is_nested_and_has_no_name() -> None:
    """A flat or named one is taken by the SDKs for an event like any other."""
    text = events.error_frame(errors.error_body("it\nbroke", "api_error", None, "upstream_cut"))
    assert text.startswith(b"data: ")
    error = {"message": "it\nbroke", "type": "api_error", "param": None, "code": "upstream_cut"}
    assert _read_frame(text) == (None, {"type": "error", "error": error})


def test_an_error_in_a_stream_of_the_responses_api_is_flat_besides_and_has_a_number() -> None:
    text = events.error_frame(errors.error_body("broke", "api_error", None, "upstream_cut"), 7)
    flat = {"message": "broke", "param": None, "code": "upstream_cut"}
    error = {**flat, "type": "api_error"}
    assert _read_frame(text) == (
        None,
        {"type": "error", "sequence_number": 7, **flat, "error": error},
    )


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30))
def test_no_message_breaks_an_error_frame(message: str) -> None:
    text = events.error_frame(errors.error_body(message, "api_error", None, "c"))
    assert _read_frame(text)[1]["error"]["message"] == message
    again = happens(_read_frame(text)[1])
    assert (again.kind, again.error.message, again.error.code) == (EventKind.FAILURE, message, "c")


def _whole(entry: Body | UrlEntry) -> Body:
    if isinstance(entry, UrlEntry):
        return (*entry.before, entry.head, *entry.base64, *entry.after)
    return entry


def _answer(
    pictures: Sequence[tuple[ParsedEvent, Event, bytes]],
    usage: Mapping[str, object] | None,
    *,
    as_url: bool,
) -> Any:
    before, behind = events.answer_ends(pictures[0][0].picture, usage, 1_800_000_000)
    entries = [
        play(_whole(events.entry(found.picture, event.lifted, as_url=as_url)), spool)
        for found, event, spool in pictures
    ]
    return json.loads(before + b",".join(entries) + behind)


@pytest.mark.parametrize("usage", [None, TOKENS])
@pytest.mark.parametrize("as_url", [True, False])
@pytest.mark.parametrize("results", [[PNG], [_WEBP], [PNG, _WEBP, PNG]])
def test_pictures_make_an_answer_of_the_images_api(
    results: list[str], usage: dict[str, int] | None, *, as_url: bool
) -> None:
    pictures: list[tuple[ParsedEvent, Event, bytes]] = []
    for result in results:
        event, spool = event_of({**ITEM_DONE, "item": {**ITEM, "result": result}})
        pictures.append((ResponseReader().read(event), event, spool))
    kinds = {PNG: "png", _WEBP: "webp"}
    entries = [
        {"url": f"data:image/{kinds[result]};base64,{result}"} if as_url else {"b64_json": result}
        for result in results
    ]
    assert _answer(pictures, usage, as_url=as_url) == {
        "created": 1_800_000_000,
        "data": [{**entry, "revised_prompt": "a nicer cat"} for entry in entries],
        **SHARED,
        **({} if usage is None else {"usage": usage}),
    }


def test_a_picture_that_says_nothing_of_itself_makes_an_answer_too() -> None:
    event, spool = event_of({**ITEM_DONE, "item": {"type": ITEM["type"], "result": PNG}})
    found = ResponseReader().read(event)
    made = _answer([(found, event, spool)], None, as_url=False)
    assert made == {"created": 1_800_000_000, "data": [{"b64_json": PNG}]}


def test_a_long_revised_prompt_goes_on_whole() -> None:
    long = "a nicer cat " * 1000
    item = {**ITEM, "revised_prompt": long, "result": _WEBP}
    event, spool = event_of({**ITEM_DONE, "item": item})
    found = ResponseReader().read(event)
    for as_url in (True, False):
        [entry] = _answer([(found, event, spool)], None, as_url=as_url)["data"]
        assert entry["revised_prompt"] == long
        assert entry["url" if as_url else "b64_json"].endswith(_WEBP)


def test_a_picture_of_unknown_type_is_called_a_png_in_its_url() -> None:
    [made] = [events.entry({"b64_json": "QUJD"}, [], as_url=True)]
    assert json.loads(play(_whole(made), b"")) == {"url": "data:image/png;base64,QUJD"}


def test_an_answer_s_first_picture_says_the_size_for_all() -> None:
    before, behind = events.answer_ends({"size": "1x1", "quality": None, "x": 1}, {"a": 1}, 5)
    assert json.loads(before + behind) == {
        "created": 5,
        "data": [],
        "size": "1x1",
        "usage": {"a": 1},
    }
    before, behind = events.answer_ends({}, None, 5)
    assert json.loads(before + behind) == {"created": 5, "data": []}


# -- a whole answer where a stream was asked for ---------------------------------------------


@pytest.mark.parametrize("endpoint", [G, E])
@pytest.mark.parametrize("usage", [None, {**TOKENS, "input_tokens_details": {"text_tokens": 1}}])
def test_a_whole_answer_becomes_one_completed_event_for_each_picture(
    endpoint: Endpoint, usage: dict[str, Any] | None
) -> None:
    entries = [
        {"b64_json": PNG},
        {"b64_json": _WEBP, "revised_prompt": "r", "generation_id": "g"},
        {"b64_json": PNG},
    ]
    event, spool = event_of({"created": 7, "data": entries, **SHARED, "usage": usage})
    made, counts = events.completed_events(event.value, 9)
    assert counts == usage
    frames = [
        _read_frame(play(events.frame(endpoint, "completed", fields, event.lifted), spool))
        for fields in made
    ]
    name = "image_generation.completed" if endpoint == G else "image_edit.completed"
    shared = {"type": name, "created_at": 7, **SHARED}
    assert frames == [
        (name, {**shared, "b64_json": PNG, "usage": None}),
        (name, {**shared, "b64_json": _WEBP, "usage": None}),
        (name, {**shared, "b64_json": PNG, "usage": usage}),
    ]
    # Read by a client, usage adds up to what was said once.
    total: Mapping[str, object] | None = None
    for _, value in frames:
        found = happens(value)
        assert found.kind is EventKind.PICTURE
        total = events.add_usage(total, found.usage)
    assert total == usage


def test_an_event_of_a_whole_answer_has_every_field() -> None:
    [fields], counts = events.completed_events({"data": [{"b64_json": "QUJD"}]}, 9)
    assert fields == {
        "b64_json": "QUJD",
        "created_at": 9,
        "background": None,
        "output_format": None,
        "quality": None,
        "size": None,
        "usage": None,
    }
    assert counts is None


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "x",
        {},
        {"data": None},
        {"data": {}},
        {"data": []},
        {"data": [None, 5, "x", [], {}, {"b64_json": None}, {"b64_json": 5}]},
        {"data": [{"b64_json": ""}]},
    ],
)
def test_an_answer_without_pictures_makes_no_event(answer: object) -> None:
    assert events.completed_events(answer, 9) == ([], None)
