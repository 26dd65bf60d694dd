"""Attacks on the encryption (catalogue D). The signature is always valid: the encryption layer must refuse."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fedhelp_edge.errors import FedhelpError, NoMatchError, RoundKeyGoneError
from fedhelp_edge.parcel import age, keys, parcel
from fedhelp_edge.trust import task
from tests.unit.parcel import vectors

Refusal = Callable[..., str]


@pytest.fixture
def refusal(signed: Callable[..., Path], hub: keys.Keys) -> Refusal:
    """Gives the error code of a payload in a validly signed update; nothing may be left in its folder."""

    def code(payload: bytes, identities: list[str | age.Passphrase] | None = None, **changes: object) -> str:
        path = signed(payload, **changes)
        with pytest.raises(FedhelpError) as fault:
            parcel.open(path, parcel.any_signer, [hub.identity] if identities is None else identities)
        assert list(path.parent.iterdir()) == [path]
        return fault.value.code

    return code


def encrypted(plain: bytes, *recipients: str | age.Passphrase, armor: bool = False) -> bytes:
    sink = io.BytesIO()
    age.encrypt(io.BytesIO(plain), sink, recipients, armor=armor)
    return sink.getvalue()


def header_and_chunks(file: bytes) -> tuple[bytes, list[bytes]]:
    """The header with its nonce, and the chunks."""
    start = file.index(b"\n--- ") + len("\n--- ") + 43 + 1 + 16
    return file[:start], [
        file[offset : offset + 65536 + age.TAG_SIZE] for offset in range(start, len(file), 65536 + age.TAG_SIZE)
    ]


LAYERS = {
    "no match": "E_NO_MATCH",
    "header failure": "E_AGE_HEADER",
    "HMAC failure": "E_AGE_MAC",
    "payload failure": "E_AGE_PAYLOAD",
    "success": "E_BODY",  # an age file, but not a parcel's content
}


@vectors.needed
@pytest.mark.parametrize("name", vectors.age_names())
def test_d01_a_public_vector_in_a_parcel_is_refused_by_its_layer(name: str, refusal: Refusal) -> None:
    vector = vectors.age_vector(name)
    expected = "E_AGE_HEADER" if vector.armored else LAYERS[vector.expect]
    assert refusal(vector.file, vector.identities) == expected


def test_d02_a_payload_encrypted_for_another_recipient_is_refused(refusal: Refusal, site: keys.Keys) -> None:
    assert refusal(encrypted(b"body", site.public.recipient)) == "E_NO_MATCH"


def test_d03_an_altered_header_mac_is_refused(refusal: Refusal, hub: keys.Keys) -> None:
    file = encrypted(b"body", hub.public.recipient)
    offset = file.index(b"\n--- ") + len("\n--- ")
    assert (
        refusal(file[:offset] + (b"B" if file[offset : offset + 1] == b"A" else b"A") + file[offset + 1 :])
        == "E_AGE_MAC"
    )


def test_d03_a_missing_header_mac_is_refused(refusal: Refusal, hub: keys.Keys) -> None:
    file = encrypted(b"body", hub.public.recipient)
    offset = file.index(b"\n--- ")
    assert refusal(file[:offset] + b"\n---" + file[offset + 48 :]) == "E_AGE_HEADER"


def test_d03_a_removed_recipient_is_refused(refusal: Refusal, site: keys.Keys, hub: keys.Keys) -> None:
    file = encrypted(b"body", site.public.recipient, hub.public.recipient)
    first, second = file.index(b"-> "), file.index(b"-> ", file.index(b"-> ") + 1)
    assert refusal(file[:first] + file[second:]) == "E_AGE_MAC"


@pytest.mark.parametrize("where", ["before", "after"])
def test_d03_an_added_recipient_is_refused(where: str, refusal: Refusal, site: keys.Keys, hub: keys.Keys) -> None:
    file, other = encrypted(b"body", hub.public.recipient), encrypted(b"", site.public.recipient)
    stanza = other[other.index(b"-> ") : other.index(b"--- ")]
    offset = file.index(b"-> " if where == "before" else b"--- ")
    assert refusal(file[:offset] + stanza + file[offset:]) == "E_AGE_MAC"


def test_d04_a_wrong_size_of_the_right_payload_is_refused(refusal: Refusal, hub: keys.Keys) -> None:
    file = encrypted(b"body", hub.public.recipient)
    assert {refusal(file, size=size) for size in (0, len(file) - 1, len(file) + 1)} == {"E_PAYLOAD_SIZE"}


def test_d04_another_payload_of_the_right_size_is_refused(refusal: Refusal, hub: keys.Keys) -> None:
    assert refusal(encrypted(b"body", hub.public.recipient), sha256="0" * 64) == "E_PAYLOAD_HASH"


def test_d05_too_many_recipients_are_refused(refusal: Refusal, hub: keys.Keys) -> None:
    file = encrypted(b"body", *[hub.public.recipient] * 1024)
    offset = file.index(b"-> ")
    stanza = file[offset : file.index(b"-> ", offset + 1)]
    assert refusal(file) == "E_BODY"  # 1,024 are not too many
    assert refusal(file[:offset] + stanza + file[offset:]) == "E_AGE_HEADER"


@pytest.mark.parametrize(
    "stanza",
    [
        b"-> X25519 " + b"A" * (1 << 20) + b"\n\n",
        b"-> grease\n" + (b"A" * 64 + b"\n") * (1 << 14) + b"\n",
        b"-> grease" + b" a" * 150_000 + b"\n\n",
        b"-> " * 100_000,
    ],
    ids=["argument", "body", "arguments", "no end"],
)
def test_d05_a_header_out_of_bounds_is_refused(stanza: bytes, refusal: Refusal, hub: keys.Keys) -> None:
    file = encrypted(b"body", hub.public.recipient)
    offset = file.index(b"-> ")
    assert refusal(file[:offset] + stanza + file[offset:]) == "E_AGE_HEADER"


def test_d05_a_stanza_of_ten_thousand_arguments_is_refused(refusal: Refusal, hub: keys.Keys) -> None:
    file = encrypted(b"body", hub.public.recipient)
    assert refusal(file.replace(b"-> X25519", b"-> X25519" + b" a" * 10_000)) == "E_AGE_HEADER"


@pytest.mark.parametrize("factor", [b"21", b"22", b"30", b"63", b"64", b"999999999999", b"022", b"-1", b"0", b"+9"])
def test_d06_a_passphrase_with_too_high_a_work_factor_is_refused_before_any_work(
    factor: bytes, refusal: Refusal, hub: keys.Keys
) -> None:
    cheap = encrypted(b"body", age.Passphrase("word", work_factor=2))
    dear = cheap.replace(b" 2\n", b" " + factor + b"\n", 1)
    assert refusal(dear, [age.Passphrase("word")]) == "E_AGE_HEADER"
    assert refusal(dear, [hub.identity]) == "E_NO_MATCH"


def test_d06_a_passphrase_beside_another_recipient_is_refused(refusal: Refusal, hub: keys.Keys) -> None:
    file, other = encrypted(b"body", hub.public.recipient), encrypted(b"", age.Passphrase("word", work_factor=2))
    stanza = other[other.index(b"-> ") : other.index(b"--- ")]
    offset = file.index(b"-> ")
    assert refusal(file[:offset] + stanza + file[offset:]) == "E_AGE_HEADER"


@pytest.mark.parametrize(
    "order",
    [
        [1, 0, 2],
        [0, 2, 1],
        [0, 0, 1, 2],
        [0, 1, 1, 2],
        [0, 1],
        [0],
        [],
        [1, 2],
        [0, 2],
        [0, 1, 2, 2],
        [2],
        [2, 0, 1, 2],
    ],
    ids=lambda order: "".join(map(str, order)),
)
def test_d07_chunks_in_another_order_are_refused(order: list[int], refusal: Refusal, hub: keys.Keys) -> None:
    head, chunks = header_and_chunks(encrypted(bytes(150_000), hub.public.recipient))
    assert len(chunks) == 3
    assert refusal(head + b"".join(chunks[index] for index in order)) == "E_AGE_PAYLOAD"


def test_d07_an_empty_last_chunk_after_a_full_one_is_refused(refusal: Refusal, hub: keys.Keys) -> None:
    head, chunks = header_and_chunks(encrypted(bytes(65536), hub.public.recipient))
    _, empty = header_and_chunks(encrypted(b"", hub.public.recipient))
    assert refusal(head + b"".join(chunks + empty)) == "E_AGE_PAYLOAD"


def test_d08_armored_age_is_refused_where_binary_is_expected(refusal: Refusal, hub: keys.Keys) -> None:
    assert refusal(encrypted(b"body", hub.public.recipient, armor=True)) == "E_AGE_HEADER"


@vectors.needed
def test_d09_a_public_key_of_low_order_is_refused(refusal: Refusal, hub: keys.Keys) -> None:
    file = encrypted(b"body", hub.public.recipient)
    begin = file.index(b"X25519 ") + len("X25519 ")
    low = [case["public"] for case in vectors.wycheproof("x25519") if "LowOrderPublic" in case["flags"]]
    for public_key in [bytes(32), *low]:
        text = base64.b64encode(public_key).rstrip(b"=")
        assert refusal(file[:begin] + text + file[begin + 43 :]) == "E_AGE_HEADER"


@pytest.fixture
def store(tmp_path: Path, site: keys.Keys) -> Path:
    return keys.save(tmp_path / "home", site, "right")


def code_of(store: Path, passphrase: str) -> str:
    with pytest.raises(FedhelpError) as caught:
        keys.load(store.parent, lambda: passphrase)
    assert caught.value.remedy
    return caught.value.code


def test_d10_a_payload_for_a_post_quantum_key_opens_with_that_key_alone(refusal: Refusal) -> None:
    identity = age.new_identity(post_quantum=True)
    file = encrypted(b"body", age.recipient_of(identity))
    assert refusal(file) == refusal(file, [age.new_identity(post_quantum=True)]) == "E_NO_MATCH"
    assert refusal(file, [identity]) == LAYERS["success"]


def test_d11_a_deleted_round_key_and_a_wrong_key_give_different_errors(
    signed: Callable[..., Path], hub: keys.Keys
) -> None:
    path = signed(encrypted(b"{}\n", hub.public.recipient))
    identities = {13: keys.generate().identity}
    round_ = parcel.inspect(path, parcel.any_signer).statement.context["round"]
    assert round_ == 12
    with pytest.raises(RoundKeyGoneError):
        task.round_identity(round_, identities)
    with pytest.raises(NoMatchError):
        parcel.open(path, parcel.any_signer, [task.round_identity(13, identities)])


def test_d12_a_wrong_passphrase_and_a_damaged_key_store_give_different_errors(store: Path) -> None:
    assert code_of(store, "wrong") == "E_PASSPHRASE"
    store.write_bytes(store.read_bytes()[:-1])
    assert code_of(store, "right") == "E_KEYS_CORRUPT"


def test_d12_without_the_passphrase_damage_is_not_revealed(store: Path) -> None:
    store.write_bytes(store.read_bytes()[:-1])
    assert code_of(store, "wrong") == "E_PASSPHRASE"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_d12_a_key_store_that_others_can_read_is_refused_with_any_passphrase(store: Path) -> None:
    store.chmod(0o644)
    assert code_of(store, "right") == code_of(store, "wrong") == "E_KEYS_MODE"
