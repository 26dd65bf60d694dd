from __future__ import annotations

import pytest
import torch

from fedhelp_edge.errors import UsageError
from fedhelp_edge.train import machine


@pytest.mark.parametrize(("precision", "half"), [("fp32", False), ("bf16", True)])
def test_a_plan_may_fix_the_precision(precision: str, half: bool) -> None:
    assert machine.compute(precision).bf16 is half


@pytest.mark.parametrize(
    ("flags", "half"),
    [({"avx2", "avx512f"}, False), ({"avx512f", "avx512_bf16"}, True), ({"amx_bf16"}, True), (set(), False)],
    ids=["older", "avx512_bf16", "amx", "unknown"],
)
def test_automatic_precision_is_half_only_where_it_is_native(
    flags: set[str], half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_cpu_flags", lambda: flags)
    assert machine.compute().bf16 is half


def test_a_missing_cuda_device_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--device cpu"):
        machine.compute(device="cuda")


@pytest.mark.parametrize("threads", [1, 2])
def test_the_requested_number_of_threads_is_used(threads: int) -> None:
    machine.configure(threads)
    assert torch.get_num_threads() == threads


def test_processes_on_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    machine.configure()
    assert torch.get_num_threads() == 2
