"""Azure, OpenAI and Codex's Responses route: exactly what each wants to hear, and nothing more."""

import base64
import email
import email.policy
import json
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_multipart.multipart import parse_options_header

from image_gateway.core.codec import body_segments
from image_gateway.core.codec.multipart import MultipartReader, Part, PartLimits
from image_gateway.core.dialects import (
    EncodeContext,
    ExpectedResponse,
    UpstreamRequest,
    UpstreamRoute,
    azure,
    codex,
    codex_responses,
    openai,
)
from image_gateway.core.headers import Headers
from image_gateway.core.model import Account, Credential, Secret
from image_gateway.core.request.catalogue import Endpoint
from image_gateway.core.request.image_request import ImageRequest
from tests.core.builders import (
    ACCOUNT_ID,
    PNG,
    ROUTES,
    TOKEN,
    account,
    account_with,
    parse,
    parse_form,
    play,
)

G: Endpoint = "generations"
E: Endpoint = "edits"
BOUNDARY = "7f3e0000b0undary"
CONTEXT = EncodeContext("https://chatgpt.com/backend-api/codex", "0.169.0", BOUNDARY)
NOBODY = Headers([])
_NEWEST = "gpt-image-2.5-sunburst"
_ADDRESS = "https://example.com/a.png"
_BYTES = base64.b64decode(PNG.partition(",")[2])
_JPEG = b"\xff\xd8\xff\xe0" + b"\xfb\xef\xbe" * 10
_KEY = Credential(Secret(TOKEN), "api_key")
_CLIENT = Headers(
    [
        (b"authorization", b"Bearer hush"),
        (b"api-key", b"hush"),
        (b"cookie", b"hush"),
        (b"user-agent", b"hush"),
        (b"x-stainless-lang", b"hush"),
        (b"openai-organization", b"hush"),
        (b"content-type", b"text/hush"),
        (b"accept", b"hush"),
        (b"host", b"hush"),
        (b"x-codex-turn", b"hush"),
        (b"traceparent", b"00-1"),
        (b"tracestate", b"a=b"),
    ]
)
_TRACE = {"traceparent": "00-1", "tracestate": "a=b"}

_Field = tuple[str, str | bytes]


def _form(*parts: _Field, endpoint: Endpoint = E, **changes: Any) -> tuple[ImageRequest, bytes]:
    """A request that came as multipart, and its spool."""
    text = b""
    for name, value in (("prompt", "a cat"), *parts):
        text += f'--in\r\nContent-Disposition: form-data; name="{name}"'.encode()
        if isinstance(value, bytes):
            text += b'; filename="upload"\r\nContent-Type: application/octet-stream'
        text += b"\r\n\r\n" + (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    return parse_form(text + b"--in--\r\n", b"in", endpoint, **changes)


def _json(value: dict[str, Any], endpoint: Endpoint = G, **changes: Any) -> ImageRequest:
    return parse(value, endpoint, **changes)


def _parts(call: UpstreamRequest, spool: bytes = b"") -> tuple[list[Part], bytes]:
    """The parts of a multipart call, and the data of its files."""
    assert call.headers["content-type"] == f"multipart/form-data; boundary={BOUNDARY}"
    sent = play(call.body, spool)
    assert body_segments.length(call.body) == len(sent)
    reader = MultipartReader(BOUNDARY.encode(), PartLimits(10_000_000, 64))
    laid_down = b"".join(reader.feed(sent))
    return list(reader.close()), laid_down


def _fields(call: UpstreamRequest, spool: bytes = b"") -> dict[str, str]:
    found = {
        part.name: part.text.decode() for part in _parts(call, spool)[0] if part.text is not None
    }
    assert len(found) == sum(part.text is not None for part in _parts(call, spool)[0])
    return found


def _files(call: UpstreamRequest, spool: bytes = b"") -> list[tuple[str, str, bytes]]:
    parts, laid_down = _parts(call, spool)
    return [
        (part.name, part.declared, laid_down[part.data.start : part.data.stop])
        for part in parts
        if part.data is not None
    ]


def _value(call: UpstreamRequest, spool: bytes = b"") -> Any:
    assert call.headers["content-type"] == "application/json"
    sent = play(call.body, spool)
    assert body_segments.length(call.body) == len(sent)
    return json.loads(sent)


# == Azure =====================================================================================


def _azure(**changes: Any) -> Account:
    plain: dict[str, Any] = {
        "dialect": "azure",
        "base_url": "https://res.openai.azure.com",
        "deployments": {"gpt-image-2": "drawer"},
        "credential": _KEY,
    }
    return account(**{**plain, **changes})


def _to_azure(request: ImageRequest, client: Headers = NOBODY, **changes: Any) -> UpstreamRequest:
    return azure.encode(request, _azure(**changes), client, CONTEXT)


_OLD = "2025-04-01-preview"
_RES = "https://res.openai.azure.com"
_V1 = f"{_RES}/openai/v1/images/generations"
_AT_DRAWER = "openai/deployments/drawer/images/generations"
_LEGACY = f"{_RES}/{_AT_DRAWER}?api-version={_OLD}"


@pytest.mark.parametrize(
    ("base", "version", "expected"),
    [
        ("https://res.openai.azure.com", None, _V1),
        ("https://res.openai.azure.com/", None, _V1),
        ("https://res.openai.azure.com", _OLD, _LEGACY),
        ("https://res.openai.azure.com//", _OLD, _LEGACY),
        # what people paste
        ("https://res.openai.azure.com/openai", None, _V1),
        ("https://res.openai.azure.com/openai/v1", None, _V1),
        ("https://res.openai.azure.com/openai/v1/", None, _V1),
        ("https://res.openai.azure.com/openai/v1/images", None, _V1),
        ("https://res.openai.azure.com/openai/v1/images/generations", None, _V1),
        ("https://res.openai.azure.com/openai/v1/images/edits/", None, _V1),
        ("https://res.openai.azure.com/openai/v1/", _OLD, _LEGACY),
        ("https://res.openai.azure.com/openai/deployments/other", _OLD, _LEGACY),
        ("https://res.openai.azure.com/openai/deployments/other/", None, _V1),
        (
            f"{_RES}/openai/deployments/other/images/edits?api-version=2024-02-01",
            _OLD,
            _LEGACY,
        ),
        # a path and a query of its own
        (
            "https://gw.example:8443/azure/eu?team=a%20b&x=",
            None,
            "https://gw.example:8443/azure/eu/openai/v1/images/generations?team=a%20b&x=",
        ),
        (
            "https://gw.example/azure/openai/v1?team=a#part",
            _OLD,
            f"https://gw.example/azure/{_AT_DRAWER}?team=a&api-version={_OLD}",
        ),
        (
            "https://res.openai.azure.com/?api-version=preview",
            None,
            _V1 + "?api-version=preview",
        ),
        # what only looks like what we add
        (
            "https://gw.example/myopenai",
            None,
            "https://gw.example/myopenai/openai/v1/images/generations",
        ),
        (
            "https://gw.example/openai/v1/eu",
            None,
            "https://gw.example/openai/v1/eu/openai/v1/images/generations",
        ),
        # sovereign clouds
        (
            "https://res.openai.azure.us/",
            None,
            "https://res.openai.azure.us/openai/v1/images/generations",
        ),
        (
            "https://res.openai.azure.cn/openai/",
            _OLD,
            f"https://res.openai.azure.cn/{_AT_DRAWER}?api-version={_OLD}",
        ),
        (
            "https://res.services.ai.azure.com",
            None,
            "https://res.services.ai.azure.com/openai/v1/images/generations",
        ),
    ],
)
def test_azure_s_address_is_made_of_the_base_by_its_parts(
    base: str, version: str | None, expected: str
) -> None:
    assert _to_azure(_json({}), base_url=base, api_version=version).url == expected
    edit = _to_azure(_json({"images": [PNG]}, E), base_url=base, api_version=version).url
    assert edit == expected.replace("/images/generations", "/images/edits")


@pytest.mark.parametrize(
    ("deployment", "quoted"),
    [("a b", "a%20b"), ("a/b", "a%2Fb"), ("..", ".."), ("a?b#c", "a%3Fb%23c")],
)
def test_a_deployment_s_name_cannot_leave_its_place_in_the_path(
    deployment: str, quoted: str
) -> None:
    found = _to_azure(_json({}), deployments={"gpt-image-2": deployment}, api_version=_OLD).url
    assert found == _LEGACY.replace("drawer", quoted)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("https://res.openai.azure.com", True),
        ("https://RES.OpenAI.Azure.com/openai", True),
        ("https://res.openai.azure.com.", True),
        ("https://res.openai.azure.com:443/x?y", True),
        ("https://res.openai.azure.us", True),
        ("https://res.openai.azure.cn", True),
        ("https://res.services.ai.azure.com", True),
        ("https://res.services.ai.azure.us", True),
        ("https://res.cognitiveservices.azure.com", True),
        ("https://eu.res.cognitiveservices.azure.cn", True),
        ("https://openai.azure.com", False),
        ("https://xopenai.azure.com", False),
        ("https://res.openai.azure.com.evil.example", False),
        ("https://res.openai.azure.com..", False),
        ("https://res.openai.azure.org", False),
        ("https://res.openai-azure.com", False),
        ("https://evil.example/res.openai.azure.com", False),
        ("https://evil.example?res.openai.azure.com", False),
        ("https://res.openai.azure.com@evil.example", False),
        ("https://api.openai.com/v1", False),
        ("", False),
    ],
)
def test_azure_s_own_hosts_are_known_by_whole_labels(base: str, *, expected: bool) -> None:
    doubts = azure.doubts(account(dialect="azure", base_url=base))
    assert ("base_url is not an Azure host" not in doubts) is expected


@pytest.mark.parametrize(
    ("path", "version", "doubted"),
    [
        ("/openai/deployments/d/images/edits?api-version=x", None, True),
        ("/openai/deployments/other/images/edits?api-version=x", _OLD, True),
        ("/openai/deployments/d/images/edits?api-version=x", _OLD, False),
        ("/openai/v1", None, False),
        ("", None, False),
    ],
)
def test_a_base_that_leads_to_a_deployment_without_a_version_is_doubted(
    path: str, version: str | None, *, doubted: bool
) -> None:
    made = account(
        dialect="azure",
        base_url=f"https://res.openai.azure.com{path}",
        api_version=version,
        deployments={"gpt-image-2": "d"},
    )
    assert bool(azure.doubts(made)) is doubted


def test_azure_s_key_goes_as_api_key_and_a_token_as_bearer() -> None:
    by_key = _to_azure(_json({})).headers
    assert by_key == {
        "api-key": TOKEN,
        "accept": "application/json",
        "content-type": "application/json",
    }
    token = Credential(Secret(TOKEN), "access_token", ACCOUNT_ID)
    by_token = _to_azure(_json({}), credential=token).headers
    assert by_token == {
        "authorization": f"Bearer {TOKEN}",
        "accept": "application/json",
        "content-type": "application/json",
    }


@pytest.mark.parametrize("credential", [_KEY, Credential(Secret(TOKEN), "access_token")])
def test_of_the_client_azure_sees_only_the_trace(credential: Credential) -> None:
    call = _to_azure(_json({}), _CLIENT, credential=credential)
    plain = _to_azure(_json({}), credential=credential)
    assert call.headers == {**plain.headers, **_TRACE}


def test_on_the_legacy_path_the_model_is_left_out_and_on_v1_it_is_the_deployment() -> None:
    asked = {"model": "gpt-image-2", "n": 2}
    assert _value(_to_azure(_json(asked), api_version=_OLD)) == {"prompt": "a cat", "n": 2}
    assert _value(_to_azure(_json(asked))) == {"prompt": "a cat", "n": 2, "model": "drawer"}
    edit = _json({**asked, "images": [PNG]}, E)
    assert _fields(_to_azure(edit, api_version=_OLD)) == {"prompt": "a cat", "n": "2"}
    assert _fields(_to_azure(edit)) == {"prompt": "a cat", "n": "2", "model": "drawer"}


def test_azure_is_asked_for_the_mapped_model_s_deployment() -> None:
    request = _json({"model": "public"}, model_map={"public": "gpt-image-2"})
    assert _value(_to_azure(request))["model"] == "drawer"
    assert "/drawer/" in _to_azure(request, api_version=_OLD).url
    assert _value(_to_azure(request, deployments=None))["model"] == "gpt-image-2"


@pytest.mark.parametrize("version", [None, _OLD])
@pytest.mark.parametrize("response_format", ["url", "b64_json"])
def test_response_format_never_leaks_to_azure(version: str | None, response_format: str) -> None:
    request = _json({"response_format": response_format, "stream": False})
    value = _value(_to_azure(request, api_version=version))
    assert set(value) <= {"prompt", "model"}


@pytest.mark.parametrize("version", [None, _OLD])
def test_stream_goes_to_azure_only_where_it_is_true(version: str | None) -> None:
    quiet, loud = {"stream": False}, {"stream": True, "partial_images": 2}
    call = _to_azure(_json(quiet), api_version=version)
    assert "stream" not in _value(call)
    assert (call.expects, call.headers["accept"]) == (ExpectedResponse.JSON, "application/json")
    call = _to_azure(_json(loud), api_version=version)
    assert _value(call)["stream"] is True
    assert _value(call)["partial_images"] == 2
    assert (call.expects, call.headers["accept"]) == (
        ExpectedResponse.IMAGE_EVENTS,
        "text/event-stream",
    )
    for request, expected in (
        (_json({**quiet, "images": [PNG]}, E), {}),
        (_json({**loud, "images": [PNG]}, E), {"stream": "true", "partial_images": "2"}),
        (_form(("image", _BYTES), ("stream", "false"))[0], {}),
        (_form(("image", _BYTES), ("stream", "true"))[0], {"stream": "true"}),
    ):
        found = _fields(_to_azure(request, api_version=version), _BYTES)
        assert {
            name: value for name, value in found.items() if name not in {"prompt", "model"}
        } == (expected)


@pytest.mark.parametrize("version", [None, _OLD])
def test_an_edit_in_json_goes_to_azure_as_multipart_with_the_pictures_bytes(
    version: str | None,
) -> None:
    long = PNG + "A" * 8000
    jpeg = f"data:image/png;base64,{base64.b64encode(_JPEG).decode()}"
    value = {"prompt": "a cat", "images": [{"image_url": jpeg}, long, PNG], "mask": PNG, "n": 2}
    text = json.dumps(value).encode()
    call = _to_azure(parse(text, E), api_version=version)
    assert _files(call, text) == [
        ("image[]", "image/jpeg", _JPEG),
        ("image[]", "image/png", base64.b64decode(long.partition(",")[2])),
        ("image[]", "image/png", _BYTES),
        ("mask", "image/png", _BYTES),
    ]
    assert _fields(call, text)["n"] == "2"
    assert any(isinstance(segment, body_segments.Decoded) for segment in call.body)
    literal = sum(len(segment) for segment in call.body if isinstance(segment, bytes))
    assert literal < 2000


def test_an_edit_as_multipart_goes_to_azure_with_its_files_as_they_lie() -> None:
    request, spool = _form(
        ("image[]", _JPEG),
        ("n", "2"),
        ("mask[]", _BYTES),
        ("image", _BYTES),
        ("model", "gpt-image-2"),
    )
    call = _to_azure(request)
    assert _files(call, spool) == [
        ("image[]", "image/jpeg", _JPEG),
        ("image[]", "image/png", _BYTES),
        ("mask", "image/png", _BYTES),
    ]
    assert _fields(call, spool) == {"prompt": "a cat", "n": "2", "model": "drawer"}
    assert not any(
        isinstance(part, body_segments.Encoded | body_segments.Decoded) for part in call.body
    )


def test_a_markup_goes_to_azure_as_its_own_part() -> None:
    request, spool = _form(("image", _JPEG), ("markup", _BYTES), ("model", _NEWEST))
    assert [name for name, _, _ in _files(_to_azure(request), spool)] == ["image", "markup"]


def test_a_part_of_ours_has_the_headers_that_python_s_mime_reader_wants() -> None:
    """A file has a name and its true type: octet-stream is refused upstream."""
    request, spool = _form(("image[]", _JPEG), ("mask", _BYTES))
    call = _to_azure(request)
    head = f"Content-Type: {call.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + play(call.body, spool), policy=email.policy.HTTP)
    assert isinstance(message, EmailMessage)
    files = [part for part in message.iter_parts() if "content-type" in part]
    assert [
        (part["content-disposition"].params["name"], part.get_filename(), part.get_content_type())
        for part in files
    ] == [("image", "picture-0.jpeg", "image/jpeg"), ("mask", "picture-1.png", "image/png")]
    assert [part.get_payload(decode=True) for part in files] == [_JPEG, _BYTES]


def test_nested_values_go_to_azure_under_names_in_brackets() -> None:
    value = {
        "model": _NEWEST,
        "output_format": "svg",
        "svg": {"model": "m", "reasoning": {"effort": "high"}},
        "images": [PNG],
    }
    fields = _fields(_to_azure(_json(value, E)))
    assert fields["svg[model]"] == "m"
    assert fields["svg[reasoning][effort]"] == "high"
    assert "svg" not in fields


def test_a_form_for_a_generation_goes_to_azure_as_json_with_numbers() -> None:
    request, _ = _form(("n", "2"), ("stream", "true"), endpoint=G)
    assert _value(_to_azure(request)) == {
        "prompt": "a cat",
        "n": 2,
        "model": "drawer",
        "stream": True,
    }


_FORWARD: dict[str, Any] = {"forward_parameters": frozenset({"meta"})}


def test_the_longest_text_that_the_settings_forward_goes_on_whole_in_either_form() -> None:
    value = {"prompt": "a cat", "images": [PNG], "meta": "x" * 4096}
    assert _fields(_to_azure(_json(value, E, **_FORWARD)))["meta"] == "x" * 4096
    assert _value(_to_openai(_json(value, E, **_FORWARD)))["meta"] == "x" * 4096


@pytest.mark.parametrize(
    "name", ['a"; filename="b', "a\r\nX: y", "a\nX: y", "a\r\n\r\nb", 'a]"; name="n']
)
def test_a_name_that_a_client_chose_cannot_add_to_its_part_s_headers(name: str) -> None:
    """Names within a forwarded object are the client's own."""
    request = _json({"images": [PNG], "meta": {name: "v"}}, E, **_FORWARD)
    sent = play(_to_azure(request).body, b"")
    part = next(part for part in sent.split(f"--{BOUNDARY}".encode()) if b'name="meta' in part)
    lines = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")[0].split(b"\r\n")
    [line] = lines
    assert b"\n" not in line
    # A parser that takes the first of two names and one that takes the last must agree.
    _, options = parse_options_header(line.removeprefix(b"Content-Disposition: "))
    message = email.message_from_bytes(line + b"\r\n\r\n", policy=email.policy.HTTP)
    assert set(options) == {b"name"}
    for found in (options[b"name"].decode(), message["content-disposition"].params["name"]):
        assert found.startswith("meta[")
        assert found.endswith("]")
    assert part.endswith(b"\r\n\r\nv\r\n")


@pytest.mark.parametrize("value", [["a", {"b": None}, True], [], [[1.5]], 7, True, "7", "true"])
def test_what_the_settings_forward_goes_on_in_a_form_as_text_or_as_json(value: object) -> None:
    request = _json({"images": [PNG], "meta": value}, E, **_FORWARD)
    text = _fields(_to_azure(request))["meta"]
    assert (text if isinstance(value, str) else json.loads(text)) == value


# == OpenAI ====================================================================================


def _openai(**changes: Any) -> Account:
    return account(**{"dialect": "openai", "credential": _KEY, **changes})


def _to_openai(request: ImageRequest, client: Headers = NOBODY, **changes: Any) -> UpstreamRequest:
    context = EncodeContext(openai.DIALECT.base_url or "", "0.169.0", BOUNDARY)
    return openai.encode(request, _openai(**changes), client, context)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (None, "https://api.openai.com/v1/images/generations"),
        ("https://pool.example/v1", "https://pool.example/v1/images/generations"),
        ("https://pool.example/v1/?k=1", "https://pool.example/v1/images/generations?k=1"),
        ("http://10.0.0.1:8080", "http://10.0.0.1:8080/images/generations"),
    ],
)
def test_openai_s_address_is_its_base_s_own(base: str | None, expected: str) -> None:
    assert _to_openai(_json({}), base_url=base).url == expected
    edit = _to_openai(_json({"images": [PNG]}, E), base_url=base).url
    assert edit == expected.replace("generations", "edits")


def test_openai_is_signed_by_bearer_and_sees_only_the_trace_of_the_client() -> None:
    ours = {
        "authorization": f"Bearer {TOKEN}",
        "accept": "application/json",
        "content-type": "application/json",
    }
    assert _to_openai(_json({})).headers == ours
    assert _to_openai(_json({}), _CLIENT).headers == {**ours, **_TRACE}
    token = Credential(Secret(TOKEN), "access_token", ACCOUNT_ID)
    assert _to_openai(_json({}), credential=token).headers == ours


def test_a_generation_goes_to_openai_with_its_parameters_and_no_others() -> None:
    request = _json({"n": 2, "size": "auto", "user": "u", "response_format": "url"})
    call = _to_openai(request, deployments={"gpt-image-2": "inner"})
    assert _value(call) == {
        "prompt": "a cat",
        "model": "inner",
        "n": 2,
        "size": "auto",
        "user": "u",
    }
    assert call.expects is ExpectedResponse.JSON


@pytest.mark.parametrize("stream", [False, None])
def test_a_stream_goes_to_openai_only_where_it_is_true(stream: object) -> None:
    assert "stream" not in _value(_to_openai(_json({"stream": stream})))
    call = _to_openai(_json({"stream": True, "partial_images": 0}))
    assert _value(call)["stream"] is True
    assert _value(call)["partial_images"] == 0
    assert (call.expects, call.headers["accept"]) == (
        ExpectedResponse.IMAGE_EVENTS,
        "text/event-stream",
    )


def test_an_edit_in_json_stays_json_with_every_picture_in_its_place() -> None:
    long = PNG + "A" * 8000
    value = {"prompt": "a cat", "images": [long, _ADDRESS, {"image_url": PNG}], "mask": _ADDRESS}
    text = json.dumps(value).encode()
    call = _to_openai(parse(text, E))
    assert _value(call, text) == {
        "prompt": "a cat",
        "model": "gpt-image-2",
        "images": [{"image_url": long}, {"image_url": _ADDRESS}, {"image_url": PNG}],
        "mask": {"image_url": _ADDRESS},
    }


def test_an_edit_as_multipart_stays_multipart() -> None:
    request, spool = _form(
        ("image", _JPEG), ("mask", _BYTES), ("n", "2"), ("stream", "true"), ("size", "auto")
    )
    call = _to_openai(request)
    assert _files(call, spool) == [("image", "image/jpeg", _JPEG), ("mask", "image/png", _BYTES)]
    assert _fields(call, spool) == {
        "prompt": "a cat",
        "model": "gpt-image-2",
        "n": "2",
        "size": "auto",
        "stream": "true",
    }
    assert (call.expects, call.headers["accept"]) == (
        ExpectedResponse.IMAGE_EVENTS,
        "text/event-stream",
    )


def test_a_form_for_a_generation_goes_to_openai_as_json() -> None:
    request, _ = _form(("n", "2"), endpoint=G)
    assert _value(_to_openai(request)) == {"prompt": "a cat", "model": "gpt-image-2", "n": 2}


def test_a_markup_goes_to_openai_in_either_form() -> None:
    request, spool = _form(("image", _JPEG), ("markup", _BYTES), ("model", _NEWEST))
    assert _files(_to_openai(request), spool)[1] == ("markup", "image/png", _BYTES)
    value = _value(_to_openai(_json({"images": [PNG], "markup": PNG, "model": _NEWEST}, E)))
    assert value["markup"] == {"image_url": PNG}


# == Codex, the Responses route ================================================================


def _drawing(**changes: Any) -> Account:
    return account(**{"responses_model": "gpt-5.5", **changes})


def _to_responses(
    request: ImageRequest, client: Headers = NOBODY, **changes: Any
) -> UpstreamRequest:
    return codex_responses.encode(request, _drawing(**changes), client, CONTEXT)


def _instructions(call: UpstreamRequest) -> str:
    found = _value(call)["instructions"]
    assert isinstance(found, str)
    assert found
    return found


def test_a_generation_is_one_tool_call_of_a_text_model() -> None:
    request = _json(
        {
            "n": 4,
            "size": "1536x1024",
            "quality": "high",
            "background": "opaque",
            "output_format": "webp",
            "output_compression": 50,
            "moderation": "low",
            "stream": True,
            "partial_images": 2,
        }
    )
    call = _to_responses(request)
    assert _value(call) == {
        "model": "gpt-5.5",
        "instructions": _instructions(call),
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "a cat"}]}],
        "tools": [
            {
                "type": "image_generation",
                "action": "generate",
                "model": "gpt-image-2",
                "size": "1536x1024",
                "quality": "high",
                "background": "opaque",
                "output_format": "webp",
                "output_compression": 50,
                "moderation": "low",
                "partial_images": 2,
            }
        ],
        "tool_choice": {"type": "image_generation"},
        "stream": True,
        "store": False,
    }
    assert call.expects is ExpectedResponse.RESPONSE_EVENTS


def test_an_edit_holds_its_pictures_in_order_and_its_mask_in_the_tool() -> None:
    long = PNG + "A" * 8000
    value = {
        "prompt": "a cat",
        "model": "gpt-image-1.5",
        "images": [long, _ADDRESS, PNG],
        "mask": PNG,
        "input_fidelity": "high",
    }
    text = json.dumps(value).encode()
    call = _to_responses(parse(text, E))
    sent = _value(call, text)
    assert sent["input"] == [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "a cat"},
                {"type": "input_image", "image_url": long},
                {"type": "input_image", "image_url": _ADDRESS},
                {"type": "input_image", "image_url": PNG},
            ],
        }
    ]
    assert sent["tools"] == [
        {
            "type": "image_generation",
            "action": "edit",
            "model": "gpt-image-1.5",
            "input_fidelity": "high",
            "input_image_mask": {"image_url": PNG},
        }
    ]


def test_a_form_s_files_become_data_urls_of_their_true_type() -> None:
    request, spool = _form(("image", _JPEG), ("image[]", _BYTES), ("mask", _BYTES))
    call = _to_responses(request)
    urls = [
        f"data:{kind};base64,{base64.b64encode(data).decode()}"
        for kind, data in (("image/jpeg", _JPEG), ("image/png", _BYTES))
    ]
    sent = _value(call, spool)
    assert [item.get("image_url") for item in sent["input"][0]["content"]] == [None, *urls]
    assert sent["tools"][0]["input_image_mask"] == {"image_url": urls[1]}


@pytest.mark.parametrize("n", [None, 1, 2, 10])
def test_n_is_never_sent(n: int | None) -> None:
    """The tool has none: more pictures are more calls."""
    for request in (_json({"n": n}), _json({"n": n, "images": [PNG]}, E)):
        assert b'"n":' not in play(_to_responses(request).body, b"")


@pytest.mark.parametrize("response_format", ["url", "b64_json"])
def test_what_is_ours_does_not_leak_into_the_tool(response_format: str) -> None:
    sent = _value(_to_responses(_json({"response_format": response_format, "stream": False})))
    assert set(sent["tools"][0]) == {"type", "action", "model"}
    assert sent["stream"] is True


def test_the_tool_s_model_is_the_deployment_and_the_main_one_the_account_s() -> None:
    call = _to_responses(_json({}), deployments={"gpt-image-2": "inner"}, responses_model="main")
    assert _value(call)["model"] == "main"
    assert _value(call)["tools"][0]["model"] == "inner"


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (None, "https://chatgpt.com/backend-api/codex/responses"),
        ("https://pool.example/v1", "https://pool.example/v1/responses"),
        ("https://pool.example/v1/?k=1", "https://pool.example/v1/responses?k=1"),
    ],
)
def test_the_responses_route_s_address(base: str | None, expected: str) -> None:
    for request in (_json({}), _json({"images": [PNG]}, E)):
        assert _to_responses(request, base_url=base).url == expected


def test_the_responses_route_has_codex_s_headers_and_asks_for_events() -> None:
    sent = _to_responses(_json({}), _CLIENT).headers
    assert sent == {
        **_TRACE,
        "x-codex-turn": "hush",
        "authorization": f"Bearer {TOKEN}",
        "chatgpt-account-id": ACCOUNT_ID,
        "originator": "codex_cli_rs",
        "user-agent": "codex_cli_rs/0.169.0",
        "version": "0.169.0",
        "content-type": "application/json",
        "accept": "text/event-stream",
    }


# == all of them ===============================================================================


def _any_account(route: UpstreamRoute) -> Account:
    return account_with(route, base_url="https://up.example/v1", responses_model="gpt-5.5")


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_a_call_does_not_show_what_it_carries(route: UpstreamRoute) -> None:
    request = _json({"prompt": "hush", "images": [PNG]}, E)
    shown = repr(route.encode(request, _any_account(route), _CLIENT, CONTEXT))
    for hidden in ("hush", TOKEN, ACCOUNT_ID, BOUNDARY, "base64"):
        assert hidden not in shown


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_an_account_without_a_credential_signs_no_call(route: UpstreamRoute) -> None:
    one = account_with(route, base_url="https://up.example", credential=None)
    with pytest.raises(ValueError, match="credential"):
        route.encode(_json({}), one, NOBODY, CONTEXT)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), st.sampled_from(ROUTES))
def test_a_prompt_arrives_as_it_was_written(words: str, route: UpstreamRoute) -> None:
    prompt = "x" + words
    for request in (_json({"prompt": prompt}), _json({"prompt": prompt, "images": [PNG]}, E)):
        call = route.encode(request, _any_account(route), NOBODY, CONTEXT)
        if call.headers["content-type"] != "application/json":
            assert _fields(call)["prompt"] == prompt
        elif route is codex.RESPONSES:
            assert _value(call)["input"][0]["content"][0]["text"] == prompt
        else:
            assert _value(call)["prompt"] == prompt


@given(
    st.dictionaries(
        st.sampled_from(
            ["cookie", "authorization", "api-key", "traceparent", "x-stainless-os", "te"]
        ),
        st.just("hush"),
    ),
    st.sampled_from(ROUTES),
)
def test_no_header_of_the_client_replaces_one_of_ours(
    client: dict[str, str], route: UpstreamRoute
) -> None:
    found = Headers((name.encode(), value.encode()) for name, value in client.items())
    sent = route.encode(_json({}), _any_account(route), found, CONTEXT).headers
    plain = route.encode(_json({}), _any_account(route), NOBODY, CONTEXT).headers
    trace = {name: value for name, value in client.items() if name == "traceparent"}
    assert sent == {**plain, **trace}
