"""The kit's leaflet: one page to print, for the person who installs it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fedhelp_edge.report import pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import visible_html

_SYSTEMS = {"win32": "Windows", "linux": "Linux", "darwin": "macOS"}
_OPEN_TERMINAL = {
    "win32": "Press the Windows key, type cmd, and press Enter.",
    "linux": "Open a terminal.",
    "darwin": "Open Terminal (Cmd and space, then type Terminal).",
}
_HASH_COMMAND = {"win32": "certutil -hashfile", "linux": "sha256sum", "darwin": "shasum -a 256"}
_STYLE = "li { margin: .6em 0 } code { font-size: 1.05em; font-weight: bold }"


@dataclass(frozen=True)
class LeafletFacts:
    """What a leaflet says about its kit."""

    system: str  # as sys.platform
    python: str
    train: bool
    size: int  # bytes
    installer: str  # the SHA-256 of install.py
    invite: str  # the file's name, or empty
    signed: bool


def page(facts: LeafletFacts) -> str:
    """The leaflet as HTML."""
    windows = facts.system == "win32"
    kit, slash = ("E:\\kit", "\\") if windows else ("/media/stick/kit", "/")
    installer = f"{kit}{slash}install.py"
    program = (  # in quotes, because a user's name may have a space
        '"%USERPROFILE%\\fedhelp-edge\\Scripts\\fedhelp-edge"' if windows else "~/fedhelp-edge/bin/fedhelp-edge"
    )
    steps = [
        f"This computer needs the 64-bit Python {facts.python}. It is free, from python.org. Without internet, bring "
        "its installer on the same stick.",
        f"{_OPEN_TERMINAL[facts.system]} Do not change to the kit's folder: a program in it could start by mistake. "
        f"In the commands below, replace {kit} with the kit's folder on this computer.",
        f"Type: `{_HASH_COMMAND[facts.system]} {installer}{' SHA256' if windows else ''}` and press Enter. It must "
        f"show {facts.installer}. Compare at least the first 32 characters: {group_digits(facts.installer)}. If one "
        "differs, stop and phone the coordinator.",
        f"Type: `{'py -' if windows else 'python'}{facts.python} -I {installer}` and press Enter. It checks "
        "every other file of the kit and installs the program. This takes some minutes and needs no internet.",
        f"To join, type: `{program} join {kit}{slash}{facts.invite or 'INVITE'} --via FOLDER` with the stick as FOLDER"
        + ("." if facts.invite else "; the coordinator gives you the invite."),
        "Write the five words of the passphrase on paper. The program then shows eight other words. The coordinator "
        "phones you and compares them with you.",
        f"Take the stick back to the coordinator. Later, `{program} status` always says what to do next.",
    ]
    if facts.signed:
        known = f"If fedhelp-edge is installed here and has joined, type: `{program} inspect {kit}` and press Enter."
        steps.insert(2, f"{known} It says whether the coordinator made this kit. If so, skip the next step.")
    purpose = "trains and diagnoses" if facts.train else "diagnoses; it does not train"
    return pages.page(
        "Install fedhelp-edge without internet",
        pages.paragraph(
            f"For {_SYSTEMS[facts.system]}. This computer then {purpose}. {facts.size / 1e6:.0f} MB to install from."
        ),
        Html("<ol>" + "".join(f"<li>{_with_commands(step)}</li>" for step in steps) + "</ol>"),
        pages.paragraph(
            "Images stay on this computer. The program sends only files that the coordinator alone can open."
        ),
        style=_STYLE,
    )


def _with_commands(step: str) -> str:
    """A step as HTML; a command between backticks stands out."""
    return re.sub(r"`(.+?)`", r"<code>\1</code>", visible_html(step))


def group_digits(digest: str) -> str:
    """The first half of a hexadecimal hash, in groups of four."""
    return " ".join(digest[start : start + 4] for start in range(0, 32, 4))
