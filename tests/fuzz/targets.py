"""The fuzz targets: every parser of bytes from outside, each as a function that may raise only a `FedhelpError`.

Each also checks an invariant of the bytes that it accepts. `SEEDS` makes real artefacts to start from.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from fedhelp_edge import plan, update
from fedhelp_edge.data import folder, npz, picture, segmentation, table
from fedhelp_edge.data import pack as packs
from fedhelp_edge.data.labels import ClassNames
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.infer import decide, metadata
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import age, canon, keys, parcel, sshsig, statement
from fedhelp_edge.secure_sum import parcels
from tests.unit.data import bombs, samples, series

_SITE, _HUB = keys.generate(), keys.generate()
_FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-")
_FILE = Path(_FOLDER.name) / "file.fhx"
_CLASSES = ClassNames(("a", "b"), {})


# --- targets ---------------------------------------------------------------------------------------------------------
def _canon(data: bytes) -> None:
    assert canon.encode(canon.decode(data)) == data


def _statement(data: bytes) -> None:
    assert statement.parse(data).line == data


def _json(data: bytes) -> None:
    assert isinstance(parcel.read_json(data), dict)


def _armor(data: bytes) -> None:
    armor = data.decode("latin-1")
    assert sshsig._format_armor(sshsig.parse(armor)) == armor


def _key_line(data: bytes) -> None:
    line = data.decode("latin-1")
    assert sshsig.public_line(sshsig.public_raw(line)) == line


def _recipient(data: bytes) -> None:
    text = data.decode("latin-1")
    age.check_recipient(text)
    assert text.startswith("age1")


def _age(data: bytes, armor: bool = False) -> None:
    sink = io.BytesIO()
    try:
        age.decrypt(io.BytesIO(data), sink, [_SITE.identity, _HUB.identity], armor=armor)
    except FedhelpError:
        assert sink.getvalue() == b""
        raise
    assert len(sink.getvalue()) < len(data)


def _age_text(data: bytes) -> None:
    _age(data, armor=True)


def _safetensors(data: bytes) -> None:
    header = update.read_header(io.BytesIO(data))
    assert header.start + sum(tensor.size for tensor, _ in header.entries) == len(data)


def _plan(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    assert plan.read(text, METHODS).text == text


def _pack(data: bytes) -> None:
    _FILE.write_bytes(data)
    pack = packs.load(_FILE)
    assert pack.pixels.shape[0] == len(pack.labels) == pack.probabilities.shape[1]


def _image(data: bytes, name: str = "x.png") -> None:
    with picture.without_warnings():
        seen = folder.decode_open(io.BytesIO(data), name, plan.ImageSettings(8, 3))
    assert seen.pixels.shape == (8, 8, 3)


def _dicom(data: bytes) -> None:
    _image(data, "x.dcm")


def _segmentation(data: bytes) -> None:
    """The mask of a DICOM picture."""
    _FILE.write_bytes(data)
    assert set(np.unique(segmentation.read_picture(_FILE, "", _CLASSES))) <= {0, 1, 2}


def _npz(data: bytes) -> None:
    _FILE.write_bytes(data)
    source = npz.read(_FILE, plan.ImageSettings(8, 3))
    assert len(list(source.arrays(range(len(source.rows))))) == len(source.rows)


def _table(data: bytes) -> None:
    _FILE.write_bytes(data)
    assert "label" in table.read_sheet(_FILE).columns


def _inspect(data: bytes) -> None:
    _FILE.write_bytes(data)
    seen = parcel.inspect(_FILE, parcel.any_signer)
    assert seen.offset + seen.statement.size == len(data)


def _open(data: bytes) -> None:
    _FILE.write_bytes(data)
    with parcel.open(_FILE, parcel.any_signer, [_HUB.identity]) as opened:
        opened.body.read()


def _inside(data: bytes) -> None:
    """The plaintext of a site with a valid signature."""
    inner = parcel._InnerHeader()
    for start in range(0, len(data), 100):
        inner.feed(data[start : start + 100])
    inner.check(statement.Statement(_context(), "age", statement.ZERO_HASH, 0))


def _bundle(data: bytes) -> None:
    """The metadata of a model with a valid signature."""
    notes = metadata.read_notes(data)
    facts = metadata.read(notes[metadata.FACTS_NOTE])
    features = np.ones((1, len(facts.likeness.mean)))
    probabilities = np.full(len(facts.classes), 0.5, np.float32)
    answer = decide.decide(facts, probabilities, float(facts.likeness.distance(features)[0]), np.zeros((1, 1, 1), "f4"))
    assert set(answer.set) <= set(facts.classes)


def _seed(data: bytes) -> None:
    """A site's seed, as its update holds it: at the coordinator, and at the helper."""
    seed = parcels.read_seed(data)
    assert seed.statement.kind == "seed"
    assert len(parcels.open_seed(seed, _HUB.identity)) == parcels.SEED_BYTES


def _set(data: bytes) -> None:
    """The body of a set with a valid signature, at the helper."""
    seeds = parcels.read_set(parcel.read_json(data))
    assert parcel.read_json(data) == parcels.set_body([seed.data for seed in seeds])


def _quiet(check: Callable[[bytes], None]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        with suppress(FedhelpError):
            check(data)

    return run


CHECKS: dict[str, Callable[[bytes], None]] = {
    "canon": _canon,
    "statement": _statement,
    "json": _json,
    "armor": _armor,
    "key-line": _key_line,
    "recipient": _recipient,
    "age": _age,
    "age-text": _age_text,
    "safetensors": _safetensors,
    "inside": _inside,
    "plan": _plan,
    "pack": _pack,
    "image": _image,
    "dicom": _dicom,
    "segmentation": _segmentation,
    "npz": _npz,
    "table": _table,
    "look": _inspect,
    "open": _open,
    "bundle": _bundle,
    "seed": _seed,
    "set": _set,
}
"""They return for valid bytes and raise a `FedhelpError` for others."""

TARGETS: dict[str, Callable[[bytes], None]] = {name: _quiet(check) for name, check in CHECKS.items()}
"""The same for a fuzzer: any exception that they raise is a bug."""


# --- seeds -----------------------------------------------------------------------------------------------------------
def _context() -> dict[str, canon.Value]:
    names = statement.KINDS["update"].fields
    return dict.fromkeys(names, "a1" * 32) | {
        "kind": "update",
        "created": "2026-11-21T08:00:00Z",
        "federation": "fh-" + "3c" * 16,
        "round": 12,
        "sender": "site-017",
        "sender_key": sshsig.fingerprint(_SITE.public.sign),
        "recipients": [_HUB.public.recipient],
        "nonce": "5e" * 16,
        "seq": 31,
    }


def _update() -> bytes:
    file = io.BytesIO()
    update.write(file, {"conv.weight": np.zeros((2, 3, 3, 3), "<f4"), "steps": np.array(7, "<i8")})
    return file.getvalue()


def _packs() -> list[bytes]:
    """Packs with raw pixels and with WebP."""
    draw = np.random.default_rng(0)
    pack = Pack(
        draw.integers(0, 256, (2, 8, 8, 3), np.uint8), np.array([0, 1]), ("a", "b"), ("files:x",),
        np.full((1, 2, 2), 0.5, np.float16),
    )  # fmt: skip
    artefacts = []
    for quality in (None, 90, 100):
        _FILE.unlink(missing_ok=True)
        packs.save(_FILE, pack, quality)
        artefacts.append(_FILE.read_bytes())
    return artefacts


def _encrypted(armor: bool) -> bytes:
    file = io.BytesIO()
    age.encrypt(io.BytesIO(b"body"), file, [_SITE.public.recipient, _HUB.public.recipient], armor=armor)
    return file.getvalue()


def _parcels() -> list[bytes]:
    charter = {
        "kind": "charter", "created": "2026-11-21T08:00:00Z", "epoch": 0, "version": 1, "previous": statement.ZERO_HASH,
    }  # fmt: skip
    artefacts = []
    for context, body, recipients in ((_context(), _update(), [_HUB.public.recipient]), (charter, b'{"name":"x"}', [])):
        _FILE.unlink(missing_ok=True)
        parcel.seal(_FILE, context, body, [_SITE.sign, _HUB.sign], recipients, facts={"examples": 120})
        artefacts.append(_FILE.read_bytes())
    return artefacts


def _seeds() -> list[bytes]:
    """The seeds' parcels of two sites."""
    artefacts = []
    for site in ("site-017", "site-018"):
        context = {name: value for name, value in _context().items() if name != "seq"}
        context |= {"kind": "seed", "sender": site, "masked": "b2" * 32}
        _FILE.unlink(missing_ok=True)
        parcel.seal(_FILE, context, bytes(parcels.SEED_BYTES), _SITE.sign, [_HUB.public.recipient])
        artefacts.append(_FILE.read_bytes())
    _FILE.unlink()
    return artefacts


def _insides() -> list[bytes]:
    plain = io.BytesIO()
    file = io.BytesIO(_parcels()[0])
    parcel.read_prologue(file)
    age.decrypt(file, plain, [_HUB.identity])
    return [plain.getvalue()]


def _bundles() -> list[bytes]:
    """The start of an ONNX file: a version, and metadata in protobuf."""
    none = metadata.Threshold(None, 4, reason="few")
    some = metadata.Threshold(0.4, 60, metadata.Rate(0.9, 0.8, 0.95), metadata.Rate(0.8, 0.7, 0.9))
    calibration = metadata.Calibration(
        (4, 60), 1.5, (0.1, 0.05), (0.2, 0.5), (0.2, 0.05), (True, True), 0.9, (none, some)
    )
    likeness = metadata.Likeness(np.zeros(2, "f4"), np.eye(2, dtype="f4"), 2.5, 0.02, 300)
    facts = metadata.Facts(
        "cells", "fh-3c", 3, "small", 4, 300, ("a", "b"), plan.ImageSettings(8, 1, (0.5,), (0.2,)), "own",
        ("own: resnet20",), "fp32", (0.1, -0.1), {"own": {"accuracy": 0.9}}, calibration, likeness, {},
        "SHA256:x",
    )  # fmt: skip
    entry = _counted(0x0A, metadata.FACTS_NOTE.encode()) + _counted(0x12, facts.text().encode())
    return [b"\x08\x08" + _counted(0x3A, b"graph") + _counted(0x72, entry)]


def _counted(key: int, data: bytes) -> bytes:
    size, length = len(data), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([key]) + length + bytes([size]) + data


def _images() -> list[bytes]:
    artefacts = []
    for kind in picture.FORMATS:
        file = io.BytesIO()
        Image.new("L", (9, 7), 100).save(file, kind)
        artefacts.append(file.getvalue())
    return artefacts


def _segmentations() -> list[bytes]:
    """Masks of two classes, as bits and as numbers."""
    with tempfile.TemporaryDirectory() as folder:
        uids = dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"), "1.2.3")
        blank = {**dict.fromkeys(("PatientID", "PatientName"), ""), "Modality": "DX"}
        image = samples.dicom(Path(folder) / "image.dcm", np.zeros((8, 8), np.uint8), **uids, **blank)
        mask = np.arange(64, dtype=np.uint8).reshape(1, 8, 8) % 3
        return [
            series.segmentation(Path(folder) / "mask.dcm", [image], mask, kind=kind).read_bytes()
            for kind in ("BINARY", "LABELMAP")
        ]


def _lines() -> list[bytes]:
    return [data.split(b"\n")[1] for data in _parcels()]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "canon": _lines,
    "statement": _lines,
    "json": lambda: [*_lines(), '{"name":"Klinik Süd","rates":[0.5,1e-3,null,true]}'.encode()],
    "armor": lambda: [sshsig.sign(b"message", _SITE.sign, f"{kind}.v1.fedhelp-edge").encode() for kind in "ab"],
    "key-line": lambda: [_SITE.public.sign.encode()],
    "recipient": lambda: [_SITE.public.recipient.encode()],
    "age": lambda: [_encrypted(armor=False)],
    "age-text": lambda: [_encrypted(armor=True)],
    "safetensors": lambda: [_update()],
    "inside": _insides,
    "plan": lambda: [plan.template(METHODS).encode(), b'classes = ["a", "b"]\n[image]\nsize = 32\n'],
    "pack": _packs,
    "bundle": _bundles,
    "image": _images,
    "dicom": lambda: [bombs.dicom(None), bombs.dicom(None, syntax="1.2.840.10008.1.2.1.99")],
    "segmentation": _segmentations,
    "npz": lambda: [bombs.npz(images=bombs.IMAGES, labels=bombs.npy("(2,)", "<i8", bytes(16)))],
    "table": lambda: [b"path,label\na.png,a\n", 'Datei;Befund\n"a;b";ä\n'.encode("cp1252")],
    "look": _parcels,
    "open": _parcels,
    "seed": _seeds,
    "set": lambda: [json.dumps(parcels.set_body(seeds)).encode() for seeds in (_seeds(), [])],
}
