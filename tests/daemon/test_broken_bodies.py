"""A body that cannot be read: the answer says what is wrong and where, and none of the content."""

import json

import pytest

from tests.daemon.conftest import Door
from tests.daemon.test_refusals import check_error
from tests.parts import forms
from tests.parts.gateway import parse
from tests.parts.upstream import ScriptedUpstream

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
EMPTY = "The body is empty."
LONG = b"A" * 3_000_000

BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", EMPTY),
    "white space": (b" \r\n", EMPTY),
    "a trailing comma": (b'{"prompt": "hush",}', "line 1, column 18"),
    "single quotes": (b"{'prompt': 'hush'}", "line 1, column 2"),
    "bytes behind it": (b'{"prompt": "hush"} hush', "line 1, column 20"),
    "NaN": (b'{"prompt": "hush",\n "n": NaN}', "line 2, column 7"),
    "an unclosed object": (
        b'{"prompt": "hush"',
        "ends too early. Send it in full. See line 1, column 18",
    ),
    "an unclosed string": (b'{"prompt": "hush', "ends too early"),
    "a comma that is missing": (b'{\n  "prompt": "hush"\n  "n": 1}', "line 3, column 3"),
    "an unquoted key": (b'{prompt: "hush"}', "line 1, column 2"),
    "a byte order mark": (b'\xef\xbb\xbf{"prompt": "hush"}', "byte order mark"),
    "a mistake behind a picture": (
        b'{"prompt": "hush", "images": ["data:image/png;base64,' + LONG + b'"],}',
        f"line 1, column {len(LONG) + 56}",
    ),
    "a picture that is cut off": (
        b'{"prompt": "hush",\n"images": ["data:image/png;base64,' + LONG,
        f"ends too early. Send it in full. See line 2, column {len(LONG) + 35}",
    ),
    "a bracket too much": (b'{"prompt": "hush"}}', "line 1, column 19"),
    "nested too deep": (b'{"prompt":\n' + b"[" * 100, "line 2, column 64"),
}


@pytest.mark.parametrize(("body", "words"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("path", [GENERATIONS, EDITS])
async def test_a_broken_json_body_says_what_is_wrong_and_where(
    door: Door, upstream: ScriptedUpstream, path: str, body: bytes, words: str
) -> None:
    status, _, answer = await door.post(body, path)
    assert status == 400
    check_error(answer, "invalid_body")
    message = json.loads(answer)["error"]["message"]
    assert words in message
    assert "hush" not in message
    assert len(message) < 200
    assert upstream.calls == []
    record = await door.record()
    assert (record["status"], record["error_code"], record["error_source"]) == (
        400,
        "invalid_body",
        "client",
    )


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (f"content-type: {forms.FORM}\r\ncontent-length: 0\r\n", b""),
        (f"content-type: {forms.FORM}\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\n"),
        ("content-type: application/json\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\n"),
        ("content-type: application/json\r\n", b""),
        ("content-length: 0\r\n", b""),
        ("", b""),
    ],
)
async def test_an_empty_body_is_said_to_be_empty_whatever_it_claims_to_be(
    door: Door, upstream: ScriptedUpstream, head: str, body: bytes
) -> None:
    text = f"POST {EDITS} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {door.secret}\r\n"
    status, _, answer = parse(await door.gateway.raw(f"{text}{head}\r\n".encode() + body))
    assert status == 400
    check_error(answer, "invalid_body")
    assert json.loads(answer)["error"]["message"].startswith(EMPTY)
    assert upstream.calls == []
    assert (await door.record())["error_code"] == "invalid_body"


async def test_a_form_without_parts_says_what_is_missing(
    door: Door, upstream: ScriptedUpstream
) -> None:
    body = f"--{forms.BOUNDARY}--\r\n".encode()
    status, _, answer = await door.post(body, EDITS, content_type=forms.FORM)
    assert status == 400
    check_error(answer, "missing_required_parameter", "image")
    assert upstream.calls == []
    assert (await door.record())["error_code"] == "missing_required_parameter"
