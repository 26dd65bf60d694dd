"""A hub's SQLite database, and the files that are named by the hash of their content.

A file is on the disk, and its folder too, before the row that names it is committed; an answer is given after that.
The queries on each table stand in its file in `tables`.
"""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedhelp_edge import files
from fedhelp_edge.errors import BusyError, FileKindError, HubDamagedError, HubNewerError, NoHubError, NotNowError
from server_ref.hub.memory import Ledger, Memory

DATABASE = "hub.db"
LOCK_SECONDS = 30.0  # seconds for another command to finish writing
_LEFTOVER_SECONDS = 3600.0  # seconds before a file that no row names counts as a leftover

_ERRNO_OF_MESSAGE = {"full": errno.ENOSPC, "readonly": errno.EROFS, "disk I/O": errno.EIO, "unable to open": errno.EIO}

Row = sqlite3.Row

_MIGRATIONS = (
    """
    CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE parcels (
        hash TEXT PRIMARY KEY, kind TEXT NOT NULL, number INTEGER NOT NULL, site TEXT NOT NULL, line TEXT NOT NULL
    ) STRICT;
    CREATE INDEX parcels_by_kind ON parcels (kind, number);
    CREATE TABLE invites (
        id TEXT PRIMARY KEY, proof TEXT NOT NULL, site TEXT NOT NULL, name TEXT NOT NULL, tier TEXT NOT NULL,
        expires TEXT NOT NULL, vouch TEXT NOT NULL, used TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE TABLE requests (
        hash TEXT PRIMARY KEY REFERENCES parcels, kind TEXT NOT NULL, state TEXT NOT NULL, site TEXT NOT NULL,
        name TEXT NOT NULL, invite TEXT NOT NULL, code TEXT NOT NULL, cause TEXT NOT NULL
    ) STRICT;
    CREATE TABLE rounds (
        round INTEGER PRIMARY KEY, state TEXT NOT NULL, task TEXT NOT NULL, base TEXT NOT NULL, model TEXT NOT NULL,
        closes TEXT NOT NULL, report TEXT NOT NULL DEFAULT '{}'
    ) STRICT;
    CREATE TABLE shares (
        hash TEXT PRIMARY KEY REFERENCES parcels, site TEXT NOT NULL, round INTEGER NOT NULL, seq INTEGER NOT NULL,
        nonce TEXT NOT NULL, state TEXT NOT NULL, counts INTEGER NOT NULL, code TEXT NOT NULL DEFAULT '',
        cause TEXT NOT NULL DEFAULT '', facts TEXT NOT NULL DEFAULT '{}', released INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX shares_by_site ON shares (site, seq);
    CREATE INDEX shares_by_count ON shares (counts, state);
    CREATE TABLE refusals (hash TEXT PRIMARY KEY, code TEXT NOT NULL, cause TEXT NOT NULL) STRICT;
    CREATE TABLE decisions (site TEXT PRIMARY KEY, what TEXT NOT NULL) STRICT;
    CREATE TABLE log (
        seq INTEGER PRIMARY KEY, time TEXT NOT NULL, type TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL,
        hash TEXT NOT NULL
    ) STRICT;
    """,
    """
    DROP TABLE decisions;
    CREATE TABLE decisions (hash TEXT PRIMARY KEY, what TEXT NOT NULL) STRICT;
    """,  # which named a site, and so whatever that site sent next
    """
    CREATE INDEX parcels_by_site ON parcels (site, kind);
    CREATE INDEX requests_by_state ON requests (state, invite);
    CREATE INDEX requests_by_site ON requests (site);
    CREATE INDEX shares_by_state ON shares (state, site);
    """,  # so that no answer to one site reads the rows of all
    """
    CREATE TABLE unkept (
        hash TEXT PRIMARY KEY, site TEXT NOT NULL, round INTEGER NOT NULL, code TEXT NOT NULL, cause TEXT NOT NULL
    ) STRICT;
    CREATE INDEX unkept_by_site ON unkept (site, round);
    """,  # updates from a carrier that were refused on receipt, which the hub does not store: their sites get receipts
)


class HubDatabase:
    """The database and the files of one hub. Several may be open at once: every change is one transaction."""

    def __init__(self, home: Path, *, new: bool = False) -> None:
        path = home / DATABASE
        if not new and not path.is_file():
            raise NoHubError(f"{home.name} holds no hub")
        self.home = home
        self.memory: Memory | None = None
        with _translated_errors():
            self.db = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)
            self.db.row_factory = sqlite3.Row
            try:
                for pragma in (
                    "journal_mode=WAL",
                    "synchronous=FULL",
                    "foreign_keys=ON",
                    "trusted_schema=OFF",
                    "temp_store=MEMORY",
                ):
                    self.db.execute(f"PRAGMA {pragma}")
                self._migrate()
                self._check_schema()
                self.ledger = Ledger(self.db)
            except BaseException:
                self.db.close()
                raise

    def close(self) -> None:
        self.db.close()

    # --- rows ----------------------------------------------------------------------------------------------------
    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all changes within, or none. A transaction within another is a part of that one.

        Refuses, without the coordinator's keys, a change to the rows that only the coordinator's commands may write.
        """
        if self.db.in_transaction:
            yield
            return
        with _translated_errors():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                self._check_schema()
                yield
                if self.memory:
                    self.memory.prepare()
                elif self.ledger.changes:
                    raise NotNowError("this change needs the coordinator's keys")
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:  # on a full disk SQLite has rolled back by itself
                    self.db.execute("ROLLBACK")
                self.ledger.changes.clear()
                if self.memory:
                    self.memory.rollback()
                raise
            if self.memory:
                self.memory.commit()

    def rows(self, query: str, *values: Any) -> list[Row]:
        """All rows of a query."""
        with _translated_errors():
            return self.db.execute(query, values).fetchall()

    def row(self, query: str, *values: Any) -> Row | None:
        """The first row of a query, or None."""
        with _translated_errors():
            first: Row | None = self.db.execute(query, values).fetchone()
        return first

    def require_row(self, query: str, *values: Any) -> Row:
        """The first row of a query that has at least one in every hub."""
        first = self.row(query, *values)
        if first is None:
            raise HubDamagedError("the database lacks a row that every hub has")
        return first

    def run(self, query: str, *values: Any) -> int:
        """Change rows; returns how many."""
        with _translated_errors():
            return self.db.execute(query, values).rowcount

    def fact(self, name: str, default: str = "") -> str:
        """One of the hub's named values."""
        row = self.row("SELECT value FROM facts WHERE name = ?", name)
        return str(row["value"]) if row else default

    def set_fact(self, name: str, value: str) -> None:
        self.run("INSERT INTO facts VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", name, value)

    # --- files ---------------------------------------------------------------------------------------------------
    def parcel_path(self, hash_: str) -> Path:
        """Where the parcel with this statement is, or will be."""
        return self.home / "parcels" / hash_[:2] / f"{hash_}.fhx"

    def model_path(self, hash_: str) -> Path:
        """Where the model with this hash is, or will be."""
        return self.home / "models" / f"{hash_}.safetensors"

    def parcel_hashes(self) -> set[str]:
        """The parcels that a row names."""
        return {row["hash"] for row in self.rows("SELECT hash FROM parcels")}

    def reconcile(self) -> None:
        """After a crash: remove old files that no row names; refuse a hub that lacks a file that a row names."""
        recorded = self.parcel_hashes()
        cutoff = time.time() - _LEFTOVER_SECONDS
        parcels = self.home / "parcels"
        for folder in [
            self.home,
            *self.home.glob("*/"),
            *(() if parcels.is_symlink() else parcels.glob("*/")),
        ]:  # a link leads elsewhere
            with suppress(FileNotFoundError, PermissionError, FileKindError), files.open_shared(folder) as directory:
                _remove_leftovers(directory, cutoff, recorded if folder.parent == parcels else None)
        if missing := next((hash_ for hash_ in sorted(recorded) if not self.parcel_path(hash_).exists()), ""):
            raise HubDamagedError(f"parcel {missing[:12]} is gone from the disk")

    def check_integrity(self) -> None:
        """Refuse a database that SQLite finds damaged."""
        with _translated_errors():
            verdict = self.db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if verdict != "ok":
            raise HubDamagedError("the database is damaged")

    def copy_to(self, path: Path) -> None:
        """Write the database as it is now to a new file."""
        self.run("VACUUM INTO ?", str(path))

    # --- the schema ----------------------------------------------------------------------------------------------
    def _check_schema(self) -> None:
        """Refuse a trigger, view or table that is not ours: it would act within the coordinator's own commands."""
        if _schema_objects(self.db) != _expected_objects(_MIGRATIONS):
            raise HubDamagedError("the database holds a trigger, view or table that is not this program's")

    def _migrate(self) -> None:
        version = self.db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            raise HubNewerError(
                f"this hub has version {version}, and this program knows versions up to {len(_MIGRATIONS)}"
            )
        for number, script in enumerate(_MIGRATIONS[version:], version + 1):
            self.db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")


def _remove_leftovers(directory: files.SharedFolder, cutoff: float, recorded: set[str] | None) -> None:
    """Remove partial files that interrupted commands left, and, with `recorded`, parcels that no row names."""
    for name in directory.names():
        partial = name.startswith(".") and name.endswith(".part")
        if partial or (recorded is not None and Path(name).stem not in recorded):
            with suppress(FileNotFoundError, PermissionError, IsADirectoryError):  # another command removed it
                if directory.stat(name).st_mtime < cutoff:
                    directory.remove(name)


@lru_cache
def _expected_objects(migrations: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The tables and indexes that a database has after these migrations, as SQLite spells them."""
    with closing(sqlite3.connect(":memory:")) as db:
        for script in migrations:
            db.executescript(script)
        return _schema_objects(db)


def _schema_objects(db: sqlite3.Connection) -> list[tuple[str, ...]]:
    rows = db.execute("SELECT type, name, tbl_name, sql FROM main.sqlite_schema")
    return sorted(tuple(" ".join(str(value).split()) for value in row) for row in rows)


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise SQLite's errors as this program's own."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise BusyError("another command is writing to this hub") from error
        for phrase, number in _ERRNO_OF_MESSAGE.items():
            if phrase in str(error):
                raise OSError(number, str(error), DATABASE) from error
        raise HubDamagedError(f"the database does not answer: {error}") from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError):
            raise
        raise HubDamagedError("the database is damaged") from error
