"""This machine's settings: threads, precision, and memory that stays allocated from step to step."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from fedhelp_edge.cores import usable_cores
from fedhelp_edge.errors import UsageError
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.train import contention

_BF16_FLAGS = ("avx512_bf16", "amx_bf16")
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # mallopt's M_MMAP_THRESHOLD and M_TRIM_THRESHOLD


def compute(precision: str = "auto", device: str = "cpu") -> Compute:
    """The device and precision to train with. "auto" is bf16 only where it is native: emulated bf16 is slow."""
    if device not in ("cpu", "cuda"):
        raise UsageError(f"a device is cpu or cuda, not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here; use --device cpu")
    native = torch.cuda.is_bf16_supported() if device == "cuda" else bool(set(_BF16_FLAGS) & _cpu_flags())
    return Compute(device, bf16=native if precision == "auto" else precision == "bf16")


def facts(compute: Compute) -> dict[str, Any]:
    """How this process computes, for a result's provenance: threads, device, precision."""
    device = torch.cuda.get_device_name() if compute.device == "cuda" else compute.device
    return {"threads": torch.get_num_threads(), "device": device, "precision": "bf16" if compute.bf16 else "fp32"}


def arithmetic(compute: Compute) -> str:
    """What the last bits of a training depend on: processor, device, precision, threads and the version of torch."""
    processor = ",".join(sorted(_cpu_flags())) or platform.machine()
    return f"{torch.__version__} {compute.device} {compute.bf16} {torch.get_num_threads()} {processor}"


def configure(threads: int | None = None) -> None:
    """Sets the number of threads and how they wait for each other.

    Large activations stay allocated, instead of going back to the system at each step.
    """
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes that torchrun started here
    torch.set_num_threads(threads or max(1, usable_cores() // local_processes))
    contention.adapt()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(_TRIM_THRESHOLD, -1)


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line.split(":")[1] for line in lines if line.startswith("flags")), "").split())
