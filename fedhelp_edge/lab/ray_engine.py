"""Visits in many processes, by Ray: on this machine, or on a cluster.

Each visit is a stateless task. If its worker or its machine dies, Ray makes the same visit again, and no bit changes.
The object store carries what many visits need, put there once: the round's merged model, the pack, a site's images.
Decoded images that are mapped from a file go by its path.
"""

from __future__ import annotations

import copy
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedhelp_edge import __version__
from fedhelp_edge.cores import usable_cores
from fedhelp_edge.errors import ClusterError
from fedhelp_edge.lab.engine import T, Visit
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.lab.visits import RoundStart, RunContext, SiteState
from fedhelp_edge.train import machine

_STORE = 1 << 30  # bytes of the object store on this machine; what does not fit goes to the disk
_RETRIES = 3  # of a visit whose worker died
_WAITING = 4  # visits for each core that are submitted or done, and not yet read
# For a Ray on this machine, read as Ray is imported or starts.
_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # as Ray does there: all of it listens on loopback
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": None,  # Ray's own choice: a token
    "RAY_worker_niceness": "0",  # as this process; 15 would starve beside other work
}


class RayEngine:
    """Makes visits in the workers of the Ray that this process is connected to. Each visit has one core and thread."""

    def __init__(self) -> None:
        import ray

        self._ray = ray
        self._task = ray.remote(max_retries=_RETRIES)(_visit)
        self._put: dict[int, tuple[object, Any]] = {}  # by identity: what was put, and its reference

    def visits(
        self, visit: Visit[T], run: RunContext, start: RoundStart, sites: Iterable[tuple[SiteImages, SiteState]]
    ) -> Iterator[T]:
        round_start, pending = self._ray.put(start), deque[Any]()
        limit = _WAITING * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        for site, state in sites:
            task = self._task.options(name=site.id)
            pending.append(task.remote(_versions(), visit, self._once(run), round_start, self._once(site), state))
            if len(pending) == limit:
                yield self._result(pending.popleft())
        while pending:
            yield self._result(pending.popleft())

    def _once(self, thing: object) -> Any:
        """The reference of something that many rounds need."""
        if id(thing) not in self._put:
            self._put[id(thing)] = thing, self._ray.put(thing)
        return self._put[id(thing)][1]

    def _result(self, reference: Any) -> Any:
        """What a visit gives, as a copy: one array that is kept would keep the whole result in the object store."""
        try:
            return copy.deepcopy(self._ray.get(reference))
        except self._ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, self._ray.exceptions.RayError):
                raise error.cause from error
            cause = "a worker cannot read its images, or lacks a module of this program"
            remedy = (
                "put --out in a folder that each machine has under the same path, and install the same packages there"
            )
            raise ClusterError(cause, remedy=remedy) from error
        except self._ray.exceptions.RayError as error:
            raise ClusterError(f"a visit failed {_RETRIES + 1} times: {type(error).__name__}") from error


def _visit(
    versions: tuple[str, ...], visit: Visit[T], run: RunContext, start: RoundStart, site: SiteImages, state: SiteState
) -> T:
    """A visit, in a worker."""
    if versions != _versions():
        here, there = " ".join(_versions()), " ".join(versions)
        raise ClusterError(f"a worker has other versions of fedhelp-edge, torch or numpy: {here}, not {there}")
    machine.configure(1)
    return visit(run, start, site, state)


@cache
def _versions() -> tuple[str, ...]:
    """Of what decides the bits. To read them takes 10 ms."""
    return __version__, version("torch"), version("numpy")


@contextmanager
def connection(address: str | None = None, workers: int | None = None) -> Iterator[None]:
    """Connects to the Ray cluster at an address, or starts one on this machine alone, and ends it afterwards.

    A Ray that this process is connected to already is used, and stays. One that starts here listens on loopback only.
    It asks for a token that is drawn for this run, and reports nothing to anybody.
    """
    with _environment({} if address else {**_ENVIRONMENT, "RAY_AUTH_TOKEN": _token()}):
        import ray

        if ray.is_initialized():
            yield
            return
        terminate = signal.getsignal(signal.SIGTERM)
        with tempfile.TemporaryDirectory(prefix="fh", dir=_short_folder(), ignore_cleanup_errors=True) as logs:
            try:
                if address:
                    _reach(address)
                    ray.init(address=address, log_to_driver=False, logging_level="error")
                else:
                    ray.init(
                        num_cpus=workers or usable_cores(), include_dashboard=False, object_store_memory=_STORE,
                        log_to_driver=False, logging_level="error", _temp_dir=logs,
                    )  # fmt: skip
            except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
                what = f"no Ray cluster answers at {address}" if address else "Ray does not start here"
                raise ClusterError(f"{what}: {type(error).__name__}") from error
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminate)  # Ray puts its own in the place
            try:
                yield
            finally:
                ray.shutdown()


@cache
def _token() -> str:
    """The secret that a Ray on this machine asks for: Ray reads it once in each process."""
    return secrets.token_hex(32)


def _reach(address: str) -> None:
    """Raises at once if nobody listens at HOST:PORT, where Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _environment(settings: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    _set(settings)
    try:
        yield
    finally:
        _set(before)


def _set(settings: Mapping[str, str | None]) -> None:
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _short_folder() -> str | None:
    """Where Ray's sockets and logs go. The path of a socket has at most 107 bytes, and Ray's own part takes 80."""
    return "/tmp" if Path("/tmp").is_dir() else None  # noqa: S108 - the folder below has a random name
