"""The arguments of ``control``'s commands, parsed in the same way by all of them."""

import argparse
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from image_gateway.cli.output import escaped

SWITCH: Final = {"on": True, "off": False}
LARGEST: Final = 2**31 - 1
"""The largest ``integer`` of Postgres."""
LARGEST_QUOTA: Final = 2**63 - 1
"""The largest ``bigint`` of Postgres."""
COST_PLACES: Final = 8
LONGEST_NEW_ID: Final = 64
"""Characters.  A log record cuts an id after 256 characters, and a cut id is never charged."""


class _NoValue(Enum):
    NO_VALUE = "none"


NO_VALUE: Final = _NoValue.NO_VALUE
"""The value of ``none``; None means that an option was not given."""


class UsageError(ValueError):
    """A command cannot be carried out as it was given; the message says why."""


def name(text: str) -> str:
    """A name or an id: not empty, and text that a database can store."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("must be valid UTF-8") from None
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def new_id(text: str) -> str:
    """The id of a new key or owner: short enough to fit whole in its log records, and one word, so
    that it can be typed and searched for.
    """
    if len(text) > LONGEST_NEW_ID:
        raise argparse.ArgumentTypeError(f"must not have more than {LONGEST_NEW_ID} characters")
    new = name(text)
    if not all(character.isprintable() and not character.isspace() for character in new):
        raise argparse.ArgumentTypeError("must not have white space or a control character")
    return new


def names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name(part.strip()) for part in text.split(",")]


def pair(text: str) -> tuple[str, str]:
    """``NAME=VALUE``, where only the value may hold a ``=``."""
    key, _, value = text.partition("=")
    if not key.strip() or not value.strip():
        raise argparse.ArgumentTypeError(f"{escaped(text)} is not of the form NAME=VALUE")
    return name(key), name(value)


def count(text: str) -> int:
    """A whole number from 0 to ``LARGEST``."""
    return _whole(text, LARGEST)


def quota(text: str) -> int:
    """A whole number from 0 to ``LARGEST_QUOTA``."""
    return _whole(text, LARGEST_QUOTA)


def _whole(text: str, largest: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= largest):
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {largest}")
    return int(text)


def dollars(text: str) -> Decimal:
    """An amount of USD, below a million millions, with up to ``COST_PLACES`` decimal places."""
    if not re.fullmatch(rf"[0-9]{{1,12}}(\.[0-9]{{1,{COST_PLACES}}})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(
            "must be an amount in USD, such as 25 or 0.50, with at most "
            f"{COST_PLACES} decimal places"
        )
    return Decimal(text)


def moment(text: str) -> datetime:
    """A time; one without an offset is UTC, a day without a time is its beginning."""
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "must be a time such as 2027-01-31 or 2027-01-31T12:00:00Z"
        ) from None
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def or_none(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Parse a value that ``none`` takes away, which gives ``NO_VALUE``."""

    def parse_or_none(text: str) -> Any:
        return NO_VALUE if text == "none" else parse(text)

    return parse_or_none


def add_command(
    commands: "argparse._SubParsersAction[Any]", command: str, handler: Any, purpose: str
) -> argparse.ArgumentParser:
    """Add a command that ``handler`` carries out, with ``--json``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        command, help=purpose, description=purpose
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(handler=handler)
    return parser
