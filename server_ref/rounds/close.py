"""Rounds: opened, closed, merged, and undone where a site turns out to have been false.

A round is `open`, then `merged`, or `failed` where too few shares came: then its model is the one that it began with.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from fedhelp_edge import files, update
from fedhelp_edge.codec import CODECS
from fedhelp_edge.errors import (
    AmbiguousError,
    FileKindError,
    HubDamagedError,
    NotNowError,
    QuorumError,
    SignerRevokedError,
)
from fedhelp_edge.merge import early_stopping, outliers, rules
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import spec
from fedhelp_edge.parcel import age, parcel
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.statement import iso, when
from fedhelp_edge.safe_text import shortened
from fedhelp_edge.trust import task
from fedhelp_edge.update import Array
from server_ref.hub.hub import Hub, to_json
from server_ref.intake import partial
from server_ref.intake.receive import (
    ACCEPTED,
    QUARANTINED,
    REFUSED,
    RELEASABLE,
    SHORT,
    SUPERSEDED,
    check_sender,
    check_shown,
    decide,
    is_short,
    job,
    opened,
    round_key,
    schema_of,
)
from server_ref.intake.sandbox import Opener

CLAIMS = ("examples", "val", "correct")  # what a site says about itself, and nobody else can check
OPEN, DONE, FAILED = "open", "merged", "failed"


def newest(hub: Hub) -> sqlite3.Row:
    return hub.store.only("SELECT * FROM rounds ORDER BY round DESC LIMIT 1")


def current(hub: Hub) -> sqlite3.Row:
    found = newest(hub)
    if found["state"] != OPEN:
        raise NotNowError("no round is open", remedy="'fedhelp-coordinator open' opens the next one")
    return found


# --- open ------------------------------------------------------------------------------
def check_open(hub: Hub, *, start: bool = False) -> None:
    """Refuse to open a round where none can be opened."""
    last, plan = newest(hub), hub.plan
    if last["state"] == OPEN:
        raise NotNowError(f"round {last['round']} is open")
    if is_finished(hub):
        raise NotNowError("the federation is finished")
    if plan.start.source == "pack" and last["round"] == 0 and not start:
        raise NotNowError(
            "the plan begins from weights that were trained on the pack",
            remedy="'fedhelp-edge knowledge start PLAN PACK --out start.safetensors' makes them; then open --start",
        )
    if start and last["round"] > 0:
        raise NotNowError("first weights come before the first round")


def open_next(hub: Hub, boss: Keys, start: Mapping[str, Array] | None = None) -> task.Task:
    """Open the next round: a key of its own, and the order that everybody may follow."""
    plan, key = hub.plan, age.new_identity()
    schema = METHODS[plan.method].schema(plan)
    wire = CODECS[plan.wire.up].wire(schema)
    with hub.store.changing():
        check_open(hub, start=start is not None)
        last = newest(hub)
        number = last["round"] + 1
        model = last["model"]
        if start is not None:
            model = hub.keep_model(spec.begin_from(hub.model(model), start)[0])
            hub.store.run("UPDATE rounds SET model = ? WHERE round = 0", model)
            hub.publish_model(boss, 0, model, [], "start")
        keep_key(hub, [boss], number, key)
        opens = hub.now
        closes = opens + timedelta(days=plan.round.days)
        if hub.roster.expires < closes:  # nobody came or left for long
            hub.log("renew", "roster")
            hub.write_roster(boss, hub.roster.sites)
        known = hub.roster
        recipients = [age.recipient_of(key), known.archive]
        log = hub.log("open", f"round {number}", model=model)
        body = task.body(
            plan.text, schema, recipients, age.encrypted_size(parcel.INNER_LIMIT + wire.size, len(recipients)),
            hub.store.fact("knowledge"), opens, closes, log,
        )  # fmt: skip
        said = hub.publish(
            "task", to_json(body), boss, number=number, federation=hub.federation, epoch=hub.charter.epoch,
            round=number, roster=known.hash, roster_version=known.version, base=model,
        )  # fmt: skip
        values = number, OPEN, said.hash, model, "", iso(closes)
        hub.store.run("INSERT INTO rounds (round, state, task, base, model, closes) VALUES (?, ?, ?, ?, ?, ?)", *values)
    return hub.tasks(number)[number]


def is_finished(hub: Hub) -> bool:
    last = newest(hub)
    return last["state"] != OPEN and bool(hub.store.fact("finished") or last["round"] >= hub.plan.rounds)


def keep_key(hub: Hub, readers: Sequence[Keys], round_: int, key: str) -> None:
    """Seal the key of a round under the coordinator's; while that changes, under the old and the new one.

    What is there is replaced: the same key, or that of an attempt that was cut off, whose task nobody has seen.
    """
    sink = io.BytesIO()
    age.encrypt(io.BytesIO(key.encode()), sink, [reader.public.recipient for reader in readers])
    files.replace(hub.home / "round-keys" / f"{round_:06}.age", sink.getvalue())


# --- close ------------------------------------------------------------------------------
class Shares(Mapping[str, Mapping[str, Array]]):
    """The opened shares of a round, each read from its file when its turn comes, and only if it is what was judged.

    What is gone or was changed is opened anew by `again`, from the parcel that the site sent; it gives the file's hash.
    """

    def __init__(
        self, opened_as: Mapping[str, tuple[Path, str]], header: update.Header, again: Callable[[str], str]
    ) -> None:
        self._files, self._header, self._again = dict(opened_as), header, again
        self._known: dict[str, tuple[int, ...]] = {}  # the files that were hashed

    def only(self, sites: Iterable[str]) -> Shares:
        fewer = Shares({site: self._files[site] for site in sites}, self._header, self._again)
        fewer._known = self._known
        return fewer

    def __getitem__(self, site: str) -> update.Arrays:
        path, sha256 = self._files[site]
        if (mapped := self._map(site)) is None:
            self._files[site] = path, self._again(site)
            if self._files[site][1] != (sha256 or self._files[site][1]) or (mapped := self._map(site)) is None:
                raise HubDamagedError(f"the share of {site} does not open to the numbers that were judged")
        return update.Arrays(mapped, self._header)

    def _map(self, site: str) -> mmap.mmap | None:
        path, sha256 = self._files[site]
        with suppress(FileNotFoundError, FileKindError, ValueError):  # an empty file cannot be mapped
            with files.reading(path, follow=False) as file:  # a map outlives the file, and goes with its last reader
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                seen = os.fstat(file.fileno())
            mark = seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns
            if self._known.get(site) == mark:
                return mapped
            if hashlib.sha256(mapped).hexdigest() == sha256:
                self._known[site] = mark
                return mapped
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def standing(hub: Hub, row: sqlite3.Row) -> tuple[list[str], list[str]]:
    """Whose share for a round was accepted, and who is missing."""
    accepted = [r["site"] for r in hub.store.rows(
        "SELECT site FROM shares WHERE counts = ? AND state = 'accepted' ORDER BY site", row["round"]
    )]  # fmt: skip
    expected = [site.id for site in hub.roster.active(row["round"])]
    here = set(accepted)
    return accepted, [site for site in expected if site not in here]


def aggregate(hub: Hub, boss: Keys, *, now: bool = False) -> dict[str, Any]:
    """Close the open round if it is due, and merge what was accepted."""
    forget(hub)  # what a run that was cut off has left
    with hub.store.changing():
        hub.verify()
        row = current(hub)
        _refuse_revoked(hub, boss, row)
    accepted, missing = standing(hub, row)
    closes = when(row["closes"])
    over = hub.now >= closes and not partial.awaited(hub, row["round"], closes)
    shares = _look_closer(hub, boss, row) if over or now or not missing else None
    accepted, missing = standing(hub, row)
    quorum = hub.plan.round.quorum
    if shares is None or len(accepted) < quorum or (missing and not over and not now):
        if over:
            call_off(hub, row, "fail")
        who = f"; missing: {shortened(missing)}" if missing else ""
        raise QuorumError(f"{len(accepted)} of {len(accepted) + len(missing)} shares, {quorum} are needed{who}")
    rows = {r["site"]: r for r in _accepted(hub, row)}
    model, inputs = _merge(hub, row, rows, shares.only(rows))
    with hub.store.changing():
        if newest(hub) != row or _accepted(hub, row) != list(rows.values()):
            raise HubDamagedError("the round was changed while it was merged")
        name = hub.keep_model(model)
        hub.store.run("UPDATE rounds SET report = ? WHERE round = ?", json.dumps(_report(hub, row)), row["round"])
        hub.store.run("UPDATE shares SET state = 'merged' WHERE counts = ? AND state = 'accepted'", row["round"])
        hub.store.run("UPDATE rounds SET state = 'merged', model = ? WHERE round = ?", name, row["round"])
        hub.publish_model(boss, row["round"], name, inputs, "merge", shares=len(inputs), task=row["task"])
        if _is_tired(hub):
            finish(hub)
    forget(hub)
    return outcome(hub, row["round"])


def outcome(hub: Hub, round_: int) -> dict[str, Any]:
    """What `aggregate --json` tells of a round."""
    row = hub.store.only("SELECT * FROM rounds WHERE round = ?", round_)
    shares = hub.store.rows("SELECT * FROM shares WHERE counts = ? ORDER BY site, round", round_)
    of = {
        state: [s for s in shares if s["state"] in state.split()]
        for state in ("accepted merged", "quarantined", "refused")
    }
    claims = {s["site"]: json.loads(s["facts"]) for s in of["accepted merged"]}
    parts = rules.parts({site: facts["examples"] for site, facts in claims.items()}, hub.plan.merge)
    why = {
        state: [{name: s[name] for name in ("site", "code", "cause")} for s in of[state]]
        for state in ("quarantined", "refused")
    }
    return {
        "round": round_, "accepted": [s["site"] for s in of["accepted merged"]], **why,
        "merged_sha256": row["model"] or None, "published": row["state"] == DONE,
        "claims": [
            {"site": site, **{name: facts.get(name, 0) for name in CLAIMS}, "part": parts.get(site)}
            for site, facts in claims.items()
        ],
    }  # fmt: skip


def _refuse_revoked(hub: Hub, boss: Keys, row: sqlite3.Row) -> None:
    """A site that was revoked after its share was accepted does not count either."""
    for accepted in _accepted(hub, row):
        try:
            check_sender(hub, accepted)
        except SignerRevokedError as fault:
            decide(hub, boss, accepted, REFUSED, row["round"], fault.code, fault.cause)


def _look_closer(hub: Hub, boss: Keys, row: sqlite3.Row) -> Shares:
    """Statistics over all shares of the round, once it is to close: what is odd waits for a person.

    What waits already is looked at again: a copy is one also when its twin was put aside before.
    """
    query = "SELECT * FROM shares WHERE counts = ? AND state = 'quarantined' ORDER BY seq"
    odd = {r["site"]: r for r in hub.store.rows(query, row["round"]) if r["code"] in RELEASABLE}
    rows = odd | {r["site"]: r for r in _accepted(hub, row)}
    base = hub.model(row["base"])
    facts = {site: json.loads(r["facts"]) for site, r in rows.items()}

    def again(site: str) -> str:
        with Opener() as opener:
            return opener.open(job(hub, round_key(hub, boss, rows[site]["round"]), rows[site], row["base"])).sha256

    plain = {site: (opened(hub, r["hash"]), facts[site].get("sha256", "")) for site, r in rows.items()}
    shares = Shares(plain, schema_of(hub).header, again)
    found = outliers.suspects(base, shares, {site: told["pull"] for site, told in facts.items()})
    if rules.weighs(hub.plan.merge):
        claimed = {site: facts[site]["examples"] for site in facts}
        for site, fault in outliers.inflated(claimed, _released(hub)).items():
            found[site] = type(found[site])(f"{found[site].cause}; {fault.cause}") if site in found else fault
    with hub.store.changing():  # all of them or none: the verdict on each rests on all
        for site, fault in found.items():
            if rows[site]["state"] == ACCEPTED and not rows[site]["released"]:
                decide(hub, boss, rows[site], QUARANTINED, row["round"], fault.code, fault.cause)
    return shares


def _released(hub: Hub) -> dict[str, int]:
    """By site the largest number of images of a share that a person let in."""
    claims: dict[str, int] = {}
    for row in hub.store.rows("SELECT site, facts FROM shares WHERE released AND state IN ('accepted', 'merged')"):
        claims[row["site"]] = max(claims.get(row["site"], 0), json.loads(row["facts"])["examples"])
    return claims


def _accepted(hub: Hub, row: sqlite3.Row) -> list[sqlite3.Row]:
    return hub.store.rows("SELECT * FROM shares WHERE counts = ? AND state = 'accepted' ORDER BY site", row["round"])


def _merge(
    hub: Hub, row: sqlite3.Row, rows: Mapping[str, sqlite3.Row], shares: Shares
) -> tuple[dict[str, Array], list[str]]:
    facts = {site: json.loads(r["facts"]) for site, r in rows.items()}
    examples = {site: found["examples"] for site, found in facts.items()}
    pulls = {site: found["pull"] for site, found in facts.items()}
    merged = rules.merge(hub.model(row["base"]), shares, examples, hub.plan.merge, pulls)
    update.check_numbers(merged)
    return merged, [rows[site]["hash"] for site in sorted(rows)]


def _report(hub: Hub, row: sqlite3.Row) -> dict[str, dict[str, list[int]]]:
    """By site the claimed validation images, and how many the model that this round began with got right."""
    facts = {r["site"]: json.loads(r["facts"]) for r in _accepted(hub, row)}
    return {"sites": {site: [found.get("val", 0), found.get("correct", 0)] for site, found in facts.items()}}


def _is_tired(hub: Hub) -> bool:
    """Whether the merged model has not become better for as many rounds as the plan has patience."""
    rows = hub.store.rows("SELECT report FROM rounds WHERE state = 'merged' AND task != '' ORDER BY round")
    reports = [json.loads(row["report"]).get("sites", {}) for row in rows]
    return early_stopping.is_spent(reports, hub.plan.round.patience)


def forget(hub: Hub) -> None:
    """Destroy the keys of rounds that no share counts for any more, and what was opened of merged and refused ones."""
    round_ = hub.store.only("SELECT max(round) AS merged FROM rounds WHERE state = 'merged'")["merged"]
    for path in (hub.home / "round-keys").glob("*.age"):
        if int(path.stem) <= round_ - hub.plan.round.stale:
            path.unlink()
    for path in (hub.home / "shares").glob("*.safetensors"):
        row = hub.store.row("SELECT state, counts FROM shares WHERE hash = ?", path.stem)
        if row and (row["state"] == REFUSED or (row["counts"] <= round_ and row["state"] != QUARANTINED)):
            path.unlink()


# --- a person decides ------------------------------------------------------------------------------
def quarantined(hub: Hub) -> list[sqlite3.Row]:
    return hub.store.rows("SELECT * FROM shares WHERE state = 'quarantined' ORDER BY site, round, seq")


def update_of(hub: Hub, name: str) -> sqlite3.Row:
    """The quarantined update that a person means: by its hash, or by its site where only one waits, as it was shown."""
    rows = quarantined(hub)
    if found := [row for row in rows if is_short(name, row["hash"])]:
        if len(found) == 1:
            return found[0]
    elif not (found := [row for row in rows if row["site"] == name]):
        raise NotNowError(
            f"nothing of {name} waits for a decision", remedy="see what waits with 'fedhelp-coordinator review'"
        )
    if len(found) > 1:
        listed = ", ".join(f"{row['hash'][:SHORT]} of round {row['round']}" for row in found)
        remedy = "see why with 'fedhelp-coordinator review', then decide on each by its hash in place of its site"
        raise AmbiguousError(f"{len(found)} updates of {found[0]['site']} wait: {listed}", remedy=remedy)
    check_shown(hub, "updates", found[0]["site"], found[0]["hash"])
    return found[0]


def review(hub: Hub, boss: Keys, name: str, *, release: bool) -> dict[str, str]:
    """Let a quarantined update in, or refuse it for good. `name` is its hash, or its site where only one waits."""
    with hub.store.changing():
        hub.verify()
        return _review(hub, boss, update_of(hub, name), release=release)


def _review(hub: Hub, boss: Keys, row: sqlite3.Row, *, release: bool) -> dict[str, str]:
    site = row["site"]
    if not release:
        opened(hub, row["hash"]).unlink(missing_ok=True)
        return decide(hub, boss, row, "refused", row["counts"], row["code"], row["cause"])
    if row["code"] not in RELEASABLE:
        raise NotNowError(
            f"a share with {row['code']} cannot be let in",
            remedy=f"'fedhelp-coordinator review {row['hash'][:SHORT]} --refuse', then ask the site",
        )
    now = current(hub)
    if row["round"] < now["round"] - hub.plan.round.stale:
        raise NotNowError(f"the share is of round {row['round']}, too old to count now")
    facts = row["facts"]
    if row["counts"] != now["round"]:  # its round is over: it comes in as a late one
        with Opener() as opener:
            found = opener.open(job(hub, round_key(hub, boss, row["round"]), row, now["base"]))
        facts = found.told()
    hub.store.run("UPDATE shares SET released = 1 WHERE hash = ?", row["hash"])
    for other in hub.store.rows(
        "SELECT * FROM shares WHERE site = ? AND counts = ? AND state = 'accepted'", site, now["round"]
    ):
        newer = other["round"] > row["round"]
        decide(hub, boss, row if newer else other, SUPERSEDED, now["round"])
        if newer:
            return {"site": site, "state": SUPERSEDED, "code": "", "cause": ""}
    return decide(hub, boss, row, ACCEPTED, now["round"], facts=facts)


def gave(hub: Hub, site: str) -> bool:
    """Whether a merged model rests on a site's updates."""
    return bool(hub.store.row("SELECT 1 FROM shares WHERE site = ? AND state = 'merged'", site))


def check_undo(hub: Hub, site: str) -> None:
    """Refuse to merge again what holds nothing of a site."""
    plan = hub.plan
    if not METHODS[plan.method].exchanges:
        raise NotNowError(f"{plan.method} merges nothing")
    if not gave(hub, site):
        raise NotNowError(f"no merged round holds a share of {site}")
    last = newest(hub)
    query = "SELECT detail FROM log WHERE type = 'undo' AND subject = ?"
    undone = hub.store.row(query, f"round {last['round']}")
    if undone and json.loads(undone["detail"])["without"] == site:
        raise NotNowError(f"round {last['round']} was merged again without {site} already")


def undo(hub: Hub, boss: Keys, site: str, archive: Keys) -> dict[str, Any]:
    """Merge all rounds again without a site's shares: G'_t = G'_{t-1} + merge(share_i,t - G_{t-1}) over the others.

    The result is a model of a new number, from which the next round begins. An open round is called off.
    """
    check_undo(hub, site)
    last = newest(hub)
    if last["state"] == OPEN:
        call_off(hub, last)
        last = newest(hub)
    rounds = hub.store.rows("SELECT * FROM rounds WHERE state = 'merged' AND task != '' ORDER BY round")
    first = hub.store.only("SELECT min(counts) AS round FROM shares WHERE site = ? AND state = 'merged'", site)
    new = ""  # the model so far, once it differs
    with Opener() as opener:
        for row in rounds:
            if row["round"] >= first["round"]:
                new = _merge_again(hub, row, site, new or row["base"], archive, opener)
    with hub.store.changing():
        number = last["round"] + 1
        values = number, DONE, "", last["model"], new, ""
        hub.store.run("INSERT INTO rounds (round, state, task, base, model, closes) VALUES (?, ?, ?, ?, ?, ?)", *values)
        hub.publish_model(boss, number, new, [], "undo", without=site)
    return {"round": number, "without": site, "merged_sha256": new}


def _merge_again(hub: Hub, row: sqlite3.Row, site: str, new: str, archive: Keys, opener: Opener) -> str:
    """One round's merge without a site, upon another base."""
    query = "SELECT * FROM shares WHERE counts = ? AND state = 'merged' AND site != ? ORDER BY site"
    rows = {r["site"]: r for r in hub.store.rows(query, row["round"], site)}
    if not rows:
        return new
    try:
        found = {who: opener.open(job(hub, archive.identity, r, new)) for who, r in rows.items()}
        plain = {who: (opened(hub, r["hash"]), found[who].sha256) for who, r in rows.items()}
        shares = Shares(plain, schema_of(hub).header, lambda who: found[who].sha256)
        examples = {who: one.facts["examples"] for who, one in found.items()}
        pulls = {who: one.pull for who, one in found.items()}
        base = hub.model(new)
        return hub.keep_model(rules.merge(base, shares, examples, hub.plan.merge, pulls))
    finally:
        for r in rows.values():
            opened(hub, r["hash"]).unlink(missing_ok=True)


def call_off(hub: Hub, row: sqlite3.Row, type_: str = "call off") -> None:
    """End an open round without a merge; what came for it is judged anew in the next one, as late."""
    with hub.store.changing():
        hub.store.run("UPDATE rounds SET state = 'failed', model = base WHERE round = ?", row["round"])
        query = "UPDATE shares SET state = 'received', counts = 0 WHERE counts = ? AND state = 'accepted'"
        hub.store.run(query, row["round"])
        hub.log(type_, f"round {row['round']}")


def finish(hub: Hub) -> None:
    """No further rounds: the last model stays."""
    if hub.store.fact("finished"):
        return
    with hub.store.changing():
        hub.store.keep_fact("finished", iso(hub.now))
        hub.log("finish", "coordinator")
