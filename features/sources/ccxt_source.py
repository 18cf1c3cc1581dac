"""Closed candles of a real exchange through ccxt's public endpoints; no keys.

A bar counts as closed when its close time is `grace_s` in the past by our clock *and* past by the exchange's own (the
Date header of the answer), so neither a fast clock here nor a slow one there lets a forming candle through. Gaps inside
the range are filled forward; the end is not: the range stops at the last bar that every ticker has, because a candle
that is merely late must not be journalled as missing.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import ccxt
import numpy as np
import pandas as pd

from features.bars import PRICE_COLUMNS, Bars, bars_from_candles, empty_bars
from features.errors import ConfigurationError
from features.sources.ccxt_client import PublicReader, open_client
from features.venue_rules import TickerRule, VenueRules

PAGE_BARS = 1000
LEAD_BARS = 168  # read before the range, so that a gap at its start is filled from the last true close


class CcxtSource:
    """Bars of `ticker/quote` spot pairs on one exchange.

    clock_now_s: UTC epoch seconds. beat is called after every answer and before every wait. urls: see `open_client`.
    Raises ConfigurationError for pairs or timeframes the exchange lacks, MarketUnavailable when it does not answer.
    """

    def __init__(
        self, *, exchange: str, quote: str, tickers: tuple[str, ...], timeframe_s: int, grace_s: float,
        history_bars: int, clock_now_s: Callable[[], float], sleep: Callable[[float], None],
        jitter: np.random.Generator, beat: Callable[[], None], urls: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.name = f"ccxt:{exchange}"
        self._quote, self._tickers, self._timeframe_s = quote, tickers, timeframe_s
        self._grace_s, self._history_bars, self._now_s = grace_s, history_bars, clock_now_s
        self._reader = PublicReader(open_client(exchange, urls=urls), sleep=sleep, jitter=jitter, beat=beat)
        self._timeframe = _timeframe_text(self._reader.client, timeframe_s)

    def last_close_s(self) -> int:
        return self._closed_by(self._now_s() - self._grace_s)

    def first_close_s(self) -> int:
        return self.last_close_s() - (self._history_bars - 1) * self._timeframe_s

    def bars(self, *, after_s: int, until_s: int) -> Bars:
        start_s = max(after_s, self.first_close_s() - self._timeframe_s)
        stop_s = min(until_s, self.last_close_s())
        if stop_s < start_s + self._timeframe_s:
            return empty_bars(self._tickers, self._timeframe_s)
        self._require_pairs()
        lead_s = start_s - LEAD_BARS * self._timeframe_s
        tables = [self._read_candles(ticker, lead_s, stop_s) for ticker in self._tickers]
        if any(table.empty for table in tables):
            return empty_bars(self._tickers, self._timeframe_s)
        end = min(table["time"].max() for table in tables)
        candles = pd.concat(tables, ignore_index=True)
        complete = bars_from_candles(
            candles[candles["time"] <= end], tickers=self._tickers, timeframe_s=self._timeframe_s
        )
        return complete.between(start_s, stop_s)

    def pair(self, ticker: str) -> str:
        return f"{ticker}-{self._quote}"

    def candles(self, ticker: str, *, after_s: int, until_s: int) -> pd.DataFrame:
        self._require_pairs()
        return self._read_candles(ticker, after_s, min(until_s, self.last_close_s()))

    def venue_rules(self) -> VenueRules:
        """Lot, tick and minimum notional of every ticker as the exchange states them now."""
        self._require_pairs()
        return read_venue_rules(self._reader.client, tickers=self._tickers, quote=self._quote)

    def _require_pairs(self) -> None:
        client = self._reader.client
        if not client.markets:
            self._reader.read("load_markets", client.load_markets)
        absent = [pair for pair in map(self._pair, self._tickers) if pair not in client.markets]
        if absent:
            raise ConfigurationError(
                f"{client.id} has no pair {', '.join(absent)}", hint="check market.tickers and market.quote"
            )

    def _read_candles(self, ticker: str, after_s: int, stop_s: int) -> pd.DataFrame:
        """Closed candles with `after_s < close <= stop_s`, one row each."""
        rows: list[list[Any]] = []
        next_open_s = after_s
        while next_open_s + self._timeframe_s <= stop_s:
            page = self._page(ticker, next_open_s, stop_s)
            server_s = self._reader.server_time_s()
            closed_s = stop_s if server_s is None else min(stop_s, self._closed_by(server_s))
            rows += [row for row in page if next_open_s * 1000 <= row[0] <= (closed_s - self._timeframe_s) * 1000]
            newest_s = page[-1][0] // 1000 if page else 0
            # An empty or stale page says nothing about later ones: some venues answer one window at a time.
            next_open_s = max(newest_s, next_open_s + (0 if page else PAGE_BARS - 1) * self._timeframe_s)
            next_open_s += self._timeframe_s
        table = pd.DataFrame(rows, columns=["time", *PRICE_COLUMNS, "volume"])
        return table.assign(time=pd.to_datetime(table["time"], unit="ms", utc=True), ticker=ticker)

    def _page(self, ticker: str, open_s: int, stop_s: int) -> list[list[Any]]:
        client, pair = self._reader.client, self._pair(ticker)
        wanted = min(PAGE_BARS, (stop_s - open_s) // self._timeframe_s)
        page: list[list[Any]] = self._reader.read(
            f"candles of {pair}",
            lambda: client.fetch_ohlcv(pair, self._timeframe, since=open_s * 1000, limit=max(1, wanted)),
        )
        return page

    def _closed_by(self, now_s: float) -> int:
        return int(now_s // self._timeframe_s) * self._timeframe_s

    def _pair(self, ticker: str) -> str:
        return f"{ticker}/{self._quote}"


def read_venue_rules(client: Any, *, tickers: Sequence[str], quote: str) -> VenueRules:
    """Rules from the client's loaded market metadata, as decimal texts; "0" where the venue states no limit."""
    rules = {}
    for ticker in tickers:
        market = client.market(f"{ticker}/{quote}")
        cost = market["limits"].get("cost") or {}
        rules[ticker] = TickerRule(
            lot=_step(client, market["precision"].get("amount")),
            tick=_step(client, market["precision"].get("price")),
            min_notional=_plain(cost.get("min")),
        )
    return VenueRules(venue=client.id, rules=tuple(sorted(rules.items())))


def _step(client: Any, precision: float | None) -> str:
    if precision is not None and client.precisionMode == ccxt.DECIMAL_PLACES:
        return _plain(Decimal(1).scaleb(-int(precision)))
    return _plain(precision)


def _plain(value: object) -> str:
    return "0" if value is None else format(Decimal(str(value)).normalize(), "f")


def _timeframe_text(client: Any, timeframe_s: int) -> str:
    for text in client.timeframes or {}:
        if client.parse_timeframe(text) == timeframe_s:
            return str(text)
    known = ", ".join(client.timeframes or {})
    raise ConfigurationError(f"{client.id} has no candles of {timeframe_s} s", hint=f"it has {known}")
