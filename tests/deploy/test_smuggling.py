"""Through Caddy, too, one request is at most one call: the two read a request alike.

Where they differ, Caddy's reading counts: it refuses, or writes the request anew.
"""

import asyncio
from collections.abc import Iterator

import pytest

from tests.daemon.conftest import Door, make_door
from tests.deploy.test_caddy import example
from tests.parts import smuggling
from tests.parts.caddy import Caddy
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.gateway import Gateway, free_port, post
from tests.parts.plane import Plane
from tests.parts.smuggling import OUTER, REFUSED, SAME, TABLE
from tests.parts.upstream import ScriptedUpstream

pytestmark = pytest.mark.slow

CLOSE = b"Connection: close\r\n"


@pytest.fixture(scope="module")
def proxy(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caddy]:
    """The example, in front of the shared daemon and of no text API."""
    made = Caddy(
        tmp_path_factory.mktemp("caddy"),
        example(free_port()),
        IMAGE_GATEWAY_ADDRESS=f"127.0.0.1:{gateway.port}",
    ).start()
    yield made
    made.stop()


@pytest.fixture
def door(gateway: Gateway, shared_plane: Plane, upstream: ScriptedUpstream) -> Door:
    return make_door(gateway, shared_plane, upstream)


@pytest.mark.parametrize("kind", TABLE)
async def test_a_request_through_caddy_is_one_call_or_refused(
    proxy: Caddy, door: Door, upstream: ScriptedUpstream, kind: str
) -> None:
    served = 0
    for row in TABLE[kind]:
        data = row.data(door.secret, CLOSE)
        answer = await smuggling.ask(proxy.port, data, ends=row.ends)
        status = smuggling.status_of(answer)
        wanted = row.answer if row.proxied == SAME else row.proxied
        if wanted is not None:
            assert status == wanted, (row.name, answer[:500])
        else:
            assert status is None or status in REFUSED, (row.name, answer[:500])
        if wanted == 200:
            served += 1
            assert len(upstream.calls) == served, row.name
            assert upstream.calls[-1].json()["prompt"] == "outer", row.name
    assert len(upstream.calls) == served

    def records() -> bool:
        found = [each for each in door.gateway.records() if each["key_id"] == door.key_id]
        return [each["status"] for each in found].count(200) == served

    await eventually(records)


async def test_caddy_answers_two_requests_at_once_one_after_the_other(
    proxy: Caddy, door: Door, upstream: ScriptedUpstream
) -> None:
    """Each comes to the gateway on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    last = post(door.secret, b'{"prompt": "second"}', headers={"connection": "close"})
    writer.write(post(door.secret, OUTER) + last)
    answers = await asyncio.wait_for(reader.read(), BOUND_SECONDS)
    writer.close()
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert [call.json()["prompt"] for call in upstream.calls] == ["outer", "second"]

    def records() -> bool:
        found = [each for each in door.gateway.records() if each["key_id"] == door.key_id]
        return [each["status"] for each in found] == [200, 200]

    await eventually(records)
