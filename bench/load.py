"""The load generator: so many calls, so many at a time, and what became of each.

A connection is used again as long as the peer keeps it alive.  The time of a call runs from before
its connection, if it needs a new one, to the last byte of the answer.  An answer counts as good if
its status is 200 and it is long enough to hold the picture; bodies are counted, not kept.
"""

import asyncio
import random
import re
import socket
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, cast

from bench.upstream import Upstream
from bench.works import PROMPT, Request, Way, Work

_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d+)")
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CHUNKED: Final = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")
_CLOSES: Final = re.compile(rb"(?i)HTTP/1\.0 |\r\nconnection: *close")
_MARK: Final = re.compile(rb"MARK\d{8}")

_KEPT_BYTES: Final = 2048
"""The beginning of each body: it has the purchase's mark, or says what is wrong."""

_SLOW_BYTES: Final = 64 * 1024
_SLOW_SECONDS: Final = 0.2
"""A slow client reads at most so much, so often; its socket holds no more (its kernel's buffer)."""


class CallError(Exception):
    """A call without a picture; the message says why."""


@dataclass
class Outcome:
    """What came of one load: ``times`` are those of good calls, in seconds."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    same_pictures: int = 0
    """Retries that got the same picture as the call that they repeat."""


class _Client(asyncio.Protocol):
    """One connection; one call at a time."""

    def __init__(self, *, reads_slowly: bool) -> None:
        self._reads_slowly = reads_slowly
        self._over: asyncio.Future[None] | None = None
        self.is_open = False
        self._forget()

    def _forget(self) -> None:
        """Be ready for the next answer."""
        self._buffer = b""
        self._head: bytes | None = None
        self._remaining: int | None = None
        self._is_chunked = False
        self._is_last_chunk = False
        self.received = 0
        self.beginning = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._over is not None and not self._over.done():
            if self._head is not None and self._remaining is None and not self._is_chunked:
                self._over.set_result(None)
            else:
                words = f"connection lost after {self.received} bytes"
                self._over.set_exception(CallError(f"{words}: {exc}" if exc else words))

    async def ask(self, request: Request, prompt: bytes) -> None:
        """Make one call and wait for the end of its answer."""
        self._over = asyncio.get_running_loop().create_future()
        self._forget()
        self._transport.writelines([request.before, prompt, request.after])
        await self._over
        if self._head is not None and _CLOSES.search(self._head):
            self.close()

    def status(self) -> int:
        found = _STATUS.match(self._head or b"")
        return int(found[1]) if found else 0

    def close(self) -> None:
        self.is_open = False
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._over is None or self._over.done():
            return
        if self._reads_slowly:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(_SLOW_SECONDS, self._read_on)
        if self._head is None:
            self._buffer += data
            head, end, data = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self._buffer = b""
            self._head = head + b"\r\n"
            self._is_chunked = _CHUNKED.search(self._head) is not None
            if self._is_chunked:
                self._remaining = 0
            elif found := _LENGTH.search(self._head):
                self._remaining = int(found[1])
        if len(self.beginning) < _KEPT_BYTES:
            self.beginning += data[:_KEPT_BYTES]
        if self._is_chunked:
            self._take_chunks(data)
            return
        self.received += len(data)
        if self._remaining is not None:
            self._remaining -= len(data)
            if self._remaining <= 0:
                self._over.set_result(None)

    def _take_chunks(self, data: bytes) -> None:
        """Count what the chunks hold; ``_remaining`` is of the chunk and the line end behind it."""
        assert self._over is not None
        assert self._remaining is not None
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        at = 0
        while at < len(data):
            if self._remaining:
                step = min(self._remaining, len(data) - at)
                self._remaining -= step
                at += step
                if self._is_last_chunk and not self._remaining:
                    self._over.set_result(None)
                    return
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._buffer = data[at:]
                return
            size = int(data[at:end].partition(b";")[0], 16)
            self._is_last_chunk = size == 0
            self._remaining = size + 2
            self.received += size
            at = end + 2

    def _read_on(self) -> None:
        if self.is_open and not self._transport.is_closing():
            self._transport.resume_reading()


class _Caller:
    """Makes calls one after another, on one connection while the peer keeps it."""

    def __init__(self, port: int, work: Work) -> None:
        self._port = port
        self._work = work
        self._client: _Client | None = None

    async def call(self, request: Request, prompt: bytes) -> bytes:
        """One good call; gives the mark of its picture, which only some works have."""
        if self._client is None or not self._client.is_open:
            self._client = await self._connect()
        await self._client.ask(request, prompt)
        status, received = self._client.status(), self._client.received
        if status != 200:
            raise CallError(f"status {status}: {self._client.beginning[:160]!r}")
        if received < self._work.base64_bytes:
            raise CallError(f"{received} bytes, which are no picture")
        found = _MARK.search(self._client.beginning)
        return found[0] if found else b""

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    async def _connect(self) -> _Client:
        loop = asyncio.get_running_loop()
        raw = socket.socket()
        try:
            if self._work.reads_slowly:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BYTES)
            raw.setblocking(False)
            await loop.sock_connect(raw, ("127.0.0.1", self._port))
        except BaseException:
            raw.close()
            raise
        slow = self._work.reads_slowly
        _, client = await loop.create_connection(lambda: _Client(reads_slowly=slow), sock=raw)
        return client


async def run(
    port: int, way: Way, work: Work, upstream: Upstream, *, count: int, with_retries: bool = False
) -> Outcome:
    """Make ``count`` calls; it ends at the work's deadline, whatever is not answered.

    ``with_retries``: while a call is at the upstream, the same call comes again as a retry of the
    official SDK; the times are those of the retries.
    """
    request = work.request(way)
    retry = work.request(way, x_stainless_retry_count="1")
    outcome = Outcome()
    began = time.monotonic()
    numbers = iter(range(count))

    async def call_once(callers: list[_Caller]) -> None:
        prompt = b"cat %0*x" % (len(PROMPT) - 4, random.getrandbits(64))
        if not with_retries:
            start = time.perf_counter()
            await callers[0].call(request, prompt)
        else:
            first = asyncio.ensure_future(callers[0].call(request, prompt))
            try:
                await _either(upstream.arrival(prompt), first)
                start = time.perf_counter()
                mark = await callers[1].call(retry, prompt)
                is_same = mark == await first
                outcome.same_pictures += is_same
            finally:
                first.cancel()
        outcome.times.append(time.perf_counter() - start)

    async def caller(number: int) -> None:
        await asyncio.sleep(work.ramp * number / work.at_once)
        callers = [_Caller(port, work) for _ in range(1 + with_retries)]
        try:
            for _ in numbers:
                if time.monotonic() - began > work.seconds:
                    return
                try:
                    await call_once(callers)
                except (CallError, OSError) as error:
                    outcome.errors.append(str(error) or type(error).__name__)
                    # Half an answer may still come on these.
                    for each in callers:
                        each.close()
        finally:
            for each in callers:
                each.close()

    tasks = [asyncio.ensure_future(caller(number)) for number in range(min(work.at_once, count))]
    try:
        _, late = await asyncio.wait(tasks, timeout=work.deadline)
        outcome.errors += [f"no answer within {work.deadline} s"] * len(late)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    outcome.seconds = time.monotonic() - began
    for error in ended:
        if isinstance(error, Exception):
            raise error
    return outcome


async def _either(event: Coroutine[None, None, None], call: asyncio.Future[bytes]) -> None:
    """Wait for the event; a call that fails before it ends the wait, too."""
    waiting = asyncio.ensure_future(event)
    both: set[asyncio.Future[Any]] = {waiting, call}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if call.done():
            call.result()
    finally:
        waiting.cancel()
