"""The port through which bars come in. Adapters: `recorded`, `simulated`, and `live` over ccxt or Alpaca."""

from typing import Protocol

import pandas as pd

from features.bars import Bars
from features.venue_rules import VenueRules


class BarSource(Protocol):
    """Closed bars of a fixed list of tickers at one timeframe; calls are idempotent reads."""

    @property
    def name(self) -> str:
        """What a log line or a manifest calls this source, generator version included where there is one."""
        ...

    def bars(self, *, after_s: int, until_s: int) -> Bars:
        """All closed bars with `after_s < close_time_s <= until_s` (UTC epoch seconds); possibly none."""
        ...

    def first_close_s(self) -> int:
        """Close time of the oldest bar that can be had."""
        ...

    def last_close_s(self) -> int:
        """Close time of the newest bar that has closed; of a live venue by its clock, before it need serve the bar."""
        ...

    def venue_rules(self) -> VenueRules:
        """Lot, tick and minimum notional of every ticker as the venue states them now."""
        ...

    def clock_offset_s(self) -> float | None:
        """Our clock minus the venue's, measured now; None where the bars come from no clock (recorded, simulated)."""
        ...


class CandleSource(Protocol):
    """What a live venue offers beside bars: each ticker's true candles, which is what the candle store keeps."""

    @property
    def name(self) -> str: ...

    def pair(self, ticker: str) -> str:
        """The pair as a directory name: `BTC-USDT`."""
        ...

    def candles(self, ticker: str, *, after_s: int, until_s: int) -> pd.DataFrame:
        """Closed true candles of one ticker with `after_s < close_time_s <= until_s`, none of them filled.

        Columns time (candle **open** time, tz-aware UTC), ticker, open, high, low, close, volume; possibly no rows.
        Reads what is asked and nothing before it; raises as `bars` does.
        """
        ...

    def first_close_s(self) -> int: ...

    def last_close_s(self) -> int: ...

    def venue_rules(self) -> VenueRules: ...

    def clock_offset_s(self) -> float | None: ...
