"""Attacks on the prologue of a parcel (catalogue A): cut, altered, padded or misspelled, it is refused whole."""

from __future__ import annotations

import base64
import io
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.parcel import age, keys, parcel, sshsig

NAMESPACE = "update.v1.fedhelp-edge"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parcel")


@pytest.fixture
def small(folder: Path, context: dict[str, Any], site: keys.Keys, hub: keys.Keys) -> Path:
    """A whole update of a few bytes, alone in its folder."""
    path = folder / "small.fhx"
    path.unlink(missing_ok=True)
    parcel.seal(path, context, b"body", site.sign, [hub.public.recipient])
    return path


@pytest.fixture
def refusal(folder: Path, hub: keys.Keys) -> Callable[[bytes], FedhelpError]:
    """Gives the error for these bytes, opened as a file with the key; nothing may be left in the folder or released."""
    path = folder / "attack.fhx"

    def met(data: bytes) -> FedhelpError:
        path.write_bytes(data)
        before = set(folder.iterdir())
        with pytest.raises(FedhelpError) as fault:
            parcel.open(path, parcel.any_signer, [hub.identity])
        assert set(folder.iterdir()) == before
        assert fault.value.code
        assert fault.value.remedy
        return fault.value

    return met


@pytest.fixture
def with_line(site: keys.Keys) -> Callable[[bytes], bytes]:
    """Gives a parcel with any statement line and a valid signature."""

    def put(line: bytes) -> bytes:
        return parcel.MAGIC + line + b"\n" + sshsig.sign(line, site.sign, NAMESPACE).encode() + b"payload"

    return put


def line_of(data: bytes) -> bytes:
    return data.split(b"\n")[1]


def regions(data: bytes) -> dict[str, range]:
    line, first = len(parcel.MAGIC), data.index(sshsig.BEGIN.encode())
    payload = data.index(sshsig.END.encode()) + len(sshsig.END)
    return {
        "magic": range(line),
        "statement": range(line, first),
        "signature": range(first, payload),
        "payload": range(payload, len(data)),
    }


def test_the_unaltered_parcel_opens(small: Path, hub: keys.Keys) -> None:
    with parcel.open(small, parcel.any_signer, [hub.identity]) as opened:
        assert opened.body.read() == b"body"


# --- cut, flipped, lengthened ----------------------------------------------------------------------------------------
def test_a01_a_file_cut_anywhere_is_refused(small: Path, refusal: Callable[[bytes], FedhelpError]) -> None:
    data = small.read_bytes()
    codes = {refusal(data[:length]).code for length in range(len(data))}
    assert codes == {"E_TRUNCATED"}


def test_a01_a_large_file_cut_around_its_chunks_is_refused(
    folder: Path,
    context: dict[str, Any],
    site: keys.Keys,
    hub: keys.Keys,
    refusal: Callable[[bytes], FedhelpError],
) -> None:
    path = folder / "large.fhx"
    parcel.seal(path, context, bytes(200_000), site.sign, [hub.public.recipient])
    data, start = path.read_bytes(), parcel.inspect(path, parcel.any_signer).offset
    content = start + len(data[start:].split(b"\n--- ")[0]) + len("\n--- ") + 43 + 1 + 16
    borders = [base + 65536 * count for base in (0, start, content) for count in (1, 2, 3)]
    borders += [content + (65536 + age.TAG_SIZE) * count for count in (0, 1, 2, 3)]
    codes = {refusal(data[: border + near]).code for border in borders for near in (-1, 0, 1)}
    assert codes == {"E_TRUNCATED"}


def test_a01_a_payload_cut_before_it_was_signed_is_refused(
    small: Path, hub: keys.Keys, signed: Callable[..., Path]
) -> None:
    payload = small.read_bytes()[parcel.inspect(small, parcel.any_signer).offset :]
    for length in range(len(payload)):
        with pytest.raises(FedhelpError) as caught:
            parcel.open(signed(payload[:length]), parcel.any_signer, [hub.identity])
        assert caught.value.code in {"E_AGE_HEADER", "E_AGE_PAYLOAD"}


@pytest.mark.proof
@pytest.mark.parametrize(
    ("region", "codes"),
    [
        ("magic", r"E_MAGIC"),
        ("statement", r"E_STATEMENT_\w+|E_SIG_BAD"),
        ("signature", r"E_SIG_\w+|E_TRUNCATED"),
        ("payload", r"E_PAYLOAD_HASH"),
    ],
)
def test_a02_any_flipped_bit_is_refused(
    region: str,
    codes: str,
    small: Path,
    refusal: Callable[[bytes], FedhelpError],
    effort: Callable[[int, int], int],
) -> None:
    data = bytearray(small.read_bytes())
    span = regions(data)[region]
    for bit in range(8 * span.start, 8 * span.stop, effort(5, 1)):  # each bit position of a byte in turn
        data[bit // 8] ^= 1 << bit % 8
        assert re.fullmatch(codes, refusal(data).code), bit
        data[bit // 8] ^= 1 << bit % 8


@pytest.mark.proof
def test_a02_any_flipped_bit_of_a_signed_payload_is_refused(
    small: Path, hub: keys.Keys, signed: Callable[..., Path], effort: Callable[[int, int], int]
) -> None:
    payload = bytearray(small.read_bytes()[parcel.inspect(small, parcel.any_signer).offset :])
    for bit in range(0, 8 * len(payload), effort(5, 1)):
        payload[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FedhelpError) as caught:
            parcel.open(signed(bytes(payload)), parcel.any_signer, [hub.identity])
        assert caught.value.code.startswith(("E_AGE_", "E_NO_MATCH"))
        payload[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("more", [b"\0", b"\n", b"x", bytes(1 << 20)], ids=["zero", "line", "letter", "megabyte"])
def test_a03_a_byte_or_a_megabyte_appended_is_refused(
    more: bytes, small: Path, refusal: Callable[[bytes], FedhelpError]
) -> None:
    assert refusal(small.read_bytes() + more).code == "E_TRAILING"


def test_a03_a_second_copy_appended_is_refused(small: Path, refusal: Callable[[bytes], FedhelpError]) -> None:
    assert refusal(small.read_bytes() * 2).code == "E_TRAILING"


# --- the first line --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "magic",
    [
        b"fedhelp-edge/v2\n",
        b"Fedhelp-edge/v1\n",
        b"FEDHELP-EDGE/V1\n",
        b"\xef\xbb\xbffedhelp-edge/v1\n",
        b" fedhelp-edge/v1\n",
        b"\nfedhelp-edge/v1\n",
        b"fedhelp-edge/v1 \n",
        b"fedhelp-edge/v1\0\n",
    ],
)
def test_a04_another_first_line_is_refused(magic: bytes, small: Path, refusal: Callable[[bytes], FedhelpError]) -> None:
    assert refusal(small.read_bytes().replace(parcel.MAGIC, magic)).code == "E_MAGIC"


def test_a05_windows_line_ends_are_refused_with_a_hint(small: Path, refusal: Callable[[bytes], FedhelpError]) -> None:
    fault = refusal(small.read_bytes().replace(b"\n", b"\r\n"))
    assert fault.code == "E_MAGIC"
    assert "altered on its way" in fault.remedy
    assert "line ends" in fault.remedy


# --- the statement ---------------------------------------------------------------------------------------------------
def test_a06_a_statement_over_64_kib_is_refused(
    small: Path, with_line: Callable[[bytes], bytes], refusal: Callable[[bytes], FedhelpError]
) -> None:
    line = line_of(small.read_bytes())
    longest = line.replace(b'"site-017"', b'"%s"' % (b"s" * (65536 - len(line) + len("site-017"))))
    assert refusal(with_line(longest)).code == "E_STATEMENT_SCHEMA"  # not too long, but no sender's name
    assert refusal(with_line(longest.replace(b"sss", b"ssss", 1))).code == "E_STATEMENT_SIZE"


def test_a06_a_statement_that_never_ends_is_refused_after_80_kib(folder: Path) -> None:
    class Counting(io.FileIO):
        """A file that counts the bytes read from it."""

        count = 0

        def readinto(self, buffer: Any) -> int:
            count = super().readinto(buffer) or 0
            self.count += count
            return count

    endless = folder / "endless.fhx"
    endless.write_bytes(parcel.MAGIC + b'{"context":')
    os.truncate(endless, 1 << 30)  # a sparse file of zeros
    with Counting(endless) as raw, pytest.raises(FedhelpError) as caught:
        parcel.read_prologue(io.BufferedReader(raw, 4096))
    assert caught.value.code == "E_STATEMENT_SIZE"
    assert raw.count <= parcel.PROLOGUE_LIMIT
    with pytest.raises(FedhelpError) as caught:
        parcel.inspect(endless, parcel.any_signer)
    assert caught.value.code == "E_STATEMENT_SIZE"


CodeWhenAltered = Callable[[bytes, bytes], str]


@pytest.fixture
def code_when_altered(
    small: Path, with_line: Callable[[bytes], bytes], refusal: Callable[[bytes], FedhelpError]
) -> CodeWhenAltered:
    """Gives the error code of the small parcel with a piece of its statement replaced and signed again."""
    line = line_of(small.read_bytes())

    def put(old: bytes, new: bytes) -> str:
        changed = re.sub(old, new, line)
        assert changed != line
        return refusal(with_line(changed)).code

    return put


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (rb'"round":', rb'"round": '),
        (rb"$", rb" "),
        (rb'("kind":"update"),("nonce":"\w+")', rb"\2,\1"),
        (rb'"update"', rb'"\\u0075pdate"'),
        (rb"SHA256:...", rb"SHA256:\\/AA"),
    ],
    ids=["space", "space at the end", "order", "escape", "escaped slash"],
)
def test_a07_a_statement_in_another_spelling_is_refused(
    old: bytes, new: bytes, code_when_altered: CodeWhenAltered
) -> None:
    assert code_when_altered(old, new) == "E_STATEMENT_CANON"


@pytest.mark.parametrize("second", [b"12", b"13"], ids=["same", "another"])
def test_a08_a_repeated_key_is_refused(second: bytes, code_when_altered: CodeWhenAltered) -> None:
    assert code_when_altered(rb'"round":12', rb'"round":12,"round":' + second) == "E_STATEMENT_CANON"


@pytest.mark.parametrize(
    "value", [b"12.0", b"1e1", b"9007199254740992", b"-1", b"NaN", b"Infinity", b"null"], ids=bytes.decode
)
def test_a09_a_number_that_is_not_an_integer_or_out_of_range_is_refused(
    value: bytes, code_when_altered: CodeWhenAltered
) -> None:
    assert code_when_altered(rb'"round":12', rb'"round":' + value) == "E_STATEMENT_TYPE"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (rb'"v":1', rb'"v":1,"w":1'),
        (rb'"round":12', rb'"round":12,"rounds":12'),
        (rb'"round":12,', rb""),
        (rb',"v":1', rb""),
        (rb'"v":1', rb'"v":2'),
        (rb'"update"', rb'"upload"'),
        (rb'"form":"age"', rb'"form":"plain"'),
    ],
    ids=["one more", "one more in the context", "one less", "no version", "another version", "kind", "form"],
)
def test_a10_a_statement_of_another_form_is_refused(old: bytes, new: bytes, code_when_altered: CodeWhenAltered) -> None:
    assert code_when_altered(old, new) == "E_STATEMENT_SCHEMA"


@pytest.mark.parametrize(
    ("old", "new"),
    [(rb'"round":12', rb'"round":' + b"[" * 1000 + b"]" * 1000), (rb"^.*$", b"[" * 60_000)],
    ids=["closed", "open"],
)
def test_a11_a_statement_nested_a_thousand_deep_is_refused(
    old: bytes, new: bytes, code_when_altered: CodeWhenAltered
) -> None:
    assert code_when_altered(old, new) == "E_STATEMENT_DEPTH"


@pytest.mark.parametrize(
    "name", ["ѕite-017".encode(), rb"\\u0455ite-017", rb"site-017\\u0000"], ids=["letter", "escaped", "zero"]
)
def test_a12_a_lookalike_name_is_refused(name: bytes, code_when_altered: CodeWhenAltered) -> None:
    assert code_when_altered(rb"site-017", name) == "E_STATEMENT_TYPE"


# --- the signatures --------------------------------------------------------------------------------------------------
def with_signatures(data: bytes, armors: list[str]) -> bytes:
    """The parcel with other signatures."""
    head, _, rest = data.partition(sshsig.BEGIN.encode())
    return head + "".join(armors).encode() + rest.partition(sshsig.END.encode())[2]


def test_a13_eight_signatures_pass_and_nine_are_refused(
    small: Path, folder: Path, refusal: Callable[[bytes], FedhelpError]
) -> None:
    line = line_of(small.read_bytes())
    armors = [sshsig.sign(line, Ed25519PrivateKey.generate(), NAMESPACE) for _ in range(9)]
    (folder / "eight.fhx").write_bytes(with_signatures(small.read_bytes(), armors[:8]))
    assert len(parcel.inspect(folder / "eight.fhx", parcel.any_signer).keys) == 8
    assert refusal(with_signatures(small.read_bytes(), armors)).code == "E_SIG_COUNT"


def test_a13_no_signature_is_refused(small: Path, refusal: Callable[[bytes], FedhelpError]) -> None:
    assert refusal(with_signatures(small.read_bytes(), [])).code == "E_SIG_COUNT"


@pytest.mark.parametrize("filling", ["A" * 5000, ("A" * 70 + "\n") * 80], ids=["one line", "many lines"])
def test_a13_a_signature_over_4_kib_is_refused(
    filling: str, small: Path, refusal: Callable[[bytes], FedhelpError]
) -> None:
    armor = sshsig.BEGIN + filling + sshsig.END
    assert refusal(with_signatures(small.read_bytes(), [armor])).code == "E_SIG_FORMAT"


def test_a13_a_signature_that_never_ends_is_refused(small: Path, refusal: Callable[[bytes], FedhelpError]) -> None:
    data = with_signatures(small.read_bytes(), [sshsig.BEGIN + ("A" * 70 + "\n") * 10_000])
    assert refusal(data).code == "E_SIG_FORMAT"


def wrapped(armor: str, columns: int) -> str:
    text = armor[len(sshsig.BEGIN) : -len(sshsig.END)].replace("\n", "")
    lines = (text[start : start + columns] + "\n" for start in range(0, len(text), columns))
    return sshsig.BEGIN + "".join(lines) + sshsig.END


@pytest.mark.parametrize("columns", [64, 69, 71, 76, 1000])
def test_a14_an_armor_with_other_line_lengths_is_refused(
    columns: int, small: Path, site: keys.Keys, refusal: Callable[[bytes], FedhelpError]
) -> None:
    armor = sshsig.sign(line_of(small.read_bytes()), site.sign, NAMESPACE)
    assert wrapped(armor, 70) == armor
    assert refusal(with_signatures(small.read_bytes(), [wrapped(armor, columns)])).code == "E_SIG_FORMAT"


def test_a14_base64_with_loose_bits_is_refused(site: keys.Keys) -> None:
    armor = sshsig.sign(b"a statement", site.sign, "charter.v1.fedhelp-edge")
    text = armor[: -len(sshsig.END)].rstrip()
    assert text.endswith("==")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    loose = text[:-3] + letters[letters.index(text[-3]) | 1] + "==\n" + sshsig.END
    assert base64.b64decode(loose.split("\n", 1)[1][: -len(sshsig.END)]) == base64.b64decode(
        armor.split("\n", 1)[1][: -len(sshsig.END)]
    )
    with pytest.raises(FedhelpError) as caught:
        sshsig.verify(b"a statement", loose, site.sign.public_key(), "charter.v1.fedhelp-edge")
    assert caught.value.code == "E_SIG_FORMAT"


# --- other things than files, and other files than parcels -----------------------------------------------------------
def test_a15_an_empty_file_is_refused(refusal: Callable[[bytes], FedhelpError]) -> None:
    assert refusal(b"").code == "E_TRUNCATED"


@pytest.mark.parametrize("read", [parcel.inspect, parcel.open])
@pytest.mark.parametrize("what", ["folder", "fifo", "device"])
def test_a15_anything_but_an_ordinary_file_is_refused(
    what: str, read: Callable[[Path, parcel.Verifier], object], tmp_path: Path
) -> None:
    path = {"folder": tmp_path, "fifo": tmp_path / "fifo", "device": Path("/dev/zero")}[what]
    if what == "fifo":
        if not hasattr(os, "mkfifo"):
            pytest.skip("this system has no named pipes")
        os.mkfifo(path)
    elif not path.exists():
        pytest.skip("this system has no /dev/zero")
    with pytest.raises(FedhelpError) as caught:
        read(path, parcel.any_signer)
    assert caught.value.code == "E_FILE_KIND"


def a_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("statement", "{}")
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [a_zip(), pickle.dumps({"a": 1}), b"\x89PNG\r\n\x1a\n" + bytes(100), b"age-encryption.org/v1\n", bytes(100)],
    ids=["zip", "pickle", "png", "age", "zeros"],
)
def test_a16_another_kind_of_file_is_refused(data: bytes, refusal: Callable[[bytes], FedhelpError]) -> None:
    assert refusal(data).code == "E_MAGIC"
