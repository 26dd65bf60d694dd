"""A real site at a real stick; what it trains is drawn."""

from __future__ import annotations

import json
from pathlib import Path

from fedhelp_edge import share
from fedhelp_edge.exchange.folder import FROM, TO, Folder
from fedhelp_edge.site import carry, folder, joined
from server_ref import carrier, intake, invites
from tests.federation import Federation, nobody


class Clinic:
    def __init__(self, federation: Federation, folder_: Path) -> None:
        self.federation, self.home, self.stick = federation, folder_ / "home", folder_ / "stick"
        self.stick.mkdir(parents=True)
        self.invite = folder_ / "clinic.invite"
        invites.write(self.invite, invites.make(federation.hub, "Clinic", "small", 14))

    def join(self) -> None:
        carry.join(self.home, carry.read_invite(self.invite), "we", lambda: None)
        self.upload()

    def upload(self) -> list[str]:
        return carry.upload(self.home, [Folder(self.stick)])

    def trip(self) -> None:
        """The stick goes to the coordinator and back."""
        self.collect()
        carrier.leave(self.federation.hub, self.stick / FROM)

    def collect(self) -> None:
        """The coordinator takes in what is on the stick, and judges it."""
        carrier.take_in(self.federation.hub, self.stick / TO, carrier.Exchanged())
        intake.judge(self.federation.hub, self.federation.boss)

    def download(self) -> carry.Taken:
        return carry.download(self.home, [Folder(self.stick)], nobody)

    @property
    def state(self) -> str:
        return str(joined.status(self.home)["state"])

    def train(self) -> None:
        """What training leaves."""
        known = folder.joined(self.home)
        order, site = known.task, folder.me(self.home, known)
        assert order
        assert site
        base = carry.base(self.home, order, carry.plan_of(order))
        at = carry.round_folder(self.home, order)
        at.mkdir(parents=True)
        with (at / "share.safetensors").open("wb") as file:
            share.write(file, {name: (array * 1.01).astype("f4") for name, array in base.items()})
        (at / "report.json").write_text(json.dumps({"examples": 70, "base": {"val": 10, "correct": 4}}))
