"""Every form of call, to every kind of account, as an answer and as a stream: what the upstream
gets, to the byte, and what the client gets of it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.daemon.conftest import KINDS, MakeDoor, frames_of
from tests.parts import forms
from tests.parts.forms import Piece
from tests.parts.upstream import (
    PNG,
    Call,
    Script,
    ScriptedUpstream,
    answers,
    completed,
    drawn,
    images,
    picture,
    streams,
)

ONE, TWO, MASK = PNG + b"one\r\n--", PNG + b"\0two", PNG + b"mask"
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256))


ENDPOINTS = {
    "codex": "/codex/images/{}",
    "codex-responses": "/codex/responses",
    "azure-legacy": "/some/base/openai/deployments/my%20deployment/images/{}"
    "?trace=1&api-version=2025-04-01-preview",
    "azure-v1": "/openai/v1/images/{}",
    "openai": "/v1/images/{}",
}
MODELS = {
    "codex": {"model": "gpt-image-2"},
    "codex-responses": {"model": "gpt-image-2"},
    "azure-legacy": {},
    "azure-v1": {"model": "mine"},
    "openai": {"model": "gpt-image-2"},
}

FORMS = ("generation", "json-edit", "form-edit")
TARGETS = {"generation": "generations", "json-edit": "edits", "form-edit": "edits"}
ASKED = {"prompt": "a cat", "size": "1536x1024", "quality": "high", "output_compression": 80}
ASKED |= {"output_format": "jpeg", "background": "opaque"}


def request(form: str, *, stream: bool) -> tuple[bytes, str]:
    """A call's body and its content type."""
    asked = {**ASKED, **({"stream": True} if stream else {})}
    if form == "form-edit":
        fields = [(n, str(v).lower() if v is True else str(v)) for n, v in asked.items()]
        body = forms.body(
            Piece("image[]", ONE, "upload", "application/octet-stream"),
            *fields[:3],
            Piece("image", JPEG, "b.bin", "application/octet-stream"),
            Piece("image[]", TWO, 'we"ird\x7f.png', "image/png"),
            *fields[3:],
        )
        return body, forms.FORM
    if form == "json-edit":
        asked["images"] = [
            {"image_url": forms.data_url(ONE)},
            forms.data_url(JPEG, "jpeg"),
            {"image_url": forms.data_url(TWO)},
        ]
    return json.dumps({**asked, "model": None}).encode(), "application/json"


def upstream_script(kind: str, form: str, *, stream: bool) -> Script:
    """The upstream's answer to that call."""
    if kind == "codex-responses":
        return streams(drawn())
    if kind == "codex" or not stream:
        return answers(200, images(1, size="1536x1024"))
    return streams([completed("image_generation" if form == "generation" else "image_edit")])


def check_upstream(kind: str, form: str, call: Call, *, stream: bool) -> None:
    """The exact request."""
    name, value = KINDS[kind].signed
    assert call.method == "POST"
    assert call.target == ENDPOINTS[kind].format(TARGETS[form])
    assert call.headers[name] == value
    assert ("api-key" in call.headers) == (name == "api-key")
    assert ("authorization" in call.headers) == (name == "authorization")
    streamed = stream and kind != "codex"
    wants_events = streamed or kind == "codex-responses"
    assert call.headers["accept"] == ("text/event-stream" if wants_events else "application/json")
    flag = {"stream": True} if streamed else {}
    sent = {**ASKED, **MODELS[kind], **flag}
    is_form = form == "form-edit" and kind == "openai"
    if is_form or (form != "generation" and kind.startswith("azure")):
        expected = [("image[]", "image/png", ONE), ("image[]", "image/jpeg", JPEG)]
        check_form(call, sent, [*expected, ("image[]", "image/png", TWO)])
        return
    assert call.headers["content-type"] == "application/json"
    urls = [forms.data_url(ONE), forms.data_url(JPEG, "jpeg"), forms.data_url(TWO)]
    if form == "generation":
        urls = []
    if kind == "codex-responses":
        check_responses(call, form, urls)
        return
    pictures = {"images": [{"image_url": url} for url in urls]} if urls else {}
    assert call.json() == {**sent, **pictures}


def check_form(call: Call, fields: Mapping[str, Any], files: list[tuple[str, str, bytes]]) -> None:
    got = forms.pieces(call)
    texts = {piece.name: piece.data.decode() for piece in got if piece.filename is None}
    assert texts == {n: str(v).lower() if v is True else str(v) for n, v in fields.items()}
    assert [(p.name, p.type, p.data) for p in got if p.filename is not None] == files
    assert len(got) == len(fields) + len(files)
    assert int(call.headers["content-length"]) == len(call.body)


def check_responses(call: Call, form: str, urls: list[str]) -> None:
    body = call.json()
    tool = {name: value for name, value in ASKED.items() if name != "prompt"}
    assert isinstance(body.pop("instructions"), str)
    assert body == {
        "model": "gpt-main",
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "a cat"},
                    *({"type": "input_image", "image_url": url} for url in urls),
                ],
            }
        ],
        "tools": [
            {
                "type": "image_generation",
                "action": "generate" if form == "generation" else "edit",
                "model": "gpt-image-2",
                **tool,
            }
        ],
        "tool_choice": {"type": "image_generation"},
        "stream": True,
        "store": False,
    }


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_asked_for_reaches_the_upstream_and_comes_back(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str, form: str, *, stream: bool
) -> None:
    door = make_account(kind)
    upstream.script = upstream_script(kind, form, stream=stream)
    body, content_type = request(form, stream=stream)
    status, headers, answer = await door.post(
        body, f"/v1/images/{TARGETS[form]}", content_type=content_type
    )
    assert status == 200, answer
    [call] = upstream.calls
    check_upstream(kind, form, call, stream=stream)
    if stream:
        assert headers["content-type"].startswith("text/event-stream")
        [event] = frames_of(answer)
        prefix = "image_generation" if form == "generation" else "image_edit"
        assert event["type"] == f"{prefix}.completed"
        assert event["b64_json"] == picture()
        assert event["usage"] == images()["usage"]
        assert {"background", "created_at", "output_format", "quality", "size"} <= event.keys()
    else:
        assert headers["content-type"] == "application/json"
        assert int(headers["content-length"]) == len(answer)
        made = json.loads(answer)
        assert [entry["b64_json"] for entry in made["data"]] == [picture()]
        assert made["usage"] == images()["usage"]
        assert made["output_format"] == "png"
    record = await door.record()
    assert (record["status"], record["error_code"]) == (200, None)
    assert record["body_form"] == ("multipart" if form == "form-edit" else "json")
    assert record["stream"] is stream
    assert record["dialect"] == kind.split("-", maxsplit=1)[0]
    assert record["response_image_count"] == 1
    assert record["usage"] == images()["usage"]
    expected = [] if form == "generation" else [ONE, JPEG, TWO]
    assert record["input_image_count"] == len(expected)
    assert record["input_image_bytes"] == sum(map(len, expected))
    [attempt] = record["attempts"]
    assert (attempt["stage"], attempt["action"]) == ("stream", "deliver")
    assert not record["may_be_billed"]


@dataclass(frozen=True)
class Bad:
    """Something an upstream does, and what the client gets of it from each kind of account."""

    script: Script
    status: int
    code: str
    retry: bool
    billed: Mapping[str, bool]


async def _cut(call: Call) -> None:
    """An end without an answer."""


def _error(code: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": "no", "type": kind, "param": None, "code": code}}


NOBODY: Mapping[str, bool] = {}
BAD = {
    "moderation": Bad(
        answers(400, _error("moderation_blocked")), 400, "moderation_blocked", True, NOBODY
    ),
    "limited": Bad(
        answers(429, _error("rate_limit_exceeded"), {"retry-after": "7"}),
        429,
        "rate_limit_exceeded",
        True,
        NOBODY,
    ),
    "no-such-path": Bad(answers(404, _error("nothing_here")), 404, "nothing_here", True, NOBODY),
    "broken": Bad(
        answers(500, _error("server_error", "server_error")),
        500,
        "server_error",
        False,
        {"azure": True, "openai": True},
    ),
    "redirect": Bad(
        answers(302, b"", {"location": "http://127.0.0.1:1/"}),
        502,
        "upstream_redirect",
        False,
        {"codex": True, "azure": True, "openai": True},
    ),
    "html": Bad(
        answers(200, b"<html>", {"content-type": "text/html"}),
        502,
        "upstream_invalid",
        False,
        {"codex": True, "azure": True, "openai": True},
    ),
    "cut": Bad(_cut, 504, "outcome_unknown", False, {"codex": True, "azure": True, "openai": True}),
}


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
@pytest.mark.parametrize("form", ["generation", "form-edit"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", BAD)
async def test_what_goes_wrong_before_an_answer_keeps_its_status(
    make_account: MakeDoor,
    upstream: ScriptedUpstream,
    bad: str,
    kind: str,
    form: str,
    *,
    stream: bool,
) -> None:
    door, what = make_account(kind), BAD[bad]
    upstream.script = what.script
    body, content_type = request(form, stream=stream)
    status, headers, answer = await door.post(
        body, f"/v1/images/{TARGETS[form]}", content_type=content_type
    )
    assert len(upstream.calls) == 1
    assert (status, json.loads(answer)["error"]["code"]) == (what.status, what.code)
    assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
    dialect = kind.split("-", maxsplit=1)[0]
    # Codex bills no single images, so its 500 is an error like any other.
    retried = what.retry or (bad == "broken" and dialect == "codex")
    assert headers.get("x-should-retry") == (None if retried else "false")
    assert headers["content-type"] == "application/json"
    if bad == "limited":
        assert headers["retry-after"] == "7"
    record = await door.record()
    assert (record["status"], record["error_code"]) == (what.status, what.code)
    assert record["may_be_billed"] is what.billed.get(dialect, False)
    assert record["usage"] is None
