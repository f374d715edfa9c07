"""A fault on the way to an upstream, at every place of a call: what it costs, and what is left.

The matrix is kind of fault x place x way of answering.  Each cell has a key, two accounts in a
fixed order and a proxy of its own: the first account is behind the proxy, the second works.  What
follows is computed from the place, by the one rule of the failover table: another account may be
asked only while nothing was sent.
"""

import asyncio
import contextlib
import json
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import pytest

from tests.daemon.conftest import KINDS, frames_of
from tests.daemon.test_refusals import EDITS, GENERATIONS
from tests.parts import forms
from tests.parts.eventually import eventually
from tests.parts.fault_proxy import (
    Fault,
    FaultProxy,
    Kind,
    Toward,
    refuses_connects,
    swallows_connects,
)
from tests.parts.gateway import POOLED, Gateway, parse, post, unlike
from tests.parts.plane import Plane
from tests.parts.upstream import (
    PNG,
    Call,
    ScriptedUpstream,
    codex_turn,
    completed,
    frame,
    images,
    partial,
    picture,
)

AT_ONCE = 10
"""Calls of cells that end at once; those that wait do so all together."""
SETTINGS: dict[str, Any] = {
    "connect_seconds": 2,
    "upstream_idle_seconds": 2,
    **{f"{dialect}_seconds": 5 for dialect in ("openai", "azure", "codex")},
}


class Place(StrEnum):
    """Where in a call the fault comes."""

    CONNECT = "at the connect"
    TLS = "within the TLS handshake"
    REQUEST_HEAD = "within the request's head"
    REQUEST_BODY = "within the request's body"
    BEFORE_ANSWER = "before the answer"
    ANSWER_HEAD = "within the answer's head"
    ANSWER_BODY = "within the picture or the first event"
    LAST_EVENT = "within the last event"
    ANSWER_END = "behind the answer"


class Way(StrEnum):
    """How the client wants its answer."""

    PLAIN = "plain"
    STREAM = "stream"


class Expected(NamedTuple):
    """What a client reads, and what the record says of each attempt (stage, action)."""

    status: int
    code: str | None
    attempts: tuple[tuple[str, str], ...]
    retry_is_safe: bool = True


SERVED = Expected(200, None, (("stream", "deliver"),))
SERVED_BY_NEXT = Expected(200, None, (("connect", "next"), ("stream", "deliver")))
UNREACHABLE = Expected(502, "upstream_unreachable", (("connect", "next"),))
UNKNOWN = Expected(504, "outcome_unknown", (("sent", "replace"),), retry_is_safe=False)
CUT = Expected(502, "upstream_cut", (("stream", "end"),), retry_is_safe=False)
BROKEN_STREAM = Expected(200, "upstream_cut", (("stream", "end"),))

UNSENT = (Place.CONNECT, Place.TLS)
REQUEST = (Place.REQUEST_HEAD, Place.REQUEST_BODY)
REQUEST_BYTES = {Place.TLS: 20, Place.REQUEST_HEAD: 40, Place.REQUEST_BODY: 1_000_000}
"""What goes to the upstream before the fault."""
OF_EVERY_ACCOUNT = (Place.TLS, Place.REQUEST_HEAD, Place.BEFORE_ANSWER, Place.ANSWER_BODY)


@dataclass(frozen=True)
class Cell:
    """One fault of one call.  ``kind`` is None for a connect that is refused."""

    kind: Kind | None
    place: Place
    way: Way
    account: str = "openai"
    is_alone: bool = False
    """The key has no second account."""

    def __str__(self) -> str:
        alone = "-alone" if self.is_alone else ""
        return f"{self.account}{alone}-{self.way}-{self.place}-{self.kind or 'refused'}"

    @property
    def waits(self) -> bool:
        """Whether only a deadline ends it."""
        return self.kind in {Kind.SWALLOW, Kind.DRIP} and self.place is not Place.ANSWER_END

    @property
    def expected(self) -> Expected:
        if self.place in UNSENT:
            return UNREACHABLE if self.is_alone else SERVED_BY_NEXT
        if self.kind is Kind.DELAY or self.place is Place.ANSWER_END:
            return SERVED
        if self.place is Place.LAST_EVENT:
            return BROKEN_STREAM
        if self.place is Place.ANSWER_BODY and self.way is Way.PLAIN and not self.has_events:
            return CUT
        return UNKNOWN

    @property
    def has_events(self) -> bool:
        """Whether the upstream answers with events, whatever the client asked for."""
        return self.way is Way.STREAM or self.account == "codex-responses"

    @property
    def purchases(self) -> tuple[int, int]:
        """Whole requests that reach the first and the second account."""
        if self.place in UNSENT:
            return (0, 0 if self.is_alone else 1)
        return (0 if self.place in REQUEST and self.kind is not Kind.DELAY else 1, 0)


@dataclass(frozen=True)
class Wire:
    """An answer, and how many bytes of it come before each place."""

    data: bytes
    places: Mapping[Place, int]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _plain() -> Wire:
    body = json.dumps(images(1, data=[{"b64_json": picture(30_000)}])).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    return _wire(head + b"content-length: %d\r\n\r\n" % len(body), body)


def _events(*frames: bytes) -> Wire:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    chunks = [_chunk(each) for each in frames]
    wire = _wire(head + b"transfer-encoding: chunked\r\n\r\n", b"".join([*chunks, b"0\r\n\r\n"]))
    last = len(wire.data) - len(b"0\r\n\r\n") - len(chunks[-1]) + 100
    return Wire(wire.data, {**wire.places, Place.LAST_EVENT: last})


def _wire(head: bytes, body: bytes) -> Wire:
    places = {
        Place.BEFORE_ANSWER: 0,
        Place.ANSWER_HEAD: 30,
        Place.ANSWER_BODY: len(head) + 100,
        Place.ANSWER_END: len(head + body),
    }
    return Wire(head + body, places)


PLAIN = _plain()
EVENTS = _events(frame(partial(size=3000)), frame(completed(size=30_000)))
TURN = _events(*map(frame, codex_turn()))
PICTURE = forms.Piece("image", PNG + b"\0" * 2_000_000, "a.png", "image/png")


def wire_of(account: str, way: Way) -> Wire:
    """What a working account of this kind answers."""
    if account == "codex-responses":
        return TURN
    return EVENTS if way is Way.STREAM and account != "codex" else PLAIN


def _cells() -> Iterator[Cell]:
    for way in Way:
        for alone in (False, True):
            for kind in (None, Kind.SWALLOW):
                yield Cell(kind, Place.CONNECT, way, is_alone=alone)
            for kind in Kind:
                if kind is not Kind.DELAY:  # nobody speaks TLS behind the proxy
                    yield Cell(kind, Place.TLS, way, is_alone=alone)
        for kind in Kind:
            for place in Place:
                is_elsewhere = place in UNSENT or (place is Place.LAST_EVENT and way is Way.PLAIN)
                # A request with garbage in it is the upstream's to judge.
                if not is_elsewhere and not (kind is Kind.GARBAGE and place in REQUEST):
                    yield Cell(kind, place, way)
        for account in ("codex", "codex-responses", "azure-v1"):
            for kind in (Kind.RESET, Kind.TRUNCATE, Kind.SWALLOW):
                for place in OF_EVERY_ACCOUNT:
                    yield Cell(kind, place, way, account)


CELLS = list(_cells())


@dataclass(frozen=True)
class Seen:
    """What came of a cell."""

    answer: tuple[int, dict[str, str], bytes]
    purchases: tuple[int, int]
    fired: int
    records: list[dict[str, Any]]


@dataclass(frozen=True)
class Matrix:
    """What came of all cells, and what was left when they were over."""

    cells: Mapping[Cell, Seen]
    before: Mapping[str, int]
    after: Mapping[str, int]


class Runner:
    """Runs the cells over one daemon and one upstream."""

    def __init__(self, gateway: Gateway, plane: Plane) -> None:
        self._gateway = gateway
        self._plane = plane
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._names = {cell: secrets.token_hex(6) for cell in CELLS}
        self._wires = {name: wire_of(cell.account, cell.way) for cell, name in self._names.items()}
        self._made: Counter[tuple[str, str]] = Counter()
        self._upstream = ScriptedUpstream(self._script)

    async def run(self) -> Matrix:
        async with self._upstream:
            before = await self._left()
            seen = await asyncio.gather(*map(self._run, CELLS))
            # What is still there then fails a test of its own, not all cells.
            with contextlib.suppress(AssertionError):
                await eventually(self._is_over)
            after = await self._left()
        return Matrix(dict(zip(CELLS, seen, strict=True)), before, after)

    async def _script(self, call: Call) -> None:
        _, name, number, *_ = call.target.split("/")
        self._made[name, number] += 1
        await call.send(self._wires[name].data)
        await call.gone()

    async def _run(self, cell: Cell) -> Seen:
        name = self._names[cell]
        async with contextlib.AsyncExitStack() as stack:
            if not cell.waits:
                await stack.enter_async_context(self._turns)
            proxy: FaultProxy | None = None
            if cell.place is Place.CONNECT:
                way = swallows_connects() if cell.kind else refuses_connects()
                port = stack.enter_context(way)
            else:
                proxy = FaultProxy(self._upstream.port, self._fault(cell))
                port = (await stack.enter_async_context(proxy)).port
            secret = await asyncio.to_thread(self._add_key, cell, name, port)
            try:
                answer = parse(await self._gateway.raw(self._request(cell, secret)))
                records = await eventually(lambda: self._records(name))
            except (TimeoutError, AssertionError) as error:
                answer, records = (0, {}, repr(error).encode()), []
            made = self._made[name, "1"], self._made[name, "2"]
            return Seen(answer, made, proxy.fired if proxy else 1, records)

    def _fault(self, cell: Cell) -> Fault:
        assert cell.kind is not None
        if cell.place in REQUEST_BYTES:
            return Fault(cell.kind, Toward.SERVER, REQUEST_BYTES[cell.place])
        after = self._wires[self._names[cell]].places[cell.place]
        return Fault(cell.kind, after=after, at_end=cell.place is Place.ANSWER_END)

    def _add_key(self, cell: Cell, name: str, port: int) -> str:
        kind = KINDS[cell.account]
        scheme = "https" if cell.place is Place.TLS else "http"
        roots = [f"{scheme}://127.0.0.1:{port}", self._upstream.root]
        names = [f"{name}-{number}" for number in range(1 if cell.is_alone else 2)]
        for number, (account, root) in enumerate(zip(names, roots, strict=False), 1):
            self._plane.add_account(account, f"{root}/{name}/{number}{kind.base}", **kind.row)
        return self._plane.add_key(key_id=name, account_names=names, route_strategy="fixed")

    def _request(self, cell: Cell, secret: str) -> bytes:
        if cell.place is Place.REQUEST_BODY:
            stream = ("stream", "true" if cell.way is Way.STREAM else "false")
            body = forms.body(("prompt", "a cat"), stream, PICTURE)
            return post(secret, body, EDITS, {"content-type": forms.FORM})
        return post(secret, unlike(stream=cell.way is Way.STREAM), GENERATIONS)

    def _records(self, name: str) -> list[dict[str, Any]]:
        return [record for record in self._gateway.records() if record["key_id"] == name]

    async def _is_over(self) -> bool:
        left = await self._left()
        return not any(left[name] for name in left if name != "descriptors")

    async def _left(self) -> dict[str, int]:
        """What the daemon holds."""
        _, _, page = await self._gateway.ops("/metrics")
        lines = [line.rpartition(" ") for line in page.decode().splitlines()]
        folder = self._gateway.folder / "spool"
        return {
            "descriptors": self._gateway.descriptors(),
            "files": len(list(folder.iterdir())),
            "spooled": sum(str(folder) in name for name in self._gateway.files()),
            "locks": await asyncio.to_thread(self._plane.locks),
            "connections": self._upstream.open_connections,
            **{
                gauge: round(
                    sum(float(value) for name, _, value in lines if name.split("{")[0] == gauge)
                )
                for gauge in (
                    "image_gateway_slots_in_use",
                    "image_gateway_bytes_in_flight",
                    "image_gateway_waiting",
                )
            },
        }


@pytest.fixture(scope="module")
def matrix(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """All cells, run together, because many of them only wait."""
    plane = Plane(postgres_url)
    plane.create()
    folder = tmp_path_factory.mktemp("matrix")
    gateway = Gateway(folder, plane.reader_url, **SETTINGS).start()
    try:
        yield asyncio.run(Runner(gateway, plane).run())
        assert gateway.stop() == 0, gateway.words()
    finally:
        gateway.kill()
        plane.drop()


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_fault_is_told_by_what_was_sent(matrix: Matrix, cell: Cell) -> None:
    """The answer that the place promises, one purchase at most, and one record that says why."""
    seen, expected = matrix.cells[cell], cell.expected
    assert seen.fired == 1
    status, headers, body = seen.answer
    code = None
    if expected is BROKEN_STREAM:
        code = frames_of(body)[-1]["error"]["code"]
    elif status != 200:
        code = json.loads(body)["error"]["code"]
    assert (status, code) == (expected.status, expected.code), body[:300]
    assert headers.get("x-should-retry") == (None if expected.retry_is_safe else "false")
    assert seen.purchases == cell.purchases
    [record] = seen.records
    assert (record["status"], record["error_code"]) == (status, code)
    told = tuple((attempt["stage"], attempt["action"]) for attempt in record["attempts"])
    assert told == expected.attempts
    assert record["may_be_billed"] == (expected in {UNKNOWN, CUT, BROKEN_STREAM})
    failed = [each for each in record["attempts"] if each["action"] != "deliver"]
    assert all(attempt["error_code"] for attempt in failed), "what broke it"


def test_nothing_is_left_of_any_fault(matrix: Matrix) -> None:
    """Neither slot nor lock, byte, file, descriptor or connection."""
    descriptors = matrix.before["descriptors"] + POOLED
    assert matrix.after["descriptors"] <= descriptors
    assert {**matrix.after, "descriptors": 0} == {**dict.fromkeys(matrix.after, 0)}
