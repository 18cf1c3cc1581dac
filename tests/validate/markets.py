"""Markets on which the right verdict is known: nothing to find, or a signal whose worth was measured.

Four-hourly bars of seven coins, seven and a half years where the world is simulated: few enough for a study in minutes.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from world import REAL

from features.bars import Bars
from features.sources.planted import oracle_excess_returns
from features.sources.recorded import RecordedSource
from features.sources.simulated import simulate

TICKERS = ("AAVE", "AVAX", "BTC", "ETH", "LINK", "LTC", "UNI")
TIMEFRAME_S = 14_400
N_BARS = 16_425
START_S = 1_262_304_000  # 2010-01-01
# Of `simulation.oracle_sharpe`, which is calibrated on hourly bars: at it the oracle's excess over 1/N has an annual Sharpe
# ratio of about 1.5 on four-hourly ones (each table says what it was on its own markets).
SETTING_FOR_1_5 = 5.15

Float = NDArray[np.float64]


def market(world: str, seed: int) -> Bars:
    """`null`, `shuffled` (real candles in another order) or `planted`."""
    if world == "null":
        return simulate(world="null", seed=seed, bars=N_BARS, tickers=TICKERS, timeframe_s=TIMEFRAME_S, start_s=START_S)
    if world == "shuffled":
        return _reordered(_real(), np.random.default_rng(seed))
    return simulate(
        world="planted", seed=seed, bars=N_BARS, tickers=TICKERS, timeframe_s=TIMEFRAME_S, start_s=START_S,
        oracle_sharpe=SETTING_FOR_1_5,
    )  # fmt: skip


def oracle_sharpe(bars: Bars) -> float:
    """Annual, of the excess over 1/N after costs."""
    excess = oracle_excess_returns(bars)
    return float(excess.mean() / excess.std(ddof=1) * np.sqrt(365 * 86_400 / TIMEFRAME_S))


def _real() -> Bars:
    source = RecordedSource(path=REAL, tickers=TICKERS, timeframe_s=3600)
    hourly = source.bars(after_s=source.first_close_s() - 3600, until_s=source.last_close_s())
    first = int((-hourly.close_time_s[0] // 3600 + 1) % 4)  # the bar that opens on the grid
    n = (hourly.n_bars - first) // 4

    def grouped(name: str) -> Float:
        values: Float = getattr(hourly, name)[first : first + 4 * n].reshape(n, 4, -1)
        return values

    return Bars(
        tickers=TICKERS, timeframe_s=TIMEFRAME_S, close_time_s=hourly.close_time_s[first + 3 : first + 4 * n : 4],
        open=grouped("open")[:, 0], high=grouped("high").max(axis=1), low=grouped("low").min(axis=1),
        close=grouped("close")[:, -1], volume=grouped("volume").sum(axis=1), filled=grouped("filled").all(axis=1),
    )  # fmt: skip


def _reordered(bars: Bars, rng: np.random.Generator) -> Bars:
    """Whole rows in random order: every bar keeps its shape and its cross-section, and nothing follows from the past."""
    order = rng.permutation(bars.n_bars)
    return _chained(
        bars, _simple_returns(bars)[order],
        volume=(bars.volume * bars.close)[order], above=_above(bars)[order], below=_below(bars)[order],
    )  # fmt: skip


def _chained(bars: Bars, simple: Float, *, volume: Float, above: Float, below: Float) -> Bars:
    """Bars of these returns. volume: quote currency; above, below: log distance of high and low from the body."""
    close = bars.open[:1] * np.cumprod(1.0 + simple, axis=0)
    opened = np.vstack([bars.open[:1], close[:-1]])
    return replace(
        bars, open=opened, close=close, high=np.maximum(opened, close) * np.exp(above),
        low=np.minimum(opened, close) * np.exp(-below), volume=volume / close,
    )  # fmt: skip


def _simple_returns(bars: Bars) -> Float:
    simple: Float = bars.close / np.vstack([bars.open[:1], bars.close[:-1]]) - 1.0
    return simple


def _above(bars: Bars) -> Float:
    above: Float = np.log(bars.high / np.maximum(bars.open, bars.close))
    return above


def _below(bars: Bars) -> Float:
    below: Float = np.log(np.minimum(bars.open, bars.close) / bars.low)
    return below
