"""A federation with a secure sum: a real hub, clinics whose updates are drawn and masked, a helper, and a stick."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedhelp_edge import update
from fedhelp_edge.exchange.folder import FROM_COORDINATOR, FolderCarrier
from fedhelp_edge.helper import answering
from fedhelp_edge.helper import home as homes
from fedhelp_edge.helper.answering import Outcome
from fedhelp_edge.parcel import parcel, sshsig, statement
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.privacy import noise
from fedhelp_edge.secure_sum import parcels
from fedhelp_edge.secure_sum.arithmetic import SumFormat
from fedhelp_edge.trust.task import Task
from fedhelp_edge.update import Array
from server_ref.admin import exchange
from server_ref.hub import models
from server_ref.hub.hub import to_json
from server_ref.intake import receive
from server_ref.intake.judge import update_schema
from tests.federation import Federation, SimulatedClinic
from tests.unit.secure_sum.plans import plan_text


class SecureFederation(Federation):
    """`helper` is the folder of the helper, `stick` the carrier on which everything goes to and from it."""

    def __init__(
        self, folder: Path, clinics: int = 4, *, rounds: int = 4, post_quantum: bool = False, **more: str
    ) -> None:
        self.helper, self.stick = folder / "helper", folder / "stick"
        folder.mkdir(exist_ok=True)
        helper_keys = homes.create(self.helper, lambda: None, post_quantum=post_quantum)
        text = plan_text(helper_keys, rounds=rounds, **more)
        super().__init__(folder, text + "[wire]\npost_quantum = true\n" * post_quantum, clinics)
        homes.pin(self.helper, self.plan, self.hub.federation)
        self.stick.mkdir()

    def copy_to(self, folder: Path) -> SecureFederation:
        """A copy with a helper and a stick of its own."""
        other = super().copy_to(folder)
        assert isinstance(other, SecureFederation)
        other.helper, other.stick = folder / "helper", folder / "stick"
        self.reopen()
        return other

    @property
    def format(self) -> SumFormat:
        return SumFormat.of(self.plan, update_schema(self.hub))

    def counts(self, clinic: SimulatedClinic) -> dict[str, int]:
        """What a clinic counts: different for each, and nothing where noise hides it."""
        if self.plan.privacy.has_budget:
            return {"examples": 1}
        number = int(clinic.id[-3:])
        return {"examples": 10 * number, "val": 10, "correct": number}

    def give(
        self, task: Task, clinic: SimulatedClinic, arrays: Mapping[str, Array] | None = None, /, **how: Any
    ) -> Path:
        """Seals a clinic's masked update. `how` changes the seed's context, the vector (`words`) or the signer."""
        context = statement.new_context(
            "update", federation=task.federation, round=task.round, task=task.hash, base=task.base, sender=clinic.id,
            sender_key=sshsig.fingerprint(clinic.keys.public.sign), recipients=list(task.recipients),
            seq=next(clinic._seq),
        )  # fmt: skip
        arrays = self.drawn_update(task, clinic) if arrays is None else arrays
        noise_key = noise.new_key() if self.plan.privacy.hides_sites else b""
        words = how.get("words", self.format.quantise(self.base(task), arrays, self.counts(clinic), noise_key))
        clinic.folder.mkdir(parents=True, exist_ok=True)
        wire = parcels.masked_update(
            words, {**context, **how.get("seed", {})}, how.get("helper", self.plan.privacy.helper_key),
            how.get("signer", clinic.keys.sign), clinic.folder,
        )  # fmt: skip
        (clinic.folder / "seed").unlink()
        body = io.BytesIO()
        update.write(body, {**wire, **how.get("wire", {})})
        return clinic._sealed(context, body.getvalue(), context["recipients"], facts=how.get("facts", {}))

    def send_updates(self, task: Task, *, without: tuple[str, ...] = ()) -> None:
        for clinic in self.clinics:
            if clinic.id not in without:
                receive.receive(self.hub, self.give(task, clinic))

    def exchange(self) -> exchange.ExchangeResult:
        return exchange.exchange(self.hub, self.stick)

    def answer(self, home: Path | None = None) -> Outcome:
        """The helper looks at the stick."""
        return answering.answer(home or self.helper, FolderCarrier(self.stick), lambda: "")

    def ask(self, task: Task | None = None, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """A round up to the question: all updates but some are there, and the set is named on the stick."""
        task = task or self.open()
        self.send_updates(task, without=without)
        outcome = self.aggregate(now=True)
        self.exchange()
        return outcome

    def finish(self) -> dict[str, Any]:
        """The helper's answer comes back, and the round is merged."""
        self.answer()
        self.exchange()
        return self.aggregate()

    def expected_model(self, task: Task, sites: list[str]) -> dict[str, Array]:
        """Plain averaging of the same updates, by their images, in double precision."""
        clinics = [clinic for clinic in self.clinics if clinic.id in sites]
        weights = np.array([self.counts(clinic)["examples"] for clinic in clinics], np.float64)
        updates = [self.drawn_update(task, clinic) for clinic in clinics]
        return {
            name: np.average([each[name].astype(np.float64) for each in updates], axis=0, weights=weights)
            for name in updates[0]
        }

    def merged_model(self) -> dict[str, Array]:
        return models.load(self.hub, self.hub.newest_round()["model"])

    def on_stick(self, kind: str, folder: str = FROM_COORDINATOR) -> dict[Path, Statement]:
        """The parcels of a kind that lie on the stick."""
        found = {}
        for path in sorted((self.stick / folder).glob("*.fhx")):
            inspected = parcel.inspect(path, parcel.any_signer)
            if inspected.statement.kind == kind:
                found[path] = inspected.statement
        return found

    def named_set(self) -> Path:
        (path,) = self.on_stick("set")
        return path

    def restated_set(self, seeds: list[bytes], **context: Any) -> Path:
        """The coordinator asks for other seeds than those that it named: its key signs, and its hub knows nothing."""
        path = self.named_set()
        fields = {**parcel.inspect(path, parcel.any_signer).statement.context, **context}
        body = parcels.set_body(seeds)
        path.unlink()
        part = self.folder / "set"
        part.unlink(missing_ok=True)
        sealed = parcel.seal(part, fields, to_json(body), self.coordinator_keys.sign)
        return part.rename(path.with_name(f"{sealed.hash}.fhx"))

    def seeds(self) -> list[bytes]:
        """The seeds of the set that is on the stick."""
        with parcel.open(self.named_set(), parcel.any_signer) as opened:
            return [seed.data for seed in parcels.read_set(opened.json())]
