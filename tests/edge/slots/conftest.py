"""Rooms that share slots as processes do, and the times of an outage in small."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest

from image_gateway.core.model import Secret
from image_gateway.core.routing.slots import StartClock
from image_gateway.edge.postgres import connections
from image_gateway.edge.slots import advisory_locks, shared_slots
from image_gateway.edge.slots.broker import SlotBroker

Open = Callable[..., Coroutine[Any, Any, SlotBroker]]


@pytest.fixture
async def open_room(database: str) -> AsyncIterator[Open]:
    """Opens rooms; they share the slots of one database unless told otherwise."""
    async with AsyncExitStack() as stack:

        async def opened(url: str | None = database, most: int = 200) -> SlotBroker:
            shared = None if url is None else Secret(url)
            return await stack.enter_async_context(SlotBroker(shared, most, StartClock()))

        yield opened


@pytest.fixture
def in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times of an outage in small, in their own proportions."""
    monkeypatch.setattr(shared_slots, "RETRY_SECONDS", 0.3)
    monkeypatch.setattr(shared_slots, "SETTLE_SECONDS", 0.6)
    monkeypatch.setattr(shared_slots, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(advisory_locks, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.5)
