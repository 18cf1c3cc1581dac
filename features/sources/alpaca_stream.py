"""Alpaca's stream of minute bars, as a hint that a candle is complete. REST remains the truth.

The historical API shows the first minute of a new hour only when that minute has passed, so a candle would be taken
after the grace. The stream pushes the last minute of an hour the moment it is complete: when the hourly candle closes
at that very price, it contains that minute, and is final. Whatever goes wrong here, the source merely waits as it
would without a stream.

alpaca-py's own guards are not enough: a connection that is greeted late or sends rubbish resets its silence timer, and
`stop` waits five seconds for the next frame. So a connection is one cancellable task, and silence is judged per symbol.
"""

import asyncio
import atexit
import threading
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from alpaca.common.utils import reconnect_delay
from alpaca.data.live import CryptoDataStream

from features.errors import ConfigurationError
from features.sources.keys import KeyPair
from features.sources.reader import checked_api_url, quiet_clients

log = structlog.get_logger()

STREAM_URL = "wss://stream.data.alpaca.markets"
STREAM_PATH = "/v1beta3/crypto/us"
MINUTE_S = 60
STALE_AFTER_S = 180.0  # a bar of every symbol is due each minute
FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 30.0
CLOSE_TIMEOUT_S = 1.0
CHECKS_PER_LIMIT = 20


class MinuteBars:
    """The newest streamed minute bar of each symbol, and for how long each has been silent. Times monotonic, in s."""

    def __init__(self, symbols: Iterable[str], *, now_s: float) -> None:
        self._newest: dict[str, tuple[int, float]] = {}
        self._heard_s = dict.fromkeys(symbols, now_s)

    def note(self, symbol: str, *, close_s: int, close: float, now_s: float) -> None:
        """close_s: UTC epoch second at which the minute ended; close: its last price."""
        if symbol in self._heard_s:
            self._heard_s[symbol] = now_s
            self._newest[symbol] = max(self._newest.get(symbol, (0, 0.0)), (close_s, close))

    def restarted(self, now_s: float) -> None:
        """A new connection owes bars from now on."""
        self._heard_s = dict.fromkeys(self._heard_s, now_s)

    def confirms(self, symbol: str, *, close_s: int, close: float) -> bool:
        """Whether the candle closing at close_s at this price has its last minute, or a later one has been seen."""
        minute_s, price = self._newest.get(symbol, (0, 0.0))
        return minute_s > close_s or (minute_s == close_s and price == close)

    def silent(self, now_s: float, limit_s: float) -> tuple[str, ...]:
        """Symbols of which nothing came for limit_s."""
        return tuple(symbol for symbol, heard_s in self._heard_s.items() if now_s - heard_s >= limit_s)


class AlpacaStream:
    """Keeps one subscription open in a thread of its own until `stop`. `minutes` holds what was heard.

    url: the full endpoint. monotonic_s: seconds. A connection on which a symbol is silent for stale_after_s is torn
    down and opened anew, after a delay that grows from FIRST_DELAY_S to LONGEST_DELAY_S while nothing comes.
    """

    def __init__(
        self, *, keys: KeyPair, symbols: tuple[str, ...], url: str, monotonic_s: Callable[[], float],
        stale_after_s: float = STALE_AFTER_S,
    ) -> None:  # fmt: skip
        self._keys, self._symbols, self._url, self._now_s = keys, symbols, url, monotonic_s
        self._stale_after_s = stale_after_s
        self.minutes = MinuteBars(symbols, now_s=monotonic_s())
        self.connections = 0
        self._heard_any = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="alpaca-stream", daemon=True)

    def start(self) -> None:
        if not hasattr(CryptoDataStream, "_run_forever"):
            raise ConfigurationError(
                "this alpaca-py has no CryptoDataStream._run_forever: its stream cannot be stopped",
                hint="install the version that constraints.txt names",
            )
        quiet_clients()
        self._thread.start()
        self._ready.wait()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Close the connection and end the thread; returns within a few CLOSE_TIMEOUT_S."""
        atexit.unregister(self.stop)
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(timeout=5 * CLOSE_TIMEOUT_S)

    async def _main(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        failures = 0
        while not self._stopping.is_set():
            reason = await self._one_connection()
            failures = 1 if self._heard_any else failures + 1
            if not self._stopping.is_set():
                delay_s = reconnect_delay(failures, FIRST_DELAY_S, LONGEST_DELAY_S)
                log.warning("market_stream.lost", reason=reason, next_try_s=round(delay_s, 3))
                await self._stopped_within(delay_s)

    async def _one_connection(self) -> str:
        """Until a stop, silence or an end that alpaca-py does not mend itself; says which."""
        self.minutes.restarted(self._now_s())
        self._heard_any = False
        self.connections += 1
        stream = CryptoDataStream(
            self._keys.key_id, self._keys.secret, raw_data=True, url_override=self._url,
            websocket_params={"ping_interval": 10, "ping_timeout": 180, "max_queue": 1024, "close_timeout": 1},
            data_timeout=self._stale_after_s,
        )  # fmt: skip
        stream.subscribe_bars(self._on_bar, *self._symbols)
        running = asyncio.ensure_future(stream._run_forever())  # noqa: SLF001  run() would own the thread's loop
        try:
            while not await self._stopped_within(self._stale_after_s / CHECKS_PER_LIMIT):
                if running.done():
                    return "the venue ended it"
                if silent := self.minutes.silent(self._now_s(), self._stale_after_s):
                    return f"nothing of {', '.join(silent)} for {self._stale_after_s:g} s"
            return "stopped"
        finally:
            running.cancel()
            await asyncio.wait([running], timeout=CLOSE_TIMEOUT_S)
            await asyncio.wait([asyncio.ensure_future(stream.close())], timeout=2 * CLOSE_TIMEOUT_S)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), timeout=seconds)
        except TimeoutError:
            return False
        return True

    async def _on_bar(self, message: Any) -> None:
        try:
            opened_s, close = int(message["t"].seconds), float(message["c"])
            self.minutes.note(message["S"], close_s=opened_s + MINUTE_S, close=close, now_s=self._now_s())
            self._heard_any = True
        except Exception as error:  # noqa: BLE001  raised further, alpaca-py would drop the rest of the frame
            log.warning("market_stream.odd_bar", error=f"{type(error).__name__}: {error}")


def stream_url(api_url: str) -> str:
    """The stream's endpoint; api_url: `market.api_url`, whose host then serves the stream as well."""
    host = checked_api_url(api_url).replace("http", "ws", 1) if api_url else STREAM_URL
    return host + STREAM_PATH
