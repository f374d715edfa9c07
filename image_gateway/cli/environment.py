"""Settings for commands, which need one or two of them and no daemon."""

import os
from pathlib import Path
from typing import Any

from image_gateway import config


def read(path: Path) -> str:
    """A file that a setting names."""
    return path.read_text("utf-8").strip()


def setting(name: str) -> Any:
    """One setting alone, for a command that needs no more; None where nothing gives it.

    Raises ``config.SettingsError``.
    """
    return config.parse_one(os.environ, read, name)
