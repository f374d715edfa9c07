"""What the commands of ``control`` take and tell, in one way for all of them."""

import argparse
from typing import Any, Final

from image_gateway.cli.output import escaped

SWITCH: Final = {"on": True, "off": False}
LARGEST: Final = 2**31 - 1
"""What an ``integer`` of Postgres holds."""
LARGEST_QUOTA: Final = 2**63 - 1
"""What a ``bigint`` of Postgres holds."""
LONGEST_KEY_ID: Final = 64
"""Characters.  Of a longer id than 256 a log record holds but a part, which is never charged."""


class UsageError(ValueError):
    """What was asked for cannot be; the message says why."""


def name(text: str) -> str:
    """A name or an id: not empty, and text that a database can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("is no UTF-8") from None
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty")
    return text


def new_key_id(text: str) -> str:
    """A name for a key to come: short enough to stand whole in each of its log records, and one
    word, so that it can be typed and found there.
    """
    if len(text) > LONGEST_KEY_ID:
        raise argparse.ArgumentTypeError(f"has more than {LONGEST_KEY_ID} characters")
    found = name(text)
    if not all(sign.isprintable() and not sign.isspace() for sign in found):
        raise argparse.ArgumentTypeError("holds white space or a control character")
    return found


def names(text: str) -> list[str]:
    """Names with commas between them."""
    return [name(each.strip()) for each in text.split(",")]


def pair(text: str) -> tuple[str, str]:
    """``ONE=OTHER``, where only the other may hold a ``=``."""
    one, _, other = text.partition("=")
    if not one.strip() or not other.strip():
        raise argparse.ArgumentTypeError(f"{escaped(text)} is not of the form ONE=OTHER")
    return name(one), name(other)


def count(text: str) -> int:
    """A whole number from 0 on."""
    return _whole(text, LARGEST)


def quota(text: str) -> int:
    """The same, as large as a quota may be."""
    return _whole(text, LARGEST_QUOTA)


def _whole(text: str, largest: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= largest):
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {largest}")
    return int(text)


def add_command(
    commands: "argparse._SubParsersAction[Any]", word: str, handler: Any, purpose: str
) -> argparse.ArgumentParser:
    """A command that ``handler`` does, with ``--json``."""
    made: argparse.ArgumentParser = commands.add_parser(word, help=purpose, description=purpose)
    made.add_argument("--json", action="store_true", help="tell it as JSON")
    made.set_defaults(handler=handler)
    return made
