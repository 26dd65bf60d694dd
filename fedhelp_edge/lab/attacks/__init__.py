"""What leaks: attacks on what coordinator and sites see, under each protection. Each attacker knows as much as it may.

They are measures of a risk, and no proof that a better attack fails: only epsilon bounds that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

PLAIN, SECURE_SUM, DP = "plain", "secure-sum", "dp"
ALIKE = {  # what all variants of a plan have in common, so that they differ by their protection alone
    "method": "fedavg", "nets.norm": "group", "merge.weight": "uniform", "merge.rule": "mean", "round.patience": "0",
    "wire.up": "f32", "wire.norm": "shared", "training.loss": "ce", "training.precision": "fp32",
    "training.yardstick": "false",
}  # fmt: skip


@dataclass(frozen=True)
class AttackResult:
    """How well an attack works."""

    attack: str
    protection: str
    sees: str  # what the attacker has
    measure: str
    value: float
    chance: float | None = None  # what guessing gives; None: the bound that is claimed stands in `measure`
    interval: tuple[float, float] | None = None  # 95 %

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def settings(protection: str) -> Mapping[str, str]:
    """The settings of a plan's variant. A secure sum changes no training: what it hides is a single update."""
    return {**ALIKE, "privacy.mode": DP if protection == DP else PLAIN, "privacy.helper_key": '""',
            "privacy.helper_sign": '""'}  # fmt: skip


def markdown(results: list[AttackResult]) -> str:
    """The table."""
    head = ("attack", "protection", "the attacker has", "measure", "value", "95 % interval", "by chance")
    rows = [
        (
            f.attack, f.protection, f.sees, f.measure, f"{f.value:.3g}",
            "-" if f.interval is None else "{:.3f} to {:.3f}".format(*f.interval),
            "-" if f.chance is None else f"{f.chance:.3g}",
        )
        for f in results
    ]  # fmt: skip
    return "\n".join(_lines([head, ("---",) * len(head), *rows])) + "\n"


def _lines(rows: list[tuple[str, ...]]) -> Iterator[str]:
    return (f"| {' | '.join(row)} |" for row in rows)
