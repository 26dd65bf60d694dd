"""The leaflet that lies in a kit: one page to print, for whoever installs it."""

from __future__ import annotations

from dataclasses import dataclass

from fedhelp_edge.report import pages as pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import visible_html

_SYSTEMS = {"win32": "Windows", "linux": "Linux", "darwin": "macOS"}
_OPEN_TERMINAL = {
    "win32": "Press the Windows key, type cmd, and press Enter.",
    "linux": "Open a terminal.",
    "darwin": "Open Terminal (Cmd and space, then type Terminal).",
}
_HASH_COMMAND = {"win32": "certutil -hashfile", "linux": "sha256sum", "darwin": "shasum -a 256"}
_STYLE = "li { margin: .6em 0 } code { font-size: 1.05em }"


@dataclass(frozen=True)
class LeafletFacts:
    system: str
    python: str
    train: bool
    size: int  # bytes
    installer: str  # the SHA-256 of install.py
    invite: str  # the name of its file
    signed: bool


def page(facts: LeafletFacts) -> str:
    windows = facts.system == "win32"
    kit = "E:\\kit\\" if windows else "/media/stick/kit/"
    program = "%USERPROFILE%\\fedhelp-edge\\Scripts\\fedhelp-edge" if windows else "~/fedhelp-edge/bin/fedhelp-edge"
    steps = [
        f"This computer needs the 64-bit Python {facts.python}. It is free, from python.org; without internet, bring "
        "its installer on the same stick.",
        f"{_OPEN_TERMINAL[facts.system]} Stay in the folder that it shows, and write {kit} below as it is on this computer: "
        "a program in the kit's folder could be started by mistake.",
        f"Type: {_HASH_COMMAND[facts.system]} {kit}install.py{' SHA256' if windows else ''} and press Enter. It must show "
        f"{facts.installer}. The first 32 letters and digits are enough: {group_digits(facts.installer)}. If one "
        "differs, stop, and phone the coordinator.",
        f"Type: {'py -' if windows else 'python'}{facts.python} -I {kit}install.py and press Enter. It checks every "
        "other file of the kit, takes some minutes and needs no internet.",
        f"To join, type: {program} join {kit}{facts.invite or 'INVITE'} --via FOLDER (the stick)"
        + ("." if facts.invite else "; the coordinator gives you the invite."),
        "Write the five words of the passphrase on paper. Eight other words appear: the coordinator phones and "
        "compares them with you.",
        f"Take the stick back to the coordinator. From then on, {program} status says what to do next.",
    ]
    if facts.signed:
        steps.insert(2, f"If fedhelp-edge is here already and has joined: {program} inspect {kit} says whether the "
                     "coordinator made this kit, and you can pass over the next step.")  # fmt: skip
    purpose = "trains and diagnoses" if facts.train else "diagnoses; it does not train"
    return pages.page(
        "Install fedhelp-edge without internet",
        pages.paragraph(
            f"For {_SYSTEMS[facts.system]}. This computer then {purpose}. {facts.size / 1e6:.0f} MB to install from."
        ),
        Html("<ol>" + "".join(f"<li>{visible_html(step)}</li>" for step in steps) + "</ol>"),
        pages.paragraph("Images stay on this computer. What leaves it is a file that only the coordinator can open."),
        style=_STYLE,
    )


def group_digits(digest: str) -> str:
    """The first half of a hash, in groups."""
    return " ".join(digest[start : start + 4] for start in range(0, 32, 4))
