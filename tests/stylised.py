"""Measures of the stylised facts of hourly candles, and the band in which a simulated world must keep each.

A measure maps returns and candles of true bars to one number per ticker, or to a single number where only BTC or the
whole cross-section is meant. Bars filled forward are left out: no trade happened in them. Kurtosis is the plain fourth
moment (3 for a normal law). `TABLE` is the range over seven real tickers, 2020-10 to 2024-09.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from features.bars import Bars
from features.sources.simulated import HOUR_SCALE, WEEKDAY_SCALE

BTC = "BTC"
HOURS_PER_YEAR = 8760
NEAR_ZERO = 0.02
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What the real candles show, lowest to highest ticker."""

    low: float
    high: float
    near_zero: bool = False

    def widened(self) -> tuple[float, float]:
        """A quarter wider on either side, ±.02 where the statistic itself is near zero."""
        if self.near_zero:
            return self.low - NEAR_ZERO, self.high + NEAR_ZERO
        low, high = 0.75 * self.low, 1.25 * self.high
        return (1.25 * self.low if self.low < 0 else low), high


def _band(low: float, high: float | None = None, *, near_zero: bool = False) -> Range:
    return Range(low=low, high=low if high is None else high, near_zero=near_zero)


TABLE = {
    "annual volatility": _band(0.65, 1.32),
    "kurtosis 1 h": _band(17, 63),
    "kurtosis 24 h": _band(6.2, 11.7),
    "Hill index 2 %": _band(3.13, 3.38),
    "skew 1 h": _band(-1.06, 0.94),
    "acf r 1": _band(-0.04, 0.01, near_zero=True),
    "acf r 24": _band(-0.04, -0.03, near_zero=True),
    "acf |r| 1": _band(0.27, 0.32),
    "acf |r| 24": _band(0.17, 0.22),
    "acf |r| 168": _band(0.12, 0.17),
    "acf |r| 720": _band(0.08, 0.11),
    "corr r, r² of the next day": _band(-0.06, -0.02, near_zero=True),
    "corr |r|, volume": _band(0.32, 0.66),
    "corr log |r|, log volume": _band(0.33, 0.54),
    "mean pairwise correlation": _band(0.704),
    "BTC kurtosis 1 h": _band(17.8),
    "BTC kurtosis 4 h": _band(12.6),
    "BTC kurtosis 24 h": _band(7.2),
    "BTC kurtosis 168 h": _band(5.0),
    "BTC range over mean |r|": _band(2.18),
    "BTC 5-sigma hours, %": _band(0.45),
    **{f"BTC |r| at {hour:02d} h": _band(scale) for hour, scale in enumerate(HOUR_SCALE)},
    **{f"BTC |r| on {day}": _band(scale) for day, scale in zip(WEEKDAYS, WEEKDAY_SCALE, strict=True)},
}  # fmt: skip


def facts(bars: Bars) -> dict[str, np.ndarray]:
    """Every row of TABLE measured on hourly `bars`: (N,), or (1,) where a row has one number."""
    true = ~bars.filled.any(axis=1)
    opened_s = bars.close_time_s[true][1:] - bars.timeframe_s
    close = np.log(bars.close[true])
    returns, volume = np.diff(close, axis=0), bars.volume[true][1:]
    size = np.abs(returns)
    btc = bars.tickers.index(BTC)
    at_midnight = np.diff(close[bars.close_time_s[true] % 86_400 == 0], axis=0)
    span = np.log(bars.high[true] / bars.low[true])[1:, btc]
    measured = {
        "annual volatility": returns.std(axis=0) * np.sqrt(HOURS_PER_YEAR),
        "kurtosis 1 h": kurtosis(returns),
        "kurtosis 24 h": kurtosis(at_midnight),
        "Hill index 2 %": hill_index(size, share=0.02),
        "skew 1 h": _moment(returns, 3),
        "corr r, r² of the next day": _correlations(returns[:-24], _next_day_square(returns)),
        "corr |r|, volume": _correlations(size, volume),
        "corr log |r|, log volume": _log_correlations(size, volume),
        "mean pairwise correlation": np.corrcoef(returns.T)[np.triu_indices(bars.n_tickers, 1)].mean(keepdims=True),
        "BTC range over mean |r|": span.mean(keepdims=True) / size[:, btc].mean(),
        "BTC 5-sigma hours, %": 100.0 * _share_beyond(returns[:, btc], sigmas=5.0, window=168),
    }
    measured |= {f"acf r {lag}": autocorrelation(returns, lag) for lag in (1, 24)}
    measured |= {f"acf |r| {lag}": autocorrelation(size, lag) for lag in (1, 24, 168, 720)}
    # Overlapping spans: every offset counts, where one alone scatters by a quarter.
    measured |= {f"BTC kurtosis {h} h": kurtosis(close[h:, [btc]] - close[:-h, [btc]]) for h in (1, 4, 24, 168)}
    mean = size[:, btc].mean()
    hour, day = opened_s // 3600 % 24, (opened_s // 86_400 + 3) % 7  # 1970-01-01 was a Thursday
    measured |= {f"BTC |r| at {h:02d} h": size[hour == h, btc].mean(keepdims=True) / mean for h in range(24)}
    measured |= {f"BTC |r| on {n}": size[day == d, btc].mean(keepdims=True) / mean for d, n in enumerate(WEEKDAYS)}
    return {name: measured[name] for name in TABLE}


def medians(worlds: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The median over worlds of every fact, ticker by ticker."""
    return {name: np.median([facts_of[name] for facts_of in worlds], axis=0) for name in TABLE}


def outside(measured: dict[str, np.ndarray]) -> dict[str, str]:
    """The facts whose lowest or highest ticker leaves its widened band, with what was measured."""
    wrong = {}
    for name, values in measured.items():
        low, high = TABLE[name].widened()
        if not (low <= values.min() and values.max() <= high):
            wrong[name] = f"{values.min():.3f} to {values.max():.3f}, band {low:.3f} to {high:.3f}"
    return wrong


def kurtosis(values: np.ndarray) -> np.ndarray:
    return _moment(values, 4)


def hill_index(size: np.ndarray, *, share: float) -> np.ndarray:
    """Tail index of the largest `share` of each column of positive numbers."""
    largest = np.sort(size, axis=0)[::-1]
    k = int(share * len(size))
    index: np.ndarray = 1.0 / np.log(largest[:k] / largest[k]).mean(axis=0)
    return index


def autocorrelation(values: np.ndarray, lag: int) -> np.ndarray:
    return _correlations(values[:-lag], values[lag:])


def _moment(values: np.ndarray, order: int) -> np.ndarray:
    centred = values - values.mean(axis=0)
    moment: np.ndarray = (centred**order).mean(axis=0) / centred.std(axis=0) ** order
    return moment


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Column by column."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    correlation: np.ndarray = (a * b).mean(axis=0) / (a.std(axis=0) * b.std(axis=0))
    return correlation


def _log_correlations(size: np.ndarray, volume: np.ndarray) -> np.ndarray:
    """Column by column, over the bars in which the price moved."""
    moved = (size > 0) & (volume > 0)
    columns = [np.corrcoef(np.log(s[m]), np.log(v[m]))[0, 1] for s, v, m in zip(size.T, volume.T, moved.T, strict=True)]
    return np.array(columns)


def _next_day_square(returns: np.ndarray) -> np.ndarray:
    """(T−24, N) sum of the squared returns of the 24 bars after each bar."""
    total = np.cumsum(np.vstack([np.zeros((1, returns.shape[1])), returns**2]), axis=0)
    return (total[24:] - total[:-24])[1:]


def _share_beyond(returns: np.ndarray, *, sigmas: float, window: int) -> np.ndarray:
    """(1,) share of bars beyond `sigmas` standard deviations of the `window` bars before them."""
    known = pd.Series(returns).rolling(window).std().shift(1).to_numpy()[window:]
    return np.array([(np.abs(returns[window:]) > sigmas * known).mean()])
