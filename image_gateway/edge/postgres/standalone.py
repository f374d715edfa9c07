"""The standalone control plane's own tables, read and written for the command line.

It speaks to the schema ``image_control`` over ADMIN_DATABASE_URL, and is no part of the daemon: a
command may wait, so the connection is a blocking one, though nothing waits for ever.  What is
changed is changed in one transaction, which holds the row from the look to the change.  Running
gateways hear of it by the triggers of the tables.

It knows no policy: what a row may hold was decided before (``core.model``), and what a call costs
too (``core.records.charges``).
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

SCHEMA_VERSION: Final = 2
CURE: Final = 'Run `image-gateway schema standalone | psql "$ADMIN_URL"`; it may be run again'
KEEP_DAYS: Final = 400
"""How long a charge is kept, to know its call again; an older call is never charged."""
LOCK_SECONDS: Final = 30
"""For a row that somebody else holds; to charge a batch takes milliseconds."""
STATEMENT_SECONDS: Final = 300
"""For one statement; the longest drops a year's old charges at once."""

TableRow = dict[str, Any]
_LookUp = Callable[[Mapping[str, Any], TableRow], None]
"""What holds a row's names, as they were and as they shall be, against what is there."""


class UnusableError(Exception):
    """The standalone control plane cannot be used; the message says what to do."""


class NotThereError(LookupError):
    """Nothing of that name is there; the message names it."""


class TakenError(Exception):
    """Something of that name is there already; nothing was changed."""


class InUseError(Exception):
    """What was to be removed is needed by something else; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Charged:
    """What a batch charged to one key: calls, tokens, pictures; ``old_calls`` were refused."""

    key_id: str
    calls: int
    tokens: int
    images: int
    old_calls: int


class Standalone:
    """The tables, over one connection; see ``connected`` for what Postgres may say."""

    def __init__(self, connection: psycopg.Connection[TableRow]) -> None:
        self._connection = connection

    def __repr__(self) -> str:
        return f"<Standalone {self._connection.info.transaction_status.name}>"

    # -- keys ------------------------------------------------------------------------------------

    def list_keys(self, group_id: str | None = None) -> list[TableRow]:
        """All keys, or those of a group."""
        return self._ask("control_keys", {"group_id": group_id})

    def key(self, key_id: str) -> TableRow:
        """One key; raises ``NotThereError``."""
        return self._one("control_key", f"key {key_id}", {"key_id": key_id})

    def add_key(self, row: TableRow) -> TableRow:
        """Make a key; raises ``TakenError``, or ``NotThereError`` for its group and accounts."""
        return self._add("key", row, self._look_up_names)

    def change_key(self, key_id: str, change: Callable[[TableRow], TableRow]) -> TableRow:
        """What ``change`` makes of a key's row; raises as ``key`` and ``add_key`` do."""
        return self._change("key", key_id, change, self._look_up_names)

    def remove_key(self, key_id: str) -> TableRow:
        """Remove a key, and give it as it was; raises ``NotThereError``.  Its charges stay."""
        return self._remove("key", key_id)

    def _look_up_names(self, before: Mapping[str, Any], row: TableRow) -> None:
        """A key may only be given what is there, or it would serve nothing and nobody would know.

        What it named before may be gone since; that is no reason not to disable it.
        """
        if row["group_id"] not in (None, before.get("group_id")):
            self.group(row["group_id"])
        known = before.get("account_names") or []
        names = [name for name in row["account_names"] or [] if name not in known]
        found = self._ask("control_missing_accounts", {"account_names": names})
        if found:
            raise NotThereError(f"there is no account {', '.join(each['name'] for each in found)}")

    # -- groups ----------------------------------------------------------------------------------

    def list_groups(self) -> list[TableRow]:
        """All groups, each with the number of its ``keys``."""
        return self._ask("control_groups")

    def group(self, group_id: str) -> TableRow:
        """One group; raises ``NotThereError``."""
        return self._one("control_group", f"group {group_id}", {"group_id": group_id})

    def add_group(self, row: TableRow) -> TableRow:
        """Make a group; raises ``TakenError``."""
        return self._add("group", row)

    def change_group(self, group_id: str, change: Callable[[TableRow], TableRow]) -> TableRow:
        """What ``change`` makes of a group's row; raises ``NotThereError``."""
        return self._change("group", group_id, change)

    def remove_group(self, group_id: str) -> TableRow:
        """Remove a group, and give it as it was; raises ``NotThereError``, and ``InUseError``
        while keys belong to it.
        """
        try:
            return self._remove("group", group_id)
        except psycopg.errors.ForeignKeyViolation:
            # The database's own word: a look before would miss a key that is just being made.
            raise InUseError(
                f"keys belong to group {group_id}: `group show` lists them; move them with `key "
                "group`, or remove them"
            ) from None

    # -- accounts --------------------------------------------------------------------------------

    def list_accounts(self) -> list[TableRow]:
        """All accounts, with their secrets."""
        return self._ask("control_accounts")

    def account(self, name: str) -> TableRow:
        """One account, with its secrets; raises ``NotThereError``."""
        return self._one("control_account", f"account {name}", {"account_name": name})

    def add_account(self, row: TableRow) -> TableRow:
        """Make an account; raises ``TakenError``."""
        return self._add("account", row)

    def change_account(self, name: str, change: Callable[[TableRow], TableRow]) -> TableRow:
        """What ``change`` makes of an account's row; raises ``NotThereError``."""
        return self._change("account", name, change)

    def remove_account(self, name: str) -> TableRow:
        """Remove an account, and give it as it was; raises ``NotThereError``."""
        return self._remove("account", name)

    # -- charges ---------------------------------------------------------------------------------

    def is_charged(self, digest: str) -> bool:
        """Whether a file was charged to its end."""
        [row] = self._ask("control_is_file_charged", {"digest": digest})
        return row["is_charged"] is True

    def charge(self, charges: Sequence[Charge]) -> list[Charged]:
        """Charge calls to their keys, those that were not yet, all or none of them.

        A key that is not there is not among the answers.
        """
        with self._transaction():
            named = sorted({charge.key_id for charge in charges})
            held = {row["key_id"] for row in self._ask("control_hold_keys", {"key_ids": named})}
            owed = [charge for charge in charges if charge.key_id in held]
            rows = self._ask(
                "control_charge",
                {
                    "request_ids": [charge.request_id for charge in owed],
                    "key_ids": [charge.key_id for charge in owed],
                    "tokens": [charge.tokens for charge in owed],
                    "images": [charge.images for charge in owed],
                    "called_at": [charge.called_at for charge in owed],
                    "keep_days": KEEP_DAYS,
                },
            )
        return [Charged(**row) for row in rows]

    def note_charged(self, digest: str, file_name: str) -> None:
        """A file was charged to its end, and is not read again."""
        self._execute("control_file_charged", {"digest": digest, "file_name": file_name})

    def newest_charged_file(self) -> str | None:
        """The name of the newest sealed file that was charged to its end, on any machine."""
        [row] = self._ask("control_newest_charged_file")
        name: str | None = row["file_name"]
        return name

    def forget_charges(self) -> None:
        """Drop the charges of calls that could not be charged again anyway."""
        self._execute("control_forget_charges", {"keep_days": KEEP_DAYS})

    # -- the wire --------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises ``UnusableError`` where the tables are missing or older than this program."""
        lacking = f"the database holds no standalone control plane of this version. {CURE}"
        try:
            [row] = self._ask("control_version")
        except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
            raise UnusableError(lacking) from None
        if row["version"] < SCHEMA_VERSION:
            raise UnusableError(lacking)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._connection.transaction():
            patience = {"lock_ms": LOCK_SECONDS * 1000, "statement_ms": STATEMENT_SECONDS * 1000}
            self._execute("control_patience", patience)
            yield

    def _add(self, kind: str, row: TableRow, look_up: _LookUp | None = None) -> TableRow:
        with self._transaction():
            if look_up is not None:
                look_up({}, row)
            if not self._ask(f"control_add_{kind}", row):
                raise TakenError(f"{kind} {row[_NAMED_BY[kind]]} is there already")
            return self._of(kind, row[_NAMED_BY[kind]])

    def _change(
        self,
        kind: str,
        name: str,
        change: Callable[[TableRow], TableRow],
        look_up: _LookUp | None = None,
    ) -> TableRow:
        with self._transaction():
            before = self._of(kind, name)
            row = change(before)
            if look_up is not None:
                look_up(before, row)
            self._ask(f"control_change_{kind}", row)
            return row

    def _remove(self, kind: str, name: str) -> TableRow:
        with self._transaction():
            row = self._of(kind, name)
            self._ask(f"control_remove_{kind}", row)
            return row

    def _of(self, kind: str, name: str) -> TableRow:
        return self._one(f"control_{kind}", f"{kind} {name}", {_NAMED_BY[kind]: name})

    def _one(self, statement: str, title: str, values: Mapping[str, object]) -> TableRow:
        rows = self._ask(statement, values)
        if not rows:
            raise NotThereError(f"there is no {title}")
        return rows[0]

    def _ask(self, statement: str, values: Mapping[str, object] | None = None) -> list[TableRow]:
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
        return self._connection.execute(sql.text(statement).encode(), plain)


_NAMED_BY: Final = {"key": "key_id", "group": "group_id", "account": "account_name"}


@contextmanager
def connected(database: Secret) -> Iterator[Standalone]:
    """The tables for a block; what Postgres says in it comes out as ``UnusableError``, and what a
    row may not hold as ``RowError``.
    """
    try:
        with _connect(database) as connection:
            standalone = Standalone(connection)
            standalone.check()
            yield standalone
    except psycopg.errors.InsufficientPrivilege as error:
        raise UnusableError(
            f"the role of ADMIN_DATABASE_URL may not do this: {error.diag.message_primary}. It has "
            "to be one that may write to the schema image_control, such as its owner"
        ) from None
    except psycopg.errors.CheckViolation as error:
        raise RowError(f"the tables refuse it: {error.diag.constraint_name}") from None
    except psycopg.errors.LockNotAvailable:
        raise UnusableError(
            f"somebody else held what this needs for more than {LOCK_SECONDS} s, and the change "
            "was not made. Look for their transaction in pg_stat_activity and try again; `usage "
            "apply` may be run again"
        ) from None
    except psycopg.errors.QueryCanceled:
        raise UnusableError(
            f"the database took more than {STATEMENT_SECONDS} s, or somebody cancelled the "
            "statement, and the change was not made. Try again; `usage apply` may be run again"
        ) from None
    except psycopg.Error as error:
        raise UnusableError(
            f"the database failed: {first_line(error, database)}. Look with `list` or `show` "
            "whether it was done; `usage apply` may be run again"
        ) from None


def _connect(database: Secret) -> psycopg.Connection[TableRow]:
    options: dict[str, Any] = {**connections.OPTIONS, "application_name": "image-gateway control"}
    try:
        return psycopg.Connection[TableRow].connect(
            database.reveal(),
            autocommit=True,
            prepare_threshold=None,  # a transaction pooler would not know them again
            row_factory=dict_row,
            **options,
        )
    except UnicodeError:
        # What the resolver makes of a host that cannot be a name.
        raise UnusableError("the host's name in ADMIN_DATABASE_URL is not one") from None
    except psycopg.Error as error:
        raise UnusableError(
            f"the database cannot be reached: {first_line(error, database)}"
        ) from None
