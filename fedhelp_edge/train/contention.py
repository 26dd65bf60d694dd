"""Training beside other programs: PyTorch's threads spin while they wait, or sleep where another program needs a core.

libgomp, PyTorch's thread library on Linux, waits by spinning. That is fastest on an idle machine. On a busy one it
wastes the core that the thread it waits for should have. libgomp fixes its number of turns as it loads. The exception:
while it has more threads than the machine has cores, its threads sleep at once. So this module starts some idle threads
when training must share the cores, and ends them when it need not. The threads that train stay as many as they were,
and so do the bits that they compute (docs/decisions/threads.md).
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from pathlib import Path

import torch

from fedhelp_edge.cores import usable_cores

_THREADS = Path("/proc/self/task")
_INTERVAL = 0.5  # seconds between two measurements
# Seconds that the process's threads wait for a core, per second, in all. An idle machine shows at most some
# hundredths, a machine with one busy program more than a third, however the threads wait for each other.
_SLEEP_ABOVE, _SPIN_BELOW = 0.15, 0.08


def is_adaptive() -> bool:
    """Whether the threads' waiting follows the load: on Linux, unless the environment fixes it."""
    fixed = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
    return sys.platform == "linux" and not fixed and (_THREADS / str(os.getpid()) / "schedstat").exists()


def adapt() -> None:
    """Makes waiting follow the load from now on, in this process. A second call changes nothing."""
    global _monitor
    if is_adaptive() and torch.get_num_threads() > 1 and (_monitor is None or not _monitor.is_alive()):
        library = _load_libgomp()
        if library is not None:
            _monitor = ContentionMonitor(library)
            _monitor.start()


class ContentionMonitor(threading.Thread):
    """Measures twice a second how long this process's threads waited for a core, and lets them sleep or spin."""

    def __init__(self, library: ctypes.CDLL) -> None:
        super().__init__(name="contention", daemon=True)
        self._library = library
        self._idle_threads: IdleThreads | None = None

    def run(self) -> None:
        waited, measured_at = waiting_seconds(), time.monotonic()
        while True:
            time.sleep(_INTERVAL)
            now_waited, now = waiting_seconds(), time.monotonic()
            self.adjust((now_waited - waited) / (now - measured_at))
            waited, measured_at = now_waited, now

    def adjust(self, waiting: float) -> None:
        """Switches to sleeping or spinning. `waiting`: seconds that threads waited for a core, per second."""
        if self._idle_threads is None and waiting > _SLEEP_ABOVE:
            self._idle_threads = IdleThreads(self._library)
        elif self._idle_threads is not None and waiting < _SPIN_BELOW:
            self._idle_threads.end()
            self._idle_threads = None

    @property
    def sleeps(self) -> bool:
        """Whether waiting threads sleep at present; else they spin."""
        return self._idle_threads is not None


class IdleThreads:
    """Idle threads of libgomp, one more than the cores. They belong to a thread of ours, and end with it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, args=(library,), daemon=True)
        self._thread.start()

    def _keep(self, library: ctypes.CDLL) -> None:
        no_operation = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)  # what each thread of the team calls
        library.GOMP_parallel(no_operation, None, ctypes.c_uint(usable_cores() + 1), ctypes.c_uint(0))
        self._over.wait()

    def end(self) -> None:
        """Ends the threads, and waits until they have ended."""
        self._over.set()
        self._thread.join()


def waiting_seconds() -> float:
    """The seconds that all living threads have waited for a core. Threads that have ended no longer count."""
    total = 0
    for thread in _THREADS.iterdir():
        try:
            total += int((thread / "schedstat").read_text().split()[1])
        except (OSError, IndexError):  # the thread has just ended
            continue
    return total / 1e9


def _load_libgomp() -> ctypes.CDLL | None:
    """PyTorch's own libgomp, or the system's where PyTorch uses that; other packages may have loaded one more."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {Path(line.split(maxsplit=5)[5]) for line in lines if "libgomp" in line}
    own = [path for path in paths if path.is_relative_to(Path(torch.__file__).parent)] or list(paths)
    return ctypes.CDLL(str(own[0])) if len(own) == 1 else None


_monitor: ContentionMonitor | None = None
