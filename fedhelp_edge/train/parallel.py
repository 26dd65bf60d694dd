"""Several processes that train one net, as `torchrun` starts them: on one machine, or on several that share a folder.

All draw the same batches and each takes its slice of every step; gradients are added up (`Learner.descend`), so that
all take the same step and end with the same bits. The first process alone decides and writes; the others are told.
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
    """The bench as this process's place among those that torchrun started."""
    ranks = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if ranks == 1:
        return compute
    cuda = compute.device == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_TIMEOUT)
    return replace(compute, rank=dist.get_rank(), ranks=ranks)


def leave(compute: Compute) -> None:
    """The end, which the first process announces."""
    if compute.ranks > 1:
        if not compute.rank:
            _broadcast_bytes(b"")
        dist.destroy_process_group()


@contextmanager
def main_process_first(compute: Compute) -> Iterator[None]:
    """The first process goes ahead; the others follow when it is through, and find done what it did."""
    if compute.rank:
        with worker_errors():
            _receive_bytes()
    yield
    if compute.ranks > 1 and not compute.rank:
        _broadcast_bytes(b"")


@contextmanager
def worker_errors() -> Iterator[None]:
    """For all but the first: whatever ends that one, it says itself, and here it is no mistake of this program."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # a connection that is gone has no kind of its own
        remedy = "see what that one says, or run the same command again; it goes on where it stopped"
        raise StoppedByHandError("another of the processes has ended", remedy=remedy) from error


def broadcast(facts: Mapping[str, Any], state: Mapping[str, Array]) -> None:
    """To the other processes, from the first."""
    data = io.BytesIO()
    checkpoint.write(data, facts, state)
    _broadcast_bytes(data.getvalue())


def receive() -> tuple[dict[str, Any], dict[str, Array]] | None:
    """What the first process tells; None when it leaves."""
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
