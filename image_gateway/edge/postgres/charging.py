"""Charges calls on a control plane, over its function ``image_gateway.charge``, each call once.

A call is a transaction of its own: its key, its user and the plane's own counters are locked only
for its moment, so that neither the plane nor another run waits long or in a circle.  A call is
committed without waiting for the disk: its mark and what it changed are in one transaction, which a
crash loses as a whole, and the next run makes again.  ``note_charged`` waits, and with it the disk
has all calls before it.
"""

from enum import StrEnum
from typing import Final

import psycopg

from image_gateway.core.records.charges import Charge
from image_gateway.edge.postgres.admin import LOCK_SECONDS, AdminConnection, UnusableError

_TRIES: Final = 5
"""Of a call whose transaction Postgres ended because of another's."""
_OF_THE_PLANE: Final = (
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedTable,
)
"""Errors at every call, as after a migration of the plane."""
_OF_THE_CALL: Final = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.RaiseException)
"""Errors by what is charged where, such as a counter of the plane that holds no more."""


class ChargeError(Exception):
    """The control plane fails at this call, and would again; others may be charged all the same.

    The message names the call and says why.
    """


class Charged(StrEnum):
    """What became of a call, in the words of ``image_gateway.charge``."""

    CHARGED = "charged"
    BEFORE = "charged_before"
    TOO_OLD = "too_old"
    UNKNOWN_KEY = "unknown_key"
    NO_PRICE = "no_price"


def _tokens(charge: Charge) -> dict[str, int]:
    """Empty if the usage of the call is not known."""
    if charge.tokens is None:
        return {}
    return {
        "total": charge.tokens,
        "input": charge.input,
        "cached_input": charge.cached_input,
        "output": charge.output,
    }


class Charging:
    """The charges of a control plane; raises ``UnusableError`` if it has none."""

    def __init__(self, admin: AdminConnection) -> None:
        self._admin = admin
        [row] = admin.query("can_charge")
        if row["can_charge"] is not True:
            raise UnusableError(
                "the control plane has no function image_gateway.charge, so its calls cannot be "
                "charged here. `image-gateway schema NAME` prints the SQL of a control plane that "
                "this gateway knows; it may be run again"
            )
        self._notes_files = row["notes_files"] is True

    def __repr__(self) -> str:
        return f"<Charging over {self._admin!r}>"

    def charge(self, charge: Charge) -> Charged:
        """Charge a call to its key; raises ``ChargeError``."""
        values = {
            "request_id": charge.request_id,
            "key_id": charge.key_id,
            "called_at": charge.called_at,
            "model": charge.model,
            "account_name": charge.account_name,
            "tokens": _tokens(charge),
            "images": charge.images,
            "cost": charge.cost,
            "lock_ms": LOCK_SECONDS * 1000,
        }
        try:
            for _ in range(_TRIES - 1):
                try:
                    return self._charge(values)
                except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                    continue
            return self._charge(values)
        except _OF_THE_PLANE as error:
            raise UnusableError(
                f"image_gateway.charge cannot run: {error.diag.message_primary}. If the control "
                "plane was changed since `image-gateway schema NAME` was run on it, run that again"
            ) from None
        except _OF_THE_CALL as error:
            reason = error.diag.message_primary or type(error).__name__
            raise ChargeError(
                f"call {charge.request_id} of key {charge.key_id} cannot be charged: {reason}"
            ) from None

    def _charge(self, values: dict[str, object]) -> Charged:
        row = self._admin.execute_alone("charge", values).fetchone()
        word = str(None if row is None else row["word"])
        try:
            return Charged(word)
        except ValueError:
            known = ", ".join(Charged)
            raise UnusableError(
                f"image_gateway.charge answered {word!r}; it must answer one of {known}"
            ) from None

    def is_charged(self, digest: str) -> bool:
        """Whether a file was charged to its end."""
        if not self._notes_files:
            return False
        [row] = self._admin.query("is_file_charged", {"digest": digest})
        return row["is_charged"] is True

    def note_charged(self, digest: str, file_name: str) -> None:
        """Note that a file was charged to its end, so that it is not read again."""
        if self._notes_files:
            self._admin.execute("file_charged", {"digest": digest, "file_name": file_name})

    def newest_charged_file(self) -> str | None:
        """The name of the newest sealed file that was charged to its end, on any machine."""
        if not self._notes_files:
            return None
        [row] = self._admin.query("newest_charged_file")
        name: str | None = row["file_name"]
        return name

    def forget_charges(self) -> None:
        """Delete the charges of calls that are too old to be charged again."""
        if self._notes_files:
            self._admin.execute("forget_charges")
