"""Accounts that fail by their own fault: they lose the calls to those that work, and come back."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable

import pytest

from tests.daemon.conftest import Door
from tests.daemon.test_failover import error
from tests.daemon.test_ops import metric, status
from tests.parts.eventually import eventually
from tests.parts.fault_proxy import swallows_connects
from tests.parts.gateway import Gateway, unlike
from tests.parts.plane import Plane
from tests.parts.upstream import Call, ScriptedUpstream, answers, draws

Maker = Callable[..., Gateway]
SHAPED = error("server_error", message="The server had an error.")


class Pool:
    """One key, and its accounts of the openai dialect."""

    def __init__(self, gateway: Gateway, plane: Plane, **key: object) -> None:
        self.gateway = gateway
        self._plane = plane
        self.names: list[str] = []
        key_id = f"key-{secrets.token_hex(4)}"
        secret = plane.add_key(key_id=key_id, account_names=[], **key)
        self.door = Door(gateway, plane, key_id, secret, "")

    def add(self, url: str, **columns: object) -> str:
        name = f"account-{len(self.names)}-{secrets.token_hex(4)}"
        self._plane.add_account(name, url, dialect="openai", credential={"api_key": "k"}, **columns)
        self.names.append(name)
        where = {"key_id": self.door.key_id}
        self._plane.update("keys", where, account_names=self.names)
        return name

    async def condition(self, name: str) -> str:
        accounts = (await status(self.gateway))["accounts"]
        found = {account["account_name"]: account["condition"] for account in accounts}
        return str(found[name])

    def calls_of(self, name: str) -> int:
        records = [r for r in self.gateway.records() if r["key_id"] == self.door.key_id]
        return sum(a["account_name"] == name for r in records for a in r["attempts"])


@pytest.mark.parametrize("strategy", ["auto", "fixed"])
async def test_of_four_accounts_the_one_that_works_serves_nearly_all_calls(
    make_gateway: Maker, plane: Plane, strategy: str
) -> None:
    """Of 200 calls on one that works, one that fails fast, one that swallows connects and one at
    its limit at least 95 per cent are served, and the sick ones are asked only as probes.
    """
    gateway = make_gateway(plane.reader_url, connect_seconds=1, slot_wait_seconds=30).start()
    limited = answers(429, error("rate_limit_exceeded"), {"retry-after": "60"})
    async with (
        ScriptedUpstream(answers(500, SHAPED)) as failing,
        ScriptedUpstream(limited) as at_limit,
        ScriptedUpstream(draws) as healthy,
    ):
        with swallows_connects() as port:
            silent = f"http://127.0.0.1:{port}/v1"
            pool = Pool(gateway, plane, route_strategy=strategy)
            sick = [pool.add(url) for url in (failing.url, silent, at_limit.url)]
            pool.add(healthy.url, image_max_concurrency=4)
            statuses: Counter[int] = Counter()

            async def client() -> None:
                for _ in range(25):
                    statuses[(await pool.door.post(unlike()))[0]] += 1

            await asyncio.gather(*(client() for _ in range(8)))
        assert statuses.total() == 200
        assert statuses[200] >= 190, statuses
        assert set(statuses) <= {200, 500}
        await eventually(lambda: sum(map(pool.calls_of, pool.names)) >= 200)
        # The first calls come before the first failure is known; then there are only probes.
        assert len(failing.calls) <= 10
        assert len(at_limit.calls) <= 8
        assert pool.calls_of(sick[1]) <= 10
    assert gateway.stop() == 0


async def test_an_account_that_fails_again_is_shown_and_comes_back_by_a_probe(
    gateway: Gateway, shared_plane: Plane
) -> None:
    async with ScriptedUpstream(answers(500, SHAPED)) as first, ScriptedUpstream() as second:
        pool = Pool(gateway, shared_plane, route_strategy="fixed")
        sick = pool.add(first.url)
        state = f'image_gateway_account_state{{account="{sick}",state="failing"}}'
        for _ in range(2):
            assert (await pool.door.post(unlike()))[0] == 500, "no other account is left"
        assert await pool.condition(sick) == "failing"
        assert await metric(gateway, state) == 1
        assert f"account {sick} is failing: 2 failures in a row" in gateway.words()
        pool.add(second.url)
        assert (await pool.door.post(unlike()))[0] == 200
        assert (len(first.calls), len(second.calls)) == (2, 1)
        first.script = draws

        async def is_back() -> bool:
            assert (await pool.door.post(unlike()))[0] == 200
            return len(first.calls) == 3

        await eventually(is_back)
        assert await pool.condition(sick) == "usable"
        assert await metric(gateway, state) == 0


async def test_a_lost_answer_and_one_without_a_picture_count_as_failures(
    gateway: Gateway, shared_plane: Plane
) -> None:
    async def closes(call: Call) -> None:
        call.writer.close()

    async with ScriptedUpstream(closes) as first, ScriptedUpstream() as second:
        pool = Pool(gateway, shared_plane, route_strategy="fixed")
        sick = pool.add(first.url)
        assert (await pool.door.post(unlike()))[0] == 504
        first.script = answers(200, b"<html>", {"content-type": "text/html"})
        assert (await pool.door.post(unlike()))[0] == 502
        assert await pool.condition(sick) == "failing"
        pool.add(second.url)
        assert (await pool.door.post(unlike()))[0] == 200
        assert len(first.calls) == 2
        await eventually(lambda: pool.calls_of(sick) == 2)


async def test_a_client_s_own_faults_put_no_account_out(
    gateway: Gateway, shared_plane: Plane
) -> None:
    """Nor does a 500 that says so, at whatever number."""
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        pool = Pool(gateway, shared_plane, route_strategy="fixed")
        well = pool.add(first.url)
        pool.add(second.url)
        for status_ in (500, 400, 500, 400):
            first.script = answers(status_, error("moderation_blocked"))
            assert (await pool.door.post(unlike()))[0] == status_
        assert (len(first.calls), len(second.calls)) == (4, 0)
        assert await pool.condition(well) == "usable"
        assert pool.calls_of(well) == 4
