"""Machines that fail: a full disk, a folder that may not be written. Both are real, and need root to be made."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WITHOUT_ROOTS_RIGHTS = (
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a disk of so many KiB, of which a file can be no more than what is left."""
    disks: list[Path] = []

    def make(kib: int) -> Path:
        disk = tmp_path / f"disk{len(disks)}"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(disk)]
        if os.name == "nt" or shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
            pytest.skip("a disk of its own size can only be mounted by root on Linux")
        disks.append(disk)
        return disk

    yield make
    for disk in disks:
        # A database that nobody holds any more may still wait to be collected: lazily, the disk goes at once.
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def humble() -> tuple[str, ...]:
    """What stands before a command so that permissions hold for it, even where the tests run as root."""
    if os.name == "nt":
        pytest.skip("Windows has no such permissions")
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root ignores permissions, and setpriv is not here to take that right away")
    return WITHOUT_ROOTS_RIGHTS
