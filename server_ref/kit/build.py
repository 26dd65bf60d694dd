"""Builds a kit for another system and Python, with the package versions of this machine.

pip evaluates the marker of a requirement ("only on Windows") for the machine that it runs on, even when it downloads
for another platform. So this module resolves the requirements itself, from the wheels, and pip only downloads.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
import json
import re
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
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from fedhelp_edge import files
from fedhelp_edge.errors import KitIncompleteError, TargetExistsError, UsageError
from fedhelp_edge.parcel import kit
from server_ref.admin import invites
from server_ref.kit import leaflet

PACKAGE_NAME = "fedhelp-edge"
_PACKAGES = ("fedhelp_edge", "server_ref", "export")
_UNFINISHED = "unfinished-kit"  # a file in a kit that is not complete yet
_FIXED_TIME = (2020, 1, 1, 0, 0, 0)  # of every file in our own wheel, so that the same code gives the same bytes

Notify = Callable[[str], None]  # tells a person about progress


@dataclass(frozen=True)
class TargetSystem:
    """A system that kits are built for."""

    tags: tuple[str, ...]  # the platform tags of wheels that run there
    name: str  # as sys.platform
    machine: str  # as platform.machine()
    markers: dict[str, str]  # further values for the markers of requirements

    def environment(self, python: str, extra: str) -> dict[str, str]:
        """The environment for which markers are evaluated."""
        return {
            "python_version": python, "python_full_version": f"{python}.0", "implementation_name": "cpython",
            "platform_python_implementation": "CPython", "sys_platform": self.name, "platform_machine": self.machine,
            "platform_release": "", "platform_version": "", "extra": extra, **self.markers,
        }  # fmt: skip


SYSTEMS = {
    "win_amd64": TargetSystem(("win_amd64",), "win32", "AMD64", {"platform_system": "Windows", "os_name": "nt"}),
    "manylinux_2_28_x86_64": TargetSystem(
        (*(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)), "manylinux2014_x86_64", "manylinux1_x86_64"),
        "linux", "x86_64", {"platform_system": "Linux", "os_name": "posix"},
    ),
    "macosx_14_0_arm64": TargetSystem(
        ("macosx_14_0_arm64",), "darwin", "arm64", {"platform_system": "Darwin", "os_name": "posix"}
    ),
}  # fmt: skip


@dataclass(frozen=True)
class BuiltKit:
    """What is printed about a new kit, also as JSON."""

    wheels: int  # how many
    size: int  # bytes
    fingerprint: str


def build_kit(
    platform: str, out: Path, notify: Notify, *, python: str = "", train: bool = False, invite: Path | None = None,
    sign: Callable[[bytes], str] | None = None,
) -> BuiltKit:  # fmt: skip
    """Build a kit in a new folder.

    `python` is the site's version, by default this machine's; `sign` signs the installer. An error leaves no folder.
    A stick that is pulled out afterwards has all of it: the mark of an unfinished kit goes once everything is flushed.
    """
    check_request(platform, out, python, invite)
    python = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    _remove(out)  # empty, or what an interrupted attempt left
    wheels = out / "wheels"
    out.mkdir(parents=True)
    (out / _UNFINISHED).touch()
    files.sync_folder(out)
    wheels.mkdir()
    try:
        build_own_wheel(wheels)
        fetch_wheels(
            [f"{PACKAGE_NAME}[train]" if train else PACKAGE_NAME, "pip"], SYSTEMS[platform], python, wheels, notify
        )
        built = _write_kit(out, platform, python, train, invite, sign)
        files.sync_tree(out)
        files.sync_folder(out.parent)
        (out / _UNFINISHED).unlink()
        files.sync_folder(out)
    except BaseException:
        _remove(out)
        raise
    return built


def _remove(out: Path) -> None:
    """Remove a kit that is not complete. What is left of it, if this is interrupted, still says so."""
    for path in out.glob("*"):
        if path.name == "wheels":
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _UNFINISHED:
            path.unlink(missing_ok=True)
    shutil.rmtree(out, ignore_errors=True)


def check_request(platform: str, out: Path, python: str, invite: Path | None) -> None:
    """Raise if a kit cannot be built so. Call it before anybody types a passphrase or waits for a download."""
    if platform not in SYSTEMS:
        raise UsageError(f"the platform must be one of {', '.join(SYSTEMS)}, not {platform!r}")
    supported = SpecifierSet(metadata.metadata(PACKAGE_NAME)["Requires-Python"])
    if python and not (re.fullmatch(r"3\.\d{1,2}", python) and python in supported):
        raise UsageError(f"the site's Python must be {supported}, such as 3.12, not {python!r}")
    if invite:
        invites.check_file(invite)
    if out.exists() and any(out.iterdir()) and not (out / _UNFINISHED).exists():
        raise TargetExistsError(f"{out.name} is in use already")


def _write_kit(
    out: Path, platform: str, python: str, train: bool, invite: Path | None, sign: Callable[[bytes], str] | None
) -> BuiltKit:
    """Write all but the wheels. The installer holds the hash of a list, which holds the hash of each other file."""
    system = SYSTEMS[platform]
    wheels = {f"wheels/{path.name}": path.read_bytes() for path in sorted((out / "wheels").iterdir())}
    kit_facts = {"python": python, "system": system.name, "machine": system.machine}
    checked_files = {"requirements.txt": _requirements(wheels), "kit.json": json.dumps(kit_facts).encode()}
    invite_name = ""
    if invite:  # under a name that nobody need quote, and that the installer finds
        invite_name = re.sub(r"[^\w.-]+", "-", invite.name.removesuffix(".invite")) + ".invite"
        checked_files[invite_name] = invite.read_bytes()
    checksums = "".join(f"{_sha256(data)}  {name}\n" for name, data in {**checked_files, **wheels}.items()).encode()
    installer = resources.files(__package__).joinpath("install.py").read_text("utf-8")
    contents = {
        **checked_files,
        kit.CHECKSUMS: checksums,
        kit.INSTALLER: kit.with_list_hash(installer, _sha256(checksums)).encode(),
    }
    if sign:
        contents[kit.SIGNATURE] = sign(contents[kit.INSTALLER]).encode()
    size = sum(map(len, wheels.values()))
    built = BuiltKit(len(wheels), size, kit.fingerprint(contents[kit.INSTALLER]))
    qr_path = invite and invite.with_name(f"{invite.name}.png")
    if qr_path and qr_path.exists():
        contents[f"{invite_name}.png"] = qr_path.read_bytes()
    leaflet_facts = leaflet.LeafletFacts(
        system.name, python, train, size, _sha256(contents[kit.INSTALLER]), invite_name, bool(sign)
    )
    contents["leaflet.html"] = leaflet.page(leaflet_facts).encode()
    for name, data in contents.items():
        with files.writing(out / name, private=False) as file:
            file.write(data)
    return built


def _requirements(wheels: Mapping[str, bytes]) -> bytes:
    """A requirements file with the hash of each wheel. pip is left out: the installer runs it without installing it."""
    rows = [(*parse_wheel_filename(name.partition("/")[2])[:2], _sha256(data)) for name, data in wheels.items()]
    return "".join(
        f"{name}=={version} --hash=sha256:{digest}\n" for name, version, digest in rows if name != "pip"
    ).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- wheels ---------------------------------------------------------------------------------------------------------
def fetch_wheels(roots: Iterable[str], system: TargetSystem, python: str, wheels: Path, notify: Notify) -> None:
    """Download the wheels that the roots need on a system, with all their dependencies."""
    while True:
        required = _resolve(list(roots), system, python, wheels)
        present = _wheels_by_name(wheels)
        missing = {name: requirements for name, requirements in required.items() if name not in present}
        if not missing:
            break
        notify(f"fetching {len(missing)} packages: {', '.join(sorted(missing))}")
        _download([_pin(name, requirements) for name, requirements in sorted(missing.items())], system, python, wheels)
    for name, requirements in required.items():
        version = parse_wheel_filename(present[name].name)[1]
        for requirement in requirements:
            if not requirement.specifier.contains(version, prereleases=True):
                raise KitIncompleteError(f"pip fetched {name} {version}, but {requirement} is needed")


def _resolve(roots: list[str], system: TargetSystem, python: str, wheels: Path) -> dict[str, list[Requirement]]:
    """By package, all requirements that the roots and their dependencies have for it, as far as the wheels are here."""
    present, required = _wheels_by_name(wheels), defaultdict[str, list[Requirement]](list)
    seen: set[tuple[str, str]] = set()
    queue = [Requirement(root) for root in roots]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        required[name].append(requirement)
        for extra in {"", *requirement.extras} if name in present else ():
            if (name, extra) not in seen:
                seen.add((name, extra))
                environment = system.environment(python, extra)
                queue += [
                    dependency
                    for dependency in _read_requirements(present[name])
                    if not dependency.marker or dependency.marker.evaluate(environment)
                ]
    return required


def _wheels_by_name(wheels: Path) -> dict[str, Path]:
    return {str(parse_wheel_filename(path.name)[0]): path for path in wheels.glob("*.whl")}


def _read_requirements(wheel: Path) -> Iterator[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        for text in message_from_bytes(archive.read(name)).get_all("Requires-Dist", ()):
            yield Requirement(text)


def _pin(name: str, requirements: list[Requirement]) -> str:
    """A requirement for the version that is installed, and so tested, here; or else for what is required."""
    try:
        return f"{name}=={Version(metadata.version(name)).public}"
    except metadata.PackageNotFoundError:
        return f"{name}{','.join(sorted({str(requirement.specifier) for requirement in requirements} - {''}))}"


def _download(requirements: list[str], system: TargetSystem, python: str, wheels: Path) -> None:
    tags = [argument for tag in system.tags for argument in ("--platform", tag)]
    abis = [argument for abi in (f"cp{python.replace('.', '')}", "abi3", "none") for argument in ("--abi", abi)]
    result = subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--only-binary=:all:", "--implementation", "cp", "--python-version", python, *abis, *tags,
            "--dest", str(wheels), *requirements,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        errors = [line[7:] for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
        raise KitIncompleteError(f"pip could not fetch everything: {errors[-1] if errors else 'it does not start'}")


def build_own_wheel(folder: Path) -> Path:
    """Build a wheel of this program from its own files, as they are installed here."""
    distribution = metadata.distribution(PACKAGE_NAME)
    stem = f"{PACKAGE_NAME.replace('-', '_')}-{distribution.version}"
    info = f"{stem}.dist-info"
    contents = {f"{info}/METADATA": (distribution.read_text("METADATA") or "").encode()}
    contents[f"{info}/entry_points.txt"] = (distribution.read_text("entry_points.txt") or "").encode()
    contents[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: fedhelp-edge\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    for name in distribution.metadata.get_all("License-File") or ():
        contents[f"{info}/licenses/{name}"] = (distribution.read_text(f"licenses/{name}") or "").encode()
    for package in _PACKAGES:
        package_spec = importlib.util.find_spec(package)
        assert package_spec  # noqa: S101 - the packages are this program
        assert package_spec.submodule_search_locations  # noqa: S101
        root = Path(package_spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                contents[f"{package}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    record_text = io.StringIO()
    record_writer = csv.writer(record_text, lineterminator="\n")
    for name, data in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record_writer.writerow((name, f"sha256={digest}", len(data)))
    record_writer.writerow((f"{info}/RECORD", "", ""))
    contents[f"{info}/RECORD"] = record_text.getvalue().encode()
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _FIXED_TIME), data, zipfile.ZIP_DEFLATED)
    return wheel
