"""How much of a search's best result the search itself made: CSCV, and how many trials there really were.

Sources: Bailey, Borwein, Lopez de Prado & Zhu 2017 ("The Probability of Backtest Overfitting"); Geyer 1992 (initial
positive sequence).
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from features.errors import DataError

Float = NDArray[np.float64]
SAME_BET = 0.5  # trials whose returns correlate above this, on average, are one bet tried twice
_ROWS = 1024  # combinations compared at a time, so that the temporaries stay near ten megabytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cscv:
    """What choosing the in-sample best is worth out of sample, over all ways of halving the blocks.

    pbo: share of logits ≤ 0. logits: (C,) of the best trial's relative out-of-sample rank. slope: of its
    out-of-sample on its in-sample per-bar Sharpe, least squares over halves. persistence: slope of out-of-sample on
    in-sample Sharpe over the trials within a half, all halves pooled. loss: share of halves where the best loses out of
    sample.

    `slope` is the paper's, and no measure of skill: a trial that is the best of every half has the slope -1, for what it
    earns in one half it does not earn in the other. `persistence` is free of that.
    """

    pbo: float
    logits: Float
    slope: float
    persistence: float
    loss: float


def cscv(returns: Float, *, n_blocks: int = 16) -> Cscv:
    """Combinatorially symmetric cross-validation.

    returns: (T, K) per-bar out-of-sample returns of K trials on the same bars; the last T mod n_blocks bars are left
    out. For every half of the blocks: the in-sample best by Sharpe, its rank w among the other half (average rank on
    ties) over K + 1, λ = ln(w / (1 - w)). A trial that never trades has a Sharpe of 0.
    """
    if n_blocks % 2 or returns.shape[1] < 2 or returns.shape[0] < 2 * n_blocks:
        raise DataError(f"PBO needs two trials and an even number of blocks of two bars, got {returns.shape}")
    if not np.isfinite(returns).all():
        raise DataError("a return is not finite")
    ratio = _half_sharpes(returns, n_blocks)
    best = ratio.argmax(axis=1)
    row = np.arange(len(best))
    inside = ratio[row, best]
    # halves come in lexicographic order, in which the complement of the first is the last, and so on
    outside = ratio[::-1][row, best]
    rank = np.concatenate([
        _average_rank(ratio[::-1][a : a + _ROWS], outside[a : a + _ROWS]) for a in range(0, len(best), _ROWS)
    ])  # fmt: skip
    share = rank / (returns.shape[1] + 1)
    logits = np.log(share / (1 - share))
    spread = inside - inside.mean()
    square = float(spread @ spread)
    return Cscv(
        pbo=float((logits <= 0).mean()), logits=logits, loss=float((outside < 0).mean()),
        slope=float(spread @ outside) / square if square > 0 else 0.0, persistence=_persistence(ratio),
    )  # fmt: skip


def _persistence(ratio: Float) -> float:
    """ratio: (C, K) Sharpe of every trial in every half, complements in reverse order."""
    centred = ratio - ratio.mean(axis=1, keepdims=True)
    square = float((centred**2).sum())
    return float((centred * centred[::-1]).sum()) / square if square > 0 else 0.0


def _half_sharpes(returns: Float, n_blocks: int) -> Float:
    """(C, K) per-bar Sharpe of every trial in every half, from sums per block."""
    usable = returns[: len(returns) // n_blocks * n_blocks]
    centre = usable.mean(axis=0)  # squares of centred returns do not cancel
    blocks = (usable - centre).reshape(n_blocks, -1, returns.shape[1])
    chosen = np.zeros((math.comb(n_blocks, n_blocks // 2), n_blocks))
    for row, half in enumerate(combinations(range(n_blocks), n_blocks // 2)):
        chosen[row, list(half)] = 1.0
    count = len(usable) // 2
    mean = chosen @ (blocks.sum(axis=1) / count)
    square = chosen @ ((blocks**2).sum(axis=1) / (count - 1))
    square -= mean**2 * (count / (count - 1))
    ratio: Float = (mean + centre) / np.sqrt(np.maximum(square, 1e-300))
    return ratio


def _average_rank(values: Float, of: Float) -> Float:
    picked = of[:, None]
    rank: Float = (values < picked).sum(axis=1) + ((values == picked).sum(axis=1) + 1) / 2
    return rank


def correlations(returns: Float) -> Float:
    """(K, K) correlation of trial returns (T, K); a trial that never moves correlates with nothing but itself."""
    centred = returns - returns.mean(axis=0)
    norm = np.sqrt((centred**2).sum(axis=0))
    unit = centred / np.where(norm > 0, norm, 1.0)
    found: Float = np.clip(unit.T @ unit, -1.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return found


def clusters(correlation: Float, *, at_least: float = SAME_BET) -> NDArray[np.int64]:
    """(K,) cluster label of every trial, numbered by first appearance: average linkage, merged while ≥ `at_least`."""
    k = len(correlation)
    link, size, alive = correlation.astype(float), np.ones(k), np.arange(k)
    np.fill_diagonal(link, -np.inf)
    while k > 1:
        i, j = divmod(int(link.argmax()), k)
        if link[i, j] < at_least:
            break
        i, j = min(i, j), max(i, j)
        merged = (size[i] * link[i] + size[j] * link[j]) / (size[i] + size[j])
        link[i], link[:, i] = merged, merged
        link[i, i] = -np.inf
        link[j], link[:, j] = -np.inf, -np.inf
        size[i] += size[j]
        alive[alive == j] = i
    _, first, label = np.unique(alive, return_index=True, return_inverse=True)
    order: NDArray[np.int64] = np.argsort(np.argsort(first))[label]
    return order


def participation_ratio(correlation: Float) -> float:
    """(sum l)² / sum l² over the eigenvalues of the correlation matrix: K when independent, 1 when all are one bet."""
    return float(np.trace(correlation) ** 2 / (correlation**2).sum())


def effective_trials(scores: Float) -> float:
    """Trials less their autocorrelation in the order they ran: n / (1 + 2·sum rho), to the first rho ≤ 0.

    A heuristic of samplers that draw each trial near the last good one. 1 when the scores do not vary.
    """
    n = len(scores)
    if n < 3:
        return float(n)
    centred = scores - scores.mean()
    square = float(centred @ centred)
    if square == 0.0:
        return 1.0
    rho = np.correlate(centred, centred, mode="full")[n:] / square
    stop = int(np.argmax(rho <= 0.0)) if (rho <= 0.0).any() else n - 1
    return float(np.clip(n / (1.0 + 2.0 * rho[:stop].sum()), 1.0, n))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialCounts:
    """How many independent trials the search was, counted four ways; each gives its own deflated Sharpe ratio."""

    raw: float
    clusters: float
    participation: float
    autocorrelation: float

    def least_favourable_but_one(self) -> float:
        """The second largest: the raw count assumes that no two trials were alike, so one count may be discarded."""
        return sorted((self.raw, self.clusters, self.participation, self.autocorrelation))[-2]


def count_trials(returns: Float, scores: Float, *, n_ever: int) -> TrialCounts:
    """returns (T, K) and scores (K,) of the study's trials in the order they ran; n_ever from the ledger.

    The three estimates are shares of the K trials at hand, carried over to every trial ever started.
    """
    correlation = correlations(returns)
    scale = max(n_ever / returns.shape[1], 1.0)
    return TrialCounts(
        raw=float(n_ever), clusters=scale * len(np.unique(clusters(correlation))),
        participation=scale * participation_ratio(correlation), autocorrelation=scale * effective_trials(scores),
    )  # fmt: skip
