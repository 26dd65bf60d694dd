"""A hub: the folder in which a coordinator works, and who belongs to the federation.

hub.db                what is known, and the log; the front writes to it, so coordinator/memory.json says what is ours
coordinator/ front/   their keys; the front's have no passphrase, and may sign nothing but "received"
root/                 the root key, whose age half opens the archive, unless it was put elsewhere
parcels/ models/      all that was sent and given out, and the merged models
round-keys/ shares/   the key of each round that still counts; its shares, opened and checked
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from fedhelp_edge import files, safe_text, update
from fedhelp_edge import plan as plans
from fedhelp_edge.codec import CODECS
from fedhelp_edge.errors import (
    AmbiguousError,
    ClockJumpError,
    FederationFullError,
    HubDamagedError,
    LogBrokenError,
    NotNowError,
    SignerRoleError,
    SiteUnknownError,
)
from fedhelp_edge.methods.registry import METHODS, TABLES
from fedhelp_edge.parcel import canon, keys, parcel, statement
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.statement import ZERO_HASH, Statement, format_time, parse_time
from fedhelp_edge.plan import Plan
from fedhelp_edge.trust import charter, enrol, roster, task
from fedhelp_edge.trust.charter import Charter
from fedhelp_edge.trust.enrol import Invite
from fedhelp_edge.trust.log import Log
from fedhelp_edge.trust.roster import Roster, Site
from fedhelp_edge.trust.task import Task
from fedhelp_edge.update import Array
from server_ref.hub import memory
from server_ref.hub.database import HubDatabase
from server_ref.hub.memory import Memory

_MAX_CLOCK_JUMP = timedelta(days=90)
COORDINATOR, FRONT, ROOT = "coordinator", "front", "root"
CANCELLED = "cancelled"  # in place of the request that used an invite
_COORDINATOR_KINDS = ("charter", "roster", "task", "global", "knowledge")
GROUP_SIZE = 1000  # sites for whom a model is sealed in one parcel: an age file has at most 1,024 readers
ROSTER_LIMIT = statement.KINDS["roster"].limit
ROSTER_SPARE = (
    ROSTER_LIMIT // 16
)  # bytes that no newcomer and no reason takes up, so that every site can still be revoked
_ENTRY_BYTES = 300  # bytes of one site in the roster, besides its name


class Hub:
    """One hub. What needs a key takes it as an argument: a hub that was opened holds none."""

    def __init__(self, home: Path, *, clock: Callable[[], datetime] | None = None) -> None:
        self.home, self.database = home, HubDatabase(home)
        self._clock = clock or (lambda: datetime.now(timezone.utc))
        self._charters: dict[str, Charter] = {}  # what was read from parcels, which never change
        self._rosters: dict[str, Roster] = {}
        self._tasks: dict[str, Task] = {}
        self._askers: dict[str, list[str]] = {}  # by key, the requests that it signed
        self._asked = 0  # the last row among them

    @property
    def now(self) -> datetime:
        """Never before the last line of the log: a clock that is set back opens nothing again."""
        last = self.database.row("SELECT time FROM log ORDER BY seq DESC LIMIT 1")
        clock = self._clock().replace(microsecond=0)
        return max(clock, parse_time(last["time"])) if last else clock

    # --- what is known -------------------------------------------------------------------------------------------
    @cached_property
    def plan(self) -> Plan:
        return plans.read(self.database.fact("plan"), TABLES)

    def check(self) -> Log:
        """The log, if the hub is whole and the log the one of which the hub has told others."""
        published = self.database.row(
            "SELECT hash FROM parcels WHERE kind IN ('receipt', 'task') ORDER BY rowid DESC LIMIT 1"
        )
        self.database.check()
        log = self.database.verify()
        if published:
            published_log = Log(**self.plain(published["hash"])[2]["log"])
            line = self.database.row("SELECT hash FROM log WHERE seq = ?", published_log.length)
            if line is None or line["hash"] != published_log.head:
                raise LogBrokenError(f"line {published_log.length} is not there as others were told of it")
        self.verify()
        return log

    @property
    def url(self) -> str:
        return self.database.fact("url")

    @cached_property
    def federation(self) -> str:
        return self.database.fact("federation")

    @property
    def charter(self) -> Charter:
        newest_hash = self.newest_parcel("charter")["hash"]
        if newest_hash not in self._charters:
            latest: Charter | None = None
            for row in self.database.rows("SELECT hash FROM parcels WHERE kind = 'charter' ORDER BY number"):
                statement, signers, payload = self.plain(row["hash"])
                latest = (
                    charter.read_next(latest, statement, signers, payload)
                    if latest
                    else charter.read_first(statement, signers, payload)
                )
            assert latest  # noqa: S101 - `newest` is one
            self._charters[newest_hash] = latest
        return self._charters[newest_hash]

    @property
    def roster(self) -> Roster:
        newest_hash = self.newest_parcel("roster")["hash"]
        if newest_hash not in self._rosters:
            self._rosters = {newest_hash: roster.read(*self.plain(newest_hash), self.charter)}
        return self._rosters[newest_hash]

    def tasks(self, first_round: int = 1) -> dict[int, Task]:
        """The task of each round from `least` on; those of an epoch that is over are void."""
        first_round = max(first_round, int(self.database.fact("void", "0")) + 1)
        for row in self.database.rows("SELECT task FROM rounds WHERE round >= ? AND task != ''", first_round):
            if row["task"] not in self._tasks:
                self._tasks[row["task"]] = task.read(*self.plain(row["task"]), self.charter, self.roster)
        return {known_task.round: known_task for known_task in self._tasks.values() if known_task.round >= first_round}

    def verify(self) -> None:
        """Within a transaction: what is read in it is what the coordinator wrote."""
        if self.database.memory:
            self.database.memory.check()

    def signing_keys(self, site: str) -> Iterator[str]:
        """A site's keys, the newest first: it may have changed them while a share was on its way."""
        current = self.roster.site(site)
        yield from [current.sign] if current else []
        for row in self.database.rows("SELECT hash FROM parcels WHERE kind = 'roster' ORDER BY number DESC"):
            yield from (entry["sign"] for entry in self.plain(row["hash"])[2]["sites"] if entry["id"] == site)

    def newest_parcel(self, kind: str) -> Any:
        row = self.database.row("SELECT * FROM parcels WHERE kind = ? ORDER BY number DESC, rowid DESC LIMIT 1", kind)
        if row is None:
            raise NotNowError(f"there is no {kind} yet")
        return row

    def plain(self, hash_: str) -> tuple[Statement, tuple[str, ...], dict[str, Any]]:
        """A parcel of our own that holds JSON: its statement, who signed it, what it holds."""
        path = self.database.path(hash_)
        if not path.exists():
            raise HubDamagedError(f"parcel {hash_[:12]} is gone from the disk")
        with parcel.open(path, parcel.any_signer) as opened:
            if opened.statement.hash != hash_:
                raise HubDamagedError(f"parcel {hash_[:12]} is not the one that its name says")
            return opened.statement, opened.keys, opened.json()

    def front(self) -> Keys:
        return keys.load(self.front_folder, _refuse_passphrase)

    @property
    def front_folder(self) -> Path:
        """Where the front is another system user, the coordinator has a copy of its keys beside its own."""
        folder = self.home / FRONT
        return folder if os.access(folder, os.X_OK) else self.home / COORDINATOR / FRONT

    def coordinator_keys(self, ask: Callable[[], str]) -> Keys:
        """The coordinator's keys, and with them its memory."""
        coordinator_keys = keys.load(self.coordinator_folder, ask)
        if coordinator_keys.public.sign != self.charter.coordinator:
            raise SignerRoleError(
                f"the keys in {self.coordinator_folder.name} are not those of the charter's coordinator"
            )
        self.open_memory(coordinator_keys)
        return coordinator_keys

    def open_memory(self, coordinator_keys: Keys) -> None:
        """From here on this hub knows what the coordinator did, and writes down what it does."""
        self.database.memory = Memory(
            self.memory, self.coordinator_folder.name, coordinator_keys, self.database.ledger, self.database.head, self._has_memory,
            self._begin_memory,
        )  # fmt: skip

    def _has_memory(self) -> bool:
        return bool(self.database.row("SELECT 1 FROM log WHERE type = 'memory'"))

    def _begin_memory(self) -> None:
        last = self.database.row("SELECT time FROM log ORDER BY seq DESC LIMIT 1")
        self.database.log(last["time"] if last else format_time(self.now), "memory", COORDINATOR)

    @property
    def memory(self) -> Path:
        return self.home / COORDINATOR / memory.FILE

    @property
    def coordinator_folder(self) -> Path:
        """Where the database and the coordinator's memory both say that its keys are; without one, beside its place."""
        name = self.database.fact("boss", COORDINATOR)
        if name not in (memory.key_folders(self.memory) or {COORDINATOR}) or not re.fullmatch(
            rf"{COORDINATOR}(-[0-9]+)?", name
        ):
            raise HubDamagedError(f"{name[:40]!r} is not the folder of the coordinator's keys")
        return self.home / name

    # --- what is given out ---------------------------------------------------------------------------------------
    def publish(
        self, kind: str, body: bytes | BinaryIO, signer: Keys | Sequence[Keys], *, number: int = 0, site: str = "",
        recipients: Sequence[str] = (), facts: Mapping[str, canon.Value] | None = None, **fields: canon.Value,
    ) -> Statement:  # fmt: skip
        """Seal a parcel and remember it, within a transaction."""
        if not self.database.memory and isinstance(signer, Keys) and signer.public.sign == self.charter.coordinator:
            self.open_memory(signer)
        if self.database.memory and kind in _COORDINATOR_KINDS:
            self.database.memory.publishes = True
        context = statement.new_context(kind, self.now, **fields)
        signers = [signer.sign] if isinstance(signer, Keys) else [each.sign for each in signer]
        part = self.home / f".{os.urandom(8).hex()}.part"
        try:
            sealed = parcel.seal(part, context, body, signers, recipients, facts=facts)
            self.keep(part, sealed, number, site)
        finally:
            part.unlink(missing_ok=True)
        return sealed

    def keep(self, part: Path, statement: Statement, number: int, site: str) -> None:
        """Give a file that was flushed to the disk its name, and a row."""
        path = self.database.path(statement.hash)
        files.share_with_group(part)
        part.replace(path)
        files.sync_folder(path.parent)
        values = statement.hash, statement.kind, number, site, statement.line.decode()
        self.database.run("INSERT INTO parcels VALUES (?, ?, ?, ?, ?)", *values)

    def log(self, type_: str, subject: str, **detail: canon.Value) -> Log:
        self.check_clock()
        return self.database.log(format_time(self.now), type_, subject, **detail)

    def check_clock(self) -> None:
        """Raises when the clock is far from what the hub knows of the time."""
        clock, last = self._clock(), self.database.row("SELECT time FROM log ORDER BY seq DESC LIMIT 1")
        if last is None:
            return
        newest = self.database.row("SELECT closes FROM rounds ORDER BY round DESC LIMIT 1")
        written = parse_time(last["time"])
        latest = max(written, parse_time(newest["closes"])) if newest and newest["closes"] else written
        if not written - _MAX_CLOCK_JUMP <= clock <= latest + _MAX_CLOCK_JUMP:
            raise ClockJumpError(f"the clock says {format_time(clock)}, and the last line of the log {last['time']}")

    def accept_clock(self) -> Log:
        """Write a line that a person says has the right time; later lines follow from it."""
        try:
            self.check_clock()
        except ClockJumpError:
            with self.database.transaction():
                return self.database.log(format_time(self._clock()), "clock", COORDINATOR)
        return self.database.head()

    # --- models --------------------------------------------------------------------------------------------------
    def save_model(self, arrays: Mapping[str, Array]) -> str:
        """Keep a model as it will travel; its name is the hash of these bytes."""
        wire, _ = CODECS[self.plan.wire.down].encode(arrays, {}, {})
        file = io.BytesIO()
        update.write(file, wire)
        name = hashlib.sha256(file.getvalue()).hexdigest()
        try:
            self.wire(name)
        except HubDamagedError:  # not there yet, or not what its name says
            files.write_atomic(self.database.model(name), file.getvalue())
        return name

    def wire(self, name: str) -> bytes:
        """A kept model's file, if it is the one that has this name."""
        try:
            with files.reading(self.database.model(name)) as file:
                data = file.read()
        except FileNotFoundError:
            raise HubDamagedError(f"model {name[:12]} is gone from the disk") from None
        if hashlib.sha256(data).hexdigest() != name:
            raise HubDamagedError(f"model {name[:12]} is not the one that was kept")
        return data

    def model(self, name: str) -> dict[str, Array]:
        data = self.wire(name)
        wire = dict(update.FileArrays(data, update.read_header(io.BytesIO(data))))
        return dict(CODECS[self.plan.wire.down].decode(wire, {}))

    def seal_model(
        self, coordinator_keys: Keys, round_: int, name: str, inputs: Sequence[str], sites: Collection[str] = ()
    ) -> list[Statement]:
        """Seal a model to the active sites and to the hub itself, in one parcel for each group of sites.

        With `sites`, seals only the parcels of their groups. The facts list the inputs where these fit into their line;
        the log names them in any case, and the statement binds their hash.
        """
        readers: dict[str, set[str]] = {}
        for site in self.roster.sites:
            if site.status == roster.ACTIVE:
                readers.setdefault(group_of(site.id), {coordinator_keys.public.recipient}).add(site.recipient)
        readers = readers or {FIRST_GROUP: {coordinator_keys.public.recipient}}
        chosen_groups = {group_of(site) for site in sites} or readers.keys()
        listed_inputs = {"inputs": list(inputs)} if len(inputs) <= GROUP_SIZE else {}
        return [
            self.publish(
                "global", self.wire(name), coordinator_keys, number=round_, site=group, recipients=recipients,
                facts={**listed_inputs, "readers": recipients}, federation=self.federation,
                epoch=self.charter.epoch, round=round_, base=name,
                readers=statement.list_digest(recipients), inputs=statement.list_digest(inputs),
            )
            for group, recipients in sorted((group, sorted(readers[group])) for group in chosen_groups)
        ]  # fmt: skip

    def model_parcel(self, group: str) -> str:
        """The newest model as it was last sealed to a group of sites: the parcel's hash, or "".

        Until the first round opens no site gets one: `open --start` may still replace the first weights, and a site
        that knows two models of one round refuses the second.
        """
        if not self.database.row("SELECT 1 FROM rounds WHERE round > 0"):
            return ""
        query = "SELECT hash, line FROM parcels WHERE kind = 'global' AND site = ? ORDER BY rowid DESC LIMIT 1"
        if row := self.database.row(query, group):
            context = statement.parse(row["line"].encode()).context
            if (context["epoch"], context["base"]) == (self.charter.epoch, self._newest_model()["model"]):
                return str(row["hash"])
        return ""

    def model_parcels(self) -> list[str]:
        """The newest model, sealed to every group."""
        groups = {FIRST_GROUP, *(group_of(site.id) for site in self.roster.sites)}
        return [hash_ for group in sorted(groups) if (hash_ := self.model_parcel(group))]

    def publish_model(
        self, coordinator_keys: Keys, round_: int, name: str, inputs: Sequence[str], type_: str, **detail: canon.Value
    ) -> None:
        """Seal a round's new model, within a transaction; a line of the log binds all that it rests on, and a signed
        receipt binds the log."""
        first, *others = (sealed.hash for sealed in self.seal_model(coordinator_keys, round_, name, inputs))
        subject = f"round {round_}" if round_ else COORDINATOR
        if others:  # of the other groups of sites
            detail["others"] = others
        log = self.log(type_, subject, model=name, parcel=first, roster=self.roster.hash, **detail)
        self.receipt(coordinator_keys, COORDINATOR, first, "published", log)

    def receipt(self, signer: Keys, role: str, about: str, state: str, log: Log, **why: str) -> str:
        """What became of a parcel, signed together with the log as it stands then."""
        body = {"state": state, "code": "", "cause": "", **why, "log": {"length": log.length, "head": log.head}}
        sealed = self.publish(
            "receipt", to_json(body), signer, site=about, federation=self.federation, epoch=self.charter.epoch,
            sender=role, about=about,
        )  # fmt: skip
        return sealed.hash

    def begin(self, plan: Plan, new_keys: Mapping[str, Keys], url: str) -> None:
        """The first rows of a new hub."""
        for name, value in (("plan", plan.text), ("url", url)):
            self.database.set_fact(name, value)
        body = charter.body(plan.name, (new_keys[ROOT].public.sign,), new_keys[COORDINATOR].public.sign)
        sealed = self.publish(
            "charter", to_json(body), new_keys[ROOT], number=1, epoch=1, version=1, previous=ZERO_HASH
        )
        self.database.set_fact("federation", charter.federation_id(sealed))
        self.log("charter", COORDINATOR, version=1)
        self.write_roster(new_keys[COORDINATOR], [], new_keys[FRONT].public.sign, new_keys[ROOT].public.recipient)
        model = self.save_model(METHODS[plan.method].start(plan))
        values = "INSERT INTO rounds (round, state, task, base, model, closes) VALUES (0, 'merged', '', '', ?, '')"
        self.database.run(values, model)
        self.publish_model(new_keys[COORDINATOR], 0, model, [], "start")

    # --- who belongs to it ---------------------------------------------------------------------------------------
    def invite(self, name: str, tier: str, days: int) -> tuple[str, str]:
        """A new code, which is not kept, and the id of the site that it is for."""
        safe_text.check_name(name)
        code, until = enrol.new_code(), self.now + timedelta(days=days)
        new_invite = enrol.derive_invite(code, tier, until)
        with self.database.transaction():
            self._check_roster_size(name)
            issued = self.database.row("SELECT count(*) AS n FROM invites")
            site = f"site-{issued['n'] + 1 if issued else 1:03}"
            values = (
                new_invite.id,
                new_invite.key.hex(),
                site,
                name,
                tier,
                format_time(until),
                enrol.charter_proof(code, self.federation),
            )
            self.database.run(
                "INSERT INTO invites (id, proof, site, name, tier, expires, vouch) VALUES (?, ?, ?, ?, ?, ?, ?)",
                *values,
            )
            self.log("invite", site, tier=tier)
        return code, site

    def _check_roster_size(self, name: str) -> None:
        """Whether the roster has room for one more site, besides those that were invited and have not come."""
        query = "SELECT count(*) AS n, total(length(CAST(name AS BLOB))) AS bytes FROM invites"
        outstanding = self.database.row(f"{query} WHERE used = '' AND expires >= ?", format_time(self.now))
        size = statement.parse(self.newest_parcel("roster")["line"].encode()).size + len(name.encode()) + _ENTRY_BYTES
        if outstanding and size + outstanding["n"] * _ENTRY_BYTES + outstanding["bytes"] > ROSTER_LIMIT - ROSTER_SPARE:
            raise FederationFullError("the sites and the invites that are out leave no room for another site")

    def invites(self, invite_id: str = "") -> dict[str, Invite]:
        """The invites that were not cancelled, by id; or the one with an id."""
        query = "SELECT * FROM invites WHERE used != ?"
        return {
            row["id"]: Invite(
                row["id"], bytes.fromhex(row["proof"]), row["tier"], parse_time(row["expires"]), bool(row["used"])
            )
            for row in self.database.rows(
                query + (" AND id = ?" if invite_id else ""), CANCELLED, *([invite_id] if invite_id else [])
            )
        }

    def cancel_invite(self, site: str) -> None:
        with self.database.transaction():
            self.database.run("UPDATE invites SET used = ? WHERE site = ? AND used = ''", CANCELLED, site)
            self.log("invite cancelled", site)

    def vouches(self) -> dict[str, str]:
        """By invite, what shows those who know its code that this hub knows it too."""
        return {row["id"]: row["vouch"] for row in self.database.rows("SELECT id, vouch FROM invites WHERE used = ''")}

    def charter_proof(self, invite: str) -> str:
        found = self.database.row("SELECT vouch FROM invites WHERE id = ? AND used = ''", invite)
        return str(found["vouch"]) if found else ""

    def requests_signed_by(self, key: str) -> list[str]:
        """The requests that a key signed, each of which is read once."""
        for row in self.database.rows("SELECT rowid, hash FROM requests WHERE rowid > ? ORDER BY rowid", self._asked):
            with files.reading(self.database.path(row["hash"])) as file:
                signers = parcel.read_prologue(file)[1]
            for signer in signers:
                self._askers.setdefault(signer, []).append(row["hash"])
            self._asked = row["rowid"]
        return self._askers.get(key, [])

    def write_charter(self, signers: Sequence[Keys], body: Mapping[str, Any], *, epoch: int) -> Statement:
        """The next charter, within a transaction."""
        previous = self.charter
        sealed = self.publish(
            "charter", to_json(body), signers, number=previous.version + 1, epoch=epoch, version=previous.version + 1,
            previous=previous.hash,
        )  # fmt: skip
        self.log("charter", COORDINATOR, version=previous.version + 1, epoch=epoch)
        return sealed

    def write_roster(
        self, coordinator_keys: Keys, sites: Sequence[Site], front: str = "", archive: str = "", *, spare: int = 0
    ) -> Statement:
        """The next roster, within a transaction. The front's and the archive's keys come from the one before.

        Refused where it would leave less than `spare` bytes of what a roster may hold.
        """
        charter = self.charter
        newest_row = self.database.row("SELECT max(number) AS last FROM parcels WHERE kind = 'roster'")
        version = (newest_row["last"] or 0) + 1 if newest_row else 1
        expires = self.now + timedelta(days=self.plan.round.roster_days)
        body = to_json(roster.body(sites, front or self.roster.front, archive or self.roster.archive, expires))
        if len(body) > ROSTER_LIMIT - spare:
            raise FederationFullError(f"a roster of {len(sites)} sites would be too large: {len(body)} bytes")
        return self.publish(
            "roster", body, coordinator_keys, number=version, federation=self.federation, epoch=charter.epoch,
            version=version, charter=charter.hash,
        )  # fmt: skip

    def change_sites(self, coordinator_keys: Keys, sites: Sequence[Site], type_: str, **detail: canon.Value) -> None:
        """Enter or change sites by one roster, and seal the current model anew for the groups of those who are in."""
        with self.database.transaction():
            changed = {site.id: site for site in sites}
            others = [entry for entry in self.roster.sites if entry.id not in changed]
            grows = any(site.reason or self.roster.site(site.id) is None for site in sites)
            self.write_roster(
                coordinator_keys,
                sorted([*others, *sites], key=lambda entry: entry.id),
                spare=ROSTER_SPARE if grows else 0,
            )
            for site in sites:
                self.log(type_, site.id, **detail)
            if active := [site.id for site in sites if site.status == roster.ACTIVE]:
                self.seal_newest_model(coordinator_keys, active)

    def publish_knowledge(self, coordinator_keys: Keys, body: BinaryIO) -> Statement:
        """Seal the knowledge, unless the newest that this key has sealed is the same; the next task names it."""
        if self.database.fact("knowledge") == files.digest(body):
            newest = parcel.inspect(self.database.path(self.newest_parcel("knowledge")["hash"]), parcel.any_signer)
            if newest.keys == (coordinator_keys.public.sign,):
                return newest.statement
        body.seek(0)
        with self.database.transaction():
            sealed = self.publish(
                "knowledge", body, coordinator_keys, number=self.database.head().length, federation=self.federation
            )
            self.database.set_fact("knowledge", sealed.sha256)
            self.log("knowledge", sealed.sha256)
        return sealed

    def seal_newest_model(self, coordinator_keys: Keys, sites: Collection[str] = ()) -> None:
        """The newest model again, to whoever takes part now, or to the groups of some sites."""
        newest = self._newest_model()
        self.seal_model(coordinator_keys, newest["round"], newest["model"], self.inputs(newest["round"]), sites)

    def _newest_model(self) -> Any:
        return self.database.row("SELECT round, model FROM rounds WHERE model != '' ORDER BY round DESC LIMIT 1")

    def inputs(self, round_: int) -> list[str]:
        """The shares that a round's model was made of."""
        rows = self.database.rows("SELECT hash FROM shares WHERE counts = ? AND state = 'merged' ORDER BY site", round_)
        return [row["hash"] for row in rows]

    def site(self, name: str) -> Site:
        """The site with this id, or the only one that is called so."""
        if by_id := self.roster.site(name):
            return by_id
        by_name = [site for site in self.roster.sites if site.name == name]
        if not by_name:
            raise SiteUnknownError(f"there is no site {name!r}")
        if len(by_name) > 1:
            listed = ", ".join(f"{site.id} ({site.status})" for site in by_name)
            raise AmbiguousError(
                f"{len(by_name)} sites are called {name!r}: {listed}", remedy="name the one that is meant by its id"
            )
        return by_name[0]

    def revoke(self, coordinator_keys: Keys, name: str, since_round: int, reason: str) -> Site:
        safe_text.check_name(reason)
        with self.database.transaction():
            site = self.site(name)
            revoked = replace(site, status=roster.REVOKED, since_round=since_round, reason=reason)
            if revoked == site:
                return site
            try:
                self.change_sites(coordinator_keys, [revoked], "revoke", since_round=since_round)
            except FederationFullError as error:
                raise FederationFullError(
                    error.cause, remedy="revoke without a --reason, which the log may say"
                ) from error
        return site


FIRST_GROUP = ""


def group_of(site: str) -> str:
    """The group of sites to which a model is sealed together: by their numbers, so that nobody ever changes groups."""
    number = int(site.rpartition("-")[2]) - 1
    return str(number // GROUP_SIZE) if number >= GROUP_SIZE else FIRST_GROUP


def to_json(value: Mapping[str, Any]) -> bytes:
    """A plain body: JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _refuse_passphrase() -> str:
    raise NotNowError("the front's keys must have no passphrase")
