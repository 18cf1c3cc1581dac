"""Bull, bear and chop, told from the market's own past. Pure."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from features.errors import DataError

Float = NDArray[np.float64]
Regime = Literal["bull", "bear", "chop"]
TREND_SD = 0.5  # about a third of the bars of a random walk fall into each regime


def regimes(close: Float, *, trailing_bars: int) -> NDArray[np.str_]:
    """(T,) regime known at each close; "" for the first `trailing_bars`. close: (T, N).

    The trend is the mean log price's change over the trailing window by the deviation that its bars would give a
    random walk; beyond ± TREND_SD it is a bull or a bear market. The return of bar k + 1 belongs to the regime at k.
    """
    if trailing_bars < 2 or len(close) <= trailing_bars:
        raise DataError(f"{len(close)} closes tell no regime over {trailing_bars} bars")
    level = np.log(close).mean(axis=1)
    step = np.diff(level)
    change = level[trailing_bars:] - level[:-trailing_bars]
    deviation = np.lib.stride_tricks.sliding_window_view(step, trailing_bars).std(axis=1) * np.sqrt(trailing_bars)
    trend = np.divide(change, deviation, out=np.zeros_like(change), where=deviation > 1e-12)
    known = np.where(trend > TREND_SD, "bull", np.where(trend < -TREND_SD, "bear", "chop"))
    return np.concatenate([np.full(trailing_bars, ""), known])


def log_wealth_by_regime(returns: Float, regime: NDArray[np.str_]) -> dict[Regime, tuple[int, float]]:
    """Bars and log wealth in each regime; returns[i] (T,) was earned while regime[i] (T,) was known, "" while none was."""
    if returns.shape != regime.shape:
        raise DataError(f"{len(returns)} returns against {len(regime)} regimes")
    growth = np.log1p(returns)
    names: tuple[Regime, ...] = ("bull", "bear", "chop")
    return {n: (int((regime == n).sum()), float(growth[regime == n].sum())) for n in names}
