"""Install fedhelp-edge from this kit, without internet: python -I KIT/install.py [FOLDER]

Before you start this file, compare its SHA-256 with the leaflet, which says how. This file checks every other file of
the kit; only you can check this one. It needs nothing but Python, and changes nothing outside the folder that it
creates.
"""

import sys

if not sys.flags.isolated:
    del sys.path[0]  # this folder: no module in it can replace one of Python's own

import hashlib
import json
import os
import platform
import subprocess
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIST = "SHA256SUMS"
LIST_SHA256 = ""  # filled in when a kit is built


def main() -> int:
    """Check the kit and this computer, then install. Returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        kit = Path(folder)  # checked copies, because files on a stick can change meanwhile
        try:
            copy_checked(kit)
        except (OSError, ValueError) as error:
            return report_error(
                f"{error} is damaged, missing or not part of this kit", "copy the kit again, or phone the coordinator"
            )
        facts = json.loads((kit / "kit.json").read_text("utf-8"))
        python = "{}.{}".format(*sys.version_info)
        if python != facts["python"] or sys.maxsize < 2**32:
            remedy = f"install the 64-bit Python {facts['python']}, then start this again"
            return report_error(f"this is Python {python}", remedy)
        if (sys.platform, platform.machine()) != (facts["system"], facts["machine"]):
            return report_error("this kit is for another kind of computer", "ask for one for " + platform.platform())
        return install(kit, Path(sys.argv[1] if len(sys.argv) > 1 else Path.home() / "fedhelp-edge").absolute())


def copy_checked(kit: Path) -> None:
    """Copy every file of the list. Raises the name of the first file whose hash differs."""
    checksums = read_checked(LIST, LIST_SHA256)
    for line in checksums.decode("utf-8").splitlines():
        digest, _, name = line.partition("  ")
        target = kit / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(read_checked(name, digest))


def read_checked(name: str, digest: str) -> bytes:
    """Read a file of the kit. Raises its name if its hash differs."""
    try:
        data = (HERE / name).read_bytes()
    except OSError as error:
        raise OSError(name) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(name)
    return data


def install(kit: Path, target: Path) -> int:
    """Create a virtual environment and install the kit's packages, each by its hash."""
    if not (target / "pyvenv.cfg").exists():
        venv.create(target, with_pip=False, symlinks=os.name != "nt")
    programs = target / ("Scripts" if os.name == "nt" else "bin")
    pip = next((kit / "wheels").glob("pip-*.whl")) / "pip"
    arguments = ["install", "--isolated", "--no-index", "--find-links", str(kit / "wheels"), "--require-hashes"]
    arguments += ["--disable-pip-version-check", "--no-warn-script-location", "--quiet"]
    if subprocess.call([programs / "python", "-I", pip, *arguments, "-r", kit / "requirements.txt"]):
        return report_error(
            "the packages cannot be installed", "free some space, or name another folder after install.py"
        )
    print(f"installed in {target}", flush=True)
    program = programs / "fedhelp-edge"
    subprocess.call([program, "doctor"])
    invite = next((HERE / path.name for path in kit.glob("*.invite")), "INVITE")
    print(f"next: {quoted(program)} join {quoted(invite)}")
    return 0


def quoted(path: object) -> str:
    return f'"{path}"' if " " in str(path) else str(path)


def report_error(cause: str, remedy: str) -> int:
    print(f"error: {cause}\nhint: {remedy}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
