"""Updates as plain files, for peers to read, and what a piece of work costs. For scripts in any environment."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def read(path: Path) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """The arrays of a safetensors file of float32, with as little work as can be: nothing is copied or checked."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return {
        name: np.frombuffer(data, "<f4", (end - begin) // 4, 8 + length + begin).reshape(shape)
        for name, (begin, end), shape in (
            (name, entry["data_offsets"], entry["shape"]) for name, entry in json.loads(data[8 : 8 + length]).items()
        )
    }


def paths(folder: Path, count: int) -> list[Path]:
    return [folder / f"{index:04}.safetensors" for index in range(count)]


def examples(index: int) -> int:
    """The weight of an update."""
    return 100 + 7 * index % 900


def measured(work: Callable[[], dict[str, Any]], out: Path) -> None:
    """Print what it costs to merge, all processes together; the merged model goes to `out`, as one row of numbers."""
    cpu, begin = _cpu(), time.perf_counter()
    merged = work()
    seconds, spent = time.perf_counter() - begin, _cpu() - cpu
    peak = _peak()
    np.save(out, np.concatenate([np.ravel(merged[name]) for name in sorted(merged)]))
    print(json.dumps({"cpu": spent, "seconds": seconds, "peak_mb": peak}), file=sys.stdout, flush=True)


def _cpu() -> float:
    import resource

    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _peak() -> float:
    """Of this process and its largest child, in MB."""
    import resource

    used = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used) * (1 if sys.platform == "darwin" else 1024) / 1e6
