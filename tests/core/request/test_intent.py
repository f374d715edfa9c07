"""Image intents: which bodies are one, however they come, and what they ask for."""

import contextlib
import json
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from image_gateway.core.codec import json_scanner, json_skeleton
from image_gateway.core.errors import Refusal
from image_gateway.core.request import intent, intent_signals
from image_gateway.core.request.intent import IntentRequest
from image_gateway.core.request.intent_signals import IntentSignalReader
from image_gateway.core.request.model_names import ModelNames
from tests.core.builders import PNG, key, play, split

TOOL = {"type": "image_generation"}
TEXT = {"model": "gpt-5", "input": "a cat"}


def read(pieces: Iterable[bytes]) -> IntentSignalReader:
    reader = IntentSignalReader()
    for piece in pieces:
        reader.feed(piece)
    return reader


def is_intent(value: Any, model_map: dict[str, str] | None = None) -> bool:
    """The verdict on a body; parsed or read as it comes, it is the same."""
    mapped = model_map or {}
    found = intent_signals.signals_of(value).show_intent(mapped)
    assert read([json.dumps(value).encode()]).signals.show_intent(mapped) is found
    assert read([orjson.dumps(value)]).signals.show_intent(mapped) is found
    return found


def shows(text: bytes) -> bool:
    """The verdict on a text, fed byte by byte."""
    return read(text[at : at + 1] for at in range(len(text))).signals.show_intent({})


# -- what is one -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        "gpt-image-2",
        "gpt-image-1",
        "gpt-image-1-mini",
        "gpt-image-2-2026-04-01",
        "gpt-image-17-of-some-day",
    ],
)
def test_an_image_model_and_its_snapshots_are_an_intent(model: str) -> None:
    assert is_intent({"model": model, "input": "a cat"})


@pytest.mark.parametrize("model", ["GPT-Image-2", "GPT-IMAGE-2", " gpt-image-2", "gpt-image-2\n"])
def test_case_and_space_around_an_image_model_change_nothing(model: str) -> None:
    assert is_intent({"model": model})


@pytest.mark.parametrize(
    "model",
    [
        "openai/gpt-image-2",
        "OpenAI/GPT-Image-2",
        "a/b/gpt-image-2",
        "/gpt-image-2",
        "chatgpt-image-latest",
        "openai/ChatGPT-Image-Latest",
    ],
)
def test_a_vendor_before_an_image_model_changes_nothing(model: str) -> None:
    assert is_intent({"model": model})


@pytest.mark.parametrize(
    "model",
    [
        "gpt-5",
        "gpt-image",
        "gpt-imagery-2",
        "my-gpt-image-2",
        "gpt-image-2/chat",
        "gpt_image_2",
        "chatgpt-4o",
    ],
)
def test_a_model_that_only_resembles_an_image_model_is_text(model: str) -> None:
    assert not is_intent({"model": model})


def test_a_model_that_the_key_maps_to_an_image_model_is_an_intent() -> None:
    assert is_intent({"model": "painter"}, {"painter": "gpt-image-2"})
    assert not is_intent({"model": "painter"}, {"writer": "gpt-image-2"})


def test_an_image_model_that_the_key_maps_to_a_text_model_stays_an_intent() -> None:
    assert is_intent({"model": "gpt-image-2"}, {"gpt-image-2": "gpt-5"})


@pytest.mark.parametrize("at", [0, 1, 12])
def test_an_image_tool_at_any_place_of_the_list_is_an_intent(at: int) -> None:
    tools: list[Any] = [{"type": "function", "name": "f", "parameters": {}}] * at
    assert is_intent({**TEXT, "tools": [*tools, {**TOOL, "size": "1024x1024"}, None, 7, "x"]})


def test_an_image_tool_counts_whatever_the_choice_says() -> None:
    for choice in ("auto", "none", "required", None, {"type": "function", "name": "f"}):
        assert is_intent({**TEXT, "tools": [TOOL], "tool_choice": choice})


CHOICES: dict[str, Any] = {
    "a string": "image_generation",
    "a type": {"type": "image_generation"},
    "a tool by its name": {"type": "tool", "name": "image_generation"},
    "a function by its name": {"type": "function", "name": "image_generation"},
    "a nested tool's type": {"type": "tool", "tool": {"type": "image_generation"}},
    "a nested tool's name": {"type": "tool", "tool": {"name": "image_generation"}},
    "a nested function's name": {"type": "function", "function": {"name": "image_generation"}},
    "a name before its type": {"name": "image_generation", "type": "function"},
    "a nested name before its type": {"function": {"name": "image_generation"}, "type": "function"},
}
TOOLS: dict[str, dict[str, Any]] = {
    "absent": {},
    "null": {"tools": None},
    "empty": {"tools": []},
    "a string": {"tools": "image_generation"},
    "an object": {"tools": {"type": "image_generation"}},
    "a number": {"tools": 7},
    "a list of no objects": {"tools": ["image_generation", None, [TOOL]]},
    "others": {"tools": [{"type": "function", "name": "f"}]},
}


@pytest.mark.parametrize("tools", TOOLS.values(), ids=TOOLS)
@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_a_choice_of_the_image_tool_is_an_intent_whatever_the_tools_are(
    choice: Any, tools: dict[str, Any]
) -> None:
    assert is_intent({**TEXT, **tools, "tool_choice": choice})
    assert is_intent({"tool_choice": choice, **tools})


# -- what is none ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tools", TOOLS.values(), ids=TOOLS)
@pytest.mark.parametrize("choice", ["required", "auto", "none", None, 7, True, {}, []])
def test_a_choice_that_names_no_tool_is_text(choice: Any, tools: dict[str, Any]) -> None:
    assert not is_intent({**TEXT, **tools, "tool_choice": choice})


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "f"},
        {"type": "function", "function": {"name": "f"}},
        {"type": "mcp", "server_label": "image_generation"},
        {"name": "image_generation"},
        {"type": "mcp", "name": "image_generation"},
        ["image_generation"],
        [{"type": "image_generation"}],
        {"image_generation": True},
        {"type": ["image_generation"]},
        {"type": "function", "name": "f", "description": "image_generation"},
        "image_generation_call",
        "Image_Generation",
    ],
)
def test_a_choice_of_something_else_is_text(choice: Any) -> None:
    assert not is_intent({**TEXT, "tool_choice": choice})


def test_a_text_model_without_the_tool_is_text() -> None:
    assert not is_intent(TEXT)
    assert not is_intent({**TEXT, "tools": [{"type": "web_search"}, {"type": "function"}]})


def test_tools_that_are_no_list_show_nothing() -> None:
    """What is in them is no entry; whoever reads the body says what is wrong with it."""
    for tools in (TOOL, {"a": TOOL}, {"0": TOOL}, [[TOOL]], [{"a": TOOL}]):
        assert not is_intent({**TEXT, "tools": tools})


def test_a_catalogue_that_only_lists_image_tools_is_text() -> None:
    listed = {"name": "image_generation", "tools": [TOOL, {"name": "image_generation", **TOOL}]}
    namespace = {"type": "namespace", "name": "image_generation", "description": "gpt-image-2"}
    assert not is_intent({**TEXT, "tools": [{**namespace, **listed}]})
    assert not is_intent({**TEXT, "tools": [{**namespace, "tools": {"type": "image_generation"}}]})
    search = {"type": "tool_search", "tools": [TOOL]}
    assert not is_intent({**TEXT, "tools": [search], "tool_choice": "auto"})


def test_a_function_that_is_called_like_the_tool_is_text() -> None:
    assert not is_intent({**TEXT, "tools": [{"type": "function", "name": "image_generation"}]})


def test_the_parameters_of_a_function_are_text_whatever_they_name() -> None:
    schema = {"type": "object", "properties": {"type": {"enum": ["image_generation"]}}}
    tool = {"type": "function", "name": "f", "parameters": {**schema, "tools": [TOOL]}}
    tool["parameters"] = {**schema, "type": "image_generation", "model": "gpt-image-2"}
    assert not is_intent({**TEXT, "tools": [tool]})


def test_a_prompt_about_image_tools_is_text() -> None:
    said = 'use {"model":"gpt-image-2","tools":[{"type":"image_generation"}]} please'
    assert not is_intent({**TEXT, "input": said, "instructions": said})
    assert not is_intent({**TEXT, "input": [{"role": "user", "content": said}]})


def test_metadata_and_names_nobody_knows_are_text() -> None:
    said = {"model": "gpt-image-2", "tools": [TOOL], "tool_choice": "image_generation"}
    assert not is_intent({**TEXT, "metadata": said, "user": "image_generation"})
    assert not is_intent({**TEXT, "body": said, "tool": TOOL, "tools_": [TOOL], "Model": said})


def test_pictures_made_before_in_the_same_conversation_are_text() -> None:
    made = {"type": "image_generation_call", "id": "ig_1", "result": "iVBOR"}
    asked = {"type": "image_generation", "model": "gpt-image-2", "tools": [TOOL]}
    assert not is_intent({**TEXT, "input": [made, asked]})
    assert not is_intent({**TEXT, "input": [{"role": "user", "content": [asked]}]})


@pytest.mark.parametrize(
    "value",
    [None, True, 7, "gpt-image-2", [], ["model", "gpt-image-2"], [{"model": "gpt-image-2"}]],
)
def test_a_body_that_is_no_object_is_text(value: Any) -> None:
    assert not is_intent(value)


# -- a body that comes in pieces -------------------------------------------------------------------

_WORDS = st.sampled_from(
    [
        "image_generation",
        "function",
        "tool",
        "auto",
        "required",
        "namespace",
        "gpt-image-2",
        "x/GPT-image-1",
        "gpt-5",
        "painter",
        'a "quoted" \\ \u00e9 \u732b \U0001f408 text\n',
        "",
    ]
)
_NAMES = st.sampled_from(
    ["model", "tools", "tool_choice", "type", "name", "tool", "function", "input", "metadata"]
)
_SCALARS = _WORDS | st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=12,
)
_BODIES = st.dictionaries(_NAMES, _VALUES, max_size=6) | _VALUES
_MAPS = st.sampled_from([{}, {"painter": "gpt-image-2"}, {"gpt-image-2": "gpt-5"}])


@given(data=st.data(), value=_BODIES, model_map=_MAPS, plain=st.booleans())
def test_a_body_in_any_pieces_has_the_verdict_of_the_whole(
    data: st.DataObject, value: Any, model_map: dict[str, str], plain: Any
) -> None:
    text = json.dumps(value, ensure_ascii=plain, indent=data.draw(st.none() | st.just(2))).encode()
    signals = read(data.draw(split(text))).signals
    whole = intent_signals.signals_of(value)
    assert signals.show_intent(model_map) is whole.show_intent(model_map)
    assert signals.models == whole.models


@given(
    data=st.data(),
    value=st.sampled_from(
        [
            {"model": "gpt-image-2"},
            {"tools": [TOOL]},
            *({"tool_choice": c} for c in CHOICES.values()),
        ]
    ),
)
def test_an_intent_is_seen_however_its_texts_and_names_are_written(
    data: st.DataObject, value: Any
) -> None:
    """Any character may be written as an escape, in names as in values."""
    text = ""
    for character in json.dumps(value):
        is_letter = character.isalnum() or character in "_-"
        text += f"\\u{ord(character):04x}" if is_letter and data.draw(st.booleans()) else character
    assert read(data.draw(split(text.encode()))).signals.show_intent({})


@pytest.mark.parametrize(
    "text",
    [
        rb'{"tools":[{"type":"image\u005fgeneration"}]}',
        rb'{"t\u006fols":[{"typ\u0065":"image_generation"}]}',
        rb'{"model":"gpt\u002dimage\u002d2"}',
        rb'{"m\u006Fdel":"\u0067pt-image-2"}',
        rb'{"tool\u005Fchoice":"image_generatio\u006E"}',
        rb'{"model":"openai\/gpt-image-2"}',
    ],
)
def test_escapes_hide_nothing(text: bytes) -> None:
    assert intent_signals.signals_of(json.loads(text)).show_intent({})
    assert shows(text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"model":"gpt-image-2","model":"gpt-5"}',
        b'{"model":"gpt-5","model":"gpt-image-2"}',
        b'{"tools":[{"type":"image_generation"}],"tools":[]}',
        b'{"tools":null,"tools":[{"type":"image_generation"}]}',
        b'{"tools":[{"type":"image_generation","type":"function"}]}',
        b'{"tools":[{"type":"function","type":"image_generation"}]}',
        b'{"tool_choice":"image_generation","tool_choice":"auto"}',
        b'{"tool_choice":{"type":"image_generation"},"tool_choice":null}',
    ],
)
def test_of_a_name_that_stands_twice_each_counts(text: bytes) -> None:
    """Readers differ in which one they take."""
    assert shows(text)


def test_every_model_that_is_named_is_noted_in_order() -> None:
    assert read([b'{"model":"a","x":{"model":"b"},"model":"c"}']).signals.models == ["a", "c"]


@pytest.mark.parametrize(
    "before",
    [rb'"metadata":{"\ud83d":1}', rb'"model":"gpt-5\ud83d"', rb'"tool_choice":"\udc08 auto"'],
    ids=["a name", "a model", "a choice"],
)
def test_half_a_surrogate_pair_hides_nothing_behind_it(before: bytes) -> None:
    """RFC 8259 allows it and JavaScript and Python read it, so a text API may, too."""
    reader = IntentSignalReader()
    with contextlib.suppress(json_scanner.ScanError):
        reader.feed(b'{%b,"tools":[{"type":"image_generation"}]}' % before)
    assert reader.signals.show_intent({})


def test_white_space_between_tokens_hides_nothing() -> None:
    assert shows(b' \n{ "tools"\t:\r\n[ 1 , { "type" : "image_generation" } ] } ')


def test_a_byte_order_mark_hides_nothing() -> None:
    assert shows(b'\xef\xbb\xbf{"model":"gpt-image-2"}')


def test_what_was_shown_before_the_text_broke_counts() -> None:
    reader = IntentSignalReader()
    with pytest.raises(json_scanner.ScanError):
        reader.feed(b'{"tools":[{"type":"image_generation"}]}}}')
    assert reader.signals.show_intent({})


@given(pieces=st.lists(st.binary(max_size=40), max_size=8))
@example(pieces=[b'{"model":"\\ud83d"}'])
@example(pieces=[b'{"model":"\\x"}'])
@example(pieces=[b'{"tools":[{"type":"\xff"}]}'])
@example(pieces=[b'{"\xff":1}'])
@example(pieces=[b'{"tool_choice":"\x00"}'])
@example(pieces=[b"]"])
@example(pieces=[b'{"a"', b"}", b"}"])
def test_bytes_that_are_no_json_raise_a_scan_error_or_nothing(pieces: list[bytes]) -> None:
    reader = IntentSignalReader()
    with contextlib.suppress(json_scanner.ScanError):
        for piece in pieces:
            reader.feed(piece)
    reader.signals.show_intent({})


@given(data=st.data(), value=_BODIES)
def test_json_that_was_damaged_anywhere_raises_a_scan_error_or_nothing(
    data: st.DataObject, value: Any
) -> None:
    text = bytearray(json.dumps(value).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=2))
    with contextlib.suppress(json_scanner.ScanError):
        read(data.draw(split(bytes(text))))


@pytest.mark.parametrize(
    "text",
    [
        b"[" * (json_scanner.TEXT.depth + 1),
        b'{"a":' * (json_scanner.TEXT.depth + 1),
        b"[" + b"1," * json_scanner.TEXT.tokens,
        b'{"' + b"k" * (json_scanner.TEXT.key_bytes + 1),
    ],
    ids=["depth", "depth of objects", "tokens", "key"],
)
def test_a_body_beyond_all_measure_says_so(text: bytes) -> None:
    with pytest.raises(json_scanner.ScanLimitError):
        read([text])


def test_a_body_at_its_limits_is_read() -> None:
    limits = json_scanner.TEXT
    deep = b"[" * (limits.depth - 1) + b"]" * (limits.depth - 1)
    key = b"k" * limits.key_bytes
    assert shows(b'{"metadata":%b,"%b":1,"model":"gpt-image-2"}' % (deep, key[:2000]))
    assert read([b'{"%b":1,"model":"gpt-image-2"}' % key]).signals.models == ["gpt-image-2"]


def test_a_conversation_of_10_mb_costs_little_memory() -> None:
    piece = json.dumps({"role": "user", "content": "x" * 60_000}).encode()
    large = b'{"role":"user","content":"' + b"A" * 2_000_000 + b'"}'
    texts = [b'{"model":"gpt-5","input":[', *([piece + b","] * 100), large + b",", large + b","]
    texts.append(b'{}],"tool_choice":"image_generation"}')
    assert sum(map(len, texts)) > 10_000_000
    reader = IntentSignalReader()
    tracemalloc.start()
    try:
        for text in texts:
            for start in range(0, len(text), 65536):
                reader.feed(text[start : start + 65536])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.signals.show_intent({})
    assert peak < 512 * 1024


LONG = (
    b'{"model":"gpt-image-2' + b"x" * 1024 + b'"}',
    b'{"model":"gpt-image-2' + b" " * 1012 + b'\\n"}',
    b'{"model":"' + b" " * 1024 + b'gpt-image-2"}',
    b'{"tools":[{"type":"' + b"x" * 1025,
    b'{"tool_choice":{"name":"' + b"x" * 1025,
)


@pytest.mark.parametrize("text", LONG, ids=range(len(LONG)))
def test_a_name_that_is_too_long_to_be_read_whole_is_refused(text: bytes) -> None:
    with pytest.raises(json_scanner.ScanLimitError):
        shows(text)


@pytest.mark.parametrize("count", [1, 34])
def test_a_sign_behind_a_name_of_any_length_is_read_whole(count: int) -> None:
    text = b'{"model":"' + b"x" * 30 * count + b'","tools":[{"type":"image_generation"}]}'
    assert shows(text)


def test_a_long_text_beside_a_sign_is_no_name() -> None:
    tool = b'{"description":"' + b"x" * 5000 + b'","type":"image_generation"}'
    assert shows(b'{"tools":[' + tool + b"]}")


@pytest.mark.parametrize(
    "text",
    [b'{"model":"gpt-image-2\n"}', b'{"model":"\xff/gpt-image-2"}', b'{"model":"\\x"}'],
    ids=["control character", "UTF-8", "escape"],
)
def test_a_name_that_cannot_be_read_is_refused(text: bytes) -> None:
    """A lenient text API may read it."""
    with pytest.raises(json_scanner.ScanError):
        shows(text)


def test_half_a_surrogate_pair_in_a_name_hides_nothing() -> None:
    assert shows(rb'{"model":"\ud83d/gpt-image-2"}')


@pytest.mark.parametrize(
    "value",
    [
        {"Model": "gpt-image-2"},
        {"TOOLS": [{"Type": "image_generation"}]},
        {"tool\u017f": [TOOL]},
        {"Tool_Choice": {"TYPE": "image_generation"}},
        {"tool_choice": {"type": "function", "Function": {"NAME": "image_generation"}}},
    ],
    ids=repr,
)
def test_the_case_of_a_key_hides_nothing(value: Any) -> None:
    """Go's ``encoding/json`` reads keys without regard to it, and many relays are written in Go."""
    assert is_intent(value)


def test_a_body_that_names_its_model_without_end_is_refused() -> None:
    with pytest.raises(json_scanner.ScanLimitError):
        read([b"{" + b'"model":"a",' * 17])


def test_readers_show_what_they_are() -> None:
    reader = read([b'{"model":"secret-model","tools":[{"type":"image_generation"}]}'])
    assert repr(reader.signals) == "<IntentSignals of 1 models, tool=True>"
    assert "secret-model" not in repr(reader)


class _Sealed(dict[str, object]):
    """An object that nobody may look into."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("it was looked into")

    items = keys = values = __iter__  # type: ignore[assignment]  # none of them may be called


def test_nobody_looks_deeper_into_a_body_than_a_sign_can_stand() -> None:
    """A tool's schemas may hold a million values; each would cost the event loop its time."""
    tools = [{"type": "function", "parameters": _Sealed(type="object")}]
    choice = {"type": "function", "function": {"name": "f", "more": _Sealed(a=1)}}
    assert not intent_signals.signals_of({"tools": tools, "tool_choice": choice}).show_intent({})


# -- what it asks for ------------------------------------------------------------------------------


def parse(
    value: Any, model_map: dict[str, str] | None = None, default: str = "gpt-image-2"
) -> tuple[IntentRequest, bytes]:
    """An intent, the whole way from its bytes, and these."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    skeleton = json_skeleton.JsonSkeleton(limits=json_scanner.CONVERSATION)
    skeleton.feed(text)
    body = skeleton.close()
    names = ModelNames(key(model_map=model_map or {}))
    return intent.parse(body, skeleton.lifted, names, default), text


def refusal_of(value: Any) -> Refusal:
    with pytest.raises(Refusal) as found:
        parse(value)
    return found.value


def test_models_are_the_client_s_and_their_mapping_the_key_s() -> None:
    tools = [{**TOOL, "model": "fine"}, {"type": "function", "model": "no"}, TOOL]
    request, _ = parse(
        {"model": "painter", "tools": tools}, {"painter": "gpt-image-2", "fine": "gpt-image-1"}
    )
    assert (request.model, request.upstream_model) == ("painter", "gpt-image-2")
    assert request.tool_models == ("fine",)
    assert request.is_for_image_model
    assert request.image_models == {"gpt-image-1": "fine", "gpt-image-2": "painter"}


def test_a_text_model_is_no_image_model_that_an_account_has_to_know() -> None:
    request, _ = parse({**TEXT, "tools": [TOOL]})
    assert (request.image_models, request.is_for_image_model) == ({}, False)
    assert (request.count, request.stream) == (1, False)


def test_a_call_without_a_model_is_for_the_default_one() -> None:
    for value in ({"tools": [TOOL]}, {"tools": [TOOL], "model": None}):
        request, _ = parse(value)
        assert (request.model, request.is_for_image_model) == ("gpt-image-2", True)


@pytest.mark.parametrize("model", [7, True, "", [], {}, "x" * 5000])
def test_a_model_that_is_no_name_is_refused(model: Any) -> None:
    refusal = refusal_of({"model": model, "tools": [TOOL]})
    assert (refusal.code, refusal.param) == ("invalid_type", "model")
    refusal = refusal_of({**TEXT, "tools": [{**TOOL, "model": model}]})
    assert (refusal.code, refusal.param) == ("invalid_type", "tools")


@pytest.mark.parametrize("tools", ["image_generation", 7, {"type": "image_generation"}, True])
def test_tools_that_are_no_list_are_refused_where_a_picture_is_asked_for(tools: Any) -> None:
    refusal = refusal_of({**TEXT, "tools": tools, "tool_choice": "image_generation"})
    assert (refusal.code, refusal.param) == ("invalid_type", "tools")


@pytest.mark.parametrize("value", [0, 1, "true", "", [], {}])
def test_a_stream_that_is_neither_true_nor_false_is_refused(value: Any) -> None:
    refusal = refusal_of({"model": "gpt-image-2", "stream": value})
    assert (refusal.code, refusal.param) == ("invalid_type", "stream")


@pytest.mark.parametrize("value", [None, [], "gpt-image-2", 7])
def test_a_body_that_is_no_object_is_refused(value: Any) -> None:
    assert refusal_of(value).code == "invalid_body"


@pytest.mark.parametrize(("stream", "expected"), [(None, False), (False, False), (True, True)])
def test_a_stream_is_one_only_where_it_is_asked_for(stream: Any, expected: Any) -> None:
    request, _ = parse({"model": "gpt-image-2", "stream": stream})
    assert request.stream is expected


def _said(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


_OLD = {"type": "input_text", "text": "old"}
_NEW = {"type": "input_text", "text": "new"}
_LONG = {"type": "input_text", "text": "x" * 5000}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a cat", "a cat"),
        ([{"role": "user", "content": "a cat"}], "a cat"),
        ([_said(_OLD), {"role": "assistant", "content": "yes"}, _said(_NEW)], "new"),
        ([_said(_OLD, {"type": "input_image", "image_url": PNG}, _NEW)], "old\nnew"),
        ([{"type": "message", **_said(_NEW)}, {"type": "function_call_output"}], "new"),
        ([_said(_NEW, _LONG)], None),
        ([_said(_LONG)], None),
        ("x" * 5000, None),
        ([_said()], None),
        ([{"role": "system", "content": "a cat"}], None),
        ([], None),
        (None, None),
        (7, None),
        ([None, 7, "x", {"role": "user", "content": 7}], None),
        ([_said({"type": "input_text", "text": 7})], None),
    ],
)
def test_the_prompt_is_what_the_user_said_last_or_nothing(value: Any, expected: str | None) -> None:
    request, _ = parse({"model": "gpt-image-2", "input": value})
    assert request.prompt == expected


def test_pictures_of_the_input_are_counted() -> None:
    shown = {"type": "input_image", "image_url": PNG + "A" * 9000}
    value = [_said(_OLD, shown), {"role": "assistant", "content": [_NEW]}, _said(shown, shown)]
    assert parse({"model": "gpt-image-2", "input": value})[0].input_image_count == 3
    assert parse({"model": "gpt-image-2", "input": "a cat"})[0].input_image_count == 0


@pytest.mark.parametrize(
    ("key", "expected"), [("thread-1", "thread-1"), (None, None), (7, None), ("x" * 5000, None)]
)
def test_the_session_is_the_prompt_s_cache_key(key: Any, expected: str | None) -> None:
    request, _ = parse({"model": "gpt-image-2", "prompt_cache_key": key})
    assert request.session == expected


def test_what_was_lifted_is_where_it_was() -> None:
    request, text = parse({"model": "gpt-image-2", "input": "x" * 5000, "user": "y" * 4097})
    assert [play(each, text) for each in request.texts] == [b"x" * 5000, b"y" * 4097]


def test_an_intent_does_not_show_what_it_holds() -> None:
    request, _ = parse({"model": "gpt-image-2", "input": "a secret"}, {"secret": "map"})
    assert "secret" not in repr(request)
