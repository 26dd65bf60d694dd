"""A results folder belongs to one distribution of images over sites: runs of another are refused.

Whatever decides it counts. These are the images, their labels, the columns of splits, patients and centres, and the
options of the split and of wrong labels. Of the plan, they are its seed and its parts for validation and test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import TargetExistsError
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.lab.rounds import intact

_FILE = "sites.json"


def check(folder: Path, sites: Sequence[SiteImages]) -> None:
    """Refuses a folder of other sites."""
    if not (folder / _FILE).exists():
        return
    with intact(folder / _FILE):
        known = dict(json.loads((folder / _FILE).read_text(encoding="utf-8")))
    differ = [name for name, digest in _digests(sites).items() if known.get(name) != digest]
    if differ:
        raise TargetExistsError(
            f"{folder.name} holds runs of another distribution of images: the {differ[0]} differ",
            remedy="choose another --out, or take the images, columns and options of those runs",
        )


def hold(folder: Path, sites: Sequence[SiteImages]) -> None:
    """Refuses a folder of other sites; makes one without runs that of these."""
    check(folder, sites)
    if not (folder / _FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        files.write_atomic(folder / _FILE, json.dumps(_digests(sites), indent=1).encode(), private=False)


def _digests(sites: Sequence[SiteImages]) -> dict[str, str]:
    """A hash of each thing that two distributions may differ by, by what people call it."""
    parts = {
        "images": sorted(sha256 for site in sites for sha256 in site.images.hashes),
        "sites or their tiers": [(site.name, site.tier, site.images.hashes) for site in sites],
        "splits": [site.images.splits for site in sites],
        "labels": [site.images.labels.tolist() for site in sites],
        "patients": [site.images.groups for site in sites],
    }
    return {name: hashlib.sha256(repr(part).encode()).hexdigest() for name, part in parts.items()}
