"""Opens the configured source of bars; an adapter's libraries are loaded only when it is chosen."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from features.errors import ConfigurationError
from features.sources.base import BarSource
from features.sources.keys import KeyPair

__all__ = ["BarSource", "open_source"]


def open_source(
    *, source: str, exchange: str, quote: str, tickers: Sequence[str], timeframe_s: int, recorded_path: str | Path,
    grace_s: float, history_bars: int, world: str, seed: int, bars: int, start_utc: str, oracle_sharpe: float,
    clock_now_s: Callable[[], float], sleep: Callable[[float], None] | None = None,
    beat: Callable[[], None] = lambda: None, api_url: str = "", keys: KeyPair | None = None,
    stream_clock_s: Callable[[], float] | None = None,
) -> BarSource:  # fmt: skip
    """The source called `source`. The arguments up to api_url are the keys of [market] and [simulation].

    clock_now_s: UTC epoch seconds. sleep: how a live source waits between attempts (None: really). beat: called while
    a live source makes progress. keys: of the venue's account, where it has use for them. stream_clock_s: a monotonic
    clock, given by the one process per account that shall also listen to the venue's stream, if there is one.
    Raises ConfigurationError for an unknown source or a missing path; reading may then raise DataError or
    MarketUnavailable.
    """
    chosen = tuple(tickers)
    if source == "simulated":
        from features.bars import epoch_s
        from features.sources.simulated import SimulatedSource, World

        if world == "bootstrap":
            from features.sources.bootstrap import BootstrapSource

            return BootstrapSource(
                path=_path_of_record(recorded_path), quote=quote, seed=seed, bars=bars, tickers=chosen,
                timeframe_s=timeframe_s, start_s=epoch_s(start_utc),
            )  # fmt: skip
        return SimulatedSource(
            world=cast("World", world), seed=seed, bars=bars, tickers=chosen, timeframe_s=timeframe_s,
            start_s=epoch_s(start_utc), oracle_sharpe=oracle_sharpe,
        )  # fmt: skip
    if source == "recorded":
        from features.sources.freqtrade import recorded_source

        return recorded_source(
            path=_path_of_record(recorded_path), quote=quote, tickers=chosen, timeframe_s=timeframe_s
        )
    if source not in ("ccxt", "alpaca"):
        raise ConfigurationError(
            f"there is no source {source!r}", hint="market.source is ccxt, alpaca, recorded or simulated"
        )

    import numpy as np
    from tenacity import nap

    from features.sources.live import LiveSource, Venue
    from features.sources.reader import Ports

    ports = Ports(
        clock_now_s=clock_now_s, sleep=nap.sleep if sleep is None else sleep, jitter=np.random.default_rng(seed),
        beat=beat,
    )  # fmt: skip
    venue: Venue
    if source == "ccxt":
        from features.sources.ccxt_source import CcxtVenue

        venue = CcxtVenue(
            ports, exchange=exchange, quote=quote, tickers=chosen, timeframe_s=timeframe_s, api_url=api_url, keys=keys
        )
    else:
        from features.sources.alpaca_source import AlpacaVenue
        from features.sources.alpaca_stream import AlpacaStream, stream_url

        hints = None
        if keys is not None and stream_clock_s is not None:
            symbols = tuple(f"{ticker}/{quote}" for ticker in chosen)
            stream = AlpacaStream(keys=keys, symbols=symbols, url=stream_url(api_url), monotonic_s=stream_clock_s)
            stream.start()
            hints = stream.minutes
        venue = AlpacaVenue(
            ports, quote=quote, tickers=chosen, timeframe_s=timeframe_s, api_url=api_url, keys=keys, hints=hints
        )
    return LiveSource(
        venue, tickers=chosen, quote=quote, timeframe_s=timeframe_s, grace_s=grace_s, history_bars=history_bars,
        clock_now_s=clock_now_s,
    )  # fmt: skip


def _path_of_record(recorded_path: str | Path) -> Path:
    if not str(recorded_path):
        raise ConfigurationError(
            "market.recorded_path is empty", hint="name a file of candles or a directory with a file per pair"
        )
    return Path(recorded_path).expanduser()
