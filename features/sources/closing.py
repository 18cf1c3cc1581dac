"""When a candle is final: a decision about numbers, without a clock."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Candle:
    """One candle as the venue gave it: open time in UTC epoch seconds, prices in quote currency, volume in base."""

    open_s: int
    open: float
    high: float
    low: float
    close: float
    volume: float


def final_until_s(*, newest_open_s: int | None, venue_now_s: float, timeframe_s: int, grace_s: float) -> int:
    """Close time up to which a ticker's candles are final.

    A candle is final when its close has passed by the **venue's** clock, and either the venue already shows a later
    candle of that ticker (newest_open_s: open time of the newest one it shows), or grace_s has passed since the close.
    """
    closed_s = int(venue_now_s // timeframe_s) * timeframe_s
    settled_s = int((venue_now_s - grace_s) // timeframe_s) * timeframe_s
    followed_s = settled_s if newest_open_s is None else newest_open_s
    return max(settled_s, min(closed_s, followed_s))
