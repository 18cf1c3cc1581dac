"""Coarser candles from finer ones, by one exact definition.

Buckets are aligned to the UTC epoch and labelled by their close. Open is the first true candle's, close the last's, high
and low the extremes, volume the sum; a bucket in which nothing true closed has no candle, and is filled like any other
gap. Only buckets that lie wholly within the given range come out.

Floating-point sums depend on their order, so volume is summed up a ladder of timeframes: each step sums what the step
below has summed, in order of time. Hence 1m → 1h → 4h equals 1m → 4h to the bit, for every rung of the ladder.
"""

import numpy as np

from features.errors import DataError
from features.store.candles import Candles, timeframe_text

LADDER_S = (60, 300, 900, 3600, 14_400, 86_400)
OPEN, HIGH, LOW, CLOSE, VOLUME = range(5)


def resample(candles: Candles, *, timeframe_s: int, after_s: int, until_s: int) -> Candles:
    """Candles of `timeframe_s` whose whole bucket lies in `after_s < t <= until_s`.

    candles: everything true there is in the range. Raises DataError unless timeframe_s is a multiple of theirs.
    """
    if timeframe_s % candles.timeframe_s:
        raise DataError(
            f"{timeframe_text(candles.timeframe_s)} candles do not add up to {timeframe_text(timeframe_s)} ones",
            hint="choose a multiple of the stored timeframe",
        )
    whole = candles.between(-(-after_s // timeframe_s) * timeframe_s, until_s // timeframe_s * timeframe_s)
    for rung_s in (*LADDER_S, timeframe_s):
        if rung_s <= timeframe_s and rung_s % whole.timeframe_s == 0 and timeframe_s % rung_s == 0:
            whole = _step(whole, rung_s)
    return whole


def _step(candles: Candles, timeframe_s: int) -> Candles:
    if not len(candles) or timeframe_s == candles.timeframe_s:
        return Candles(timeframe_s=timeframe_s, close_time_s=candles.close_time_s, ohlcv=candles.ohlcv)
    bucket_s = -(-candles.close_time_s // timeframe_s) * timeframe_s
    first = np.flatnonzero(np.diff(bucket_s, prepend=bucket_s[0] - 1))
    last = np.append(first[1:], len(bucket_s)) - 1
    ohlcv = np.column_stack([
        candles.ohlcv[first, OPEN], np.maximum.reduceat(candles.ohlcv[:, HIGH], first),
        np.minimum.reduceat(candles.ohlcv[:, LOW], first), candles.ohlcv[last, CLOSE],
        np.add.reduceat(candles.ohlcv[:, VOLUME], first),
    ])  # fmt: skip
    return Candles(timeframe_s=timeframe_s, close_time_s=bucket_s[first], ohlcv=ohlcv)
