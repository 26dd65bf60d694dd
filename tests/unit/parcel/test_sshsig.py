"""SSH signatures: valid for one message, one key and one purpose, in one encoding."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_edge.errors import FedhelpError, SigAlgError, SigBadError, SigFormatError, SigNamespaceError
from fedhelp_edge.parcel import keys, sshsig

NAMESPACE = "update.v1.fedhelp-edge"
ORDER = 2**252 + 27742317777372353535851937790883648493  # of the group that Ed25519 signs in
PRIME = 2**255 - 19


def text_of(blob: bytes) -> str:
    text = base64.b64encode(blob).decode()
    return sshsig.BEGIN + "".join(text[at : at + 70] + "\n" for at in range(0, len(text), 70)) + sshsig.END


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


@given(message=st.binary(max_size=200))
def test_a_signature_verifies(message: bytes, site: keys.Keys) -> None:
    sshsig.verify(message, sshsig.sign(message, site.sign, NAMESPACE), site.sign.public_key(), NAMESPACE)


def test_another_message_is_refused(site: keys.Keys) -> None:
    armor = sshsig.sign(b"message", site.sign, NAMESPACE)
    with pytest.raises(SigBadError):
        sshsig.verify(b"another", armor, site.sign.public_key(), NAMESPACE)


def test_another_purpose_is_refused(site: keys.Keys) -> None:
    armor = sshsig.sign(b"message", site.sign, "git")
    with pytest.raises(SigNamespaceError):
        sshsig.verify(b"message", armor, site.sign.public_key(), NAMESPACE)


def test_the_key_inside_a_signature_is_not_trusted(site: keys.Keys) -> None:
    armor = sshsig.sign(b"message", Ed25519PrivateKey.generate(), NAMESPACE)
    with pytest.raises(SigBadError):
        sshsig.verify(b"message", armor, site.sign.public_key(), NAMESPACE)


def test_the_second_encoding_of_a_valid_signature_is_refused(site: keys.Keys) -> None:
    signature = sshsig.parse(sshsig.sign(b"message", site.sign, NAMESPACE))
    scalar = int.from_bytes(signature.signature[32:], "little") + ORDER
    again = sshsig.Signature(signature.key, NAMESPACE, signature.signature[:32] + scalar.to_bytes(32, "little"))
    signature.verify(b"message")
    with pytest.raises(SigBadError):
        again.verify(b"message")


@pytest.mark.parametrize("sign", [0, 1 << 255], ids=["plus", "minus"])
@pytest.mark.parametrize("y", [*sorted(sshsig._SMALL_ORDER), PRIME, PRIME + 1, PRIME + 3, 2**255 - 1])
def test_a_key_of_small_order_or_in_a_second_encoding_is_refused(y: int, sign: int) -> None:
    forged = sshsig.Signature((y | sign).to_bytes(32, "little"), NAMESPACE, (1).to_bytes(32, "little") + bytes(32))
    with pytest.raises(SigBadError, match="small order or in a non-canonical encoding"):
        forged.verify(b"any message")


def test_every_point_of_small_order_is_known() -> None:
    d = -121665 * pow(121666, -1, PRIME) % PRIME

    def double(x: int, y: int) -> tuple[int, int]:
        product = d * x * x * y * y
        return (
            2 * x * y * pow(1 + product, -1, PRIME) % PRIME,
            (y * y + x * x) * pow(1 - product, -1, PRIME) % PRIME,
        )

    def x_of(y: int) -> int:
        square = (y * y - 1) * pow(d * y * y + 1, -1, PRIME) % PRIME
        root = pow(square, (PRIME + 3) // 8, PRIME)
        root = root if root * root % PRIME == square else root * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
        assert root * root % PRIME == square, "no point has this y"
        return root

    for y in sshsig._SMALL_ORDER:
        assert double(*double(*double(x_of(y), y))) == (0, 1)
    assert len(sshsig._SMALL_ORDER) == 5  # eight points; three pairs share their y


FIELDS = {
    "magic": b"SSHSIG" + struct.pack(">I", 1),
    "key": string(string(b"ssh-ed25519") + string(bytes(31) + b"\x09")),
    "namespace": string(NAMESPACE.encode()),
    "reserved": string(b""),
    "hash": string(b"sha512"),
    "signature": string(string(b"ssh-ed25519") + string(bytes(64))),
    "end": b"",
}


def test_the_fields_have_this_order() -> None:
    signature = sshsig.parse(text_of(b"".join(FIELDS.values())))
    assert signature == sshsig.Signature(bytes(31) + b"\x09", NAMESPACE, bytes(64))


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("magic", b"SSHSIH" + struct.pack(">I", 1), SigFormatError),
        ("magic", b"SSHSIG" + struct.pack(">I", 2), SigFormatError),
        ("key", string(string(b"ssh-rsa") + string(bytes(32))), SigAlgError),
        ("key", string(string(b"sk-ssh-ed25519@openssh.com") + string(bytes(32))), SigAlgError),
        ("key", string(string(b"ssh-ed25519") + string(bytes(31))), SigFormatError),
        ("key", string(string(b"ssh-ed25519") + string(bytes(32)) + b"x"), SigFormatError),
        ("key", string(b""), SigFormatError),
        ("namespace", string(b"\xc3\xa4"), SigFormatError),
        ("namespace", string(b"a\nb"), SigFormatError),
        ("reserved", string(b"x"), SigFormatError),
        ("hash", string(b"sha256"), SigAlgError),
        ("signature", string(string(b"ssh-ed25519") + string(bytes(63))), SigFormatError),
        ("signature", string(string(b"ssh-rsa") + string(bytes(64))), SigAlgError),
        ("signature", struct.pack(">I", 2**32 - 1), SigFormatError),
        ("end", b"x", SigFormatError),
    ],
)
def test_a_field_of_another_form_is_refused(field: str, value: bytes, fault: type[FedhelpError]) -> None:
    with pytest.raises(fault):
        sshsig.parse(text_of(b"".join({**FIELDS, field: value}.values())))


@pytest.mark.parametrize(
    "change",
    [
        lambda armor: armor[:-1],
        lambda armor: armor + "\n",
        lambda armor: " " + armor,
        lambda armor: armor.replace("\n", "\r\n"),
        lambda armor: armor.replace("A", "*", 1),
        lambda armor: armor.replace("A", "Ä", 1),
        lambda armor: armor.replace("SSH SIGNATURE-----\n", "SSH SIGNATURE-----\n\n", 1),
        lambda armor: sshsig.BEGIN + sshsig.END,
        lambda armor: sshsig.BEGIN,
        lambda armor: "",
    ],
)
def test_an_armor_in_another_encoding_is_refused(change: Callable[[str], str], site: keys.Keys) -> None:
    with pytest.raises(SigFormatError):
        sshsig.parse(change(sshsig.sign(b"message", site.sign, NAMESPACE)))


def test_a_public_key_is_read_from_its_line(site: keys.Keys) -> None:
    assert sshsig.public_raw(site.public.sign) == site.sign.public_key().public_bytes_raw()
    assert sshsig.public_line(site.sign.public_key()) == site.public.sign


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line + " comment",
        lambda line: line + "\n",
        lambda line: line.replace(" ", "  "),
        lambda line: line.replace("ssh-ed25519", "ssh-rsa"),
        lambda line: line[:-4],
        lambda line: line.replace("AAAA", "ÄAAA"),
        lambda line: "",
    ],
)
def test_a_public_key_in_another_encoding_is_refused(change: Callable[[str], str], site: keys.Keys) -> None:
    with pytest.raises(SigAlgError):
        sshsig.public_raw(change(site.public.sign))
