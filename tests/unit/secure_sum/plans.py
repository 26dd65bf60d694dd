"""Plans of secure sums, for tests."""

from __future__ import annotations

from fedhelp_edge.parcel.keys import PublicKeys
from tests.federation import ENCODER_SHA256


def plan_text(helper: PublicKeys, *, rounds: int = 4, privacy: str = "") -> str:
    """The smallest plan of a secure sum with this helper."""
    return f"""
name = "test"
classes = ["a", "b", "c"]
method = "fedavg"
rounds = {rounds}
[nets]
encoder = "tiny.onnx"
encoder_sha256 = "{ENCODER_SHA256}"
encoder_width = 1000
small = "linear"
large = "linear"
[round]
quorum = 3
days = 7
[merge]
clip = "none"
cap = 1.0
[privacy]
mode = "secure-sum"
helper_key = "{helper.recipient}"
helper_sign = "{helper.sign}"
{privacy}
"""
