"""Standard tools open our files, and we open theirs."""

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


def sample_bytes(size: int) -> bytes:
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
def test_age_opens_our_files(size: int, armor: bool, hub: keys.Keys, identity_file: Path) -> None:
    file = encrypted(sample_bytes(size), [hub.public.recipient], armor)
    assert run("age", "-d", "-i", identity_file, data=file) == sample_bytes(size)


@needs("age")
@pytest.mark.parametrize("armor", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_we_open_files_of_age(size: int, armor: bool, hub: keys.Keys) -> None:
    file = run("age", "-r", hub.public.recipient, *(["-a"] if armor else []), data=sample_bytes(size))
    assert decrypted(file, hub.identity, armor) == sample_bytes(size)


@pytest.mark.parametrize("armor", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_pyrage_opens_our_files(size: int, armor: bool, hub: keys.Keys) -> None:
    file = encrypted(sample_bytes(size), [hub.public.recipient], armor)
    assert pyrage.decrypt(file, [pyrage.x25519.Identity.from_str(hub.identity)]) == sample_bytes(size)


@pytest.mark.parametrize("armor", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_we_open_files_of_pyrage(size: int, armor: bool, hub: keys.Keys) -> None:
    file = pyrage.encrypt(sample_bytes(size), [pyrage.x25519.Recipient.from_str(hub.public.recipient)], armored=armor)
    assert decrypted(file, hub.identity, armor) == sample_bytes(size)


@pytest.mark.parametrize("armor", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_pyrage_opens_our_passphrase_file(size: int, armor: bool) -> None:
    file = encrypted(sample_bytes(size), [age.Passphrase("fünf Wörter", work_factor=2)], armor)
    assert pyrage.passphrase.decrypt(file, "fünf Wörter") == sample_bytes(size)


def test_we_open_a_passphrase_file_of_pyrage() -> None:
    file = pyrage.passphrase.encrypt(sample_bytes(65537), "fünf Wörter")
    if int(file.split(b"\n")[1].split()[-1]) > age.WORK_FACTOR_LIMIT:
        pytest.skip("this machine is so fast that pyrage chose a work factor above our limit")
    assert decrypted(file, age.Passphrase("fünf Wörter"), armor=False) == sample_bytes(65537)


@needs("age")
def test_each_of_several_recipients_opens_the_same_file_in_every_tool(
    site: keys.Keys, hub: keys.Keys, identity_file: Path
) -> None:
    both = [site.public.recipient, hub.public.recipient]
    here = encrypted(sample_bytes(1000), both, armor=False)
    there = run("age", "-r", both[0], "-r", both[1], data=sample_bytes(1000))
    for file in (here, there):
        assert run("age", "-d", "-i", identity_file, data=file) == sample_bytes(1000)
        assert pyrage.decrypt(file, [pyrage.x25519.Identity.from_str(site.identity)]) == sample_bytes(1000)
        assert (
            decrypted(file, site.identity, armor=False)
            == decrypted(file, hub.identity, armor=False)
            == sample_bytes(1000)
        )


@needs("age-keygen")
def test_age_keygen_names_the_same_recipient_for_our_identity(hub: keys.Keys, identity_file: Path) -> None:
    assert run("age-keygen", "-y", identity_file).decode().strip() == hub.public.recipient


@needs("age", "age-keygen")
def test_an_identity_of_age_keygen_is_valid_here() -> None:
    identity = run("age-keygen").decode().split("\n")[-2]
    file = run("age", "-r", age.recipient_of(identity), data=b"hello")
    assert decrypted(file, identity, armor=False) == b"hello"


# --- SSHSIG ----------------------------------------------------------------------------------------------------------
@needs("ssh-keygen")
@pytest.mark.parametrize("message", [b"", b"a statement", sample_bytes(100_000)], ids=len)
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
@pytest.mark.parametrize("message", [b"", b"a statement", sample_bytes(100_000)], ids=len)
def test_ssh_keygen_makes_the_same_signature_to_the_byte(message: bytes, site: keys.Keys, key_file: Path) -> None:
    their_signature = run("ssh-keygen", "-Y", "sign", "-f", key_file, "-n", NAMESPACE, data=message).decode()
    sshsig.verify(message, their_signature, site.sign.public_key(), NAMESPACE)
    assert their_signature == sshsig.sign(message, site.sign, NAMESPACE)


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
    with pytest.raises(FedhelpError) as caught:
        sshsig.parse(armor)
    assert caught.value.code == "E_SIG_ALG"


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
    parcel.seal(path, context, sample_bytes(200_000), site.sign, [hub.public.recipient], facts={"examples": 120})
    return path


@needs("ssh-keygen", "age")
def test_an_auditor_verifies_an_update_with_standard_tools(
    update: Path, allowed_signers: Path, identity_file: Path
) -> None:
    printed = run("sh", AUDIT, update, allowed_signers, "site-017", identity_file).decode()
    assert printed.endswith("GOOD\n")
    assert hashlib.sha256(sample_bytes(200_000)).hexdigest() in printed


@needs("ssh-keygen")
def test_an_auditor_without_a_key_verifies_the_prologue_of_a_parcel_with_two_signatures(
    tmp_path: Path, site: keys.Keys, allowed_signers: Path
) -> None:
    context = parcel.statement.new_context("charter", epoch=0, version=2, previous="0" * 64)
    path = tmp_path / "charter.fhx"
    parcel.seal(path, context, b'{"name":"a federation"}', [Ed25519PrivateKey.generate(), site.sign])
    assert "signature   2 of 2" in run("sh", AUDIT, path, allowed_signers, "site-017").decode()


@needs("ssh-keygen", "age")
@pytest.mark.parametrize("location", ["statement", "payload", "end"])
def test_the_audit_refuses_an_altered_parcel(
    location: str, update: Path, allowed_signers: Path, identity_file: Path
) -> None:
    data = bytearray(update.read_bytes())
    if location == "end":
        data.append(0)
    else:
        data[{"statement": data.index(b'"seq":31') + 6, "payload": len(data) - 100}[location]] ^= 1
    update.write_bytes(data)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run("sh", AUDIT, update, allowed_signers, "site-017", identity_file)
    assert b"NOT GOOD" in caught.value.stderr


@needs("ssh-keygen", "age")
def test_the_audit_refuses_a_stolen_ciphertext(
    tmp_path: Path, update: Path, context: dict[str, Any], allowed_signers: Path, identity_file: Path
) -> None:
    thief = keys.generate()
    seen = parcel.inspect(update, parcel.any_signer)
    context |= {"sender": "site-666", "sender_key": sshsig.fingerprint(thief.public.sign)}
    stolen = parcel.statement.create(context, seen.statement.sha256, seen.statement.size)
    forged = tmp_path / "forged.fhx"
    forged.write_bytes(parcel._build_prologue(stolen, [thief.sign]) + update.read_bytes()[seen.offset :])
    allowed_signers.write_text(f"site-666 {thief.public.sign}\n")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run("sh", AUDIT, forged, allowed_signers, "site-666", identity_file)
    assert b"made for another parcel" in caught.value.stderr
