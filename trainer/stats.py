"""Statistics of returns and of having tried many times. numpy and the standard normal only.

Per-bar units inside; annualise for display. Kurtosis is raw (normal = 3). Sources: Bailey & Lopez de Prado 2012
("The Sharpe Ratio Efficient Frontier": PSR, MinTRL) and 2014 ("The Deflated Sharpe Ratio"); Bailey, Borwein,
Lopez de Prado & Zhu 2014 ("Pseudo-Mathematics": MinBTL) and 2017 ("The Probability of Backtest Overfitting": CSCV);
Politis & Romano 1994 (stationary bootstrap).
"""

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from features.errors import DataError

Float = NDArray[np.float64]
EULER_GAMMA = 0.5772156649015329
_NORMAL = NormalDist()


def sharpe(returns: Float) -> float:
    """Mean over standard deviation (ddof 1) per bar. DataError when the returns do not vary or are not finite."""
    if len(returns) < 2 or not np.isfinite(returns).all():
        raise DataError("a Sharpe ratio needs at least two finite returns")
    if not varies(returns):
        raise DataError("a Sharpe ratio needs returns that vary")
    return float(returns.mean()) / float(returns.std(ddof=1))


def varies(values: Float) -> bool:
    """Whether any two values differ; a standard deviation of equal values need not round to zero."""
    return bool(np.ptp(values) > 0.0)


def annualised(per_bar: float, bars_per_year: float) -> float:
    """A per-bar Sharpe ratio (or its standard error) per year."""
    return per_bar * math.sqrt(bars_per_year)


def moments(returns: Float) -> tuple[float, float]:
    """Biased skewness and raw kurtosis."""
    z = (returns - returns.mean()) / returns.std()
    return float((z**3).mean()), float((z**4).mean())


def _variance_factor(sr: float, skew: float, kurtosis: float) -> float:
    return 1.0 - skew * sr + (kurtosis - 1.0) / 4.0 * sr * sr


def sharpe_se(returns: Float) -> float:
    """Standard error of the per-bar Sharpe ratio, skew and kurtosis in (Lo 2002; Mertens 2002)."""
    skew, kurtosis = moments(returns)
    return math.sqrt(_variance_factor(sharpe(returns), skew, kurtosis) / (len(returns) - 1))


def probabilistic_sharpe(sr: float, *, benchmark: float, n: int, skew: float, kurtosis: float) -> float:
    """PSR: probability that the true per-bar Sharpe exceeds `benchmark`, given `n` returns."""
    return _NORMAL.cdf((sr - benchmark) * math.sqrt(n - 1) / math.sqrt(_variance_factor(sr, skew, kurtosis)))


def expected_max_normal(n: int) -> float:
    """E[max] of n independent standard normals; 0 below two."""
    if n < 2:
        return 0.0
    return (1 - EULER_GAMMA) * _NORMAL.inv_cdf(1 - 1 / n) + EULER_GAMMA * _NORMAL.inv_cdf(1 - 1 / (n * math.e))


def deflated_sharpe(
    sr: float, *, n_trials: int, trial_variance: float, n: int, skew: float, kurtosis: float
) -> tuple[float, float]:
    """(DSR, SR0): PSR against SR0, the best Sharpe `n_trials` skill-less trials would show. All per bar."""
    sr0 = math.sqrt(trial_variance) * expected_max_normal(n_trials)
    return probabilistic_sharpe(sr, benchmark=sr0, n=n, skew=skew, kurtosis=kurtosis), sr0


def min_track_record(sr: float, *, benchmark: float, skew: float, kurtosis: float, confidence: float = 0.95) -> float:
    """MinTRL: bars needed to reject `benchmark`; infinite when sr does not exceed it."""
    if sr <= benchmark:
        return math.inf
    return 1 + _variance_factor(sr, skew, kurtosis) * (_NORMAL.inv_cdf(confidence) / (sr - benchmark)) ** 2


def min_backtest_length_years(n_trials: int, annual_sharpe: float = 1.0) -> float:
    """MinBTL: years below which `n_trials` skill-less trials are expected to show `annual_sharpe`."""
    return (expected_max_normal(n_trials) / annual_sharpe) ** 2


def pbo(returns: Float, *, n_blocks: int = 16) -> tuple[float, Float]:
    """(PBO, logits) by combinatorially symmetric cross-validation.

    returns: (T, K) per-bar out-of-sample returns of K trials on the same bars. For every half of the blocks: the
    in-sample best, its rank among the other half (average rank on ties), λ = ln(w / (1 - w)); PBO = share of λ ≤ 0.
    """
    if n_blocks % 2 or returns.shape[1] < 2 or returns.shape[0] < 2 * n_blocks:
        raise DataError(f"PBO needs two trials and an even number of blocks of two bars, got {returns.shape}")
    usable = returns[: len(returns) // n_blocks * n_blocks]
    blocks = usable.reshape(n_blocks, -1, returns.shape[1])
    totals, squares, size = blocks.sum(axis=1), (blocks**2).sum(axis=1), blocks.shape[1]
    chosen = np.zeros((math.comb(n_blocks, n_blocks // 2), n_blocks))
    for row, half in enumerate(combinations(range(n_blocks), n_blocks // 2)):
        chosen[row, list(half)] = 1.0
    count = size * n_blocks // 2
    inside = _block_sharpe(chosen @ totals, chosen @ squares, count)
    outside = _block_sharpe((1 - chosen) @ totals, (1 - chosen) @ squares, count)
    best = inside.argmax(axis=1)
    picked = outside[np.arange(len(best)), best][:, None]
    rank = (outside < picked).sum(axis=1) + ((outside == picked).sum(axis=1) + 1) / 2
    share = rank / (returns.shape[1] + 1)
    logits = np.log(share / (1 - share))
    return float((logits <= 0).mean()), logits


def _block_sharpe(total: Float, square: Float, count: int) -> Float:
    mean = total / count
    spread = np.sqrt(np.maximum((square - count * mean**2) / (count - 1), 1e-300))
    ratio: Float = mean / spread
    return ratio


def interquartile_mean(values: Float) -> float:
    """Mean after dropping floor(n / 4) values at each end."""
    cut = len(values) // 4
    return float(np.sort(values)[cut : len(values) - cut].mean())


def bootstrap_p(differences: Float, *, mean_block: float, n_resamples: int, rng: np.random.Generator) -> float:
    """One-sided p of mean(differences) ≤ 0 by the stationary bootstrap (geometric blocks, mean `mean_block` bars)."""
    n = len(differences)
    observed = float(differences.mean())
    centred = differences - observed
    exceed = 0
    for _ in range(n_resamples):
        fresh = rng.random(n) < 1.0 / mean_block
        fresh[0] = True
        starts = rng.integers(0, n, size=n)
        position = np.arange(n)
        origin = np.maximum.accumulate(np.where(fresh, position, 0))
        index = (starts[origin] + position - origin) % n
        exceed += float(centred[index].mean()) >= observed
    return (exceed + 1) / (n_resamples + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values in the given order."""
    order = np.argsort(p_values)
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted
