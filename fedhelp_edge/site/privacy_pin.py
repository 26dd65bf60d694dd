"""The privacy settings under which a site takes part: a later task cannot weaken them or name another helper.

A task carries the plan. Without this pin a coordinator could name a helper of its own, or none, for a single round.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import PrivacyChangedError
from fedhelp_edge.plan import PrivacySettings
from fedhelp_edge.site import layout


def check(home: Path, privacy: PrivacySettings) -> None:
    """Notes the settings of the first update; raises where a later one would be sent under others.

    From "plain" a site may go on to more protection.
    """
    path, now = home / layout.PRIVACY, asdict(privacy)
    try:
        pinned = asdict(PrivacySettings()) | json.loads(path.read_bytes())  # keys that are newer than the file
    except FileNotFoundError:
        pinned = asdict(PrivacySettings())
    if pinned == now:
        return
    if pinned["mode"] != "plain":
        changed = ", ".join(sorted(name for name in now if pinned.get(name) != now[name]))
        raise PrivacyChangedError(f"the task's plan changes the privacy of this site: {changed}")
    files.write_atomic(path, json.dumps(now).encode())
