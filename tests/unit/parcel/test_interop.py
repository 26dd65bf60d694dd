"""Files made here open with the ordinary tools, and theirs open here."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyrage
import pytest
import sshsig as other_sshsig
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.parcel import age, keys, parcel, sshsig

SIZES = [0, 1, 65535, 65536, 65537, 131072, 1_100_000]
NAMESPACE = "update.v1.fedhelp-edge"
AUDIT = Path(__file__).resolve().parents[3] / "docs/spec/audit.sh"


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def run(*command: str | Path, data: bytes = b"") -> bytes:
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def made(size: int) -> bytes:
    return hashlib.shake_128(b"a body").digest(size)


def encrypted(data: bytes, recipients: list[str | age.Passphrase], armor: bool) -> bytes:
    sink = io.BytesIO()
    age.encrypt(io.BytesIO(data), sink, recipients, armor=armor)
    return sink.getvalue()


def decrypted(data: bytes, identity: str | age.Passphrase, armor: bool) -> bytes:
    sink = io.BytesIO()
    age.decrypt(io.BytesIO(data), sink, [identity], armor=armor)
    return sink.getvalue()


@pytest.fixture
def identity_file(tmp_path: Path, hub: keys.Keys) -> Path:
    path = tmp_path / "identity.txt"
    path.write_text(hub.identity + "\n")
    return path


@pytest.fixture
def key_file(tmp_path: Path, site: keys.Keys) -> Path:
    path = tmp_path / "id_ed25519"
    path.write_bytes(site.sign.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    return path


@pytest.fixture
def allowed_signers(tmp_path: Path, site: keys.Keys) -> Path:
    path = tmp_path / "allowed_signers"
    path.write_text(f"site-017 {site.public.sign}\n")
    return path


# --- age -------------------------------------------------------------------------------------------------------------
@needs("age")
@pytest.mark.parametrize("armor", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_age_opens_what_was_encrypted_here(size: int, armor: bool, hub: keys.Keys, identity_file: Path) -> None:
    file = encrypted(made(size), [hub.public.recipient], armor)
    assert run("age", "-d", "-i", identity_file, data=file) == made(size)


@needs("age")
@pytest.mark.parametrize("armor", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_what_age_encrypted_opens_here(size: int, armor: bool, hub: keys.Keys) -> None:
    file = run("age", "-r", hub.public.recipient, *(["-a"] if armor else []), data=made(size))
    assert decrypted(file, hub.identity, armor) == made(size)


@pytest.mark.parametrize("armor", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_pyrage_opens_what_was_encrypted_here(size: int, armor: bool, hub: keys.Keys) -> None:
    file = encrypted(made(size), [hub.public.recipient], armor)
    assert pyrage.decrypt(file, [pyrage.x25519.Identity.from_str(hub.identity)]) == made(size)


@pytest.mark.parametrize("armor", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_what_pyrage_encrypted_opens_here(size: int, armor: bool, hub: keys.Keys) -> None:
    file = pyrage.encrypt(made(size), [pyrage.x25519.Recipient.from_str(hub.public.recipient)], armored=armor)
    assert decrypted(file, hub.identity, armor) == made(size)


@pytest.mark.parametrize("armor", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_pyrage_opens_a_passphrase_file_made_here(size: int, armor: bool) -> None:
    file = encrypted(made(size), [age.Passphrase("fünf Wörter", work_factor=2)], armor)
    assert pyrage.passphrase.decrypt(file, "fünf Wörter") == made(size)


def test_a_passphrase_file_made_by_pyrage_opens_here() -> None:
    file = pyrage.passphrase.encrypt(made(65537), "fünf Wörter")
    if int(file.split(b"\n")[1].split()[-1]) > age.WORK_FACTOR_LIMIT:
        pytest.skip("this machine is so fast that pyrage chose a work factor above our limit")
    assert decrypted(file, age.Passphrase("fünf Wörter"), armor=False) == made(65537)


@needs("age")
def test_each_of_several_recipients_opens_the_same_file_in_every_tool(
    site: keys.Keys, hub: keys.Keys, identity_file: Path
) -> None:
    both = [site.public.recipient, hub.public.recipient]
    here = encrypted(made(1000), both, armor=False)
    there = run("age", "-r", both[0], "-r", both[1], data=made(1000))
    for file in (here, there):
        assert run("age", "-d", "-i", identity_file, data=file) == made(1000)
        assert pyrage.decrypt(file, [pyrage.x25519.Identity.from_str(site.identity)]) == made(1000)
        assert decrypted(file, site.identity, armor=False) == decrypted(file, hub.identity, armor=False) == made(1000)


@needs("age-keygen")
def test_age_keygen_names_the_same_recipient_for_our_identity(hub: keys.Keys, identity_file: Path) -> None:
    assert run("age-keygen", "-y", identity_file).decode().strip() == hub.public.recipient


@needs("age", "age-keygen")
def test_an_identity_of_age_keygen_is_one_here() -> None:
    identity = run("age-keygen").decode().split("\n")[-2]
    file = run("age", "-r", age.recipient_of(identity), data=b"hello")
    assert decrypted(file, identity, armor=False) == b"hello"


# --- SSHSIG ----------------------------------------------------------------------------------------------------------
@needs("ssh-keygen")
@pytest.mark.parametrize("message", [b"", b"a statement", made(100_000)], ids=len)
def test_ssh_keygen_verifies_our_signature(
    message: bytes, site: keys.Keys, allowed_signers: Path, tmp_path: Path
) -> None:
    armor = tmp_path / "signature"
    armor.write_text(sshsig.sign(message, site.sign, NAMESPACE))
    verify = ("ssh-keygen", "-Y", "verify", "-f", allowed_signers, "-I", "site-017", "-s", armor)
    assert b"Good" in run(*verify, "-n", NAMESPACE, data=message)
    with pytest.raises(subprocess.CalledProcessError):
        run(*verify, "-n", "global.v1.fedhelp-edge", data=message)


@needs("ssh-keygen")
@pytest.mark.parametrize("message", [b"", b"a statement", made(100_000)], ids=len)
def test_ssh_keygen_makes_the_same_signature_to_the_byte(message: bytes, site: keys.Keys, key_file: Path) -> None:
    theirs = run("ssh-keygen", "-Y", "sign", "-f", key_file, "-n", NAMESPACE, data=message).decode()
    sshsig.verify(message, theirs, site.sign.public_key(), NAMESPACE)
    assert theirs == sshsig.sign(message, site.sign, NAMESPACE)


@needs("ssh-keygen")
def test_ssh_keygen_prints_the_same_fingerprint(site: keys.Keys, key_file: Path) -> None:
    assert run("ssh-keygen", "-l", "-f", key_file).decode().split()[1] == sshsig.fingerprint(site.public.sign)


@needs("ssh-keygen")
@pytest.mark.parametrize(
    "options", [("-t", "rsa", "-b", "2048"), ("-t", "ecdsa"), ("-t", "ed25519")], ids=lambda options: options[1]
)
def test_a_signature_by_another_kind_of_key_or_hash_is_refused(options: tuple[str, ...], tmp_path: Path) -> None:
    run("ssh-keygen", "-q", *options, "-N", "", "-f", tmp_path / "key")
    other_hash = ("-O", "hashalg=sha256") if options[1] == "ed25519" else ()
    armor = run("ssh-keygen", "-Y", "sign", *other_hash, "-f", tmp_path / "key", "-n", NAMESPACE, data=b"x").decode()
    with pytest.raises(FedhelpError) as met:
        sshsig.parse(armor)
    assert met.value.code == "E_SIG_ALG"


def test_the_sshsig_package_verifies_our_signature(site: keys.Keys) -> None:
    key = other_sshsig.PublicKey.from_openssh_str(site.public.sign)
    armor = sshsig.sign(b"a statement", site.sign, NAMESPACE)
    assert other_sshsig.verify(b"a statement", armor, [key], NAMESPACE) == key
    with pytest.raises(other_sshsig.InvalidSignature):
        other_sshsig.verify(b"another", armor, [key], NAMESPACE)


# --- a whole parcel --------------------------------------------------------------------------------------------------
@pytest.fixture
def update(tmp_path: Path, context: dict[str, Any], site: keys.Keys, hub: keys.Keys) -> Path:
    path = tmp_path / "update.fhx"
    parcel.seal(path, context, made(200_000), site.sign, [hub.public.recipient], facts={"examples": 120})
    return path


@needs("ssh-keygen", "age")
def test_an_auditor_takes_an_update_apart_with_ordinary_tools(
    update: Path, allowed_signers: Path, identity_file: Path
) -> None:
    said = run("sh", AUDIT, update, allowed_signers, "site-017", identity_file).decode()
    assert said.endswith("GOOD\n")
    assert hashlib.sha256(made(200_000)).hexdigest() in said


@needs("ssh-keygen")
def test_an_auditor_without_a_key_checks_the_outside_of_one_that_two_have_signed(
    tmp_path: Path, site: keys.Keys, allowed_signers: Path
) -> None:
    context = parcel.statement.new_context("charter", epoch=0, version=2, previous="0" * 64)
    path = tmp_path / "charter.fhx"
    parcel.seal(path, context, b'{"name":"a federation"}', [Ed25519PrivateKey.generate(), site.sign])
    assert "signature   2 of 2" in run("sh", AUDIT, path, allowed_signers, "site-017").decode()


@needs("ssh-keygen", "age")
@pytest.mark.parametrize("place", ["statement", "payload", "end"])
def test_the_audit_refuses_an_altered_parcel(
    place: str, update: Path, allowed_signers: Path, identity_file: Path
) -> None:
    data = bytearray(update.read_bytes())
    if place == "end":
        data.append(0)
    else:
        data[{"statement": data.index(b'"seq":31') + 6, "payload": len(data) - 100}[place]] ^= 1
    update.write_bytes(data)
    with pytest.raises(subprocess.CalledProcessError) as met:
        run("sh", AUDIT, update, allowed_signers, "site-017", identity_file)
    assert b"NOT GOOD" in met.value.stderr


@needs("ssh-keygen", "age")
def test_the_audit_refuses_a_ciphertext_that_somebody_else_signed_as_their_own(
    tmp_path: Path, update: Path, context: dict[str, Any], allowed_signers: Path, identity_file: Path
) -> None:
    thief = keys.generate()
    seen = parcel.inspect(update, parcel.any_signer)
    context |= {"sender": "site-666", "sender_key": sshsig.fingerprint(thief.public.sign)}
    stolen = parcel.statement.create(context, seen.statement.sha256, seen.statement.size)
    forged = tmp_path / "forged.fhx"
    forged.write_bytes(parcel._build_prologue(stolen, [thief.sign]) + update.read_bytes()[seen.offset :])
    allowed_signers.write_text(f"site-666 {thief.public.sign}\n")
    with pytest.raises(subprocess.CalledProcessError) as met:
        run("sh", AUDIT, forged, allowed_signers, "site-666", identity_file)
    assert b"made for another parcel" in met.value.stderr
