"""What running gateways hear of a control plane."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.parts.eventually import BOUND_SECONDS
from tests.parts.plane import Plane


@contextmanager
def listening(plane: Plane) -> Iterator[list[str]]:
    """What running gateways were told within the block, once it is over."""
    told: list[str] = []
    with psycopg.connect(plane.url, autocommit=True) as listener:
        listener.execute("LISTEN image_gateway_changed")
        yield told
        listener.execute("NOTIFY image_gateway_changed, 'the end'")
        for each in listener.notifies(timeout=BOUND_SECONDS):
            if each.payload == "the end":
                return
            told.append(each.payload)
    pytest.fail("the end was never told")
