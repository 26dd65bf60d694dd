"""NVFlare's aggregation over numpy arrays, one update at a time: `flare.py mean FOLDER COUNT OUT`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import updates
from nvflare.app_common.aggregators.weighted_aggregation_helper import WeightedAggregationHelper


def mean(folder: Path, count: int) -> dict[str, Any]:
    helper = WeightedAggregationHelper()
    for index, path in enumerate(updates.paths(folder, count)):
        helper.add(updates.read(path), updates.examples(index), path.stem, 1)
    return dict(helper.get_result())


def main() -> None:
    _, folder, count, out = sys.argv[1:]
    updates.measured(lambda: mean(Path(folder), int(count)), Path(out))


if __name__ == "__main__":
    main()
