"""The known signal of the `planted` world: cross-sectional momentum that a learner can see, and what it is worth.

With m[t, i] the simple return of ticker i minus the mean over tickers, and EMA(·; h) the exponential average of
half-life h that starts from 0 (resp. from the long-run value below):

    e = EMA(m; 48 h)                      slow relative return
    s = sqrt(EMA(m²; 168 h))              observed relative volatility per bar
    z = clip(e / (s·c), ±Z_BOUND)         c = sqrt((1−λ)/(1+λ)): z has about unit variance when m is white
    drift of bar t+1 = k·s·z − mean over tickers

All of it is a function of past closes, so relative returns and ranks over 24 to 168 h recover it. The drift sums to 0
over tickers: the equally weighted market stays a martingale and only *relative* timing pays.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from features.bars import Bars
from features.errors import ConfigurationError

Float = NDArray[np.float64]

SIGNAL_HALF_LIFE_S = 48 * 3600.0
SCALE_HALF_LIFE_S = 168 * 3600.0
Z_BOUND = 2.5
SCALE_FLOOR = 1e-6  # per bar; keeps z finite where nothing moves
FIRST_SCALE_PER_HOUR = 0.006  # the long-run relative volatility that s starts from


class _Signal:
    """e and s² as they stand after the returns seen so far."""

    def __init__(self, n_tickers: int, timeframe_s: int) -> None:
        self._keep = 0.5 ** (timeframe_s / SIGNAL_HALF_LIFE_S)
        self._keep_scale = 0.5 ** (timeframe_s / SCALE_HALF_LIFE_S)
        self._unit = np.sqrt((1.0 - self._keep) / (1.0 + self._keep))
        self._slow = np.zeros(n_tickers)
        self._square = np.full(n_tickers, FIRST_SCALE_PER_HOUR**2 * timeframe_s / 3600.0)

    def see(self, simple_returns: Float) -> tuple[Float, Float]:
        """z (N,) and s (N,) after one more bar's simple returns (N,)."""
        relative = simple_returns - simple_returns.sum() / len(simple_returns)
        self._slow = self._keep * self._slow + (1.0 - self._keep) * relative
        self._square = self._keep_scale * self._square + (1.0 - self._keep_scale) * relative * relative
        scale = np.maximum(np.sqrt(self._square), SCALE_FLOOR)
        z = np.minimum(np.maximum(self._slow / (scale * self._unit), -Z_BOUND), Z_BOUND)
        return z, scale


def returns_with_signal(shock: Float, *, strength: float, timeframe_s: int) -> Float:
    """(T, N) simple returns: zero-mean `shock` plus the drift that the returns before it call for."""
    signal = _Signal(shock.shape[1], timeframe_s)
    returns = np.empty_like(shock)
    drift = np.zeros(shock.shape[1])
    n = shock.shape[1]
    for t in range(len(shock)):
        returns[t] = drift + shock[t]
        z, scale = signal.see(returns[t])
        pull = strength * scale * z
        drift = pull - pull.sum() / n
    return returns


def planted_signal(bars: Bars) -> Float:
    """(T, N) z at each close, from closes alone: row t is known at close t and moves bar t+1."""
    before = np.vstack([bars.open[:1], bars.close[:-1]])
    returns = bars.close / before - 1.0
    signal = _Signal(bars.n_tickers, bars.timeframe_s)
    return np.stack([signal.see(row)[0] for row in returns])
def signal_strength(oracle_sharpe): return oracle_sharpe
