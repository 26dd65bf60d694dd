"""Which images are learned from, chosen by and measured by: drawn once from the plan's seed, kept, never changed.

Only the hash of an image's pixels counts, never its name or place: renaming, moving or packing images changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
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
    """A part for each image: whole groups, every class in its proportion, at least one image of it to learn from.

    What a file says of its images (`given`) holds, and an image of which it says nothing goes with its group; if it
    says nothing of val, that is cut from its train.
    """
    group_splits = {group: target for target in ("val", "test") for group, given_split in zip(groups, given, strict=True)
            if group and given_split == target}  # fmt: skip
    splits = [split or group_splits.get(group, "train") for split, group in zip(given, groups, strict=True)]
    if "val" in given:
        return splits
    fractions = {"val": plan.data.val} if any(given) else {"test": plan.data.test, "val": plan.data.val}
    bundles: dict[tuple[bool, str], list[int]] = defaultdict(list)
    for i, split in enumerate(splits):
        if split == "train":
            bundles[(True, groups[i]) if groups[i] else (False, hashes[i])].append(i)
    bundles_in_order = sorted(bundles.values(), key=lambda bundle: min(hashes[i] for i in bundle))
    order = np.random.Generator(np.random.Philox(key=[plan.seed, _RANDOM_STREAM])).permutation(len(bundles_in_order))
    queues: dict[int, list[list[int]]] = defaultdict(list)
    for index in order:
        queues[_majority_label(bundles_in_order[index], labels)].append(bundles_in_order[index])
    remainder = dict.fromkeys(fractions, 0.0)  # what rounding and whole groups left over goes to the next class
    for label in sorted(queues):
        queue = queues[label]
        total = sum(map(len, queue))
        for target, fraction in fractions.items():
            remainder[target] += fraction * total
            for bundle in list(queue):
                if len(queue) > 1 and len(bundle) <= 2 * remainder[target]:
                    queue.remove(bundle)
                    remainder[target] -= len(bundle)
                    for i in bundle:
                        splits[i] = target
    return splits


def extend(
    hashes: Sequence[str], groups: Sequence[str], given: Sequence[str], assigned: Mapping[str, str]
) -> list[str]:
    """The parts that were kept; new images are learned from, unless their file says otherwise.

    A new image of a group that is kept to choose or measure by gets no part: "".
    """
    earlier = [assigned.get(sha256, "") for sha256 in hashes]
    held_out = {group for group, split in zip(groups, earlier, strict=True) if group and split in ("val", "test")}
    return [
        split or from_file or ("" if group in held_out else "train")
        for split, from_file, group in zip(earlier, given, groups, strict=True)
    ]


def load(path: Path, kind: str) -> dict[str, str] | None:
    """What was kept for images of one kind (size and channels), by the hash of their pixels; None if nothing was."""
    try:
        by_hash = json.loads(path.read_bytes())["parts"].get(kind)
        if by_hash is not None and not all(split in SPLITS for split in by_hash.values()):
            raise ValueError("a part that is none")
        return None if by_hash is None else {str(sha256): str(split) for sha256, split in by_hash.items()}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise KeptSplitError(f"{path.name} cannot be read") from None


def save(path: Path, kind: str, splits: Mapping[str, str]) -> None:
    """Keep the parts of one kind of images, beside what was kept for others."""
    parts = json.loads(path.read_bytes())["parts"] if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.new")
    with files.writing(temporary) as out:
        out.write(json.dumps({"schema_version": 1, "parts": {**parts, kind: dict(splits)}}, indent=0).encode())
    temporary.replace(path)
    files.sync_folder(path.parent)


def _majority_label(bundle: Sequence[int], labels: Sequence[int]) -> int:
    """The label that most of a bundle's images have."""
    counts = Counter(int(labels[i]) for i in bundle)
    return min(counts, key=lambda label: (-counts[label], label))
