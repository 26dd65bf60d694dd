"""Updates opened in another process: its results, and what happens when it fails."""

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
    task = three.open()
    three.send_updates(task)
    key = judge.round_key(three.hub, three.coordinator_keys, task.round)
    return [
        judge.opening_job(three.hub, key, row, task.base) for row in three.hub.database.rows("SELECT * FROM shares")
    ]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


def test_an_update_is_opened_to_its_tensors_its_facts_and_its_norm(
    three: Federation, jobs: list[Job], sandbox: Sandbox
) -> None:
    task = three.hub.tasks()[1]
    for job, clinic in zip(jobs, three.clinics, strict=True):
        opened = sandbox.open(job)
        assert opened.facts == {"examples": 100}
        sent = three.drawn_update(task, clinic)
        assert opened.norm == norm_limit.update_norm(three.base(task), sent)
        tensors = update.load(Path(job.out))
        assert all((tensors[name] == sent[name]).all() for name in sent)


def test_a_refusal_has_its_code_and_the_same_process_continues(jobs: list[Job], sandbox: Sandbox) -> None:
    sandbox.open(jobs[0])
    process = sandbox._process
    with pytest.raises(SandboxRefusalError) as caught:
        sandbox.open(replace(jobs[1], identity=age.new_identity()))
    assert caught.value.code == "E_NO_MATCH"
    with pytest.raises(SandboxRefusalError) as caught:
        sandbox.open(replace(jobs[1], path=jobs[2].path))
    assert caught.value.code == "E_PAYLOAD_HASH"
    sandbox.open(jobs[1])
    assert sandbox._process is process


def test_a_full_disk_is_no_refusal_of_an_update(jobs: list[Job], sandbox: Sandbox) -> None:
    with pytest.raises(NoSpaceError):
        sandbox.open(replace(jobs[0], out=str(Path(jobs[0].out).parent / "nowhere" / "share")))


def test_a_process_that_ended_between_two_updates_is_replaced(jobs: list[Job], sandbox: Sandbox) -> None:
    sandbox.open(jobs[0])
    assert sandbox._process
    sandbox._process.kill()
    sandbox._process.wait()
    with pytest.raises(Exception, match="too much memory or time"):
        sandbox.open(jobs[1])
    assert sandbox.open(jobs[1]).facts == {"examples": 100}


def test_a_late_update_is_opened_as_its_change_of_the_base_model(
    three: Federation, jobs: list[Job], sandbox: Sandbox
) -> None:
    moved = {
        name: (array + np.float32(0.5)).astype(np.float32) for name, array in three.base(three.hub.tasks()[1]).items()
    }
    now = three.hub.database.model_path(models.save(three.hub, moved))
    pull = sandbox.open(jobs[0]).norm
    late = sandbox.open(replace(jobs[0], counts_against=str(now))).norm
    assert late == pytest.approx(pull, rel=1e-4)
