"""The values of settings: one parser for each kind of value.

Each takes a text of the environment or a value of the TOML file.  It raises ``ValueError`` with
what the value must be, as it goes on after the setting's name, and never repeats the value.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from image_gateway.core.headers import Network, is_sendable
from image_gateway.core.model import HTTP_SCHEMES, Secret
from image_gateway.core.records import prices
from image_gateway.core.records.prices import Price
from image_gateway.core.request import catalogue
from image_gateway.core.rows import require_url

Address = tuple[str, int]
"""A host and a port."""

_SIZE: Final = re.compile(r"(\d+)\s*(B|KB|MB|GB|KiB|MiB|GiB)?", re.ASCII)
_UNITS: Final = {
    None: 1,
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}


def parse_text(value: object) -> str:
    """A text that is not empty, without the space around it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be text and not empty")
    return value.strip()


def parse_path(value: object) -> Path:
    """The path of a file or a folder."""
    return Path(parse_text(value))


def parse_database(value: object) -> Secret:
    """A connection string of Postgres, as a URL or for libpq."""
    text = parse_text(value)
    try:
        conninfo_to_dict(text)
    except psycopg.ProgrammingError:  # its message would quote the password
        raise ValueError("must be a postgresql:// URL or a libpq connection string") from None
    return Secret(text)


def parse_hash_key(value: object) -> Secret:
    """The key of an HMAC."""
    text = parse_text(value)
    if len(text) < 16:
        raise ValueError("must have at least 16 characters")
    return Secret(text)


def parse_size(value: object) -> int:
    """A number of bytes, as a number or with a unit."""
    match = _SIZE.fullmatch(str(value).strip()) if isinstance(value, int | str) else None
    if match is None or isinstance(value, bool):
        raise ValueError("must be a number of bytes, such as 67108864 or 64 MiB")
    size = int(match[1]) * _UNITS[match[2]]
    if size < 1:
        raise ValueError("must be above zero")
    return size


def parse_seconds(value: object) -> float:
    """A time in seconds above zero."""
    try:
        seconds = float(cast("str", value))
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a number of seconds") from None
    if isinstance(value, bool) or not 0 < seconds < float("inf"):
        raise ValueError("must be a number of seconds above zero")
    return seconds


def parse_wait(value: object) -> float:
    """A time in seconds that may be zero."""
    if isinstance(value, int | str) and str(value) == "0":
        return 0.0
    try:
        return parse_seconds(value)
    except ValueError:
        raise ValueError("must be a number of seconds, or 0") from None


def parse_count(value: object) -> int:
    """A whole number above zero."""
    try:
        count = int(cast("str", value))
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a whole number") from None
    if isinstance(value, bool | float) or count < 1:
        raise ValueError("must be a whole number above zero")
    return count


def parse_percent(value: object) -> float:
    """A share from 0 to 100."""
    try:
        percent = float(cast("str", value))
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a number from 0 to 100") from None
    if isinstance(value, bool) or not 0 <= percent <= 100:
        raise ValueError("must be a number from 0 to 100")
    return percent


def parse_address(value: object) -> Address:
    """An address to listen on; an IPv6 host is in brackets."""
    host, _, port = parse_text(value).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit()) or not 0 <= int(port) <= 65535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:19082")
    return host, int(port)


def parse_base_url(value: object) -> str:
    """An http or https URL."""
    text = parse_text(value)
    try:
        require_url(text, "the URL", HTTP_SCHEMES)
    except ValueError:
        raise ValueError(
            "must be an http or https URL without a user name or password, such as "
            "https://images.example.com"
        ) from None
    return text


def parse_origin(value: object) -> str:
    """The same without a path: scheme, host and port."""
    text = parse_base_url(value)
    parts = urlsplit(text)
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("must be scheme, host and port only, such as http://127.0.0.1:8080")
    return text


def parse_public_url(value: object) -> str:
    """The address that clients know, perhaps with a path before ``/v1``; no slash at its end."""
    text = parse_base_url(value).rstrip("/")
    parts = urlsplit(text)
    if not _PUBLIC_PATH.fullmatch(parts.path) or "?" in text or "#" in text:
        raise ValueError("must be a URL without a query, such as https://images.example.com")
    if parts.path.endswith("/v1"):
        raise ValueError("must not end with /v1, which the gateway adds itself")
    return text


_PUBLIC_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]+)*")
"""Segments that no client and no proxy rewrites."""


def parse_header_text(value: object) -> str:
    """A text that may stand in a header."""
    text = parse_text(value)
    if not is_sendable(text):
        raise ValueError("has characters that are not allowed in a header")
    return text


def _items(value: object) -> list[str]:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ValueError("must be a list of names, separated by commas")


def parse_names(value: object) -> frozenset[str]:
    """Names separated by commas, or a list of them."""
    return frozenset(_items(value))


def parse_origins(value: object) -> frozenset[str]:
    """Origins of web pages, or ``*`` alone."""
    origins = parse_names(value)
    if origins != {"*"} and not all(map(_ORIGIN.fullmatch, origins)):
        raise ValueError(
            "must be * or origins as browsers send them, such as https://app.example.com: in lower "
            "case, without a path, a slash at the end or the scheme's own port"
        )
    return origins


_ORIGIN: Final = re.compile(
    r"(?!https://.*:443\Z|http://.*:80\Z)[a-z][a-z0-9+.-]*://"
    r"(?:[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?::[1-9][0-9]{0,4})?"
)
"""RFC 6454, 6.1; apps have schemes of their own, such as chrome-extension."""


def parse_networks(value: object) -> tuple[Network, ...]:
    """Networks separated by commas, or a list of them."""
    try:
        return tuple(_unmapped(ipaddress.ip_network(item)) for item in _items(value))
    except ValueError:
        raise ValueError("must be networks, such as 127.0.0.0/8, ::1") from None


_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")


def _unmapped(network: Network) -> Network:
    """IPv4 for a network of IPv4 addresses mapped into IPv6, as peers are compared."""
    if not isinstance(network, ipaddress.IPv6Network) or not network.subnet_of(_MAPPED):
        return network
    start = int(network.network_address) - int(_MAPPED.network_address)
    return ipaddress.IPv4Network((start, network.prefixlen - _MAPPED.prefixlen))


def choice_of(*choices: str) -> Callable[[object], str]:
    """A parser for one of some words."""

    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(f"must be {' or '.join(choices)}")
        return str(value)

    return parse


def parse_models(value: object) -> Mapping[str, object]:
    """Tables of models, for the catalogue."""
    if not isinstance(value, Mapping):
        raise ValueError("must be tables in the TOML file: [models.NAME]")  # noqa: TRY004 - one kind
    _check_dots(value)
    try:
        catalogue.parse_models(value)
    except catalogue.CatalogueError as error:
        raise ValueError(f"is not valid: {error}") from None
    return value


def _check_dots(tables: Mapping[str, object]) -> None:
    """Explain what TOML makes of a name that has a dot and no quotes."""
    for outer, table in tables.items():
        for inner, value in table.items() if isinstance(table, Mapping) else ():
            if isinstance(value, Mapping):
                raise ValueError(  # noqa: TRY004 - one kind
                    f'is not valid: {outer}.{inner} is read as a table "{inner}" within "{outer}"; '
                    f'put a name with a dot in quotes: "{outer}.{inner}"'
                )


def parse_prices(value: object) -> Mapping[str, Price]:
    """Tables of the TOML file, or in the environment their JSON."""
    try:
        tables = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        tables = None
    if not isinstance(tables, Mapping):
        raise ValueError(  # noqa: TRY004 - one kind
            "must be tables in the TOML file, [prices.NAME], or a JSON object of such tables"
        )
    _check_dots(tables)
    try:
        return prices.parse(tables)
    except prices.PriceError as error:
        raise ValueError(f"is not valid: {error}") from None
