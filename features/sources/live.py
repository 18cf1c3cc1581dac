"""Closed candles of a live venue, whichever client reads them.

A candle is taken when it is final (`closing.final_until_s`) by the venue's own clock, which every answer carries, so
neither a fast clock here nor a slow one there lets a forming candle through. Gaps inside a range are filled forward;
its end is not: the range stops at the last bar that every ticker has, because a candle that is merely late must not be
journalled as missing. Nothing is remembered between calls: a read gives the venue's newest word, and of two candles for
one time the later.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from features.bars import PRICE_COLUMNS, Bars, bars_from_candles, broken_rules, empty_bars, utc_text
from features.sources.closing import Candle, final_until_s
from features.sources.errors import BadCandle, HistoryTooShort
from features.venue_rules import VenueRules

LEAD_BARS = 168  # read before the range, so that a gap at its start is filled from the last true close
SPARE_BARS = 10  # of a venue that serves the last candles only: some pass while a download goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One answer: candles in order of time, the newest perhaps forming; the venue's clock (epoch s), if it told."""

    candles: tuple[Candle, ...]
    venue_now_s: float | None


class Venue(Protocol):
    """What an adapter does: read. All that is decided about what was read is decided by `LiveSource`."""

    @property
    def name(self) -> str: ...

    @property
    def last_candles(self) -> int | None:
        """How many candles the venue serves at most, the forming one included, counted from now; None: all."""
        ...

    @property
    def offset_s(self) -> float | None:
        """Our clock minus the venue's as the last answer told it; None before that."""
        ...

    def pages(self, ticker: str, *, open_s: int, until_s: int) -> Iterator[Page]:
        """Candles of one ticker with `open_s <= open time <= until_s`, page by page."""
        ...

    def confirms(self, ticker: str, *, close_s: int, close: float) -> bool:
        """Whether something else than candles says that the one closing at close_s, at this price, is complete."""
        ...

    def measured_offset_s(self) -> float | None:
        """Our clock minus the venue's, asked for now, as exactly as the venue tells it."""
        ...

    def venue_rules(self) -> VenueRules: ...


class LiveSource:
    """Bars and true candles of `ticker/quote` pairs on one venue. clock_now_s: UTC epoch seconds.

    Raises MarketUnavailable when the venue does not answer or gives a candle that cannot be, HistoryTooShort for candles
    it no longer serves, and ConfigurationError for pairs it lacks.
    """

    def __init__(
        self, venue: Venue, *, tickers: tuple[str, ...], quote: str, timeframe_s: int, grace_s: float,
        history_bars: int, clock_now_s: Callable[[], float],
    ) -> None:  # fmt: skip
        self.name = venue.name
        self._venue, self._tickers, self._quote, self._timeframe_s = venue, tickers, quote, timeframe_s
        self._grace_s, self._history_bars, self._clock_now_s = grace_s, history_bars, clock_now_s

    def last_close_s(self) -> int:
        return int(self._venue_now_s() // self._timeframe_s) * self._timeframe_s

    def first_close_s(self) -> int:
        first_s = self.last_close_s() - (self._history_bars - 1) * self._timeframe_s
        oldest_s = self._oldest_close_s(spare_bars=SPARE_BARS)
        if oldest_s is not None and first_s < oldest_s:
            most = (self.last_close_s() - oldest_s) // self._timeframe_s + 1
            raise HistoryTooShort(
                f"{self.name} serves its last {self._venue.last_candles} candles only, "
                f"market.history_bars asks for {self._history_bars}",
                oldest_close_s=oldest_s,
                hint=f"set market.history_bars to {most} or less, or take another market.exchange",
            )
        return first_s

    def bars(self, *, after_s: int, until_s: int) -> Bars:
        stop_s = min(until_s, self.last_close_s())
        if stop_s < after_s + self._timeframe_s:
            return empty_bars(self._tickers, self._timeframe_s)
        self._require_served(after_s)
        lead_s = max(0, after_s - LEAD_BARS * self._timeframe_s, (self._oldest_close_s() or 0) - self._timeframe_s)
        tables = []
        for ticker in self._tickers:
            table = self._read(ticker, min(after_s, lead_s), stop_s)
            if table.empty:
                return empty_bars(self._tickers, self._timeframe_s)
            tables.append(table)
            stop_s = int(table["time"].iloc[-1].timestamp()) + self._timeframe_s
            if stop_s <= after_s:  # what one ticker lacks is not asked of the others
                return empty_bars(self._tickers, self._timeframe_s)
        candles = pd.concat(tables, ignore_index=True)
        within = candles["time"] < pd.Timestamp(stop_s, unit="s", tz="UTC")
        complete = bars_from_candles(candles[within], tickers=self._tickers, timeframe_s=self._timeframe_s)
        return complete.between(after_s, stop_s)

    def candles(self, ticker: str, *, after_s: int, until_s: int) -> pd.DataFrame:
        self._require_served(after_s)
        return self._read(ticker, after_s, min(until_s, self.last_close_s()))

    def pair(self, ticker: str) -> str:
        return f"{ticker}-{self._quote}"

    def venue_rules(self) -> VenueRules:
        return self._venue.venue_rules()

    def clock_offset_s(self) -> float | None:
        return self._venue.measured_offset_s()

    def _read(self, ticker: str, after_s: int, stop_s: int) -> pd.DataFrame:
        """Final candles with `after_s < close <= stop_s`, one row each, in order of time."""
        kept: dict[int, Candle] = {}
        if stop_s >= after_s + self._timeframe_s:
            for page in self._venue.pages(ticker, open_s=after_s, until_s=stop_s):
                final_s = min(stop_s, self._final_until_s(ticker, page))
                kept |= {c.open_s: c for c in page.candles if after_s <= c.open_s <= final_s - self._timeframe_s}
        rows = [astuple(kept[open_s]) for open_s in sorted(kept)]
        self._require_possible(ticker, rows)
        table = pd.DataFrame(rows, columns=["time", *PRICE_COLUMNS, "volume"])
        return table.assign(time=pd.to_datetime(table["time"], unit="s", utc=True), ticker=ticker)

    def _require_possible(self, ticker: str, rows: Sequence[tuple[float, ...]]) -> None:
        values = np.array(rows, np.float64).reshape(-1, 6)
        for broken, rule in broken_rules(*values[:, 1:].T):
            if broken.any():
                closing = utc_text(int(values[np.argmax(broken), 0]) + self._timeframe_s)
                raise BadCandle(
                    f"{self.name} gave a bad candle of {self.pair(ticker)} closing at {closing}: {rule}",
                    hint="it is asked for again until the venue corrects it; if the venue never does, let "
                    "market.history_bars begin after it, or take another market.exchange",
                )

    def _final_until_s(self, ticker: str, page: Page) -> int:
        venue_now_s = self._venue_now_s() if page.venue_now_s is None else page.venue_now_s
        final_s = final_until_s(
            newest_open_s=page.candles[-1].open_s if page.candles else None, venue_now_s=venue_now_s,
            timeframe_s=self._timeframe_s, grace_s=self._grace_s,
        )  # fmt: skip
        for candle in page.candles:
            close_s = candle.open_s + self._timeframe_s
            if final_s < close_s <= venue_now_s and self._venue.confirms(ticker, close_s=close_s, close=candle.close):
                final_s = close_s
        return final_s

    def _venue_now_s(self) -> float:
        return self._clock_now_s() - (self._venue.offset_s or 0.0)

    def _oldest_close_s(self, *, spare_bars: int = 0) -> int | None:
        if self._venue.last_candles is None:
            return None
        return self.last_close_s() - (self._venue.last_candles - 2 - spare_bars) * self._timeframe_s

    def _require_served(self, after_s: int) -> None:
        oldest_s = self._oldest_close_s()
        if oldest_s is not None and after_s + self._timeframe_s < oldest_s:
            raise HistoryTooShort(
                f"{self.name} serves its last {self._venue.last_candles} candles only, the oldest closing at "
                f"{utc_text(oldest_s)}; asked for were those from {utc_text(after_s + self._timeframe_s)} on",
                oldest_close_s=oldest_s,
                hint="ask from then on; older ones come from another market.exchange, or from a file of candles "
                "(market.source = recorded)",
            )
