"""The privacy settings under which a site takes part: a later task cannot weaken them or name another helper.

A task carries the plan. Without this pin a coordinator could name a helper of its own, or none, for a single round.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import PrivacyChangedError
from fedhelp_edge.methods.registry import is_noised
from fedhelp_edge.plan import Plan, PrivacySettings
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


def check_helper(privacy: PrivacySettings, coordinator: str, recipients: Collection[str]) -> None:
    """Refuse a helper that has a key of the coordinator's: it could open each update alone.

    A coordinator that made a second pair of keys is not noticed here: the helper phones its sites.
    """
    if privacy.is_secure_sum and (privacy.helper_sign == coordinator or privacy.helper_key in recipients):
        remedy = "phone the coordinator: the helper is another institution, with keys of its own"
        raise PrivacyChangedError("the plan names a key of the coordinator as the helper's", remedy=remedy)


def may_go_on_from(round_dir: Path, plan: Plan) -> bool:
    """Whether a round under this plan may use what an earlier one left at the site: a net's state, a codec's memory.

    What was trained without noise tells of images, and epsilon does not count it. So training with noise begins anew.
    """
    if not is_noised(plan):
        return True
    return bool(json.loads((round_dir / "report.json").read_text(encoding="utf-8")).get("privacy"))
