"""``image-gateway control``: the standalone control plane's keys, groups, accounts and usage."""

import argparse
from typing import Any


def add_command(commands: "argparse._SubParsersAction[Any]") -> None:
    """Put ``control`` on the command line."""
