"""A hub: the folder in which a coordinator works.

hub.db                what is known, and the log; the front writes to it, so coordinator/memory.json binds the rest
coordinator/ front/   their keys; the front's have no passphrase, and may sign nothing but "received"
root/                 the root key, whose age half opens the archive, unless it was put elsewhere
parcels/ models/      all parcels that were received and published, and the merged models
features/             an encoder's features of public images, where merging needs them
round-keys/ shares/   the key of each round that still counts; its updates, opened and checked
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fedhelp_edge import files
from fedhelp_edge import plan as plans
from fedhelp_edge.errors import (
    ClockJumpError,
    EncoderError,
    HubDamagedError,
    LogBrokenError,
    NotNowError,
    ParcelError,
    SignerRoleError,
)
from fedhelp_edge.methods.registry import METHODS, Public, PublicFacts, public_json
from fedhelp_edge.parcel import canon, keys, parcel, statement
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.statement import Statement, format_time, parse_time
from fedhelp_edge.plan import Plan
from fedhelp_edge.trust import charter, roster, task
from fedhelp_edge.trust.charter import Charter
from fedhelp_edge.trust.log import Log
from fedhelp_edge.trust.roster import Roster
from fedhelp_edge.trust.task import Task
from server_ref.hub import memory
from server_ref.hub.database import HubDatabase, Row
from server_ref.hub.memory import Memory
from server_ref.hub.states import State
from server_ref.hub.tables import log_table, parcels_table, requests_table, rounds_table

if TYPE_CHECKING:
    from fedhelp_edge.data.pack import Pack

COORDINATOR, FRONT, ROOT = "coordinator", "front", "root"
FOLLOWED_KINDS = (
    "charter",
    "roster",
    "task",
    "global",
    "knowledge",
    "encoder",
)  # by sites, and signed by the coordinator
_MAX_CLOCK_JUMP = timedelta(days=90)


class Hub:
    """One hub. Whatever needs a key takes it as an argument: an opened hub holds none."""

    def __init__(self, home: Path, *, clock: Callable[[], datetime] | None = None) -> None:
        self.home, self.database = home, HubDatabase(home)
        self._clock = clock or (lambda: datetime.now(timezone.utc))
        self._charters: dict[str, Charter] = {}  # as read from parcels, which never change
        self._rosters: dict[str, Roster] = {}
        self._tasks: dict[str, Task] = {}
        self._requests_by_key: dict[str, list[str]] = {}
        self._last_request = 0  # the last row among them

    @property
    def now(self) -> datetime:
        """The time, but never before the last line of the log: a clock that is set back reopens nothing."""
        last = log_table.last_time(self.database)
        clock = self._clock().replace(microsecond=0)
        return max(clock, parse_time(last)) if last else clock

    # --- what is known -------------------------------------------------------------------------------------------
    @cached_property
    def plan(self) -> Plan:
        return plans.read(self.database.fact("plan"), METHODS)

    @property
    def url(self) -> str:
        return self.database.fact("url")

    @cached_property
    def federation(self) -> str:
        return self.database.fact("federation")

    @property
    def charter(self) -> Charter:
        """The newest charter, verified from the first one on."""
        newest = self.newest_parcel("charter")["hash"]
        if newest not in self._charters:
            first, *later = parcels_table.hashes(self.database, "charter")
            self._charters[newest] = charter.read_first(*self.read_json(first))
            for hash_ in later:
                self._charters[newest] = charter.read_next(self._charters[newest], *self.read_json(hash_))
        return self._charters[newest]

    @property
    def roster(self) -> Roster:
        """The newest roster, verified under the charter."""
        newest = self.newest_parcel("roster")["hash"]
        if newest not in self._rosters:
            self._rosters = {newest: roster.read(*self.read_json(newest), self.charter)}
        return self._rosters[newest]

    def tasks(self, first_round: int = 1) -> dict[int, Task]:
        """The task of each round from `first_round` on; the tasks of a past epoch are void."""
        first_round = max(first_round, int(self.database.fact("void", "0")) + 1)
        for hash_ in rounds_table.tasks(self.database, first_round):
            if hash_ not in self._tasks:
                self._tasks[hash_] = task.read(*self.read_json(hash_), self.charter, self.roster)
        return {known.round: known for known in self._tasks.values() if known.round >= first_round}

    def signing_keys(self, site: str) -> Iterator[str]:
        """A site's keys, the newest first: it may have changed them while an update was on its way."""
        current = self.roster.site(site)
        yield from [current.sign] if current else []
        for hash_ in reversed(parcels_table.hashes(self.database, "roster")):
            yield from (entry["sign"] for entry in self.read_json(hash_)[2]["sites"] if entry["id"] == site)

    def requests_signed_by(self, key: str) -> list[str]:
        """The hashes of the requests that a key signed. Each request's file is read once."""
        for row in requests_table.after(self.database, self._last_request):
            with files.reading(self.database.parcel_path(row["hash"])) as file:
                signers = parcel.read_prologue(file)[1]
            for signer in signers:
                self._requests_by_key.setdefault(signer, []).append(row["hash"])
            self._last_request = row["rowid"]
        return self._requests_by_key.get(key, [])

    def newest_round(self) -> Row:
        """The row of the newest round. Round 0 stands for the model from which the first round begins."""
        return rounds_table.newest(self.database)

    def named_set(self) -> str:
        """The set of updates whose sum the newest round awaits from the helper, or ""."""
        row = self.newest_round()
        return str(json.loads(row["report"])["set"]) if row["state"] == State.SUMMING else ""

    def newest_parcel(self, kind: str) -> Row:
        """The row of the newest parcel of a kind."""
        row = parcels_table.newest(self.database, kind)
        if row is None:
            raise NotNowError(f"there is no {kind} yet")
        return row

    def read_json(self, hash_: str) -> tuple[Statement, tuple[str, ...], dict[str, Any]]:
        """The statement, the signers and the payload of a parcel in this hub whose payload is JSON."""
        path = self.database.parcel_path(hash_)
        if not path.exists():
            raise HubDamagedError(f"parcel {hash_[:12]} is gone from the disk")
        with parcel.open(path, parcel.any_signer) as opened:
            if opened.statement.hash != hash_:
                raise HubDamagedError(f"parcel {hash_[:12]} does not match its name")
            return opened.statement, opened.keys, opened.json()

    # --- whether it is whole -------------------------------------------------------------------------------------
    def check(self) -> Log:
        """The log, if the hub is whole and its log continues the one that it last published."""
        published = parcels_table.newest_with_log(self.database)
        self.database.check_integrity()
        log = log_table.verify(self.database)
        if published:
            before = Log(**self.read_json(published["hash"])[2]["log"])
            if log_table.head(self.database, before.length) != before:
                raise LogBrokenError(f"line {before.length} of the log is not as it was published")
        self.check_rows()
        return log

    def check_rows(self) -> None:
        """Within a transaction: the rows that it reads are as the coordinator wrote them."""
        if self.database.memory:
            self.database.memory.check()

    def check_clock(self) -> None:
        """Refuse a clock that is far from the times that the hub knows."""
        clock, last = self._clock(), log_table.last_time(self.database)
        if not last:
            return
        deadline = rounds_table.newest_deadline(self.database)
        written = parse_time(last)
        latest = max(written, parse_time(deadline)) if deadline else written
        if not written - _MAX_CLOCK_JUMP <= clock <= latest + _MAX_CLOCK_JUMP:
            raise ClockJumpError(f"the clock says {format_time(clock)}, and the last line of the log {last}")

    def accept_clock(self) -> Log:
        """Log a time that a person confirms; later lines follow from it."""
        try:
            self.check_clock()
        except ClockJumpError:
            with self.database.transaction():
                return log_table.add(self.database, format_time(self._clock()), "clock", COORDINATOR, {})
        return log_table.head(self.database)

    # --- keys ----------------------------------------------------------------------------------------------------
    def front_keys(self) -> Keys:
        """Load the front's keys, which have no passphrase because the front starts by itself."""
        return keys.load(self.front_folder, _refuse_passphrase)

    @property
    def front_folder(self) -> Path:
        """Where the front is another system user, the coordinator has a copy of its keys beside its own."""
        folder = self.home / FRONT
        return folder if os.access(folder, os.X_OK) else self.home / COORDINATOR / FRONT

    def coordinator_keys(self, ask: Callable[[], str]) -> Keys:
        """Load the coordinator's keys, and open its memory with them."""
        loaded = keys.load(self.coordinator_folder, ask)
        if loaded.public.sign != self.charter.coordinator:
            folder = self.coordinator_folder.name
            raise SignerRoleError(f"the keys in {folder} are not those of the charter's coordinator")
        self.open_memory(loaded)
        return loaded

    @property
    def coordinator_folder(self) -> Path:
        """The folder that the database and the coordinator's memory both name; without a memory, the default one.

        A front that could name any other folder would make commands ask for the passphrase of keys of its own.
        """
        name = self.database.fact("boss", COORDINATOR)
        known = memory.key_folders(self.memory_path) or {COORDINATOR}
        if name not in known or not re.fullmatch(rf"{COORDINATOR}(-[0-9]+)?", name):
            raise HubDamagedError(f"{name[:40]!r} is not the folder of the coordinator's keys")
        return self.home / name

    @property
    def memory_path(self) -> Path:
        """In the coordinator's folder, where the front can neither read nor write."""
        return self.home / COORDINATOR / memory.FILE

    def open_memory(self, coordinator_keys: Keys) -> None:
        """From here on this hub verifies what the coordinator's commands wrote, and binds what they write."""
        self.database.memory = Memory(
            self.memory_path, self.coordinator_folder.name, coordinator_keys, self.database.ledger,
            partial(log_table.head, self.database), self._has_memory, self._begin_memory,
        )  # fmt: skip

    def _has_memory(self) -> bool:
        return log_table.has_type(self.database, "memory")

    def _begin_memory(self) -> None:
        time = log_table.last_time(self.database) or format_time(self.now)
        log_table.add(self.database, time, "memory", COORDINATOR, {})

    # --- what is published ---------------------------------------------------------------------------------------
    def publish(
        self, kind: str, body: bytes | BinaryIO, signer: Keys | Sequence[Keys], *, number: int = 0, site: str = "",
        recipients: Sequence[str] = (), facts: Mapping[str, canon.Value] | None = None, **fields: canon.Value,
    ) -> Statement:  # fmt: skip
        """Seal a parcel and add it, within a transaction.

        A parcel's hash is that of what is signed. So a body that other keys sign within a second is dated one later.
        """
        if not self.database.memory and isinstance(signer, Keys) and signer.public.sign == self.charter.coordinator:
            self.open_memory(signer)
        if self.database.memory and kind in FOLLOWED_KINDS:
            self.database.memory.publishes = True
        time, signers = self.now, [signer] if isinstance(signer, Keys) else signer
        part = self.home / f".{os.urandom(8).hex()}.part"
        try:
            while True:
                context = statement.new_context(kind, time, **fields)
                sealed = parcel.seal(part, context, body, [each.sign for each in signers], recipients, facts=facts)
                if parcels_table.find(self.database, sealed.hash) is None:
                    break
                part.unlink()
                time += timedelta(seconds=1)
                if not isinstance(body, bytes):
                    body.seek(0)
            self.add_parcel(part, sealed, number, site)
        finally:
            part.unlink(missing_ok=True)
        return sealed

    def add_parcel(self, part: Path, sealed: Statement, number: int, site: str) -> None:
        """Give a parcel, whose file was synced to the disk, its name and a row."""
        path = self.database.parcel_path(sealed.hash)
        files.share_with_group(part)
        part.replace(path)
        files.sync_folder(path.parent)
        parcels_table.add(self.database, sealed.hash, sealed.kind, number, site, sealed.line.decode())

    def log(self, type_: str, subject: str, **detail: canon.Value) -> Log:
        """Add a line to the log, within a transaction; returns the log as it then stands."""
        self.check_clock()
        return log_table.add(self.database, format_time(self.now), type_, subject, detail)

    def publish_receipt(self, signer: Keys, role: str, about: str, state: str, log: Log, **why: str) -> str:
        """State what became of a parcel, together with the log: a hub cannot change it afterwards unnoticed."""
        body = {"state": state, "code": "", "cause": "", **why, "log": {"length": log.length, "head": log.head}}
        sealed = self.publish(
            "receipt", to_json(body), signer, site=about, federation=self.federation, epoch=self.charter.epoch,
            sender=role, about=about,
        )  # fmt: skip
        return sealed.hash

    def publish_charter(self, signers: Sequence[Keys], body: Mapping[str, Any], *, epoch: int) -> Statement:
        """Publish the next charter, within a transaction."""
        last = self.charter
        sealed = self.publish(
            "charter", to_json(body), signers, number=last.version + 1, epoch=epoch, version=last.version + 1,
            previous=last.hash,
        )  # fmt: skip
        self.log("charter", COORDINATOR, version=last.version + 1, epoch=epoch)
        return sealed

    @property
    def stale_rounds(self) -> int:
        """How many rounds late an update may arrive."""
        return METHODS[self.plan.method].stale_rounds(self.plan)

    @property
    def public(self) -> Public | None:
        """What schemas may depend on of the published knowledge pack."""
        facts = self.database.fact("public")
        return PublicFacts.from_json(facts, self._load_pack) if facts else None

    def _load_pack(self) -> Pack:
        """The published pack, as nets see it: where the plan has an encoder, with features of its images."""
        from fedhelp_edge.data import pack as packs  # which brings all readers of images
        from fedhelp_edge.encoder import embed_pack, onnx_file

        pack, nets = packs.load(io.BytesIO(self._read_newest("knowledge", "knowledge pack"))), self.plan.nets
        if not nets.encoder:
            return pack
        encoder = onnx_file.parse(self._read_newest("encoder", "encoder"), nets.encoder)
        return embed_pack(pack, self.plan, onnx_file.check_plan(encoder, self.plan), self.home)

    def _read_newest(self, kind: str, name: str) -> bytes:
        """The content of the newest public parcel of a kind."""
        hash_ = self.newest_parcel(kind)["hash"]
        try:
            with parcel.open(self.database.parcel_path(hash_), parcel.any_signer) as opened:
                data = opened.body.read()
        except (FileNotFoundError, ParcelError) as error:
            raise HubDamagedError(f"the {name} {hash_[:12]} is gone from the disk or damaged") from error
        if (opened.statement.hash, opened.statement.sha256) != (hash_, hashlib.sha256(data).hexdigest()):
            raise HubDamagedError(f"another parcel lies in the place of the {name} {hash_[:12]}")
        return data

    def publish_knowledge(self, coordinator_keys: Keys, body: BinaryIO, public: Public | None) -> Statement:
        """Publish a knowledge pack, which the next task names."""
        sha256 = files.digest(body)
        is_other = self.database.fact("knowledge") != sha256
        if is_other and METHODS[self.plan.method].public and self.newest_round()["round"] > 0:
            raise NotNowError(f"{self.plan.method} works on one pack from the first round to the last")
        facts = {} if public is None else {"public": public_json(public)}
        return self._publish_once("knowledge", sha256, coordinator_keys, body, facts)

    def publish_encoder(self, coordinator_keys: Keys, body: BinaryIO) -> Statement:
        """Publish the plan's encoder."""
        nets = self.plan.nets
        if not nets.encoder:
            raise NotNowError("the plan of this federation names no encoder")
        if files.digest(body) != nets.encoder_sha256:
            raise EncoderError(f"the file is not the plan's encoder {nets.encoder}: its SHA-256 is another")
        return self._publish_once("encoder", nets.encoder_sha256, coordinator_keys, body, {})

    def _publish_once(
        self, kind: str, sha256: str, coordinator_keys: Keys, body: BinaryIO, facts: Mapping[str, str]
    ) -> Statement:
        """Publish a file, and set these facts; one that these keys published last stays as it is."""
        if self.database.fact(kind) == sha256:
            newest = parcel.inspect(self.newest_path(kind), parcel.any_signer)
            if newest.keys == (coordinator_keys.public.sign,):
                return newest.statement
        body.seek(0)
        with self.database.transaction():
            number = log_table.head(self.database).length
            sealed = self.publish(kind, body, coordinator_keys, number=number, federation=self.federation)
            for name, fact in {kind: sha256, **facts}.items():
                self.database.set_fact(name, fact)
            self.log(kind, sha256)
        return sealed

    def newest_path(self, kind: str) -> Path:
        """The file of the newest parcel of a kind."""
        return self.database.parcel_path(self.newest_parcel(kind)["hash"])


def to_json(value: Mapping[str, Any]) -> bytes:
    """The body of a parcel that is not encrypted: JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _refuse_passphrase() -> str:
    raise NotNowError("the front's keys must have no passphrase")
