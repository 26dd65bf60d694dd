"""A federation for tests: a real hub, and sites with real keys and parcels whose updates are drawn, not trained."""

from __future__ import annotations

import copy
import hashlib
import io
import itertools
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fedhelp_edge import plan as plans
from fedhelp_edge import update
from fedhelp_edge.codec import CODECS
from fedhelp_edge.merge.closing import STATE
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import keys, parcel, sshsig, statement
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.trust import enrol
from fedhelp_edge.trust.task import Task
from fedhelp_edge.update import Array
from server_ref.hub import create, hub, members, models
from server_ref.hub.hub import Hub
from server_ref.intake import judge, partial_uploads, receive
from server_ref.rounds import close, opening

PLAN = """
name = "test"
classes = ["a", "b", "c"]
method = "fedavg"
rounds = 12
[image]
size = 8
[round]
quorum = 2
days = 7
stale = 1
"""

ENCODER = b"encoder"  # its hash is in plans of tests; a hub needs no more of one
ENCODER_SHA256 = hashlib.sha256(ENCODER).hexdigest()


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = datetime.now(timezone.utc).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, **by: float) -> None:
        self.time += timedelta(**by)


class SimulatedClinic:
    """A site with real keys that seals drawn updates."""

    def __init__(self, federation: str, folder: Path) -> None:
        self.keys: Keys = keys.generate()
        self.federation, self.folder = federation, folder
        self.id = ""
        self._seq = itertools.count(1)

    def enrolment_request(self, code: str, name: str = "") -> Path:
        context = statement.new_context("enrol", federation=self.federation)
        body = hub.to_json(enrol.request_body(code, name, self.keys.public, context))
        return self._sealed(context, body, [])

    def give(
        self,
        task: Task,
        arrays: Mapping[str, Array],
        /,
        *,
        examples: Any = 100,
        facts: dict[str, Any] | None = None,
        codec: str = "f32",
        base_arrays: Mapping[str, Array] = MappingProxyType({}),
        **changes: Any,
    ) -> Path:
        """Seals an update for a task; `changes` overwrite fields of its context."""
        context: dict[str, Any] = statement.new_context(
            "update", federation=task.federation, round=task.round, task=task.hash, base=task.base,
            sender=self.id, sender_key=sshsig.fingerprint(self.keys.public.sign),
            recipients=list(task.recipients), seq=next(self._seq),
        )  # fmt: skip
        context |= changes
        body = io.BytesIO()
        update.write(body, CODECS[codec].encode(arrays, base_arrays, {})[0])
        return self._sealed(context, body.getvalue(), context["recipients"], facts=facts or {"examples": examples})

    def _sealed(self, context: dict[str, Any], body: bytes, recipients: list[str], **more: Any) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / "part"
        part.unlink(missing_ok=True)
        sealed = parcel.seal(part, context, body, self.keys.sign, recipients, **more)
        return part.rename(self.folder / f"{sealed.hash}.fhx")

    def model(self, from_hub: Path) -> tuple[int, dict[str, Array]]:
        """The round and arrays of the newest merged model that this site can open."""
        models_by_round: dict[int, dict[str, Array]] = {}
        for path in from_hub.glob("*.fhx"):
            if parcel.inspect(path, parcel.any_signer).statement.kind == "global":
                with parcel.open(path, parcel.any_signer, [self.keys.identity]) as opened:
                    arrays = update.load(opened.body)
                    models_by_round[opened.statement.context["round"]] = arrays
        return max(models_by_round.items(), key=lambda item: item[0])


class Federation:
    """A hub in a folder, its coordinator's keys, and its clinics."""

    def __init__(self, folder: Path, text: str = PLAN, clinics: int = 3) -> None:
        self.folder, self.clock = folder, Clock()
        self.plan = plan = plans.read(text, METHODS)
        self.hub: Hub = create.new_hub(folder / "hub", plan, None, clock=self.clock)
        self.coordinator_keys = self.hub.coordinator_keys(nobody)
        if plan.nets.encoder_sha256 == ENCODER_SHA256:
            self.hub.publish_encoder(self.coordinator_keys, io.BytesIO(ENCODER))
        self.clinics: list[SimulatedClinic] = []
        for _ in range(clinics):
            self.join()

    def join(self, tier: str = "small", name: str = "") -> SimulatedClinic:
        clinic = SimulatedClinic(self.hub.federation, self.folder / f"clinic{len(self.clinics)}")
        code, clinic.id = members.invite(self.hub, name or f"Clinic {len(self.clinics)}", tier, 14)
        receive.receive(self.hub, clinic.enrolment_request(code))
        self.judge()
        self.clinics.append(clinic)
        return clinic

    def judge(self) -> list[dict[str, str]]:
        return judge.judge_waiting(self.hub, self.coordinator_keys)

    def open(self) -> Task:
        return opening.open_next(self.hub, self.coordinator_keys)

    def aggregate(self, *, now: bool = False) -> dict[str, Any]:
        self.judge()
        in_transit = partial_uploads.awaited_senders(self.hub)
        return close.aggregate(self.hub, self.coordinator_keys, now=now, in_transit=in_transit)

    def base(self, task: Task) -> dict[str, Array]:
        return models.load(self.hub, task.base)

    def drawn_update(self, task: Task, clinic: SimulatedClinic, size: float = 0.01) -> dict[str, Array]:
        """What a clinic might have trained: the base model moved a little, reproducibly."""
        stream = np.random.Generator(np.random.Philox(key=[task.round, int(clinic.id[-3:])]))
        return {
            name: (array + size * np.abs(stream.standard_normal(array.shape))).astype(np.float32)
            for name, array in self.base(task).items()
            if STATE not in name
        }

    def send_updates(self, task: Task, *, without: tuple[str, ...] = ()) -> None:
        for clinic in self.clinics:
            if clinic.id not in without:
                receive.receive(self.hub, clinic.give(task, self.drawn_update(task, clinic)))

    def update_states(self) -> dict[str, str]:
        """The state of each update, by its site and round."""
        rows = self.hub.database.rows("SELECT site, round, state FROM shares ORDER BY site, round, seq")
        return {f"{row['site']}/{row['round']}": row["state"] for row in rows}

    def copy_to(self, folder: Path) -> Federation:
        """Copies the federation into another folder; both are independent afterwards."""
        self.hub.database.close()
        shutil.copytree(self.folder, folder)
        self.reopen()
        other = copy.copy(self)
        other.folder, other.clock = folder, copy.copy(self.clock)
        other.clinics = [copy.copy(clinic) for clinic in self.clinics]
        for clinic in other.clinics:
            clinic.folder, clinic._seq = folder / clinic.folder.name, copy.copy(clinic._seq)
        other.reopen()
        return other

    @contextmanager
    def temporary_copy(self, folder: Path) -> Iterator[Federation]:
        """A copy for one test, closed at its end."""
        other = self.copy_to(folder)
        yield other
        other.hub.database.close()

    def reopen(self) -> Hub:
        """Opens the hub as another process would."""
        self.hub.database.close()
        self.hub = Hub(self.folder / "hub", clock=self.clock)
        self.hub.open_memory(self.coordinator_keys)
        return self.hub


def nobody() -> str:
    raise AssertionError("no passphrase is needed here")
