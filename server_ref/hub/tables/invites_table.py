"""The table of invites. An invite is used by one request, whose hash it then names, or it is cancelled.

`proof` is the public key of the invite's code; `vouch` proves to who knows the code that this hub knows it too.
"""

from __future__ import annotations

from server_ref.hub.database import HubDatabase, Row

CANCELLED = "cancelled"  # in place of the hash of the request that used an invite


def add(
    database: HubDatabase, id_: str, *, proof: str, site: str, name: str, tier: str, expires: str, vouch: str
) -> None:
    """Add an unused invite."""
    query = "INSERT INTO invites (id, proof, site, name, tier, expires, vouch) VALUES (?, ?, ?, ?, ?, ?, ?)"
    database.run(query, id_, proof, site, name, tier, expires, vouch)


def count(database: HubDatabase) -> int:
    """How many invites were issued."""
    return int(database.require_row("SELECT count(*) AS n FROM invites")["n"])


def every(database: HubDatabase) -> list[Row]:
    """All invites, by site."""
    return database.rows("SELECT * FROM invites ORDER BY site")


def unused(database: HubDatabase) -> list[Row]:
    """The invites that nobody used and nobody cancelled, whether they expired or not."""
    return database.rows("SELECT * FROM invites WHERE used = ''")


def find(database: HubDatabase, id_: str) -> Row | None:
    return database.row("SELECT * FROM invites WHERE id = ?", id_)


def require(database: HubDatabase, id_: str) -> Row:
    """An invite that the hub must have."""
    return database.require_row("SELECT * FROM invites WHERE id = ?", id_)


def outstanding(database: HubDatabase, now: str) -> tuple[int, int]:
    """How many invites can still be used, and how many bytes the names of their sites have."""
    query = (
        "SELECT count(*) AS n, total(length(CAST(name AS BLOB))) AS bytes FROM invites WHERE used = '' AND expires >= ?"
    )
    row = database.require_row(query, now)
    return row["n"], int(row["bytes"])


def use(database: HubDatabase, id_: str, request: str) -> None:
    """Note the request that used an invite."""
    database.run("UPDATE invites SET used = ? WHERE id = ?", request, id_)


def cancel(database: HubDatabase, site: str) -> None:
    """Cancel the unused invite for a site."""
    database.run("UPDATE invites SET used = ? WHERE site = ? AND used = ''", CANCELLED, site)
