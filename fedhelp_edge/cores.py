"""The cores that this process may use."""

from __future__ import annotations

import os
import sys


def usable_cores() -> int:
    """The number of usable cores: fewer than the machine's where taskset or a container limits this process."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
