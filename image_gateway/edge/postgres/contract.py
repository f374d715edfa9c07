"""Checks a control plane against the contract before the gateway accepts requests.

``check`` reads the control plane's database: the contract's version, the views and their columns,
what the role could write, each account's row.  ``is_pooled`` checks the connection that carries
LISTEN and the slots' locks.  ``image-gateway check`` and ``serve`` use both, and ``check`` asks how
many locks that server has room for.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, cast

import psycopg
from psycopg.conninfo import conninfo_to_dict

from image_gateway import sql
from image_gateway.core.dialects import DIALECTS
from image_gateway.core.encrypted import WITHOUT_KEY, Keyring
from image_gateway.core.model import Account, Secret
from image_gateway.core.routing import ranking
from image_gateway.core.routing.budget import Budgets
from image_gateway.core.routing.cooldowns import CooldownTracker
from image_gateway.core.routing.outliers import OutlierTracker
from image_gateway.core.routing.retirement import NamedByKeys
from image_gateway.core.rows import RowError, ViewRow, account_from_row
from image_gateway.edge.postgres import connections, pooler
from image_gateway.edge.postgres.cache import LOAD_SECONDS, UnavailableError

CONTRACT_VERSION: Final = 2
"""The version that this gateway knows; what an older one lacks counts as null."""
_OLDEST_VERSION: Final = 1
POOLED: Final = (
    "DIRECT_DATABASE_URL leads through a transaction pooler, where LISTEN receives nothing and "
    "locks are never released. Set IMAGE_GATEWAY_DIRECT_DATABASE_URL to Postgres itself or to a "
    "pooler in session mode; CONTROL_DATABASE_URL can stay unchanged"
)


class ContractError(Exception):
    """Postgres answers but does not hold the contract; the message says what to do."""


async def is_pooled(direct: Secret) -> bool:
    """Whether DIRECT_DATABASE_URL leads through a transaction pooler; raises
    ``UnavailableError``.
    """
    try:
        return await pooler.is_pooled(direct)
    except (psycopg.Error, OSError, TimeoutError) as error:
        raise UnavailableError(first_line(error, direct)) from error


async def lock_table_size(direct: Secret) -> int:
    """How many locks the server has room for; raises ``UnavailableError``."""
    try:
        async with (
            asyncio.timeout(LOAD_SECONDS),
            connections.connected(direct, autocommit=False) as connection,
        ):
            [row] = await _rows(connection, "lock_table")
    except (psycopg.Error, OSError, TimeoutError) as error:
        raise UnavailableError(first_line(error, direct)) from error
    return cast("int", row["size"])


@dataclass(frozen=True, slots=True)
class Findings:
    """What ``check`` found in a usable control plane: messages for an operator, and the accounts
    whose rows keep the contract, idle ones too.

    ``version`` is that of its contract, ``warnings`` what its adapter says that its views cannot
    see.
    """

    version: int
    warnings: tuple[str, ...]
    accounts: int
    sound_accounts: tuple[Account, ...]
    broken_accounts: tuple[str, ...]
    idle_accounts: tuple[str, ...]
    doubtful_accounts: tuple[str, ...]
    writable: tuple[str, ...]


async def check(database: Secret, keyring: Keyring = WITHOUT_KEY) -> Findings:
    """Check the control plane's contract, role and accounts, whose credentials ``keyring`` opens.

    Raises ``ContractError`` if the contract is missing or incomplete, and ``UnavailableError`` if
    Postgres does not answer.
    """
    try:
        async with (
            asyncio.timeout(LOAD_SECONDS),
            connections.connected(database, autocommit=False) as connection,
        ):
            version = await _check_contract(connection)
            warnings = await _warnings(connection)
            rows = await _rows(connection, "accounts")
            writable = tuple(str(row["finding"]) for row in await _rows(connection, "writable"))
    except (psycopg.Error, OSError, TimeoutError) as error:
        raise UnavailableError(first_line(error, database)) from error
    sound, broken, idle, doubtful = [], [], [], []
    for row in rows:
        try:
            account = account_from_row(row, keyring)
        except RowError as error:
            broken.append(f"account {row.get('account_name')}: {error}")
        else:
            sound.append(account)
            name, condition = account.account_name, ranking.condition(account, _untouched())
            if condition not in ranking.SERVING:
                idle.append(f"account {name} serves no call: {condition}{_detail(account)}")
            doubts = DIALECTS[account.dialect].doubts(account)
            doubtful += [f"account {name}: {doubt}" for doubt in doubts]
    return Findings(
        version,
        warnings,
        len(rows),
        tuple(sound),
        tuple(broken),
        tuple(idle),
        tuple(doubtful),
        writable,
    )


def _detail(account: Account) -> str:
    """What an operator needs beside the condition: the control plane's own word or time."""
    if account.status != "active":
        return f" (status {account.status or 'null'})"
    blocked = account.blocked_until
    if blocked is not None and blocked > datetime.now(UTC):
        return f" (blocked until {blocked.astimezone(UTC):%Y-%m-%d %H:%M} UTC)"
    return ""


async def models_of_keys(database: Secret, models: Sequence[str]) -> list[NamedByKeys]:
    """Which of ``models``, under any of their names, active keys name.

    Reads all keys.  Raises ``UnavailableError``.
    """
    patterns = [f"%{model}%" for model in models]
    try:
        async with (
            asyncio.timeout(LOAD_SECONDS),
            connections.connected(database, autocommit=False) as connection,
        ):
            rows = await _rows(connection, "models_of_keys", {"patterns": patterns})
    except (psycopg.Error, OSError, TimeoutError) as error:
        raise UnavailableError(first_line(error, database)) from error
    return [
        NamedByKeys(str(row["model"]), cast("int", row["keys"]), str(row["key_id"])) for row in rows
    ]


def _untouched() -> ranking.State:
    """The state of a gateway before its first call."""
    return ranking.State(
        lambda _: 0, CooldownTracker(), OutlierTracker(), Budgets(), 100.0, 0.0, datetime.now(UTC)
    )


def first_line(error: BaseException, database: Secret) -> str:
    """The first line of an error of libpq or Postgres, with the URL's password redacted."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    password = conninfo_to_dict(database.reveal()).get("password")
    return line.replace(str(password), "[redacted]") if password else line


async def _check_contract(connection: connections.AsyncConnection) -> int:
    """The version of the contract; raises ``ContractError``."""
    cure = (
        "`image-gateway schema standalone` (or another control plane's name, see `image-gateway "
        "schema --help`) prints the SQL to run on the control plane's database, `image-gateway "
        "schema reader` the SQL of the daemon's role."
    )
    try:
        cursor = await connection.execute(b"SELECT image_gateway.contract_version() AS version")
        row = await cursor.fetchone()
        version = row["version"] if isinstance(row, dict) else None
        if not isinstance(version, int) or version < _OLDEST_VERSION:
            shown = "null" if version is None else version
            raise ContractError(
                f"The control plane has contract version {shown}; this gateway needs "
                f"{_OLDEST_VERSION} or later. {cure}"
            )
        await _rows(connection, "key", {"key_hash": ""})
        await _rows(connection, "accounts")
    except psycopg.errors.InsufficientPrivilege:
        raise ContractError(
            "The role of CONTROL_DATABASE_URL may not read the control plane's contract (schema "
            "image_gateway). `image-gateway schema reader` prints the SQL of a role that may."
        ) from None
    except (
        psycopg.errors.UndefinedFunction,
        psycopg.errors.InvalidSchemaName,
        psycopg.errors.UndefinedTable,
    ):
        raise ContractError(
            f"The database lacks the image gateway's contract (schema image_gateway). {cure}"
        ) from None
    except psycopg.errors.UndefinedColumn as error:
        # "column x does not exist": the name comes from the contract and is not secret.
        raise ContractError(
            f"The control plane's contract is incomplete: {error.diag.message_primary}. {cure}"
        ) from None
    return version


async def _warnings(connection: connections.AsyncConnection) -> tuple[str, ...]:
    """What the adapter says, if it says anything and the role may read it."""
    try:
        async with connection.transaction():
            return tuple(str(row["warning"]) for row in await _rows(connection, "warnings"))
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return ()


async def _rows(
    connection: connections.AsyncConnection,
    name: str,
    values: Mapping[str, object] | None = None,
) -> list[ViewRow]:
    cursor = await connection.execute(sql.query(f"daemon/{name}").encode(), values)
    return connections.rows(await cursor.fetchall())
