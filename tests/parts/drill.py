"""Calls without a pause while releases come and go: what each client saw, and each account.

Many clients call on one account with room for all; a few on a narrow one whose slots are always
taken.  The upstream, which knows each call by its prompt, tells when it arrived and how many an
account had at once.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.parts.upstream import Call, ScriptedUpstream

WIDE, NARROW = "wide", "narrow"
NARROW_SLOTS = 3
PAUSE_SECONDS = 5.0
"""A call that no instance accepts waits longer than this; one that is accepted waits far less, even
on a busy machine."""


@dataclass
class Seen:
    """What came of the calls; times in seconds."""

    served: int = 0
    served_narrow: int = 0
    refused_narrow: int = 0
    failures: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    """From a client's connect to the call's arrival at the upstream, on the wide account."""
    peaks: Counter[str] = field(default_factory=Counter)
    """The most calls at once that each account had."""

    @property
    def longest_wait(self) -> float:
        return max(self.waits, default=0.0)

    def __str__(self) -> str:
        return (
            f"{self.served} calls served on the wide account, {len(self.failures)} failed; longest "
            f"wait before the upstream {self.longest_wait:.3f} s; narrow account: "
            f"{self.served_narrow} served, {self.refused_narrow} refused, "
            f"{self.peaks[NARROW]} of {NARROW_SLOTS} slots at once"
        )


class Drill:
    """The load; ``url`` is the proxy's, ``secrets`` the keys of each account."""

    def __init__(
        self, url: str, secrets: dict[str, str], upstream: ScriptedUpstream, seconds: float
    ) -> None:
        self._url = f"{url}/v1/images/generations"
        self._secrets = secrets
        self._upstream = upstream
        self._seconds = seconds
        self._started: dict[str, float] = {}
        self._now: Counter[str] = Counter()
        self._is_over = asyncio.Event()
        self.seen = Seen()

    async def run(self, wide: int, narrow: int, during: Callable[[], Any]) -> Seen:
        """Call from so many clients until ``during``, in a thread, is done; all calls then end."""
        self._upstream.script = self._draw
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            clients = [
                asyncio.create_task(self._client(session, account, number))
                for account, count in ((WIDE, wide), (NARROW, narrow))
                for number in range(count)
            ]
            try:
                await asyncio.to_thread(during)
            finally:
                self._is_over.set()
                await asyncio.gather(*clients)
        return self.seen

    async def _client(self, session: aiohttp.ClientSession, account: str, number: int) -> None:
        # Not all at once: a second's starts are spread over it.
        await asyncio.sleep(number * self._seconds / 60)
        count = 0
        while not self._is_over.is_set() and not self.seen.failures:
            count += 1
            await self._call(session, account, f"{account} {number} {count}")

    async def _call(self, session: aiohttp.ClientSession, account: str, name: str) -> None:
        headers = {"authorization": f"Bearer {self._secrets[account]}"}
        self._started[name] = time.monotonic()
        try:
            async with session.post(self._url, json={"prompt": name}, headers=headers) as answer:
                body = await answer.json()
                status = answer.status
        except (aiohttp.ClientError, ValueError) as error:
            self.seen.failures.append(f"{name}: {error!r}")
            return
        code = (body.get("error") or {}).get("code")
        if status == 200 and body["data"][0]["b64_json"]:
            if account == WIDE:
                self.seen.served += 1
            else:
                self.seen.served_narrow += 1
        elif account == NARROW and (status, code) == (429, "account_concurrency"):
            self.seen.refused_narrow += 1
        else:
            self.seen.failures.append(f"{name}: {status} {json.dumps(body)[:300]}")

    async def _draw(self, call: Call) -> None:
        name = call.json()["prompt"]
        account = name.split()[0]
        if account == WIDE:
            self.seen.waits.append(time.monotonic() - self._started[name])
        self._now[account] += 1
        self.seen.peaks[account] = max(self.seen.peaks[account], self._now[account])
        try:
            await asyncio.sleep(self._seconds)
        finally:
            # Before the answer: whoever has it may start the next call at once.
            self._now[account] -= 1
        await call.answer()
