"""Exports a round for audit: a folder that anybody can check without a key."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import NotNowError, TargetExistsError
from fedhelp_edge.trust import charter, roster
from fedhelp_edge.trust.round_record import LOG_FILE, SIGNERS_FILE, allowed_signers, read_round
from server_ref.hub.hub import Hub
from server_ref.hub.tables import log_table, parcels_table


def export_round(hub: Hub, round_: int, out: Path) -> int:
    """Write a round's parcels, the log up to its model, and the keys that could sign then. Returns the parcel count.

    Nobody can replace a file in the folder unnoticed: the model's receipt signs the log, and the log names the rest.
    """
    lines = list(log_table.lines(hub.database))
    record = read_round([line for line, _ in lines], round_)
    if record is None:
        raise NotNowError(f"round {round_} has no model that the log names")
    last_seq, model_detail = record.model["seq"], record.model["detail"]
    round_charter, round_roster, hashes = _charter_and_roster(hub, model_detail["roster"])
    hashes += [
        model_detail["parcel"],
        *model_detail.get("others", []),
        *([model_detail["task"]] if "task" in model_detail else []),
    ]
    hashes += record.updates
    for subject in (model_detail["parcel"], *record.updates):
        for receipt in parcels_table.receipts_about(hub.database, subject):
            if hub.read_json(receipt)[2]["log"]["length"] <= last_seq:
                hashes.append(receipt)
    if os.path.lexists(out):
        raise TargetExistsError(f"{out.name} exists already")
    scratch = out.with_name(f".{out.name}.part")  # the folder appears whole or not at all
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for hash_ in hashes:
        shutil.copyfile(hub.database.parcel_path(hash_), scratch / f"{hash_}.fhx")
    log_text = "".join(
        json.dumps({**line, "hash": line_hash}, sort_keys=True) + "\n" for line, line_hash in lines[:last_seq]
    )
    for name, content in ((LOG_FILE, log_text), (SIGNERS_FILE, allowed_signers(round_charter, round_roster))):
        with files.writing(scratch / name, private=False) as file:
            file.write(content.encode())
    files.sync_tree(scratch)
    scratch.rename(out)
    files.sync_folder(out.parent)
    return len(hashes)


def _charter_and_roster(hub: Hub, roster_hash: str) -> tuple[charter.Charter, roster.Roster, list[str]]:
    """The charter and roster of that time, and the hashes of all charters and rosters up to them."""
    rosters = _hashes_up_to(hub, "roster", roster_hash)
    charters = _hashes_up_to(hub, "charter", hub.read_json(roster_hash)[0].context["charter"])
    round_charter: charter.Charter | None = None
    for hash_ in charters:
        statement, signers, payload = hub.read_json(hash_)
        round_charter = (
            charter.read_next(round_charter, statement, signers, payload)
            if round_charter
            else charter.read_first(statement, signers, payload)
        )
    assert round_charter  # noqa: S101 - a roster names one
    return round_charter, roster.read(*hub.read_json(roster_hash), round_charter), charters + rosters


def _hashes_up_to(hub: Hub, kind: str, last: str) -> list[str]:
    hashes = parcels_table.hashes(hub.database, kind)
    return hashes[: hashes.index(last) + 1]
