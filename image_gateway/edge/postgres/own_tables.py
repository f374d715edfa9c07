"""The gateway's own tables in a control plane, read and written for the command line.

The standalone control plane keeps everything in them (schema ``image_control``), an adapter what
its plane lacks (schema ``image_adapter``): accounts, and for some planes keys with their groups and
owners.  Each change is one transaction, which locks the row from the read to the write.  The
tables' triggers notify running gateways.

It has no policy: its callers decide what a row may hold (``core.model``).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import psycopg

from image_gateway.edge.postgres.admin import AdminConnection, TableRow, UnusableError

SCHEMA_VERSION: Final = 4
CURE: Final = (
    'Run `image-gateway schema NAME | psql "$ADMIN_URL"` with the name of this control plane, '
    "which is `standalone` if you have no other; it may be run again"
)

_CheckNames = Callable[[Mapping[str, Any], TableRow], None]
"""Checks that the names in a row exist; takes the row before the change and after it."""


class NotThereError(LookupError):
    """No row of that name exists; the message names it."""


class TakenError(Exception):
    """A row of that name exists already; nothing was changed."""


class InUseError(Exception):
    """Other rows need the row to be removed; nothing was changed."""


class OwnTables:
    """The tables; raises ``UnusableError`` if they are missing or older than this program."""

    def __init__(self, admin: AdminConnection) -> None:
        self._admin = admin
        message = f"the database lacks the gateway's own tables, or has an older version. {CURE}"
        if admin.own_schema is None:
            raise UnusableError(message)
        try:
            [row] = admin.query("version")
        except psycopg.errors.UndefinedFunction:
            raise UnusableError(message) from None
        if row["version"] < SCHEMA_VERSION:
            raise UnusableError(message)
        self.has_keys = row["has_keys"] is True
        """Whether keys are among them, with their groups and owners."""

    def __repr__(self) -> str:
        return f"<OwnTables over {self._admin!r}>"

    # -- keys ------------------------------------------------------------------------------------

    def list_keys(
        self, *, group_id: str | None = None, owner_id: str | None = None
    ) -> list[TableRow]:
        """All keys, or those of a group or an owner."""
        return self._admin.query("keys", {"group_id": group_id, "owner_id": owner_id})

    def key(self, key_id: str) -> TableRow:
        """One key; raises ``NotThereError``."""
        return self._row("key", key_id)

    def add_key(self, row: TableRow) -> TableRow:
        """Add a key; raises ``TakenError``, or ``NotThereError`` for its group, owner, accounts."""
        return self._add("key", row, self._check_names)

    def change_key(self, key_id: str, change: Callable[[TableRow], TableRow]) -> TableRow:
        """Write what ``change`` makes of a key's row; raises as ``key`` and ``add_key`` do."""
        return self._change("key", key_id, change, self._check_names)

    def remove_key(self, key_id: str) -> TableRow:
        """Remove a key and give its last row; raises ``NotThereError``.  Its charges stay."""
        return self._remove("key", key_id)

    def _check_names(self, before: Mapping[str, Any], row: TableRow) -> None:
        """Refuse a group, owner or account that does not exist: the row would mislead, silently.

        Names that the key had before are not checked: a key whose account is gone can be disabled.
        """
        if row["group_id"] not in (None, before.get("group_id")):
            self.group(row["group_id"])
        if row["owner_id"] not in (None, before.get("owner_id")):
            self.owner(row["owner_id"])
        old_names = before.get("account_names") or []
        names = [name for name in row["account_names"] or [] if name not in old_names]
        missing = self._admin.query("missing_accounts", {"account_names": names})
        if missing:
            raise NotThereError(
                f"there is no account {', '.join(account['name'] for account in missing)}"
            )

    # -- groups ----------------------------------------------------------------------------------

    def list_groups(self) -> list[TableRow]:
        """All groups, each with the number of its ``keys``."""
        return self._admin.query("groups")

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
        return self._remove("group", group_id)

    # -- owners ----------------------------------------------------------------------------------

    def list_owners(self) -> list[TableRow]:
        """All owners, each with the number of its ``keys``."""
        return self._admin.query("owners")

    def owner(self, owner_id: str) -> TableRow:
        """One owner; raises ``NotThereError``."""
        return self._row("owner", owner_id)

    def add_owner(self, row: TableRow) -> TableRow:
        """Add an owner; raises ``TakenError``."""
        return self._add("owner", row)

    def change_owner(self, owner_id: str, change: Callable[[TableRow], TableRow]) -> TableRow:
        """Write what ``change`` makes of an owner's row; raises ``NotThereError``."""
        return self._change("owner", owner_id, change)

    def remove_owner(self, owner_id: str) -> TableRow:
        """Remove an owner and give its last row; raises ``NotThereError``, and ``InUseError``
        while keys belong to it.
        """
        return self._remove("owner", owner_id)

    # -- accounts --------------------------------------------------------------------------------

    def list_accounts(self) -> list[TableRow]:
        """All accounts, with their secrets."""
        return self._admin.query("accounts")

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

    # -- rows ------------------------------------------------------------------------------------

    def _add(self, kind: str, row: TableRow, check_names: _CheckNames | None = None) -> TableRow:
        with self._admin.transaction():
            if check_names is not None:
                check_names({}, row)
            if not self._admin.query(f"add_{kind}", row):
                raise TakenError(f"{kind} {row[_NAME_COLUMNS[kind]]} exists already")
            return self._row(kind, row[_NAME_COLUMNS[kind]])

    def _change(
        self,
        kind: str,
        name: str,
        change: Callable[[TableRow], TableRow],
        check_names: _CheckNames | None = None,
    ) -> TableRow:
        with self._admin.transaction():
            before = self._row(kind, name)
            row = change(before)
            if check_names is not None:
                check_names(before, row)
            self._admin.query(f"change_{kind}", row)
            return row

    def _remove(self, kind: str, name: str) -> TableRow:
        with self._admin.transaction():
            row = self._row(kind, name)
            try:
                self._admin.query(f"remove_{kind}", row)
            except psycopg.errors.ForeignKeyViolation:
                # Checked by Postgres: a query before would miss a key that is just being added.
                raise InUseError(
                    f"keys belong to {kind} {name}: `{kind} show` lists them; move them with `key "
                    f"{kind}`, or remove them"
                ) from None
            return row

    def _row(self, kind: str, name: str) -> TableRow:
        rows = self._admin.query(kind, {_NAME_COLUMNS[kind]: name})
        if not rows:
            raise NotThereError(f"there is no {kind} {name}")
        return rows[0]


_NAME_COLUMNS: Final = {
    "key": "key_id",
    "group": "group_id",
    "owner": "owner_id",
    "account": "account_name",
}


def key_tables(admin: AdminConnection) -> OwnTables:
    """The tables, where keys are among them; raises ``UnusableError``."""
    tables = OwnTables(admin)
    if not tables.has_keys:
        raise UnusableError(
            "this control plane has keys, groups and users of its own: change them there. "
            "`image-gateway control` changes the accounts in the gateway's own tables, and `usage "
            "apply` charges calls"
        )
    return tables
