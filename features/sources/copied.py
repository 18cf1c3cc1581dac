"""A file or a simulation as a venue, so that it can be copied into the candle store and checked like one."""

import pandas as pd

from features.bars import candles_from_bars
from features.sources.base import BarSource
from features.store.candles import Candles
from features.venue_rules import VenueRules


class CopiedSource:
    """The true candles of a source that only knows bars; read from it once."""

    def __init__(self, source: BarSource, *, quote: str) -> None:
        self.name = source.name
        self._source, self._quote = source, quote
        self._candles: dict[str, Candles] = {}

    def pair(self, ticker: str) -> str:
        return f"{ticker}-{self._quote}"

    def candles(self, ticker: str, *, after_s: int, until_s: int) -> pd.DataFrame:
        if not self._candles:
            bars = self._source.bars(after_s=0, until_s=self._source.last_close_s())
            for name, table in candles_from_bars(bars).groupby("ticker"):
                self._candles[str(name)] = Candles.of_source(table, timeframe_s=bars.timeframe_s)
        return self._candles[ticker].between(after_s, until_s).source_frame(ticker)

    def first_close_s(self) -> int:
        return self._source.first_close_s()

    def last_close_s(self) -> int:
        return self._source.last_close_s()

    def venue_rules(self) -> VenueRules:
        return self._source.venue_rules()

    def clock_offset_s(self) -> float | None:
        return self._source.clock_offset_s()
