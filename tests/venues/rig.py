"""Live sources on local venues, as the tests of sources and of what stands on them want them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from alpaca_like import KEYS, AlpacaLike
from binance_like import BinanceLike
from kraken_like import KrakenLike
from venue import Venue

from features.bars import Bars
from features.sources.alpaca_source import AlpacaVenue
from features.sources.ccxt_source import CcxtVenue
from features.sources.live import LiveSource
from features.sources.reader import Ports
from features.sources.simulated import simulate

TICKERS = ("BTC", "ETH", "LINK")
START_S = 1_640_995_200  # 2022-01-01T00:00:00Z
HOUR = 3600
PATIENT_S = 10.0  # a busy machine answers late: where nothing hangs, a time-out would be a fault of the test
QUICK_S = 1.0  # where something hangs on purpose

CLIENTS: dict[str, type[Venue]] = {
    "ccxt:binance": BinanceLike, "ccxt:kraken": KrakenLike, "ccxt:alpaca": AlpacaLike, "alpaca": AlpacaLike,
}  # fmt: skip


class Waits(list[float]):
    """Collects what would have been slept."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def truth_bars(n_bars: int = 2300) -> Bars:
    return simulate(world="null", seed=5, bars=n_bars, tickers=TICKERS, timeframe_s=HOUR, start_s=START_S)


def with_gap(bars: Bars, ticker: int | slice, start: int, stop: int) -> Bars:
    """`bars` with an outage: the source's filling rule applied by hand, bar by bar."""
    parts = {name: getattr(bars, name).copy() for name in ("open", "high", "low", "close", "volume", "filled")}
    for t in range(start, stop):
        for name in ("open", "high", "low", "close"):
            parts[name][t, ticker] = parts["close"][t - 1, ticker]
        parts["volume"][t, ticker] = 0.0
        parts["filled"][t, ticker] = True
    parts["open"][stop] = bars.open[stop]
    return replace(bars, **parts)


def live_source(
    client: str, venue: Venue, *, waits: Callable[[float], None] | None = None,
    clock_now_s: Callable[[], float] | None = None, history_bars: int = 5000, tickers: tuple[str, ...] = TICKERS,
    beat: Callable[[], None] = lambda: None, grace_s: float = 20.0, timeout_s: float = PATIENT_S,
    timeframe_s: int = HOUR, **more: Any,
) -> LiveSource:  # fmt: skip
    """A source of `client` (a key of CLIENTS) on a running venue; its clock is the venue's unless given."""
    now_s = clock_now_s or (lambda: venue.now_s)
    ports = Ports(
        clock_now_s=now_s, sleep=Waits() if waits is None else waits, jitter=np.random.default_rng(1), beat=beat
    )
    shared = {
        "quote": venue.quote, "tickers": tickers, "timeframe_s": timeframe_s, "api_url": venue.api_url, "timeout_s": timeout_s,
        "keys": KEYS if "alpaca" in client else None, **more,
    }  # fmt: skip
    adapter: AlpacaVenue | CcxtVenue
    if client == "alpaca":
        adapter = AlpacaVenue(ports, **shared)
    else:
        adapter = CcxtVenue(ports, exchange=client.removeprefix("ccxt:"), **shared)
        adapter.client.enableRateLimit = False  # the venue is ours; kraken's second between two requests adds up
    return LiveSource(
        adapter, tickers=tickers, quote=venue.quote, timeframe_s=timeframe_s, grace_s=grace_s, history_bars=history_bars,
        clock_now_s=now_s,
    )  # fmt: skip
