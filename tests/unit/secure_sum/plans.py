"""Plans of secure sums, for tests."""

from __future__ import annotations

from fedhelp_edge.parcel.keys import PublicKeys
from tests.federation import ENCODER_SHA256


def plan_text(helper: PublicKeys, *, rounds: int = 4, privacy: str = "", mode: str = "secure-sum") -> str:
    """The smallest plan of a secure sum with this helper. With noise, sites weigh alike and tell no figures."""
    has_noise = mode == "dp" or "site_noise" in privacy
    return f"""
name = "test"
classes = ["a", "b", "c"]
method = "fedavg"
rounds = {rounds}
[nets]
norm = "{"group" if mode == "dp" else "batch"}"
encoder = "tiny.onnx"
encoder_sha256 = "{ENCODER_SHA256}"
encoder_width = 1000
small = "linear"
large = "linear"
[round]
quorum = 3
days = 7
patience = {0 if has_noise else 10}
[merge]
weight = "{"uniform" if has_noise else "examples"}"
clip = "none"
cap = 1.0
[privacy]
mode = "{mode}"
helper_key = "{helper.recipient}"
helper_sign = "{helper.sign}"
{privacy}
"""
