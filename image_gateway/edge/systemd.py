"""What systemd gives and wants: inherited sockets, word of our state, and a sign of life
(sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3)).  Without systemd they do nothing.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Final

_FIRST_SOCKET: Final = 3

_log = logging.getLogger(__name__)


def inherited_sockets(environment: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets that were passed to this very process."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environment.get("LISTEN_FDS", "0"))
    found = [socket.socket(fileno=_FIRST_SOCKET + index) for index in range(count)]
    for item in found:
        item.setblocking(False)
        item.set_inheritable(False)
    return found


def notify(environment: Mapping[str, str], state: str) -> None:
    """Tell the supervisor, for instance ``READY=1``; one that is gone is no reason to fail."""
    address = environment.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)  # a supervisor that is busy must not hold up the event loop
        try:
            channel.sendto(state.encode(), address)
        except OSError as error:
            _log.warning("the supervisor cannot be told %s: %s", state, error.strerror)


async def keep_watchdog(environment: Mapping[str, str], status: Callable[[], str]) -> None:
    """Say that the event loop turns, three times in the supervisor's interval; until cancelled.

    Each time with ``status``, a line for ``systemctl status``.  Returns at once where nobody
    watches this very process.
    """
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    microseconds = int(environment.get("WATCHDOG_USEC", "0"))
    if microseconds <= 0:
        return
    while True:
        notify(environment, f"WATCHDOG=1\nSTATUS={status()}")
        await asyncio.sleep(microseconds / 1e6 / 3)
