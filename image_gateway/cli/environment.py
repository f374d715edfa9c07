"""Settings for commands, which need only one or two of them."""

import os
from pathlib import Path
from typing import Any

from image_gateway import config


def read(path: Path) -> str:
    """The text of a file that a setting names."""
    return path.read_text("utf-8").strip()


def setting(name: str) -> Any:
    """The value of one setting; None if it is unset and has no default.

    Raises ``config.SettingsError``.
    """
    return config.parse_one(os.environ, read, name)
