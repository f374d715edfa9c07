"""Which names the ops port answers to: a defence against DNS rebinding.

A page of the web can let its own name lead to 127.0.0.1, and then read what answers there as if it
came from the page's own site; the ``Host`` header still has that name.  Whoever owns such a name
owns a domain of the public DNS, so the name has a dot.  So three kinds of hosts are sound: IP
addresses, which are no names; names without a dot (``localhost``, a service of Docker Compose,
Prometheus's short host names), which the public DNS does not have; and the machine's own full name.
"""

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import Collection
from typing import Final

from image_gateway.setting_values import Address

_LOOKUP_SECONDS: Final = 2.0
_PORT: Final = re.compile(r":\d{0,5}\Z", re.ASCII)
_ADDRESS: Final = re.compile(r"\[([^\]]*)\]\Z")


async def own_names(bind: Address) -> frozenset[str]:
    """The machine's names, for a port that other machines reach at ``bind``; none for one they
    cannot.

    The full name may have to be asked from DNS; what takes long is done without.
    """
    if _is_loopback(bind[0]):
        return frozenset()
    names = {bind[0], socket.gethostname()}
    with contextlib.suppress(OSError, UnicodeError, TimeoutError):
        async with asyncio.timeout(_LOOKUP_SECONDS):
            names.add(await asyncio.to_thread(socket.getfqdn))
    return frozenset(_plain(name) for name in names)


def is_own(host: str | None, names: Collection[str]) -> bool:
    """Whether a request with this ``Host`` header is meant for this port.

    Without the header it is: every browser sends one.
    """
    if host is None:
        return True
    name = _plain(_PORT.sub("", host.strip()))
    address = _ADDRESS.fullmatch(name)
    return "." not in name or name in names or _is_address(address[1] if address else name)


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
