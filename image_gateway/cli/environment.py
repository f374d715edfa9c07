"""Settings for commands, which need only one or two of them."""

import errno
import os
from pathlib import Path
from typing import Any, Final

from image_gateway import config

MOST_CHARACTERS: Final = 2**20
"""Of a file that a setting names, which may be a wrong one: a database, a device."""


def read(path: Path) -> str:
    """The text of a file that a setting names."""
    with path.open(encoding="utf-8") as file:
        text = file.read(MOST_CHARACTERS + 1)
    if len(text) > MOST_CHARACTERS:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return text.strip()


def setting(name: str) -> Any:
    """The value of one setting; None if it is unset and has no default.

    Raises ``config.SettingsError``.
    """
    return config.parse_one(os.environ, read, name)
