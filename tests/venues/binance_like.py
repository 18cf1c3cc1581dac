"""A local HTTP server that speaks binance's public /api/v3: ping, time, exchangeInfo and klines.

It serves a `Bars` truth up to a clock the test sets, including the *forming* candle of the current hour with values
that never appear in the truth, and can be told to answer badly. Filled bars of the truth are not served: they are gaps.
"""

import json
import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from features.bars import Bars

MOST_CANDLES = 1000  # per request, as binance
INTERVAL_S = {"1m": 60, "15m": 900, "1h": 3600, "4h": 14400, "1d": 86400}
FORMING_FACTOR = 1.37  # a forming close is this far from its open


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One bad answer. truncate: send the true body without its last third. body: sent instead of the true one."""

    status: int = 200
    body: bytes | None = None
    truncate: bool = False
    headers: tuple[tuple[str, str], ...] = ()


def rate_limited(*, retry_after_s: int | None = 1) -> Fault:
    headers = () if retry_after_s is None else (("Retry-After", str(retry_after_s)),)
    return Fault(status=429, body=b'{"code":-1003,"msg":"Too many requests."}', headers=headers)


def server_error(status: int = 503) -> Fault:
    return Fault(status=status, body=b'{"code":-1000,"msg":"An unknown error occurred."}')


def refused(status: int = 451) -> Fault:
    return Fault(status=status, body=b'{"code":0,"msg":"Service unavailable from a restricted location."}')


def html_page() -> Fault:
    return Fault(body=b"<html><body>Checking your browser</body></html>", headers=(("Content-Type", "text/html"),))


def truncated_json() -> Fault:
    return Fault(truncate=True)


@dataclass
class BinanceLike:
    """Use as a context manager; `urls` goes to the ccxt client.

    now_s: what the venue believes the time is; decides which candles exist and what the Date header says.
    late: tickers whose newest closed candle is not published yet. requests: (path, query) in order of arrival.
    """

    truth: Bars
    now_s: float
    quote: str = "USDT"
    late: set[str] = field(default_factory=set)
    faults: deque[Fault] = field(default_factory=deque)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        handler = type("Handler", (_Handler,), {"venue": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def urls(self) -> dict[str, Any]:
        base = f"http://127.0.0.1:{self._server.server_port}/api/v3"
        return {"api": {"public": base, "private": base}}

    def inject(self, *faults: Fault) -> None:
        """The next klines requests are answered by these, one each."""
        self.faults.extend(faults)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        match path:
            case "/api/v3/ping":
                return 200, {}
            case "/api/v3/time":
                return 200, {"serverTime": int(self.now_s * 1000)}
            case "/api/v3/exchangeInfo":
                return 200, self._exchange_info()
            case "/api/v3/klines":
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
        limit = min(int(query.get("limit", "500")), MOST_CANDLES)
        start_ms, end_ms = int(query.get("startTime", "0")), int(query.get("endTime", str(1 << 60)))
        candles = [c for c in self._existing(ticker) if start_ms <= c[0] <= end_ms]
        return 200, candles[:limit] if "startTime" in query else candles[-limit:]

    def _existing(self, ticker: str) -> list[list[Any]]:
        truth, n, step = self.truth, self.truth.tickers.index(ticker), self.truth.timeframe_s
        candles = []
        newest_closed_s = int(self.now_s // step) * step
        for t, close_s in enumerate(truth.close_time_s.tolist()):
            if close_s - step > self.now_s:
                break
            late = ticker in self.late and close_s >= newest_closed_s
            if truth.filled[t, n] or late:
                continue
            prices = [truth.open[t, n], truth.high[t, n], truth.low[t, n], truth.close[t, n]]
            volume = truth.volume[t, n]
            if close_s > self.now_s:
                prices = [prices[0], prices[0] * FORMING_FACTOR, prices[0], prices[0] * FORMING_FACTOR]
                volume = 0.001
            texts = [repr(float(p)) for p in prices]
            candles.append(
                [(close_s - step) * 1000, *texts, repr(float(volume)), close_s * 1000 - 1, "0", 1, "0", "0", "0"]
            )
        return candles


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


class _Handler(BaseHTTPRequestHandler):
    venue: BinanceLike
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.venue.requests.append((parts.path, query))
        status, answer = self.venue.answer(parts.path, query)
        body, headers = json.dumps(answer).encode(), {"Content-Type": "application/json"}
        if parts.path.endswith("/klines") and self.venue.faults:
            fault = self.venue.faults.popleft()
            status, headers = fault.status, {**headers, **dict(fault.headers)}
            body = fault.body if fault.body is not None else body
            body = body[: 2 * len(body) // 3] if fault.truncate else body
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return format_datetime(datetime.fromtimestamp(self.venue.now_s, tz=UTC), usegmt=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read `requests` instead."""
