"""The standalone control plane's own tables, read and written for the command line.

It uses the schema ``image_control`` over ADMIN_DATABASE_URL and is not part of the daemon: a
command may wait, so the connection is a blocking one, though nothing waits for ever.  Each change
is one transaction, which locks the row from the read to the write.  The tables' triggers notify
running gateways.

It has no policy: its callers decide what a row may hold (``core.model``) and what a call costs
(``core.records.charges``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from image_gateway import sql
from image_gateway.core.model import Secret
from image_gateway.core.records.charges import Charge
from image_gateway.core.rows import RowError
from image_gateway.edge.postgres import connections
from image_gateway.edge.postgres.contract import first_line

SCHEMA_VERSION: Final = 3
CURE: Final = 'Run `image-gateway schema standalone | psql "$ADMIN_URL"`; it may be run again'
KEEP_DAYS: Final = 400
"""How long a charge is kept, to recognise its call; an older call is never charged."""
LOCK_SECONDS: Final = 30
"""The longest wait for a row that another transaction holds; a batch is charged in milliseconds."""
STATEMENT_SECONDS: Final = 300
"""The longest for one statement; the slowest deletes a year of old charges."""

TableRow = dict[str, Any]
_CheckNames = Callable[[Mapping[str, Any], TableRow], None]
"""Checks that the names in a row exist; takes the row before the change and after it."""


class UnusableError(Exception):
    """The standalone control plane cannot be used; the message says what to do."""


class NotThereError(LookupError):
    """No row of that name exists; the message names it."""


class TakenError(Exception):
    """A row of that name exists already; nothing was changed."""


class InUseError(Exception):
    """Other rows need the row to be removed; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Charged:
    """The sums that a batch charged to one key; ``old_calls`` were refused as too old."""

    key_id: str
    calls: int
    tokens: int
    images: int
    old_calls: int


class Standalone:
    """The tables, over one connection; ``connected`` translates the errors of Postgres."""

    def __init__(self, connection: psycopg.Connection[TableRow]) -> None:
        self._connection = connection

    def __repr__(self) -> str:
        return f"<Standalone {self._connection.info.transaction_status.name}>"

    # -- keys ------------------------------------------------------------------------------------

    def list_keys(self, group_id: str | None = None) -> list[TableRow]:
        """All keys, or those of a group."""
        return self._query("keys", {"group_id": group_id})

    def key(self, key_id: str) -> TableRow:
        """One key; raises ``NotThereError``."""
        return self._row("key", key_id)

    def add_key(self, row: TableRow) -> TableRow:
        """Add a key; raises ``TakenError``, or ``NotThereError`` for its group and accounts."""
        return self._add("key", row, self._check_names)

    def change_key(self, key_id: str, change: Callable[[TableRow], TableRow]) -> TableRow:
        """Write what ``change`` makes of a key's row; raises as ``key`` and ``add_key`` do."""
        return self._change("key", key_id, change, self._check_names)

    def remove_key(self, key_id: str) -> TableRow:
        """Remove a key and give its last row; raises ``NotThereError``.  Its charges stay."""
        return self._remove("key", key_id)

    def _check_names(self, before: Mapping[str, Any], row: TableRow) -> None:
        """Refuse a group or account that does not exist: the key would serve nothing, silently.

        Names that the key had before are not checked: a key whose account is gone can be disabled.
        """
        if row["group_id"] not in (None, before.get("group_id")):
            self.group(row["group_id"])
        old_names = before.get("account_names") or []
        names = [name for name in row["account_names"] or [] if name not in old_names]
        missing = self._query("missing_accounts", {"account_names": names})
        if missing:
            raise NotThereError(
                f"there is no account {', '.join(account['name'] for account in missing)}"
            )

    # -- groups ----------------------------------------------------------------------------------

    def list_groups(self) -> list[TableRow]:
        """All groups, each with the number of its ``keys``."""
        return self._query("groups")

    def group(self, group_id: str) -> TableRow:
        """One group; raises ``NotThereError``."""
        return self._row("group", group_id)

    def add_group(self, row: TableRow) -> TableRow:
        """Add a group; raises ``TakenError``."""
        return self._add("group", row)

    def change_group(self, group_id: str, change: Callable[[TableRow], TableRow]) -> TableRow:
        """Write what ``change`` makes of a group's row; raises ``NotThereError``."""
        return self._change("group", group_id, change)

    def remove_group(self, group_id: str) -> TableRow:
        """Remove a group and give its last row; raises ``NotThereError``, and ``InUseError``
        while keys belong to it.
        """
        try:
            return self._remove("group", group_id)
        except psycopg.errors.ForeignKeyViolation:
            # Checked by Postgres: a query before would miss a key that is just being added.
            raise InUseError(
                f"keys belong to group {group_id}: `group show` lists them; move them with `key "
                "group`, or remove them"
            ) from None

    # -- accounts --------------------------------------------------------------------------------

    def list_accounts(self) -> list[TableRow]:
        """All accounts, with their secrets."""
        return self._query("accounts")

    def account(self, name: str) -> TableRow:
        """One account, with its secrets; raises ``NotThereError``."""
        return self._row("account", name)

    def add_account(self, row: TableRow) -> TableRow:
        """Add an account; raises ``TakenError``."""
        return self._add("account", row)

    def change_account(self, name: str, change: Callable[[TableRow], TableRow]) -> TableRow:
        """Write what ``change`` makes of an account's row; raises ``NotThereError``."""
        return self._change("account", name, change)

    def remove_account(self, name: str) -> TableRow:
        """Remove an account and give its last row; raises ``NotThereError``."""
        return self._remove("account", name)

    # -- charges ---------------------------------------------------------------------------------

    def is_charged(self, digest: str) -> bool:
        """Whether a file was charged to its end."""
        [row] = self._query("is_file_charged", {"digest": digest})
        return row["is_charged"] is True

    def charge(self, charges: Sequence[Charge]) -> list[Charged]:
        """Charge calls to their keys, each call once, in one transaction.

        A key that does not exist is not in the result.
        """
        with self._transaction():
            key_ids = sorted({charge.key_id for charge in charges})
            held = {row["key_id"] for row in self._query("hold_keys", {"key_ids": key_ids})}
            chargeable = [charge for charge in charges if charge.key_id in held]
            rows = self._query(
                "charge",
                {
                    "request_ids": [charge.request_id for charge in chargeable],
                    "key_ids": [charge.key_id for charge in chargeable],
                    "tokens": [charge.tokens for charge in chargeable],
                    "images": [charge.images for charge in chargeable],
                    "called_at": [charge.called_at for charge in chargeable],
                    "keep_days": KEEP_DAYS,
                },
            )
        return [Charged(**row) for row in rows]

    def note_charged(self, digest: str, file_name: str) -> None:
        """Note that a file was charged to its end, so that it is not read again."""
        self._execute("file_charged", {"digest": digest, "file_name": file_name})

    def newest_charged_file(self) -> str | None:
        """The name of the newest sealed file that was charged to its end, on any machine."""
        [row] = self._query("newest_charged_file")
        name: str | None = row["file_name"]
        return name

    def forget_charges(self) -> None:
        """Delete the charges of calls that are too old to be charged again."""
        self._execute("forget_charges", {"keep_days": KEEP_DAYS})

    # -- queries ---------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises ``UnusableError`` if the tables are missing or older than this program."""
        message = f"the database lacks the standalone tables, or has an older version. {CURE}"
        try:
            [row] = self._query("version")
        except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
            raise UnusableError(message) from None
        if row["version"] < SCHEMA_VERSION:
            raise UnusableError(message)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._connection.transaction():
            timeouts = {"lock_ms": LOCK_SECONDS * 1000, "statement_ms": STATEMENT_SECONDS * 1000}
            self._execute("timeouts", timeouts)
            yield

    def _add(self, kind: str, row: TableRow, check_names: _CheckNames | None = None) -> TableRow:
        with self._transaction():
            if check_names is not None:
                check_names({}, row)
            if not self._query(f"add_{kind}", row):
                raise TakenError(f"{kind} {row[_NAME_COLUMNS[kind]]} exists already")
            return self._row(kind, row[_NAME_COLUMNS[kind]])

    def _change(
        self,
        kind: str,
        name: str,
        change: Callable[[TableRow], TableRow],
        check_names: _CheckNames | None = None,
    ) -> TableRow:
        with self._transaction():
            before = self._row(kind, name)
            row = change(before)
            if check_names is not None:
                check_names(before, row)
            self._query(f"change_{kind}", row)
            return row

    def _remove(self, kind: str, name: str) -> TableRow:
        with self._transaction():
            row = self._row(kind, name)
            self._query(f"remove_{kind}", row)
            return row

    def _row(self, kind: str, name: str) -> TableRow:
        rows = self._query(kind, {_NAME_COLUMNS[kind]: name})
        if not rows:
            raise NotThereError(f"there is no {kind} {name}")
        return rows[0]

    def _query(self, statement: str, values: Mapping[str, object] | None = None) -> list[TableRow]:
        return self._execute(statement, values).fetchall()

    def _execute(
        self, statement: str, values: Mapping[str, object] | None
    ) -> psycopg.Cursor[TableRow]:
        if self._connection.info.transaction_status is TransactionStatus.IDLE:
            with self._transaction():
                return self._execute(statement, values)
        plain = {
            name: Jsonb(value) if isinstance(value, dict) else value
            for name, value in (values or {}).items()
        }
        return self._connection.execute(sql.query(f"control/{statement}").encode(), plain)


_NAME_COLUMNS: Final = {"key": "key_id", "group": "group_id", "account": "account_name"}


@contextmanager
def connected(database: Secret) -> Iterator[Standalone]:
    """The tables for a block; raises ``UnusableError`` for an error of Postgres, and ``RowError``
    for a row that breaks a check of the tables.
    """
    try:
        with _connect(database) as connection:
            standalone = Standalone(connection)
            standalone.check()
            yield standalone
    except psycopg.errors.InsufficientPrivilege as error:
        raise UnusableError(
            f"the role of ADMIN_DATABASE_URL may not do this: {error.diag.message_primary}. Use a "
            "role that may write to the schema image_control, such as its owner"
        ) from None
    except psycopg.errors.CheckViolation as error:
        raise RowError(f"the row breaks the check {error.diag.constraint_name}") from None
    except psycopg.errors.LockNotAvailable:
        raise UnusableError(
            f"another transaction held the rows for more than {LOCK_SECONDS} s, and the change "
            "was not made. Look for it in pg_stat_activity and try again; `usage apply` may be "
            "run again"
        ) from None
    except psycopg.errors.QueryCanceled:
        raise UnusableError(
            f"a statement took more than {STATEMENT_SECONDS} s or was cancelled, and the change "
            "was not made. Try again; `usage apply` may be run again"
        ) from None
    except psycopg.Error as error:
        raise UnusableError(
            f"the database failed: {first_line(error, database)}. Check with `list` or `show` "
            "whether the change was made; `usage apply` may be run again"
        ) from None


def _connect(database: Secret) -> psycopg.Connection[TableRow]:
    options: dict[str, Any] = {**connections.OPTIONS, "application_name": "image-gateway control"}
    try:
        return psycopg.Connection[TableRow].connect(
            database.reveal(),
            autocommit=True,
            prepare_threshold=None,  # a transaction pooler loses prepared statements
            row_factory=dict_row,
            **options,
        )
    except UnicodeError:
        # From the resolver, for a text that cannot be a host name.
        raise UnusableError("the host name in ADMIN_DATABASE_URL is not valid") from None
    except psycopg.Error as error:
        raise UnusableError(
            f"the database cannot be reached: {first_line(error, database)}"
        ) from None
