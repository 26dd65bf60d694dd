"""Open updates in a process of its own with little memory: their bytes come from outside and may be hostile.

One JSON line in, one JSON line out: `python -m server_ref.intake.sandbox` reads jobs until its input ends. The parent
(`Sandbox`) kills it when an update takes too long, and starts a new one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from fedhelp_edge import files, update
from fedhelp_edge.codec import CODECS
from fedhelp_edge.errors import (
    ClaimedExamplesError,
    FedhelpError,
    HubDamagedError,
    InternalError,
    MachineError,
    NoSpaceError,
    PayloadHashError,
    ResourceError,
    from_os,
)
from fedhelp_edge.merge import norm_limit
from fedhelp_edge.methods.registry import named_object
from fedhelp_edge.parcel import parcel
from fedhelp_edge.secure_sum import parcels
from fedhelp_edge.secure_sum.arithmetic import wire_schema
from fedhelp_edge.update import TABLE_ROLES, Array, Schema
from server_ref.intake import tags

MEMORY_LIMIT = 1 << 30  # bytes of address space: numpy and OpenSSL take most of it
TIME_LIMIT = 120.0  # seconds for one update
_MAX_VALIDATION_IMAGES = 10**9


@dataclass(frozen=True)
class Job:
    """How to open one update. Models and results are named by their files."""

    hash: str
    path: str
    identity: str  # that opens it
    schema: tuple[str, ...]
    codec: str
    trained_from: str  # a model
    counts_against: str  # the model of the round in which it counts: the same one, unless the update is late
    model_codec: str  # of both
    out: str
    max_examples: int
    verify: str = ""  # module:name; the method's own check of values
    helper: str = ""  # the helper's key, in a secure sum: then the update is masked
    words: int = 0  # of a masked update


@dataclass(frozen=True)
class OpenedUpdate:
    """What the hub stores of an opened update, beside the file with its tensors."""

    facts: Mapping[str, int]  # that the site claims
    norm: norm_limit.UpdateNorm
    tag: str  # of the file with its tensors

    def facts_json(self) -> str:
        """As the hub's database stores it."""
        return json.dumps({**self.facts, "pull": self.norm, "tag": self.tag})


def open_update(job: Job) -> OpenedUpdate:
    """Open an update, check its tensors, and write them decoded, as a change of the model that it counts against."""
    if job.helper:
        return _open_masked(job)
    schema, wire = _schemas(job.schema, job.codec)
    trained_from, base = (_load_model(path, job.model_codec) for path in (job.trained_from, job.counts_against))
    with parcel.open(Path(job.path), parcel.any_signer, [job.identity]) as opened:
        if opened.statement.hash != job.hash:
            raise PayloadHashError("another parcel lies in its place")
        facts = _check_claims(opened.facts, job.max_examples)
        arrays = dict(CODECS[job.codec].decode(update.read(opened.body, wire), trained_from))
    update.check_values(arrays)
    update.check_probabilities(arrays, schema)
    if job.verify:
        named_object(job.verify)(arrays, facts)
    if job.trained_from != job.counts_against:
        arrays = {
            name: array if schema.role_of(name) in TABLE_ROLES else base[name] + (array - trained_from[name])
            for name, array in arrays.items()
        }
        update.check_values(arrays)
    out = Path(job.out)
    out.unlink(missing_ok=True)
    data = b"".join([schema.header_bytes, *(array.data for array in arrays.values())])
    with files.writing(out) as file:
        file.write(data)
    norm = norm_limit.update_norm(base, arrays, schema.role_of)
    return OpenedUpdate(facts, norm, tags.tag(job.identity, job.hash, data))


def _open_masked(job: Job) -> OpenedUpdate:
    """Open a masked update, of which nothing can be checked but its form and that the helper's half belongs to it."""
    out = Path(job.out)
    with parcel.open(Path(job.path), parcel.any_signer, [job.identity]) as opened:
        if opened.statement.hash != job.hash:
            raise PayloadHashError("another parcel lies in its place")
        if opened.facts:
            raise ClaimedExamplesError("counts stand beside a masked update, where anybody with the key can read them")
        arrays = dict(update.read(opened.body, wire_schema(job.words)))
        parcels.check_halves(arrays, opened.statement, opened.keys, job.helper)
    out.unlink(missing_ok=True)
    body = io.BytesIO()
    update.write(body, arrays)
    with files.writing(out) as file:
        file.write(body.getvalue())
    return OpenedUpdate({}, {}, tags.tag(job.identity, job.hash, body.getvalue()))


@lru_cache(1)
def _schemas(lines: tuple[str, ...], codec: str) -> tuple[Schema, Schema]:
    """The schema of an update, and of its encoded form."""
    schema = Schema.parse(lines)
    return schema, CODECS[codec].wire_schema(schema)


@lru_cache(2)
def _load_model(path: str, codec: str) -> dict[str, Array]:
    """A saved model, which never changes: its name is its hash."""
    with files.reading(Path(path)) as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != Path(path).stem:
        raise HubDamagedError(f"model {Path(path).stem[:12]} does not match its name")
    return dict(CODECS[codec].decode(update.load(data), {}))


def _check_claims(claimed: Mapping[str, Any], max_examples: int) -> dict[str, int]:
    """The counts that a site claims, within their limits, and no other facts. `examples` weighs its update."""
    limits = {"examples": (1, max_examples), "val": (0, _MAX_VALIDATION_IMAGES), "correct": (0, _MAX_VALIDATION_IMAGES)}
    claims = {"examples": None} | {name: claimed[name] for name in limits if name in claimed}
    for name, value in claims.items():
        low, high = limits[name]
        if type(value) is not int or not low <= value <= high:
            raise ClaimedExamplesError(f"{name} is {str(value)[:20]!r}, and may be from {low} to {high}")
    if claims.get("correct", 0) > claims.get("val", 0):
        raise ClaimedExamplesError(f"{claims['correct']} of {claims.get('val', 0)} validation images are right")
    return claims


class Sandbox:
    """The parent's side: starts the process when it is needed, and replaces it when it fails."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def open(self, job: Job) -> OpenedUpdate:
        """Open an update in the process. Raises its refusal, or `ResourceError` if it dies or takes too long.

        A full disk or a damaged hub is no fault of the sender: the update waits.
        """
        answer = self._ask(json.dumps(asdict(job)))
        if not answer:
            self._stop()
            raise ResourceError("opening it took too much memory or time")
        reply = json.loads(answer)
        if "storage" in reply:
            raise NoSpaceError(reply["storage"])
        if "damaged" in reply:
            raise HubDamagedError(reply["damaged"])
        if "code" in reply:
            raise SandboxRefusalError(reply["code"], reply["cause"])
        return OpenedUpdate(**reply)

    def _ask(self, line: str) -> str:
        if self._process is None:
            command = [sys.executable, "-m", "server_ref.intake.sandbox"]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # each thread would take address space
            )  # fmt: skip
            self._answers = queue.Queue()
            threading.Thread(target=_forward_lines, args=(self._process, self._answers), daemon=True).start()
            if not self._answer():
                self._stop()
                raise InternalError("the process that opens updates does not start")
        process = self._process
        with suppress(BrokenPipeError, OSError):
            assert process.stdin  # noqa: S101 - asked for above
            process.stdin.write(line + "\n")
            process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        with suppress(queue.Empty):
            return self._answers.get(timeout=TIME_LIMIT)
        return ""

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(BrokenPipeError, OSError):
                    if pipe:
                        pipe.close()
            self._process = None


class SandboxRefusalError(Exception):
    """The sandbox refused an update, with the code and the cause of its error."""

    def __init__(self, code: str, cause: str) -> None:
        super().__init__(cause)
        self.code, self.cause = code, cause


def _forward_lines(process: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
    """Move lines into a queue, because on some systems no read from a pipe has a time limit."""
    assert process.stdout  # noqa: S101 - asked for
    with suppress(ValueError, OSError):
        for line in process.stdout:
            answers.put(line)
    answers.put("")


def serve(lines: Iterable[str] = sys.stdin) -> None:
    """Open the update of each line, and print a line with the result."""
    print(flush=True)  # ready: from here on each failure is an update's
    for line in lines:
        request = json.loads(line)
        job = Job(**{**request, "schema": tuple(request["schema"])})
        try:
            answer: Mapping[str, Any] = asdict(open_update(job))
        except (MachineError, OSError) as error:
            answer = {"storage": from_os(error).cause if isinstance(error, OSError) else error.cause}
        except HubDamagedError as error:
            answer = {"damaged": error.cause}
        except FedhelpError as error:
            answer = {"code": error.code, "cause": error.cause}
        print(json.dumps(answer), flush=True)


def _confine() -> None:
    """Limit the process's memory, where the system has such limits."""
    with suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _confine()
    serve()
