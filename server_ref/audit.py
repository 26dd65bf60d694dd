"""What a round was made of, as a folder that anybody can check without a key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import NotNow
from fedhelp_edge.parcel import statement
from fedhelp_edge.trust.roster import Roster
from server_ref.hub import Hub

LOG, SIGNERS = "log.jsonl", "allowed_signers"


def export(hub: Hub, round_: int, out: Path) -> int:
    """The parcels of a round, the whole log, and who may have signed what; how many parcels there are."""
    row = hub.store.row("SELECT * FROM rounds WHERE round = ?", round_)
    if row is None or not row["model"]:
        raise NotNow(f"round {round_} is not over")
    found = [r["hash"] for r in hub.store.rows("SELECT hash FROM parcels WHERE kind IN ('charter', 'roster')")]
    found += [
        r["hash"] for r in hub.store.rows("SELECT hash FROM parcels WHERE kind = 'global' AND number = ?", round_)
    ]
    found += [row["task"]] if row["task"] else []
    for share in hub.store.rows("SELECT hash FROM shares WHERE counts = ? OR round = ?", round_, round_):
        found.append(share["hash"])
        query = "SELECT hash FROM parcels WHERE kind = 'receipt' AND site = ? ORDER BY rowid"
        found += [r["hash"] for r in hub.store.rows(query, share["hash"])]
    out.mkdir(parents=True)
    for hash_ in found:
        shutil.copyfile(hub.store.path(hash_), out / f"{hash_}.fhx")
    lines = (json.dumps({**line, "hash": kept}, sort_keys=True) for line, kept in hub.store.lines())
    with files.writing(out / LOG, private=False) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
    with files.writing(out / SIGNERS, private=False) as file:
        file.write(allowed_signers(hub, hub.roster).encode())
    return len(found)


def allowed_signers(hub: Hub, known: Roster) -> str:
    """For `ssh-keygen -Y verify -f`: each key, and the kinds of parcel that it may sign."""
    law = hub.charter
    rows: list[tuple[str, str, tuple[str, ...]]] = [("root", key, ("charter",)) for key in law.roots]
    rows += [("coordinator", law.coordinator, ("roster", "task", "global", "receipt", "knowledge"))]
    rows += [("front", known.front, ("receipt",))]
    rows += [(site.id, site.sign, ("update", "enrol", "rotate")) for site in known.sites if site.status == "active"]
    return "".join(
        f'{who} namespaces="{",".join(map(statement.namespace, kinds))}" {key}\n' for who, key, kinds in rows
    )
