"""What the demo shows and saves, and the error that ends it."""

from pathlib import Path
from typing import Final

OUTPUT: Final = Path("demo-output")
"""The folder for pictures, log records and the gateway's state."""


class DemoError(Exception):
    """The demo cannot go on; the message is for the person who started it."""


def say(line: str) -> None:
    """Print a line at once."""
    print(f"demo: {line}", flush=True)


def save(name: str, picture: bytes) -> None:
    """Save a picture in ``OUTPUT``, and say so."""
    path = OUTPUT / name
    path.write_bytes(picture)
    say(f"  saved {path} ({len(picture)} bytes)")
