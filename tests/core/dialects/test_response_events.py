"""One picture out of the events of a call on the Responses route, or why there is none."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core import errors
from image_gateway.core.codec import json_skeleton
from image_gateway.core.dialects import events
from image_gateway.core.dialects.events import EventKind, ParsedEvent
from image_gateway.core.dialects.picture_events import PictureReader
from image_gateway.core.dialects.response_events import ResponseReader
from image_gateway.core.errors import UpstreamError
from tests.core.dialects.test_events import (
    ITEM,
    ITEM_DONE,
    PICTURE,
    PNG,
    SHARED,
    TOKENS,
    event_of,
    happens,
    reads,
)


def _completed(**response: object) -> dict[str, object]:
    return {"type": "response.completed", "response": {"status": "completed", **response}}


def test_a_call_s_events_from_first_to_last() -> None:
    partial = {
        "type": "response.image_generation_call.partial_image",
        "item_id": "ig_1",
        "partial_image_b64": "QUJD",
        "partial_image_index": 1,
        **SHARED,
    }
    usage = {"tool_usage": {"image_gen": {**TOKENS, "x": "hush"}}, "usage": {"total_tokens": 99}}
    found = reads(
        {"type": "response.created", "response": {"status": "in_progress"}},
        {"type": "response.output_item.added", "item": {"type": "image_generation_call"}},
        {"type": "response.image_generation_call.generating"},
        partial,
        ITEM_DONE,
        _completed(output=[], **usage),
    )
    assert [each.kind for each in found] == [
        EventKind.OTHER,
        EventKind.OTHER,
        EventKind.OTHER,
        EventKind.PARTIAL,
        EventKind.PICTURE,
        EventKind.END,
    ]
    assert found[3].picture == {"b64_json": "QUJD", "partial_image_index": 1, **SHARED}
    assert found[4].picture == PICTURE
    assert found[5] == ParsedEvent(EventKind.END, usage=TOKENS, usage_text={"total_tokens": 99})


MAIN_TOKENS = {"total_tokens": 99, "output_tokens_details": {"reasoning_tokens": 7}}


@pytest.mark.parametrize("output", [[], [ITEM]], ids=["before", "at the end"])
@pytest.mark.parametrize(
    ("told", "pictures", "main_model"),
    [
        ({"tool_usage": {"image_gen": TOKENS}, "usage": MAIN_TOKENS}, TOKENS, MAIN_TOKENS),
        ({"tool_usage": {"image_gen": TOKENS}}, TOKENS, None),
        ({"usage": MAIN_TOKENS}, None, MAIN_TOKENS),
        ({"tool_usage": {}, "usage": MAIN_TOKENS}, None, MAIN_TOKENS),
        ({"tool_usage": "hush", "usage": "hush"}, None, None),
        ({}, None, None),
    ],
)
def test_the_end_tells_the_usage_of_the_pictures_from_that_of_the_main_model(
    told: dict[str, Any], pictures: Any, main_model: Any, output: list[Any]
) -> None:
    """For a client of either API."""
    end = _completed(output=output, **told)
    for found in (
        reads(ITEM_DONE, end)[-1],
        reads(end)[-1],
        events.read_conversation_event(event_of(end)[0]),
    ):
        assert found.kind is EventKind.END
        assert (found.usage, found.usage_text) == (pictures, main_model)


def test_a_picture_that_comes_only_at_the_end_is_taken_there() -> None:
    output = [{"type": "reasoning"}, {"type": "message", "content": []}, ITEM]
    [found] = reads(_completed(output=output, tool_usage={"image_gen": TOKENS}))
    assert found == ParsedEvent(EventKind.END, PICTURE, TOKENS)


def test_a_picture_that_came_before_does_not_come_again() -> None:
    [_, found] = reads(ITEM_DONE, _completed(output=[ITEM]))
    assert found == ParsedEvent(EventKind.END)


@pytest.mark.parametrize("missing", [*SHARED, "revised_prompt"])
@pytest.mark.parametrize("value", [None, 5, "x" * 5000])
def test_what_a_picture_does_not_say_is_null_or_absent(missing: str, value: object) -> None:
    [found] = reads({**ITEM_DONE, "item": {**ITEM, missing: value}})
    assert found.picture["b64_json"] == PNG
    if missing == "revised_prompt":
        # It may be as long as it likes: it goes on with the picture.
        expected = json_skeleton.placeholder(0) if isinstance(value, str) else None
        assert found.picture.get(missing) == expected
    else:
        assert found.picture[missing] is None


@pytest.mark.parametrize(
    "item",
    [
        {**ITEM, "result": None},
        {**ITEM, "result": 5},
        {**ITEM, "result": ""},
        {**ITEM, "type": "function_call"},
        {"type": "image_generation_call", "status": "failed"},
        {},
        None,
        [],
        "x",
    ],
)
def test_an_item_without_a_picture_is_none(item: object) -> None:
    found = reads({**ITEM_DONE, "item": item}, _completed())
    assert [each.kind for each in found] == [EventKind.OTHER, EventKind.END]
    assert not found[1].picture


def _message(*content: object) -> dict[str, object]:
    return {
        "type": "response.output_item.done",
        "item": {"type": "message", "role": "assistant", "content": list(content)},
    }


REFUSAL = {"type": "response.refusal.done", "refusal": "No."}
WORDS = {"type": "response.output_text.done", "text": "I cannot."}


def _failed(error: object = None, **fields: object) -> dict[str, object]:
    """An item of the image tool that made nothing."""
    item = {"type": "image_generation_call", "id": "ig_1", "status": "failed", "result": None}
    return {"type": "response.output_item.done", "item": {**item, "error": error, **fields}}


@pytest.mark.parametrize(
    "said",
    [
        [REFUSAL],
        [_message({"type": "refusal", "refusal": "No."})],
        [_message(None, 5, {"type": "refusal", "refusal": "No."})],
        [WORDS, REFUSAL],
        [REFUSAL, WORDS],
        [_failed(), REFUSAL],
        [_failed({"code": "server_error", "message": "m"}), REFUSAL],
    ],
)
def test_a_refusal_in_words_is_the_client_s_answer(said: list[object]) -> None:
    """Not a fault of the upstream, and no reason to ask another account."""
    *before, found = reads(*said, _completed())
    assert all(each.kind is EventKind.OTHER for each in before)
    assert found == ParsedEvent(
        EventKind.FAILURE,
        status=400,
        error=UpstreamError("No.", "image_generation_user_error", "prompt", "moderation_blocked"),
    )
    assert errors.codes(found.error) & errors.CLIENT_FAULTS


def test_a_refusal_that_stands_only_in_the_end_is_read_there() -> None:
    output = [{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]
    [found] = reads(_completed(output=output))
    assert (found.kind, found.status, found.error.message) == (EventKind.FAILURE, 400, "No.")


@pytest.mark.parametrize(
    "said",
    [
        [WORDS],
        [_message({"type": "output_text", "text": "I cannot."})],
        [_message(None, 5, {"type": "output_text", "text": "I cannot."})],
        [_failed(), WORDS],
        [_failed({}), WORDS],
        [_failed({"moderation_details": {"categories": []}}), WORDS],
        [_failed({"code": "server_error"}), WORDS],
        [_failed({"code": "server_error", "message": "I cannot."})],
        [_failed({"code": "server_error", "message": "I cannot."}), WORDS],
        [_failed("I cannot.")],
    ],
)
def test_words_alone_are_no_refusal(said: list[object]) -> None:
    """Another account may still draw; the words are for the error if none does."""
    *_, found = reads(*said, _completed())
    assert (found.kind, found.picture) == (EventKind.END, {})
    assert found.error.message == "I cannot."
    assert found.error.code in {None, "server_error"}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ({"code": "moderation_blocked"}, 400, "moderation_blocked"),
        ({"code": "content_policy_violation"}, 400, "content_policy_violation"),
        ({"type": "image_generation_user_error"}, 400, None),
        ({"code": "invalid_image"}, 400, "invalid_image"),
        ({"moderation_details": {"categories": ["violence"]}}, 400, "moderation_blocked"),
        (
            {
                "code": "odd",
                "moderation_details": {"categories": ["x"], "moderation_stage": "input"},
            },
            400,
            "odd",
        ),
        ({"code": "rate_limit_exceeded"}, 429, "rate_limit_exceeded"),
        ({"code": "server_is_overloaded"}, 503, "server_is_overloaded"),
        ({"code": "model_not_found"}, 404, "model_not_found"),
    ],
)
@pytest.mark.parametrize(
    "end",
    [
        _completed(),
        {"type": "response.failed", "response": {"error": {"code": "server_error"}}},
        {"type": "response.incomplete", "response": {}},
    ],
)
def test_a_failed_item_says_by_its_codes_what_it_is_about(
    error: dict[str, object], status: int, code: str | None, end: dict[str, object]
) -> None:
    _, _, found = reads(_failed({"message": "Why.", **error}), WORDS, end)
    assert (found.kind, found.status) == (EventKind.FAILURE, status)
    assert (found.error.message, found.error.code) == ("Why.", code)


def test_a_failed_item_that_stands_only_in_the_end_is_read_there() -> None:
    item = _failed({"code": "moderation_blocked", "message": "Why."})["item"]
    [found] = reads(_completed(output=[item]))
    assert (found.kind, found.status, found.error.message) == (EventKind.FAILURE, 400, "Why.")


def test_a_picture_after_a_failed_item_is_a_picture() -> None:
    blocked = _failed({"code": "moderation_blocked", "message": "Why."})
    assert [each.kind for each in reads(blocked, ITEM_DONE, _completed())] == [
        EventKind.OTHER,
        EventKind.PICTURE,
        EventKind.END,
    ]


def test_words_beside_a_picture_are_no_refusal() -> None:
    words = {"type": "response.output_text.done", "text": "Here it is."}
    assert [each.kind for each in reads(words, ITEM_DONE, _completed())] == [
        EventKind.OTHER,
        EventKind.PICTURE,
        EventKind.END,
    ]
    [_, found] = reads(words, _completed(output=[ITEM]))
    assert (found.kind, found.picture) == (EventKind.END, PICTURE)


def test_words_are_cut_and_never_a_placeholder() -> None:
    for sort, name in (("refusal", "refusal"), ("output_text", "text")):
        said = {"type": f"response.{sort}.done"}
        [_, found] = reads({**said, name: "x" * 3000}, _completed())
        assert found.error.message == "x" * 2000
        [_, found] = reads({**said, name: "x" * 5000}, _completed())
        assert not json_skeleton.is_placeholder(found.error.message or "")
    [_, found] = reads(_failed({"message": "x" * 3000, "code": "server_error"}), _completed())
    assert found.error.message == "x" * 2000
    [_, found] = reads(_failed({"message": "x" * 5000, "code": "server_error"}), _completed())
    assert found.error.message is None


def test_an_end_without_a_picture_and_without_words_is_an_end() -> None:
    assert reads(_completed()) == [ParsedEvent(EventKind.END)]
    responses: list[object] = [None, [], {"output": 5}, {"output": [5, None, []]}]
    for response in responses:
        assert reads({"type": "response.completed", "response": response})[0].kind is EventKind.END


@pytest.mark.parametrize(
    ("response", "status", "code"),
    [
        ({"incomplete_details": {"reason": "content_filter"}}, 400, "content_filter"),
        ({"incomplete_details": {"reason": "max_output_tokens"}}, 502, "max_output_tokens"),
        ({"incomplete_details": None}, 502, "incomplete"),
        ({}, 502, "incomplete"),
        (None, 502, "incomplete"),
    ],
)
def test_an_incomplete_response_is_a_failure_of_its_reason(
    response: object, status: int, code: str
) -> None:
    [found] = reads({"type": "response.incomplete", "response": response})
    assert (found.kind, found.status, found.error.code) == (EventKind.FAILURE, status, code)
    assert found.error.message
    assert bool(errors.codes(found.error) & errors.CLIENT_FAULTS) == (status == 400)


def test_a_reader_tells_whether_a_picture_came() -> None:
    reader = ResponseReader()
    assert repr(reader) == "<ResponseReader waiting>"
    reader.read(event_of(ITEM_DONE)[0])
    assert repr(reader) == "<ResponseReader made>"


_ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(0, 600), st.sampled_from(["x", PNG, "error"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["type", "item", "response", "error", "output", "content", "result", "text"]
            ),
            st.one_of(
                inner,
                st.sampled_from(
                    [
                        "response.completed",
                        "response.failed",
                        "response.incomplete",
                        "response.output_item.done",
                        "image_generation_call",
                        "image_edit.completed",
                        "message",
                    ]
                ),
            ),
            max_size=4,
        ),
    ),
    max_leaves=10,
)


@given(st.lists(_ANY, max_size=4))
def test_no_event_is_too_hostile_to_be_read(values: list[object]) -> None:
    either = PictureReader()
    also = [either.read(event_of(value)[0]) for value in values]
    for found in [*reads(*values), *also, *map(happens, values)]:
        assert (found.kind is EventKind.FAILURE) == (400 <= found.status < 600)
