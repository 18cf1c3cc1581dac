"""Opens the configured source of bars; an adapter's libraries are loaded only when it is chosen."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from features.errors import ConfigurationError
from features.sources.base import BarSource

__all__ = ["BarSource", "open_source"]


def open_source(
    *, source: str, exchange: str, quote: str, tickers: Sequence[str], timeframe_s: int, recorded_path: str | Path,
    grace_s: float, history_bars: int, world: str, seed: int, bars: int, start_utc: str, oracle_sharpe: float,
    clock_now_s: Callable[[], float], sleep: Callable[[float], None] | None = None,
    beat: Callable[[], None] = lambda: None, api_url: str = "", urls: Mapping[str, Any] | None = None,
) -> BarSource:  # fmt: skip
    """The source named `source`: ccxt, recorded or simulated. The arguments are the keys of [market] and [simulation].

    clock_now_s: UTC epoch seconds. sleep: how the ccxt source waits between attempts (None: really). beat: called
    while the ccxt source makes progress. api_url: another host for the venue's API. urls: ccxt endpoint overrides. Raises ConfigurationError for an unknown
    source or a missing path; reading may then raise DataError or MarketUnavailable.
    """
    chosen = tuple(tickers)
    if source == "simulated":
        from features.bars import epoch_s
        from features.sources.simulated import SimulatedSource, World

        return SimulatedSource(
            world=cast("World", world), seed=seed, bars=bars, tickers=chosen, timeframe_s=timeframe_s,
            start_s=epoch_s(start_utc), oracle_sharpe=oracle_sharpe,
        )  # fmt: skip
    if source == "recorded":
        from features.sources.recorded import RecordedSource

        if not str(recorded_path):
            raise ConfigurationError("market.recorded_path is empty", hint="name a Parquet or CSV file of candles")
        return RecordedSource(path=Path(recorded_path).expanduser(), tickers=chosen, timeframe_s=timeframe_s)
    if source == "ccxt":
        import numpy as np
        from tenacity import nap

        from features.sources.ccxt_client import urls_for
        from features.sources.ccxt_source import CcxtSource

        return CcxtSource(
            exchange=exchange, quote=quote, tickers=chosen, timeframe_s=timeframe_s, grace_s=grace_s,
            history_bars=history_bars, clock_now_s=clock_now_s, sleep=nap.sleep if sleep is None else sleep,
            jitter=np.random.default_rng(seed), beat=beat, urls=urls_for(exchange, api_url) if api_url else urls,
        )  # fmt: skip
    raise ConfigurationError(f"there is no source {source!r}", hint="market.source is ccxt, recorded or simulated")
