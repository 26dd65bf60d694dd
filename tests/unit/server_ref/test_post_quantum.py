"""A federation whose updates a later quantum computer does not open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge.errors import NoMatchError, NotNowError
from fedhelp_edge.parcel import age, keys, parcel, sshsig, statement
from fedhelp_edge.secure_sum import parcels
from fedhelp_edge.secure_sum.arithmetic import MAX_SITES, SEED_LIMIT
from server_ref.hub.hub import to_json
from server_ref.rounds import reaggregate
from tests.federation import PLAN, Federation
from tests.unit.secure_sum.federation import SecureFederation

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


def test_in_a_secure_sum_the_seeds_are_post_quantum_too(tmp_path: Path) -> None:
    """A coordinator that has a quantum computer one day keeps the seeds until then."""
    fed = SecureFederation(tmp_path / "federation", 3, post_quantum=True)
    task = fed.open()
    assert task.recipients[0].startswith("age1pq1")
    fed.ask(task)
    helper = keys.load(fed.helper, lambda: "").identity
    for data in fed.seeds():
        seed = parcels.read_seed(data)
        assert b"-> mlkem768x25519 " in data
        assert b"-> X25519 " not in data
        assert len(parcels.open_seed(seed, helper)) == 32
        with pytest.raises(NoMatchError):
            parcels.open_seed(seed, age.new_identity(post_quantum=True))
    merged, expected = fed.finish(), fed.expected_model(task, [clinic.id for clinic in fed.clinics])
    assert merged["sum"]["updates"] == 3
    assert all(np.abs(fed.merged_model()[name] - expected[name]).max() <= 1e-6 for name in expected)
    fed.hub.database.close()


def test_a_set_of_the_most_sites_fits_with_post_quantum_seeds(tmp_path: Path) -> None:
    signer, recipient = keys.generate(), keys.generate(post_quantum=True).public.recipient
    context = statement.new_context(
        "seed", federation="fh-" + "0" * 32, round=10**6, task="0" * 64, base="0" * 64, sender="s" * 32,
        sender_key=sshsig.fingerprint(signer.public.sign), recipients=[recipient], masked="0" * 64,
    )  # fmt: skip
    parcel.seal(tmp_path / "seed", context, bytes(32), signer.sign, [recipient])
    seed = (tmp_path / "seed").read_bytes()
    assert len(seed) <= SEED_LIMIT
    fields = {name: context[name] for name in ("federation", "round", "task", "base")}
    body = to_json(parcels.set_body([seed] * MAX_SITES))
    parcel.seal(tmp_path / "set", statement.new_context("set", epoch=1, **fields), body, signer.sign)
    with parcel.open(tmp_path / "set", parcel.any_signer) as opened:
        assert len(opened.json()["seeds"]) == MAX_SITES
