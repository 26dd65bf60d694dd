"""Several processes that train one net, as `torchrun` starts them: on one machine, or on several that share a folder.

All draw the same batches and each takes its slice of every step. Gradients are added up (`Learner.descend`), so all
take the same step and end with the same bits. The first process alone decides and writes, and informs the others.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from fedhelp_edge.errors import StoppedByHandError
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.train import checkpoint
from fedhelp_edge.update import Array

_TIMEOUT = timedelta(days=1)  # the others wait while the first decodes images or measures


def join(compute: Compute) -> Compute:
    """The same device and precision, with this process's rank among those that torchrun started."""
    ranks = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if ranks == 1:
        return compute
    cuda = compute.device == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_TIMEOUT)
    return replace(compute, rank=dist.get_rank(), ranks=ranks)


def leave(compute: Compute) -> None:
    """Ends the process group, which the first process announces to the others."""
    if compute.ranks > 1:
        if not compute.rank:
            _broadcast_bytes(b"")
        dist.destroy_process_group()


@contextmanager
def main_process_first(compute: Compute) -> Iterator[None]:
    """The first process runs the body first. The others wait for it, and then find its results on disk."""
    if compute.rank:
        with worker_errors():
            _receive_bytes()
    yield
    if compute.ranks > 1 and not compute.rank:
        _broadcast_bytes(b"")


@contextmanager
def worker_errors() -> Iterator[None]:
    """Turns a lost connection into a clear error. The first process, which ended, has reported the cause itself."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # torch has no error class for a lost connection
        remedy = "see what that one says, or run the same command again; it continues where it stopped"
        raise StoppedByHandError("another of the processes has ended", remedy=remedy) from error


def broadcast(facts: Mapping[str, Any], state: Mapping[str, Array]) -> None:
    """Sends facts and state from the first process to the others."""
    data = io.BytesIO()
    checkpoint.write(data, facts, state)
    _broadcast_bytes(data.getvalue())


def receive() -> tuple[dict[str, Any], dict[str, Array]] | None:
    """What the first process broadcasts; None when it leaves."""
    data = _receive_bytes()
    return checkpoint.read(data) if data else None


def _broadcast_bytes(data: bytes) -> None:
    dist.broadcast(torch.tensor([len(data)]), 0)
    if data:
        dist.broadcast(torch.frombuffer(bytearray(data), dtype=torch.uint8), 0)


def _receive_bytes() -> bytes:
    size = torch.zeros(1, dtype=torch.int64)
    dist.broadcast(size, 0)
    data = torch.empty(int(size), dtype=torch.uint8)
    if size:
        dist.broadcast(data, 0)
    return data.numpy().tobytes()
