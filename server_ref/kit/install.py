"""Install fedhelp-edge from this folder, without internet: python install.py [FOLDER]

It needs nothing but Python itself, and changes nothing outside the folder that it makes.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
KIT = json.loads((HERE / "kit.json").read_text("utf-8"))


def main() -> int:
    python = "{}.{}".format(*sys.version_info)
    if python != KIT["python"] or sys.maxsize < 2**32:
        return refuse(f"this is Python {python}", f"install the 64-bit Python {KIT['python']}, then start this again")
    if (sys.platform, platform.machine()) != (KIT["system"], KIT["machine"]):
        return refuse("this kit is for another kind of computer", "ask for one for " + platform.platform())
    listed = (HERE / "requirements.txt").read_bytes()
    digest = hashlib.sha256(listed).hexdigest()[:32]
    print("this kit:", " ".join(digest[at : at + 4] for at in range(0, 32, 4)))
    print("compare with the leaflet, or by phone; if it differs, stop here with Ctrl-C", flush=True)
    where = Path(sys.argv[1] if len(sys.argv) > 1 else Path.home() / "fedhelp-edge").absolute()
    if not (where / "pyvenv.cfg").exists():
        venv.create(where, with_pip=False, symlinks=os.name != "nt")
    programs = where / ("Scripts" if os.name == "nt" else "bin")
    pip = next((HERE / "wheels").glob("pip-*.whl")) / "pip"
    words = ["install", "--isolated", "--no-index", "--find-links", str(HERE / "wheels"), "--require-hashes"]
    words += ["--disable-pip-version-check", "--no-warn-script-location", "--quiet"]
    if subprocess.call([programs / "python", pip, *words, "-r", HERE / "requirements.txt"]):
        return refuse("a file of the kit is damaged or missing", "copy the kit again, and start this again")
    print(f"installed in {where}", flush=True)
    edge = programs / "fedhelp-edge"
    subprocess.call([edge, "doctor"])
    invite = next(HERE.glob("*.invite"), "INVITE")
    print(f"next: {edge} join {invite}")
    return 0


def refuse(cause: str, remedy: str) -> int:
    print(f"error: {cause}\nhint: {remedy}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
