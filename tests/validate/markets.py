"""Markets on which the right verdict is known: nothing to find, or a signal whose worth was measured.

Seven coins: four-hourly bars for seven and a half years (real candles: four) where there is nothing to find, few enough for
a study in a minute; twelve-hourly ones for half a century where there is.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from world import REAL

from features.bars import Bars
from features.sources.planted import planted_signal, returns_with_signal
from features.sources.recorded import RecordedSource
from features.sources.simulated import simulate

TICKERS = ("AAVE", "AVAX", "BTC", "ETH", "LINK", "LTC", "UNI")
TIMEFRAME_S = 14_400
N_BARS = 16_425
START_S = 1_262_304_000  # 2010-01-01
# Drift per bar of the planted momentum, in standard deviations of the signal and of relative volatility: at it the oracle
# below, over cash and after costs, has an annual Sharpe ratio of about 1.5 (each table says what it was on its own markets).
# The product's own planted world means 1.5 over 1/N, at which even the oracle loses to cash.
STRENGTH_FOR_1_5 = 0.113
PLANTED_TIMEFRAME_S = 43_200
# An oracle with a Sharpe ratio of 1.5 is t = 1.5√V above cash after V years. A search of 150 trials finds some three quarters
# of it, S = 1.1, at a volatility s of 80 % a year. G1 wants z = 1.28 of growth, (S - s/2)√V, at the higher fee; G2 z = 1.64
# of (S - .4)√V, .4 being what the best of the trials would have by luck; nine histories in ten take 1.28 more. So
# √V = (1.64 + 1.28) / (S - .4), 17 years. Of these 41, as many validate; the first 16 train and the last 7 are held out.
PLANTED_BARS = 30_000
ORACLE = (
    5.0,
    0.0,
)  # logits per unit of the signal, and speed: the best of sixteen such rules on two markets of 41 years

Float = NDArray[np.float64]


def market(world: str, seed: int) -> Bars:
    """`null`, `shuffled` (real candles in another order) or `planted`."""
    if world == "null":
        return simulate(world="null", seed=seed, bars=N_BARS, tickers=TICKERS, timeframe_s=TIMEFRAME_S, start_s=START_S)
    if world == "shuffled":
        return _reordered(_real(), np.random.default_rng(seed))
    shocks = simulate(
        world="null", seed=seed, bars=PLANTED_BARS, tickers=TICKERS, timeframe_s=PLANTED_TIMEFRAME_S, start_s=START_S
    )
    moved = returns_with_signal(_simple_returns(shocks), strength=STRENGTH_FOR_1_5, timeframe_s=PLANTED_TIMEFRAME_S)
    return _chained(shocks, moved, volume=shocks.volume * shocks.close, above=_above(shocks), below=_below(shocks))


def oracle_logits(bars: Bars) -> Float:
    """(T, N + 2): what a policy says that knows the signal and holds no cash of its own accord."""
    tilt, speed = ORACLE
    constant = np.tile([-8.0, speed], (bars.n_bars, 1))
    return np.concatenate([tilt * planted_signal(bars), constant], axis=1)


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
