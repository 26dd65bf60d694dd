"""Decompression bombs: small files that need much memory or time, each valid enough for a decoder to start.

`python bombs.py FILE …` opens each in a process of its own, as the kit does, and prints the outcome.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 9400  # its square is just below the limit of pixels


# --- pictures --------------------------------------------------------------------------------------------------------
def png(width: int, height: int, depth: int, colour: int, row: int, before: bytes = b"") -> bytes:
    """A black PNG of rows of so many bytes."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zeros(height * (1 + row))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(size: int) -> bytes:
    """Compressed zeros as zlib writes them, without compressing each."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(size % (1 << 20))) + packer.flush()
    return b"\x78\xda" + block * (size >> 20) + rest + struct.pack(">HH", size % 65521, 1)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(width: int, height: int, tags: dict[int, tuple[int, ...]], data: bytes, pages: int = 1) -> bytes:
    """A TIFF whose pages all show the same data, which begin at byte 8."""
    tags = {256: (width,), 257: (height,), 258: (8,), 262: (1,), 277: (1,)} | tags
    arrays, where = b"", {}
    for tag, values in tags.items():
        if len(values) > 1:
            where[tag] = 8 + len(data) + len(arrays)
            arrays += np.asarray(values, "<u4").tobytes()
    begin = 8 + len(data) + len(arrays)
    entries = [
        struct.pack("<HHII", tag, 4, len(values), where.get(tag, values[0])) for tag, values in sorted(tags.items())
    ]
    size = 6 + 12 * len(entries)
    parts = [b"II*\0" + struct.pack("<I", begin) + data + arrays]
    for page in range(1, pages + 1):
        onward = struct.pack("<I", begin + page * size if page < pages else 0)
        parts += [struct.pack("<H", len(entries)), *entries, onward]
    return b"".join(parts)


def tiff_of_pages() -> bytes:
    return tiff(1, 1, {273: (8,), 278: (1,), 279: (1,)}, b"x", 40_000)


def tiff_of_one_strip() -> bytes:
    """Each row refers to the same megabytes, of which one byte is used."""
    data = zlib.compress(np.random.default_rng(0).bytes(1 << 21))
    strips = 60_000
    tags = {259: (8,), 273: (8,) * strips, 278: (1,), 279: (len(data),) * strips}
    return tiff(1, strips, tags, data)


def tiff_of_strips() -> bytes:
    """As many strips as fit into a few megabytes, each of one row and the same byte."""
    strips = 600_000
    return tiff(1, 65_535, {273: (8,) * strips, 278: (1,), 279: (1,)}, b"x")


def tiff_of_large_tiles() -> bytes:
    data = zlib.compress(bytes(1 << 24))
    tiles = 4096
    tags = {259: (8,), 322: (16,), 323: (1 << 20,), 324: (8,) * tiles, 325: (len(data),) * tiles}
    return tiff(65_535, 1, tags, data)


def jpeg_of_scans() -> bytes:
    """A progressive JPEG that repeats its first scan."""
    file = io.BytesIO()
    Image.new("L", (4000, 4000), 128).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    offset = content.index(b"\xff\xda")
    end = min(i for i in (content.find(b"\xff" + bytes([kind]), offset + 2) for kind in (0xC4, 0xDA, 0xD9)) if i > 0)
    return content[:end] + content[offset:end] * 300 + content[end:]


def png_of_profiles() -> bytes:
    """Each profile is a megabyte when decompressed."""
    return png(1, 1, 8, 0, 1, chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes((1 << 20) - 64), 9)) * 3000)


# --- DICOM -----------------------------------------------------------------------------------------------------------
def dicom(data: bytes | None, *, more: bytes = b"", syntax: str = "1.2.840.10008.1.2.1", side: int = 16) -> bytes:
    """Explicit, little endian; `data` is the value of its pixels with its length, none for plain black ones."""

    def short(group: int, element: int, kind: bytes, value: bytes) -> bytes:
        value += (b"\0" if kind == b"UI" else b" ") * (len(value) % 2)
        return struct.pack("<HH2sH", group, element, kind, len(value)) + value

    meta = short(2, 0x10, b"UI", syntax.encode())
    body = short(0x28, 2, b"US", b"\1\0") + short(0x28, 4, b"CS", b"MONOCHROME2")
    body += short(0x28, 0x10, b"US", struct.pack("<H", side)) + short(0x28, 0x11, b"US", struct.pack("<H", side))
    body += short(0x28, 0x100, b"US", b"\x08\0") + short(0x28, 0x101, b"US", b"\x08\0")
    body += short(0x28, 0x102, b"US", b"\x07\0") + short(0x28, 0x103, b"US", b"\0\0") + more
    pixels = data if data is not None else struct.pack("<I", side * side) + bytes(side * side)
    body += struct.pack("<HH2sH", 0x7FE0, 0x10, b"OB", 0) + pixels
    if syntax.endswith(".99"):
        packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        body = packer.compress(body) + packer.flush()
    return bytes(128) + b"DICM" + short(2, 0, b"UL", struct.pack("<I", len(meta))) + meta + body


def fragment(frame: bytes) -> bytes:
    """A compressed frame as the pixel value."""
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return b"\xff\xff\xff\xff" + struct.pack("<HHI", 0xFFFE, 0xE000, 0) + item + end


def elements(count: int) -> bytes:
    """Private elements, each with its own number."""
    return b"".join(struct.pack("<HH2sH", 0x29 + 2 * (i >> 15), 0x1000 + (i & 0x7FFF), b"US", 0) for i in range(count))


def dicom_of_elements() -> bytes:
    return dicom(None, more=elements(300_000))


def dicom_of_deflated_elements() -> bytes:
    return dicom(None, more=elements(300_000), syntax="1.2.840.10008.1.2.1.99")


def dicom_of_a_larger_jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("L", (SIDE, SIDE)).save(file, "JPEG")
    return dicom(fragment(file.getvalue() + b"\0" * (len(file.getvalue()) % 2)), syntax="1.2.840.10008.1.2.4.50")


def jpeg_with_another_size_before_its_own() -> bytes:
    """A marker without a length, whose length a careless reader takes from the next bytes: the real size is skipped."""
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(file, "JPEG")
    content, false_header = file.getvalue(), b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, 16, 16, 1) + b"\1\x11\0"
    note = b"\xff\xfe" + struct.pack(">H", 60_002) + bytes(60_000)
    before = content[:2] + b"\xff\xd0" + note + note[:4]
    padding = 2 + 2 + 0xFFFE - len(before)  # the careless reader, within the second note
    return before + bytes(padding) + false_header + bytes(60_000 - padding - len(false_header)) + content[2:]


def dicom_of_a_hidden_size() -> bytes:
    frame = jpeg_with_another_size_before_its_own()
    return dicom(fragment(frame + b"\0" * (len(frame) % 2)), syntax="1.2.840.10008.1.2.4.50")


def dicom_of_a_wavelet_behind_notes() -> bytes:
    """JPEG 2000 whose real size is behind a box with another one."""

    def box(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(data), kind) + data

    file = io.BytesIO()
    Image.new("L", (SIDE, SIDE)).save(file, "JPEG2000")
    content = file.getvalue()
    offset = content.index(b"jp2c") - 4
    false_header = b"\xff\x4f\xff\x51" + struct.pack(">HHIIII", 41, 0, 16, 16, 0, 0)
    frame = content[:offset] + box(b"free", false_header + bytes(400)) + content[offset:]
    return dicom(fragment(frame + b"\0" * (len(frame) % 2)), syntax="1.2.840.10008.1.2.4.90")


def dicom_of_scans() -> bytes:
    """Fewer scans than a JPEG may have, but too many for so many pixels."""
    file = io.BytesIO()
    side = 8000
    Image.new("L", (side, side), 128).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    offset = content.index(b"\xff\xda")
    end = min(i for i in (content.find(b"\xff" + bytes([kind]), offset + 2) for kind in (0xC4, 0xDA, 0xD9)) if i > 0)
    frame = content[:end] + content[offset:end] * 60 + content[end:]
    return dicom(fragment(frame + b"\0" * (len(frame) % 2)), syntax="1.2.840.10008.1.2.4.50", side=side)


def dicom_of_longer_runs() -> bytes:
    """An RLE frame of 256 bytes that becomes a gigabyte."""
    head = np.zeros(16, "<u4")
    head[:2] = 1, 64
    return dicom(fragment(head.tobytes() + b"\x81\0" * (8 << 20)), syntax="1.2.840.10008.1.2.5")


# --- arrays, tables, plans -------------------------------------------------------------------------------------------
def npy(shape: str, dtype: str, data: bytes = b"") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data


def npz(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def with_false_size(content: bytes, size: int) -> bytes:
    """The same NPZ with another size of its only member in the directory."""
    offset = content.index(b"PK\1\2")
    return content[: offset + 24] + struct.pack("<I", size) + content[offset + 28 :]


IMAGES = npy("(2, 4, 4)", "|u1", bytes(32))


def npz_of_rows() -> bytes:
    return npz(images=npy("(10000000000, 1, 1)", "|u1"))


def npz_of_rows_that_its_list_confirms() -> bytes:
    head = npy("(900000000, 1, 1)", "|u1")
    return with_false_size(npz(images=head), len(head) + 900_000_000)


def npz_of_labels() -> bytes:
    return npz(images=IMAGES, labels=npy("(60000000,)", "|i1", bytes(60_000_000)))


def npz_of_long_names() -> bytes:
    size = 15_000_000
    return npz(images=IMAGES, labels=npy("(2,)", "<i8", bytes(16)), groups=npy("(2,)", f"<U{size}", bytes(8 * size)))


def npz_of_a_header() -> bytes:
    size = 60_000_000
    return npz(images=b"\x93NUMPY\2\0" + struct.pack("<I", size) + b" " * size)


def npz_of_members() -> bytes:
    return npz(images=IMAGES, **{f"{i:0200}": b"" for i in range(5000)})


def table_of_columns() -> bytes:
    return b"path,label" + b",x" * 30_000 + b"\n" + b"a,b\n" * 30_000


def table_of_a_long_line() -> bytes:
    return b"path,label" + b"," * 100_000_000


def table_of_rows() -> bytes:
    return b"path,label\n" + b",\n" * 6_000_000


def plan_of_a_long_list() -> bytes:
    return b'classes = ["a", "b"]\nwrong = 1\nx = [\n' + b"1,\n" * 20_000 + b"]\n"


def plan_of_a_deep_key() -> bytes:
    return b'classes = ["a", "b"]\n' + b".".join([b"a"] * 31_000) + b" = 1\n"


ALL: dict[str, Callable[[], bytes]] = {
    "grey.png": lambda: png(SIDE, SIDE, 16, 0, 2 * SIDE),
    "clear.png": lambda: png(SIDE, SIDE, 8, 6, 4 * SIDE),
    "tall.png": lambda: png(1, SIDE * SIDE, 8, 0, 1),
    "pages.tif": tiff_of_pages,
    "strip.tif": tiff_of_one_strip,
    "strips.tif": tiff_of_strips,
    "tiles.tif": tiff_of_large_tiles,
    "scans.jpg": jpeg_of_scans,
    "elements.dcm": dicom_of_elements,
    "deflated.dcm": dicom_of_deflated_elements,
    "larger.dcm": dicom_of_a_larger_jpeg,
    "hidden.dcm": dicom_of_a_hidden_size,
    "wavelet.dcm": dicom_of_a_wavelet_behind_notes,
    "scans.dcm": dicom_of_scans,
    "runs.dcm": dicom_of_longer_runs,
    "rows.npz": npz_of_rows,
    "confirmed.npz": npz_of_rows_that_its_list_confirms,
    "labels.npz": npz_of_labels,
    "names.npz": npz_of_long_names,
    "header.npz": npz_of_a_header,
    "members.npz": npz_of_members,
    "columns.csv": table_of_columns,
    "line.csv": table_of_a_long_line,
    "rows.csv": table_of_rows,
    "list.toml": plan_of_a_long_list,
    "key.toml": plan_of_a_deep_key,
}


# --- opening them ----------------------------------------------------------------------------------------------------
def code_of(path: Path) -> str:
    """The error code of opening a file, or ""."""
    from fedhelp_edge import plan
    from fedhelp_edge.data import folder, npz, picture, table
    from fedhelp_edge.data import npz as data_npz
    from fedhelp_edge.errors import FedhelpError
    from fedhelp_edge.methods.registry import METHODS

    image = plan.ImageSettings(224, 3)
    try:
        with picture.without_warnings():
            if path.suffix == ".npz":
                for read in (data_npz.read_unlabelled, npz.read):
                    for _ in read(path, image).arrays([0]):
                        pass
            elif path.suffix == ".csv":
                table.read_sheet(path)
            elif path.suffix == ".toml":
                plan.load(path, METHODS)
            else:
                folder.decode(path, image)
    except FedhelpError as refused:
        return refused.code
    return ""


def open_in_process(path: Path, seconds: int, threads: int) -> dict[str, object]:
    """Opens a file in a process limited to 4 GB and so many seconds of CPU time; memory is in bytes."""
    import resource

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        codes: list[str] = []
        several = [threading.Thread(target=lambda: codes.append(code_of(path))) for _ in range(threads)]
        for each in several:
            each.start()
        for each in several:
            each.join()
        os.write(write, json.dumps(codes).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        output = pipe.read()
    used = os.wait4(child, 0)[2]
    codes = json.loads(output or "[]")
    return {"codes": codes, "seconds": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss << 10}


def main(paths: list[str], seconds: int = 60) -> Iterator[str]:
    for path in paths:
        name, _, threads = path.partition("*")
        yield json.dumps({"name": Path(name).name, **open_in_process(Path(name), seconds, int(threads or 1))})


if __name__ == "__main__":
    from fedhelp_edge.data import dicom as _dicom  # noqa: F401  (before the processes are made: each would read it)

    for line in main(sys.argv[1:]):
        print(line, flush=True)
