"""All SQL: one query a file, and the schemas that ``image-gateway schema`` prints.

``daemon`` and ``control`` hold the queries, ``planes`` and ``roles`` the schemas.  ``parts`` holds
what several planes have in common; a schema includes it as psql does, by a line that begins with
its command ``ir``.
"""

import re
from functools import cache
from importlib import resources
from typing import Final

ADAPTERS: Final = ("llm_access", "sub2api", "codex_lb", "cliproxyapi", "new_api", "litellm")
"""The control planes of others; each has its views, and files that notify and that uninstall."""

PLANES: Final = ("standalone", *ADAPTERS)

ROLES: Final = ("reader", "charger")

SCHEMAS: Final = (
    *PLANES,
    *(f"{name}_notify" for name in ADAPTERS),
    *(f"{name}_uninstall" for name in ADAPTERS),
    *ROLES,
)
"""What ``image-gateway schema`` prints."""

_INCLUDE: Final = re.compile(r"^\\ir \.\./(parts/\w+)\.sql\n", re.MULTILINE)


@cache
def query(name: str) -> str:
    """The query in a file, such as ``daemon/key``."""
    return _text(name)


@cache
def schema(name: str, plane: str | None = None) -> str:
    """One of ``SCHEMAS``, with its parts; Postgres takes it as one script.

    ``plane``: for ``charger`` alone, whose calls it charges.
    """
    if name == "charger":
        own_tables = "image_control" if plane == "standalone" else "image_adapter"
        return _text("roles/charger").format(own_tables=own_tables, plane=plane)
    folder = "roles" if name in ROLES else "planes"
    return _INCLUDE.sub(lambda line: _text(line[1]), _text(f"{folder}/{name}"))


def _text(name: str) -> str:
    return resources.files(__name__).joinpath(f"{name}.sql").read_text("utf-8")
