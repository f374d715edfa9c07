"""The control plane, read only: keys one by one, accounts as one snapshot.

It owns the connections to Postgres and the queries; ``edge.postgres.cache`` decides how long a
result is used.  A key or an account that a NOTIFY names is never served stale, because it may have
been switched off.  Any other NOTIFY expires keys, accounts or both: while Postgres is away, their
last values are used.  A new LISTEN connection expires everything, because notifications may have
been missed.
"""

import asyncio
import contextlib
import hashlib
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final, Self

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, TooManyRequests

from image_gateway import sql
from image_gateway.core.encrypted import WITHOUT_KEY, Keyring
from image_gateway.core.model import Account, Grant, Key, Secret
from image_gateway.core.rows import RowError, ViewRow, account_from_row, key_from_row
from image_gateway.edge.postgres import connections
from image_gateway.edge.postgres.cache import (
    LOAD_SECONDS,
    Entry,
    Freshness,
    Outage,
    UnavailableError,
)

CHANNEL: Final = "image_gateway_changed"

POOL_SECONDS: Final = 3.0
"""The longest a look-up waits for a connection, new or free."""
UNKNOWN_SECONDS: Final = 1.0
"""How long it is remembered that a key does not exist; short, because it may be added any time."""
_CHANGED: Final = "changed"
"""The status of an account that a notification named, until it is read again."""
_NO_KEY: Final = "0" * 64
"""A hash that no key has; a look-up of it shows whether keys can be read."""
_MOST_KEYS: Final = 50_000
_MOST_UNKNOWN: Final = 10_000
_MOST_CONNECTIONS: Final = 4
_MOST_WAITING: Final = 1000
"""Look-ups that may wait for a connection: at 1 ms each and four at once a quarter of a second."""
_LISTEN_RETRY_SECONDS: Final = 2.0
_LISTEN_CHECK_SECONDS: Final = 30.0

REFRESH_SECONDS: Final = 0.2
"""From a notification to reading what changed again: changes come in bursts."""
_MOST_REFRESHED: Final = 100
"""Keys that are read again before a request needs them, the most recently used first."""

_log = logging.getLogger(__name__)


class ControlPlane:
    """Reads keys and accounts from Postgres; opened and closed by ``async with``.

    ``keyring`` opens the credentials that are encrypted there.
    """

    def __init__(
        self,
        database: Secret,
        direct: Secret,
        freshness: Freshness,
        keyring: Keyring = WITHOUT_KEY,
    ) -> None:
        self._freshness = freshness
        self._direct = direct
        self._keyring = keyring
        self._pool = AsyncConnectionPool(
            database.reveal(),
            kwargs={**connections.OPTIONS, "prepare_threshold": None, "row_factory": dict_row},
            min_size=0,
            max_size=_MOST_CONNECTIONS,
            configure=_read_only,
            check=AsyncConnectionPool.check_connection,
            timeout=POOL_SECONDS,
            max_waiting=_MOST_WAITING,
            # A pool that keeps trying backs off up to minutes and is late to see Postgres back;
            # one that gives up tries again at the next look-up.
            reconnect_timeout=1.0,
            open=False,
        )
        self._outage = Outage()
        # Keys that exist, guesses that do not, and look-ups under way: kept apart, so that no
        # number of guesses evicts a key.
        self._keys: OrderedDict[str, Entry[Key | None]] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._asked: dict[str, Entry[Key | None]] = {}
        self._accounts: Entry[Mapping[str, Account]] = Entry(
            self._load_accounts, freshness, self._outage
        )
        self._keys_readable: Entry[bool] = Entry(self._try_keys, freshness, self._outage)
        self._key_read_at = float("-inf")
        """When a look-up of a key last succeeded, by the monotonic clock."""
        self._broken: frozenset[str] = frozenset()
        """Messages about accounts whose rows break the contract, each logged once."""
        self._tasks: list[asyncio.Task[None]] = []
        self._stale = asyncio.Event()
        self._recent: list[str] = []
        """Hashes of keys that were dropped or expired and must be read again."""
        self.listening = False
        """Whether changes arrive at once (NOTIFY) rather than within the time to live."""

    def __repr__(self) -> str:
        return f"<ControlPlane {len(self._keys)} keys, listening={self.listening}>"

    async def __aenter__(self) -> Self:
        await self._pool.open()
        self._tasks = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._refresh()),
        ]
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._pool.close()

    # -- reading ---------------------------------------------------------------------------------

    async def key(self, secret: str) -> Key | None:
        """The key of a bearer secret, None if no key has it; raises ``UnavailableError``.

        ``secret`` is the header's value decoded as latin-1, so the hash is of its bytes.
        """
        return await self._key(hashlib.sha256(secret.encode("latin-1", "replace")).hexdigest())

    async def _key(self, key_hash: str) -> Key | None:
        unknown_since = self._unknown.get(key_hash)
        if unknown_since is not None and time.monotonic() - unknown_since < UNKNOWN_SECONDS:
            return None
        entry = self._keys.get(key_hash) or self._asked.get(key_hash)
        if entry is None:
            entry = self._asked[key_hash] = Entry(
                lambda: self._load_key(key_hash),
                self._freshness,
                self._outage,
                settled=lambda key: self._settle(key_hash, key),
                failed=lambda: self._asked.pop(key_hash, None),
            )
        elif key_hash in self._keys:
            self._keys.move_to_end(key_hash)
        return await entry.get()

    def _settle(self, key_hash: str, key: Key | None) -> None:
        """Keep the result of a look-up during which the key did not change."""
        entry = self._asked.pop(key_hash, None) or self._keys.pop(key_hash, None)
        if entry is None:
            return  # evicted while it was loaded again; a NOTIFY would not have found it
        if key is None:
            self._unknown[key_hash] = time.monotonic()
            if len(self._unknown) > _MOST_UNKNOWN:
                self._unknown.popitem(last=False)
        else:
            self._keys[key_hash] = entry
            if len(self._keys) > _MOST_KEYS:
                self._keys.popitem(last=False)

    async def grant(self, key: Key) -> Grant:
        """A key with the current accounts; raises ``UnavailableError``."""
        return Grant(key, await self._accounts.get())

    async def accounts(self) -> Mapping[str, Account]:
        """The current accounts by name; raises ``UnavailableError``."""
        return await self._accounts.get()

    async def keys_can_be_read(self) -> bool:
        """Whether keys can be looked up, or keys that were may still be in the cache.

        Accounts may be readable while keys are not: a missing grant, a view that fails.  Queries
        at most once within the time to live, and once for all callers.
        """
        try:
            return await self._keys_readable.get()
        except UnavailableError:
            age = time.monotonic() - self._key_read_at
            return age <= self._freshness.max_stale_seconds

    @property
    def is_away(self) -> bool:
        """Whether the last read of Postgres failed."""
        return self._outage.is_on

    def known_accounts(self) -> tuple[Mapping[str, Account], float | None]:
        """The accounts as they were last read, and how many seconds ago; never queries.

        Accounts that have changed since are left out.
        """
        accounts, age = self._accounts.peek() or ({}, None)
        return {name: each for name, each in accounts.items() if each.status != _CHANGED}, age

    async def reread(self, account_name: str, since: float) -> Account | None:
        """An account as Postgres had it at ``since`` (monotonic) or later; None if it is gone.

        Calls that are refused together share one load.  While Postgres is away: as last read.
        """
        self._accounts.expire_older(since)
        try:
            return (await self._accounts.get()).get(account_name)
        except UnavailableError:
            return None

    # -- loading ---------------------------------------------------------------------------------

    async def _load_key(self, key_hash: str) -> Key | None:
        rows = await self._select("key", {"key_hash": key_hash})
        # Also if the key changed meanwhile and this result is not kept.
        self._key_read_at = time.monotonic()
        if not rows:
            return None
        try:
            return key_from_row(rows[0])
        except RowError as error:
            _log.error(
                "the row of key %s breaks the contract: %s; its calls get 503 until the row is "
                "corrected",
                rows[0].get("key_id"),
                error,
            )
            raise UnavailableError from None

    async def _try_keys(self) -> bool:
        """Look up a key that does not exist: False if Postgres is up and refuses."""
        try:
            # Also soon after a failure: if all look-ups fail, it is never long ago.
            await self._query("key", {"key_hash": _NO_KEY})
        except UnavailableError as error:
            cause = error.__cause__
            if isinstance(cause, psycopg.DatabaseError) and not isinstance(
                cause, psycopg.OperationalError
            ):
                return False
            raise
        return True

    async def _load_accounts(self) -> Mapping[str, Account]:
        accounts: dict[str, Account] = {}
        broken: set[str] = set()
        for row in await self._select("accounts"):
            try:
                account = account_from_row(row, self._keyring)
            except RowError as error:
                broken.add(f"account {row.get('account_name')}: {error}")
            else:
                accounts[account.account_name] = account
        for message in sorted(broken - self._broken):
            _log.error(
                "left out of service: %s; the account serves no call until its row is corrected",
                message,
            )
        self._broken = frozenset(broken)
        return accounts

    async def _select(self, name: str, values: Mapping[str, object] | None = None) -> list[ViewRow]:
        if self._outage.is_quiet:
            raise UnavailableError
        return await self._query(name, values)

    async def _query(self, name: str, values: Mapping[str, object] | None) -> list[ViewRow]:
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(sql.query(f"daemon/{name}").encode(), values)
                rows = connections.rows(await cursor.fetchall())
        except TooManyRequests as error:
            # A flood of look-ups is not an outage: those that wait already are served.
            raise UnavailableError from error
        except Exception as error:
            # Any error (psycopg also parses values): a partly read result must not be used.
            if not self._outage.is_on:
                _log.warning(
                    "the control plane cannot be read: %s; keys and accounts that were read before "
                    "are used for up to %.0f s. Check Postgres and CONTROL_DATABASE_URL",
                    type(error).__name__,
                    self._freshness.max_stale_seconds,
                )
            self._outage.note()
            raise UnavailableError from error
        if self._outage.is_on:
            _log.info("the control plane can be read again")
        self._outage.end()
        return rows

    # -- listening -------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            try:
                async with connections.connected(self._direct, autocommit=True) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}".encode())
                    self._expire_all()
                    self.listening = True
                    await self._receive(connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                if self.listening:
                    _log.warning(
                        "the LISTEN connection was lost: %s; until it is back, changes act within "
                        "%.0f s. Check DIRECT_DATABASE_URL if this lasts",
                        type(error).__name__,
                        self._freshness.ttl_seconds,
                    )
            finally:
                self.listening = False
            # Spread out, so that many instances do not return at the same moment.
            await asyncio.sleep(_LISTEN_RETRY_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311

    async def _receive(self, connection: connections.AsyncConnection) -> None:
        while True:
            async for notification in connection.notifies(timeout=_LISTEN_CHECK_SECONDS):
                self.changed(notification.payload)
            # A host that vanished does not close the connection: only a query shows it.
            async with asyncio.timeout(LOAD_SECONDS):
                await connection.execute(b"SELECT 1")

    def changed(self, payload: str) -> None:
        """Handle the payload of a notification: ``key:<key_hash>``, ``account:<account_name>``,
        ``keys``, ``accounts``, or anything else, which means all.
        """
        kind, _, name = payload.partition(":")
        self._stale.set()
        if kind == "key" and name:
            self._drop_key(name)
            return
        self._outage.doubt()
        if kind == "account" and name:
            self._accounts.revise(partial(_switched_off, name))
            return
        if payload != "accounts":
            self._recent += list(self._keys)[-_MOST_REFRESHED:]
            self._expire_keys()
        if payload != "keys":
            self._accounts.expire()

    def _drop_key(self, key_hash: str) -> None:
        self._unknown.pop(key_hash, None)
        for entries in (self._keys, self._asked):
            entry = entries.pop(key_hash, None)
            if entry is not None:
                entry.drop()
                self._recent.append(key_hash)

    def _expire_keys(self) -> None:
        self._unknown.clear()
        for entry in (*self._keys.values(), *self._asked.values()):
            entry.expire()
        self._asked.clear()

    async def _refresh(self) -> None:
        """Read what changed again, before a request needs it.

        Otherwise a later outage would find an empty cache, or values from before the change.
        """
        while True:
            await self._stale.wait()
            await asyncio.sleep(REFRESH_SECONDS)
            self._stale.clear()
            recent, self._recent = self._recent[-_MOST_REFRESHED:], []
            with contextlib.suppress(UnavailableError):
                await self._accounts.get()
                for key_hash in dict.fromkeys(reversed(recent)):
                    await self._key(key_hash)

    def _expire_all(self) -> None:
        self._outage.end()
        self._expire_keys()
        self._accounts.expire()
        self._keys_readable.expire()


def _switched_off(account_name: str, accounts: Mapping[str, Account]) -> Mapping[str, Account]:
    """The accounts, with one changed so that it serves no call.

    It stays among them: without it a call for a model that only it has would be refused as the
    client's fault.
    """
    account = accounts.get(account_name)
    if account is None:
        return accounts
    return {**accounts, account_name: replace(account, status=_CHANGED, credential=None)}


async def _read_only(connection: connections.AsyncConnection) -> None:
    # By transaction, not by SET: a transaction pooler would keep a SET for its other clients.
    await connection.set_read_only(True)
