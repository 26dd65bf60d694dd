"""The answers of all runs of a comparison in one small file, from which its tables can be computed again.

A probability is kept as its logarithm in half precision: its place in the order stays, up to 1 - 1e-7. Labels and
groups are kept once: all runs have the same images. Of masks the numbers of each case are kept (`report.outlines`).
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files
from fedhelp_edge.errors import UsageError

NAME = "answers.npz"
_LEAST = -60_000.0  # the logarithm of 0: half precision holds it
_SHARED = ("labels", "groups")

Answers = dict[str, NDArray[Any]]  # by site and net: site-001/test_own; and site-001/test_labels


def collect(path: Path, folders: Mapping[str, Path], probabilities: bool = True) -> None:
    """Writes the answers of runs, each with its folder, by the run's name. They are probabilities, or numbers."""
    arrays: Answers = {}
    for run, folder in folders.items():
        with np.load(folder / NAME, allow_pickle=False) as archive:
            for name in archive.files:
                if name.endswith(_SHARED):
                    array = archive[name].astype(np.int32)
                    if not np.array_equal(arrays.setdefault(name, array), array):
                        raise UsageError(f"{folder.name} has other images than the runs before it")
                else:
                    arrays[f"{run}/{name}"] = compact(archive[name]) if probabilities else archive[name]
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # typeshed takes a name for allow_pickle
    files.write_atomic(path, file.getvalue(), private=False)


def load(path: Path, runs: Sequence[str], probabilities: bool = True) -> dict[str, Answers]:
    """The answers of each run, as probabilities or as the numbers that they are."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise UsageError(f"{path.name} is damaged or no file of answers", remedy="take it from a copy") from error
    shared = {name: array.astype(np.int64) for name, array in arrays.items() if name.endswith(_SHARED)}
    return {
        run: {
            **shared,
            **{
                name.removeprefix(f"{run}/"): np.exp(array.astype(np.float64)) if probabilities else array
                for name, array in arrays.items()
                if name.startswith(f"{run}/")
            },
        }
        for run in runs
    }


def compact(probabilities: NDArray[Any]) -> NDArray[np.float16]:
    """The logarithms of probabilities, in half precision."""
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(probabilities.astype(np.float64)), _LEAST).astype(np.float16)
