"""A federation whose updates a later quantum computer does not open."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedhelp_edge.errors import NotNowError
from fedhelp_edge.parcel import age
from server_ref.rounds import reaggregate
from tests.federation import PLAN, Federation

pytestmark = pytest.mark.usefixtures("open_in_process")


def test_a_round_is_merged_and_no_key_but_the_destroyed_one_opens_its_updates(tmp_path: Path) -> None:
    fed = Federation(tmp_path / "federation", PLAN + "[wire]\npost_quantum = true\n", clinics=2)
    for round_ in (1, 2):
        task = fed.open()
        (recipient,) = task.recipients
        assert recipient.startswith("age1pq1")
        fed.send_updates(task)
        outcome = fed.aggregate()
        assert (outcome["round"], outcome["accepted"]) == (round_, ["site-001", "site-002"])
    updates = [
        path for clinic in fed.clinics for path in clinic.folder.glob("*.fhx") if b"mlkem768" in path.read_bytes()
    ]
    assert len(updates) == 4
    assert [path.stem for path in (fed.hub.home / "round-keys").iterdir()] == ["000002"]  # for late updates
    for path in updates:
        with path.open("rb") as file:
            file.seek(path.read_bytes().index(b"age-encryption.org"))
            assert not age.can_open(file, [fed.coordinator_keys.identity])
    with pytest.raises(NotNowError, match="post-quantum updates open with their round's key alone"):
        reaggregate.check_contributed(fed.hub, "site-001")
    fed.hub.database.close()
