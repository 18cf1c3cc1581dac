"""Whether a strategy beats others on the same bars: the stationary bootstrap and the tests built on it.

Sources: Politis & Romano 1994 (stationary bootstrap); Hansen 2005 ("A Test for Superior Predictive Ability"); Romano &
Wolf 2005 (StepM); Hansen, Lunde & Nason 2011 ("The Model Confidence Set").
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.errors import DataError

Float = NDArray[np.float64]
Generator = np.random.Generator
_DRAWN_TOGETHER = 262_144  # bars drawn at a time: a few megabytes, and few calls for short samples


def resampled_means(values: Float, *, mean_block: float, n_resamples: int, rng: Generator) -> Float:
    """(B, K) column means of values (T, K), B times resampled in geometric blocks of `mean_block` bars on average.

    One draw of bars serves all columns, so their dependence is kept.
    """
    if not np.isfinite(values).all():
        raise DataError("a value to be resampled is not finite")
    n, rows = len(values), max(1, _DRAWN_TOGETHER // len(values))
    means = []
    for done in range(0, n_resamples, rows):
        index = _stationary(n, min(rows, n_resamples - done), mean_block, rng)
        flat = index + n * np.arange(len(index))[:, None]
        count = np.bincount(flat.ravel(), minlength=len(index) * n).reshape(-1, n)
        means.append(count @ values / n)
    return np.concatenate(means)


def resampled_paths(
    values: Float, *, at: NDArray[np.int64], mean_block: float, n_resamples: int, rng: Generator
) -> Float:  # fmt: skip
    """(B, len(at)) running sums of values (T,) after `at` bars, each in another order of the stationary bootstrap."""
    paths = []
    for _ in range(n_resamples):
        drawn = values[_stationary(len(values), 1, mean_block, rng)[0]]
        paths.append(np.concatenate([[0.0], np.cumsum(drawn)])[at])
    return np.array(paths)


def _stationary(n: int, rows: int, mean_block: float, rng: Generator) -> NDArray[np.int64]:
    """(rows, n) bar indices: blocks begin anywhere, have geometric lengths and wrap around the end."""
    fresh = rng.random((rows, n)) < 1.0 / mean_block
    starts, position = rng.integers(0, n, size=(rows, n)), np.arange(n)
    origin = np.maximum.accumulate(np.where(fresh, position, 0), axis=1)
    index: NDArray[np.int64] = (np.take_along_axis(starts, origin, axis=1) + position - origin) % n
    return index


def bootstrap_p(differences: Float, *, mean_block: float, n_resamples: int, rng: Generator) -> float:
    """One-sided p of mean(differences) ≤ 0 for paired differences (T,)."""
    return bootstrap_p_values(differences[:, None], mean_block=mean_block, n_resamples=n_resamples, rng=rng)[0]


def bootstrap_p_values(differences: Float, *, mean_block: float, n_resamples: int, rng: Generator) -> list[float]:
    """(K,) one-sided p of mean ≤ 0 for each column of paired differences (T, K)."""
    observed = differences.mean(axis=0)
    means = resampled_means(differences - observed, mean_block=mean_block, n_resamples=n_resamples, rng=rng)
    exceed = (means >= observed).sum(axis=0)
    return [(int(n) + 1) / (n_resamples + 1) for n in exceed]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values in the given order."""
    order = np.argsort(p_values)
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted


def long_run_variance(values: Float, *, mean_block: float) -> Float:
    """(K,) variance of sqrt(T)·mean under the stationary bootstrap, in closed form (Politis & Romano 1994, lemma 1)."""
    n = len(values)
    centred = values - values.mean(axis=0)
    spectrum = np.fft.rfft(centred, n=2 * n, axis=0)
    cov = np.fft.irfft(spectrum * spectrum.conj(), axis=0)[:n] / n
    lag, keep = np.arange(1, n), 1.0 - 1.0 / mean_block
    kernel = (1 - lag / n) * keep**lag + lag / n * keep ** (n - lag)
    variance: Float = cov[0] + 2.0 * kernel @ cov[1:]
    return variance


def _studentised(advantage: Float, means: Float, *, mean_block: float) -> tuple[Float, Float]:
    """(observed (K,), resampled (B, K)) means over their standard errors, resampled ones centred by Hansen's rule.

    means: (B, K) resampled means of advantage.

    A column far below zero (sqrt(T)·mean < -omega·sqrt(2·ln ln T)) keeps its deficit and cannot raise the p-value.
    """
    n = len(advantage)
    mean, omega = advantage.mean(axis=0), np.sqrt(long_run_variance(advantage, mean_block=mean_block))
    if not (omega > 0).all():
        raise DataError("a difference of returns does not vary", hint="leave out a strategy equal to the benchmark")
    valid = math.sqrt(n) * mean >= -omega * math.sqrt(2 * math.log(math.log(n)))
    scale = math.sqrt(n) / omega
    return mean * scale, (means - np.where(valid, mean, 0.0)) * scale


def spa(advantage: Float, *, mean_block: float, n_resamples: int, rng: Generator) -> float:
    """p that no column truly exceeds zero: Hansen's consistent, studentised test of superior predictive ability.

    advantage: (T, K) per-bar returns of K strategies less the benchmark's.
    """
    means = resampled_means(advantage, mean_block=mean_block, n_resamples=n_resamples, rng=rng)
    return _spa(advantage, means, mean_block=mean_block)


def spa_against(
    strategies: Float, benchmarks: Float, *, mean_block: float, n_resamples: int, rng: Generator
) -> list[float]:  # fmt: skip
    """`spa` of strategies (T, K) against every column of benchmarks (T, M), from one draw of bars.

    A strategy equal to the benchmark has no advantage and is left out; 1 when none is left.
    """
    k = strategies.shape[1]
    both = np.concatenate([strategies, benchmarks], axis=1)
    means = resampled_means(both, mean_block=mean_block, n_resamples=n_resamples, rng=rng)
    p_values = []
    for m in range(benchmarks.shape[1]):
        advantage = strategies - benchmarks[:, m : m + 1]
        moves = np.ptp(advantage, axis=0) > 0.0
        drawn = means[:, :k][:, moves] - means[:, k + m : k + m + 1]
        p_values.append(_spa(advantage[:, moves], drawn, mean_block=mean_block) if moves.any() else 1.0)
    return p_values


def _spa(advantage: Float, means: Float, *, mean_block: float) -> float:
    observed, resampled = _studentised(advantage, means, mean_block=mean_block)
    exceed = np.maximum(resampled.max(axis=1), 0.0) >= max(observed.max(), 0.0)
    return (int(exceed.sum()) + 1) / (len(means) + 1)


def step_m(advantage: Float, *, size: float, mean_block: float, n_resamples: int, rng: Generator) -> frozenset[int]:
    """Columns of (T, K) that exceed zero, with the chance of even one false name held at `size`."""
    means = resampled_means(advantage, mean_block=mean_block, n_resamples=n_resamples, rng=rng)
    observed, resampled = _studentised(advantage, means, mean_block=mean_block)
    better = np.zeros(len(observed), dtype=bool)
    while not better.all():
        critical = np.quantile(resampled[:, ~better].max(axis=1), 1.0 - size)
        new = ~better & (observed > max(critical, 0.0))
        if not new.any():
            break
        better |= new
    return frozenset(int(i) for i in np.flatnonzero(better))


def confidence_set(returns: Float, *, mean_block: float, n_resamples: int, rng: Generator) -> Float:
    """(K,) p-value of each strategy's place among the best: those above the size form the model confidence set.

    returns: (T, K). Max statistic: while more than one is left, the worst by t-value against their average goes; its
    p-value is the largest met so far. The last one has 1. Equal strategies have equal p-values: they go together.
    """
    mean = returns.mean(axis=0)
    noise = resampled_means(returns - mean, mean_block=mean_block, n_resamples=n_resamples, rng=rng)
    spread = float(np.sqrt((noise**2).mean()))
    left, p_values, worst = np.ones(len(mean), dtype=bool), np.ones(len(mean)), 0.0
    while left.sum() > 1:
        drawn = noise[:, left] - noise[:, left].mean(axis=1, keepdims=True)
        deviation = np.sqrt((drawn**2).mean(axis=0))
        if not (deviation > 1e-9 * spread).all():
            break  # every strategy left is the same one
        deficit = (mean[left].mean() - mean[left]) / deviation
        exceed = (-drawn / deviation).max(axis=1) >= deficit.max()
        worst = max(worst, float(exceed.mean()))
        gone = np.flatnonzero(left)[deficit == deficit.max()]
        p_values[gone] = worst
        left[gone] = False
    return p_values
