"""The interface to systemd: inherited sockets, state notifications and the watchdog
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
    """The listening sockets that systemd passed to this process, and not to its parent."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environment.get("LISTEN_FDS", "0"))
    listeners = [socket.socket(fileno=_FIRST_SOCKET + index) for index in range(count)]
    for listener in listeners:
        listener.setblocking(False)
        listener.set_inheritable(False)
    return listeners


def notify(environment: Mapping[str, str], state: str) -> None:
    """Send ``state``, for instance ``READY=1``, to systemd; an error is logged and not raised."""
    address = environment.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)  # a busy systemd must not block the event loop
        try:
            channel.sendto(state.encode(), address)
        except OSError as error:
            _log.warning("cannot send %s to NOTIFY_SOCKET: %s", state, error.strerror)


async def keep_watchdog(environment: Mapping[str, str], status: Callable[[], str]) -> None:
    """Notify the watchdog, three times in each of its intervals, until cancelled.

    Each notification carries ``status()``, one line for ``systemctl status``.  Returns at once if
    the watchdog is off or watches another process.
    """
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    microseconds = int(environment.get("WATCHDOG_USEC", "0"))
    if microseconds <= 0:
        return
    while True:
        notify(environment, f"WATCHDOG=1\nSTATUS={status()}")
        await asyncio.sleep(microseconds / 1e6 / 3)
