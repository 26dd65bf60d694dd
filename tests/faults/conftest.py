"""Failing machines: a full disk and a read-only folder. Both are real, and creating them needs root."""

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
    """Creates a real disk of so many KiB."""
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
        # A database object may still wait for garbage collection; a lazy unmount works at once.
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def without_root() -> tuple[str, ...]:
    """A prefix for commands with which file permissions apply even where the tests run as root."""
    if os.name == "nt":
        pytest.skip("Windows has no such permissions")
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root ignores permissions, and setpriv, which could drop that right, is missing")
    return WITHOUT_ROOTS_RIGHTS
