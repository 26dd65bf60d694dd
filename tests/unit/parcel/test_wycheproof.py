"""Wycheproof's edge cases for the primitives as this kit uses them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.parcel import age, sshsig
from tests.unit.parcel import vectors

pytestmark = vectors.needed


def ed25519(case: vectors.Case) -> bool:
    try:
        sshsig._load_public_key(case["pk"]).verify(case["sig"], case["msg"])
    except (FedhelpError, InvalidSignature):
        return False
    return True


def x25519(case: vectors.Case) -> bool:
    try:
        private = X25519PrivateKey.from_private_bytes(case["private"])
        return private.exchange(X25519PublicKey.from_public_bytes(case["public"])) == case["shared"]
    except ValueError:
        return False


def chacha20_poly1305(case: vectors.Case) -> bool:
    sealed = case["ct"] + case["tag"]
    try:
        cipher = ChaCha20Poly1305(case["key"])
        opened = cipher.decrypt(case["iv"], sealed, case["aad"])
        return opened == case["msg"] and cipher.encrypt(case["iv"], opened, case["aad"]) == sealed
    except (InvalidTag, ValueError):
        return False


def hkdf_sha256(case: vectors.Case) -> bool:
    if case["size"] == 32:
        return age._hkdf(case["ikm"], case["salt"], case["info"]) == case["okm"]
    try:
        return HKDF(SHA256(), case["size"], case["salt"] or None, case["info"]).derive(case["ikm"]) == case["okm"]
    except ValueError:
        return False


def should_pass(case: vectors.Case) -> bool:
    return case["result"] == "valid" or (case["result"] == "acceptable" and "LowOrderPublic" not in case["flags"])


@pytest.mark.parametrize(
    ("check", "count"), [(ed25519, 151), (x25519, 518), (chacha20_poly1305, 325), (hkdf_sha256, 86)]
)
def test_valid_cases_pass_and_all_others_are_refused(check: Callable[[vectors.Case], bool], count: int) -> None:
    all_cases = list(vectors.wycheproof(check.__name__))
    assert [case["tcId"] for case in all_cases if check(case) != should_pass(case)] == []
    assert len(all_cases) == count


def test_a_public_key_of_low_order_gives_no_secret() -> None:
    low = [case["public"] for case in vectors.wycheproof("x25519") if "LowOrderPublic" in case["flags"]]
    assert len(low) == 31
    for public in low:
        with pytest.raises(ValueError):
            X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))


def test_nobody_encrypts_to_a_recipient_of_low_order() -> None:
    for case in vectors.wycheproof("x25519"):
        if "LowOrderPublic" in case["flags"]:
            with pytest.raises(FedhelpError, match="low order"):
                age.check_recipient(age.bech32.encode("age", case["public"]))


def test_valid_wycheproof_signatures_survive_the_armor() -> None:
    for case in vectors.wycheproof("ed25519"):
        if len(case["sig"]) == 64:
            parts = sshsig.Signature(case["pk"], "update.v1.fedhelp-edge", case["sig"])
            assert sshsig.parse(sshsig._format_armor(parts)) == parts
