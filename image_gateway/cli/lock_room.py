"""What ``image-gateway check`` says of the server's lock table: how many calls have room in it."""

import asyncio
from typing import Final

from image_gateway.cli.output import say
from image_gateway.config import Settings
from image_gateway.core.routing import lock_table
from image_gateway.core.routing.lock_names import LockKind
from image_gateway.edge.postgres import contract
from image_gateway.edge.postgres.cache import UnavailableError

_FEW_CALLS: Final = 200
"""What one instance is made for; fewer are worth a warning."""


def check(settings: Settings) -> None:
    """Say how many calls can be counted over all processes."""
    if settings.slots != "shared":
        return
    try:
        size = asyncio.run(contract.lock_table_size(settings.direct_database_url))
    except UnavailableError as error:
        say(f"warning: the size of Postgres's lock table cannot be read: {error}")
        return
    budget = lock_table.budget(size)
    calls = budget // len(LockKind)
    told = (
        f"Postgres's lock table holds {size} locks, of which the gateways take up to {budget}: "
        f"enough for {calls} calls at once, each with a lock for its account, its key and its owner"
    )
    if calls < _FEW_CALLS:
        say(
            f"warning: {told}. Beyond that each process counts by itself; raise "
            "max_locks_per_transaction"
        )
    else:
        say(f"ok: {told}")
