"""What systemd gives and wants: inherited sockets, and word of our state (sd_listen_fds(3),
sd_notify(3)).  Without systemd both do nothing.
"""

import logging
import os
import socket
from collections.abc import Mapping
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
