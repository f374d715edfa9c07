"""A connection that may write, for the command line alone: the daemon has none.

A command may wait, so the connection is a blocking one, though nothing waits for ever.  The errors
of Postgres become ``UnusableError`` here, with what to do.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from image_gateway import sql
from image_gateway.core.model import Secret
from image_gateway.core.rows import RowError
from image_gateway.edge.postgres import connections
from image_gateway.edge.postgres.contract import first_line

LOCK_SECONDS: Final = 30
"""The longest wait for a row that another transaction holds; a change takes milliseconds."""
STATEMENT_SECONDS: Final = 300
"""The longest for one statement; the slowest deletes a year of old charges."""

TableRow = dict[str, Any]


class UnusableError(Exception):
    """The control plane cannot be changed; the message says what to do."""


class AdminConnection:
    """One connection; ``connected`` opens it.  ``own_schema`` holds the gateway's own tables.

    ``own_schema`` is None on a control plane whose adapter has none.
    """

    def __init__(self, connection: psycopg.Connection[TableRow]) -> None:
        self._connection = connection
        self.own_schema: str | None = None
        self.own_schema = self._find_own_schema()

    def __repr__(self) -> str:
        return f"<AdminConnection {self._connection.info.transaction_status.name}>"

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One transaction, whose statements find the own tables by their bare names."""
        with self._connection.transaction():
            settings = {
                "lock_ms": LOCK_SECONDS * 1000,
                "statement_ms": STATEMENT_SECONDS * 1000,
                "own_schema": self.own_schema or "pg_catalog",
            }
            self.execute("begin", settings)
            yield

    def query(self, statement: str, values: Mapping[str, object] | None = None) -> list[TableRow]:
        """The rows of one of the files in ``sql/control``."""
        return self.execute(statement, values).fetchall()

    def execute(
        self, statement: str, values: Mapping[str, object] | None = None
    ) -> psycopg.Cursor[TableRow]:
        """Run one of the files in ``sql/control``, in a transaction of its own outside of one."""
        if self._connection.info.transaction_status is TransactionStatus.IDLE:
            with self.transaction():
                return self.execute(statement, values)
        return self._run(statement, values)

    def execute_alone(
        self, statement: str, values: Mapping[str, object]
    ) -> psycopg.Cursor[TableRow]:
        """Run a file that sets what it needs itself: one round trip instead of four."""
        return self._run(statement, values)

    def _run(self, statement: str, values: Mapping[str, object] | None) -> psycopg.Cursor[TableRow]:
        plain = {
            name: Jsonb(value) if isinstance(value, dict) else value
            for name, value in (values or {}).items()
        }
        return self._connection.execute(sql.query(f"control/{statement}").encode(), plain)

    def _find_own_schema(self) -> str | None:
        try:
            [row] = self.query("own_schema")
        except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
            return None
        if row["may_use"] is not True:
            raise _refused(f"permission denied for schema {row['own_schema']}")
        schema: str = row["own_schema"]
        return schema


@contextmanager
def connected(database: Secret) -> Iterator[AdminConnection]:
    """A connection for a block; raises ``UnusableError`` for an error of Postgres, and ``RowError``
    for a row that the tables refuse.
    """
    try:
        with _connect(database) as connection:
            yield AdminConnection(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        raise _refused(error.diag.message_primary) from None
    except psycopg.errors.CheckViolation as error:
        raise RowError(f"the row breaks the check {error.diag.constraint_name}") from None
    except psycopg.errors.UniqueViolation as error:
        # From a trigger of an adapter: a name that is kept for an account of the control plane.
        raise RowError(error.diag.message_primary) from None
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


def _refused(reason: str | None) -> UnusableError:
    return UnusableError(
        f"the role of ADMIN_DATABASE_URL may not do this: {reason}. Use a role that may write to "
        "the gateway's own tables, such as their owner; for `usage apply` the role "
        "image_gateway_charger is enough"
    )


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
