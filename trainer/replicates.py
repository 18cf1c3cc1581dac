"""What repeated runs of one configuration say: seeds × folds, few and paired.

Sources: Agarwal et al. 2021 ("Deep Reinforcement Learning at the Edge of the Statistical Precipice": IQM, stratified
bootstrap, probability of improvement); Wilcoxon 1945 (signed ranks, here exact).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.errors import DataError

Float = NDArray[np.float64]


def interquartile_mean(values: Float) -> float:
    """Mean after dropping floor(n / 4) of all values at each end."""
    flat = np.sort(values, axis=None)
    cut = len(flat) // 4
    return float(flat[cut : len(flat) - cut].mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and the ends of its bootstrap interval, in the unit of the values."""

    value: float
    low: float
    high: float


def iqm_interval(
    scores: Float, *, n_resamples: int, rng: np.random.Generator, confidence: float = 0.95
) -> Interval:  # fmt: skip
    """IQM of scores (seeds, folds) with a percentile interval; seeds are resampled within each fold."""
    return _interval(
        interquartile_mean(scores), lambda: interquartile_mean(_resampled(scores, rng)), n_resamples, confidence
    )


def probability_of_improvement(ours: Float, theirs: Float) -> float:
    """P(a seed of ours beats a seed of theirs), ties half, averaged over folds. (seeds, folds), equal folds."""
    if ours.shape[1] != theirs.shape[1]:
        raise DataError(f"{ours.shape[1]} folds of ours against {theirs.shape[1]} of theirs")
    sign = np.sign(ours[:, None, :] - theirs[None, :, :])
    return float((sign.mean() + 1.0) / 2.0)


def improvement_interval(
    ours: Float, theirs: Float, *, n_resamples: int, rng: np.random.Generator, confidence: float = 0.95
) -> Interval:
    return _interval(
        probability_of_improvement(ours, theirs),
        lambda: probability_of_improvement(_resampled(ours, rng), _resampled(theirs, rng)), n_resamples, confidence,
    )  # fmt: skip


def _resampled(scores: Float, rng: np.random.Generator) -> Float:
    index = rng.integers(0, scores.shape[0], size=scores.shape)
    return np.take_along_axis(scores, index, axis=0)


def _interval(value: float, draw: Callable[[], float], n_resamples: int, confidence: float) -> Interval:
    drawn = [draw() for _ in range(n_resamples)]
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value=value, low=float(low), high=float(high))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRank:
    """Wilcoxon's signed ranks of paired differences, exact also with ties; zeros are dropped.

    plus, minus: rank sums of positive and negative differences. p_less: of a rank sum as low as `plus` when the
    differences are symmetric about zero; p_greater: as high. p_two_sided: twice the smaller, at most 1.
    """

    plus: float
    minus: float
    p_less: float
    p_greater: float
    p_two_sided: float


def signed_rank(differences: Float) -> SignedRank:
    """DataError when a difference is not finite. All p-values are 1 when every difference is zero."""
    if not np.isfinite(differences).all():
        raise DataError("a paired difference is not finite")
    kept = differences[differences != 0]
    _, tied, count = np.unique(np.abs(kept), return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    doubled = (2 * last - count + 1)[tied]  # twice the average rank: an integer, so the count below is exact
    total = int(doubled.sum())
    ways = [1] + [0] * total  # Python integers: 2**n does not round
    for rank in (int(r) for r in doubled):
        ways = [w + (ways[i - rank] if i >= rank else 0) for i, w in enumerate(ways)]
    plus = int(doubled[kept > 0].sum())
    every = 2 ** len(kept)
    less, greater = sum(ways[: plus + 1]) / every, sum(ways[plus:]) / every
    return SignedRank(
        plus=plus / 2, minus=(total - plus) / 2, p_less=less, p_greater=greater,
        p_two_sided=min(1.0, 2 * min(less, greater)),
    )  # fmt: skip
