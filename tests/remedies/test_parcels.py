"""Files that came damaged, or sealed for somebody else: what the hint says is done, and the site reads them."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge.parcel import age, keys, parcel, sshsig, statement
from fedhelp_edge.trust import enrol
from server_ref.hub.hub import to_json
from tests import command
from tests.attacks.test_b_trust import armor, ed25519
from tests.desk import Desk, fails, lists, works
from tests.federation import PLAN


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A site that has all that the coordinator said, but for a newer roster on the stick."""
    desk = Desk(tmp_path_factory.mktemp("desk"), PLAN, locked=False)
    desk.join()
    works(desk.hub("open"))
    works(desk.hub("exchange", desk.stick))
    works(desk.site("download"))
    works(desk.hub("invite", "B", "--tier", "small", "--out", "b.invite"))
    works(other(desk, "join", "b.invite", "--via", desk.stick))
    works(desk.hub("exchange", desk.stick))
    return desk


@pytest.fixture
def desk(made: Desk, tmp_path: Path) -> Desk:
    return made.lent(tmp_path / "desk")


def other(desk: Desk, *words: str | Path) -> Any:
    """Another site at the same stick."""
    return desk.type("other", ("", "-m", "fedhelp_edge"), words)


def download(desk: Desk) -> Any:
    return desk.site("download", "--via", desk.stick)


def boss(desk: Desk) -> keys.Keys:
    return keys.load(desk.folder / "hub" / "coordinator", str)


def brought(desk: Desk, kind: str) -> Path:
    """The newest parcel of this kind that lies on the stick."""
    there = (desk.stick / "from-coordinator").glob("*.fhx")
    found = [(parcel.inspect(path, parcel.any_signer).statement, path) for path in there]
    return max((said.context.get("version", 0), path) for said, path in found if said.kind == kind)[1]


def parts(whole: bytes) -> tuple[bytes, bytes, bytes]:
    """The statement, the signature, and what is signed."""
    line, rest = whole[len(parcel.MAGIC) :].split(b"\n", 1)
    signature, end, payload = rest.partition(sshsig.END.encode())
    return line, signature + end, payload


def again(line: bytes, signature: bytes, payload: bytes) -> bytes:
    return parcel.MAGIC + line + b"\n" + signature + payload


def spelled(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Another statement line, with the signature of the true one."""

    def harm(whole: bytes) -> bytes:
        line, signature, payload = parts(whole)
        assert re.search(old, line)
        return again(re.sub(old, new, line), signature, payload)

    return harm


def signed(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Another signature under the true statement."""

    def harm(whole: bytes) -> bytes:
        line, signature, payload = parts(whole)
        return again(line, change(signature), payload)

    return harm


def of_another_kind(signature: bytes) -> bytes:
    return sshsig.sign(b"x", keys.generate().sign, "git").encode()


def of_another_hash(signature: bytes) -> bytes:
    raw = keys.generate().sign.public_key().public_bytes_raw()
    return armor("roster.v1.fedhelp-edge", ed25519(raw), ed25519(bytes(64)), b"sha256").encode()


DAMAGE = {
    "E_MAGIC": (lambda whole: whole.replace(b"\n", b"\r\n"), "text-mode copying"),
    "E_TRUNCATED": (lambda whole: whole[:-20], "take the stick out only when the copy has ended"),
    "E_TRAILING": (lambda whole: whole + b"\n", "copy it as it is"),
    "E_STATEMENT_SIZE": (spelled(rb"$", b" " * (64 << 10)), "copy it as it is"),
    "E_STATEMENT_CANON": (spelled(rb":", b": "), "copy it as it is"),
    "E_STATEMENT_TYPE": (spelled(rb'"v":1', b'"v":1.0'), "copy it as it is"),
    "E_STATEMENT_SCHEMA": (spelled(rb'"v":1', b'"v":2'), "or ask for the file again"),
    "E_STATEMENT_DEPTH": (spelled(rb'"v":1', b'"v":' + b"[" * 99 + b"]" * 99), "copy it as it is"),
    "E_SIG_COUNT": (signed(lambda signature: b""), "copy it as it is"),
    "E_SIG_FORMAT": (signed(lambda signature: signature.replace(b"\n", b"\n\n", 2)), "copy it as it is"),
    "E_SIG_NAMESPACE": (signed(of_another_kind), "do not trust the file, ask for it again"),
    "E_SIG_ALG": (signed(of_another_hash), "ask for the file again, signed with an Ed25519 key"),
    "E_SIG_BAD": (spelled(rb'"epoch":1', b'"epoch":2'), "do not trust it, ask for it again"),
    "E_PAYLOAD_SIZE": (spelled(rb'"size":\d+', b'"size":99999999'), "copy it as it is"),
    "E_PAYLOAD_HASH": (lambda whole: whole[:-9] + b"!" + whole[-8:], "copy it as it is"),
}  # fmt: skip


@pytest.mark.parametrize("code", DAMAGE)
def test_a_damaged_file_is_copied_again(desk: Desk, code: str) -> None:
    path, (harm, hint) = brought(desk, "roster"), DAMAGE[code]
    whole = path.read_bytes()
    path.write_bytes(harm(whole))
    fails(desk.site("inspect", path), code, hint)
    lists(download(desk), code, hint)
    assert "new: roster" not in download(desk).stdout
    path.write_bytes(whole)
    works(desk.site("inspect", path))
    assert "new: roster 3" in works(download(desk)).stdout


def test_a_file_of_another_version_is_asked_for_again(desk: Desk) -> None:
    path = brought(desk, "roster")
    with parcel.open(path, parcel.any_signer) as seen:
        said, holds = seen.statement, seen.json()
    path.rename(desk.folder / "kept")
    parcel.seal(path, said.context, to_json(holds | {"later": 1}), boss(desk).sign)
    lists(download(desk), "E_BODY", "or ask for the file again")
    shutil.copy(desk.folder / "kept", path)
    assert "new: roster 3" in works(download(desk)).stdout


# --- what is sealed ------------------------------------------------------------------------------------------------
@pytest.fixture
def waiting(made: Desk, tmp_path: Path) -> tuple[Desk, Path]:
    """A site that lacks the model, which lies on the stick."""
    desk = made.lent(tmp_path / "desk")
    shutil.rmtree(desk.folder / "site" / "global")
    shutil.rmtree(desk.folder / "site" / "base")
    return desk, brought(desk, "global")


def sealed_badly(desk: Desk, whole: Path, harm: Callable[[bytes], bytes]) -> None:
    """In its place, the same under the coordinator's signature, with something wrong inside."""
    seen = parcel.inspect(whole, parcel.any_signer)
    payload = harm(whole.read_bytes()[seen.offset :])
    said = statement.create(seen.statement.context, hashlib.sha256(payload).hexdigest(), len(payload))
    whole.rename(desk.folder / "kept")
    whole.write_bytes(parcel._build_prologue(said, [boss(desk).sign]) + payload)


def armored(payload: bytes) -> bytes:
    sink = io.BytesIO()
    age.encrypt(io.BytesIO(b"body"), sink, [keys.generate().public.recipient], armor=True)
    return sink.getvalue()


def with_another_mac(payload: bytes) -> bytes:
    at = payload.index(b"\n--- ") + 5
    return payload[:at] + (b"B" if payload[at : at + 1] == b"A" else b"A") + payload[at + 1 :]


@pytest.mark.parametrize(
    ("code", "harm"),
    [
        ("E_AGE_HEADER", armored),
        ("E_AGE_MAC", with_another_mac),
        ("E_AGE_PAYLOAD", lambda payload: payload[:-1] + bytes([payload[-1] ^ 1])),
    ],
)
def test_a_model_that_was_sealed_badly_is_asked_for_again(
    waiting: tuple[Desk, Path], code: str, harm: Callable[[bytes], bytes]
) -> None:
    desk, model = waiting
    sealed_badly(desk, model, harm)
    fails(download(desk), code, "ask for the file again")
    shutil.copy(desk.folder / "kept", desk.stick / "from-coordinator" / "again.fhx")
    works(download(desk))
    assert "fedhelp-edge train" in works(desk.site("status")).stderr


def test_a_model_for_others_is_left_and_the_one_for_this_site_taken(waiting: tuple[Desk, Path]) -> None:
    desk, mine = waiting
    said, body = parcel.inspect(mine, parcel.any_signer).statement, io.BytesIO()
    with parcel.open(mine, parcel.any_signer, [boss(desk).identity]) as seen:
        shutil.copyfileobj(seen.body, body)
    mine.rename(desk.folder / "mine")
    parcel.seal(mine, said.context, body.getvalue(), boss(desk).sign, [keys.generate().public.recipient])
    fails(download(desk), "E_NO_MATCH", "ask for one that is encrypted for this site")
    shutil.copy(desk.folder / "mine", desk.stick / "from-coordinator" / "mine.fhx")
    works(download(desk))
    assert "fedhelp-edge train" in works(desk.site("status")).stderr


def test_a_key_of_another_kind_is_made_anew_with_this_kit(desk: Desk) -> None:
    """A request that some other program made, with another kind of key to read with."""
    code, own = str(command.answer(desk.hub("invite", "C", "--tier", "small", "--json"))["code"]), keys.generate()
    context = statement.new_context(
        "enrol", federation=parcel.inspect(brought(desk, "roster"), parcel.any_signer).statement.context["federation"]
    )
    public = keys.PublicKeys(own.public.sign, "age1pq1" + "q" * 1950)
    parcel.seal(
        desk.stick / "to-coordinator" / "request.fhx",
        context,
        to_json(enrol.request_body(code, "", public, context)),
        own.sign,
    )
    lists(desk.hub("exchange", desk.stick), "E_AGE_RECIPIENT_TYPE", "'fedhelp-edge keys new'")
    third = ("--home", desk.folder / "third")
    works(desk.site("keys", "new", "--no-passphrase", *third))
    works(desk.site("join", code, "--via", desk.stick, *third))
    assert "site-003: approved" in works(desk.hub("exchange", desk.stick)).stdout


# --- keys ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def alone(tmp_path: Path) -> Desk:
    """A site with keys under a passphrase."""
    desk = Desk(tmp_path, PLAN)
    works(desk.site("keys", "new"))
    return desk


def test_keys_that_are_there_are_kept_or_others_made_in_another_folder(alone: Desk) -> None:
    fails(alone.site("keys", "new"), "E_KEYS_EXIST", "choose another folder with --home")
    works(alone.site("keys", "show"))
    works(alone.site("keys", "new", "--home", alone.folder / "new"))


def test_who_is_not_asked_names_a_file_with_the_passphrase(alone: Desk) -> None:
    (alone.folder / "pass").rename(alone.folder / "words")
    (alone.folder / "pass").write_text("")
    (alone.folder / "pass").chmod(0o600)
    hint = "name a file that holds it with --passphrase-file"
    fails(alone.site("keys", "backup", "keys.txt"), "E_PASSPHRASE_NEEDED", hint)
    works(alone.site("keys", "backup", "keys.txt", "--passphrase-file", "words"))


def test_a_backup_of_keys_is_copied_to_its_last_line(alone: Desk) -> None:
    works(alone.site("keys", "backup", "keys.txt"))
    whole = (alone.folder / "keys.txt").read_text()
    (alone.folder / "typed.txt").write_text(whole.partition("-----END")[0])
    new = ("--home", alone.folder / "new")
    fails(alone.site("keys", "restore", "typed.txt", *new), "E_AGE_ARMOR", "to its END line")
    (alone.folder / "typed.txt").write_text(whole)
    works(alone.site("keys", "restore", "typed.txt", *new))
    assert works(alone.site("keys", "show", *new)).stdout == works(alone.site("keys", "show")).stdout
