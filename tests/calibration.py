"""How `planted.CALIBRATION` is made: `python tests/calibration.py` measures the oracle and prints the table."""

import numpy as np

from features.bars import Bars
from features.sources.planted import oracle_sharpe_of, returns_with_signal
from features.sources.simulated import KNOWN_TICKERS, simulate

SEEDS = range(1000, 1012)
HOURS = 26_000
STRENGTHS = np.arange(1, 11) * 0.005
SHARPES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
HOUR_S = 3600


def measured_sharpes(strengths: np.ndarray, seeds: range = SEEDS) -> np.ndarray:
    """(len(strengths),) mean over `seeds` of the oracle's annual Sharpe ratio on `null` shocks plus a signal of each strength."""
    by_seed = []
    for seed in seeds:
        null = simulate(
            world="null", seed=seed, bars=HOURS, tickers=tuple(KNOWN_TICKERS), timeframe_s=HOUR_S, start_s=1_609_459_200
        )
        shock = null.close / null.open - 1.0
        by_seed.append([oracle_sharpe_of(_with_signal(null, shock, float(k))) for k in strengths])
    return np.mean(by_seed, axis=0)


def table(sharpes: np.ndarray, strengths: np.ndarray = STRENGTHS) -> dict[float, float]:
    """The strength at which each of SHARPES is reached, by linear interpolation of what was measured."""
    return {sharpe: round(float(np.interp(sharpe, sharpes, strengths)), 4) for sharpe in SHARPES}


def _with_signal(null: Bars, shock: np.ndarray, strength: float) -> Bars:
    """What `planted` makes of the same shocks; the oracle looks at opens and closes alone."""
    returns = returns_with_signal(shock, strength=strength, timeframe_s=null.timeframe_s)
    close = null.open[0] * np.cumprod(1.0 + returns, axis=0)
    opened = np.vstack([null.open[:1], close[:-1]])
    return Bars(
        tickers=null.tickers, timeframe_s=null.timeframe_s, close_time_s=null.close_time_s, open=opened, close=close,
        high=np.maximum(opened, close), low=np.minimum(opened, close), volume=null.volume, filled=null.filled,
    )  # fmt: skip


if __name__ == "__main__":
    for sharpe, strength in table(measured_sharpes(STRENGTHS)).items():
        print(f"    ({sharpe}, {strength}),")
