"""Post-quantum keys: files for them open, and are never also for a key that is not post-quantum."""

from __future__ import annotations

import io

import pytest

from fedhelp_edge.errors import NoMatchError, RecipientTypeError
from fedhelp_edge.parcel import age, bech32

IDENTITY = age.new_identity(post_quantum=True)
RECIPIENT = age.recipient_of(IDENTITY)


def encrypted(*recipients: str, text: bytes = b"weights") -> bytes:
    sink = io.BytesIO()
    age.encrypt(io.BytesIO(text), sink, recipients)
    return sink.getvalue()


def decrypted(file: bytes, *identities: str) -> bytes:
    sink = io.BytesIO()
    age.decrypt(io.BytesIO(file), sink, identities)
    return sink.getvalue()


@pytest.mark.parametrize("size", [0, 7, 65536, 65537])
def test_a_file_opens_with_either_key_that_it_is_for_and_its_size_is_known_before(size: int) -> None:
    other = age.new_identity(post_quantum=True)
    file = encrypted(RECIPIENT, age.recipient_of(other), text=bytes(size))
    assert decrypted(file, IDENTITY) == decrypted(file, age.new_identity(), other) == bytes(size)
    assert len(file) == age.encrypted_size(size, [RECIPIENT, RECIPIENT])


def test_no_other_key_opens_it() -> None:
    for identity in (age.new_identity(post_quantum=True), age.new_identity()):
        with pytest.raises(NoMatchError):
            decrypted(encrypted(RECIPIENT), identity)
    with pytest.raises(NoMatchError):
        decrypted(encrypted(age.recipient_of(age.new_identity())), IDENTITY)


def test_keys_of_both_kinds_are_not_mixed() -> None:
    with pytest.raises(RecipientTypeError, match="one kind"):
        encrypted(RECIPIENT, age.recipient_of(age.new_identity()))


def test_a_recipient_is_checked_before_anybody_encrypts_to_it() -> None:
    age.check_recipient(RECIPIENT)
    raw = bech32.decode("age1pq", RECIPIENT)
    assert raw is not None
    assert len(raw) == 1216
    wrong = (raw[:-1], raw[:-32] + bytes(32), b"\xff" * 1184 + raw[-32:])  # too short, of low order, no ML-KEM key
    for each in wrong:
        with pytest.raises(RecipientTypeError):
            age.check_recipient(bech32.encode("age1pq", each))
    for identity in ("AGE-SECRET-KEY-PQ-1QQ", IDENTITY.lower(), IDENTITY[:-1]):
        with pytest.raises(RecipientTypeError):
            age.recipient_of(identity)
