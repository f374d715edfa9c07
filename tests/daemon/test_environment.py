"""What the machine does to a running daemon: names that flap, folders that go, disks that fill."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.daemon.calls.test_two_processes import mounted
from tests.daemon.conftest import Door, make_door, open_door
from tests.daemon.test_ops import metric
from tests.daemon.test_refusals import EDITS, check_error
from tests.daemon.test_sick_accounts import Pool
from tests.parts.eventually import eventually
from tests.parts.gateway import Gateway, unlike
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream, draws, images, picture

Maker = Callable[..., Gateway]
MIB = 1024 * 1024
LOST = "image_gateway_log_records_lost_total"


def edit(size: int) -> bytes:
    """An edit of so many bytes, unlike any other."""
    url = f"data:image/png;base64,{picture(size * 3 // 4)}"
    return unlike(images=[{"image_url": url}])


# -- names -----------------------------------------------------------------------------------------

RESOLVER = """
import json, os, pathlib, socket
from aiohttp.resolver import ThreadedResolver

async def resolve(self, host, port=0, family=socket.AF_INET):
    address = json.loads(pathlib.Path(os.environ["TEST_NAMES"]).read_text()).get(host)
    if address is None:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")
    return [{"hostname": host, "host": address, "port": port, "family": socket.AF_INET,
             "proto": 0, "flags": socket.AI_NUMERICHOST}]

ThreadedResolver.resolve = resolve
"""
"""What Python runs before the daemon: names are looked up in a file that the test writes."""


async def test_a_name_that_flaps_costs_no_call(
    make_gateway: Maker, plane: Plane, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """A look-up that fails, or an address that refuses, means that nothing was sent: the next
    account is asked, and the account is asked again by itself.
    """
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(RESOLVER)
    names = tmp_path / "names.json"
    names.write_text("{}")
    gateway = make_gateway(plane.reader_url)
    gateway.start(environment={"PYTHONPATH": str(hook), "TEST_NAMES": str(names)})
    async with ScriptedUpstream() as flapping:
        pool = Pool(gateway, plane, route_strategy="fixed")
        unknown = pool.add(f"http://unknown.test:{flapping.port}/v1")
        refused = pool.add(f"http://refused.test:{flapping.port}/v1")
        works = pool.add(upstream.url)
        # Nobody listens at that address.
        names.write_text(json.dumps({"refused.test": "127.0.0.9"}))
        assert (await pool.door.post(unlike()))[0] == 200
        record = await pool.door.record()
        assert [
            (a["account_name"], a["stage"], a["reason"], a["error_code"])
            for a in record["attempts"]
        ] == [
            (unknown, "connect", "not_sent", "ClientConnectorDNSError"),
            (refused, "connect", "not_sent", "ClientConnectorError"),
            (works, "stream", None, None),
        ]
        assert not record["may_be_billed"]
        assert (await pool.door.post(unlike()))[0] == 200
        assert (len(flapping.calls), len(upstream.calls)) == (0, 2)
        names.write_text(json.dumps({"unknown.test": "127.0.0.1"}))

        async def is_back() -> bool:
            assert (await pool.door.post(unlike()))[0] == 200
            return bool(flapping.calls)

        # The account is out for some seconds, and then a probe finds that it works.
        await eventually(is_back)
        await eventually(lambda: is_served_at_once(gateway, pool.door.key_id))
    assert gateway.stop() == 0


def is_served_at_once(gateway: Gateway, key_id: str) -> bool:
    """Whether the latest call of a key was served by the first account that it asked."""
    latest = [record for record in gateway.records() if record["key_id"] == key_id][-1]
    return [attempt["action"] for attempt in latest["attempts"]] == ["deliver"]


# -- folders ---------------------------------------------------------------------------------------


async def kept(door: Door, body: bytes) -> bool:
    """Whether an equal request with a name gets the first one's answer."""
    name = {"idempotency-key": f"once-{os.urandom(6).hex()}"}
    first = await door.post(body, **name)
    second = await door.post(body, **name)
    assert (first[0], second[0]) == (200, 200)
    return second[1].get("idempotent-replayed") == "true"


async def test_folders_that_are_removed_cost_no_call_and_come_back(
    make_gateway: Maker, plane: Plane, upstream: ScriptedUpstream
) -> None:
    """LOG_DIR and KEEP_DIR are made anew; without SPOOL_DIR only large bodies are refused."""
    gateway = make_gateway(plane.reader_url).start()
    door = open_door(gateway, plane, upstream, "openai")
    assert await kept(door, unlike())
    assert (await door.post(edit(2 * MIB), EDITS))[0] == 200
    await eventually(lambda: len(gateway.records()) == 3)
    spool = gateway.folder / "spool"
    for folder in ("logs", "spool", "state/calls"):
        shutil.rmtree(gateway.folder / folder)
    status, headers, body = await door.post(edit(2 * MIB), EDITS)
    assert (status, int(headers["retry-after"]) > 0) == (503, True)
    check_error(body, "overloaded")
    assert gateway.words().count("a body cannot be written to disk: No such file") == 1
    await eventually(lambda: [r["error_code"] for r in gateway.records()] == ["overloaded"])
    assert await kept(door, unlike()), "KEEP_DIR is there again"
    # An answer that is larger than what memory is for needs no folder.
    large = images(1, data=[{"b64_json": picture(3_000_000)}])

    async def script(call: Call) -> None:
        await call.answer(200, large)

    upstream.script = script
    status, _, body = await door.post(unlike())
    assert (status, json.loads(body)) == (200, large)
    upstream.script = draws
    spool.mkdir()
    assert (await door.post(edit(2 * MIB), EDITS))[0] == 200
    await eventually(lambda: len(gateway.records()) == 5)
    assert await metric(gateway, LOST) == 0
    assert await metric(gateway, "image_gateway_bytes_in_flight") == 0
    assert gateway.stop() == 0


# -- disks -----------------------------------------------------------------------------------------


async def test_full_disks_cost_no_call_and_are_used_again(
    make_gateway: Maker, plane: Plane, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Real ones, of LOG_DIR, SPOOL_DIR and KEEP_DIR: records are counted as lost, large bodies
    refused, answers not kept; with room again all is as before, without a restart.
    """
    with (
        mounted(tmp_path / "logs", size="256k") as logs,
        mounted(tmp_path / "spool", size="4m") as spool,
        mounted(tmp_path / "keep", size="1m") as keep,
    ):
        gateway = make_gateway(plane.reader_url, log_dir=logs, spool_dir=spool, keep_dir=keep)
        gateway.start()
        door = make_door(gateway, plane, upstream)
        assert await kept(door, unlike())
        for disk in (logs, spool, keep):
            fill(disk)
        status, _, body = await door.post(edit(2 * MIB), EDITS)
        assert status == 503
        check_error(body, "overloaded")
        assert gateway.words().count("a body cannot be written to disk: No space left") == 1
        assert not await kept(door, unlike())
        await until_lost(gateway)
        assert await metric(gateway, "image_gateway_bytes_in_flight") == 0
        for disk in (logs, spool, keep):
            (disk / "ballast").unlink()
        assert (await door.post(edit(2 * MIB), EDITS))[0] == 200
        assert await kept(door, unlike())
        lost = await metric(gateway, LOST)
        written = (logs / "requests.jsonl").read_bytes()
        assert lost is not None
        assert written.endswith(b"\n")
        for line in written.splitlines():
            json.loads(line)
        assert gateway.stop() == 0
        assert len((logs / "requests.jsonl").read_bytes().splitlines()) == 8 - lost


async def until_lost(gateway: Gateway) -> None:
    async def is_so() -> bool:
        return bool(await metric(gateway, LOST))

    await eventually(is_so)


async def test_disks_that_become_read_only_cost_no_call_and_are_used_again(
    make_gateway: Maker, plane: Plane, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """As the kernel makes them after an error, those of SPOOL_DIR and KEEP_DIR."""
    with (
        mounted(tmp_path / "spool", size="4m") as spool,
        mounted(tmp_path / "keep", size="4m") as keep,
    ):
        gateway = make_gateway(plane.reader_url, spool_dir=spool, keep_dir=keep).start()
        door = make_door(gateway, plane, upstream)
        assert await kept(door, unlike())
        for mode, edited, is_kept in (("ro", 503, False), ("rw", 200, True)):
            for disk in (spool, keep):
                subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)
            assert (await door.post(edit(2 * MIB), EDITS))[0] == edited
            assert await kept(door, unlike()) == is_kept
        for what in ("a body cannot be written to disk", "kept calls"):
            assert f"{what}: Read-only file system" in gateway.words()
        await eventually(lambda: len(gateway.records()) == 8)
        assert gateway.stop() == 0


def fill(disk: Path) -> None:
    """Leave no block of a disk free."""
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        for size in (65536, 1):
            try:
                while True:
                    ballast.write(b"\0" * size)
            except OSError:
                continue
