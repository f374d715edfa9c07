"""Parts of the tests of kept calls: identities, two processes' views of one folder, a clock."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from image_gateway.edge.kept.store import KeptCalls
from tests.edge.kept.parts import NOW, Clock, opened


@pytest.fixture
def keep_dir(tmp_path: Path) -> Path:
    """A folder that does not exist yet."""
    return tmp_path / "calls"


@pytest.fixture
def clock() -> Clock:
    """The wall clock of all stores of a test."""
    return Clock(NOW)


@pytest.fixture
async def stores(keep_dir: Path, clock: Clock) -> AsyncIterator[tuple[KeptCalls, KeptCalls]]:
    """Two views of one folder.  Locks belong to one opening of a file, so two views in one process
    are to each other what two processes are.
    """
    async with opened(keep_dir, clock) as blue, opened(keep_dir, clock) as green:
        yield blue, green
