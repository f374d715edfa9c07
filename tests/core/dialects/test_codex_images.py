"""Codex, the direct route: exactly what the Codex command line would send, and nothing more."""

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_gateway.core.codec import body_segments
from image_gateway.core.dialects import (
    EncodeContext,
    ExpectedResponse,
    UpstreamRequest,
    codex,
    codex_images,
)
from image_gateway.core.dialects.upstream_request import join
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account, Credential, Secret
from image_gateway.core.routing import capability
from tests.core.builders import ACCOUNT_ID, PNG, TOKEN, account, parse, play

CONTEXT = EncodeContext("https://chatgpt.com/backend-api/codex", "0.169.0", "never-used")
OURS = {
    "authorization": f"Bearer {TOKEN}",
    "chatgpt-account-id": ACCOUNT_ID,
    "originator": "codex_cli_rs",
    "user-agent": "codex_cli_rs/0.169.0",
    "version": "0.169.0",
    "content-type": "application/json",
    "accept": "application/json",
    "x-codex-image-turn-id": CONTEXT.call_id,
}
FIXED = OURS.keys() - {"x-codex-image-turn-id"}
"""A client's own id of a turn passes; nothing else of these can be replaced."""
PASSED_ON = {
    "openai-beta",
    "x-openai-subagent",
    "session-id",
    "thread-id",
    "traceparent",
    "tracestate",
    "baggage",
}


def _client(**found: str) -> Headers:
    return Headers(
        (name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in found.items()
    )


def _encode(
    value: dict[str, Any], one: Account | None = None, *, edits: bool = False, **client: str
) -> UpstreamRequest:
    request = parse(value, "edits" if edits else "generations")
    return codex_images.encode(request, one or account(), _client(**client), CONTEXT)


def _sent(call: UpstreamRequest, spool: bytes = b"") -> Any:
    return json.loads(play(call.body, spool))


# -- what it cannot do -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "edits", "param"),
    [
        ({"stream": True, "partial_images": 1}, False, "partial_images"),
        ({"stream": True, "partial_images": 2, "images": [PNG]}, True, "partial_images"),
        ({"stream": True, "partial_images": 0}, False, None),
        ({"stream": True}, False, None),
        ({"output_format": "gif", "model": "gpt-image-2.5-sunburst"}, False, None),
        ({"output_format": "svg", "model": "gpt-image-2.5-sunburst"}, False, "output_format"),
        ({"images": ["https://example.com/a.png"]}, True, "images"),
        ({"images": [PNG], "mask": PNG}, True, "mask"),
        ({"images": [PNG], "markup": PNG, "model": "gpt-image-2.5-sunburst"}, True, "markup"),
        ({"images": [PNG] * 6}, True, "images"),
        ({"images": [PNG] * 16}, True, "images"),
        ({"images": [PNG] * 5}, True, None),
        ({"images": [PNG]}, True, None),
        ({"stream": False}, False, None),
        ({"n": 10, "response_format": "url"}, False, None),
        ({}, False, None),
    ],
)
def test_a_gap_names_what_the_route_cannot_do(
    value: dict[str, Any], edits: Any, param: str | None
) -> None:
    request = parse(value, "edits" if edits else "generations")
    gap = capability.gap(request, codex.IMAGES)
    assert (None if gap is None else gap.param) == param
    assert gap is None or gap.advice


def test_it_is_the_dialect_of_its_route() -> None:
    request, one = parse({}), account()
    call = codex.IMAGES.encode(request, one, Headers([]), CONTEXT)
    assert call == codex_images.encode(request, one, Headers([]), CONTEXT)


# -- the body --------------------------------------------------------------------------------


def test_a_generation_is_sent_with_its_parameters_and_no_others() -> None:
    call = _encode({"n": 2, "size": "auto", "background": "opaque", "user": "u"})
    assert _sent(call) == {
        "prompt": "a cat",
        "model": "gpt-image-2",
        "n": 2,
        "size": "auto",
        "background": "opaque",
        "user": "u",
    }


def test_n_is_never_dropped() -> None:
    assert _sent(_encode({"n": 10}))["n"] == 10
    assert "n" not in _sent(_encode({}))


@pytest.mark.parametrize("response_format", ["url", "b64_json", None])
@pytest.mark.parametrize("stream", [False, None, True])
def test_stream_and_response_format_do_not_leak(response_format: Any, stream: Any) -> None:
    if stream:
        response_format = None
    value = {"response_format": response_format, "stream": stream, "size": None}
    assert set(_sent(_encode(value))) == {"prompt", "model"}
    edit = {"images": [PNG], "stream": stream, "mask": None}
    assert set(_sent(_encode(edit, edits=True))) == {"prompt", "model", "images"}


def test_a_call_for_a_stream_asks_for_json_all_the_same() -> None:
    """The route never streams: what comes is turned into events for the client."""
    call = _encode({"stream": True, "partial_images": 0})
    assert _sent(call) == {"prompt": "a cat", "model": "gpt-image-2"}
    assert call.expects is ExpectedResponse.JSON
    assert call.headers["accept"] == "application/json"


def test_an_edit_is_json_with_every_picture_in_its_place() -> None:
    value = {"images": [PNG, {"image_url": "https://example.com/a.png"}, PNG], "size": "auto"}
    assert _sent(_encode(value, edits=True)) == {
        "prompt": "a cat",
        "model": "gpt-image-2",
        "images": [
            {"image_url": PNG},
            {"image_url": "https://example.com/a.png"},
            {"image_url": PNG},
        ],
        "size": "auto",
    }


def test_large_pictures_are_spans_and_the_length_is_known_before_they_are_read() -> None:
    first, second = PNG + "A" * 6000, PNG + "B" * 9000
    value = {"prompt": "a cat", "images": [first, PNG, {"image_url": second}]}
    text = json.dumps(value).encode()
    call = codex_images.encode(parse(text, "edits"), account(), _client(), CONTEXT)
    spans = [segment for segment in call.body if isinstance(segment, body_segments.Span)]
    assert len(spans) == 2
    assert [item["image_url"] for item in _sent(call, text)["images"]] == [first, PNG, second]
    assert body_segments.length(call.body) == len(play(call.body, text))
    assert sum(len(segment) for segment in call.body if isinstance(segment, bytes)) < 400


def test_a_deployment_s_name_is_what_goes_upstream() -> None:
    one = account(deployments={"gpt-image-2": "inner", "other": "x"})
    assert _sent(_encode({}, one))["model"] == "inner"
    assert _sent(_encode({"model": "gpt-image-1"}, one))["model"] == "gpt-image-1"


def test_a_mapped_model_is_looked_up_under_its_mapped_name() -> None:
    request = parse({"model": "public"}, model_map={"public": "inner"})
    one = account(deployments={"inner": "innermost", "public": "wrong"})
    call = codex_images.encode(request, one, _client(), CONTEXT)
    assert _sent(call)["model"] == "innermost"


# -- where it goes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (None, "https://chatgpt.com/backend-api/codex/images/generations"),
        ("http://10.0.0.1:8080", "http://10.0.0.1:8080/images/generations"),
        ("http://10.0.0.1:8080/", "http://10.0.0.1:8080/images/generations"),
        ("https://pool.example/v1", "https://pool.example/v1/images/generations"),
        ("https://pool.example/v1//", "https://pool.example/v1/images/generations"),
        ("https://pool.example/c?k=1&x=2", "https://pool.example/c/images/generations?k=1&x=2"),
        ("https://pool.example/c#part", "https://pool.example/c/images/generations"),
    ],
)
def test_the_address_is_the_base_s_own_path_and_query(base: str | None, expected: str) -> None:
    assert _encode({}, account(base_url=base)).url == expected


def test_an_edit_goes_to_its_own_path() -> None:
    assert _encode({"images": [PNG]}, edits=True).url.endswith("/codex/images/edits")


def test_joining_keeps_what_the_base_holds() -> None:
    assert join("https://h/a/?q=/", "/b") == "https://h/a/b?q=/"


# -- headers ---------------------------------------------------------------------------------


def test_our_headers_are_those_of_the_command_line() -> None:
    assert _encode({}).headers == OURS


def test_an_account_s_own_version_goes_before_the_default() -> None:
    sent = _encode({}, account(client_version="1.2.3")).headers
    assert sent == OURS | {"version": "1.2.3", "user-agent": "codex_cli_rs/1.2.3"}


def test_an_account_without_an_id_names_none() -> None:
    bare = account(credential=Credential(Secret("t"), "api_key"))
    sent = _encode({}, bare).headers
    assert sent == {
        **{name: value for name, value in OURS.items() if name != "chatgpt-account-id"},
        "authorization": "Bearer t",
    }


def test_only_a_fedramp_account_says_so() -> None:
    credential = Credential(Secret(TOKEN), "access_token", ACCOUNT_ID, is_fedramp=True)
    sent = _encode({}, account(credential=credential)).headers
    assert sent == OURS | {"x-openai-fedramp": "true"}


def test_an_account_without_a_credential_signs_nothing() -> None:
    with pytest.raises(ValueError, match="credential"):
        _encode({}, account(credential=None))


def test_what_codex_may_know_of_the_client_passes() -> None:
    found: dict[str, Any] = {name.replace("-", "_"): f"value of {name}" for name in PASSED_ON}
    sent = _encode({}, **found, x_codex_turn="7").headers
    assert sent == OURS | {name: f"value of {name}" for name in PASSED_ON} | {"x-codex-turn": "7"}


@pytest.mark.parametrize(
    "name",
    [
        "cookie",
        "authorization",
        "api-key",
        "x-api-key",
        "proxy-authorization",
        "x-stainless-retry-count",
        "x-stainless-lang",
        "connection",
        "keep-alive",
        "te",
        "upgrade",
        "transfer-encoding",
        "content-length",
        "content-encoding",
        "content-type",
        "accept",
        "accept-encoding",
        "host",
        "expect",
        "forwarded",
        "x-forwarded-for",
        "x-real-ip",
        "openai-organization",
        "openai-project",
        "chatgpt-account-id",
        "x-openai-fedramp",
        "version",
        "user-agent",
        "originator",
        "session_id",
    ],
)
def test_what_is_nobody_s_business_does_not_pass(name: str) -> None:
    client = Headers([(name.encode(), b"hush"), (name.title().encode(), b"hush")])
    call = codex_images.encode(parse({}), account(), client, CONTEXT)
    assert call.headers == OURS


@given(
    st.dictionaries(
        st.one_of(
            st.text("abcdeghikoprstuvxyz-_", min_size=1, max_size=16),
            st.sampled_from(
                [*sorted(PASSED_ON), *sorted(FIXED), "cookie", "x-codex-a", "x-stainless-os"]
            ),
        ),
        st.just("hush"),
    )
)
def test_no_other_header_passes_and_none_of_ours_can_be_replaced(client: dict[str, str]) -> None:
    found = Headers((name.encode(), value.encode()) for name, value in client.items())
    sent = codex_images.encode(parse({}), account(), found, CONTEXT).headers
    for name, value in sent.items():
        if name in FIXED:
            assert value == OURS[name]
        else:
            assert name in PASSED_ON or name.startswith("x-codex-")
    assert set(OURS) <= set(sent)


def test_each_call_has_a_uuid_of_its_own_unless_the_client_sends_one() -> None:
    ids = {
        codex_images.encode(
            parse({}), account(), Headers([]), replace(CONTEXT, boundary=token)
        ).headers["x-codex-image-turn-id"]
        for token in ("a", "b", "c" * 32)
    }
    assert len(ids) == 3
    assert all(str(uuid.UUID(text)) == text for text in ids)
    assert _encode({}, x_codex_image_turn_id="mine").headers["x-codex-image-turn-id"] == "mine"


def test_a_codex_client_keeps_its_own_name() -> None:
    found: dict[str, Any] = {"originator": "codex_vscode", "user_agent": "codex_vscode/1.0"}
    sent = _encode({}, **found).headers
    assert sent == OURS | {"originator": "codex_vscode", "user-agent": "codex_vscode/1.0"}


@pytest.mark.parametrize("originator", ["curl", "", "codex", "my_codex_", "Codex-like"])
def test_another_client_gets_ours(originator: str) -> None:
    sent = _encode({}, originator=originator, user_agent="curl/8").headers
    assert sent == OURS


def test_a_call_s_repr_shows_neither_headers_nor_body() -> None:
    shown = repr(_encode({"prompt": "hush", "user": "hush"}))
    for hidden in ("hush", TOKEN, ACCOUNT_ID):
        assert hidden not in shown
    assert "/images/generations" in shown
