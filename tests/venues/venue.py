"""A local HTTP server that serves a `Bars` truth up to a clock the test sets, and answers badly when told to.

What the venues share: which candles exist now, the *forming* one among them with values that never appear in the truth
(filled bars of the truth are not served: they are gaps), the Date header, and every way in which an answer goes wrong.
"""

import json
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit

import numpy as np

from features.bars import Bars

CLOCK = "/-/clock"  # ?now_s=…: another process sets what the venue believes the time is
FORMING_FACTOR = 1.37  # a forming close is this far from its open


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One bad answer. body: sent instead of the true one. truncate: the true body without its last third.

    cut: the connection ends within the body that the header announced. hang: accepted, never answered. reset: the
    connection is torn down without an answer.
    """

    status: int = 200
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    truncate: bool = False
    cut: bool = False
    hang: bool = False
    reset: bool = False


def rate_limited(*, retry_after_s: int | None = 1) -> Fault:
    headers = () if retry_after_s is None else (("Retry-After", str(retry_after_s)),)
    return Fault(
        status=429, body=b'{"code":-1003,"msg":"Too many requests.","message":"too many requests."}', headers=headers
    )


def server_error(status: int = 503) -> Fault:
    return Fault(status=status, body=b'{"code":-1000,"msg":"An unknown error occurred."}')


def refused(status: int = 451) -> Fault:
    return Fault(status=status, body=b'{"code":0,"msg":"Service unavailable from a restricted location."}')


def html_page(status: int = 200) -> Fault:
    return Fault(
        status=status, body=b"<html><body>Checking your browser</body></html>", headers=(("Content-Type", "text/html"),)
    )


def truncated_json() -> Fault:
    return Fault(truncate=True)


def cut_connection() -> Fault:
    return Fault(cut=True)


def hung() -> Fault:
    return Fault(hang=True)


def reset() -> Fault:
    return Fault(reset=True)


PASSING_FAULTS = (
    rate_limited(retry_after_s=1), rate_limited(retry_after_s=None), server_error(500), server_error(503), html_page(),
    html_page(502), truncated_json(), cut_connection(), hung(), reset(), Fault(body=b""),
)  # fmt: skip


@dataclass
class Venue:
    """Use as a context manager; `api_url` goes to the client. A subclass gives `answer`, and names its CANDLES path.

    now_s: what the venue believes the time is; decides which candles exist and what the Date header says.
    forming: whether the candle of the current bar is shown. late: tickers whose newest closed candle (and so the
    forming one) is not published yet. requests: (path, query) in order of arrival. keys: header names in order of
    arrival that carried a key, to see that none was sent where none belongs. instead: (ticker, open time) → what is
    shown in that candle's place: as many (prices, volume) as there are.
    """

    CANDLES: ClassVar[str]

    truth: Bars
    now_s: float
    quote: str = "USDT"
    dated: bool = True
    forming: bool = True
    late: set[str] = field(default_factory=set)
    instead: dict[tuple[str, int], list[tuple[list[float], float]]] = field(default_factory=dict)
    faults: deque[Fault | None] = field(default_factory=deque)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        handler = type("Handler", (_Handler,), {"venue": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.closing = threading.Event()

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def inject(self, *faults: Fault | None) -> None:
        """The next requests for candles are answered by these, one each; None is a true answer."""
        self.faults.extend(faults)

    def asked(self) -> list[dict[str, str]]:
        """Queries of the requests for candles so far."""
        return [query for path, query in self.requests if path == self.CANDLES]

    def answer(self, path: str, query: dict[str, str], headers: dict[str, str]) -> tuple[int, Any]:
        raise NotImplementedError

    def command(
        self, method: str, path: str, fields: dict[str, str], headers: dict[str, str]
    ) -> tuple[int, Any, Fault | None]:
        """A request that changes something: status, answer, and how the answer fails."""
        return 404, {"code": 40410000, "message": "endpoint not found."}, None

    def candles(self, ticker: str, *, from_s: int = 0, until_s: int = 1 << 40) -> list[tuple[int, list[float], float]]:
        """Those that exist now with `from_s <= open time <= until_s`: (open time s, [o, h, l, c], volume)."""
        truth, n, step = self.truth, self.truth.tickers.index(ticker), self.truth.timeframe_s
        opened_s = truth.close_time_s - step
        newest_closed_s = int(self.now_s // step) * step
        shown_s = min(until_s, self.now_s)
        if ticker in self.late:
            shown_s = min(shown_s, newest_closed_s - 2 * step)
        elif not self.forming:
            shown_s = min(shown_s, newest_closed_s - step)
        first, stop = np.searchsorted(opened_s, from_s, "left"), np.searchsorted(opened_s, shown_s, "right")
        found = []
        for t in range(int(first), int(stop)):
            if truth.filled[t, n]:
                continue
            prices = [float(getattr(truth, name)[t, n]) for name in ("open", "high", "low", "close")]
            volume = float(truth.volume[t, n])
            if truth.close_time_s[t] > self.now_s:
                prices, volume = [prices[0], prices[0] * FORMING_FACTOR, prices[0], prices[0] * FORMING_FACTOR], 0.001
            shown = self.instead.get((ticker, int(opened_s[t])), [(prices, volume)])
            found += [(int(opened_s[t]), *candle) for candle in shown]
        return found

    def coarser(
        self, ticker: str, step_s: int, *, from_s: int = 0, until_s: int = 1 << 40
    ) -> list[tuple[int, list[float], float]]:
        """As `candles`, of step_s each: a multiple of the truth's."""
        if step_s == self.truth.timeframe_s:
            return self.candles(ticker, from_s=from_s, until_s=until_s)
        fine = self.candles(
            ticker, from_s=-(-from_s // step_s) * step_s, until_s=until_s // step_s * step_s + step_s - 1
        )
        found = []
        for opened_s, parts in groupby(fine, key=lambda row: row[0] // step_s * step_s):
            rows = list(parts)
            o, h, l, c = zip(*(prices for _, prices, _ in rows), strict=True)
            found.append((opened_s, [o[0], max(h), min(l), c[-1]], sum(volume for *_, volume in rows)))
        return found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


class _Handler(BaseHTTPRequestHandler):
    venue: Venue
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # head and body are two writes: the second would wait 40 ms for the first one's receipt
    )

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path == CLOCK:
            self.venue.now_s = float(query["now_s"])
            self._send(200, b"{}", None)
            return
        self.venue.requests.append((parts.path, query))
        self.venue.headers.append({name.lower(): value for name, value in self.headers.items()})
        fault = None
        if parts.path == self.venue.CANDLES and self.venue.faults:
            fault = self.venue.faults.popleft()
        if fault is not None and (fault.hang or fault.reset):
            self._fall_silent(fault)
            return
        status, answer = self.venue.answer(parts.path, query, self.venue.headers[-1])
        self._send(status, json.dumps(answer).encode(), fault)

    def do_POST(self) -> None:
        self._command("POST")

    def do_DELETE(self) -> None:
        self._command("DELETE")

    def _command(self, method: str) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        fields = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if body:
            fields |= json.loads(body) if body[0] == "{" else {k: v[0] for k, v in parse_qs(body).items()}
        self.venue.requests.append((f"{method} {parts.path}", fields))
        self.venue.headers.append({name.lower(): value for name, value in self.headers.items()})
        status, answer, fault = self.venue.command(method, parts.path, fields, self.venue.headers[-1])
        if fault is not None and (fault.hang or fault.reset):
            self._fall_silent(fault)
        else:
            self._send(status, b"" if answer is None else json.dumps(answer).encode(), fault)

    def _send(self, status: int, body: bytes, fault: Fault | None) -> None:
        headers = {"Content-Type": "application/json"}
        if fault is not None:
            status, headers = fault.status, {**headers, **dict(fault.headers)}
            body = body if fault.body is None else fault.body
            body = body[: 2 * len(body) // 3] if fault.truncate else body
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault is not None and fault.cut:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        self.wfile.write(body)

    def _fall_silent(self, fault: Fault) -> None:
        self.close_connection = True
        if fault.hang:
            self.venue.closing.wait(timeout=30)
            return
        # closing with unread or unsent data and a linger of 0 sends RST instead of FIN
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Date" or self.venue.dated:
            super().send_header(keyword, value)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return format_datetime(datetime.fromtimestamp(int(self.venue.now_s), tz=UTC), usegmt=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read `requests` instead."""

    def finish(self) -> None:
        try:
            super().finish()
        except (BrokenPipeError, ConnectionResetError, ValueError, OSError):
            """The client was gone, or we were."""
