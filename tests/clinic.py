"""A real site at a real stick; what it trains is drawn. As a program it syncs a home, with training drawn likewise."""

from __future__ import annotations

import json
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

    def join(self) -> None:
        membership.join(self.home, membership.read_invite_file(self.invite), "we", lambda: None)
        self.upload()

    def take_up(self) -> None:
        """Join, and fetch the order of a round that is open then."""
        self.join()
        self.trip()
        self.federation.open()
        self.trip()
        self.download()

    def upload(self) -> list[str]:
        return outbox.upload(self.home, [FolderCarrier(self.stick)])

    def trip(self) -> None:
        """The stick goes to the coordinator and back."""
        self.collect()
        exchange.deliver(self.federation.hub, self.stick / FROM_COORDINATOR)

    def collect(self) -> None:
        """The coordinator takes in what is on the stick, and judges it."""
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
    """What training leaves."""
    known = verified.require_state(home)
    order, site = known.task, identity.own_site(home, known)
    assert order
    assert site
    base = inbox.base_model(home, order, inbox.plan_of(order))
    at = layout.round_dir(home, order)
    at.mkdir(parents=True, exist_ok=True)
    with files.writing(at / "share.safetensors") as file:
        update.write(file, {name: (array * 1.01).astype("f4") for name, array in base.items()})
    with files.writing(at / "report.json") as file:
        file.write(json.dumps({"examples": 70, "base": {"val": 10, "correct": 4}}).encode())


if __name__ == "__main__":
    sys.modules["fedhelp_edge.site.ordered_training"] = site.ordered_training = SimpleNamespace(train=train)  # type: ignore[assignment]
    home = Path(sys.argv[1])
    print(sync(home, connection.carriers(home, nobody), nobody, lambda _: None))
