"""A local server that speaks binance's public /api/v3: ping, time, exchangeInfo and klines."""

from dataclasses import dataclass
from typing import Any, ClassVar

from venue import Venue

INTERVAL_S = {"1m": 60, "15m": 900, "1h": 3600, "4h": 14400, "1d": 86400}


@dataclass
class BinanceLike(Venue):
    """most_candles: per request; binance's own number is 1000."""

    CANDLES: ClassVar[str] = "/api/v3/klines"

    most_candles: int = 1000

    def answer(self, path: str, query: dict[str, str], headers: dict[str, str]) -> tuple[int, Any]:
        match path:
            case "/api/v3/ping":
                return 200, {}
            case "/api/v3/time":
                return 200, {"serverTime": int(self.now_s * 1000)}
            case "/api/v3/exchangeInfo":
                return 200, self._exchange_info()
            case self.CANDLES:
                return self._klines(query)
            case _:
                return 404, {"code": -1, "msg": f"no such endpoint {path}"}

    def _exchange_info(self) -> dict[str, Any]:
        symbols = [_symbol(ticker, self.quote) for ticker in self.truth.tickers]
        return {
            "timezone": "UTC", "serverTime": int(self.now_s * 1000), "rateLimits": [], "exchangeFilters": [],
            "symbols": symbols,
        }  # fmt: skip

    def _klines(self, query: dict[str, str]) -> tuple[int, Any]:
        ticker = query.get("symbol", "").removesuffix(self.quote)
        if ticker not in self.truth.tickers:
            return 400, {"code": -1121, "msg": "Invalid symbol."}
        if INTERVAL_S.get(query.get("interval", "")) != self.truth.timeframe_s:
            return 400, {"code": -1120, "msg": "Invalid interval."}
        limit = min(int(query.get("limit", "500")), self.most_candles)
        start_s, end_s = -(-int(query.get("startTime", "0")) // 1000), int(query.get("endTime", str(1 << 50))) // 1000
        found = self.candles(ticker, from_s=start_s, until_s=end_s)
        found = found[:limit] if "startTime" in query else found[-limit:]
        step_ms = self.truth.timeframe_s * 1000
        return 200, [
            [o * 1000, *map(repr, prices), repr(volume), o * 1000 + step_ms - 1, "0", 1, "0", "0", "0"]
            for o, prices, volume in found
        ]


def _symbol(ticker: str, quote: str) -> dict[str, Any]:
    return {
        "symbol": f"{ticker}{quote}", "status": "TRADING", "baseAsset": ticker, "baseAssetPrecision": 8,
        "quoteAsset": quote, "quotePrecision": 8, "quoteAssetPrecision": 8, "orderTypes": ["LIMIT", "MARKET"],
        "icebergAllowed": True, "ocoAllowed": True, "isSpotTradingAllowed": True, "isMarginTradingAllowed": False,
        "permissions": [], "permissionSets": [["SPOT"]],
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01000000"},
            {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000", "stepSize": "0.00001000"},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True, "maxNotional": "9e6"},
        ],
    }  # fmt: skip
