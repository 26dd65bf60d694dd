"""Where a result comes from: whatever another person needs to get it again, or to see why it cannot be got again."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import fedhelp_edge
from fedhelp_edge.cores import usable_cores
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array

_PACKAGES = ("numpy", "torch", "onnxruntime")
_PROC = Path("/proc/self")
_ON_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_ABSOLUTE = re.compile(r"(^|[=:,])((?:/(?!/)|[A-Za-z]:[\\/]|\\\\)[^,]*)")


def of_run(
    plan: Plan,
    sites: Sequence[SiteImages],
    pack: Pack | None,
    start: Sequence[Mapping[str, Array]],
    compute: Mapping[str, Any],
) -> dict[str, Any]:
    """The provenance of one run. `settings` are the plan's as they hold, with changes by `--set` and by name.

    `compute` says how this process computes.
    """
    settings = asdict(replace(plan, text=""))
    settings["tables"] = {plan.method: settings["tables"][plan.method]} if plan.method in settings["tables"] else {}
    return {
        "plan": plan.text,
        "settings": json.loads(json.dumps(settings)),  # as a file gives it back
        "data_sha256": data_hash(sites),
        "pack_sha256": pack_hash(pack) if pack else None,
        "start_sha256": [weights_hash(weights) for weights in start],
        "versions": versions(),
        "commit": commit(),
        "machine": {**machine(), **compute},
    }


def command(arguments: Sequence[str]) -> str:
    """The command line as typed, without the folders of this machine: the hashes say which files they were."""
    return shlex.join(["fedhelp-edge", *map(without_folders, arguments)])


def without_folders(argument: str) -> str:
    """An argument whose absolute paths are relative to the working folder, or else only names.

    A path may stand after an option or a kind: --data=/images.npz, matrix:/noise.csv.
    """
    return _ABSOLUTE.sub(lambda match: match[1] + _shortened(match[2]), argument)


def _shortened(path: str) -> str:
    pure = PureWindowsPath(path) if _ON_DRIVE.match(path) else PurePosixPath(path)
    working = type(pure)(Path.cwd())
    return pure.relative_to(working).as_posix() if pure.is_relative_to(working) else pure.name or pure.anchor


def data_hash(sites: Sequence[SiteImages]) -> str:
    """The hash of all decoded images with their site, tier, split and label, in order."""
    digest = hashlib.sha256()
    for site in sites:
        images = site.images
        digest.update(f"{site.id} {site.tier} {len(images)}\n{' '.join(images.splits)}\n".encode())
        digest.update(images.labels.astype("<i8").tobytes())
        for begin in range(0, len(images), 256):  # mapped images come into memory in parts
            digest.update(images.pictures[begin : begin + 256].tobytes())
            if images.masks is not None:
                digest.update(images.masks[begin : begin + 256].tobytes())
    return digest.hexdigest()


def pack_hash(pack: Pack) -> str:
    """The hash of a pack's images, labels and predictions, as the plan uses them."""
    digest = hashlib.sha256(pack.pixels.tobytes())
    digest.update(pack.labels.tobytes() + pack.probabilities.tobytes())
    return digest.hexdigest()


def weights_hash(weights: Mapping[str, Array]) -> str:
    """The hash of named tensors."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].dtype.str} {weights[name].shape}\n".encode() + weights[name].tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """The versions of this program, of Python, and of the packages that compute."""
    known = {"fedhelp-edge": fedhelp_edge.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            continue
    return known


def commit() -> str | None:
    """The commit of the checkout that this program runs from, with + where files differ from it; None: no checkout."""
    root, git = Path(fedhelp_edge.__file__).parents[1], shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    try:
        head, changes = (
            subprocess.run(
                [git, "-C", str(root), *arguments], capture_output=True, text=True, timeout=60, check=True
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changes else "")


def machine() -> dict[str, Any]:
    """The processor and the number of its cores that this process may use."""
    names = [""]
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "system": platform.system(),
        "processor": next(iter(names), "") or platform.processor() or platform.machine(),
        "cores": usable_cores(),
    }


def reset_peak_memory() -> None:
    """Begins a new measurement of the peak, where the system can: Linux."""
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError:
        return


def peak_memory() -> int | None:
    """The most bytes of memory that this process held since the reset (elsewhere than on Linux: since it began)."""
    try:
        lines = (_PROC / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
