"""The control-plane contract and its adapters, as named files of SQL."""

from functools import cache
from importlib import resources
from typing import Final

ADAPTERS: Final = ("standalone", "llm_access", "llm_access_notify", "reader")
"""What ``image-gateway schema`` prints."""


@cache
def text(name: str) -> str:
    """The SQL of ``NAME.sql``."""
    return resources.files(__name__).joinpath(f"{name}.sql").read_text("utf-8")
