"""A SOCKS5 proxy (RFC 1928, RFC 1929) that lets through, refuses or breaks off as a test tells."""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from tests.edge.peer import Line

GRANTED: Final = 0
REPLIES: Final = {
    1: "general failure",
    2: "not allowed by the rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
    9: "a code that nobody knows",
}
IPV4: Final = 1
NAME: Final = 3
IPV6: Final = 4

_ANONYMOUS: Final = 0
_PASSWORD: Final = 2
_NONE_OF_THEM: Final = 0xFF
_BOUND: Final = {
    IPV4: b"\x01" + b"\0" * 4,
    NAME: b"\x03\x05bound",
    IPV6: b"\x04" + b"\0" * 16,
}


class Stage(Enum):
    """What the proxy has just been asked."""

    METHOD = auto()
    PASSWORD = auto()
    CONNECT = auto()


class Break(Enum):
    """How it leaves its client without an answer."""

    SILENCE = auto()
    CLOSE = auto()
    HALF = auto()
    RESET = auto()
    NOISE = auto()
    ALIEN = auto()
    """The right length, and nonsense."""


@dataclass
class Socks:
    """The script of a proxy (for ``Peer``), whose every connection leads to ``target`` of loopback.

    ``account``: who is let in, everybody if None.  ``reply``: what a CONNECT is answered.
    """

    target: int
    account: tuple[str, str] | None = None
    reply: int = GRANTED
    broken: tuple[Stage, Break] | None = None
    bound: int = IPV4
    offers: list[bytes] = field(default_factory=list)
    signs: list[tuple[str, str]] = field(default_factory=list)
    asked: list[tuple[int, bytes, int]] = field(default_factory=list)
    """Kind of address, address, port of each CONNECT."""
    reached: list[Stage] = field(default_factory=list)

    async def __call__(self, line: Line) -> None:
        if await self._sign_in(line) and await self._connect(line):
            await line.relay(self.target)

    async def _sign_in(self, line: Line) -> bool:
        version, count = await line.exactly(2)
        assert version == 5
        self.offers.append(await line.exactly(count))
        if await self._breaks(Stage.METHOD, line):
            return False
        method = _ANONYMOUS if self.account is None else _PASSWORD
        if method not in self.offers[-1]:
            await line.send(bytes([5, _NONE_OF_THEM]))
            return False
        await line.send(bytes([5, method]))
        if self.account is None:
            return True
        assert await line.exactly(1) == b"\x01"
        username = await line.exactly((await line.exactly(1))[0])
        password = await line.exactly((await line.exactly(1))[0])
        self.signs.append((username.decode(), password.decode()))
        if await self._breaks(Stage.PASSWORD, line):
            return False
        is_right = self.signs[-1] == self.account
        await line.send(b"\x01\x00" if is_right else b"\x01\x01")
        return is_right

    async def _connect(self, line: Line) -> bool:
        version, command, reserved, kind = await line.exactly(4)
        assert (version, command, reserved) == (5, 1, 0)
        size = (await line.exactly(1))[0] if kind == NAME else {IPV4: 4, IPV6: 16}[kind]
        address = await line.exactly(size)
        self.asked.append((kind, address, int.from_bytes(await line.exactly(2), "big")))
        if await self._breaks(Stage.CONNECT, line):
            return False
        await line.send(bytes([5, self.reply, 0]) + _BOUND[self.bound] + b"\0\0")
        return self.reply == GRANTED

    async def _breaks(self, stage: Stage, line: Line) -> bool:
        self.reached.append(stage)
        if self.broken is None or self.broken[0] is not stage:
            return False
        match self.broken[1]:
            case Break.SILENCE:
                await line.silence()
            case Break.HALF:
                await line.send(b"\x01" if stage is Stage.PASSWORD else b"\x05")
            case Break.RESET:
                line.reset()
            case Break.NOISE:
                await line.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            case Break.ALIEN:
                await line.send(b"\xaa" * (10 if stage is Stage.CONNECT else 2))
            case Break.CLOSE:
                pass
        return True
