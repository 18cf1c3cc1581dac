"""A local server that speaks bitget's public /api/v2: symbols and old candles, of which it answers the newest 200."""

from dataclasses import dataclass
from typing import Any, ClassVar

from venue import Venue

GRANULARITY_S = {"1min": 60, "1h": 3600, "1Dutc": 86400, "1day": 86400}
MOST_CANDLES = 200


@dataclass
class BitgetLike(Venue):
    CANDLES: ClassVar[str] = "/api/v2/spot/market/history-candles"

    def answer(self, path: str, query: dict[str, str], headers: dict[str, str]) -> tuple[int, Any]:
        match path:
            case "/api/v2/spot/public/symbols":
                return 200, _said([_symbol(ticker, self.quote) for ticker in self.truth.tickers])
            case "/api/v2/spot/public/coins" | "/api/v2/mix/market/contracts" | "/api/v2/margin/currencies":
                return 200, _said([])
            case self.CANDLES:
                step_s, end_s = GRANULARITY_S[query["granularity"]], int(query["endTime"]) // 1000
                found = self.coarser(query["symbol"].removesuffix(self.quote), step_s, until_s=end_s - 1)
                found = found[-min(MOST_CANDLES, int(query["limit"])) :]
                return 200, _said([[str(t * 1000), *map(repr, p), repr(v), "0", "0"] for t, p, v in found])
            case _:
                return 404, {"code": "40404", "msg": f"no such endpoint {path}"}


def _said(data: list[Any]) -> dict[str, Any]:
    return {"code": "00000", "msg": "success", "requestTime": 0, "data": data}


def _symbol(ticker: str, quote: str) -> dict[str, Any]:
    return {
        "symbol": f"{ticker}{quote}", "baseCoin": ticker, "quoteCoin": quote, "minTradeAmount": "0", "minTradeUSDT": "1",
        "maxTradeAmount": "9000", "takerFeeRate": "0.002", "makerFeeRate": "0.002", "pricePrecision": "2",
        "quantityPrecision": "6", "quotePrecision": "6", "status": "online",
    }  # fmt: skip
