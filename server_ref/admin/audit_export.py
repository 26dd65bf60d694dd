"""What a round was made of, as a folder that anybody can check without a key."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import NotNowError, TargetExistsError
from fedhelp_edge.trust import charter, roster
from fedhelp_edge.trust.account import LOG, SIGNERS, account, allowed_signers
from server_ref.hub.hub import Hub


def export(hub: Hub, round_: int, out: Path) -> int:
    """The parcels of a round, the log up to its model, and who could sign what then; how many parcels there are.

    All of it is bound: the receipt of the model signs the log, and the log names the rest.
    """
    lines = list(hub.store.lines())
    told = account([line for line, _ in lines], round_)
    if told is None:
        raise NotNowError(f"round {round_} has no model, or one that the log does not name")
    end, detail = told.model["seq"], told.model["detail"]
    law, known, hashes = _lawful(hub, detail["roster"])
    hashes += [detail["parcel"], *detail.get("others", []), *([detail["task"]] if "task" in detail else [])]
    hashes += told.updates
    for about in (detail["parcel"], *told.updates):
        for row in hub.store.rows("SELECT hash FROM parcels WHERE kind = 'receipt' AND site = ? ORDER BY rowid", about):
            if hub.plain(row["hash"])[2]["log"]["length"] <= end:
                hashes.append(row["hash"])
    if os.path.lexists(out):
        raise TargetExistsError(f"{out.name} is there already")
    part = out.with_name(f".{out.name}.part")  # the folder is there whole or not at all
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for hash_ in hashes:
        shutil.copyfile(hub.store.path(hash_), part / f"{hash_}.fhx")
    text = "".join(json.dumps({**line, "hash": kept}, sort_keys=True) + "\n" for line, kept in lines[:end])
    for name, content in ((LOG, text), (SIGNERS, allowed_signers(law, known))):
        with files.writing(part / name, private=False) as file:
            file.write(content.encode())
    files.sync_tree(part)
    part.rename(out)
    files.sync_folder(out.parent)
    return len(hashes)


def _lawful(hub: Hub, newest: str) -> tuple[charter.Charter, roster.Roster, list[str]]:
    """The charter and roster of that time, and the parcels that lead to them."""
    rosters = _until(hub, "roster", newest)
    charters = _until(hub, "charter", hub.plain(newest)[0].context["charter"])
    law: charter.Charter | None = None
    for hash_ in charters:
        said, signers, holds = hub.plain(hash_)
        law = charter.follow(law, said, signers, holds) if law else charter.first(said, signers, holds)
    assert law  # noqa: S101 - a roster names one
    return law, roster.read(*hub.plain(newest), law), charters + rosters


def _until(hub: Hub, kind: str, newest: str) -> list[str]:
    rows = hub.store.rows("SELECT hash FROM parcels WHERE kind = ? ORDER BY number, rowid", kind)
    hashes = [row["hash"] for row in rows]
    return hashes[: hashes.index(newest) + 1]
