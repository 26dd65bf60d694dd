"""Files that arrive damaged or sealed for somebody else: the test follows the hint, and the site reads them."""

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
from tests.command import SITE
from tests.federation import PLAN
from tests.site_and_hub import SiteAndHub, fails_with, lists_refusal, succeeds


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> SiteAndHub:
    """A site that has downloaded everything except a newer roster on the stick."""
    people = SiteAndHub(tmp_path_factory.mktemp("people"), PLAN, locked=False)
    people.join()
    succeeds(people.hub("open"))
    succeeds(people.hub("exchange", people.stick))
    succeeds(people.site("download"))
    succeeds(people.hub("invite", "B", "--tier", "small", "--out", "b.invite"))
    succeeds(other_site(people, "join", "b.invite", "--via", people.stick))
    succeeds(people.hub("exchange", people.stick))
    return people


@pytest.fixture
def people(prepared: SiteAndHub, tmp_path: Path) -> SiteAndHub:
    return prepared.copy_to(tmp_path / "people")


def other_site(people: SiteAndHub, *words: str | Path) -> Any:
    """Another site at the same stick."""
    return people.run("other", SITE, words)


def download(people: SiteAndHub) -> Any:
    return people.site("download", "--via", people.stick)


def coordinator_keys(people: SiteAndHub) -> keys.Keys:
    return keys.load(people.folder / "hub" / "coordinator", str)


def newest_on_stick(people: SiteAndHub, kind: str) -> Path:
    """The newest parcel of this kind on the stick."""
    paths = (people.stick / "from-coordinator").glob("*.fhx")
    statements = [(parcel.inspect(path, parcel.any_signer).statement, path) for path in paths]
    return max(
        (statement_.context.get("version", 0), path) for statement_, path in statements if statement_.kind == kind
    )[1]


def split_parcel(whole: bytes) -> tuple[bytes, bytes, bytes]:
    """The statement line, the signature and the payload."""
    line, rest = whole[len(parcel.MAGIC) :].split(b"\n", 1)
    signature, end, payload = rest.partition(sshsig.END.encode())
    return line, signature + end, payload


def join_parcel(line: bytes, signature: bytes, payload: bytes) -> bytes:
    return parcel.MAGIC + line + b"\n" + signature + payload


def with_statement(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Changes the statement line and leaves the signature."""

    def harm(whole: bytes) -> bytes:
        line, signature, payload = split_parcel(whole)
        assert re.search(old, line)
        return join_parcel(re.sub(old, new, line), signature, payload)

    return harm


def with_signature(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Changes the signature and leaves the statement."""

    def harm(whole: bytes) -> bytes:
        line, signature, payload = split_parcel(whole)
        return join_parcel(line, change(signature), payload)

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
    "E_STATEMENT_SIZE": (with_statement(rb"$", b" " * (64 << 10)), "copy it as it is"),
    "E_STATEMENT_CANON": (with_statement(rb":", b": "), "copy it as it is"),
    "E_STATEMENT_TYPE": (with_statement(rb'"v":1', b'"v":1.0'), "copy it as it is"),
    "E_STATEMENT_SCHEMA": (with_statement(rb'"v":1', b'"v":2'), "or ask for the file again"),
    "E_STATEMENT_DEPTH": (with_statement(rb'"v":1', b'"v":' + b"[" * 99 + b"]" * 99), "copy it as it is"),
    "E_SIG_COUNT": (with_signature(lambda signature: b""), "copy it as it is"),
    "E_SIG_FORMAT": (with_signature(lambda signature: signature.replace(b"\n", b"\n\n", 2)), "copy it as it is"),
    "E_SIG_NAMESPACE": (with_signature(of_another_kind), "do not trust the file, ask for it again"),
    "E_SIG_ALG": (with_signature(of_another_hash), "ask for the file again, signed with an Ed25519 key"),
    "E_SIG_BAD": (with_statement(rb'"epoch":1', b'"epoch":2'), "do not trust it, ask for it again"),
    "E_PAYLOAD_SIZE": (with_statement(rb'"size":\d+', b'"size":99999999'), "copy it as it is"),
    "E_PAYLOAD_HASH": (lambda whole: whole[:-9] + b"!" + whole[-8:], "copy it as it is"),
}  # fmt: skip


@pytest.mark.parametrize("code", DAMAGE)
def test_a_damaged_file_is_copied_again(people: SiteAndHub, code: str) -> None:
    path, (harm, hint) = newest_on_stick(people, "roster"), DAMAGE[code]
    whole = path.read_bytes()
    path.write_bytes(harm(whole))
    fails_with(people.site("inspect", path), code, hint)
    lists_refusal(download(people), code, hint)
    assert "new: roster" not in download(people).stdout
    path.write_bytes(whole)
    succeeds(people.site("inspect", path))
    assert "new: roster 3" in succeeds(download(people)).stdout


def test_a_parcel_of_another_version_is_requested_again(people: SiteAndHub) -> None:
    path = newest_on_stick(people, "roster")
    with parcel.open(path, parcel.any_signer) as seen:
        roster_statement, payload = seen.statement, seen.json()
    path.rename(people.folder / "original")
    parcel.seal(path, roster_statement.context, to_json(payload | {"later": 1}), coordinator_keys(people).sign)
    lists_refusal(download(people), "E_BODY", "or ask for the file again")
    shutil.copy(people.folder / "original", path)
    assert "new: roster 3" in succeeds(download(people)).stdout


# --- encrypted parcels ------------------------------------------------------------------------------------------------
@pytest.fixture
def without_model(prepared: SiteAndHub, tmp_path: Path) -> tuple[SiteAndHub, Path]:
    """A site without the model, and the model's parcel on the stick."""
    people = prepared.copy_to(tmp_path / "people")
    shutil.rmtree(people.folder / "site" / "global")
    shutil.rmtree(people.folder / "site" / "base")
    return people, newest_on_stick(people, "global")


def replace_with_damaged(people: SiteAndHub, path: Path, harm: Callable[[bytes], bytes]) -> None:
    """Replaces a parcel by one with a damaged payload and the coordinator's signature."""
    inspected = parcel.inspect(path, parcel.any_signer)
    payload = harm(path.read_bytes()[inspected.offset :])
    forged = statement.create(inspected.statement.context, hashlib.sha256(payload).hexdigest(), len(payload))
    path.rename(people.folder / "original")
    path.write_bytes(parcel._build_prologue(forged, [coordinator_keys(people).sign]) + payload)


def armored(payload: bytes) -> bytes:
    sink = io.BytesIO()
    age.encrypt(io.BytesIO(b"body"), sink, [keys.generate().public.recipient], armor=True)
    return sink.getvalue()


def with_another_mac(payload: bytes) -> bytes:
    offset = payload.index(b"\n--- ") + 5
    return payload[:offset] + (b"B" if payload[offset : offset + 1] == b"A" else b"A") + payload[offset + 1 :]


@pytest.mark.parametrize(
    ("code", "harm"),
    [
        ("E_AGE_HEADER", armored),
        ("E_AGE_MAC", with_another_mac),
        ("E_AGE_PAYLOAD", lambda payload: payload[:-1] + bytes([payload[-1] ^ 1])),
    ],
)
def test_a_badly_sealed_model_is_requested_again(
    without_model: tuple[SiteAndHub, Path], code: str, harm: Callable[[bytes], bytes]
) -> None:
    people, model = without_model
    replace_with_damaged(people, model, harm)
    fails_with(download(people), code, "ask for the file again")
    shutil.copy(people.folder / "original", people.stick / "from-coordinator" / "again.fhx")
    succeeds(download(people))
    assert "fedhelp-edge train" in succeeds(people.site("status")).stderr


def test_a_model_for_another_recipient_is_refused_and_the_sites_own_accepted(
    without_model: tuple[SiteAndHub, Path],
) -> None:
    people, path = without_model
    model_statement, body = parcel.inspect(path, parcel.any_signer).statement, io.BytesIO()
    with parcel.open(path, parcel.any_signer, [coordinator_keys(people).identity]) as opened:
        shutil.copyfileobj(opened.body, body)
    path.rename(people.folder / "mine")
    parcel.seal(
        path,
        model_statement.context,
        body.getvalue(),
        coordinator_keys(people).sign,
        [keys.generate().public.recipient],
    )
    fails_with(download(people), "E_NO_MATCH", "ask for one that is encrypted for this site")
    shutil.copy(people.folder / "mine", people.stick / "from-coordinator" / "mine.fhx")
    succeeds(download(people))
    assert "fedhelp-edge train" in succeeds(people.site("status")).stderr


def test_a_recipient_of_another_kind_is_replaced_by_new_keys(people: SiteAndHub) -> None:
    """The request of another program has a recipient of another kind."""
    code, foreign_keys = (
        str(command.json_output(people.hub("invite", "C", "--tier", "small", "--json"))["code"]),
        keys.generate(),
    )
    context = statement.new_context(
        "enrol",
        federation=parcel.inspect(newest_on_stick(people, "roster"), parcel.any_signer).statement.context["federation"],
    )
    public = keys.PublicKeys(foreign_keys.public.sign, "age1pq1" + "q" * 1950)
    parcel.seal(
        people.stick / "to-coordinator" / "request.fhx",
        context,
        to_json(enrol.request_body(code, "", public, context)),
        foreign_keys.sign,
    )
    lists_refusal(people.hub("exchange", people.stick), "E_AGE_RECIPIENT_TYPE", "'fedhelp-edge keys new'")
    third = ("--home", people.folder / "third")
    succeeds(people.site("keys", "new", "--no-passphrase", *third))
    succeeds(people.site("join", code, "--via", people.stick, *third))
    assert "site-003: approved" in succeeds(people.hub("exchange", people.stick)).stdout


# --- keys ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def locked_site(tmp_path: Path) -> SiteAndHub:
    """A site with keys under a passphrase."""
    people = SiteAndHub(tmp_path, PLAN)
    succeeds(people.site("keys", "new"))
    return people


def test_existing_keys_are_used_or_new_ones_made_in_another_folder(locked_site: SiteAndHub) -> None:
    fails_with(locked_site.site("keys", "new"), "E_KEYS_EXIST", "choose another folder with --home")
    succeeds(locked_site.site("keys", "show"))
    succeeds(locked_site.site("keys", "new", "--home", locked_site.folder / "new"))


def test_without_a_terminal_a_passphrase_file_is_named(locked_site: SiteAndHub) -> None:
    (locked_site.folder / "pass").rename(locked_site.folder / "words")
    (locked_site.folder / "pass").write_text("")
    (locked_site.folder / "pass").chmod(0o600)
    hint = "name a file that holds it with --passphrase-file"
    fails_with(locked_site.site("keys", "backup", "keys.txt"), "E_PASSPHRASE_NEEDED", hint)
    succeeds(locked_site.site("keys", "backup", "keys.txt", "--passphrase-file", "words"))


def test_a_backup_of_keys_is_typed_to_its_last_line(locked_site: SiteAndHub) -> None:
    succeeds(locked_site.site("keys", "backup", "keys.txt"))
    whole = (locked_site.folder / "keys.txt").read_text()
    (locked_site.folder / "typed.txt").write_text(whole.partition("-----END")[0])
    new = ("--home", locked_site.folder / "new")
    fails_with(locked_site.site("keys", "restore", "typed.txt", *new), "E_AGE_ARMOR", "to its END line")
    (locked_site.folder / "typed.txt").write_text(whole)
    succeeds(locked_site.site("keys", "restore", "typed.txt", *new))
    assert succeeds(locked_site.site("keys", "show", *new)).stdout == succeeds(locked_site.site("keys", "show")).stdout
