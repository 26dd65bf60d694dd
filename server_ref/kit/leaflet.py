"""The leaflet that lies in a kit: one page to print, for whoever installs it."""

from __future__ import annotations

from dataclasses import dataclass

from fedhelp_edge.report import page as pages
from fedhelp_edge.report.page import Html
from fedhelp_edge.safe_text import visible_html

_SYSTEMS = {"win32": "Windows", "linux": "Linux", "darwin": "macOS"}
_STYLE = "li { margin: .6em 0 } code { font-size: 1.05em }"


@dataclass(frozen=True)
class About:
    system: str
    python: str
    train: bool
    size: int  # bytes
    fingerprint: str
    invite: str  # the name of its file


def page(about: About) -> str:
    windows = about.system == "win32"
    start = (
        "double-click install.cmd in this folder"
        if windows
        else "open a terminal in this folder and type: sh install.sh"
    )
    program = "%USERPROFILE%\\fedhelp-edge\\Scripts\\fedhelp-edge" if windows else "~/fedhelp-edge/bin/fedhelp-edge"
    steps = [
        f"This computer needs the 64-bit Python {about.python}. It is free, from python.org; without internet, bring "
        "its installer on the same stick.",
        f"To install, {start}. It takes some minutes and needs no internet.",
        "It shows eight groups of four letters and digits. They must be these; if one differs, stop, and phone the "
        f"coordinator: {about.fingerprint}",
        f"To join, type: {program} join {about.invite or 'INVITE'} --via FOLDER (the stick)"
        + ("." if about.invite else "; the coordinator gives you the invite."),
        "Write the five words of the passphrase on paper. Eight other words appear: the coordinator phones and "
        "compares them with you.",
        f"Take the stick back to the coordinator. From then on, {program} status says what to do next.",
    ]
    does = "trains and diagnoses" if about.train else "diagnoses; it does not train"
    return pages.page(
        "Install fedhelp-edge without internet",
        pages.paragraph(
            f"For {_SYSTEMS[about.system]}. This computer then {does}. {about.size / 1e6:.0f} MB to install from."
        ),
        Html("<ol>" + "".join(f"<li>{visible_html(step)}</li>" for step in steps) + "</ol>"),
        pages.paragraph("Images stay on this computer. What leaves it is a file that only the coordinator can open."),
        style=_STYLE,
    )
