"""The table of rounds: the task of each, the model that it began with (`base`), and the one that it ended with.

Round 0 stands for the first model. A round without a task, after it, is one that was aggregated again without a site.
"""

from __future__ import annotations

from server_ref.hub.database import HubDatabase, Row
from server_ref.hub.states import State


def add(
    database: HubDatabase, round_: int, state: State, *, task: str = "", base: str = "", model: str = "",
    closes: str = "",
) -> None:  # fmt: skip
    """Add a round."""
    query = "INSERT INTO rounds (round, state, task, base, model, closes) VALUES (?, ?, ?, ?, ?, ?)"
    database.run(query, round_, state, task, base, model, closes)


def newest(database: HubDatabase) -> Row:
    """The newest round. Every hub has round 0."""
    return database.require_row("SELECT * FROM rounds ORDER BY round DESC LIMIT 1")


def find(database: HubDatabase, round_: int) -> Row | None:
    return database.row("SELECT * FROM rounds WHERE round = ?", round_)


def require(database: HubDatabase, round_: int) -> Row:
    """A round that the hub must have."""
    return database.require_row("SELECT * FROM rounds WHERE round = ?", round_)


def newest_deadline(database: HubDatabase) -> str:
    """When the newest round closes, or "" where none was opened."""
    row = database.row("SELECT closes FROM rounds ORDER BY round DESC LIMIT 1")
    return row["closes"] if row else ""


def any_opened(database: HubDatabase) -> bool:
    """Whether a round was opened."""
    return bool(database.row("SELECT 1 FROM rounds WHERE round > 0"))


def tasks(database: HubDatabase, first_round: int) -> list[str]:
    """The tasks of all rounds from `first_round` on."""
    rows = database.rows("SELECT task FROM rounds WHERE round >= ? AND task != ''", first_round)
    return [row["task"] for row in rows]


def failed_from(database: HubDatabase, base: str) -> list[Row]:
    """The rounds that began with this model and failed."""
    return database.rows("SELECT * FROM rounds WHERE base = ? AND state = ? ORDER BY round", base, State.FAILED)


def count_opened(database: HubDatabase, after: int, up_to: int) -> int:
    """How many rounds were opened after one round, up to another."""
    query = "SELECT count(*) AS n FROM rounds WHERE task != '' AND round > ? AND round <= ?"
    return int(database.require_row(query, after, up_to)["n"])


# --- models --------------------------------------------------------------------------------------------------------
def newest_model(database: HubDatabase) -> Row:
    """The newest model, and its round."""
    return database.require_row("SELECT round, model FROM rounds WHERE model != '' ORDER BY round DESC LIMIT 1")


def merged(database: HubDatabase, first_round: int = 0) -> list[Row]:
    """The rounds from `first_round` on whose updates were merged, in their order."""
    query = "SELECT * FROM rounds WHERE state = ? AND task != '' AND round >= ? ORDER BY round"
    return database.rows(query, State.MERGED, first_round)


def newest_merged(database: HubDatabase) -> int:
    """The newest round that has a model of its own."""
    return int(database.require_row("SELECT max(round) AS n FROM rounds WHERE state = ?", State.MERGED)["n"])


def models(database: HubDatabase) -> list[Row]:
    """Each round that has a model of its own, the model, and from how many updates it was merged."""
    query = (
        "SELECT r.round, r.model, count(s.hash) AS updates FROM rounds r LEFT JOIN shares s"
        " ON s.counts = r.round AND s.state = r.state WHERE r.state = ? GROUP BY r.round ORDER BY r.round"
    )
    return database.rows(query, State.MERGED)


# --- changes -------------------------------------------------------------------------------------------------------
def replace_first_model(database: HubDatabase, model: str) -> None:
    """Let the first round begin from another model."""
    database.run("UPDATE rounds SET model = ? WHERE round = 0", model)


def begin_sum(database: HubDatabase, round_: int, report: str) -> None:
    """A round waits for the helper; its report as JSON names the set."""
    database.run("UPDATE rounds SET state = ?, report = ? WHERE round = ?", State.SUMMING, report, round_)


def set_report(database: HubDatabase, round_: int, report: str) -> None:
    """Replace the report of a round, as JSON."""
    database.run("UPDATE rounds SET report = ? WHERE round = ?", report, round_)


def merge(database: HubDatabase, round_: int, model: str, report: str) -> None:
    """End a round with a model, and with a report as JSON of what its sites claim."""
    query = "UPDATE rounds SET state = ?, model = ?, report = ? WHERE round = ?"
    database.run(query, State.MERGED, model, report, round_)


def fail(database: HubDatabase, round_: int) -> None:
    """End a round with the model that it began with."""
    database.run("UPDATE rounds SET state = ?, model = base WHERE round = ?", State.FAILED, round_)
