"""Codex, an image intent on the Responses route: changed where it must be, else as it came."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.codec import body_segments, json_scanner, json_skeleton
from image_gateway.core.dialects import (
    EncodeContext,
    ExpectedResponse,
    UpstreamRequest,
    codex,
    codex_intents,
    openai,
)
from image_gateway.core.errors import Refusal
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account
from image_gateway.core.request import intent, intent_signals
from image_gateway.core.request.intent import IntentRequest
from image_gateway.core.request.model_names import ModelNames, is_image_model
from image_gateway.core.routing.capability import Gap, choose
from tests.core.builders import ACCOUNT_ID, PNG, TOKEN, account, key, play

CONTEXT = EncodeContext("https://chatgpt.com/backend-api/codex", "0.169.0", "never-used")
NOBODY = Headers([])
TOOL = {"type": "image_generation"}
TEXT = {"model": "gpt-5", "input": [{"role": "user", "content": "a cat"}], "instructions": "draw"}
ALWAYS = {"stream": True, "store": False}


def _account(**changes: Any) -> Account:
    return account(**{"responses_model": "gpt-main", **changes})


def _parse(value: Any, model_map: dict[str, str] | None = None) -> tuple[IntentRequest, bytes]:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    skeleton = json_skeleton.JsonSkeleton(limits=json_scanner.CONVERSATION)
    skeleton.feed(text)
    names = ModelNames(key(model_map=model_map or {}))
    found = intent.parse(skeleton.close(), skeleton.lifted, names, "gpt-image-2")
    return found, text


def _encode(
    value: Any, one: Account | None = None, model_map: dict[str, str] | None = None
) -> tuple[UpstreamRequest, bytes]:
    """The call, and the bytes of its body."""
    request, text = _parse(value, model_map)
    call = codex.INTENTS.encode(request, one or _account(), NOBODY, CONTEXT)
    sent = play(call.body, text)
    assert body_segments.length(call.body) == len(sent)
    return call, sent


def _sent(
    value: Any, one: Account | None = None, model_map: dict[str, str] | None = None
) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_encode(value, one, model_map)[1])
    return found


# -- where it goes ---------------------------------------------------------------------------------


def test_an_intent_goes_to_the_responses_route_and_wants_its_events() -> None:
    call, _ = _encode({**TEXT, "tools": [TOOL]})
    assert call.url == "https://chatgpt.com/backend-api/codex/responses"
    assert call.expects is ExpectedResponse.RESPONSE
    assert call.headers == {
        "authorization": f"Bearer {TOKEN}",
        "chatgpt-account-id": ACCOUNT_ID,
        "originator": "codex_cli_rs",
        "user-agent": "codex_cli_rs/0.169.0",
        "version": "0.169.0",
        "content-type": "application/json",
        "accept": "text/event-stream",
    }


def test_an_account_s_base_keeps_its_path_and_query() -> None:
    call, _ = _encode({**TEXT, "tools": [TOOL]}, _account(base_url="https://p.example/v1?k=1"))
    assert call.url == "https://p.example/v1/responses?k=1"


def test_what_codex_may_know_of_the_client_passes_and_no_more() -> None:
    request, _ = _parse({**TEXT, "tools": [TOOL]})
    client = Headers(
        [
            (b"authorization", b"Bearer hush"),
            (b"cookie", b"hush"),
            (b"openai-beta", b"responses=v1"),
            (b"session-id", b"s-1"),
            (b"x-stainless-lang", b"hush"),
            (b"accept", b"hush"),
        ]
    )
    sent = codex_intents.encode(request, _account(), client, CONTEXT).headers
    assert (sent["openai-beta"], sent["session-id"]) == ("responses=v1", "s-1")
    assert "hush" not in " ".join(sent.values())


def test_only_an_account_with_a_main_model_has_the_route() -> None:
    request, _ = _parse({**TEXT, "tools": [TOOL]})
    assert choose(_account(codex_route="direct"), request) is codex.INTENTS
    assert choose(_account(codex_route="responses"), request) is codex.INTENTS
    way = choose(_account(responses_model=None), request)
    assert isinstance(way, Gap)
    assert way.param == "model"


# -- what must be changed --------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [{}, {"stream": None}, {"stream": False}, {"stream": True}])
@pytest.mark.parametrize("store", [{}, {"store": None}, {"store": True}])
def test_it_always_streams_and_never_stores(stream: Any, store: Any) -> None:
    value = {**TEXT, "tools": [TOOL]}
    assert _sent({**value, **stream, **store}) == {**value, **ALWAYS}


@pytest.mark.parametrize("instructions", [{}, {"instructions": None}])
def test_a_call_without_instructions_gets_some(instructions: dict[str, Any]) -> None:
    """Those for an image model ask for a picture; a text model that has the tool may choose."""
    sent = _sent({"model": "gpt-image-2", "input": [], **instructions})
    assert "image" in sent["instructions"]
    sent = _sent({"model": "gpt-5", "input": [], "tools": [TOOL], **instructions})
    assert sent["instructions"]
    assert "image" not in sent["instructions"]


@pytest.mark.parametrize("said", ["draw", "", "x" * 9000])
def test_instructions_of_the_client_s_own_stay(said: str) -> None:
    assert _sent({**TEXT, "tools": [TOOL], "instructions": said})["instructions"] == said


@pytest.mark.parametrize("said", ["a cat", "", 'a "cat"\n\u732b', "x" * 9000, '\\"' * 5000])
def test_an_input_that_is_a_text_becomes_a_list(said: str) -> None:
    sent = _sent({**TEXT, "tools": [TOOL], "input": said})
    content = [{"type": "input_text", "text": said}]
    assert sent["input"] == [{"role": "user", "content": content}]


_TUNING = {
    "max_output_tokens": 100,
    "temperature": 0.2,
    "top_p": 0.9,
    "truncation": "auto",
    "metadata": {"a": "b"},
    "user": "u-1",
    "safety_identifier": "s-1",
    "stream_options": {"include_obfuscation": False},
    "top_logprobs": 2,
    "prompt_cache_retention": "24h",
}


@pytest.mark.parametrize("name", _TUNING)
@pytest.mark.parametrize("model", ["gpt-5", "gpt-image-2"])
def test_what_only_tunes_an_answer_is_left_out_because_codex_refuses_it(
    name: str, model: str
) -> None:
    value = {**TEXT, "model": model, "tools": [TOOL]}
    assert _sent({**value, name: _TUNING[name]}) == _sent(value)
    assert _sent({**value, name: None}) == _sent(value)


@pytest.mark.parametrize(
    "nothing",
    [
        {"background": False},
        {"background": None},
        {"previous_response_id": None},
        {"conversation": None},
        {"prompt": None},
    ],
)
def test_what_asks_for_nothing_is_left_out_too(nothing: dict[str, Any]) -> None:
    value = {**TEXT, "tools": [TOOL]}
    assert _sent({**value, **nothing}) == _sent(value)


def test_a_system_item_becomes_a_developer_s() -> None:
    items = [
        {"role": "system", "content": "be brief"},
        {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "x"}]},
        {"role": "user", "content": "a cat"},
        "odd",
    ]
    sent = _sent({**TEXT, "tools": [TOOL], "input": items})
    assert sent["input"] == [
        {**items[0], "role": "developer"},  # type: ignore[dict-item]
        {**items[1], "role": "developer"},  # type: ignore[dict-item]
        items[2],
        "odd",
    ]


_STORED: list[tuple[dict[str, Any], str]] = [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": {"id": "conv_1"}}, "conversation"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"input": ["a", {"type": "item_reference", "id": "msg_1"}]}, "input[1]"),
    ({"input": ["a", "b", {"type": "image_generation_call", "id": "ig_1"}]}, "input[2]"),
    ({"input": [{"type": "image_generation_call", "id": "ig_1", "result": None}]}, "input[0]"),
    ({"input": [{"type": "image_generation_call", "id": "ig_1", "result": ""}]}, "input[0]"),
]


@pytest.mark.parametrize(("stored", "param"), _STORED)
def test_what_only_its_own_upstream_has_stored_is_named_with_what_to_send(
    stored: dict[str, Any], param: str
) -> None:
    request, _ = _parse({**TEXT, "tools": [TOOL], **stored})
    way = choose(_account(), request)
    assert isinstance(way, Gap)
    assert (way.param, "`input`" in way.advice) == (param, True)
    one = _account(dialect="openai")
    assert choose(one, request) is openai.INTENTS


def test_an_earlier_picture_goes_to_codex_with_its_result() -> None:
    item = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "QUJD"}
    sent = _sent({**TEXT, "tools": [TOOL], "input": [*TEXT["input"], item]})
    assert sent["input"][-1] == item


@pytest.mark.parametrize("address", ["https://e.example/a.png", "http://e.example/a.png"])
def test_a_picture_by_its_address_is_openai_s_alone(address: str) -> None:
    content = [{"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": address}]
    value = {**TEXT, "tools": [TOOL], "input": [{"role": "user", "content": content}]}
    request, _ = _parse(value)
    way = choose(_account(), request)
    assert isinstance(way, Gap)
    assert way.param == "input[0].content[1].image_url"
    one = _account(dialect="openai")
    assert choose(one, request) is openai.INTENTS


def test_a_call_in_the_background_is_an_ordinary_one_for_the_upstream() -> None:
    """The gateway keeps its answer, whatever the account can do itself."""
    value = {**TEXT, "tools": [TOOL]}
    assert _sent({**value, "background": True}) == _sent(value)


def test_an_image_model_goes_as_the_account_s_main_model_with_the_tool() -> None:
    assert _sent({**TEXT, "model": "gpt-image-2"}) == {
        **TEXT,
        **ALWAYS,
        "model": "gpt-main",
        "tools": [{"type": "image_generation", "model": "gpt-image-2"}],
        "tool_choice": {"type": "image_generation"},
    }


@pytest.mark.parametrize("tools", [{}, {"tools": None}, {"tools": []}])
def test_a_text_model_with_a_choice_gets_no_tool_that_it_did_not_list(tools: Any) -> None:
    value = {**TEXT, **tools, "tool_choice": "image_generation"}
    assert _sent(value) == {**value, **ALWAYS}


def test_an_image_model_keeps_the_tools_and_the_choice_that_it_came_with() -> None:
    other = {"type": "function", "name": "f", "parameters": {}}
    value = {**TEXT, "model": "gpt-image-2", "tools": [other], "tool_choice": "auto"}
    assert _sent(value) == {
        **value,
        **ALWAYS,
        "model": "gpt-main",
        "tools": [other, {"type": "image_generation", "model": "gpt-image-2"}],
    }
    mine = {**TOOL, "size": "1024x1024", "quality": "high"}
    sent = _sent({**value, "tools": [other, mine, other]})
    assert sent["tools"] == [other, {**mine, "model": "gpt-image-2"}, other]


def test_a_tool_that_names_its_own_model_keeps_it_under_an_image_model() -> None:
    tool = {**TOOL, "model": "gpt-image-1"}
    sent = _sent({**TEXT, "model": "gpt-image-2", "tools": [tool]})
    assert (sent["model"], sent["tools"]) == ("gpt-main", [tool])


def test_a_text_model_goes_by_the_name_that_the_key_maps_it_to() -> None:
    sent = _sent({**TEXT, "tools": [TOOL]}, model_map={"gpt-5": "gpt-6"})
    assert (sent["model"], sent["tools"]) == ("gpt-6", [TOOL])


def test_a_name_that_the_key_maps_to_an_image_model_is_one() -> None:
    sent = _sent({**TEXT, "model": "painter"}, model_map={"painter": "gpt-image-1"})
    assert sent["model"] == "gpt-main"
    assert sent["tools"] == [{**TOOL, "model": "gpt-image-1"}]


def test_an_image_model_that_the_key_maps_to_a_text_model_is_drawn_by_the_main_model() -> None:
    sent = _sent({**TEXT, "model": "gpt-image-2"}, model_map={"gpt-image-2": "gpt-5"})
    assert (sent["model"], sent["tools"]) == ("gpt-main", [TOOL])


def test_a_tool_s_model_goes_through_the_map_and_the_account_s_deployments() -> None:
    one = _account(deployments={"inner": "innermost", "gpt-image-2": "own", "fine": "wrong"})
    tools = [{**TOOL, "model": "fine"}, {**TOOL, "model": "gpt-image-2"}, {**TOOL, "model": "x"}]
    sent = _sent({**TEXT, "tools": tools}, one, {"fine": "inner"})
    assert [tool["model"] for tool in sent["tools"]] == ["innermost", "own", "x"]
    assert sent["model"] == "gpt-5"
    sent = _sent({**TEXT, "model": "gpt-image-2", "tools": [TOOL]}, one)
    assert (sent["model"], sent["tools"][0]["model"]) == ("gpt-main", "own")


def test_models_of_other_tools_are_nobody_s_business() -> None:
    other = {"type": "agent", "model": "fine"}
    sent = _sent({**TEXT, "tools": [other, TOOL]}, model_map={"fine": "inner"})
    assert sent["tools"] == [other, TOOL]


# -- what stays ------------------------------------------------------------------------------------


def test_everything_else_stays_as_it_came() -> None:
    value: dict[str, Any] = {
        **TEXT,
        "tools": [TOOL],
        "zeta": 1,
        "tiny": 5e-324,
        "count": 2**63,
        "below": -(2**63),
        "negative": -0.0,
        "null": None,
        "text": {"b": "2", "a": ["\u732b \U0001f408", "\\", '"', "\u2028", {}]},
        "include": ["reasoning.encrypted_content"],
        "parallel_tool_calls": False,
        "alpha": [],
    }
    _, sent = _encode(value)
    assert json.loads(sent) == {**value, **ALWAYS}
    assert [*json.loads(sent)] == [*value, "stream", "store"]
    assert b'"zeta":1,"tiny":5e-324' in sent


def test_large_texts_stay_where_they_lie_and_go_as_they_were_written() -> None:
    shown = b'{"type":"input_image","image_url":"' + PNG.encode() + b"A" * 9000 + b'"}'
    said = rb'{"type":"input_text","text":"\u0061\/\ud83d\ude00 ' + b"b" * 5000 + b'"}'
    text = b'{"input":[{"role":"user","content":[%b,%b]}],"model":"gpt-image-2"}' % (shown, said)
    call, sent = _encode(text)
    assert shown[-9000:] in sent
    assert said[-5040:] in sent
    assert sum(len(part) for part in call.body if isinstance(part, bytes)) < 600
    assert json.loads(sent)["input"] == json.loads(text)["input"]


def test_a_large_text_in_a_tool_stays_with_its_tool() -> None:
    long = "x" * 6000
    tools: list[dict[str, Any]] = [
        {"type": "function", "name": "f", "description": long + "1"},
        {**TOOL, "input_image_mask": {"image_url": PNG + long}},
        {"type": "function", "name": "g", "description": long + "2"},
    ]
    value = {**TEXT, "model": "gpt-image-2", "tools": tools}
    expected = [tools[0], {**tools[1], "model": "gpt-image-2"}, tools[2]]
    assert _sent(value)["tools"] == expected


_CHOICES = st.sampled_from(
    [
        "image_generation",
        TOOL,
        {"type": "function", "name": "image_generation"},
        {"type": "tool", "tool": {"type": "image_generation"}},
        {"type": "function", "function": {"name": "image_generation"}},
    ]
)
_MODELS = st.sampled_from(["gpt-5", "painter", "gpt-image-2", "x/GPT-Image-1"])
_TOOLS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["image_generation", "function", "namespace"])},
        optional={"model": _MODELS, "size": st.just("auto"), "n": st.floats(0, 1)},
    ),
    max_size=4,
)
_REST = st.dictionaries(
    st.sampled_from(["text", "service_tier", "max_tool_calls", "reasoning", "prompt_cache_key"]),
    st.floats(0, 1) | st.sampled_from(["a", "x" * 5000, None, {"a": ["x" * 4097]}]),
)
_INTENTS = st.fixed_dictionaries(
    {},
    optional={
        "model": _MODELS,
        "tools": st.none() | _TOOLS,
        "tool_choice": _CHOICES | st.sampled_from([None, "auto", "required"]),
        "input": st.sampled_from(["a cat", "x" * 5000, [], [{"role": "user", "content": "a"}]]),
        "instructions": st.sampled_from([None, "", "draw", "x" * 5000]),
        "stream": st.sampled_from([None, True, False]),
        "store": st.sampled_from([None, True, False]),
    },
)


@given(
    value=_INTENTS,
    rest=_REST,
    model_map=st.dictionaries(_MODELS, st.sampled_from(["gpt-5", "gpt-image-1", "other"])),
    deployments=st.none() | st.dictionaries(_MODELS, st.just("inner")),
)
def test_whatever_the_intent_what_goes_upstream_is_one_again_in_the_upstream_s_form(
    value: dict[str, Any],
    rest: dict[str, Any],
    model_map: dict[str, str],
    deployments: dict[str, str] | None,
) -> None:
    value = {**value, **rest}
    if not intent_signals.signals_of(value).show_intent(model_map):
        value["tool_choice"] = "image_generation"
    one = _account(deployments=deployments)
    sent = _sent(value, one, model_map)
    assert intent_signals.signals_of(sent).show_intent({})
    assert (sent["stream"], sent["store"]) == (True, False)
    assert isinstance(sent["instructions"], str)
    assert isinstance(sent.get("input", []), list)
    asked = value.get("model") or "gpt-image-2"
    names = ModelNames(key(model_map=model_map))
    mapped = names.upstream(asked)
    is_drawn = is_image_model(asked) or is_image_model(mapped)
    named = (deployments or {}).get(mapped, mapped)
    assert sent["model"] == ("gpt-main" if is_drawn else named)
    given_tools = value.get("tools") or []
    for old, new in zip(given_tools, sent.get("tools") or [], strict=False):
        assert {k: v for k, v in old.items() if k != "model"} == {
            k: v for k, v in new.items() if k != "model"
        }
        if old["type"] != "image_generation":
            assert new == old
        elif "model" in old:
            name = names.upstream(old["model"])
            assert new["model"] == (deployments or {}).get(name, name)
    extra = (sent.get("tools") or [])[len(given_tools) :]
    assert [tool["type"] for tool in extra] in ([], ["image_generation"])
    assert {name: sent[name] for name in rest} == rest


# -- bodies that are odd ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b'{"model":"gpt-image-2","model":"gpt-5"}',
        b'{"model":"gpt-5","tools":[{"type":"image_generation"}],"tools":[]}',
        b'{"model":"gpt-5","tools":[{"type":"image_generation","type":"function"}]}',
        b'{"model":"gpt-5","tool_choice":"image_generation","tool_choice":"auto"}',
    ],
)
def test_of_names_that_stand_twice_an_intent_is_made_or_the_client_refused(text: bytes) -> None:
    """What shows an intent to the one reader and none to the other is no mistake of ours."""
    reader = intent_signals.IntentSignalReader()
    reader.feed(text)
    assert reader.signals.show_intent({})
    with contextlib.suppress(Refusal):
        assert intent_signals.signals_of(_sent(text)).show_intent({})


@pytest.mark.parametrize("depth", [100, 240])
def test_a_deep_body_is_sent(depth: int) -> None:
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    _, sent = _encode(b'{"model":"gpt-image-2","input":[],"text":%b}' % deep)
    assert deep in sent


@pytest.mark.parametrize("depth", [253, 254, 255, 260, json_scanner.CONVERSATION.depth - 2])
def test_a_body_that_is_too_deep_to_be_sent_is_too_deep_to_be_read(depth: int) -> None:
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    with contextlib.suppress(json_scanner.ScanLimitError, Refusal):
        _, sent = _encode(b'{"model":"gpt-image-2","input":[],"text":%b}' % deep)
        assert deep in sent


class _Counted(dict[str, object]):
    """A tool that counts how often it is compared."""

    compared = 0

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        _Counted.compared += 1
        return super().__eq__(other)


def test_the_work_grows_with_the_number_of_tools_and_not_with_its_square() -> None:
    """A body may list a hundred thousand of them."""
    count = 500
    tools = [_Counted(type="image_generation", partial_images=at) for at in range(count)]
    request, _ = _parse({**TEXT, "tools": [TOOL]})
    made = IntentRequest(
        "gpt-5", (), ModelNames(key()), {**request.body, "tools": tools}, request.texts
    )
    codex_intents.encode(made, _account(), NOBODY, CONTEXT)
    assert _Counted.compared <= 10 * count


def test_an_intent_that_was_lost_on_the_way_is_never_sent() -> None:
    made = IntentRequest("gpt-5", (), ModelNames(key()), {"model": "gpt-5", "input": []})
    with pytest.raises(ValueError, match="intent"):
        codex_intents.encode(made, _account(), NOBODY, CONTEXT)


def test_an_account_without_a_credential_signs_nothing() -> None:
    request, _ = _parse({**TEXT, "tools": [TOOL]})
    with pytest.raises(ValueError, match="credential"):
        codex_intents.encode(request, _account(credential=None), NOBODY, CONTEXT)
