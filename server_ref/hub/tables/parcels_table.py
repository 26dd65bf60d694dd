"""The table of parcels: every parcel that the hub received or published, in the order of arrival.

Of a receipt, `site` is the hash of the parcel that it is about; of a model, the group of sites that can open it.
"""

from __future__ import annotations

from server_ref.hub.database import HubDatabase, Row
from server_ref.hub.states import State


def add(database: HubDatabase, hash_: str, kind: str, number: int, site: str, line: str) -> None:
    """Add a parcel, with the line of its statement."""
    database.run("INSERT INTO parcels VALUES (?, ?, ?, ?, ?)", hash_, kind, number, site, line)


def find(database: HubDatabase, hash_: str) -> Row | None:
    """The kind, the number and the site of a parcel."""
    return database.row("SELECT kind, number, site FROM parcels WHERE hash = ?", hash_)


def newest(database: HubDatabase, kind: str) -> Row | None:
    """The newest parcel of a kind."""
    return database.row("SELECT * FROM parcels WHERE kind = ? ORDER BY number DESC, rowid DESC LIMIT 1", kind)


def newest_model(database: HubDatabase, group: str) -> Row | None:
    """The newest model that was sealed to a group of sites."""
    query = "SELECT hash, line FROM parcels WHERE kind = 'global' AND site = ? ORDER BY rowid DESC LIMIT 1"
    return database.row(query, group)


def newest_with_log(database: HubDatabase) -> Row | None:
    """The newest parcel that states the log's length and head."""
    return database.row("SELECT hash FROM parcels WHERE kind IN ('receipt', 'task') ORDER BY rowid DESC LIMIT 1")


def hashes(database: HubDatabase, kind: str) -> list[str]:
    """All parcels of a kind by their number, the first one first."""
    return _hashes(database.rows("SELECT hash FROM parcels WHERE kind = ? ORDER BY number, rowid", kind))


def hashes_by_arrival(database: HubDatabase) -> list[str]:
    """All parcels, in the order of arrival."""
    return _hashes(database.rows("SELECT hash FROM parcels ORDER BY rowid"))


def sum_of_round(database: HubDatabase, round_: int) -> str:
    """The helper's sum for a round, or ""."""
    row = database.row("SELECT hash FROM parcels WHERE kind = 'sum' AND number = ?", round_)
    return row["hash"] if row else ""


# --- what sites sent -----------------------------------------------------------------------------------------------
def line_from_site(database: HubDatabase, hash_: str) -> str:
    """The statement's line of a parcel that a site sent, or ""."""
    query = "SELECT line FROM parcels WHERE hash = ? AND kind IN ('update', 'enrol', 'rotate', 'sum')"
    row = database.row(query, hash_)
    return row["line"] if row else ""


def state_as_sent(database: HubDatabase, hash_: str) -> str:
    """The state of an update, or that a request or a helper's sum was received; "" where nobody sent this parcel."""
    query = (
        "SELECT state FROM shares WHERE hash = ? UNION ALL SELECT ? FROM requests WHERE hash = ?"
        " UNION ALL SELECT ? FROM parcels WHERE hash = ? AND kind = 'sum'"
    )
    row = database.row(query, hash_, State.RECEIVED, hash_, State.RECEIVED, hash_)
    return row["state"] if row else ""


def sent_by(database: HubDatabase, site: str) -> set[str]:
    """All parcels that a site sent, those included that were refused on receipt."""
    query = (
        "SELECT hash FROM shares WHERE site = ? UNION SELECT hash FROM unkept WHERE site = ?"
        " UNION SELECT hash FROM requests WHERE site = ?"
    )
    return set(_hashes(database.rows(query, site, site, site)))


# --- receipts ------------------------------------------------------------------------------------------------------
def receipts_about(database: HubDatabase, subject: str) -> list[str]:
    """The receipts about one parcel, the oldest first."""
    query = "SELECT hash FROM parcels WHERE kind = 'receipt' AND site = ? ORDER BY rowid"
    return _hashes(database.rows(query, subject))


def newest_receipt(database: HubDatabase, subject: str) -> str:
    """The newest receipt about a parcel that has one."""
    query = "SELECT hash FROM parcels WHERE kind = 'receipt' AND site = ? ORDER BY rowid DESC LIMIT 1"
    return str(database.require_row(query, subject)["hash"])


def receipts_since(database: HubDatabase, first_round: int) -> list[str]:
    """The receipts about all requests, and about all updates of rounds from `first_round` on."""
    query = (
        "SELECT hash FROM parcels WHERE kind = 'receipt' AND site IN (SELECT hash FROM shares WHERE round >= ?"
        " UNION SELECT hash FROM unkept WHERE round >= ? UNION SELECT hash FROM requests) ORDER BY rowid"
    )
    return _hashes(database.rows(query, first_round, first_round))


def receipts_of_site_since(database: HubDatabase, site: str, first_round: int) -> list[str]:
    """The same, about one site's requests and updates."""
    query = (
        "SELECT hash FROM parcels WHERE kind = 'receipt' AND site IN"
        " (SELECT hash FROM shares WHERE round >= ? AND site = ?"
        " UNION SELECT hash FROM unkept WHERE round >= ? AND site = ?"
        " UNION SELECT hash FROM requests WHERE site = ?) ORDER BY rowid"
    )
    return _hashes(database.rows(query, first_round, site, first_round, site, site))


def _hashes(rows: list[Row]) -> list[str]:
    return [row["hash"] for row in rows]
