"""A local server that speaks binance's public /api/v3: ping, time, exchangeInfo and klines."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from alpaca_like import KEYS, WIRE
from exchange_account import Duplicate, ExchangeAccount, Order, OrderFault, Trade
from venue import Fault, Venue, rate_limited

LOT = Decimal("0.00001")
INTERVAL_S = {"1m": 60, "15m": 900, "1h": 3600, "4h": 14400, "1d": 86400}


@dataclass
class BinanceLike(Venue):
    """most_candles: per request; binance's own number is 1000."""

    CANDLES: ClassVar[str] = "/api/v3/klines"

    most_candles: int = 1000
    account: ExchangeAccount | None = None

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
            case _ if self.account is not None and headers.get("x-mbx-apikey") == KEYS.key_id:
                with self.account.lock:
                    return self._account_answer(self.account, path, query)
            case _ if self.account is not None:
                return 401, {"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."}
            case _:
                return 404, {"code": -1, "msg": f"no such endpoint {path}"}

    def _account_answer(self, account: ExchangeAccount, path: str, query: dict[str, str]) -> tuple[int, Any]:
        match path:
            case "/api/v3/account":
                held = {self.quote: account.cash, **account.coins}
                balances = [{"asset": a, "free": str(q), "locked": "0.00000000"} for a, q in held.items()]
                return 200, {"canTrade": True, "balances": balances}
            case "/api/v3/openOrders":
                return 200, [self._order(o) for o in account.orders if o.status == "accepted"]
            case "/api/v3/order":
                if "orderId" in query:
                    order = account.by_order_id(_long(query["orderId"]))
                else:
                    order = account.looked_up(query["origClientOrderId"], self.now_s)
                return (200, self._order(order)) if order else (400, {"code": -2013, "msg": "Order does not exist."})
            case "/api/v3/myTrades":
                trades = [t for t in account.trades if f"{t.order.ticker}{self.quote}" == query["symbol"]]
                trades = [t for t in trades if t.at_s * 1000 >= int(query.get("startTime", "0"))]
                trades = [t for t in trades if int(t.trade_id) >= int(query.get("fromId", "0"))]
                return 200, [self._trade(t) for t in trades[: int(query["limit"])]]
            case _:
                return 404, {"code": -1, "msg": f"no such endpoint {path}"}

    def command(
        self, method: str, path: str, fields: dict[str, str], headers: dict[str, str]
    ) -> tuple[int, Any, Fault | None]:
        account = self.account
        if account is None or path != "/api/v3/order":
            return 404, {"code": -1, "msg": f"no such endpoint {path}"}, None
        if headers.get("x-mbx-apikey") != KEYS.key_id:
            return 401, {"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."}, None
        if method == "DELETE":
            order = account.by_client_id(fields["origClientOrderId"])
            if order is not None and account.cancel(order.order_id):
                return 200, self._order(order), None
            return 400, {"code": -2011, "msg": "Unknown order sent."}, None
        quantity = Decimal(fields["quantity"]) * (1 if fields["side"] == "BUY" else -1)
        ticker = fields["symbol"].removesuffix(self.quote)
        if quantity % LOT:
            return 400, {"code": -1013, "msg": "Filter failure: LOT_SIZE"}, None
        try:
            order, fault = account.arrive(
                fields.get("newClientOrderId", f"venue-made-{account.posts}"), ticker, quantity, self.now_s
            )
        except Duplicate:
            return 400, {"code": -2010, "msg": "Duplicate order sent."}, None
        if order is None:
            if fault is OrderFault.TOO_MANY:
                return 429, {"code": -1003, "msg": "Too many requests."}, rate_limited(retry_after_s=1)
            if fault is OrderFault.POOR:
                return 400, {"code": -2010, "msg": "Account has insufficient balance for requested action."}, None
        answer = {} if order is None else self._order(order)
        if fault is OrderFault.TAKEN_ODD:
            answer["status"] = "THOUGHT_ABOUT"
        return 200, answer, WIRE.get(fault)

    def _order(self, order: Order) -> dict[str, Any]:
        return {
            "symbol": f"{order.ticker}{self.quote}", "orderId": int(order.order_id[:8]), "type": "MARKET",
            "clientOrderId": order.client_order_id, "origQty": str(abs(order.quantity)),
            "executedQty": str(order.filled), "side": "BUY" if order.quantity > 0 else "SELL",
            "status": {"accepted": "NEW", "filled": "FILLED", "canceled": "EXPIRED"}[order.status],
        }  # fmt: skip

    def _trade(self, trade: Trade) -> dict[str, Any]:
        bought = trade.quantity > 0
        return {
            "symbol": f"{trade.order.ticker}{self.quote}", "id": int(trade.trade_id), "isBuyer": bought,
            "orderId": int(trade.order.order_id[:8]), "price": str(trade.price), "qty": str(abs(trade.quantity)),
            "commission": str(trade.fee), "commissionAsset": trade.order.ticker if bought else self.quote,
            "time": int(trade.at_s * 1000),
        }  # fmt: skip

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
        step_s = INTERVAL_S.get(query.get("interval", ""), 0)
        if step_s < self.truth.timeframe_s:
            return 400, {"code": -1120, "msg": "Invalid interval."}
        limit = min(int(query.get("limit", "500")), self.most_candles)
        start_s, end_s = -(-int(query.get("startTime", "0")) // 1000), int(query.get("endTime", str(1 << 50))) // 1000
        found = self.coarser(ticker, step_s, from_s=start_s, until_s=end_s)
        found = found[:limit] if "startTime" in query else found[-limit:]
        step_ms = step_s * 1000
        return 200, [
            [o * 1000, *map(repr, prices), repr(volume), o * 1000 + step_ms - 1, "0", 1, "0", "0", "0"]
            for o, prices, volume in found
        ]


def _long(order_id: str) -> str:
    return f"{int(order_id):08d}-0000-4000-8000-000000000000"


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
