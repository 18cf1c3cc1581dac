"""A local Alpaca: crypto bars with page tokens, assets and clock over HTTP; the stream of minute bars as a websocket.

The stream is a real websocket server of the `websockets` library. It greets, wants the right keys, reads a
subscription that arrives in fragments, and then sends what the test pushes: bars as msgpack with Timestamps, rubbish,
nothing at all, or an end.
"""

import base64
import queue
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, ClassVar, Self

import msgpack
from exchange_account import CENT, Duplicate, ExchangeAccount, Order, OrderFault, Trade
from venue import Fault, Venue, html_page, hung, rate_limited, reset, server_error
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from features.bars import epoch_s, utc_text
from features.sources.keys import KeyPair

KEYS = KeyPair(key_id="PKTESTKEYID", secret="s3cr3t-never-to-be-seen")
NO_ENDPOINT = (404, {"code": 40410000, "message": "endpoint not found."})
WIRE = {
    OrderFault.LOST_504: server_error(504), OrderFault.TAKEN_504: server_error(504),
    OrderFault.LATE_FIRST: server_error(504), OrderFault.LATE_SECOND: server_error(504),
    OrderFault.LOST_HANG: hung(), OrderFault.TAKEN_HANG: hung(),
    OrderFault.LOST_RESET: reset(), OrderFault.TAKEN_RESET: reset(), OrderFault.TAKEN_HTML: html_page(),
}  # fmt: skip
UNIT_S = {"Min": 60, "min": 60, "Hour": 3600, "H": 3600, "Day": 86400, "D": 86400}


@dataclass
class AlpacaLike(Venue):
    """page_rows: how long a page is, whatever limit is asked for (at most)."""

    CANDLES: ClassVar[str] = "/v1beta3/crypto/us/bars"

    quote: str = "USD"
    page_rows: int = 400
    account: ExchangeAccount | None = None
    page_fills: int = 100

    def answer(self, path: str, query: dict[str, str], headers: dict[str, str]) -> tuple[int, Any]:
        given = (headers.get("apca-api-key-id"), headers.get("apca-api-secret-key"))
        if path != self.CANDLES and given != (KEYS.key_id, KEYS.secret):
            return 403, {"code": 40310000, "message": "forbidden."}
        match path:
            case self.CANDLES:
                return self._bars(query)
            case "/v2/clock":
                text = datetime.fromtimestamp(self.now_s, tz=UTC).isoformat(timespec="microseconds")
                return 200, {"timestamp": text.replace("+00:00", "123Z"), "is_open": True}
            case "/v2/assets":
                return 200, [_asset(ticker, self.quote) for ticker in self.truth.tickers]
            case _ if self.account is not None:
                with self.account.lock:
                    return self._account_answer(self.account, path, query)
            case _:
                return NO_ENDPOINT

    def _account_answer(self, account: ExchangeAccount, path: str, query: dict[str, str]) -> tuple[int, Any]:
        match path:
            case "/v2/account":
                cash = account.cash.quantize(CENT)
                return 200, {
                    "id": "a", "status": "ACTIVE", "currency": "USD", "cash": str(cash), "equity": str(cash),
                    "trading_blocked": False, "account_blocked": False,
                }  # fmt: skip
            case "/v2/positions":
                return 200, [
                    {"symbol": f"{t}{self.quote}", "qty": str(q), "qty_available": str(q), "side": "long"}
                    for t, q in account.coins.items() if q
                ]  # fmt: skip
            case "/v2/orders":
                return 200, [self._order(o) for o in account.orders if o.status == "accepted"]
            case "/v2/orders:by_client_order_id":
                order = account.looked_up(query["client_order_id"], self.now_s)
                return (200, self._order(order)) if order else (404, {"code": 40410000, "message": "order not found"})
            case "/v2/account/activities/FILL":
                after_s = epoch_s(query["after"])
                fills = [self._fill(t) for t in account.trades if t.at_s > after_s]
                if token := query.get("page_token"):
                    fills = [f for f in fills if f["id"] > token]
                return 200, fills[: min(self.page_fills, int(query["page_size"]))]
            case _ if path.startswith("/v2/orders/"):
                order = account.by_order_id(path.rpartition("/")[2])
                return (200, self._order(order)) if order else (404, {"code": 40410000, "message": "order not found"})
            case _:
                return NO_ENDPOINT

    def command(
        self, method: str, path: str, fields: dict[str, str], headers: dict[str, str]
    ) -> tuple[int, Any, Fault | None]:
        if (headers.get("apca-api-key-id"), headers.get("apca-api-secret-key")) != (KEYS.key_id, KEYS.secret):
            return 403, {"code": 40310000, "message": "forbidden."}, None
        account = self.account
        if account is None or not path.startswith("/v2/orders"):
            return (*NO_ENDPOINT, None)
        if method == "DELETE":
            if account.cancel(path.rpartition("/")[2]):
                return 204, None, None
            return 422, {"code": 42210000, "message": "order is not cancelable"}, None
        return self._post(account, fields)

    def _post(self, account: ExchangeAccount, fields: dict[str, Any]) -> tuple[int, Any, Fault | None]:
        assert isinstance(fields["qty"], str) and "e" not in fields["qty"].lower(), "a quantity is decimal text"
        quantity = Decimal(fields["qty"]) * (1 if fields["side"] == "buy" else -1)
        ticker = fields["symbol"].removesuffix(f"/{self.quote}")
        name = fields.get("client_order_id") or f"venue-made-{account.posts}"
        if abs(quantity) * account.price[ticker] < 10 and quantity > 0:
            return 403, {"code": 40310000, "message": "cost basis must be >= minimal amount of order 10"}, None
        if quantity < 0 and -quantity > account.coins[ticker]:
            return 403, {"code": 40310000, "message": f"insufficient balance for {ticker}"}, None
        try:
            order, fault = account.arrive(name, ticker, quantity, self.now_s)
        except Duplicate:
            return 422, {"code": 40010001, "message": "client_order_id must be unique"}, None
        if order is None:
            if fault is OrderFault.TOO_MANY:
                return 429, {"code": 42910000, "message": "rate limit exceeded"}, rate_limited(retry_after_s=1)
            if fault is OrderFault.POOR:
                return 403, {"code": 40310000, "message": "insufficient balance for USD"}, None
        answer = {} if order is None else self._order(order)
        if fault is OrderFault.TAKEN_ODD:
            answer["status"] = "thought_about"
        return 200, answer, WIRE.get(fault)

    def _order(self, order: Order) -> dict[str, Any]:
        return {
            "id": order.order_id, "client_order_id": order.client_order_id, "symbol": f"{order.ticker}/{self.quote}",
            "qty": str(abs(order.quantity)), "filled_qty": str(order.filled), "status": order.status,
            "side": "buy" if order.quantity > 0 else "sell", "type": "market", "time_in_force": "ioc",
        }  # fmt: skip

    def _fill(self, trade: Trade) -> dict[str, Any]:
        stamp = datetime.fromtimestamp(trade.at_s, tz=UTC)
        return {
            "id": f"{stamp:%Y%m%d%H%M%S}000::{trade.trade_id}", "activity_type": "FILL", "type": "fill",
            "transaction_time": stamp.isoformat().replace("+00:00", "Z"), "price": str(trade.price),
            "qty": str(abs(trade.quantity)), "side": "buy" if trade.quantity > 0 else "sell",
            "symbol": f"{trade.order.ticker}/{self.quote}", "order_id": trade.order.order_id,
        }  # fmt: skip

    def _bars(self, query: dict[str, str]) -> tuple[int, Any]:
        symbols = query["symbols"].split(",")
        unknown = [s for s in symbols if s.removesuffix(f"/{self.quote}") not in self.truth.tickers]
        if unknown:
            return 400, {"message": f"invalid symbol: {unknown[0]}"}
        timeframe = query["timeframe"]
        unit = timeframe.lstrip("0123456789")
        if int(timeframe.removesuffix(unit)) * UNIT_S[unit] != self.truth.timeframe_s:
            return 400, {"message": f"invalid timeframe: {timeframe}"}
        start_s = epoch_s(query["start"]) if "start" in query else 0
        end_s = epoch_s(query["end"]) if "end" in query else 1 << 40
        rows = [
            (symbol, opened_s, prices, volume)
            for symbol in sorted(symbols)
            for opened_s, prices, volume in self.candles(
                symbol.removesuffix(f"/{self.quote}"), from_s=start_s, until_s=end_s
            )
        ]
        if token := query.get("page_token"):
            symbol, opened_text = base64.b64decode(token).decode().split("|")
            rows = [row for row in rows if (row[0], row[1]) > (symbol, int(opened_text))]
        page = rows[: min(self.page_rows, int(query.get("limit", "1000")))]
        bars: dict[str, list[dict[str, Any]]] = {}
        for symbol, opened_s, (o, h, l, c), v in page:
            bar = {"t": utc_text(opened_s), "o": o, "h": h, "l": l, "c": c, "v": v, "n": 3, "vw": c}
            bars.setdefault(symbol, []).append(bar)
        more = base64.b64encode(f"{page[-1][0]}|{page[-1][1]}".encode()).decode() if len(page) < len(rows) else None
        return 200, {"bars": bars, "next_page_token": more}


def _asset(ticker: str, quote: str) -> dict[str, Any]:
    return {
        "id": f"id-{ticker}", "class": "crypto", "exchange": "CRYPTO", "symbol": f"{ticker}/{quote}", "name": ticker,
        "status": "active", "tradable": True, "marginable": False, "shortable": False, "easy_to_borrow": False,
        "fractionable": True, "attributes": [], "min_order_size": "0.000026873",
        "min_trade_increment": "0.000000001", "price_increment": "0.0100",
    }  # fmt: skip


def minute_bar(symbol: str, *, close_s: int, close: float) -> dict[str, Any]:
    stamp = msgpack.Timestamp(seconds=close_s - 60, nanoseconds=0)
    return {
        "T": "b",
        "S": symbol,
        "t": stamp,
        "o": close,
        "h": close,
        "l": close,
        "c": close,
        "v": 1.0,
        "n": 1,
        "vw": close,
    }


@dataclass
class AlpacaStreamLike:
    """Use as a context manager. push: the next frame for every subscriber, as messages or as raw bytes; None closes.

    greet: whether a connection is greeted at all. subscriptions: what arrived, one per connection that got that far;
    fragments: how many frames it came in.
    """

    keys: KeyPair = KEYS
    greet: bool = True
    connections: int = 0
    subscriptions: list[dict[str, Any]] = field(default_factory=list)
    fragments: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._queues: list[queue.Queue[list[dict[str, Any]] | bytes | None]] = []
        self._closing = threading.Event()
        self._server: Server = serve(self._serve, "127.0.0.1", 0, close_timeout=0.2)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/v1beta3/crypto/us"

    def push(self, frame: list[dict[str, Any]] | bytes | None) -> None:
        for waiting in list(self._queues):
            waiting.put(frame)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self.push(None)
        self._server.shutdown()
        self._thread.join(timeout=5)

    def _serve(self, connection: ServerConnection) -> None:
        self.connections += 1
        try:
            if not self.greet:
                self._closing.wait(timeout=30)
                return
            connection.send(msgpack.packb([{"T": "success", "msg": "connected"}]))
            auth = msgpack.unpackb(connection.recv(timeout=5))
            if (auth["key"], auth["secret"]) != (self.keys.key_id, self.keys.secret):
                connection.send(msgpack.packb([{"T": "error", "code": 402, "msg": "auth failed"}]))
                return
            connection.send(msgpack.packb([{"T": "success", "msg": "authenticated"}]))
            parts = list(connection.recv_streaming())
            wanted = msgpack.unpackb(b"".join(parts))  # alpaca-py sends it as a fragmented message
            self.fragments.append(len(parts))
            self.subscriptions.append(wanted)
            connection.send(msgpack.packb([{"T": "subscription", "bars": wanted["bars"]}]))
            self._stream(connection)
        except (ConnectionClosed, TimeoutError):
            return

    def _stream(self, connection: ServerConnection) -> None:
        mine: queue.Queue[list[dict[str, Any]] | bytes | None] = queue.Queue()
        self._queues.append(mine)
        try:
            while (frame := mine.get()) is not None:
                connection.send(frame if isinstance(frame, bytes) else msgpack.packb(frame, datetime=False))
        finally:
            self._queues.remove(mine)
