"""How far the best trials' values of a parameter are from everybody's, against what chance alone gives. Pure.

PED-ANOVA (Watanabe, Bansal & Hutter 2023): the chi-square distance of the top group's density from that of all trials,
here on a grid. Normalised to one it always makes something look important, so each distance stands beside the distances
of groups of the same size drawn at random from the same stretches of the search.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daemon.advisor.effects import Codes, Float, Mask

REFITS = 2000  # random groups: the smallest p, 1 in 2,001, must survive a correction for thirty parameters
BOOTSTRAPS = 200
GRID = 32  # cells over a numeric range
MAX_STRATA = 5  # quintiles of trial number
PER_STRATUM = 4  # top trials per stratum on average, or there is nothing to compare within it


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """share: of the distances of all parameters, 0 to 1. null_share: 95 % quantile of that share under chance.

    p: share of random groups at least as far. rank_low, rank_high: 90 % interval of its rank, 1 the farthest.
    """

    share: float
    null_share: float
    p: float
    rank_low: int
    rank_high: int


def strata_of(numbers: Sequence[int], n_top: int) -> Codes:
    """Stretches of the search of equal length, fewer when the top group is small."""
    count = max(1, min(MAX_STRATA, n_top // PER_STRATUM))
    place = np.argsort(np.argsort(numbers))
    strata: Codes = place * count // max(1, len(numbers))
    return strata


def importances(
    columns: Sequence[Float | Codes], top: Mask, strata: Codes, rng: np.random.Generator
) -> list[Importance]:
    """columns: per parameter either (n,) values on the unit interval (float) or (n,) codes of choices (integer)."""
    tops = _random_groups(top, strata, rng)
    own = np.flatnonzero(top)
    again = rng.choice(own, size=(BOOTSTRAPS, len(own)))
    seen, null, drawn = [], [], []
    for column in columns:
        codes, kernel = _coded(column, len(own))
        base = np.bincount(codes, minlength=len(kernel)) @ kernel
        base /= base.sum()
        seen.append(float(_distance(codes, own[None, :], kernel, base)[0]))
        null.append(_distance(codes, tops, kernel, base))
        drawn.append(_distance(codes, again, kernel, base))
    total = max(sum(seen), 1e-300)
    nulls, ranks = np.array(null), 1 + np.argsort(np.argsort(-np.array(drawn), axis=0), axis=0)
    shares = nulls / np.maximum(nulls.sum(axis=0), 1e-300)
    return [
        Importance(
            share=seen[i] / total, null_share=float(np.quantile(shares[i], 0.95)),
            p=float((1 + (nulls[i] >= seen[i] - 1e-12).sum()) / (1 + REFITS)),
            rank_low=int(np.quantile(ranks[i], 0.05)), rank_high=int(np.ceil(np.quantile(ranks[i], 0.95))),
        )
        for i in range(len(columns))
    ]  # fmt: skip


def _random_groups(top: Mask, strata: Codes, rng: np.random.Generator) -> NDArray[np.int64]:
    """(REFITS, n_top) indices: as many from every stratum as the top group has there."""
    parts = []
    for label in np.unique(strata):
        inside = np.flatnonzero(strata == label)
        wanted = int(top[inside].sum())
        if wanted:
            keys = rng.random((REFITS, len(inside)), dtype=np.float32)
            parts.append(inside[np.argpartition(keys, wanted - 1, axis=1)[:, :wanted]])
    return np.concatenate(parts, axis=1)


def _coded(column: Float | Codes, n_top: int) -> tuple[Codes, Float]:
    """(codes (n,), kernel (G, G)): choices as they are; numbers in GRID cells, smoothed as far as n_top points need."""
    if column.dtype.kind == "i":
        _, codes = np.unique(column, return_inverse=True)
        return codes.astype(np.int64), np.eye(int(codes.max()) + 1)
    codes = np.clip((column * GRID).astype(np.int64), 0, GRID - 1)
    width = max(1.0 / GRID, 1.06 * float(column.std()) * n_top**-0.2)  # Scott 1992
    cell = np.arange(GRID) / GRID
    kernel = np.exp(-0.5 * ((cell[:, None] - cell[None, :]) / width) ** 2)
    return codes, kernel / kernel.sum(axis=1, keepdims=True)  # what leaves the range is put back: no edge is thinned


def _distance(codes: Codes, groups: NDArray[np.int64], kernel: Float, base: Float) -> Float:
    """(R,) chi-square distance of each group's density from `base`."""
    cells, (count, size) = len(kernel), groups.shape
    placed = codes[groups] + cells * np.arange(count)[:, None]
    density = np.bincount(placed.ravel(), minlength=count * cells).reshape(count, cells) @ kernel / size
    far: Float = ((density - base) ** 2 / np.maximum(base, 1e-12)).sum(axis=1)
    return far
