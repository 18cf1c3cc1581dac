"""How two groups of trials differ, by rank, and how sure that is. Pure; numpy only.

Sources: Cliff 1993 (delta); Mann & Whitney 1947 with the strata of van Elteren 1960; Benjamini & Hochberg 1995.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]
Codes = NDArray[np.int64]
RESAMPLES = 400
PLACES = 512  # the bootstrap compares places among this many levels of the pooled values, ties staying ties


def midranks(values: Float) -> Float:
    """Ranks from 1, ties at their average."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Float = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    return ranks


def cliffs_delta(a: Float, b: Float) -> float:
    """P(a > b) − P(a < b) over all pairs."""
    ranks = midranks(np.concatenate([a, b]))
    u = float(ranks[: len(a)].sum()) - len(a) * (len(a) + 1) / 2
    return 2.0 * u / (len(a) * len(b)) - 1.0


def delta_interval(a: Float, b: Float, rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile bootstrap of Cliff's delta, both groups resampled; values beyond PLACES levels are grouped."""
    levels = np.unique(np.concatenate([a, b]))
    if len(levels) > PLACES:
        levels = levels[np.linspace(0, len(levels) - 1, PLACES).round().astype(int)]
    ours, theirs = (_drawn_counts(np.searchsorted(levels, x), len(levels), rng) for x in (a, b))
    below = np.cumsum(theirs, axis=1) - theirs  # theirs strictly below each level
    above = len(b) - below - theirs
    drawn = (ours * (below - above)).sum(axis=1) / (len(a) * len(b))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def mix_distance(top: Codes, rest: Codes, n_choices: int) -> float:
    """Total variation: the share of the top group that would have to choose otherwise to look like the rest."""
    shares = [np.bincount(x, minlength=n_choices) / len(x) for x in (top, rest)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2.0)


def mix_interval(top: Codes, rest: Codes, n_choices: int, rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile bootstrap of `mix_distance`."""
    shares = [_drawn_counts(x, n_choices, rng) / len(x) for x in (top, rest)]
    low, high = np.quantile(np.abs(shares[0] - shares[1]).sum(axis=1) / 2.0, [0.025, 0.975])
    return float(low), float(high)


def rank_sum_p(values: Float, top: Mask, strata: Codes) -> float:
    """Two-sided p of Mann-Whitney within strata, normal approximation with tie and continuity correction.

    With one stratum this is the ordinary test. Strata of trial numbers keep a sampler's drift from being a finding.
    """
    shift, variance, step = 0.0, 0.0, math.inf
    for label in np.unique(strata):
        inside = strata == label
        n, m = int(top[inside].sum()), int((~top[inside]).sum())
        if n == 0 or m == 0:
            continue
        weight = 1.0 / (n + m + 1)
        ranks = midranks(values[inside])
        shift += weight * (float(ranks[top[inside]].sum()) - n * (n + m + 1) / 2)
        # the variance of a sum of n of these ranks drawn without replacement: ties are in the ranks themselves
        variance += weight**2 * n * m / (n + m) * float(ranks.var(ddof=1))
        step = min(step, weight)
    if variance <= 0.0:
        return 1.0
    z = max(0.0, abs(shift) - 0.5 * step) / math.sqrt(variance)
    return 2.0 * NormalDist().cdf(-z)


def spearman(a: Float, b: Float) -> float:
    """Rank correlation; 0 when either does not vary."""
    x, y = midranks(a), midranks(b)
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / norm if norm > 0 else 0.0


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (q) in the given order."""
    order = np.argsort(p_values)[::-1]
    adjusted, least, n = [1.0] * len(p_values), 1.0, len(p_values)
    for i, index in enumerate(order):
        least = min(least, p_values[index] * n / (n - i))
        adjusted[index] = least
    return adjusted


def binomial_tail(k: int, n: int, p: float) -> float:
    """P(X ≥ k) of n draws."""
    if k <= 0:
        return 1.0
    if p <= 0.0:
        return 0.0
    if p >= 1.0:
        return 1.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k, n + 1)
    ]
    return min(1.0, sum(math.exp(x) for x in logs))


def _drawn_counts(codes: Codes, n_levels: int, rng: np.random.Generator) -> Float:
    """(RESAMPLES, n_levels) how often each level is drawn when the group is resampled."""
    drawn = rng.choice(codes, size=(RESAMPLES, len(codes)))
    drawn += n_levels * np.arange(RESAMPLES)[:, None]
    counts: Float = (
        np.bincount(drawn.ravel(), minlength=RESAMPLES * n_levels).reshape(RESAMPLES, n_levels).astype(float)
    )
    return counts
