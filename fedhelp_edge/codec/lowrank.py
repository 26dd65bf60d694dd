"""`lowrank`: the leading singular triplets of each matrix, where these are fewer numbers (FedKD, Wu et al. 2022).

A kernel (o, i, h, w) is a matrix of o rows. Of k triplets travel U (o x k), the singular values and V (k x n), in
one row of k(o + n + 1) numbers. A row as long as the tensor is the tensor itself: where factors would be no shorter. A
row of one number means no change at all. Tensors with one side or none travel as they are. What the approximation takes
away joins the next update.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.codec.base import NamedArrays
from fedhelp_edge.errors import SchemaShapeError
from fedhelp_edge.plan import LowRankSettings, Plan
from fedhelp_edge.update import Array, Schema, TensorSpec

Doubles = NDArray[np.float64]

RELATIVE = "lowrank.relative"  # 1: the rows are changes from the base; 0: weights


@dataclass(frozen=True)
class LowRankCodec:
    """Keeps as many triplets as the settings say. A row's length tells its rank, so decoding needs no settings."""

    settings: LowRankSettings = field(default_factory=LowRankSettings)
    energy: float = 0.95  # the fraction of the squared singular values that is kept, by the rule "energy"

    @classmethod
    def of(cls, plan: Plan, round_: int) -> LowRankCodec:
        """The codec of a round. The energy rises from round to round: E(t) = start + (t + 1) / R (end - start)."""
        settings = plan.lowrank
        return cls(settings, settings.start + round_ / plan.rounds * (settings.end - settings.start))

    def wire_schema(self, schema: Schema) -> Schema:
        rows = [
            replace(tensor, shape=(math.prod(tensor.shape),), free=True) if len(tensor.shape) > 1 else tensor
            for tensor in schema.tensors
        ]
        return Schema((TensorSpec(RELATIVE, "U8", ()), *rows))

    def encode(self, arrays: NamedArrays, base: NamedArrays, memory: NamedArrays) -> tuple[NamedArrays, NamedArrays]:
        relative = self.settings.of == "update"
        wire: dict[str, Array] = {RELATIVE: np.array(relative, np.uint8)}
        lost: dict[str, Array] = {}
        for name, array in arrays.items():
            if array.ndim < 2:
                wire[name] = array
                continue
            exact = array.astype(np.float64) - (base[name] if relative else 0)
            if name in memory:
                exact += memory[name]
            wire[name] = self._row(exact.reshape(len(exact), math.prod(exact.shape[1:])))
            if self.settings.feedback:
                lost[name] = (exact - _restore(wire[name], array.shape)).astype(np.float32)
        return wire, lost

    def decode(self, wire: NamedArrays, base: NamedArrays) -> NamedArrays:
        relative = bool(wire[RELATIVE])
        arrays: dict[str, Array] = {}
        for name in wire:
            if name == RELATIVE:
                continue
            if base[name].ndim < 2:
                arrays[name] = wire[name]
            else:
                values = _restore(wire[name], base[name].shape)
                arrays[name] = (values + base[name] if relative else values).astype(np.float32)
        return arrays

    def _row(self, matrix: Doubles) -> Array:
        """The numbers that travel of a matrix."""
        rows, columns = matrix.shape
        if not matrix.any():
            return np.zeros(min(1, matrix.size), np.float32)
        u, sigma, v = np.linalg.svd(matrix, full_matrices=False)
        rank = self._rank(sigma, rows, columns)
        if rank * (rows + columns + 1) >= rows * columns:
            return matrix.ravel().astype(np.float32)
        return np.concatenate([u[:, :rank].ravel(), sigma[:rank], v[:rank].ravel()]).astype(np.float32)

    def _rank(self, sigma: Doubles, rows: int, columns: int) -> int:
        return min(len(sigma), max(1, _RULES[self.settings.rule](self, sigma, rows, columns)))

    def _by_energy(self, sigma: Doubles, rows: int, columns: int) -> int:
        """The smallest rank that keeps the energy; all ranks, where no smaller one does."""
        return rank_of_energy(sigma, self.energy)

    def _by_aic(self, sigma: Doubles, rows: int, columns: int) -> int:
        """The rank of the smallest Akaike criterion, taking equal singular values for noise (Wax and Kailath 1985)."""
        variances = np.maximum(sigma**2, 1e-12 * sigma[0] ** 2)
        samples, count = max(rows, columns), len(sigma)
        criteria = []
        for rank in range(count):
            noise = variances[rank:]
            flatness = np.log(noise.mean()) - np.log(noise).mean()  # 0 if all are equal
            criteria.append(samples * (count - rank) * flatness + rank * (2 * count - rank))
        return int(np.argmin(criteria))

    def _fixed(self, sigma: Doubles, rows: int, columns: int) -> int:
        return self.settings.rank


_RULES: dict[str, Callable[[LowRankCodec, Doubles, int, int], int]] = {
    "energy": LowRankCodec._by_energy, "aic": LowRankCodec._by_aic, "fixed": LowRankCodec._fixed,
}  # fmt: skip


def rank_of_energy(sigma: Doubles, energy: float) -> int:
    """The smallest number of singular values, in falling order, with this fraction of their squared sum."""
    energies = np.cumsum(sigma**2)
    return int(np.searchsorted(energies, energy * energies[-1] * (1 - 1e-12))) + 1


def _restore(row: Array, shape: tuple[int, ...]) -> Doubles:
    """The tensor that a row stands for. Summed triplet by triplet: the same bits on every number of threads."""
    rows, columns = shape[0], math.prod(shape[1:])
    values = row.astype(np.float64)
    if len(row) == rows * columns:
        return values.reshape(shape)
    matrix = np.zeros((rows, columns))
    rank, rest = divmod(len(row), rows + columns + 1)
    if len(row) != 1 and rest:
        raise SchemaShapeError(f"a row of {len(row)} numbers is no tensor of {rows} x {columns}")
    u, sigma, v = np.split(values[: rank * (rows + columns + 1)], [rank * rows, rank * (rows + 1)])
    for i in range(rank):
        matrix += sigma[i] * np.multiply.outer(u.reshape(rows, rank)[:, i], v.reshape(rank, columns)[i])
    return matrix.reshape(shape)
