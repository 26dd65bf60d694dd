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
from tests.federation import PLAN
from tests.site_and_hub import SiteAndHub, fails_with, lists_refusal, succeeds


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SiteAndHub:
    """A site that has all that the coordinator said, but for a newer roster on the stick."""
    people = SiteAndHub(tmp_path_factory.mktemp("desk"), PLAN, locked=False)
    people.join()
    succeeds(people.hub("open"))
    succeeds(people.hub("exchange", people.stick))
    succeeds(people.site("download"))
    succeeds(people.hub("invite", "B", "--tier", "small", "--out", "b.invite"))
    succeeds(other(people, "join", "b.invite", "--via", people.stick))
    succeeds(people.hub("exchange", people.stick))
    return people


@pytest.fixture
def people(made: SiteAndHub, tmp_path: Path) -> SiteAndHub:
    return made.copy_to(tmp_path / "desk")


def other(people: SiteAndHub, *words: str | Path) -> Any:
    """Another site at the same stick."""
    return people.run("other", ("", "-m", "fedhelp_edge"), words)


def download(people: SiteAndHub) -> Any:
    return people.site("download", "--via", people.stick)


def boss(people: SiteAndHub) -> keys.Keys:
    return keys.load(people.folder / "hub" / "coordinator", str)


def brought(people: SiteAndHub, kind: str) -> Path:
    """The newest parcel of this kind that lies on the stick."""
    there = (people.stick / "from-coordinator").glob("*.fhx")
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
def test_a_damaged_file_is_copied_again(people: SiteAndHub, code: str) -> None:
    path, (harm, hint) = brought(people, "roster"), DAMAGE[code]
    whole = path.read_bytes()
    path.write_bytes(harm(whole))
    fails_with(people.site("inspect", path), code, hint)
    lists_refusal(download(people), code, hint)
    assert "new: roster" not in download(people).stdout
    path.write_bytes(whole)
    succeeds(people.site("inspect", path))
    assert "new: roster 3" in succeeds(download(people)).stdout


def test_a_file_of_another_version_is_asked_for_again(people: SiteAndHub) -> None:
    path = brought(people, "roster")
    with parcel.open(path, parcel.any_signer) as seen:
        said, holds = seen.statement, seen.json()
    path.rename(people.folder / "kept")
    parcel.seal(path, said.context, to_json(holds | {"later": 1}), boss(people).sign)
    lists_refusal(download(people), "E_BODY", "or ask for the file again")
    shutil.copy(people.folder / "kept", path)
    assert "new: roster 3" in succeeds(download(people)).stdout


# --- what is sealed ------------------------------------------------------------------------------------------------
@pytest.fixture
def waiting(made: SiteAndHub, tmp_path: Path) -> tuple[SiteAndHub, Path]:
    """A site that lacks the model, which lies on the stick."""
    people = made.copy_to(tmp_path / "desk")
    shutil.rmtree(people.folder / "site" / "global")
    shutil.rmtree(people.folder / "site" / "base")
    return people, brought(people, "global")


def sealed_badly(people: SiteAndHub, whole: Path, harm: Callable[[bytes], bytes]) -> None:
    """In its place, the same under the coordinator's signature, with something wrong inside."""
    seen = parcel.inspect(whole, parcel.any_signer)
    payload = harm(whole.read_bytes()[seen.offset :])
    said = statement.create(seen.statement.context, hashlib.sha256(payload).hexdigest(), len(payload))
    whole.rename(people.folder / "kept")
    whole.write_bytes(parcel._build_prologue(said, [boss(people).sign]) + payload)


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
    waiting: tuple[SiteAndHub, Path], code: str, harm: Callable[[bytes], bytes]
) -> None:
    people, model = waiting
    sealed_badly(people, model, harm)
    fails_with(download(people), code, "ask for the file again")
    shutil.copy(people.folder / "kept", people.stick / "from-coordinator" / "again.fhx")
    succeeds(download(people))
    assert "fedhelp-edge train" in succeeds(people.site("status")).stderr


def test_a_model_for_others_is_left_and_the_one_for_this_site_taken(waiting: tuple[SiteAndHub, Path]) -> None:
    people, mine = waiting
    said, body = parcel.inspect(mine, parcel.any_signer).statement, io.BytesIO()
    with parcel.open(mine, parcel.any_signer, [boss(people).identity]) as seen:
        shutil.copyfileobj(seen.body, body)
    mine.rename(people.folder / "mine")
    parcel.seal(mine, said.context, body.getvalue(), boss(people).sign, [keys.generate().public.recipient])
    fails_with(download(people), "E_NO_MATCH", "ask for one that is encrypted for this site")
    shutil.copy(people.folder / "mine", people.stick / "from-coordinator" / "mine.fhx")
    succeeds(download(people))
    assert "fedhelp-edge train" in succeeds(people.site("status")).stderr


def test_a_key_of_another_kind_is_made_anew_with_this_kit(people: SiteAndHub) -> None:
    """A request that some other program made, with another kind of key to read with."""
    code, own = (
        str(command.json_output(people.hub("invite", "C", "--tier", "small", "--json"))["code"]),
        keys.generate(),
    )
    context = statement.new_context(
        "enrol", federation=parcel.inspect(brought(people, "roster"), parcel.any_signer).statement.context["federation"]
    )
    public = keys.PublicKeys(own.public.sign, "age1pq1" + "q" * 1950)
    parcel.seal(
        people.stick / "to-coordinator" / "request.fhx",
        context,
        to_json(enrol.request_body(code, "", public, context)),
        own.sign,
    )
    lists_refusal(people.hub("exchange", people.stick), "E_AGE_RECIPIENT_TYPE", "'fedhelp-edge keys new'")
    third = ("--home", people.folder / "third")
    succeeds(people.site("keys", "new", "--no-passphrase", *third))
    succeeds(people.site("join", code, "--via", people.stick, *third))
    assert "site-003: approved" in succeeds(people.hub("exchange", people.stick)).stdout


# --- keys ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def alone(tmp_path: Path) -> SiteAndHub:
    """A site with keys under a passphrase."""
    people = SiteAndHub(tmp_path, PLAN)
    succeeds(people.site("keys", "new"))
    return people


def test_keys_that_are_there_are_kept_or_others_made_in_another_folder(alone: SiteAndHub) -> None:
    fails_with(alone.site("keys", "new"), "E_KEYS_EXIST", "choose another folder with --home")
    succeeds(alone.site("keys", "show"))
    succeeds(alone.site("keys", "new", "--home", alone.folder / "new"))


def test_who_is_not_asked_names_a_file_with_the_passphrase(alone: SiteAndHub) -> None:
    (alone.folder / "pass").rename(alone.folder / "words")
    (alone.folder / "pass").write_text("")
    (alone.folder / "pass").chmod(0o600)
    hint = "name a file that holds it with --passphrase-file"
    fails_with(alone.site("keys", "backup", "keys.txt"), "E_PASSPHRASE_NEEDED", hint)
    succeeds(alone.site("keys", "backup", "keys.txt", "--passphrase-file", "words"))


def test_a_backup_of_keys_is_copied_to_its_last_line(alone: SiteAndHub) -> None:
    succeeds(alone.site("keys", "backup", "keys.txt"))
    whole = (alone.folder / "keys.txt").read_text()
    (alone.folder / "typed.txt").write_text(whole.partition("-----END")[0])
    new = ("--home", alone.folder / "new")
    fails_with(alone.site("keys", "restore", "typed.txt", *new), "E_AGE_ARMOR", "to its END line")
    (alone.folder / "typed.txt").write_text(whole)
    succeeds(alone.site("keys", "restore", "typed.txt", *new))
    assert succeeds(alone.site("keys", "show", *new)).stdout == succeeds(alone.site("keys", "show")).stdout
