"""All SQL: one query a file, and the schemas that ``image-gateway schema`` prints.

``daemon`` and ``control`` hold the queries, ``planes`` and ``roles`` the schemas.  ``parts`` holds
what several planes have in common; a schema includes it as psql does, by a line that begins with
its command ``ir``.
"""

import re
from functools import cache
from importlib import resources
from typing import Final

SCHEMAS: Final = (
    "standalone",
    "llm_access",
    "llm_access_notify",
    "reader",
)
"""What ``image-gateway schema`` prints."""

_ROLES: Final = frozenset({"reader"})
_INCLUDE: Final = re.compile(r"^\\ir \.\./(parts/\w+)\.sql\n", re.MULTILINE)


@cache
def query(name: str) -> str:
    """The query in a file, such as ``daemon/key``."""
    return _text(name)


@cache
def schema(name: str) -> str:
    """One of ``SCHEMAS``, with its parts; Postgres takes it as one script."""
    folder = "roles" if name in _ROLES else "planes"
    return _INCLUDE.sub(lambda line: _text(line[1]), _text(f"{folder}/{name}"))


def _text(name: str) -> str:
    return resources.files(__name__).joinpath(f"{name}.sql").read_text("utf-8")
