"""The statement: the one signed line of a parcel. It names the kind of parcel, its sender and its payload."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property, lru_cache
from typing import Any

from fedhelp_edge.errors import PayloadSizeError, StatementSchemaError
from fedhelp_edge.parcel import canon

_HASH_PATTERN = re.compile(r"[0-9a-f]{64}")
_PAYLOAD_SHAPE = {"form": re.compile("age|plain"), "sha256": _HASH_PATTERN, "size": int}
_SHORT = 4096  # bytes of a statement that may be remembered: a stranger's may be 16 times as long
ZERO_HASH = "0" * 64  # where no parcel exists yet

_LIST_DIGEST = {
    "count": int,
    "sha256": _HASH_PATTERN,
}  # a list inside the payload, of which the statement has the length and the hash
_FIELDS: dict[str, Any] = {
    "kind": re.compile(r"[a-z]+"),
    "created": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),  # for people; no decision depends on it alone
    "nonce": re.compile(r"[0-9a-f]{32}"),
    "federation": re.compile(r"fh-[0-9a-f]{32}"),
    "epoch": int,  # raised when a hub is restored from a backup
    "version": int,
    "previous": _HASH_PATTERN,  # the statement of the version before
    "charter": _HASH_PATTERN,
    "roster": _HASH_PATTERN,
    "roster_version": int,
    "round": int,
    "task": _HASH_PATTERN,
    "base": _HASH_PATTERN,  # a model: the SHA-256 of its canonical safetensors
    "sender": re.compile(r"[a-z0-9][a-z0-9-]{0,31}"),
    "sender_key": re.compile(r"SHA256:[A-Za-z0-9+/]{43}"),
    "seq": int,  # strictly increasing for each sender
    "about": _HASH_PATTERN,  # the statement that a receipt answers
    "recipients": [re.compile(r"age1[a-z0-9]{58}|age1pq1[a-z0-9]{1952}")],
    "readers": _LIST_DIGEST,
    "inputs": _LIST_DIGEST,
    "masked": _HASH_PATTERN,  # the masked vector of the update that a seed belongs to
}


@dataclass(frozen=True)
class Kind:
    """The format of a kind of parcel: `age` is encrypted, the others are plain. `limit` is in bytes."""

    form: str
    limit: int
    fields: tuple[str, ...]


_JSON, _SET, _PACK, _ONNX, _AGE, _SEED = 4 << 20, 8 << 20, 256 << 20, 512 << 20, 1 << 40, 2 << 10
_COMMON = ("kind", "created")
KINDS = {
    "charter": Kind("json", _JSON, (*_COMMON, "epoch", "version", "previous")),
    "roster": Kind("json", _JSON, (*_COMMON, "federation", "epoch", "version", "charter")),
    "task": Kind("json", _JSON, (*_COMMON, "federation", "epoch", "round", "roster", "roster_version", "base")),
    "update": Kind(
        "age", _AGE,
        (*_COMMON, "federation", "round", "task", "base", "sender", "sender_key", "recipients", "nonce", "seq"),
    ),
    "global": Kind("age", _AGE, (*_COMMON, "federation", "epoch", "round", "base", "readers", "inputs")),
    "receipt": Kind("json", _JSON, (*_COMMON, "federation", "epoch", "sender", "about")),
    "enrol": Kind("json", _JSON, (*_COMMON, "federation", "nonce")),
    "rotate": Kind("json", _JSON, (*_COMMON, "federation", "sender", "nonce", "seq")),
    "knowledge": Kind("pack", _PACK, (*_COMMON, "federation")),
    "encoder": Kind("onnx", _ONNX, (*_COMMON, "federation")),
    "seed": Kind(
        "age", _SEED,
        (*_COMMON, "federation", "round", "task", "base", "sender", "sender_key", "recipients", "nonce", "masked"),
    ),
    "set": Kind("json", _SET, (*_COMMON, "federation", "epoch", "round", "task", "base")),
    "sum": Kind("words", _AGE, (*_COMMON, "federation", "epoch", "round", "task", "base", "about")),
}  # fmt: skip


@dataclass(frozen=True)
class Statement:
    context: Mapping[str, Any]
    form: str  # "age" | "plain"
    sha256: str
    size: int

    @property
    def kind(self) -> str:
        return str(self.context["kind"])

    @cached_property
    def line(self) -> bytes:
        """The signed bytes: canonical JSON without a line end."""
        payload: dict[str, canon.Value] = {"form": self.form, "sha256": self.sha256, "size": self.size}
        return canon.encode({"context": dict(self.context), "payload": payload, "v": 1})

    @property
    def hash(self) -> str:
        """The parcel's name: the hash of its statement."""
        return hashlib.sha256(self.line).hexdigest()

    @property
    def namespace(self) -> str:
        return namespace(self.kind)

    @property
    def format(self) -> Kind:
        return KINDS[self.kind]


def namespace(kind: str) -> str:
    """The SSHSIG namespace of a kind: a signature for one kind is not valid for another."""
    return f"{kind}.v1.fedhelp-edge"


def payload_form(kind: str) -> str:
    """How the payload of a kind travels: "age" or "plain"."""
    return "age" if KINDS[kind].form == "age" else "plain"


def new_context(kind: str, now: datetime | None = None, **fields: canon.Value) -> dict[str, Any]:
    """A new context with the time, and a fresh nonce if the kind has one."""
    context: dict[str, Any] = {"kind": kind, "created": format_time(now or datetime.now(timezone.utc)), **fields}
    if "nonce" in KINDS[kind].fields:
        context.setdefault("nonce", os.urandom(16).hex())
    return context


def list_digest(values: Sequence[str]) -> dict[str, canon.Value]:
    """The length and hash by which a statement names a list inside the payload."""
    return {"count": len(values), "sha256": hashlib.sha256("\n".join(values).encode()).hexdigest()}


def format_time(moment: datetime) -> str:
    """A time in UTC, to the second, as statements have it."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """Parse a time as `format_time` writes it."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError as error:
        raise StatementSchemaError(f"{text[:30]!r} is not a time") from error


def create(context: Mapping[str, Any], sha256: str, size: int) -> Statement:
    """A statement about a payload of this hash and size."""
    check_context(context)
    _check_size(context["kind"], size)
    return Statement(context, payload_form(context["kind"]), sha256, size)


def parse(line: bytes) -> Statement:
    """Parse a statement's line; raise unless it is canonical, complete and of a known kind."""
    return _parse_short(line) if len(line) <= _SHORT else _parse(line)


@lru_cache(256)  # a command reads the statements of its folder several times; nobody changes a context
def _parse_short(line: bytes) -> Statement:
    return _parse(line)


def _parse(line: bytes) -> Statement:
    value: Any = canon.decode(line)
    _check(value, {"context": dict, "payload": _PAYLOAD_SHAPE, "v": int}, "the statement")
    context, payload = value["context"], value["payload"]
    if value["v"] != 1:
        raise StatementSchemaError("written for another version of this format")
    check_context(context)
    if payload["form"] != payload_form(context["kind"]):
        raise StatementSchemaError(
            f"a {context['kind']} travels as {payload_form(context['kind'])}, not as {payload['form']}"
        )
    _check_size(context["kind"], payload["size"])
    return Statement(context, payload["form"], payload["sha256"], payload["size"])


def check_context(context: Mapping[str, Any]) -> None:
    """Raise unless a context has exactly the fields of its kind, each in its form."""
    kind = context.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise StatementSchemaError("an unknown kind of parcel")
    _check(context, {name: _FIELDS[name] for name in KINDS[kind].fields}, f"the context of a {kind}")
    parse_time(context["created"])


def _check_size(kind: str, size: int) -> None:
    if size > KINDS[kind].limit:
        raise PayloadSizeError(f"the payload is too large for a {kind}")


def _check(value: Any, shape: Any, what: str) -> None:
    if error := canon.shape_error(value, shape, what):
        raise StatementSchemaError(error)
