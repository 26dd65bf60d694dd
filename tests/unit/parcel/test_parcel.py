"""Parcels: recipients open exactly what was sealed, in little memory; files are never half-written."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_edge.errors import (
    BadBodyError,
    FedhelpError,
    InnerContextError,
    NoMatchError,
    PayloadHashError,
    PayloadSizeError,
    RecipientTypeError,
    SigCountError,
    SigNamespaceError,
    SignerUnknownError,
    StatementSchemaError,
    StatementSizeError,
    TargetExistsError,
)
from fedhelp_edge.parcel import age, canon, keys, parcel, sshsig, statement
from fedhelp_edge.parcel.parcel import any_signer

RESNET20 = 1_092_040  # bytes of its update

EXAMPLES: dict[str, Any] = {
    "created": "2026-11-21T08:00:00Z",
    "nonce": "5e" * 16,
    "federation": "fh-" + "3c" * 16,
    "recipients": [],
    "sender": "site-017",
    "sender_key": "SHA256:" + "A" * 43,
    "readers": {"count": 3, "sha256": "7d" * 32},
    "inputs": {"count": 2, "sha256": "8e" * 32},
}
NUMBERS = ("epoch", "version", "roster_version", "round", "seq")


def new_context(kind: str, **fields: Any) -> dict[str, Any]:
    """A context of any kind."""
    names = statement.KINDS[kind].fields
    numbers = dict.fromkeys(NUMBERS, 7)
    every = dict.fromkeys(names, "a1" * 32) | EXAMPLES | numbers | {"kind": kind} | fields
    return {name: every[name] for name in names}


def sample_bytes(size: int) -> bytes:
    return hashlib.shake_128(b"a body").digest(size)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- round trips -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [kind for kind, spec in statement.KINDS.items() if spec.form == "json"])
def test_an_object_is_opened_unchanged(kind: str, tmp_path: Path, site: keys.Keys) -> None:
    body = '{"name":"Klinik Süd","weights":[0.5,1e-3],"nothing":null}'.encode()
    sealed = parcel.seal(tmp_path / "it.fhx", new_context(kind), body, site.sign)
    with parcel.open(tmp_path / "it.fhx", any_signer) as opened:
        assert opened.json() == {"name": "Klinik Süd", "weights": [0.5, 0.001], "nothing": None}
        assert opened.statement == sealed
        assert opened.keys == (site.public.sign,)


@pytest.mark.parametrize("size", [0, 1, 65536, 300_000])
def test_a_pack_is_opened_unchanged(size: int, tmp_path: Path, site: keys.Keys) -> None:
    parcel.seal(tmp_path / "it.fhx", new_context("knowledge"), sample_bytes(size), site.sign)
    with parcel.open(tmp_path / "it.fhx", any_signer) as opened:
        assert opened.body.read() == sample_bytes(size)


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 300_000])
def test_an_update_is_opened_with_its_facts(
    size: int, tmp_path: Path, context: dict[str, Any], site: keys.Keys, hub: keys.Keys
) -> None:
    facts = {"examples": 120, "codec": "f32"}
    parcel.seal(tmp_path / "it.fhx", context, sample_bytes(size), site.sign, [hub.public.recipient], facts=facts)
    with parcel.open(tmp_path / "it.fhx", any_signer, [hub.identity]) as opened:
        assert opened.body.read() == sample_bytes(size)
        assert opened.facts == facts
        assert opened.statement.context == context


def test_a_model_opens_for_each_of_its_recipients(tmp_path: Path, site: keys.Keys, hub: keys.Keys) -> None:
    context = new_context("global", base=hashlib.sha256(sample_bytes(1000)).hexdigest())
    readers = [site.public.recipient, hub.public.recipient]
    parcel.seal(tmp_path / "it.fhx", context, sample_bytes(1000), hub.sign, readers)
    for identity in (site.identity, hub.identity):
        with parcel.open(tmp_path / "it.fhx", any_signer, [identity]) as opened:
            assert opened.body.read() == sample_bytes(1000)


def test_a_model_other_than_its_statement_names_is_refused(tmp_path: Path, hub: keys.Keys) -> None:
    parcel.seal(tmp_path / "it.fhx", new_context("global"), sample_bytes(1000), hub.sign, [hub.public.recipient])
    with pytest.raises(BadBodyError):
        parcel.open(tmp_path / "it.fhx", any_signer, [hub.identity])


def test_a_file_is_sealed_from_its_current_position(tmp_path: Path, site: keys.Keys, hub: keys.Keys) -> None:
    for kind, recipients in (("knowledge", []), ("update", [hub.public.recipient])):
        source = io.BytesIO(sample_bytes(1000))
        source.seek(400)
        parcel.seal(tmp_path / kind, new_context(kind), source, site.sign, recipients)
        with parcel.open(tmp_path / kind, any_signer, [hub.identity]) as opened:
            assert opened.body.read() == sample_bytes(1000)[400:]


def test_the_name_of_a_parcel_is_the_hash_of_its_second_line(tmp_path: Path, site: keys.Keys) -> None:
    sealed = parcel.seal(tmp_path / "it.fhx", new_context("charter"), b"{}", site.sign)
    line = (tmp_path / "it.fhx").read_bytes().split(b"\n")[1]
    assert sealed.hash == hashlib.sha256(line).hexdigest()
    assert statement.parse(line) == sealed


# --- public parts ----------------------------------------------------------------------------------------------------
@pytest.fixture
def update(tmp_path: Path, context: dict[str, Any], site: keys.Keys, hub: keys.Keys) -> Path:
    parcel.seal(tmp_path / "update.fhx", context, sample_bytes(100_000), site.sign, [hub.public.recipient])
    return tmp_path / "update.fhx"


def test_inspect_needs_no_key(update: Path, context: dict[str, Any], site: keys.Keys) -> None:
    inspected = parcel.inspect(update, any_signer)
    assert (inspected.statement.context, inspected.keys) == (context, (site.public.sign,))
    payload = update.read_bytes()[inspected.offset :]
    assert (inspected.statement.sha256, inspected.statement.size) == (hashlib.sha256(payload).hexdigest(), len(payload))


def test_only_recipients_can_open_a_parcel(update: Path, site: keys.Keys) -> None:
    for identities in ([], [site.identity], [age.Passphrase("a passphrase")]):
        with pytest.raises(NoMatchError):
            parcel.open(update, any_signer, identities)


def test_the_prologue_shows_neither_the_body_nor_its_hash(update: Path) -> None:
    data = update.read_bytes()
    assert hashlib.sha256(sample_bytes(100_000)).hexdigest().encode() not in data
    assert sample_bytes(100_000)[:16] not in data


def test_files_of_equal_bodies_are_equally_long_and_otherwise_different(
    tmp_path: Path, context: dict[str, Any], site: keys.Keys, hub: keys.Keys
) -> None:
    for name, body in (("a", sample_bytes(5000)), ("b", sample_bytes(5000)), ("c", bytes(5000))):
        parcel.seal(tmp_path / name, context, body, site.sign, [hub.public.recipient])
    first, second, third = ((tmp_path / name).read_bytes() for name in "abc")
    assert len(first) == len(second) == len(third)
    assert len({first, second, third}) == 3


def test_sealing_adds_less_than_two_kilobytes_to_a_resnet20(
    tmp_path: Path, context: dict[str, Any], site: keys.Keys, hub: keys.Keys
) -> None:
    parcel.seal(tmp_path / "it.fhx", context, bytes(RESNET20), site.sign, [hub.public.recipient])
    assert 0 < (tmp_path / "it.fhx").stat().st_size - RESNET20 < 2000


# --- signers and verifiers -------------------------------------------------------------------------------------------
def test_every_signer_is_named_in_order(tmp_path: Path) -> None:
    signers = [Ed25519PrivateKey.generate() for _ in range(8)]
    parcel.seal(tmp_path / "it.fhx", new_context("charter"), b"{}", signers)
    lines = tuple(sshsig.public_line(signer.public_key()) for signer in signers)
    assert parcel.inspect(tmp_path / "it.fhx", any_signer).keys == lines


@pytest.mark.parametrize("count", [0, 9])
def test_no_signature_and_more_than_eight_are_not_written(count: int, tmp_path: Path) -> None:
    with pytest.raises(SigCountError):
        parcel.seal(tmp_path / "it.fhx", new_context("charter"), b"{}", [Ed25519PrivateKey.generate()] * count)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("read", [parcel.inspect, parcel.open])
def test_a_signer_that_the_verifier_refuses_is_refused(
    read: Callable[..., object], update: Path, site: keys.Keys
) -> None:
    asked: list[tuple[Any, ...]] = []

    def nobody(sealed: statement.Statement, signed_by: tuple[str, ...]) -> None:
        asked.append((sealed.context["sender"], signed_by))
        raise SignerUnknownError("nobody is trusted here")

    with pytest.raises(SignerUnknownError):
        read(update, nobody)
    assert asked == [("site-017", (site.public.sign,))]


def test_the_verifier_is_called_before_the_payload_is_read(update: Path) -> None:
    def nobody(_said: statement.Statement, _keys: tuple[str, ...]) -> None:
        raise SignerUnknownError("nobody is trusted here")

    update.write_bytes(update.read_bytes()[:-1] + b"?")
    with pytest.raises(SignerUnknownError):
        parcel.inspect(update, nobody)


def test_a_limit_is_the_largest_payload_that_passes(update: Path) -> None:
    size = parcel.inspect(update, any_signer).statement.size
    assert parcel.inspect(update, any_signer, limit=size).statement.size == size
    with pytest.raises(PayloadSizeError):
        parcel.inspect(update, any_signer, limit=size - 1)
    with pytest.raises(PayloadSizeError):
        parcel.open(update, any_signer, [], limit=size - 1)


@pytest.mark.parametrize(("kind", "limit"), [("task", 4 << 20), ("knowledge", 256 << 20)])
def test_a_plain_body_has_the_limit_of_its_kind(kind: str, limit: int, tmp_path: Path, site: keys.Keys) -> None:
    line = statement.Statement(new_context(kind), "plain", "0" * 64, limit + 1).line
    with pytest.raises(PayloadSizeError):
        statement.parse(line)
    assert statement.parse(line.replace(b"%d" % (limit + 1), b"%d" % limit)).size == limit


def test_a_body_that_would_not_open_is_not_sealed(tmp_path: Path, site: keys.Keys) -> None:
    with pytest.raises(PayloadSizeError):
        parcel.seal(tmp_path / "it.fhx", new_context("task"), bytes((4 << 20) + 1), site.sign)
    assert names(tmp_path) == set()


def test_facts_that_would_not_open_are_not_sealed(
    tmp_path: Path, context: dict[str, Any], site: keys.Keys, hub: keys.Keys
) -> None:
    def seal(letters: int) -> Path:
        facts = {"notes": "x" * letters}
        path = tmp_path / f"{letters}.fhx"
        parcel.seal(path, context, b"", site.sign, [hub.public.recipient], facts=facts)
        return path

    around = len(inner_line(context, b"", facts={"notes": ""}))
    with parcel.open(seal(parcel.INNER_LIMIT - around), any_signer, [hub.identity]) as opened:
        assert opened.body.read() == b""
    with pytest.raises(BadBodyError):
        seal(parcel.INNER_LIMIT - around + 1)
    assert len(names(tmp_path)) == 1


def test_a_signature_for_another_kind_is_refused(update: Path, site: keys.Keys) -> None:
    data = update.read_bytes()
    line = data.split(b"\n")[1]
    ours, other = (sshsig.sign(line, site.sign, statement.namespace(kind)).encode() for kind in ("update", "global"))
    update.write_bytes(data.replace(ours, other))
    with pytest.raises(SigNamespaceError):
        parcel.inspect(update, any_signer)


def test_every_parcel_has_its_own_salt(
    tmp_path: Path, context: dict[str, Any], site: keys.Keys, hub: keys.Keys
) -> None:
    salts = set()
    for name in ("a", "b"):
        sealed = parcel.seal(tmp_path / name, context, b"body", site.sign, [hub.public.recipient])
        plain = io.BytesIO()
        age.decrypt(io.BytesIO((tmp_path / name).read_bytes()[-sealed.size :]), plain, [hub.identity])
        salts.add(parcel.read_json(plain.getvalue().split(b"\n")[0])["salt"])
    assert len(salts) == 2
    assert all(re.fullmatch("[0-9a-f]{64}", salt) for salt in salts)


# --- memory and reading ----------------------------------------------------------------------------------------------
@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """Gives the peak memory since the test began."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_twenty_megabytes_need_two_megabytes_of_memory(
    tmp_path: Path, context: dict[str, Any], site: keys.Keys, hub: keys.Keys, peak: Callable[[], int]
) -> None:
    with (tmp_path / "body").open("wb") as file:
        for _ in range(20):
            file.write(os.urandom(1 << 20))
    with (tmp_path / "body").open("rb") as body:
        parcel.seal(tmp_path / "it.fhx", context, body, site.sign, [hub.public.recipient])
    with parcel.open(tmp_path / "it.fhx", any_signer, [hub.identity]) as opened:
        count = sum(len(part) for part in iter(lambda: opened.body.read(100_000), b""))
    assert count == 20 << 20
    assert peak() < 2 << 20


@pytest.fixture(scope="module")
def opened(
    tmp_path_factory: pytest.TempPathFactory, site: keys.Keys, hub: keys.Keys
) -> Iterator[dict[str, parcel.Opened]]:
    folder = tmp_path_factory.mktemp("opened")
    parcel.seal(folder / "age", new_context("update"), sample_bytes(150_000), site.sign, [hub.public.recipient])
    parcel.seal(folder / "plain", new_context("knowledge"), sample_bytes(150_000), site.sign)
    with (
        parcel.open(folder / "age", any_signer, [hub.identity]) as encrypted,
        parcel.open(folder / "plain", any_signer) as plain,
    ):
        yield {"age": encrypted, "plain": plain}


@pytest.mark.parametrize("form", ["age", "plain"])
@given(steps=st.lists(st.tuples(st.integers(0, 160_000), st.integers(0, 80_000), st.sampled_from([0, 1, 2]))))
def test_a_body_can_be_read_from_any_offset_like_a_file(
    form: str, steps: list[tuple[int, int, int]], opened: dict[str, parcel.Opened]
) -> None:
    body, plain = opened[form].body, io.BytesIO(sample_bytes(150_000))
    body.seek(0)
    for offset, count, whence in steps:
        offset = (offset, offset - plain.tell(), -min(offset, 150_000))[whence]
        assert body.seek(offset, whence) == plain.seek(offset, whence)
        assert body.read(count) == plain.read(count)
        assert body.tell() == plain.tell()


@pytest.mark.parametrize("form", ["age", "plain"])
def test_a_body_ends_with_its_parcel(form: str, opened: dict[str, parcel.Opened]) -> None:
    opened[form].body.seek(149_990)
    assert opened[form].body.read() == sample_bytes(150_000)[149_990:]
    assert opened[form].body.read() == b""


def test_a_body_is_closed_with_its_parcel(update: Path, hub: keys.Keys) -> None:
    with parcel.open(update, any_signer, [hub.identity]) as opened:
        opened.body.read(10)
    with pytest.raises(ValueError, match="closed"):
        opened.body.seek(90_000)
        opened.body.read()


# --- files are written once and whole --------------------------------------------------------------------------------
def test_an_existing_file_is_not_replaced(tmp_path: Path, site: keys.Keys) -> None:
    (tmp_path / "it.fhx").write_bytes(b"what was there")
    with pytest.raises(TargetExistsError):
        parcel.seal(tmp_path / "it.fhx", new_context("charter"), b"{}", site.sign)
    assert (tmp_path / "it.fhx").read_bytes() == b"what was there"
    assert names(tmp_path) == {"it.fhx"}


def test_only_the_file_itself_remains(update: Path) -> None:
    assert names(update.parent) == {"update.fhx"}


def test_nothing_remains_if_the_body_fails_half_way(
    tmp_path: Path, context: dict[str, Any], site: keys.Keys, hub: keys.Keys
) -> None:
    class Stick(io.BytesIO):
        """A stick that is pulled out during the second read."""

        def read(self, count: int | None = -1) -> bytes:
            first, offset = not getattr(self, "read_once", False), self.tell()
            data = super().read(count)
            self.read_once = not first or not data
            if not first and offset > 100_000:
                raise OSError("the stick is gone")
            return data

    with pytest.raises(OSError, match="the stick is gone"):
        parcel.seal(tmp_path / "it.fhx", context, Stick(sample_bytes(300_000)), site.sign, [hub.public.recipient])
    assert names(tmp_path) == set()


@pytest.mark.parametrize("recipients", [[], ["age1nobody"], ["ssh-ed25519 AAAA"]])
def test_nothing_remains_if_a_recipient_is_invalid(
    recipients: list[str], tmp_path: Path, context: dict[str, Any], site: keys.Keys
) -> None:
    with pytest.raises(RecipientTypeError):
        parcel.seal(tmp_path / "it.fhx", context, b"body", site.sign, recipients)
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"sender": "Site 017"}, StatementSchemaError),
        ({"sender": 17}, StatementSchemaError),
        ({"created": "2026-02-30T00:00:00Z"}, StatementSchemaError),
        ({"created": "yesterday"}, StatementSchemaError),
        ({"round": True}, StatementSchemaError),
        ({"another": 1}, StatementSchemaError),
        ({"recipients": ["age1" + "q" * 58] * 1100}, StatementSizeError),
    ],
)
def test_a_malformed_context_is_not_sealed(
    change: dict[str, Any],
    fault: type[FedhelpError],
    tmp_path: Path,
    context: dict[str, Any],
    site: keys.Keys,
    hub: keys.Keys,
) -> None:
    with pytest.raises(fault):
        parcel.seal(tmp_path / "it.fhx", context | change, b"body", site.sign, [hub.public.recipient])
    assert names(tmp_path) == set()


# --- the inner line --------------------------------------------------------------------------------------------------
@pytest.fixture
def open_plaintext(signed: Callable[..., Path], hub: keys.Keys) -> Callable[[bytes], parcel.Opened]:
    """Opens a validly signed update with any plaintext."""

    def put(plain: bytes) -> parcel.Opened:
        sink = io.BytesIO()
        age.encrypt(io.BytesIO(plain), sink, [hub.public.recipient])
        return parcel.open(signed(sink.getvalue()), any_signer, [hub.identity])

    return put


def inner_line(context: dict[str, Any], body: bytes, **change: Any) -> bytes:
    line = {
        "body_sha256": hashlib.sha256(body).hexdigest(),
        "context_sha256": hashlib.sha256(canon.encode(context)).hexdigest(),
        "facts": {},
        "salt": "00" * 32,
    }
    return canon.encode(line | change) + b"\n"


def test_a_plaintext_of_the_right_form_opens(
    open_plaintext: Callable[[bytes], parcel.Opened], context: dict[str, Any]
) -> None:
    with open_plaintext(inner_line(context, b"body") + b"body") as opened:
        assert opened.body.read() == b"body"


def test_an_inner_line_may_be_longer_than_a_chunk(
    open_plaintext: Callable[[bytes], parcel.Opened], context: dict[str, Any]
) -> None:
    facts = {"notes": ["x" * 100] * 1500}
    with open_plaintext(inner_line(context, b"body", facts=facts) + b"body") as opened:
        assert (opened.body.read(), opened.facts) == (b"body", facts)


@pytest.mark.parametrize("plain", [b"", b"\n", b"body", b"body\nbody", b"[]\n", b"{}\n", bytes(300 << 10)])
def test_a_plaintext_without_its_first_line_is_refused(
    plain: bytes, open_plaintext: Callable[[bytes], parcel.Opened]
) -> None:
    with pytest.raises(BadBodyError):
        open_plaintext(plain)


@pytest.mark.parametrize(
    "change",
    [{"facts": [], "salt": ""}, {"more": 1}, {"body_sha256": "0" * 64}, {"facts": {"x": ["y" * 99] * 3000}}],
    ids=["facts", "key", "hash", "length"],
)
def test_an_inner_line_of_another_form_is_refused(
    change: dict[str, Any], open_plaintext: Callable[[bytes], parcel.Opened], context: dict[str, Any]
) -> None:
    with pytest.raises(BadBodyError):
        open_plaintext(inner_line(context, b"body", **change) + b"body")


@pytest.mark.parametrize("field", ["sender", "round", "federation", "task", "recipients", "nonce"])
def test_an_inner_line_that_names_another_context_is_refused(
    field: str, open_plaintext: Callable[[bytes], parcel.Opened], context: dict[str, Any]
) -> None:
    with pytest.raises(InnerContextError):
        open_plaintext(inner_line({**context, field: "another"}, b"body") + b"body")


def test_a_statement_that_names_another_payload_is_refused(signed: Callable[..., Path]) -> None:
    with pytest.raises(PayloadHashError):
        parcel.inspect(signed(b"payload", sha256="0" * 64), any_signer)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'"x"',
        b"{",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":"\xff"}',
        b'{"a":' * 9999,
    ],
    ids=lambda text: text[:20],
)
def test_a_body_that_is_not_one_plain_object_is_refused(text: bytes) -> None:
    with pytest.raises(BadBodyError):
        parcel.read_json(text)


def test_a_time_is_written_and_read_to_the_second() -> None:
    text = statement.format_time(statement.parse_time("2026-11-21T08:00:00Z"))
    assert text == "2026-11-21T08:00:00Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", statement.new_context("enrol")["created"])
