"""A spot exchange read through ccxt: candles, trading rules and its clock. Public endpoints, no keys."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from features.errors import ConfigurationError
from features.sources.ccxt_client import classify, open_client, urls_for
from features.sources.ccxt_library import DECIMAL_PLACES
from features.sources.closing import Candle
from features.sources.keys import KeyPair
from features.sources.live import Page
from features.sources.reader import ANSWER_TIMEOUT_S, Ports, Reader, date_s
from features.venue_rules import TickerRule, VenueRules

PAGE_CANDLES = 1000
# Kraken, "Get OHLC data": up to 720 of the most recent entries, whatever `since` says, the forming one included.
LAST_CANDLES = {"kraken": 720}
WHOLE_SECOND_CLOCKS = frozenset({"kraken"})


class CcxtVenue:
    """`ticker/quote` spot pairs of one exchange. api_url, keys, timeout_s: see `urls_for` and `open_client`.

    Raises ConfigurationError for an exchange, pair or timeframe that is not there.
    """

    def __init__(
        self, ports: Ports, *, exchange: str, quote: str, tickers: tuple[str, ...], timeframe_s: int,
        api_url: str = "", keys: KeyPair | None = None, timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:  # fmt: skip
        self.name = f"ccxt:{exchange}"
        self.last_candles = LAST_CANDLES.get(exchange)
        self._quote, self._tickers, self._timeframe_s = quote, tickers, timeframe_s
        self.client = open_client(exchange, urls=urls_for(exchange, api_url), keys=keys, timeout_s=timeout_s)
        self._reader = Reader(self.client.session, ports, classify=classify)
        self._timeframe = _timeframe_text(self.client, timeframe_s)

    @property
    def offset_s(self) -> float | None:
        return self._reader.offset_s

    def pages(self, ticker: str, *, open_s: int, until_s: int) -> Iterator[Page]:
        """One request a page. An empty page moves on by a whole one: some venues answer one window at a time.

        With candles to come after it an empty page would become a gap, so it is believed when it is said twice.
        """
        self._require_pairs()
        next_open_s = open_s
        while next_open_s < until_s:
            page = self._page(ticker, next_open_s, until_s)
            if not page.candles and next_open_s + PAGE_CANDLES * self._timeframe_s < until_s:
                page = self._page(ticker, next_open_s, until_s)
            yield page
            newest_s = page.candles[-1].open_s if page.candles else next_open_s + (PAGE_CANDLES - 1) * self._timeframe_s
            next_open_s = max(newest_s, next_open_s) + self._timeframe_s

    def confirms(self, ticker: str, *, close_s: int, close: float) -> bool:  # noqa: ARG002  no other voice here
        return False

    def measured_offset_s(self) -> float | None:
        """By the exchange's time endpoint, where it has one that tells milliseconds; else by the Date header."""
        if not self.client.has["fetchTime"] or self.client.id in WHOLE_SECOND_CLOCKS:
            self._reader.read("markets", self.client.load_markets if not self.client.markets else self._any_answer)
            return self._reader.offset_s
        at_ms: int = self._reader.read("time", self.client.fetch_time)
        heard = self._reader.heard
        return (heard.asked_s + heard.answered_s) / 2.0 - at_ms / 1000.0

    def venue_rules(self) -> VenueRules:
        """Lot, tick and minimum notional of every ticker as the exchange states them now."""
        self._require_pairs()
        return read_venue_rules(self.client, tickers=self._tickers, quote=self._quote)

    def _any_answer(self) -> object:
        return self.client.fetch_ohlcv(self._pair(self._tickers[0]), self._timeframe, limit=1)

    def _require_pairs(self) -> None:
        client = self.client
        if not client.markets:
            self._reader.read("markets", client.load_markets)
        absent = [pair for pair in map(self._pair, self._tickers) if pair not in client.markets]
        if absent:
            raise ConfigurationError(
                f"{client.id} has no pair {', '.join(absent)}", hint="check market.tickers and market.quote"
            )

    def _page(self, ticker: str, open_s: int, until_s: int) -> Page:
        pair = self._pair(ticker)
        wanted = min(PAGE_CANDLES, (until_s - open_s) // self._timeframe_s + 1)  # one more: it shows the last is final
        candles = self._reader.read(
            f"candles of {pair}",
            # parsed within the read: a row that lacks a number is an answer of unexpected form, to be asked for again
            lambda: tuple(
                map(_candle, self.client.fetch_ohlcv(pair, self._timeframe, since=open_s * 1000, limit=wanted))
            ),
        )
        return Page(candles=candles, venue_now_s=date_s(self._reader.heard.headers))

    def _pair(self, ticker: str) -> str:
        return f"{ticker}/{self._quote}"


def _candle(row: list[Any]) -> Candle:
    opened_ms, *numbers = row
    opened, high, low, close, volume = map(float, numbers)
    return Candle(open_s=int(opened_ms) // 1000, open=opened, high=high, low=low, close=close, volume=volume)


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
    if precision is not None and client.precisionMode == DECIMAL_PLACES:
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
