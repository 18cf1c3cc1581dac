"""Small markets that tests make for themselves, and where the real candles are."""

from pathlib import Path

import numpy as np

from features.bars import Bars

REAL = Path(__file__).parents[2] / "shared" / "data" / "crypto_1h_7_2020-10_2024-09.parquet"
REAL_TICKERS = ("AAVE", "AVAX", "BTC", "ETH", "LINK", "LTC", "UNI")


def random_bars(seed: int, *, n_bars: int = 600, tickers: tuple[str, ...] = ("BTC", "ETH", "LTC")) -> Bars:
    """A random walk with proper OHLC, volume and about 1 % filled bars."""
    rng = np.random.default_rng(seed)
    n = len(tickers)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.01, (n_bars, n)), axis=0)) * np.arange(1, n + 1)
    opened = np.vstack([close[:1], close[:-1]])
    high = np.maximum(opened, close) * (1 + np.abs(rng.normal(0, 0.003, close.shape)))
    low = np.minimum(opened, close) * (1 - np.abs(rng.normal(0, 0.003, close.shape)))
    volume = rng.lognormal(8, 1, close.shape)
    filled = rng.random(close.shape) < 0.01
    filled[0] = False
    for t in range(1, n_bars):
        held = filled[t]
        for values in (opened, high, low, close):
            values[t, held] = close[t - 1, held]
        volume[t, held] = 0.0
        high[t] = np.maximum(high[t], np.maximum(opened[t], close[t]))
        low[t] = np.minimum(low[t], np.minimum(opened[t], close[t]))
    return Bars(
        tickers=tickers, timeframe_s=3600, close_time_s=1_600_002_000 + 3600 * np.arange(n_bars, dtype=np.int64),
        open=opened, high=high, low=low, close=close, volume=volume, filled=filled,
    )  # fmt: skip
