"""How much of a search's best result the search itself made: CSCV, and how many trials there really were.

Sources: Bailey, Borwein, Lopez de Prado & Zhu 2017 ("The Probability of Backtest Overfitting"); Lopez de Prado & Lewis 2019
("Detection of False Investment Strategies Using Unsupervised Learning Methods": trials that are alike count once); Geyer 1992
(initial positive sequence).
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from features.errors import DataError

Float = NDArray[np.float64]
SAME_BET = 0.5  # trials whose returns correlate above this, on average, are one bet tried twice
# The error of the difference between two Sharpe ratios is √(2(1 - ρ)) of the error of one: from this correlation on, a half.
A_COPY = 0.875
_ROWS = 1024  # combinations compared at a time, so that the temporaries stay near ten megabytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cscv:
    """What choosing the in-sample best is worth out of sample, over all ways of halving the blocks.

    pbo: share of logits ≤ 0. logits: (C,) of the best trial's relative out-of-sample rank. slope: of its
    out-of-sample on its in-sample per-bar Sharpe, least squares over halves. persistence: slope of out-of-sample on
    in-sample Sharpe over what is ranked within a half, all halves pooled. loss: share of halves where the best loses out
    of sample.

    `slope` is the paper's, and no measure of skill: a trial that is the best of every half has the slope -1, for what it
    earns in one half it does not earn in the other. `persistence` is free of that.
    """

    pbo: float
    logits: Float
    slope: float
    persistence: float
    loss: float


def cscv(
    returns: Float, *, kinds: NDArray[np.int64] | None = None, instead: Float | None = None, n_blocks: int = 16
) -> Cscv:  # fmt: skip
    """Combinatorially symmetric cross-validation.

    returns: (T, K) per-bar out-of-sample returns of K trials on the same bars; the last T mod n_blocks bars are left
    out. For every half of the blocks: the in-sample best by Sharpe, its rank w among the other half (average rank on
    ties) over the number ranked + 1, λ = ln(w / (1 - w)). A trial that never trades has a Sharpe of 0.

    kinds: (K,) labels 0, 1, … of trials that count as one in the rank and in the persistence: a kind is below the chosen
    trial to the share of its members that are, and the chosen one stands for its own. instead: (T, B) returns of what
    could be held instead of any trial; the one with the best Sharpe in sample is ranked as one more. Without either this
    is the paper's.
    """
    if n_blocks % 2 or returns.shape[1] < 2 or returns.shape[0] < 2 * n_blocks:
        raise DataError(f"PBO needs two trials and an even number of blocks of two bars, got {returns.shape}")
    if not np.isfinite(returns).all():
        raise DataError("a return is not finite")
    ratio = _half_sharpes(returns, n_blocks)
    held = np.zeros((len(ratio), 0)) if instead is None else _half_sharpes(instead, n_blocks)
    label = np.arange(returns.shape[1]) if kinds is None else kinds
    size = np.bincount(label)
    order, first = np.argsort(label, kind="stable"), np.cumsum(size) - size
    inside, outside = _best(ratio)
    best = ratio.argmax(axis=1)
    beside = [x[:, None] for x in _best(held)] if held.shape[1] else [held, held]
    rank, moved, square = np.ones(len(ratio)), 0.0, 0.0
    for rows in (slice(a, a + _ROWS) for a in range(0, len(ratio), _ROWS)):
        others = label != label[best[rows], None]
        rank[rows] += (_below(ratio[::-1][rows], outside[rows]) * others) @ (1.0 / size[label])
        rank[rows] += _below(beside[1][rows], outside[rows]).sum(axis=1)
        x, y = (
            np.concatenate([np.add.reduceat(half[rows][:, order], first, axis=1) / size, one[rows]], axis=1)
            for half, one in zip((ratio, ratio[::-1]), beside, strict=True)
        )
        x = x - x.mean(axis=1, keepdims=True)
        moved, square = moved + float((x * y).sum()), square + float((x**2).sum())
    share = rank.round(9) / (len(size) + beside[0].shape[1] + 1)
    logits = np.log(share / (1 - share))
    spread = inside - inside.mean()
    return Cscv(
        pbo=float((logits <= 0).mean()), logits=logits, loss=float((outside < 0).mean()),
        slope=_over(float(spread @ outside), float(spread @ spread)), persistence=_over(moved, square),
    )  # fmt: skip


def _best(ratio: Float) -> tuple[Float, Float]:
    """(C,) Sharpe of every half's best, in it and out of it."""
    row, best = np.arange(len(ratio)), ratio.argmax(axis=1)
    # halves come in lexicographic order, in which the complement of the first is the last, and so on
    return ratio[row, best], ratio[::-1][row, best]


def _below(values: Float, of: Float) -> Float:
    below: Float = (values < of[:, None]) + (values == of[:, None]) / 2
    return below


def _over(product: float, square: float) -> float:
    return product / square if square > 0 else 0.0


def _half_sharpes(returns: Float, n_blocks: int) -> Float:
    """(C, K) per-bar Sharpe of every trial in every half, from sums per block; 0 where it never moves."""
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
    moves = chosen @ (np.ptp(blocks, axis=1) > 0)  # blocks of the half; in none, only rounding is left of it
    ratio: Float = np.where(moves > 0, (mean + centre) / np.sqrt(np.maximum(square, 1e-300)), 0.0)
    return ratio


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
    link, size, alive = correlation.astype(float), np.ones(len(correlation)), np.arange(len(correlation))
    np.fill_diagonal(link, -np.inf)
    # Müllner 2011 ("Modern hierarchical, agglomerative clustering algorithms"): a row that lost its best link keeps it as a
    # bound, since averages grow no larger, and is searched anew only when it comes first. K² where a search would be K³.
    partner, stale = link.argmax(axis=1), np.zeros(len(link), dtype=bool)
    best = link[alive, partner]
    while (highest := best[i := int(best.argmax())]) > -np.inf and highest >= at_least:
        if stale[i]:
            partner[i] = link[i].argmax()
            best[i], stale[i] = link[i, partner[i]], False
            continue
        i, j = sorted((i, int(partner[i])))
        merged = (size[i] * link[i] + size[j] * link[j]) / (size[i] + size[j])
        merged[[i, j]] = -np.inf
        link[i], link[:, i] = merged, merged
        link[j], link[:, j] = -np.inf, -np.inf
        size[i] += size[j]
        alive[alive == j] = i
        raised, level = merged > best, (merged == best) & ~stale
        stale = (stale | (partner == i) | (partner == j)) & ~raised & ~level
        partner[raised], best[raised] = i, merged[raised]
        partner[level] = np.minimum(partner[level], i)
        best[j], stale[i] = -np.inf, True
    _, first, label = np.unique(alive, return_index=True, return_inverse=True)
    order: NDArray[np.int64] = np.argsort(np.argsort(first))[label]
    return order


def kinds_of(returns: Float, baseline: Float) -> NDArray[np.int64]:
    """(K,) which trials are copies of one another: alike in what they earn and in what they earn beyond the baseline.

    returns: (T, K); baseline: (T,). Raw returns alone make one kind of all that hold the market, returns beyond it one of
    all that hold little.
    """
    alike = np.minimum(correlations(returns), correlations(returns - baseline[:, None]))
    return clusters(alike, at_least=A_COPY)


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
