"""Parts of the tests of kept calls: identities, two processes' views of one folder, a clock."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from image_gateway.edge.kept.store import KeptCalls
from tests.edge.kept.parts import NOW, Clock


@pytest.fixture
def keep_dir(tmp_path: Path) -> Path:
    """A folder that does not exist yet."""
    return tmp_path / "calls"


@pytest.fixture
def clock() -> Clock:
    """The wall clock of all stores of a test."""
    return Clock(NOW)


OpenStore = Callable[..., contextlib.AbstractAsyncContextManager[KeptCalls]]


@pytest.fixture
async def stores(keep_dir: Path, clock: Clock) -> AsyncIterator[tuple[KeptCalls, KeptCalls]]:
    """Two views of one folder.  Locks belong to one opening of a file, so two views in one process
    are to each other what two processes are.
    """
    async with (
        KeptCalls(keep_dir, 3600, 1 << 30, clock) as blue,
        KeptCalls(keep_dir, 3600, 1 << 30, clock) as green,
    ):
        await blue.sweep()  # the first ones, so that none comes by itself during the test
        await green.sweep()
        yield blue, green
