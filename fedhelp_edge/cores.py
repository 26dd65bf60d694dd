"""The cores that this process may use."""

from __future__ import annotations

import os
import sys


def usable_cores() -> int:
    """Fewer than the machine's where the system limits this process (taskset, a container's set of cores)."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
