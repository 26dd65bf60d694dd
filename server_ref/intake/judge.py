"""Judge what came in: verify each statement again, open each update in the sandbox, and give a receipt."""

from __future__ import annotations

import io
import sqlite3
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import (
    DuplicateRoundError,
    InnerContextError,
    ResourceError,
    RoundClosedError,
    RoundKeyGoneError,
    SignerMismatchError,
    SignerRevokedError,
)
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import age, parcel
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.trust import roster, task
from fedhelp_edge.update import Schema
from server_ref.hub.hub import Hub
from server_ref.intake import enrolment, receipts
from server_ref.intake import receive as intake_receive
from server_ref.intake.sandbox import Job, Sandbox, SandboxRefusalError

_ALARM_CODES = (InnerContextError.code, ResourceError.code)  # for a person to look at, not only for the sender


# --- with the coordinator's key ------------------------------------------------------------------------------
def judge_waiting(hub: Hub, coordinator_keys: Keys) -> list[dict[str, str]]:
    """Decide on every request and share that waits."""
    _answer_unkept(hub, coordinator_keys)
    decided = [enrolment.judge_request(hub, coordinator_keys, row) for row in hub.database.rows(
        "SELECT * FROM requests WHERE state = 'waiting' ORDER BY rowid"
    )]  # fmt: skip
    if hub.plan.round.enrolment != "manual":
        decided += enrolment.admit_all(hub, coordinator_keys)
    with hub.database.transaction():
        hub.verify()
        # accepted by an older program, which bound no hash of what it opened: judged again
        hub.database.run(
            "UPDATE shares SET state = 'received' WHERE state = 'accepted' AND instr(facts, '\"sha256\"') = 0"
        )  # fmt: skip
        current = hub.database.only("SELECT * FROM rounds ORDER BY round DESC LIMIT 1")
    waiting = hub.database.rows("SELECT * FROM shares WHERE state = 'received' ORDER BY site, round, seq")
    if not waiting or current["state"] != "open":
        return [decision for decision in decided if decision]
    with Sandbox() as opener:
        for row in waiting:
            decided.append(_judge_update(hub, coordinator_keys, row, current, opener))
    return [decision for decision in decided if decision]


def _judge_update(
    hub: Hub, coordinator_keys: Keys, row: sqlite3.Row, current: sqlite3.Row, sandbox: Sandbox
) -> dict[str, str]:
    counts = current["round"]
    earlier = hub.database.row(
        "SELECT * FROM shares WHERE site = ? AND counts = ? AND state = 'accepted'", row["site"], counts
    )
    query = "SELECT count(*) AS n FROM rounds WHERE task != '' AND round > ? AND round <= ?"
    rounds_since = hub.database.only(query, row["round"], counts)
    try:
        check_statement(hub, row)
        check_sender(hub, row)
        if earlier and earlier["round"] >= row["round"]:
            raise DuplicateRoundError(f"{row['site']} gave a share for round {counts} before")
        if rounds_since["n"] > hub.plan.round.stale:
            raise RoundClosedError(f"round {row['round']} is over; this is round {counts}")
        opened_update = sandbox.open(
            opening_job(hub, round_key(hub, coordinator_keys, row["round"]), row, current["base"])
        )
    except (
        SignerMismatchError,
        SignerRevokedError,
        DuplicateRoundError,
        RoundClosedError,
        RoundKeyGoneError,
        SandboxRefusalError,
        ResourceError,
    ) as error:
        state = intake_receive.QUARANTINED if error.code in _ALARM_CODES else intake_receive.REFUSED
        return receipts.decide_update(hub, coordinator_keys, row, state, counts, error.code, error.cause)
    with hub.database.transaction():
        if earlier:
            receipts.decide_update(hub, coordinator_keys, earlier, intake_receive.SUPERSEDED, counts)
        return receipts.decide_update(
            hub, coordinator_keys, row, intake_receive.ACCEPTED, counts, facts=opened_update.told()
        )


def check_statement(hub: Hub, row: sqlite3.Row) -> None:
    """Raise unless the site signed what the front says that it sent, for the task of its round."""
    with files.reading(hub.database.path(row["hash"])) as file:
        statement, signers = parcel.read_prologue(file)
    round_row = hub.database.row("SELECT task, base FROM rounds WHERE round = ?", row["round"])
    context = statement.context
    signed_values = (
        statement.kind,
        statement.hash,
        *(context.get(name) for name in ("sender", "round", "seq", "nonce", "task", "base")),
    )
    expected = "update", *(row[name] for name in ("hash", "site", "round", "seq", "nonce")), *(round_row or ())
    if signed_values != expected:
        raise SignerMismatchError("the site's statement is not what the front took it for")
    if len(signers) != 1 or not any(signers[0] == key for key in hub.signing_keys(row["site"])):
        raise SignerMismatchError(f"not signed with a key of {row['site']}")


def check_sender(hub: Hub, row: sqlite3.Row) -> None:
    """Raise where a site was revoked after it sent a share, and that share is not to be trusted."""
    site = hub.roster.site(row["site"])
    if site and site.status == roster.REVOKED and row["round"] >= site.since_round:
        raise SignerRevokedError(f"the key of {site.id} was revoked")


def opening_job(hub: Hub, identity: str, row: sqlite3.Row, base: str) -> Job:
    """What opening a share takes: a key, the model that it was made from, and the one against which it shall count."""
    own_round = hub.database.only("SELECT base FROM rounds WHERE round = ?", row["round"])
    own_base, current_base = (str(hub.database.model(name)) for name in (own_round["base"], base))
    wire = hub.plan.wire
    return Job(
        row["hash"], str(hub.database.path(row["hash"])), (identity,), tuple(update_schema(hub).lines()), wire.up, own_base, current_base,
        wire.down, str(opened_path(hub, row["hash"])), hub.plan.merge.max_examples,
    )  # fmt: skip


def update_schema(hub: Hub) -> Schema:
    """What a share holds, once it is decoded."""
    return METHODS[hub.plan.method].schema(hub.plan)


def opened_path(hub: Hub, hash_: str) -> Path:
    """Where the plain numbers of a share lie until its round is merged."""
    return hub.home / "shares" / f"{hash_}.safetensors"


def round_key(hub: Hub, coordinator_keys: Keys, round_: int) -> str:
    path = hub.home / "round-keys" / f"{round_:06}.age"
    keys_by_round: dict[int, str] = {}
    if path.exists():
        sink = io.BytesIO()
        with files.reading(path) as file:
            age.decrypt(file, sink, [coordinator_keys.identity])
        keys_by_round[round_] = sink.getvalue().decode()
    return task.round_identity(round_, keys_by_round)


def _answer_unkept(hub: Hub, coordinator_keys: Keys) -> None:
    """A receipt for each update that was refused at the door. No round is in its line of the log: none had it."""
    query = (
        "SELECT * FROM unkept AS u WHERE NOT EXISTS"
        " (SELECT 1 FROM parcels WHERE kind = 'receipt' AND site = u.hash) ORDER BY rowid"
    )
    with hub.database.transaction():
        if rows := hub.database.rows(query):
            hub.verify()  # what is signed here rests on them
        for row in rows:
            log = hub.log(intake_receive.REFUSED, row["hash"], site=row["site"], code=row["code"])
            hub.receipt(
                coordinator_keys,
                "coordinator",
                row["hash"],
                intake_receive.REFUSED,
                log,
                code=row["code"],
                cause=row["cause"],
            )
