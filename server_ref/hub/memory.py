"""The coordinator's memory of its hub, where the front can neither read nor write.

The front must write to hub.db, so a row there is only a claim. The coordinator therefore stores one number for all rows
that only its own commands may write. It is the sum of their keyed hashes, to which each change can be added alone.
Beside it stand the log's length and head. Both lie in `coordinator/`, under a MAC whose key is derived from the
coordinator's secret key. The next command notices a changed, inserted, removed or older row, and a changed memory.

A commit and this file are two writes. Before a commit the file holds the state before it and the state after it. Where
a command was killed in between, the database is in one of the two.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedhelp_edge import console, files
from fedhelp_edge.errors import HubDamagedError, LogBrokenError
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.trust.log import Log
from server_ref.hub.states import State

FILE = "memory.json"
_COORDINATOR_ROWS = {  # which rows of a table only the coordinator's commands write
    "facts": "{}name NOT LIKE 'seq %' AND {}name NOT LIKE 'asked %'",  # the front's counters
    "invites": "true",
    "parcels": "{}kind IN ('charter', 'roster', 'task', 'global', 'knowledge', 'encoder', 'set')",
    "requests": f"{{}}state != '{State.WAITING}'",
    "rounds": "true",
    "unkept": "true",
    "shares": f"{{}}state != '{State.RECEIVED}'",
}
_DEFAULTS = ("", 0, "{}")  # are not hashed: a column that a later version adds changes no row's hash
_MODULUS = 1 << 256
_MAX_BYTES = 64 << 10


@dataclass(frozen=True)
class LedgerState:
    """The coordinator's rows as one number, and the log as it stood."""

    folder: str  # of the coordinator's keys
    total: int
    log: Log

    def with_mac(self, key: bytes) -> dict[str, Any]:
        """As the file holds it."""
        body = {"keys": self.folder, "log": [self.log.length, self.log.head], "total": f"{self.total:064x}"}
        return {**body, "mac": hmac.digest(key, json.dumps(body, sort_keys=True).encode(), "sha256").hex()}


class Ledger:
    """Collects the changes that a connection made to the coordinator's rows since its last commit."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.changes: list[tuple[int, str]] = []
        db.create_function("ledger", -1, self._note)
        for table, ours in _COORDINATOR_ROWS.items():
            names = [row[1] for row in db.execute(f"PRAGMA main.table_info({table})")]
            for event, sides in (("INSERT", ("NEW",)), ("DELETE", ("OLD",)), ("UPDATE", ("OLD", "NEW"))):
                for side in sides:
                    sign = 1 if side == "NEW" else -1
                    row = ", ".join(f"'{name}', {side}.{name}" for name in names)
                    when = ours.replace("{}", f"{side}.")
                    db.execute(
                        f"CREATE TEMP TRIGGER {table}_{event}_{side} AFTER {event} ON main.{table} WHEN {when}"
                        f" BEGIN SELECT ledger({sign}, '{table}', {row}); END"
                    )

    @property
    def version(self) -> int:
        """Differs after another connection's commit."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def rows(self) -> Iterator[str]:
        """All of the coordinator's rows, as they are now."""
        for table, ours in _COORDINATOR_ROWS.items():
            where = ours.replace("{}", "")
            cursor = self._db.execute(f"SELECT * FROM main.{table} WHERE {where}")  # noqa: S608 - names of ours
            names = [column[0] for column in cursor.description]
            for row in cursor:
                yield _serialized(table, dict(zip(names, row, strict=True)))

    def _note(self, sign: int, table: str, *pairs: Any) -> None:
        self.changes.append((sign, _serialized(table, dict(zip(pairs[::2], pairs[1::2], strict=True)))))


def _serialized(table: str, row: dict[str, Any]) -> str:
    return json.dumps([table, {name: row[name] for name in sorted(row) if row[name] not in _DEFAULTS}])


class Memory:
    """The coordinator's memory of one hub, for a command that has the coordinator's keys."""

    def __init__(
        self, path: Path, folder: str, keys: Keys, ledger: Ledger, head: Callable[[int | None], Log],
        is_logged: Callable[[], bool], write_log: Callable[[], None],
    ) -> None:  # fmt: skip
        """`write_log` logs that this hub has a memory; `is_logged` tells whether it did, so that none is deleted."""
        self._path, self._folder, self._key = path, folder, _derive_key(keys)
        self._ledger, self._head, self._is_logged, self._write_log = ledger, head, is_logged, write_log
        self._next: tuple[str, bytes] | None = None  # other keys, from the next commit on
        self._state: LedgerState | None = None
        self._written = b""
        self._pending: LedgerState | None = None
        self._version = -1  # of the database, as SQLite counts what other connections commit
        self.publishes = False  # whether this transaction publishes a parcel that sites will follow

    def rekey(self, folder: str, keys: Keys) -> None:
        """Protect the memory with other keys from this transaction's commit on."""
        self._next = folder, _derive_key(keys)

    def check(self) -> None:
        """Refuse a hub whose log or coordinator's rows are not as the coordinator's last command left them."""
        total = self._sum(self._key, ((1, row) for row in self._ledger.rows()))
        committed_total = (total - self._sum(self._key, self._ledger.changes)) % _MODULUS  # before this transaction
        states = [self._state] if self._state and self._read() == self._written else self._load(committed_total)
        newest = states[-1]
        states = [state for state in states if state.log == self._head(state.log.length)]
        if not states:
            raise LogBrokenError("the log does not continue the one of the coordinator's last command")
        for state in reversed(states):  # the newest first: both fit where only the log grew
            if state.total == committed_total:
                if state.total != newest.total:
                    console.say(
                        "note: a command was interrupted before it saved its last step; see status, and repeat it"
                    )
                self._state, self._written, self._version = state, self._read(), self._ledger.version
                return
        raise HubDamagedError("rows that only the coordinator's commands write were changed")

    def prepare(self) -> None:
        """Before a commit: write the state after it beside the state before it."""
        if not self._ledger.changes and not self._next:
            return
        changed = self._read() != self._written or (self.publishes and self._ledger.version != self._version)
        if not self._state or changed:
            self.check()
        assert self._state  # noqa: S101 - just checked
        if not self._is_logged():
            self._write_log()
        folder, key = self._next or (self._folder, self._key)
        total = (
            self._sum(key, ((1, row) for row in self._ledger.rows())) if self._next
            else self._state.total + self._sum(key, self._ledger.changes)
        ) % _MODULUS  # fmt: skip
        self._pending = LedgerState(folder, total, self._head(None))
        self._write(self._state.with_mac(self._key), self._pending.with_mac(key))

    def commit(self) -> None:
        """After a commit: the state after it is the only one."""
        self._ledger.changes.clear()
        if self._pending:
            self._state, self._pending = self._pending, None
            self._folder, self._key = self._next or (self._folder, self._key)
            self._next = None
        self.publishes = False

    def rollback(self) -> None:
        """After a rollback: the state before it is the only one."""
        self._ledger.changes.clear()
        self._pending = self._next = None
        self.publishes = False

    def close(self) -> None:
        """At a command's end: write the one state, and the log as it now stands."""
        if self._state and self._read() == self._written:
            self._state = replace(self._state, log=self._head(None))
            final = self._state.with_mac(self._key)
            if json.loads(self._written) != [final]:
                self._write(final)

    def _load(self, committed_total: int) -> list[LedgerState]:
        """The states in the file whose MAC is right. A hub that never had a memory is trusted as it is, once."""
        data = self._read()
        if not data:
            if self._is_logged():
                raise HubDamagedError("the coordinator's memory of this hub is gone")
            state = LedgerState(self._folder, committed_total, self._head(None))
            if committed_total:
                console.say("note: the coordinator had no memory of this hub; it now trusts the hub as it is")
            self._write(state.with_mac(self._key))
            return [state]
        try:
            states = [
                LedgerState(record["keys"], int(record["total"], 16), Log(*record["log"]))
                for record in json.loads(data)
            ]
            pairs = zip(states, json.loads(data), strict=True)
            authentic = [
                state for state, record in pairs
                if hmac.compare_digest(state.with_mac(self._key)["mac"], record["mac"])
            ]  # fmt: skip
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise HubDamagedError("the coordinator's memory was not written by its commands") from error
        if not authentic:
            raise HubDamagedError("the coordinator's memory was not written by its commands")
        return authentic

    def _read(self) -> bytes:
        try:
            with files.reading(self._path, follow=False) as file:
                return file.read(_MAX_BYTES)
        except FileNotFoundError:
            return b""

    def _write(self, *states: dict[str, Any]) -> None:
        self._written = json.dumps(states).encode()
        files.write_atomic(self._path, self._written)

    @staticmethod
    def _sum(key: bytes, rows: Iterable[tuple[int, str]]) -> int:
        return sum(sign * _keyed_hash(key, row) for sign, row in rows) % _MODULUS


def _keyed_hash(key: bytes, row: str) -> int:
    digest = hashlib.blake2b(row.encode("utf-8", "surrogatepass"), key=key, digest_size=32).digest()
    return int.from_bytes(digest, "big")


def key_folders(path: Path) -> set[str]:
    """The folders of keys that a memory names, whoever wrote it: the only places for the coordinator's keys."""
    try:
        with files.reading(path, follow=False) as file:
            return {str(record["keys"]) for record in json.loads(file.read(_MAX_BYTES))}
    except FileNotFoundError:
        return set()
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise HubDamagedError("the coordinator's memory is damaged") from error


def _derive_key(keys: Keys) -> bytes:
    return HKDF(SHA256(), 32, None, b"fedhelp-edge/v1 coordinator's memory").derive(keys.sign.private_bytes_raw())
