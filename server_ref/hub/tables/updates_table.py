"""The table of updates, `shares`, and the table `unkept` of updates that were refused on receipt.

An update has two rounds: `round` is the one that it was trained in, `counts` the one in which it counts. A late update
counts in a later round. `counts` is 0 until the update is judged.
"""

from __future__ import annotations

from server_ref.hub.database import HubDatabase, Row
from server_ref.hub.states import State


def add(database: HubDatabase, hash_: str, site: str, round_: int, seq: int, nonce: str) -> None:
    """Add an update that was received."""
    query = "INSERT INTO shares (hash, site, round, seq, nonce, state, counts) VALUES (?, ?, ?, ?, ?, ?, 0)"
    database.run(query, hash_, site, round_, seq, nonce, State.RECEIVED)


def find(database: HubDatabase, hash_: str) -> Row | None:
    return database.row("SELECT * FROM shares WHERE hash = ?", hash_)


# --- by state ------------------------------------------------------------------------------------------------------
def in_state(database: HubDatabase, state: State) -> list[Row]:
    """All updates in a state, by site and round."""
    return database.rows("SELECT * FROM shares WHERE state = ? ORDER BY site, round, seq", state)


def count_received(database: HubDatabase) -> int:
    """How many updates wait to be judged."""
    return int(database.require_row("SELECT count(*) AS n FROM shares WHERE state = ?", State.RECEIVED)["n"])


def released(database: HubDatabase) -> list[Row]:
    """The site and the facts of each accepted or merged update that a person released."""
    query = "SELECT site, facts FROM shares WHERE released AND state IN (?, ?)"
    return database.rows(query, State.ACCEPTED, State.MERGED)


# --- by the round in which they count ------------------------------------------------------------------------------
def counting(database: HubDatabase, round_: int, state: State) -> list[Row]:
    """The updates in a state that count in a round, by site."""
    return database.rows("SELECT * FROM shares WHERE counts = ? AND state = ? ORDER BY site", round_, state)


def judged(database: HubDatabase, round_: int) -> list[Row]:
    """All updates that were judged in a round, by site and round."""
    return database.rows("SELECT * FROM shares WHERE counts = ? ORDER BY site, round", round_)


def quarantined(database: HubDatabase, round_: int) -> list[Row]:
    """The quarantined updates of a round, by sequence number: a site's later one follows its earlier one."""
    query = "SELECT * FROM shares WHERE counts = ? AND state = ? ORDER BY seq"
    return database.rows(query, round_, State.QUARANTINED)


def accepted_from(database: HubDatabase, site: str, round_: int) -> list[Row]:
    """The accepted updates of a site that count in a round."""
    query = "SELECT * FROM shares WHERE site = ? AND counts = ? AND state = ?"
    return database.rows(query, site, round_, State.ACCEPTED)


def first_merged_round(database: HubDatabase, site: str) -> int | None:
    """The first round whose model was merged from an update of a site."""
    query = "SELECT min(counts) AS round FROM shares WHERE site = ? AND state = ?"
    first: int | None = database.require_row(query, site, State.MERGED)["round"]
    return first


# --- by the round in which they were trained -----------------------------------------------------------------------
def trained_in(database: HubDatabase, round_: int) -> list[Row]:
    """The site, the state and the code of all updates of a round, by sequence number."""
    return database.rows("SELECT site, state, code FROM shares WHERE round = ? ORDER BY seq", round_)


def sent_for(database: HubDatabase, site: str, round_: int) -> list[Row]:
    """The hash and the state of all updates that a site sent for a round."""
    return database.rows("SELECT hash, state FROM shares WHERE site = ? AND round = ?", site, round_)


def used_numbers(database: HubDatabase, site: str) -> list[Row]:
    """The sequence number and the nonce of all updates that a site sent."""
    return database.rows("SELECT seq, nonce FROM shares WHERE site = ?", site)


def newest_facts(database: HubDatabase) -> dict[str, str]:
    """By site, the facts of its newest opened update."""
    query = "SELECT site, facts, max(round) FROM shares WHERE facts != '{}' GROUP BY site"
    return {row["site"]: row["facts"] for row in database.rows(query)}


# --- changes -------------------------------------------------------------------------------------------------------
def decide(
    database: HubDatabase, hash_: str, state: State, counts: int, code: str = "", cause: str = "", facts: str = ""
) -> None:
    """Write a decision on an update. Without `facts`, those that it has stay."""
    query = (
        "UPDATE shares SET state = ?, counts = ?, code = ?, cause = ?, facts = CASE ? WHEN '' THEN facts ELSE ? END"
        " WHERE hash = ?"
    )
    database.run(query, state, counts, code, cause, facts, facts, hash_)


def release(database: HubDatabase, hash_: str) -> None:
    """Note that a person released an update."""
    database.run("UPDATE shares SET released = 1 WHERE hash = ?", hash_)


def merge_accepted(database: HubDatabase, round_: int) -> None:
    """The accepted updates of a round are merged."""
    query = "UPDATE shares SET state = ? WHERE counts = ? AND state = ?"
    database.run(query, State.MERGED, round_, State.ACCEPTED)


def return_accepted(database: HubDatabase, round_: int) -> None:
    """The accepted updates of a round wait to be judged again."""
    query = "UPDATE shares SET state = ?, counts = 0 WHERE counts = ? AND state = ?"
    database.run(query, State.RECEIVED, round_, State.ACCEPTED)


def return_unbound(database: HubDatabase) -> None:
    """Accepted updates wait to be judged again if an older program, which did not bind their tensors, accepted them."""
    query = "UPDATE shares SET state = ? WHERE state = ? AND instr(facts, '\"tag\"') = 0"
    database.run(query, State.RECEIVED, State.ACCEPTED)


# --- refused on receipt --------------------------------------------------------------------------------------------
def add_refused(database: HubDatabase, hash_: str, site: str, round_: int, code: str, cause: str) -> None:
    """Note why an update was refused on receipt. The hub does not store the update."""
    database.run("INSERT OR IGNORE INTO unkept VALUES (?, ?, ?, ?, ?)", hash_, site, round_, code, cause)


def count_refused(database: HubDatabase, site: str, round_: int) -> int:
    """How many updates of a site for a round were refused on receipt."""
    query = "SELECT count(*) AS n FROM unkept WHERE site = ? AND round = ?"
    return int(database.require_row(query, site, round_)["n"])


def refused_without_receipt(database: HubDatabase) -> list[Row]:
    """The updates that were refused on receipt and about which no receipt was signed yet."""
    return database.rows(
        "SELECT * FROM unkept AS u WHERE NOT EXISTS"
        " (SELECT 1 FROM parcels WHERE kind = 'receipt' AND site = u.hash) ORDER BY rowid"
    )
