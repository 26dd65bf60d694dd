"""The statement: the one signed line of a parcel. It says what the parcel is, from whom, and what it holds."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from fedhelp_edge.errors import PayloadSizeError, StatementSchemaError
from fedhelp_edge.parcel import canon

_HASH_PATTERN = re.compile(r"[0-9a-f]{64}")
_PAYLOAD_SHAPE = {"form": re.compile("age|plain"), "sha256": _HASH_PATTERN, "size": int}
ZERO_HASH = "0" * 64  # where there is nothing to name yet

_LIST_DIGEST = {
    "count": int,
    "sha256": _HASH_PATTERN,
}  # a list that stands inside; the statement has its length and hash
_FIELDS: dict[str, Any] = {
    "kind": re.compile(r"[a-z]+"),
    "created": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),  # for people; no decision rests on it alone
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
    "seq": int,  # strictly rising for each sender
    "about": _HASH_PATTERN,  # the statement that a receipt answers
    "recipients": [re.compile(r"age1[a-z0-9]{58}")],
    "readers": _LIST_DIGEST,
    "inputs": _LIST_DIGEST,
}


@dataclass(frozen=True)
class Kind:
    """What a kind of parcel holds: `age` is encrypted, `json` and `pack` are plain."""

    form: str
    limit: int
    fields: tuple[str, ...]


_JSON, _PACK, _AGE = 4 << 20, 256 << 20, 1 << 40
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

    @property
    def line(self) -> bytes:
        """The signed bytes: canonical JSON without a line end."""
        payload: dict[str, canon.Value] = {"form": self.form, "sha256": self.sha256, "size": self.size}
        return canon.encode({"context": dict(self.context), "payload": payload, "v": 1})

    @property
    def hash(self) -> str:
        """The name of the parcel, for ever."""
        return hashlib.sha256(self.line).hexdigest()

    @property
    def namespace(self) -> str:
        return namespace(self.kind)

    @property
    def holds(self) -> Kind:
        return KINDS[self.kind]


def namespace(kind: str) -> str:
    """The SSHSIG namespace: a signature for one kind is worth nothing for another."""
    return f"{kind}.v1.fedhelp-edge"


def payload_form(kind: str) -> str:
    return "age" if KINDS[kind].form == "age" else "plain"


def new_context(kind: str, now: datetime | None = None, **fields: canon.Value) -> dict[str, Any]:
    """A context with the time, and a fresh nonce if the kind has one."""
    context: dict[str, Any] = {"kind": kind, "created": format_time(now or datetime.now(timezone.utc)), **fields}
    if "nonce" in KINDS[kind].fields:
        context.setdefault("nonce", os.urandom(16).hex())
    return context


def list_digest(values: Sequence[str]) -> dict[str, canon.Value]:
    """A list that stands inside, as the statement names it."""
    return {"count": len(values), "sha256": hashlib.sha256("\n".join(values).encode()).hexdigest()}


def format_time(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """The moment that a text names, as `iso` writes it."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        raise StatementSchemaError(f"{text[:30]!r} is no time") from None


def create(context: Mapping[str, Any], sha256: str, size: int) -> Statement:
    check_context(context)
    _check_size(context["kind"], size)
    return Statement(context, payload_form(context["kind"]), sha256, size)


def parse(line: bytes) -> Statement:
    """A statement from its line, whole and of a known kind, or a refusal."""
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
    kind = context.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise StatementSchemaError("of an unknown kind")
    _check(context, {name: _FIELDS[name] for name in KINDS[kind].fields}, f"the context of a {kind}")
    parse_time(context["created"])


def _check_size(kind: str, size: int) -> None:
    if size > KINDS[kind].limit:
        raise PayloadSizeError(f"a {kind} may not be that large")


def _check(value: Any, shape: Any, what: str) -> None:
    if error := canon.shape_error(value, shape, what):
        raise StatementSchemaError(error)
