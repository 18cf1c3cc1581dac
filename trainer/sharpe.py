"""The Sharpe ratio, how far it can be trusted, and what having tried many times makes of it.

Per-bar units inside; annualise for display. Kurtosis is raw (normal = 3). Sources: Bailey & Lopez de Prado 2012
("The Sharpe Ratio Efficient Frontier": PSR, MinTRL) and 2014 ("The Deflated Sharpe Ratio"); Bailey, Borwein,
Lopez de Prado & Zhu 2014 ("Pseudo-Mathematics": MinBTL); Nadeau & Bengio 2003 ("Inference for the Generalization
Error").
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from features.errors import DataError

Float = NDArray[np.float64]
EULER_GAMMA = 0.5772156649015329
_NORMAL = NormalDist()


class Sharpe(float):
    """A Sharpe ratio: a pure number per square root of time, which is never a percentage of anything."""

    __slots__ = ()

    def __format__(self, spec: str, /) -> str:
        if spec.endswith("%"):
            raise DataError("a Sharpe ratio is not a percentage", hint="format it as a number, or show the return")
        return super().__format__(spec)


def sharpe(returns: Float) -> Sharpe:
    """Mean over standard deviation (ddof 1) per bar. DataError when the returns do not vary or are not finite."""
    if len(returns) < 2 or not np.isfinite(returns).all():
        raise DataError("a Sharpe ratio needs at least two finite returns")
    if not varies(returns):
        raise DataError("a Sharpe ratio needs returns that vary")
    return Sharpe(returns.mean() / returns.std(ddof=1))


def varies(values: Float) -> bool:
    """Whether any two values differ; a standard deviation of equal values need not round to zero."""
    return bool(np.ptp(values) > 0.0)


def annualised(per_bar: float, bars_per_year: float) -> Sharpe:
    """A per-bar Sharpe ratio (or its standard error) per year. The only place that annualises one."""
    return Sharpe(per_bar * math.sqrt(bars_per_year))


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


def resampled_mean_se(values: Float, *, test_share: float) -> float:
    """Standard error of the mean of J overlapping splits: sqrt((1/J + n_test/n_train)·s²) (Nadeau & Bengio 2003).

    values: (J,), one per split. test_share: test bars over training bars of a split; 0 where splits are independent.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        raise DataError("a standard error needs at least two finite values")
    return math.sqrt((1.0 / len(values) + test_share) * float(values.var(ddof=1)))
