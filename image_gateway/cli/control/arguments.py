"""The arguments of ``control``'s commands, parsed in the same way by all of them."""

import argparse
from typing import Any, Final

from image_gateway.cli.output import escaped

SWITCH: Final = {"on": True, "off": False}
LARGEST: Final = 2**31 - 1
"""The largest ``integer`` of Postgres."""
LARGEST_QUOTA: Final = 2**63 - 1
"""The largest ``bigint`` of Postgres."""
LONGEST_KEY_ID: Final = 64
"""Characters.  A log record cuts an id after 256 characters, and a cut id is never charged."""


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


def new_key_id(text: str) -> str:
    """The id of a new key: short enough to fit whole in its log records, and one word, so that it
    can be typed and searched for.
    """
    if len(text) > LONGEST_KEY_ID:
        raise argparse.ArgumentTypeError(f"must not have more than {LONGEST_KEY_ID} characters")
    key_id = name(text)
    if not all(character.isprintable() and not character.isspace() for character in key_id):
        raise argparse.ArgumentTypeError("must not have white space or a control character")
    return key_id


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
