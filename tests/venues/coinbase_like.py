"""A local server that speaks coinbase's public Advanced Trade API: products and candles, one window at a time."""

from dataclasses import dataclass
from typing import Any, ClassVar

from venue import Venue

GRANULARITY_S = {"ONE_MINUTE": 60, "ONE_HOUR": 3600, "ONE_DAY": 86400}
MOST_CANDLES = 350  # a wider window is refused, whatever lies in it


@dataclass
class CoinbaseLike(Venue):
    """Candles of `start` to `end` and nothing after them: where there are none, the answer is empty."""

    PRODUCTS: ClassVar[str] = "/api/v3/brokerage/market/products"
    CANDLES: ClassVar[str] = f"{PRODUCTS}/BTC-USD/candles"

    quote: str = "USD"

    def answer(self, path: str, query: dict[str, str], headers: dict[str, str]) -> tuple[int, Any]:
        if path == "/v2/exchange-rates":
            return 200, {"data": {"rates": {}}}
        if path.startswith("/v2/currencies"):
            return 200, {"data": []}
        if path == self.PRODUCTS:
            spot = "product_type" not in query
            return 200, {"products": [_product(t, self.quote) for t in self.truth.tickers] if spot else []}
        pair, _, last = path.removeprefix(f"{self.PRODUCTS}/").partition("/")
        if last == "candles" and pair.removesuffix(f"-{self.quote}") in self.truth.tickers:
            return self._candles(pair.removesuffix(f"-{self.quote}"), query)
        return 404, {"error": "NOT_FOUND", "message": f"no such endpoint {path}"}

    def _candles(self, ticker: str, query: dict[str, str]) -> tuple[int, Any]:
        start_s, end_s, step_s = int(query["start"]), int(query["end"]), GRANULARITY_S[query["granularity"]]
        if end_s - start_s >= MOST_CANDLES * step_s:
            return 400, {"error": "INVALID_ARGUMENT", "message": "number of candles requested should be less than 350"}
        found = self.coarser(ticker, step_s, from_s=start_s, until_s=end_s)
        names = ("start", "open", "high", "low", "close", "volume")
        return 200, {
            "candles": [dict(zip(names, (str(t), *map(repr, p), repr(v)), strict=True)) for t, p, v in found[::-1]]
        }


def _product(ticker: str, quote: str) -> dict[str, Any]:
    return {
        "product_id": f"{ticker}-{quote}", "product_type": "SPOT", "base_currency_id": ticker, "quote_currency_id": quote,
        "base_increment": "0.00000001", "price_increment": "0.01", "base_min_size": "0.0001", "quote_min_size": "1",
        "base_max_size": "9000", "quote_max_size": "9000000", "trading_disabled": False, "alias_to": [],
    }  # fmt: skip
