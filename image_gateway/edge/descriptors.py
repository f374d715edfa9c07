"""The process's limit of open files, and how many connections fit under it."""

import contextlib
import resource
from typing import Final

PER_CALL: Final = 5
"""Descriptors of one call: its client, its upstream, a file for a large request, one for the
answer, and the journal of a kept call.  While an answer goes out, a second descriptor of the client
takes the place of the upstream's.  Each further upstream call of a request for several pictures
takes two more; these need a slot each, and connections without a call take one descriptor only, so
there is room for them."""

OTHERS: Final = 96
"""What the process has open besides, in thirds: its own files and connections to Postgres (25 on a
quiet day), the ops port, and connections that are being closed for new ones."""


def limit() -> int | None:
    """How many files this process may open, None if the kernel does not say or sets no limit.

    It is the hard limit, for ``raise_limit`` goes up to it.
    """
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:  # a filter of system calls
        return None
    return None if hard == resource.RLIM_INFINITY else hard


def raise_limit() -> int | None:
    """Let this process open as many files as it may, and return their number as ``limit`` does."""
    # A kernel without a hard limit has one for each process, which only it knows (fs.nr_open).
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:
        return None
    return None if soft == resource.RLIM_INFINITY else soft


def needed(connections: int) -> int:
    """How many descriptors so many connections need, if each has a call."""
    return OTHERS + PER_CALL * connections


def fitting(connections: int, descriptors: int | None) -> int:
    """How many connections there may be with so many descriptors, at most ``connections``."""
    if descriptors is None:
        return connections
    # Below OTHERS it is not known what is left, but a port that takes nobody serves nobody.
    return max(1, min(connections, (descriptors - OTHERS) // PER_CALL))


def shortage(connections: int, descriptors: int | None) -> str | None:
    """What is wrong and what to do if so many descriptors are too few, else None."""
    fits = fitting(connections, descriptors)
    if descriptors is None or fits == connections:
        return None
    return (
        f"MAX_CONNECTIONS {connections} needs {needed(connections)} open files, and this process "
        f"may have {descriptors}: it accepts {fits} connections. Raise its limit (LimitNOFILE in "
        "the unit, ulimit -n elsewhere), or lower MAX_CONNECTIONS"
    )
