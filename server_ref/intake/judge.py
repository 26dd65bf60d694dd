"""Decide on what came in: verify each statement again, open each update in the sandbox, and give a receipt."""

from __future__ import annotations

import io
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import (
    DuplicateRoundError,
    InnerContextError,
    ProbabilitiesError,
    ResourceError,
    RoundClosedError,
    RoundKeyGoneError,
    SignerMismatchError,
    SignerRevokedError,
    SumsError,
)
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import age, parcel
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.secure_sum.arithmetic import SumFormat
from fedhelp_edge.trust import roster, task
from fedhelp_edge.update import Schema
from server_ref.hub.database import Row
from server_ref.hub.hub import Hub
from server_ref.hub.states import State
from server_ref.hub.tables import requests_table, rounds_table, updates_table
from server_ref.intake import enrolment, sandbox
from server_ref.intake.receipts import Decision, decide_update, publish_decision

# a person looks at these, not only the sender
_ALARM_CODES = (InnerContextError.code, ResourceError.code, ProbabilitiesError.code, SumsError.code)


def judge_waiting(hub: Hub, coordinator_keys: Keys) -> list[dict[str, str]]:
    """Decide on every request and update that waits; returns the decisions."""
    _answer_refused_on_receipt(hub, coordinator_keys)
    requests = requests_table.waiting(hub.database)
    decided = [enrolment.judge_request(hub, coordinator_keys, row) for row in requests]
    if hub.plan.round.enrolment != "manual":
        decided += enrolment.admit_all(hub, coordinator_keys)
    with hub.database.transaction():
        hub.check_rows()
        round_row = hub.newest_round()
        if round_row["state"] == State.OPEN:
            updates_table.return_unbound(hub.database)
    if round_row["state"] == State.OPEN and (updates := updates_table.in_state(hub.database, State.RECEIVED)):
        with sandbox.Sandbox() as process:
            decided += [_judge_update(hub, coordinator_keys, row, round_row, process) for row in updates]
    return [decision for decision in decided if decision]


def _answer_refused_on_receipt(hub: Hub, coordinator_keys: Keys) -> None:
    """Sign a receipt for each update that was refused on receipt. Its line of the log names no round."""
    with hub.database.transaction():
        if rows := updates_table.refused_without_receipt(hub.database):
            hub.check_rows()  # the receipts state what these rows say
        for row in rows:
            decision = Decision(State.REFUSED, row["code"], row["cause"])
            log = hub.log(State.REFUSED, row["hash"], site=row["site"], code=row["code"])
            publish_decision(hub, coordinator_keys, row, decision, row["site"], log)


def _judge_update(
    hub: Hub, coordinator_keys: Keys, row: Row, round_row: Row, process: sandbox.Sandbox
) -> dict[str, str]:
    number, base = round_row["round"], round_row["base"]
    earlier = next(iter(updates_table.accepted_from(hub.database, row["site"], number)), None)
    rounds_since = rounds_table.count_opened(hub.database, row["round"], number)
    try:
        check_statement(hub, row)
        check_sender(hub, row)
        if earlier and earlier["round"] >= row["round"]:
            raise DuplicateRoundError(f"{row['site']} sent another update for round {number} before")
        if rounds_since > hub.stale_rounds:
            raise RoundClosedError(f"round {row['round']} is over; this is round {number}")
        opened = process.open(opening_job(hub, round_key(hub, coordinator_keys, row["round"]), row, base))
    except (
        SignerMismatchError,
        SignerRevokedError,
        DuplicateRoundError,
        RoundClosedError,
        RoundKeyGoneError,
        sandbox.SandboxRefusalError,
        ResourceError,
    ) as error:
        state = State.QUARANTINED if error.code in _ALARM_CODES else State.REFUSED
        return decide_update(hub, coordinator_keys, row, Decision(state, error.code, error.cause), number)
    with hub.database.transaction():
        if earlier:
            decide_update(hub, coordinator_keys, earlier, Decision(State.SUPERSEDED), number)
        return decide_update(hub, coordinator_keys, row, Decision(State.ACCEPTED), number, opened.facts_json())


def check_statement(hub: Hub, row: Row) -> None:
    """Refuse an update whose row, which the front wrote, does not say what the site signed for its round's task."""
    with files.reading(hub.database.parcel_path(row["hash"])) as file:
        statement, signers = parcel.read_prologue(file)
    round_row = rounds_table.find(hub.database, row["round"])
    names = "sender", "round", "seq", "nonce", "task", "base"
    signed = statement.kind, statement.hash, *(statement.context.get(name) for name in names)
    expected = "update", *(row[name] for name in ("hash", "site", "round", "seq", "nonce"))
    if round_row is None or signed != (*expected, round_row["task"], round_row["base"]):
        raise SignerMismatchError("the front's entry differs from the statement that the site signed")
    if len(signers) != 1 or signers[0] not in hub.signing_keys(row["site"]):
        raise SignerMismatchError(f"not signed with a key of {row['site']}")


def check_sender(hub: Hub, row: Row) -> None:
    """Refuse an update of a round since which its site is revoked, also where the site was revoked afterwards."""
    site = hub.roster.site(row["site"])
    if site and site.status == roster.REVOKED and row["round"] >= site.since_round:
        raise SignerRevokedError(f"the key of {site.id} was revoked")


# --- opening -------------------------------------------------------------------------------------------------------
def opening_job(hub: Hub, identity: str, row: Row, base: str) -> sandbox.Job:
    """How the sandbox opens an update with a key, to count against the model `base`."""
    trained_from = rounds_table.require(hub.database, row["round"])["base"]
    is_secure, schema = hub.plan.privacy.is_secure_sum, update_schema(hub)
    return sandbox.Job(
        hash=row["hash"], path=str(hub.database.parcel_path(row["hash"])), identity=identity,
        schema=tuple(schema.lines()), codec=hub.plan.wire.up,
        trained_from=str(hub.database.model_path(trained_from)), counts_against=str(hub.database.model_path(base)),
        model_codec=hub.plan.wire.down, out=str(opened_path(hub, row["hash"])),
        max_examples=hub.plan.merge.max_examples, verify=METHODS[hub.plan.method].verify,
        helper=hub.plan.privacy.helper_key, words=SumFormat.of(hub.plan, schema).length if is_secure else 0,
    )  # fmt: skip


def update_schema(hub: Hub) -> Schema:
    """The names, shapes and types of a decoded update's tensors."""
    return METHODS[hub.plan.method].up(hub.plan, hub.public)


def opened_path(hub: Hub, hash_: str) -> Path:
    """Where the tensors of an opened update lie until its round is merged."""
    return hub.home / "shares" / f"{hash_}.safetensors"


def round_key(hub: Hub, coordinator_keys: Keys, round_: int) -> str:
    """The age identity of a round, unless it was destroyed."""
    path = hub.home / "round-keys" / f"{round_:06}.age"
    keys_by_round: dict[int, str] = {}
    if path.exists():
        decrypted = io.BytesIO()
        with files.reading(path) as file:
            age.decrypt(file, decrypted, [coordinator_keys.identity])
        keys_by_round[round_] = decrypted.getvalue().decode()
    return task.round_identity(round_, keys_by_round)
