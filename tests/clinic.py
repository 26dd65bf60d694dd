"""A real site with a real stick whose trained update is drawn. Run as a program, it syncs a home in the same way."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

from fedhelp_edge import files, site, update
from fedhelp_edge.exchange.folder import FROM_COORDINATOR, TO_COORDINATOR, FolderCarrier
from fedhelp_edge.site import connection, identity, inbox, layout, membership, outbox, status, verified
from fedhelp_edge.site.sync import sync
from server_ref.admin import exchange, invites
from server_ref.intake import judge
from tests.federation import Federation, nobody


class Clinic:
    def __init__(self, federation: Federation, folder_: Path) -> None:
        self.federation, self.home, self.stick = federation, folder_ / "home", folder_ / "stick"
        self.stick.mkdir(parents=True)
        self.invite = folder_ / "clinic.invite"
        invites.write_files(self.invite, invites.issue(federation.hub, "Clinic", "small", 14))

    def copy_to(self, folder: Path) -> Clinic:
        """Copies site, stick and federation into another folder; both are independent afterwards."""
        other = copy.copy(self)
        other.federation = self.federation.copy_to(folder / "federation")
        shutil.copytree(self.home.parent, folder / "clinic")
        for name in ("home", "stick", "invite"):
            setattr(other, name, folder / "clinic" / getattr(self, name).name)
        return other

    def join(self) -> None:
        membership.join(self.home, membership.read_invite_file(self.invite), "we", lambda: None)
        self.upload()

    def join_and_fetch_task(self) -> None:
        """Joins, and downloads the task of the round that is then open."""
        self.join()
        self.carry_stick()
        self.federation.open()
        self.carry_stick()
        self.download()

    def upload(self) -> list[str]:
        return outbox.upload(self.home, [FolderCarrier(self.stick)])

    def carry_stick(self) -> None:
        """Carries the stick to the coordinator and back."""
        self.collect()
        exchange.deliver(self.federation.hub, self.stick / FROM_COORDINATOR)

    def collect(self) -> None:
        """The coordinator collects and judges the parcels on the stick."""
        exchange.collect(self.federation.hub, self.stick / TO_COORDINATOR, exchange.ExchangeResult())
        judge.judge_waiting(self.federation.hub, self.federation.coordinator_keys)

    def download(self) -> inbox.DownloadResult:
        return inbox.download(self.home, [FolderCarrier(self.stick)], nobody)

    @property
    def state(self) -> str:
        return str(status.status(self.home)["state"])

    def train(self) -> None:
        train(self.home)


def train(home: Path, *_: object, **__: object) -> None:
    """Writes the files that training would leave."""
    state = verified.require_state(home)
    task, site = state.task, identity.own_site(home, state)
    assert task
    assert site
    base = inbox.base_model(home, task, inbox.plan_of(task))
    round_dir = layout.round_dir(home, task)
    round_dir.mkdir(parents=True, exist_ok=True)
    with files.writing(round_dir / "share.safetensors") as file:
        update.write(file, {name: (array * 1.01).astype("f4") for name, array in base.items()})
    with files.writing(round_dir / "report.json") as file:
        file.write(json.dumps({"examples": 70, "base": {"val": 10, "correct": 4}}).encode())


if __name__ == "__main__":
    sys.modules["fedhelp_edge.site.ordered_training"] = site.ordered_training = SimpleNamespace(train=train)  # type: ignore[assignment]
    home = Path(sys.argv[1])
    print(sync(home, connection.carriers(home, nobody), nobody, lambda _: None))
