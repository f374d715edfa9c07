"""What every dialect speaks of: the call to send, the gap that keeps it from being sent."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from image_gateway.core.body import Body


@dataclass(frozen=True, slots=True)
class Gap:
    """A wish that a dialect cannot fulfil: the parameter, and what would work instead."""

    param: str
    advice: str


@dataclass(frozen=True, slots=True)
class Call:
    """One POST to an upstream; headers and body hold secrets and are never shown."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: Body = field(repr=False)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the settings say where an account says nothing."""

    codex_base_url: str
    codex_client_version: str


def join(base_url: str, path: str) -> str:
    """``base_url`` with ``path`` behind its own path, and its query kept."""
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, fragment=""))
