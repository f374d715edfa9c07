"""Accepts connections, within the limit of ``Connections``, and refuses what is beyond.

The loops' own accepting cannot do this.  Without a descriptor uvloop closes silently what waits in
the kernel's queue, and closes the listening socket if even that fails (0.23, by libuv's
``uv__emfile_trick``); asyncio's loop accepts nothing for a second.  Here idle connections make
room, and a spare descriptor lets a client be refused when none is left.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from image_gateway.core.errors import Refusal
from image_gateway.edge.client.connections import YOUNG_SECONDS, Abortable, Connections, Room

BACKLOG: Final = 4096

_AT_ONCE: Final = 32
"""How many connections one turn of the loop accepts or closes."""
_PAUSE_SECONDS: Final = 0.05
"""After an error: the queue would wake the loop again at once."""
_LINE_SECONDS: Final = 60.0
"""The shortest time between two lines about the limit."""
_RETRY_SECONDS: Final = 5.0
_LARGEST_READ: Final = 64 * 1024

_log = logging.getLogger(__name__)


@dataclass
class _Pressure:
    """What happened since the last line about the limit, and when the next may be written."""

    next_line: float = 0.0
    closed: int = 0
    refused: int = 0


class Acceptor:
    """Accepts on ``sockets``, which it owns, and gives each connection to ``serve``.

    ``serve`` returns at once; it reports the end of a connection to ``connections`` itself.
    ``remedy`` is what an operator can do when the limit is reached.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        connections: Connections,
        serve: Callable[[socket.socket], Abortable],
        remedy: str,
    ) -> None:
        self._sockets = sockets
        self._connections = connections
        self._serve = serve
        self._remedy = remedy
        self._open: set[socket.socket] = set()
        self._spare: int | None = None
        self._pressure = _Pressure()

    def __repr__(self) -> str:
        return f"<Acceptor {len(self._open)} sockets>"

    @property
    def is_open(self) -> bool:
        """Whether it accepts."""
        return bool(self._open)

    def start(self) -> None:
        """Accept from now on."""
        self._spare = _open_spare()
        for listening in self._sockets:
            listening.listen(BACKLOG)
            self._open.add(listening)
            self._resume(listening)

    def stop(self, *, takes_queued: bool) -> None:
        """Accept no more; first, if so, what has connected and waits in the kernel's queue."""
        for listening in self._open:
            asyncio.get_running_loop().remove_reader(listening.fileno())
            if takes_queued:
                with contextlib.suppress(OSError):
                    while self._accept_one(listening):
                        pass
            listening.close()
        self._open.clear()
        self._close_spare()

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._open:
            loop = asyncio.get_running_loop()
            loop.add_reader(listening.fileno(), self._accept_some, listening)

    def _pause(self, listening: socket.socket, seconds: float) -> None:
        """Leave in the kernel's queue what waits there."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening.fileno())
        loop.call_later(seconds, self._resume, listening)

    def _accept_some(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if self._connections.room(_now()) is Room.LATER:
                self._pause(listening, YOUNG_SECONDS)
                return
            try:
                if not self._accept_one(listening):
                    return
            except OSError as error:
                self._make_room(listening)
                self._warn(error)
                self._pause(listening, _PAUSE_SECONDS)
                return

    def _accept_one(self, listening: socket.socket) -> bool:
        """Take one connection from the kernel's queue, False if none is there; may raise
        ``OSError``.
        """
        client = _accept(listening)
        if client is None:
            return False
        now = _now()
        match self._connections.room(now):
            case Room.FREE:
                self._connections.add(self._serve(client), now)
            case Room.OF_OLDEST:
                self._close_oldest(now)
                self._connections.add(self._serve(client), now)
                self._warn()
            case Room.LATER | Room.NONE:
                self._refuse(client)
                self._warn()
        return True

    def _make_room(self, listening: socket.socket) -> None:
        """Without a descriptor: close idle connections, else refuse new ones by the spare one."""
        now, count = _now(), 0
        while count < _AT_ONCE and self._close_oldest(now):
            count += 1
        if count or self._connections.idle:
            return  # descriptors come back in the next turn, or once the young ones are older
        for _ in range(_AT_ONCE):
            self._close_spare()
            client = None
            with contextlib.suppress(OSError):
                client = _accept(listening)
            if client is not None:
                self._refuse(client)
            self._spare = _open_spare()
            if client is None:
                return

    def _close_oldest(self, now: float) -> bool:
        has_closed = self._connections.close_oldest(now)
        self._pressure.closed += has_closed
        return has_closed

    def _refuse(self, client: socket.socket) -> None:
        """Answer with 503 and close, without waiting for anything.

        What has come of the request is read first, because a close with unread bytes is a reset,
        which may overtake the answer.  It still may if more comes after that.
        """
        self._pressure.refused += 1
        with client:
            with contextlib.suppress(OSError):
                client.recv(_LARGEST_READ)
            with contextlib.suppress(OSError):
                client.send(_FULL_ANSWER)

    def _close_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _warn(self, error: OSError | None = None) -> None:
        """Tell the operator of the limit, but not for each connection."""
        now, pressure, connections = _now(), self._pressure, self._connections
        if now < pressure.next_line:
            return
        what = (
            f"the limit of {connections.limit} connections is reached"
            if error is None
            else f"connections cannot be accepted ({error.strerror})"
        )
        _log.warning(
            "%s: of %d connections %d have a request; %d without one were closed for new ones, and "
            "%d new ones were refused. %s",
            what,
            connections.idle + connections.busy,
            connections.busy,
            pressure.closed,
            pressure.refused,
            self._remedy,
        )
        self._pressure = _Pressure(next_line=now + _LINE_SECONDS)


def full() -> Refusal:
    """Every connection has a request in progress."""
    return Refusal(
        "overloaded",
        "The gateway has as many connections as it may have. Send the call again later.",
        retry_after=_RETRY_SECONDS,
    )


def _full_answer() -> bytes:
    refusal = full()
    body = refusal.body()
    fields = {
        **refusal.headers(),
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
    }
    lines = ["HTTP/1.1 503 ", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


_FULL_ANSWER: Final = _full_answer()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _accept(listening: socket.socket) -> socket.socket | None:
    """The next connection of the kernel's queue, None if there is none; raises ``OSError``."""
    # Instances share the socket and so its flags: systemd clears O_NONBLOCK when it starts another
    # one whose unit lacks NonBlocking=yes, and an accept that blocks would stop this one.
    listening.setblocking(False)
    while True:
        try:
            client, _ = listening.accept()
        except BlockingIOError:
            return None
        except ConnectionError:
            continue  # this client has gone; the next may be there
        client.setblocking(False)
        return client


def _open_spare() -> int | None:
    """A descriptor to be given up when no other is left; None if there is none."""
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
