"""``image-gateway logs``: what the log records tell."""

import argparse
from typing import Any


def add_command(commands: "argparse._SubParsersAction[Any]") -> None:
    """Put ``logs`` on the command line."""
