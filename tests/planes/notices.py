"""What a database tells its listeners."""

import psycopg

from tests.parts.eventually import BOUND_SECONDS
from tests.parts.plane import Plane

_END = "the end"


def heard(plane: Plane, statement: str, url: str | None = None) -> list[str]:
    """The payloads that a gateway hears of a statement, which runs as the role of ``url``."""
    with psycopg.connect(plane.url, autocommit=True) as listener:
        listener.execute("LISTEN image_gateway_changed")
        with psycopg.connect(url or plane.url, autocommit=True) as writer:
            writer.execute(statement.encode())
        plane.execute(f"NOTIFY image_gateway_changed, '{_END}'")
        payloads: list[str] = []
        for notification in listener.notifies(timeout=BOUND_SECONDS):
            if notification.payload == _END:
                return payloads
            payloads.append(notification.payload)
    raise AssertionError(f"the end was not heard after: {statement}")
