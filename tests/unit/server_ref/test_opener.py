"""Opening shares in another process: what it answers, and what becomes of it when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge import update
from fedhelp_edge.errors import NoSpaceError
from fedhelp_edge.merge import norm_limit
from fedhelp_edge.parcel import age
from server_ref.hub import models
from server_ref.intake import judge
from server_ref.intake.sandbox import Job, Sandbox, SandboxRefusalError
from tests.federation import Federation


@pytest.fixture
def jobs(three: Federation) -> list[Job]:
    order = three.open()
    three.play(order)
    key = judge.round_key(three.hub, three.coordinator_keys, order.round)
    return [
        judge.opening_job(three.hub, key, row, order.base) for row in three.hub.database.rows("SELECT * FROM shares")
    ]


@pytest.fixture
def opener() -> Iterator[Sandbox]:
    with Sandbox() as made:
        yield made


def test_what_was_sent_lies_opened_beside_its_facts_and_its_pull(
    three: Federation, jobs: list[Job], opener: Sandbox
) -> None:
    order = three.hub.tasks()[1]
    for job, clinic in zip(jobs, three.clinics, strict=True):
        found = opener.open(job)
        assert found.facts == {"examples": 100}
        sent = three.drawn(order, clinic)
        assert found.norm == norm_limit.update_norm(three.base(order), sent)
        with Path(job.out).open("rb") as file:
            kept = update.FileArrays(file, update.read_header(file))
            assert all((kept[name] == sent[name]).all() for name in sent)


def test_a_refusal_comes_with_its_code_and_the_same_process_goes_on(jobs: list[Job], opener: Sandbox) -> None:
    opener.open(jobs[0])
    process = opener._process
    with pytest.raises(SandboxRefusalError) as caught:
        opener.open(replace(jobs[1], identities=(age.new_identity(),)))
    assert caught.value.code == "E_NO_MATCH"
    with pytest.raises(SandboxRefusalError) as caught:
        opener.open(replace(jobs[1], path=jobs[2].path))
    assert caught.value.code == "E_PAYLOAD_HASH"
    opener.open(jobs[1])
    assert opener._process is process


def test_our_own_trouble_is_not_the_senders(jobs: list[Job], opener: Sandbox) -> None:
    with pytest.raises(NoSpaceError):
        opener.open(replace(jobs[0], out=str(Path(jobs[0].out).parent / "nowhere" / "share")))


def test_a_process_that_ended_between_two_shares_is_replaced(jobs: list[Job], opener: Sandbox) -> None:
    opener.open(jobs[0])
    assert opener._process
    opener._process.kill()
    opener._process.wait()
    with pytest.raises(Exception, match="too much memory or time"):
        opener.open(jobs[1])
    assert opener.open(jobs[1]).facts == {"examples": 100}


def test_a_late_share_is_opened_as_what_it_changed(three: Federation, jobs: list[Job], opener: Sandbox) -> None:
    moved = {
        name: (array + np.float32(0.5)).astype(np.float32) for name, array in three.base(three.hub.tasks()[1]).items()
    }
    now = three.hub.database.model_path(models.save(three.hub, moved))
    pull = opener.open(jobs[0]).norm
    late = opener.open(replace(jobs[0], counts_against=str(now))).norm
    assert late == pytest.approx(pull, rel=1e-4)
