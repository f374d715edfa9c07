"""What a control plane's contract of version 2 adds, and that version 1 is served on."""

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from image_gateway import sql
from image_gateway.demo import postgres
from tests.daemon.conftest import make_door
from tests.daemon.test_refusals import PROMPT, Held, check_error, check_refused
from tests.edge.server import Server
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.gateway import Gateway, post, unlike
from tests.parts.pages import PROJECT
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream
from tests.test_command_line import command

CONTRACT_1 = PROJECT.joinpath("tests/planes/standalone_contract_1.sql").read_text("utf-8")
Maker = Callable[..., Gateway]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"image_limit": 0}, "quota of pictures is used up"),
        ({"image_limit": 5, "image_limit_day": 0}, "quota of pictures is used up"),
        ({"cost_limit_month": 0}, "budget is used up"),
    ],
)
async def test_a_key_whose_pictures_or_money_are_used_up_is_refused(
    gateway: Gateway,
    shared_plane: Plane,
    upstream: ScriptedUpstream,
    limits: dict[str, int],
    message: str,
) -> None:
    door = make_door(gateway, shared_plane, upstream, **limits)
    answer = await door.post(PROMPT)
    await check_refused(door, answer, 429, "insufficient_quota")
    assert answer[1]["x-should-retry"] == "false"
    assert message in json.loads(answer[2])["error"]["message"]
    assert upstream.calls == []


async def test_a_call_that_asks_for_more_pictures_than_are_left_is_told_how_many(
    gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    door = make_door(gateway, shared_plane, upstream, image_limit=3)
    answer = await door.post(json.dumps({"prompt": "cats", "n": 4}).encode())
    await check_refused(door, answer, 429, "insufficient_quota", param="n")
    message = json.loads(answer[2])["error"]["message"]
    assert "asks for 4 pictures, and this key has 3 left" in message
    assert upstream.calls == []
    status, _, body = await door.post(json.dumps({"prompt": "cats", "n": 3}).encode())
    assert (status, len(json.loads(body)["data"])) == (200, 3)


async def test_a_key_that_has_expired_is_refused(
    gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    door = make_door(gateway, shared_plane, upstream, expires_at=datetime.now(UTC))
    await check_refused(door, await door.post(PROMPT), 403, "key_expired")
    for never in ("infinity", datetime.now(UTC) + timedelta(days=1)):
        door = make_door(gateway, shared_plane, upstream, expires_at=never)
        assert (await door.post(PROMPT))[0] == 200


async def test_a_key_expires_to_the_second_also_while_postgres_is_away(
    make_gateway: Maker, upstream: ScriptedUpstream
) -> None:
    with Server(postgres.VERSION) as server:
        plane = Plane(server.url)
        plane.create()
        gateway = make_gateway(plane.reader_url).start()
        end = datetime.now(UTC) + timedelta(seconds=4)
        door = make_door(gateway, plane, upstream, expires_at=end)
        assert (await door.post(PROMPT))[0] == 200
        server.kill()
        answers: list[tuple[bool, int, bytes]] = []

        async def is_refused() -> bool:
            before = datetime.now(UTC)
            status, _, body = await door.post(unlike())
            answers.append((before < end, status, body))
            return status == 403

        await eventually(is_refused)
        assert {status for was_good, status, _ in answers if not was_good} <= {403}
        check_error(answers[-1][2], "key_expired")
        assert gateway.stop() == 0
        assert gateway.records()[-1]["error_code"] == "key_expired"


async def test_the_owner_of_a_key_is_in_the_record(
    gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    shared_plane.execute("INSERT INTO image_control.owners VALUES ('ada', 'Ada', 9)")
    door = make_door(gateway, shared_plane, upstream, owner_id="ada")
    assert (await door.post(PROMPT))[0] == 200
    assert (await door.record(status=200))["owner_id"] == "ada"


async def test_a_key_may_have_keep_alives_of_its_own_in_json(
    gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream
) -> None:
    """The gateway's setting is none; this key's client sits behind something that cuts silence."""
    upstream.script = held = Held()
    door = make_door(gateway, shared_plane, upstream, json_keepalive_seconds=1)
    reader, writer = await gateway.connect()
    writer.write(post(door.secret, PROMPT, headers={"connection": "close"}))
    async with asyncio.timeout(BOUND_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
        held.let_go.set()
        rest = await reader.read()
    writer.close()
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b'"b64_json"' in rest
    assert (await door.record(status=200))["response_image_count"] == 1


# -- version 1 -------------------------------------------------------------------------------------


@pytest.fixture
def older(postgres_url: str) -> Iterator[Plane]:
    """A control plane that says 1."""
    made = Plane(postgres_url)
    made.create(CONTRACT_1 + sql.schema("reader"))
    yield made
    made.drop()


async def test_version_1_is_served_and_what_it_lacks_is_null(
    make_gateway: Maker, older: Plane, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(older.reader_url, grant_ttl_seconds=0.2).start()
    door = make_door(gateway, older, upstream, quota_limit=100)
    assert (await door.post(PROMPT))[0] == 200
    assert (await door.record(status=200))["owner_id"] is None
    older.execute(postgres.schema())
    older.update("keys", {"key_id": door.key_id}, image_limit=0)

    async def is_refused() -> bool:
        return (await door.post(unlike()))[0] == 429

    await eventually(is_refused)
    assert gateway.stop() == 0
    assert gateway.records()[-1]["error_code"] == "insufficient_quota"


def test_check_tells_which_version_a_control_plane_speaks(older: Plane) -> None:
    told = command("check", control_database_url=older.reader_url).stdout
    assert "ok: the control plane provides contract version 1" in told
    assert "warning: contract version 2 adds expiry" in told
    older.execute(postgres.schema())
    told = command("check", control_database_url=older.reader_url).stdout
    assert "ok: the control plane provides contract version 2" in told
    assert "contract version 2 adds" not in told


def test_check_tells_what_the_adapter_cannot_see(older: Plane) -> None:
    older.execute(
        "CREATE VIEW image_gateway.warnings AS SELECT 'limits of RPM live in Redis' AS warning;"
        + sql.schema("reader")
    )
    told = command("check", control_database_url=older.reader_url).stdout
    assert "warning: limits of RPM live in Redis" in told
