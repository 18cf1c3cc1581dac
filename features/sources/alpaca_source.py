"""Alpaca's crypto market read through alpaca-py: candles, trading rules and clock; a stream as a hint.

Candles need no keys. The trading rules and the exact clock belong to the trading API, which does. The rules are not
guessed without them: a quantity off the venue's grid is an order refused.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Protocol

from alpaca.trading.enums import AssetClass, AssetStatus
from alpaca.trading.requests import GetAssetsRequest

from features.bars import utc_text
from features.errors import ConfigurationError
from features.sources.alpaca_client import classify, open_data_client, open_trading_client, session_of
from features.sources.closing import Candle
from features.sources.keys import KeyPair
from features.sources.live import Page
from features.sources.reader import ANSWER_TIMEOUT_S, Ports, Reader, date_s
from features.venue_rules import TickerRule, VenueRules

PAGE_CANDLES = 10_000
LEAST_USD = "10"  # a USD buy below is refused with code 40310000; /v2/assets does not state it
UNITS = (("Day", 86_400, 1), ("Hour", 3600, 23), ("Min", 60, 59))  # name, seconds, most of them in one candle


class Hints(Protocol):
    """What the stream knows; see `alpaca_stream.MinuteBars`."""

    def confirms(self, symbol: str, *, close_s: int, close: float) -> bool: ...


class AlpacaVenue:
    """`ticker/quote` pairs, where quote is USD, USDT, USDC or BTC. hints: of a running stream, None without one.

    keys, api_url and timeout_s: see `alpaca_client`.
    """

    name = "alpaca"
    last_candles = None

    def __init__(
        self, ports: Ports, *, quote: str, tickers: tuple[str, ...], timeframe_s: int, keys: KeyPair | None = None,
        api_url: str = "", timeout_s: float = ANSWER_TIMEOUT_S, hints: Hints | None = None,
    ) -> None:  # fmt: skip
        self._quote, self._tickers, self._hints = quote, tickers, hints
        self._timeframe = timeframe_text(timeframe_s)
        self._data = open_data_client(keys=keys, api_url=api_url, timeout_s=timeout_s)
        # Any: with raw_data the answers are not what alpaca-py declares
        self._trading: Any = open_trading_client(keys=keys, api_url=api_url, timeout_s=timeout_s) if keys else None
        self._data_reader = Reader(session_of(self._data), ports, classify=classify)
        self._trading_reader = Reader(session_of(self._trading), ports, classify=classify) if self._trading else None

    @property
    def offset_s(self) -> float | None:
        if self._data_reader.offset_s is None and self._trading_reader is not None:
            return self._trading_reader.offset_s
        return self._data_reader.offset_s

    def pages(self, ticker: str, *, open_s: int, until_s: int) -> Iterator[Page]:
        """Pages are as long as the venue likes, whatever limit is named; its token says whether there are more."""
        asked = {
            "symbols": self._symbol(ticker), "timeframe": self._timeframe, "limit": PAGE_CANDLES, "sort": "asc",
            "start": utc_text(open_s), "end": utc_text(until_s),
        }  # fmt: skip
        token: str | None = ""
        while token is not None:
            read = partial(self._page, ticker, asked, token)
            page, token = self._data_reader.read(f"candles of {self._symbol(ticker)}", read)
            yield page

    def confirms(self, ticker: str, *, close_s: int, close: float) -> bool:
        return self._hints is not None and self._hints.confirms(self._symbol(ticker), close_s=close_s, close=close)

    def measured_offset_s(self) -> float | None:
        """By the trading API's clock, which tells nanoseconds; without keys by a Date header."""
        if self._trading_reader is None:
            asked = {"symbols": self._symbol(self._tickers[0]), "timeframe": self._timeframe, "limit": 1}
            self._data_reader.read("one candle", lambda: self._page(self._tickers[0], asked, ""))
            return self._data_reader.offset_s
        at_s = self._trading_reader.read("clock", lambda: _epoch_s(self._trading.get("/clock")["timestamp"]))
        heard = self._trading_reader.heard
        return (heard.asked_s + heard.answered_s) / 2.0 - at_s

    def venue_rules(self) -> VenueRules:
        """Lot, tick and minimum notional of every ticker as `/v2/assets` states them, as decimal texts."""
        if self._trading_reader is None:
            raise ConfigurationError(
                "Alpaca states its trading rules only to an account",
                hint="supply the credentials alpaca_key_id and alpaca_secret_key of a paper account",
            )
        wanted = GetAssetsRequest(asset_class=AssetClass.CRYPTO, status=AssetStatus.ACTIVE)
        rules = self._trading_reader.read(
            "assets", lambda: {asset["symbol"]: _rule(asset) for asset in self._trading.get_all_assets(wanted)}
        )
        absent = [symbol for symbol in map(self._symbol, self._tickers) if symbol not in rules]
        if absent:
            raise ConfigurationError(
                f"alpaca has no pair {', '.join(absent)}", hint="check market.tickers and market.quote"
            )
        return VenueRules(venue=self.name, rules=tuple((t, rules[self._symbol(t)]) for t in sorted(self._tickers)))

    def _page(self, ticker: str, asked: dict[str, Any], token: str) -> tuple[Page, str | None]:
        answer: Any = self._data.get("/crypto/us/bars", {**asked, **({"page_token": token} if token else {})})
        rows = answer["bars"].get(self._symbol(ticker), [])
        page = Page(
            candles=tuple(
                Candle(
                    open_s=int(_epoch_s(r["t"])), open=float(r["o"]), high=float(r["h"]), low=float(r["l"]),
                    close=float(r["c"]), volume=float(r["v"]),
                )
                for r in rows
            ),
            venue_now_s=date_s(self._data_reader.heard.headers),
        )  # fmt: skip
        return page, answer.get("next_page_token")

    def _symbol(self, ticker: str) -> str:
        return f"{ticker}/{self._quote}"


def timeframe_text(timeframe_s: int) -> str:
    """`1Hour` for 3600: how Alpaca names candles of whole minutes, hours or one day."""
    for name, unit_s, most in UNITS:
        if timeframe_s % unit_s == 0 and 1 <= timeframe_s // unit_s <= most:
            return f"{timeframe_s // unit_s}{name}"
    raise ConfigurationError(
        f"alpaca has no candles of {timeframe_s} s", hint="it has 1 to 59 minutes, 1 to 23 hours, and 1 day"
    )


def _epoch_s(text: str) -> float:
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


def _rule(asset: dict[str, Any]) -> TickerRule:
    return TickerRule(
        lot=_plain(asset["min_trade_increment"]), tick=_plain(asset["price_increment"]),
        min_notional=LEAST_USD if asset["symbol"].endswith("/USD") else "0",
    )  # fmt: skip


def _plain(value: object) -> str:
    """A decimal without an exponent; whether the venue sent a text or a number, its shortest spelling is kept."""
    return format(Decimal(str(value)).normalize(), "f")
