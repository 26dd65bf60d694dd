"""Flower's aggregation: `flower.py RULE FOLDER COUNT OUT`; `flower.py write FOLDER COUNT` makes the files of `message`.

`message` is what its strategies run today, from the bytes of its own messages. The others are the functions of its
older strategies, over plain arrays.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import updates
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto
from flwr.server.strategy.aggregate import aggregate, aggregate_median, aggregate_trimmed_avg
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords


def write(folder: Path, count: int) -> None:
    for index, path in enumerate(updates.paths(folder, count)):
        arrays = ArrayRecord({name: Array(array) for name, array in updates.read(path).items()})
        whole = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": updates.examples(index)})})
        path.with_suffix(".flower").write_bytes(recorddict_to_proto(whole).SerializeToString())


def message(folder: Path, count: int) -> dict[str, Any]:
    files = [path.with_suffix(".flower") for path in updates.paths(folder, count)]
    records = [recorddict_from_proto(Proto.FromString(path.read_bytes())) for path in files]
    return {name: array.numpy() for name, array in aggregate_arrayrecords(records, "num-examples").items()}


def over_arrays(rule: str, folder: Path, count: int) -> dict[str, Any]:
    arrays_of = [updates.read(path) for path in updates.paths(folder, count)]
    results = [(list(arrays.values()), updates.examples(index)) for index, arrays in enumerate(arrays_of)]
    merged = {
        "mean": aggregate,
        "median": aggregate_median,
        "trimmed": lambda pairs: aggregate_trimmed_avg(pairs, 0.2),
    }[rule](results)
    return dict(zip(arrays_of[0], merged, strict=True))


def main() -> None:
    rule, folder, count, *out = sys.argv[1:]
    if rule == "write":
        write(Path(folder), int(count))
        print("{}")
    elif rule == "message":
        updates.measured(lambda: message(Path(folder), int(count)), Path(out[0]))
    else:
        updates.measured(lambda: over_arrays(rule, Path(folder), int(count)), Path(out[0]))


if __name__ == "__main__":
    main()
