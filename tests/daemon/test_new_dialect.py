"""A new kind of upstream is one record: nothing else in the gateway knows a dialect's name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import Door
from tests.daemon.test_ops import changed_program
from tests.daemon.test_refusals import PROMPT, check_error
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream

ROOT = Path(__file__).parents[2]


@pytest.fixture
def studio(
    make_gateway: Callable[..., Gateway], plane: Plane, upstream: ScriptedUpstream, tmp_path: Path
) -> Door:
    """A daemon that knows one more dialect, and a key for two accounts of it."""
    program = changed_program(
        tmp_path,
        f"sys.path.insert(0, {str(ROOT)!r})",
        "from tests.parts import made_up_dialect",
    )
    plane.execute("ALTER TABLE image_control.accounts DROP CONSTRAINT accounts_dialect_check")
    for name in ("studio-1", "studio-2"):
        credential: dict[str, Any] = {"api_key": f"key-of-{name}"}
        plane.add_account(name, upstream.root, dialect="studio", credential=credential)
    secret = plane.add_key(
        key_id="key-1", account_names=["studio-1", "studio-2"], route_strategy="fixed"
    )
    gateway = make_gateway(plane.reader_url, python=program, studio_seconds=90).start()
    return Door(gateway, plane, "key-1", secret, "studio-1")


async def test_a_made_up_dialect_serves_a_call(studio: Door, upstream: ScriptedUpstream) -> None:
    status, _, _ = await studio.post(PROMPT)
    assert status == 200
    [call] = upstream.calls
    assert call.target == "/draw"
    assert call.headers["x-studio-key"] == "key-of-studio-1"
    assert set(call.json()) == {"words"}
    record = await studio.record()
    assert (record["account_name"], record["dialect"]) == ("studio-1", "studio")
    assert [attempt["action"] for attempt in record["attempts"]] == ["deliver"]
    assert record["response_image_count"] == 1


async def test_what_its_record_says_of_errors_decides_who_is_asked_next(
    studio: Door, upstream: ScriptedUpstream
) -> None:
    async def fail_first(call: Call) -> None:
        if call.headers["x-studio-key"] == "key-of-studio-1":
            await call.answer(500, {"error": {"message": "The brush broke."}})
        else:
            await call.answer()

    upstream.script = fail_first
    status, _, _ = await studio.post(PROMPT)
    assert status == 200
    record = await studio.record()
    assert [attempt["action"] for attempt in record["attempts"]] == ["next", "deliver"]
    assert record["account_name"] == "studio-2"


async def test_what_its_route_lacks_is_refused_by_name(
    studio: Door, upstream: ScriptedUpstream
) -> None:
    status, _, body = await studio.post(b'{"prompt": "a cat", "stream": true}')
    assert status == 400
    check_error(body, "unsupported_value", param="stream")
    assert upstream.calls == []
    assert (await studio.record())["attempts"] == []
