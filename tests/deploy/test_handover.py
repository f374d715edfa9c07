"""Instances that follow each other on one socket, as a release does it, without systemd."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from tests.parts.caddy import Caddy
from tests.parts.drill import NARROW, NARROW_SLOTS, PAUSE_SECONDS, WIDE, Drill
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream

SITE = """{
}
api.example.com {
	import image-gateway.caddy
}
"""


async def test_no_call_is_lost_while_instances_follow_each_other(
    plane: Plane,
    make_gateway: Callable[..., Gateway],
    upstream: ScriptedUpstream,
    tmp_path: Path,
) -> None:
    keys = {}
    for account, slots in ((WIDE, 64), (NARROW, NARROW_SLOTS)):
        plane.add_account(account, upstream.url, image_max_concurrency=slots)
        keys[account] = plane.add_key(key_id=account, account_names=[account])
    with socket.socket() as passed:
        passed.bind(("127.0.0.1", 0))
        passed.listen(4096)
        address = f"127.0.0.1:{passed.getsockname()[1]}"
        run = [make_gateway(plane.reader_url, slot_wait_seconds=10).start(passed=passed)]

        def follow() -> None:
            for _ in range(5):
                run.append(make_gateway(plane.reader_url, slot_wait_seconds=10))
                run[-1].start(passed=passed)
                assert run[-2].stop() == 0

        folder = tmp_path / "caddy"
        folder.mkdir()
        caddy = Caddy(folder, SITE, IMAGE_GATEWAY_ADDRESS=address).start()
        try:
            drill = Drill(f"http://127.0.0.1:{caddy.port}", keys, upstream, seconds=1)
            seen = await drill.run(wide=20, narrow=5, during=follow)
        finally:
            caddy.stop()
    assert seen.failures == []
    assert seen.served >= 60
    assert seen.longest_wait < PAUSE_SECONDS
    assert seen.peaks[NARROW] == NARROW_SLOTS
    calls = seen.served + seen.served_narrow + seen.refused_narrow
    await eventually(lambda: sum(len(gateway.records()) for gateway in run) == calls)
    assert all(gateway.records() for gateway in run)
    assert await asyncio.to_thread(run[-1].stop) == 0
