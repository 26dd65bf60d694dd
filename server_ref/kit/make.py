"""Making a kit: for a system and a Python that are not this machine's, with the versions that this machine has.

pip judges the conditions of a requirement ("only on Windows") by the machine that it runs on, whatever platform it
fetches for. So what a kit must hold is worked out here, from the wheels themselves, and pip only fetches.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email import message_from_bytes
from importlib import metadata, resources
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from fedhelp_edge import files
from fedhelp_edge.errors import KitIncompleteError, TargetExistsError, UsageError
from fedhelp_edge.parcel import kit
from server_ref.kit import leaflet

OWN = "fedhelp-edge"
_PACKAGES = ("fedhelp_edge", "server_ref", "export")
_EPOCH = (2020, 1, 1, 0, 0, 0)  # of all files in our wheel: the same code makes the same bytes

Say = Callable[[str], None]


@dataclass(frozen=True)
class System:
    tags: tuple[str, ...]  # wheels that run there
    name: str  # as Python calls it
    machine: str
    facts: dict[str, str]  # what conditions of requirements ask for

    def environment(self, python: str, extra: str) -> dict[str, str]:
        return {
            "python_version": python, "python_full_version": f"{python}.0", "implementation_name": "cpython",
            "platform_python_implementation": "CPython", "sys_platform": self.name, "platform_machine": self.machine,
            "platform_release": "", "platform_version": "", "extra": extra, **self.facts,
        }  # fmt: skip


SYSTEMS = {
    "win_amd64": System(("win_amd64",), "win32", "AMD64", {"platform_system": "Windows", "os_name": "nt"}),
    "manylinux_2_28_x86_64": System(
        (*(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)), "manylinux2014_x86_64", "manylinux1_x86_64"),
        "linux", "x86_64", {"platform_system": "Linux", "os_name": "posix"},
    ),
    "macosx_14_0_arm64": System(
        ("macosx_14_0_arm64",), "darwin", "arm64", {"platform_system": "Darwin", "os_name": "posix"}
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    wheels: int
    size: int  # bytes
    fingerprint: str


def make(
    platform: str, out: Path, say: Say, *, python: str = "", train: bool = False, invite: Path | None = None,
    sign: Callable[[bytes], str] | None = None,
) -> Made:  # fmt: skip
    """A kit in a new folder. `python` is the version there, by default this machine's; `sign` signs its installer."""
    if platform not in SYSTEMS:
        raise UsageError(f"a platform is one of {', '.join(SYSTEMS)}, not {platform!r}")
    if out.exists() and any(out.iterdir()):
        raise TargetExistsError(f"{out.name} is in use already")
    python = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    wheels = out / "wheels"
    wheels.mkdir(parents=True)
    try:
        own_wheel(wheels)
        collect([f"{OWN}[train]" if train else OWN, "pip"], SYSTEMS[platform], python, wheels, say)
        return _finish(out, platform, python, train, invite, sign)
    except BaseException:
        shutil.rmtree(out)
        raise


def _finish(
    out: Path, platform: str, python: str, train: bool, invite: Path | None, sign: Callable[[bytes], str] | None
) -> Made:
    """All but the wheels: the installer names a list, which names every other file that is used."""
    system = SYSTEMS[platform]
    wheels = {f"wheels/{path.name}": path.read_bytes() for path in sorted((out / "wheels").iterdir())}
    facts = {"python": python, "system": system.name, "machine": system.machine}
    used = {"requirements.txt": _requirements(wheels), "kit.json": json.dumps(facts).encode()}
    if invite:
        used[invite.name] = invite.read_bytes()
    listed = "".join(f"{_sha256(data)}  {name}\n" for name, data in {**used, **wheels}.items()).encode()
    installer = resources.files(__package__).joinpath("install.py").read_text("utf-8")
    texts = {**used, kit.LIST: listed, kit.INSTALLER: kit.naming(installer, _sha256(listed)).encode()}
    if sign:
        texts[kit.SIGNATURE] = sign(texts[kit.INSTALLER]).encode()
    size = sum(map(len, wheels.values()))
    made = Made(len(wheels), size, kit.fingerprint(texts[kit.INSTALLER]))
    picture = invite and invite.with_name(f"{invite.name}.png")
    if picture and picture.exists():
        texts[picture.name] = picture.read_bytes()
    name = invite.name if invite else ""
    about = leaflet.About(system.name, python, train, size, _sha256(texts[kit.INSTALLER]), name, bool(sign))
    texts["leaflet.html"] = leaflet.page(about).encode()
    for name, data in texts.items():
        with files.writing(out / name, private=False) as file:
            file.write(data)
    return made


def _requirements(wheels: Mapping[str, bytes]) -> bytes:
    """What pip installs, each by its hash; pip itself is run, not installed."""
    rows = [(*parse_wheel_filename(name.partition("/")[2])[:2], _sha256(data)) for name, data in wheels.items()]
    return "".join(
        f"{name}=={version} --hash=sha256:{digest}\n" for name, version, digest in rows if name != "pip"
    ).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- wheels ---------------------------------------------------------------------------------------------------------
def collect(roots: Iterable[str], system: System, python: str, wheels: Path, say: Say) -> None:
    """Fetch whatever the roots need there, and what that needs, until nothing is missing."""
    while True:
        needed = _needed(list(roots), system, python, wheels)
        held = _held(wheels)
        missing = {name: wanted for name, wanted in needed.items() if name not in held}
        if not missing:
            break
        say(f"fetching {len(missing)} packages: {', '.join(sorted(missing))}")
        _fetch([_pinned(name, wanted) for name, wanted in sorted(missing.items())], system, python, wheels)
    for name, wanted in needed.items():
        version = parse_wheel_filename(held[name].name)[1]
        for one in wanted:
            if not one.specifier.contains(version, prereleases=True):
                raise KitIncompleteError(f"{name} {version} came, where {one} is needed")


def _needed(roots: list[str], system: System, python: str, wheels: Path) -> dict[str, list[Requirement]]:
    """Every package that is reached from the roots, as far as the wheels are here, and who wants what of it."""
    held, needed = _held(wheels), defaultdict[str, list[Requirement]](list)
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(root) for root in roots]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        needed[name].append(wanted)
        for extra in {"", *wanted.extras} if name in held else ():
            if (name, extra) not in seen:
                seen.add((name, extra))
                there = system.environment(python, extra)
                waiting += [one for one in _requires(held[name]) if not one.marker or one.marker.evaluate(there)]
    return needed


def _held(wheels: Path) -> dict[str, Path]:
    return {str(parse_wheel_filename(path.name)[0]): path for path in wheels.glob("*.whl")}


def _requires(wheel: Path) -> Iterator[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        for text in message_from_bytes(archive.read(name)).get_all("Requires-Dist", ()):
            yield Requirement(text)


def _pinned(name: str, wanted: list[Requirement]) -> str:
    """The version that is installed here, for that is the one that was tried; else what is asked for."""
    try:
        return f"{name}=={Version(metadata.version(name)).public}"
    except metadata.PackageNotFoundError:
        return f"{name}{','.join(sorted({str(one.specifier) for one in wanted} - {''}))}"


def _fetch(wanted: list[str], system: System, python: str, wheels: Path) -> None:
    tags = [word for tag in system.tags for word in ("--platform", tag)]
    abis = [word for abi in (f"cp{python.replace('.', '')}", "abi3", "none") for word in ("--abi", abi)]
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--only-binary=:all:", "--implementation", "cp", "--python-version", python, *abis, *tags,
            "--dest", str(wheels), *wanted,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        faults = [line[7:] for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise KitIncompleteError(f"pip could not fetch everything: {faults[-1] if faults else 'it does not start'}")


def own_wheel(into: Path) -> Path:
    """This program as a wheel, made of its own files as they are installed here."""
    known = metadata.distribution(OWN)
    stem = f"{OWN.replace('-', '_')}-{known.version}"
    info = f"{stem}.dist-info"
    held = {f"{info}/METADATA": (known.read_text("METADATA") or "").encode()}
    held[f"{info}/entry_points.txt"] = (known.read_text("entry_points.txt") or "").encode()
    held[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: fedhelp-edge\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    for name in known.metadata.get_all("License-File") or ():
        held[f"{info}/licenses/{name}"] = (known.read_text(f"licenses/{name}") or "").encode()
    for package in _PACKAGES:
        found = importlib.util.find_spec(package)
        assert found  # noqa: S101 - they are this program
        assert found.submodule_search_locations  # noqa: S101
        root = Path(found.submodule_search_locations[0])
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                held[f"{package}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    text = io.StringIO()
    record = csv.writer(text, lineterminator="\n")
    for name, data in held.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.writerow((name, f"sha256={digest}", len(data)))
    record.writerow((f"{info}/RECORD", "", ""))
    held[f"{info}/RECORD"] = text.getvalue().encode()
    wheel = into / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in held.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return wheel
