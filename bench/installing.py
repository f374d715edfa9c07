"""What the peers need, installed on demand: nginx and Caddy from Debian, LiteLLM in an environment
of its own.  What cannot be installed is named, and the run goes on without it.
"""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.peers import LITELLM, LITELLM_LOCK, ROOT, LiteLlm, MissingError, Peer

_INSTALL_SECONDS = 900.0


def usable(wanted: Iterable[Peer]) -> tuple[list[Peer], dict[str, str], dict[str, str]]:
    """The peers that are installed, now or before, the versions, and the reasons of the others."""
    found: list[Peer] = []
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    has_tried: set[type[Peer]] = set()
    for peer in wanted:
        try:
            try:
                if isinstance(peer, LiteLlm):
                    # Also where it is installed: its lock file may have changed.
                    _install(peer)
                versions[peer.name] = peer.version()
            except MissingError:
                if type(peer) in has_tried:
                    raise
                has_tried.add(type(peer))
                _install(peer)
                versions[peer.name] = peer.version()
            found.append(peer)
        except MissingError as error:
            missing[peer.name] = str(error)
    return found, versions, missing


def _install(peer: Peer) -> None:
    """Install what the peer needs; raises ``MissingError`` with the installer's last line."""
    command: Sequence[str | Path] = ["scripts/debian-packages", "bench"]
    if isinstance(peer, LiteLlm):
        command = ["scripts/venv", LITELLM.relative_to(ROOT), LITELLM_LOCK.relative_to(ROOT)]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=_INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise MissingError(f"not installed within {_INSTALL_SECONDS:.0f} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise MissingError(f"could not be installed: {lines[-1].strip()}")
