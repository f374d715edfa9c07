"""One request in is at most one call out, however it is written, and never another's content.

Each row of the table says what a request gets; the same rows go through Caddy in ``deploy/``.
"""

import json

import pytest

from tests.daemon.conftest import Door, MakeDoor
from tests.daemon.test_refusals import check_error
from tests.parts import forms, smuggling
from tests.parts.eventually import eventually
from tests.parts.forms import Piece
from tests.parts.gateway import parse, post
from tests.parts.smuggling import OUTER, REFUSED, TABLE, Raw
from tests.parts.upstream import PNG, ScriptedUpstream

INJECTED = "x\r\nX-Injected: yes\r\n\r\nPOST /v1/images/edits HTTP/1.1\r\nhost: hidden\r\n\r\n"


@pytest.mark.parametrize("kind", TABLE)
async def test_a_request_is_one_call_or_refused(
    door: Door, upstream: ScriptedUpstream, kind: str
) -> None:
    served = 0
    for row in TABLE[kind]:
        answer = await smuggling.ask(door.gateway.port, row.data(door.secret), ends=row.ends)
        check(row, answer)
        if row.answer == 200:
            served += 1
            assert len(upstream.calls) == served, row.name
            assert upstream.calls[-1].json()["prompt"] == "outer", row.name
    assert len(upstream.calls) == served

    def records() -> bool:
        found = [each for each in door.gateway.records() if each["key_id"] == door.key_id]
        assert {each["status"] for each in found} <= {None, 200, *REFUSED, 404, 415}
        return [each["status"] for each in found].count(200) == served

    await eventually(records)


def check(row: Raw, answer: bytes) -> None:
    status = smuggling.status_of(answer)
    if row.answer is not None:
        assert status == row.answer, (row.name, answer[:500])
    else:
        assert status is None or status in REFUSED, (row.name, answer[:500])
    if status is not None and status != 200:
        _, headers, body = parse(answer)
        error = json.loads(body)["error"]
        check_error(body, error["code"], error["param"])
        assert headers["connection"] == "close", row.name


async def test_two_requests_at_once_are_refused_in_words(
    door: Door, upstream: ScriptedUpstream
) -> None:
    """A call takes minutes, and bytes behind it would hide that its client has left."""
    both = post(door.secret, OUTER) + post(door.secret, b'{"prompt": "hidden"}')
    status, headers, body = parse(await smuggling.ask(door.gateway.port, both, ends=False))
    assert status == 400
    assert "one request on a connection" in check_error(body, "unsupported_protocol")["message"]
    record = await door.record()
    assert record["request_id"] == headers["x-request-id"]
    assert (record["status"], record["error_code"]) == (400, "unsupported_protocol")
    assert upstream.calls == []


@pytest.mark.parametrize("kind", ["codex", "codex-responses", "azure-v1", "azure-legacy", "openai"])
async def test_no_value_of_a_client_becomes_a_line_of_the_upstreams_head(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str
) -> None:
    door = make_account(kind)
    headers = {
        "User_Agent": "a\tb\xff",
        "Idempotency_Key": "k%0d%0aX-Injected: yes",
        "Session_Id": "s%0d%0aX-Injected: yes\xff",
        "traceparent": "00-%0d%0aX-Injected: yes",
        "OpenAI_Beta": "a\tb",
    }
    body = {"prompt": INJECTED, "user": INJECTED}
    pieces = [
        Piece("prompt", INJECTED.encode()),
        Piece("image", PNG, f'a.png"{INJECTED}'.replace("\r\n", "%0D%0A"), "image/png"),
    ]
    await door.post(json.dumps(body).encode(), **headers)
    await door.post(json.dumps({**body, "model": INJECTED}).encode())
    await door.post(forms.body(*pieces), "/v1/images/edits", content_type=forms.FORM)
    assert 1 <= len(upstream.calls) <= 2
    for call in upstream.calls:
        assert "x-injected" not in call.headers
        assert "hidden" not in call.headers.values()
        assert call.target.count("/images/") + call.target.count("/responses") == 1
    found = [each for each in door.gateway.records() if each["key_id"] == door.key_id]
    assert all(each["status"] in {200, 400, 404, 502} for each in found)
