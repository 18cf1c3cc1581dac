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
# Some exchanges answer one window from `since` on, as wide as their own maximum, which ccxt does not always know (it
# says 1000 of mexc, whose is 500). So an empty answer is taken to speak for fewer than the least that any of them has.
SURE_CANDLES = 100
COARSER_S = (3600, 86_400)  # of which SURE_CANDLES span a long silence
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
        self._timeframe = _required_timeframe(self.client, timeframe_s)

    @property
    def offset_s(self) -> float | None:
        return self._reader.offset_s

    def pages(self, ticker: str, *, open_s: int, until_s: int) -> Iterator[Page]:
        """One request a page. An empty page is believed for SURE_CANDLES, and for as long as coarser candles agree."""
        self._require_pairs()
        next_open_s = open_s
        while next_open_s < until_s:
            page = self._page(ticker, next_open_s, until_s)
            sure_s = next_open_s + SURE_CANDLES * self._timeframe_s
            if not page.candles and sure_s < until_s:
                resumed_s = self._resumed_s(ticker, next_open_s, until_s)
                if resumed_s > sure_s:
                    next_open_s = resumed_s
                    continue
                # nobody else says that it is empty, and with candles to come it would become a gap: say it twice
                page = self._page(ticker, next_open_s, until_s)
            yield page
            next_open_s = max(page.candles[-1].open_s, next_open_s) + self._timeframe_s if page.candles else sure_s

    def _resumed_s(self, ticker: str, quiet_s: int, until_s: int) -> int:
        """After an empty answer from quiet_s on: before which time nothing opens, as coarser and coarser candles say.

        A candle that opened before quiet_s tells of trades before it. One candle's length is kept in hand for an
        exchange whose days are not those of UTC.
        """
        resumed_s, step_s = quiet_s, self._timeframe_s
        for coarse_s in COARSER_S:
            text = _timeframe_text(self.client, coarse_s)
            if resumed_s >= until_s or text is None or not step_s < coarse_s <= SURE_CANDLES * step_s:
                continue
            first_s = quiet_s // coarse_s * coarse_s
            wanted = min(SURE_CANDLES, (until_s - first_s) // coarse_s + 1)
            candles = self._candles(ticker, text, first_s, wanted)
            later = [c.open_s for c in candles if c.open_s >= quiet_s]
            if later:
                return max(resumed_s, later[0] - coarse_s)
            resumed_s, step_s = first_s + SURE_CANDLES * coarse_s, coarse_s
        return resumed_s

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
        # no more than the exchange has room for: bitget answers the end of a window that is too wide, not its beginning
        most = self.client.feature_value(self._pair(ticker), "fetchOHLCV", "limit") or PAGE_CANDLES
        wanted = (until_s - open_s) // self._timeframe_s + 1  # one more: it shows the last is final
        candles = self._candles(ticker, self._timeframe, open_s, min(PAGE_CANDLES, most, wanted))
        return Page(candles=candles, venue_now_s=date_s(self._reader.heard.headers))

    def _candles(self, ticker: str, timeframe: str, open_s: int, wanted: int) -> tuple[Candle, ...]:
        pair = self._pair(ticker)
        return self._reader.read(
            f"candles of {pair}",
            # parsed within the read: a row that lacks a number is an answer of unexpected form, to be asked for again
            lambda: tuple(map(_candle, self.client.fetch_ohlcv(pair, timeframe, since=open_s * 1000, limit=wanted))),
        )

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


def _timeframe_text(client: Any, timeframe_s: int) -> str | None:
    texts = (str(text) for text in client.timeframes or {} if client.parse_timeframe(text) == timeframe_s)
    return next(texts, None)


def _required_timeframe(client: Any, timeframe_s: int) -> str:
    text = _timeframe_text(client, timeframe_s)
    if text is None:
        known = ", ".join(client.timeframes or {})
        raise ConfigurationError(f"{client.id} has no candles of {timeframe_s} s", hint=f"it has {known}")
    return text
