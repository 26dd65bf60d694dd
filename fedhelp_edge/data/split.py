"""Split images into train, val and test: drawn once from the plan's seed, saved, never changed.

An image is known by the hash of its pixels, so renaming, moving or packing images changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedhelp_edge import files
from fedhelp_edge.data.images import SPLITS
from fedhelp_edge.errors import KeptSplitError
from fedhelp_edge.plan import Plan

_RANDOM_STREAM = int.from_bytes(hashlib.sha256(b"split").digest()[:8], "big")


def draw(
    hashes: Sequence[str], labels: Sequence[int], groups: Sequence[str], given: Sequence[str], plan: Plan
) -> list[str]:
    """Draw a split for each image: groups stay whole, classes keep their proportions, train keeps an image of each.

    A split that the source names (`given`) holds, and an image without one joins its group. If the source names no val,
    val is cut from its train.
    """
    group_splits = {
        group: target
        for target in ("val", "test")
        for group, given_split in zip(groups, given, strict=True)
        if group and given_split == target
    }
    splits = [split or group_splits.get(group, "train") for split, group in zip(given, groups, strict=True)]
    if "val" in given:
        return splits
    fractions = {"val": plan.data.val} if any(given) else {"test": plan.data.test, "val": plan.data.val}
    units: dict[tuple[bool, str], list[int]] = defaultdict(list)
    for i, split in enumerate(splits):
        if split == "train":
            units[(True, groups[i]) if groups[i] else (False, hashes[i])].append(i)
    ordered_units = sorted(units.values(), key=lambda unit: min(hashes[i] for i in unit))
    order = np.random.Generator(np.random.Philox(key=[plan.seed, _RANDOM_STREAM])).permutation(len(ordered_units))
    queues: dict[int, list[list[int]]] = defaultdict(list)
    for index in order:
        queues[_majority_label(ordered_units[index], labels)].append(ordered_units[index])
    remainder = dict.fromkeys(fractions, 0.0)  # what rounding and whole groups leave over passes to the next class
    for label in sorted(queues):
        queue = queues[label]
        total = sum(map(len, queue))
        for target, fraction in fractions.items():
            remainder[target] += fraction * total
            for unit in list(queue):
                if len(queue) > 1 and len(unit) <= 2 * remainder[target]:
                    queue.remove(unit)
                    remainder[target] -= len(unit)
                    for i in unit:
                        splits[i] = target
    return splits


def extend(
    hashes: Sequence[str], groups: Sequence[str], given: Sequence[str], assigned: Mapping[str, str]
) -> list[str]:
    """Add new images to a saved split: they go to train, unless their source says otherwise.

    A new image whose group is in val or test gets no split (""): in train it would leak.
    """
    earlier = [assigned.get(sha256, "") for sha256 in hashes]
    held_out = {group for group, split in zip(groups, earlier, strict=True) if group and split in ("val", "test")}
    return [
        split or from_file or ("" if group in held_out else "train")
        for split, from_file, group in zip(earlier, given, groups, strict=True)
    ]


def load(path: Path, kind: str) -> dict[str, str] | None:
    """Read the saved split of images of one kind (size and channels), by pixel hash; None if there is none."""
    try:
        by_hash = json.loads(path.read_bytes())["parts"].get(kind)
        if by_hash is not None and not all(split in SPLITS for split in by_hash.values()):
            raise ValueError("an unknown split")
        return None if by_hash is None else {str(sha256): str(split) for sha256, split in by_hash.items()}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise KeptSplitError(f"{path.name} cannot be read") from error


def save(path: Path, kind: str, splits: Mapping[str, str]) -> None:
    """Save the split of one kind of images, beside those of other kinds."""
    parts = json.loads(path.read_bytes())["parts"] if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(
        path, json.dumps({"schema_version": 1, "parts": {**parts, kind: dict(splits)}}, indent=0).encode()
    )


def _majority_label(unit: Sequence[int], labels: Sequence[int]) -> int:
    """The most frequent label of a unit's images; of several the smallest."""
    counts = Counter(int(labels[i]) for i in unit)
    return min(counts, key=lambda label: (-counts[label], label))
