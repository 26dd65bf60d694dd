"""A real site at a real stick; what it trains is drawn. As a program it syncs a home, with training drawn likewise."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

from fedhelp_edge import files, site, update
from fedhelp_edge.exchange.folder import FROM, TO, Folder
from fedhelp_edge.site import inbox, layout, membership, outbox, status, verified
from fedhelp_edge.site.sync import sync
from server_ref.admin import exchange, invites
from server_ref.intake import judge
from tests.federation import Federation, nobody


class Clinic:
    def __init__(self, federation: Federation, folder_: Path) -> None:
        self.federation, self.home, self.stick = federation, folder_ / "home", folder_ / "stick"
        self.stick.mkdir(parents=True)
        self.invite = folder_ / "clinic.invite"
        invites.write(self.invite, invites.make(federation.hub, "Clinic", "small", 14))

    def join(self) -> None:
        membership.join(self.home, membership.read_invite(self.invite), "we", lambda: None)
        self.upload()

    def take_up(self) -> None:
        """Join, and fetch the order of a round that is open then."""
        self.join()
        self.trip()
        self.federation.open()
        self.trip()
        self.download()

    def upload(self) -> list[str]:
        return outbox.upload(self.home, [Folder(self.stick)])

    def trip(self) -> None:
        """The stick goes to the coordinator and back."""
        self.collect()
        exchange.leave(self.federation.hub, self.stick / FROM)

    def collect(self) -> None:
        """The coordinator takes in what is on the stick, and judges it."""
        exchange.take_in(self.federation.hub, self.stick / TO, exchange.Exchanged())
        judge.judge(self.federation.hub, self.federation.boss)

    def download(self) -> inbox.Taken:
        return inbox.download(self.home, [Folder(self.stick)], nobody)

    @property
    def state(self) -> str:
        return str(status.status(self.home)["state"])

    def train(self) -> None:
        train(self.home)


def train(home: Path, *_: object, **__: object) -> None:
    """What training leaves."""
    known = verified.state_of_member(home)
    order, site = known.task, verified.me(home, known)
    assert order
    assert site
    base = inbox.base(home, order, inbox.plan_of(order))
    at = layout.round_folder(home, order)
    at.mkdir(parents=True, exist_ok=True)
    with files.writing(at / "share.safetensors") as file:
        update.write(file, {name: (array * 1.01).astype("f4") for name, array in base.items()})
    with files.writing(at / "report.json") as file:
        file.write(json.dumps({"examples": 70, "base": {"val": 10, "correct": 4}}).encode())


if __name__ == "__main__":
    sys.modules["fedhelp_edge.site.ordered_training"] = site.order = SimpleNamespace(train=train)  # type: ignore[assignment]
    home = Path(sys.argv[1])
    print(sync(home, status.carriers(home, nobody), nobody, lambda _: None))
