"""Sealing and opening a parcel, beside pyrage's file functions with an Ed25519 signature over the file's digest.

Both write the private file, sign it, and read it back into a plain file after checking the signature. Ours also checks
the statement, binds the inside to the outside, and verifies everything before it releases the first byte. Both flush
the sealed file and its folder to the disk: pyrage does not, so it is done for it here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pyrage

from benchmarks import interleaved, peak_mb, report
from fedhelp_edge.nets import spec
from fedhelp_edge.nets.spec import Form
from fedhelp_edge.parcel import keys, parcel, sshsig, statement

MB = 1_000_000
NO_HASH = statement.ZERO_HASH


def update_context(public: keys.PublicKeys) -> dict[str, object]:
    signer = sshsig.fingerprint(public.sign)
    return statement.new_context(
        "update", federation=f"fh-{'0' * 32}", round=1, task=NO_HASH, base=NO_HASH, sender="site-001",
        sender_key=signer, recipients=[public.recipient], seq=1,
    )  # fmt: skip


def digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


class SealingBenchmark:
    def __init__(self, folder: Path, size: int) -> None:
        self.who = keys.generate()
        self.public = self.who.public
        self.plain, self.ours, self.theirs = folder / "plain", folder / "ours.fhx", folder / "theirs.age"
        self.out, self.signature = folder / "out", b""
        with self.plain.open("wb") as file:
            for _ in range(0, size, MB):
                file.write(os.urandom(min(MB, size)))
        self.recipient = pyrage.x25519.Recipient.from_str(self.public.recipient)
        self.identity = pyrage.x25519.Identity.from_str(self.who.identity)

    def seal(self) -> None:
        self.ours.unlink(missing_ok=True)
        with self.plain.open("rb") as file:
            parcel.seal(self.ours, update_context(self.public), file, self.who.sign, [self.public.recipient])

    def pyrage_seal(self) -> None:
        self.theirs.unlink(missing_ok=True)
        pyrage.encrypt_file(str(self.plain), str(self.theirs), [self.recipient])
        for path in (self.theirs, self.theirs.parent):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        self.signature = self.who.sign.sign(digest(self.theirs))

    def open(self) -> None:
        with parcel.open(self.ours, parcel.any_signer, [self.who.identity]) as opened, self.out.open("wb") as out:
            shutil.copyfileobj(opened.body, out, 1 << 16)

    def pyrage_open(self) -> None:
        self.who.sign.public_key().verify(self.signature, digest(self.theirs))
        self.out.unlink(missing_ok=True)
        pyrage.decrypt_file(str(self.theirs), str(self.out), [self.identity])


def main() -> None:
    if sys.argv[1:2] == ["--once"]:  # for the measurement of memory
        with tempfile.TemporaryDirectory() as folder:
            bench = SealingBenchmark(Path(folder), int(sys.argv[2]) * MB)
            bench.seal()
            bench.open()
        return
    short = "--short" in sys.argv
    for megabytes in (1, 7) if short else (1, 7, 100):
        with tempfile.TemporaryDirectory() as folder:
            bench = SealingBenchmark(Path(folder), megabytes * MB)
            contestants = {"seal": bench.seal, "pyrage_seal": bench.pyrage_seal}
            contestants |= {"open": bench.open, "pyrage_open": bench.pyrage_open}
            seconds = interleaved(contestants, 5 if short else 15)
            report(
                f"sealing and opening {megabytes} MB, milliseconds",
                ("cryptography", "pyrage"),
                **{name: round(value * 1000, 2) for name, value in seconds.items()},
                seal_ratio=round(seconds["seal"] / seconds["pyrage_seal"], 2),
                open_ratio=round(seconds["open"] / seconds["pyrage_open"], 2),
                aim_ratio=1.5,
                peak_memory_mb=round(peak_mb("benchmarks.sealing", "--once", str(megabytes)), 1),
            )
    with tempfile.TemporaryDirectory() as folder:
        size = spec.schema("resnet20", Form(8, 3)).size
        bench = SealingBenchmark(Path(folder), size)
        bench.plain.write_bytes(os.urandom(size))
        bench.seal()
        overhead = bench.ours.stat().st_size - size
        report("bytes around a ResNet20 share", (), share=size, overhead=overhead, aim_overhead=2000)


if __name__ == "__main__":
    main()
