"""How the journal keeps bars, and a hash of all of them up to any one."""

import hashlib
from collections.abc import Sequence

import numpy as np

from features.bars import Bars, empty_bars

_FIELDS = ("open", "high", "low", "close", "volume", "filled")


def encoded(bars: Bars, k: int) -> bytes:
    """Bar k as (6, N) little-endian float64."""
    return np.stack([np.asarray(getattr(bars, name)[k], dtype="<f8") for name in _FIELDS]).tobytes()


def decoded(rows: Sequence[tuple[int, bytes]], *, tickers: tuple[str, ...], timeframe_s: int) -> Bars:
    """(close time, encoded bar) of consecutive bars, oldest first."""
    if not rows:
        return empty_bars(tickers, timeframe_s)
    values = np.stack([np.frombuffer(data, dtype="<f8").reshape(6, len(tickers)) for _, data in rows])
    o, h, l, c, v, filled = (np.ascontiguousarray(values[:, i]) for i in range(6))
    return Bars(
        tickers=tickers, timeframe_s=timeframe_s, close_time_s=np.array([t for t, _ in rows], dtype=np.int64),
        open=o, high=h, low=l, close=c, volume=v, filled=filled.astype(np.bool_),
    )  # fmt: skip


def chained(before: str, bars: Bars) -> str:
    """SHA-256 over the hash of every earlier bar ("" before the first) and `bars`, one after the other."""
    for k in range(bars.n_bars):
        before = linked(before, int(bars.close_time_s[k]), encoded(bars, k))
    return before


def linked(before: str, close_time_s: int, data: bytes) -> str:
    """`chained` by one encoded bar."""
    return hashlib.sha256(before.encode() + close_time_s.to_bytes(8, "little") + data).hexdigest()
