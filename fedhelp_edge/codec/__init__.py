"""How an update is compressed for the wire, and restored.

A codec derives the wire's schema from the schema alone, so intake can check a file before it decodes it. `encode` may
use the `base` model that both ends have. It may also use a `memory` that stays at the sender between rounds: what the
last update lost on its way. `decode` needs only the base. `f32`, `f16` and `int8` need neither.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedhelp_edge.codec.base import Codec, NamedArrays
from fedhelp_edge.codec.cast import CastCodec
from fedhelp_edge.codec.int8 import Int8Codec
from fedhelp_edge.codec.lowrank import LowRankCodec
from fedhelp_edge.plan import Plan

__all__ = ["CODECS", "Codec", "NamedArrays", "update_codec"]

CODECS: Mapping[str, Codec] = {
    "f32": CastCodec("F32"),
    "f16": CastCodec("F16"),
    "int8-delta": Int8Codec(relative=True),
    "int8": Int8Codec(relative=False),
    "lowrank": LowRankCodec(),
}


def update_codec(plan: Plan, round_: int) -> Codec:
    """The codec of a round's updates. How much `lowrank` keeps is the plan's choice; anybody decodes it alike."""
    return LowRankCodec.of(plan, round_) if plan.wire.up == "lowrank" else CODECS[plan.wire.up]
