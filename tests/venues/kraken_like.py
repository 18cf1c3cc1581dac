"""A local server that speaks kraken's public API: Time, Assets, AssetPairs and OHLC with its 720 last candles."""

from dataclasses import dataclass
from typing import Any, ClassVar

from venue import Venue

OWN_NAMES = {"BTC": "XXBT", "ETH": "XETH", "LTC": "XLTC", "USD": "ZUSD"}


@dataclass
class KrakenLike(Venue):
    """most_candles: what OHLC answers at most, the newest first to stay; `since` only shortens that."""

    CANDLES: ClassVar[str] = "/0/public/OHLC"

    quote: str = "USD"
    most_candles: int = 720

    def answer(self, path: str, query: dict[str, str], headers: dict[str, str]) -> tuple[int, Any]:
        match path:
            case "/0/public/Time":
                return 200, {"error": [], "result": {"unixtime": int(self.now_s)}}
            case "/0/public/Assets":
                return 200, {
                    "error": [],
                    "result": {_own(name): _asset(name) for name in (*self.truth.tickers, self.quote)},
                }
            case "/0/public/AssetPairs":
                return 200, {
                    "error": [],
                    "result": {_pair(t, self.quote): _pair_of(t, self.quote) for t in self.truth.tickers},
                }
            case self.CANDLES:
                return self._ohlc(query)
            case _:
                return 200, {"error": ["EGeneral:Unknown method"]}

    def _ohlc(self, query: dict[str, str]) -> tuple[int, Any]:
        tickers = {_pair(t, self.quote): t for t in self.truth.tickers}
        if query.get("pair") not in tickers:
            return 200, {"error": ["EQuery:Unknown asset pair"]}
        if int(query.get("interval", "1")) * 60 != self.truth.timeframe_s:
            return 200, {"error": ["EGeneral:Invalid arguments:interval"]}
        # A late candle is not shown, but the newest of those shown is always the uncommitted one.
        found = self.candles(tickers[query["pair"]])[-self.most_candles :]
        since_s = int(query.get("since", "0"))
        rows = [[o, *map(repr, p), repr(p[3]), repr(v), 7] for o, p, v in found if o > since_s]
        return 200, {"error": [], "result": {query["pair"]: rows, "last": found[-2][0] if len(found) > 1 else 0}}


def _own(name: str) -> str:
    return OWN_NAMES.get(name, name)


def _pair(ticker: str, quote: str) -> str:
    return _own(ticker) + _own(quote) if ticker in OWN_NAMES else ticker + quote


def _asset(name: str) -> dict[str, Any]:
    altname = "XBT" if name == "BTC" else name
    return {"aclass": "currency", "altname": altname, "decimals": 10, "display_decimals": 5, "status": "enabled"}


def _pair_of(ticker: str, quote: str) -> dict[str, Any]:
    altname = "XBT" if ticker == "BTC" else ticker
    return {
        "altname": altname + quote, "wsname": f"{altname}/{quote}", "aclass_base": "currency", "base": _own(ticker),
        "aclass_quote": "currency", "quote": _own(quote), "lot": "unit", "cost_decimals": 5, "pair_decimals": 2,
        "lot_decimals": 8, "lot_multiplier": 1, "leverage_buy": [], "leverage_sell": [], "fees": [[0, 0.4]],
        "fees_maker": [[0, 0.25]], "fee_volume_currency": "ZUSD", "margin_call": 80, "margin_stop": 40,
        "ordermin": "0.0001", "costmin": "0.5", "tick_size": "0.01", "status": "online",
    }  # fmt: skip
