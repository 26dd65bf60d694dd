"""Two rounds of a real site among others end with the model of undisturbed rounds.

The network is bad, processes are killed, an update is stale, a site late, another leaves, and a hub is restored from an
old backup.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedhelp_edge.parcel import keys
from fedhelp_edge.site import connection, membership, outbox, status
from server_ref.admin import recovery
from server_ref.hub import members
from server_ref.hub.hub import Hub
from server_ref.intake import receive
from tests import http_front
from tests.clinic import Clinic
from tests.faulty_proxy import Fault, proxy_to
from tests.federation import Federation, nobody

pytestmark = [pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX"), pytest.mark.proof]

STATES = {
    status.JOINING, status.WAITING, status.READY, status.TRAINING, status.TRAINED, status.SENT, status.RECEIVED,
    status.JUDGED,
}  # fmt: skip


def bad_luck(draw: random.Random) -> Iterator[Fault]:
    """Cuts about half of the connections, in the request or in the response."""
    while True:
        offset = draw.randrange(0, 400_000)
        faults = Fault(cut=offset), Fault(cut_answer=offset), Fault(cut=offset, reset=True)
        yield draw.choice([*faults, Fault(), Fault(), Fault()])


class Life:
    def __init__(self, three: Federation, clinic: Clinic, draw: random.Random, deaths: int) -> None:
        self.three, self.clinic, self._draw, self._deaths = three, clinic, draw, deaths

    def sync(self, kills: int) -> None:
        """Runs the site's sync, kills it so many times, then repeats it until it has reached the coordinator."""
        with http_front.running(self.three.folder / "hub") as port, self._line(port) as proxy_port:
            connection.save(self.clinic.home, url=f"http://127.0.0.1:{proxy_port}")
            for _ in range(kills if self._deaths else 0):
                process = self._start()
                try:
                    process.communicate(timeout=self._draw.uniform(0.2, 2.5))
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                site_state = status.status(self.clinic.home)
                assert site_state["state"] in STATES
                assert site_state["next"].startswith("fedhelp-edge ")
            for _ in range(5):  # an unreachable coordinator is tried again
                process = self._start()
                out, err = process.communicate(timeout=200)
                assert process.returncode == 0, out + err
                if "unreached=''" in out:
                    return
                print(out)
            raise AssertionError("the coordinator was not reached in five tries")

    @contextmanager
    def _line(self, port: int) -> Iterator[int]:
        if self._deaths:
            with proxy_to(port, bad_luck(self._draw)) as proxy_port:
                yield proxy_port
        else:
            yield port

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.clinic", str(self.clinic.home)], cwd=Path(__file__).parents[2], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    @property
    def state(self) -> str:
        return str(status.status(self.clinic.home)["state"])


def live(three: Federation, clinic: Clinic, tmp_path: Path, draw: random.Random, deaths: int) -> str:
    """Plays two rounds and returns the model's hash; `deaths` kills in each sync, and with any a restore of the hub."""
    life = Life(three, clinic, draw, deaths)
    membership.join(clinic.home, membership.read_invite_file(clinic.invite), "we", lambda: None)
    life.sync(deaths)
    three.judge()
    assert life.state == status.JOINING

    if deaths:  # a round that the restored hub does not know
        recovery.backup(three.hub, tmp_path / "backup.tar")
        three.send_updates(three.open())
        life.sync(deaths)
        three.aggregate()
        life.sync(deaths)
        assert life.state == status.JUDGED
        restore(three, tmp_path / "backup.tar")

    first = three.open()
    life.sync(deaths)
    assert life.state == status.RECEIVED
    stale = three.clinics[0].give(first, three.drawn_update(first, three.clinics[0]))
    three.send_updates(first, without=(three.clinics[0].id,))
    three.clock.advance(days=8)
    assert three.aggregate()["accepted"] == ["site-002", "site-003", "site-004"]
    late = three.join()
    members.revoke(three.hub, three.coordinator_keys, three.clinics[1].id, 2, "left")
    second = three.open()
    receive.receive(three.hub, stale)
    for other in (three.clinics[2], late):
        receive.receive(three.hub, other.give(second, three.drawn_update(second, other)))
    life.sync(deaths)
    assert life.state == status.RECEIVED
    three.clock.advance(days=8)
    outcome = three.aggregate()
    assert outcome["accepted"] == ["site-001", "site-003", "site-004", "site-005"]
    life.sync(deaths)
    assert life.state == status.JUDGED
    assert outbox.pending(clinic.home) == []
    return str(outcome["merged_sha256"])


def restore(three: Federation, backup: Path) -> None:
    """Restores the hub from a backup, as after the loss of its disk."""
    root = keys.load(three.folder / "hub" / "root", nobody)
    three.hub.database.close()
    (three.folder / "hub").rename(three.folder / "died")
    recovery.restore(three.folder / "hub", backup, root, nobody).database.close()
    three.hub = Hub(three.folder / "hub", clock=three.clock)
    three.coordinator_keys = three.hub.coordinator_keys(nobody)


def test_two_disturbed_rounds_end_with_the_model_of_two_undisturbed_ones(
    three: Federation, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    quiet = three.copy_to(tmp_path / "quiet")
    three.reopen()
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    hard_model = live(three, Clinic(three, tmp_path / "hard"), tmp_path, random.Random(seed), effort(1, 10))
    quiet_model = live(quiet, Clinic(quiet, tmp_path / "calm"), tmp_path, random.Random(seed), 0)
    quiet.hub.database.close()
    assert hard_model == quiet_model
