"""Faults G01 and G04 at a site: each command is killed, or its power cut, before each thing that it makes durable, and
typed again. Then all is as if it had not been disturbed, and the site's next update counts."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge.parcel import keys
from fedhelp_edge.site import connection, layout, status, verified
from server_ref.hub.states import State
from tests.clinic import Clinic
from tests.faults import kills
from tests.faults.test_kills import age
from tests.federation import Federation, nobody

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="SIGKILL and folder flushes are POSIX"),
    pytest.mark.usefixtures("open_in_process"),
    pytest.mark.proof,
]

DONE_BEFORE = {"E_KEYS_EXIST", "E_FILE_EXISTS", "E_NOT_JOINED"}  # nothing is left to be done
COMMANDS = {  # and where the site stands before
    "join": ("", "join {invite} --via {stick} --no-passphrase"),
    "keys new": ("", "keys new --no-passphrase"),
    "keys restore": ("saved", "keys restore {saved} --passphrase-file {secret}"),
    "keys backup": ("trained", "keys backup {backup} --passphrase-file {secret}"),
    "keys rotate": ("joined", "keys rotate"),
    "new keys": ("asked", "download"),
    "download": ("ordered", "download"),
    "upload": ("trained", "upload"),
    "leave": ("trained", "leave"),
}


def ready(clinic: Clinic, state: str) -> None:
    secret = clinic.home.parent / "secret"
    secret.write_text("four quiet words here\n")
    secret.chmod(0o600)
    if state == "saved":
        keys.write_backup(clinic.home.parent / "saved", keys.generate(), "four quiet words here")
    if state in ("", "saved"):
        return
    clinic.join()
    clinic.carry_stick()
    connection.carriers(clinic.home, nobody, clinic.stick)
    clinic.download()
    if state == "asked":
        assert type_in(clinic, "keys rotate") == ""
        clinic.upload()
    if state in ("ordered", "trained"):
        clinic.federation.open()
    clinic.carry_stick()
    if state == "trained":
        clinic.download()
        clinic.train()


def type_in(clinic: Clinic, command: str, **fate: Any) -> str:
    """Type a command; "" or the code that it was refused with, "killed" where it was."""
    at = clinic.home.parent
    places = {name: at / name for name in ("stick", "saved", "secret", "backup")} | {"invite": clinic.invite}
    words = [word.format(**places) for word in command.split()]
    code = kills.run(kills.type_in, at, "fedhelp_edge.__main__", words, str(clinic.home), **fate)
    if code == kills.KILLED:
        return "killed"
    said = (at / "said").read_text()
    assert "Traceback" not in said, said
    return "" if code == 0 else next(line.split(": ")[1] for line in said.splitlines() if line.startswith("error: "))


def seen(clinic: Clinic) -> dict[str, Any]:
    """How many files of each kind there are, where the site stands, and whether its keys belong together."""
    at = clinic.home.parent
    kinds = Counter(
        str(path.relative_to(at).parent) for path in at.rglob("*") if path.is_file() and path.name != "said"
    )
    state = clinic.state if verified.state(clinic.home) else "none"
    if keys.exist(clinic.home):
        keys.load(clinic.home, lambda: "four quiet words here")
    return {"files": dict(kinds), "state": state, "next keys": (clinic.home / layout.NEXT_KEYS).exists()}


def lives(clinic: Clinic) -> None:
    """The site's update of the next round counts."""
    if verified.state(clinic.home) is None:
        return
    for _ in range(2):  # a request, its answer
        clinic.upload()
        clinic.carry_stick()
        clinic.download()
    if clinic.federation.hub.newest_round()["state"] != State.OPEN:
        clinic.federation.open()
        clinic.carry_stick()
        clinic.download()
    if clinic.state == status.READY:
        clinic.train()
    assert type_in(clinic, f"upload --via {clinic.stick}") == ""
    clinic.collect()
    states = clinic.federation.update_states()
    assert "accepted" in [state for name, state in states.items() if name.startswith("site-004/")], states


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
@pytest.mark.parametrize("name", COMMANDS)
def test_g01_a_sites_command_that_was_cut_off_is_typed_again_and_its_update_counts(
    made: Federation, name: str, power_cut: bool, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    if power_cut and effort(1, 0):
        pytest.skip("with --proofs")
    state, command = COMMANDS[name]
    stride = effort(1000, 1)
    places = [0, *range(1 + 3 * list(COMMANDS).index(name) % min(stride, 8), 1000, stride)]
    for before in places:
        at = tmp_path / "home"
        fed = made.copy_to(at / "federation")
        clinic = Clinic(fed, at / "site")
        ready(clinic, state)
        code = type_in(clinic, command, dies_before=before, power_cut=power_cut)
        if before == 0:
            assert code == ""
            undisturbed = seen(clinic)
        elif code != "killed":
            break
        else:
            age(at / "site")
            again = type_in(clinic, command)
            assert again == "" or again in DONE_BEFORE, (before, again, (at / "site" / "said").read_text())
            assert seen(clinic) == undisturbed, before
            if not power_cut:
                lives(clinic)
        fed.hub.database.close()
        shutil.rmtree(at)
