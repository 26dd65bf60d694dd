from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedhelp_edge.train import contention, machine

pytestmark = pytest.mark.skipif(not contention.is_adaptive(), reason="here, threads wait in one fixed way")


@pytest.fixture
def watch() -> Iterator[contention.ContentionMonitor]:
    torch.ones(1 << 20).add_(1)  # PyTorch loads its thread library
    library = contention._load_libgomp()
    assert library is not None
    watch = contention.ContentionMonitor(library)
    yield watch
    watch.adjust(0.0)


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_threads_sleep_while_cores_are_busy_and_spin_again_afterwards(
    watch: contention.ContentionMonitor,
) -> None:
    before = threads()
    sleeping = []
    for waiting in (0.02, 0.5, 0.5, 0.1, 0.02, 0.1, 0.5):
        watch.adjust(waiting)
        sleeping.append(watch.sleeps)
    assert sleeping == [False, True, True, True, False, False, True]
    watch.adjust(0.0)
    end = time.monotonic() + 20
    while threads() > before and time.monotonic() < end:  # libgomp's threads end a moment after theirs
        time.sleep(0.01)
    assert threads() <= before


# In a process of its own: in this one, other tests' threads may be left over.
TRAINING = """
import hashlib, torch
from fedhelp_edge.nets.resnet import ResNet
from fedhelp_edge.nets.spec import Form
from fedhelp_edge.train import contention, machine
machine.configure(2)
watch = contention.ContentionMonitor(contention._load_libgomp())
for sequence in [0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.0, 0.5]:
    torch.manual_seed(0)
    net = ResNet("resnet20", Form(3))
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    images = torch.rand(8, 3, 32, 32)
    for waiting in sequence:
        watch.adjust(waiting)
        optimiser.zero_grad()
        net(images).logsumexp(1).sum().backward()
        optimiser.step()
    whole = b"".join(value.numpy().tobytes() for value in net.state_dict().values())
    print(watch.sleeps, torch.get_num_threads(), hashlib.sha256(whole).hexdigest())
"""


def test_the_way_of_waiting_changes_no_bit_of_training() -> None:
    done = subprocess.run([sys.executable, "-c", TRAINING], check=True, capture_output=True, text=True)
    slept, threads, weights = zip(*(line.split() for line in done.stdout.splitlines()), strict=True)
    assert slept == ("False", "True", "True")
    assert set(threads) == {"2"}
    assert len(set(weights)) == 1


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_a_way_of_waiting_that_a_person_has_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not contention.is_adaptive()


def test_a_single_thread_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "_monitor", None)
    machine.configure(1)
    assert contention._monitor is None


def test_training_has_one_monitor_however_often_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "_monitor", None)
    before = threads()
    machine.configure(2)
    first = contention._monitor
    machine.configure(2)
    assert first is not None
    assert contention._monitor is first
    assert first.is_alive()
    assert threads() - before <= 2  # the watch, and PyTorch's second thread


def test_the_time_waited_for_a_core_only_grows() -> None:
    first = contention.waiting_seconds()
    torch.ones(1 << 20).add_(1)
    assert contention.waiting_seconds() >= first >= 0


def test_pytorchs_own_threads_are_used_though_another_package_has_its_own_library() -> None:
    others = sorted(Path(torch.__file__).parents[1].glob("scikit_learn.libs/libgomp*"))
    if not others:
        pytest.skip("no package here brings another libgomp")
    ctypes.CDLL(str(others[0]))
    library = contention._load_libgomp()
    assert library is not None
    assert Path(library._name).is_relative_to(Path(torch.__file__).parent)
