"""Features over history and bar by bar, beside pandas-ta-classic and talipp on the same indicators in the same run.

Promises: batch of the stationary preset, 7 tickers × 35,000 bars, in 60 ms; one bar of 7 tickers in 150 µs; a stream
opened on that history in 100 ms. Printed are the least, median and most of the repeats, the least processor time, and
multiples of the first row: on a shared machine the least says what the code costs, the rest what the neighbours cost.
(`make bench` installs the peers.)
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from world import random_bars

from features.bars import Bars, candles_from_bars
from features.pipeline import FeatureStream, compute
from features.spec import FeatureDef, FeatureSpec, preset
from features.store.candles import Candles
from features.store.store import CandleStore

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]
HOUR_S = 3600
N_BARS = 35_000
N_UPDATES = 300


def market(n_tickers: int, n_bars: int) -> Bars:
    return random_bars(1, n_bars=n_bars, tickers=tuple(f"T{i}" for i in range(n_tickers)))


def indicators(bars: Bars) -> FeatureSpec:
    """The four that every library has, at the same periods."""
    features = tuple(FeatureDef.of(name) for name in ("macd", "rsi", "cci", "dx"))
    return FeatureSpec(tickers=bars.tickers, timeframe_s=HOUR_S, features=features, scaling="power_of_two")


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """Seconds of every repeat: on the clock, and of this process's processor time."""

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]


def repeated(work: Callable[[], object], times: int) -> Took:
    wall_s, cpu_s = [], []
    for _ in range(times):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        work()
        cpu_s.append(time.process_time() - began_cpu_s)
        wall_s.append(time.perf_counter() - began_s)
    return Took(wall_s=tuple(wall_s), cpu_s=tuple(cpu_s))


def report(title: str, rows: Sequence[tuple[str, Took]], *, unit: str) -> None:
    """The first row is the one that the ratios are against."""
    scale, first = {"ms": 1e3, "µs": 1e6}[unit], rows[0][1]
    print(f"\n{title}, {unit}")
    print(f"  {'':<52}{'least':>10}{'median':>10}{'most':>10}{'cpu least':>11}{'× least':>9}{'× median':>9}")
    for name, took in rows:
        least, median = min(took.wall_s), float(np.median(took.wall_s))
        times = (least / min(first.wall_s), median / float(np.median(first.wall_s)))
        spread = f"{scale * least:10.1f}{scale * median:10.1f}{scale * max(took.wall_s):10.1f}"
        print(
            f"  {name:<52}{spread}{scale * min(took.cpu_s):11.1f}{times[0]:9.2f}{times[1]:9.2f}  n={len(took.wall_s)}"
        )


def pandas_ta_batch(bars: Bars, *, talib: bool) -> None:
    """By its own implementations, or by handing them on to TA-Lib, which computes ours too."""
    ta = pytest.importorskip("pandas_ta_classic", reason="make bench installs the peers")
    for i in range(bars.n_tickers):
        high, low, close = (pd.Series(getattr(bars, name)[:, i]) for name in ("high", "low", "close"))
        ta.macd(close, talib=talib)
        ta.rsi(close, talib=talib)
        ta.cci(high, low, close, talib=talib)
        ta.adx(high, low, close, talib=talib)  # it has no DX of its own


def talipp_streams(bars: Bars) -> Callable[[Bars], None]:
    """Indicators that have seen `bars`, and the update by one bar."""
    talipp = pytest.importorskip("talipp.indicators", reason="make bench installs the peers")
    from talipp.ohlcv import OHLCV

    def candles(i: int, of: Bars) -> list[OHLCV]:
        columns = [getattr(of, name)[:, i].tolist() for name in ("open", "high", "low", "close")]
        return [OHLCV(*row) for row in zip(*columns, strict=True)]

    running = []
    for i in range(bars.n_tickers):
        close, ohlcv = bars.close[:, i].tolist(), candles(i, bars)
        by_close = [talipp.MACD(12, 26, 9, input_values=close), talipp.RSI(14, input_values=close)]
        running.append((by_close, [talipp.CCI(14, input_values=ohlcv), talipp.ADX(14, 14, input_values=ohlcv)]))

    def update(bar: Bars) -> None:
        for i, (by_close, by_candle) in enumerate(running):
            price, candle = float(bar.close[0, i]), candles(i, bar)[0]
            for indicator in by_close:
                indicator.add(price)
            for indicator in by_candle:
                indicator.add(candle)

    return update


def test_a_history_is_computed_in_one_breath() -> None:
    bars = market(7, N_BARS)
    presets = [preset(name, tickers=bars.tickers, timeframe_s=HOUR_S) for name in ("stationary", "classic")]
    rows = [("macd, rsi, cci, dx: features.compute", repeated(lambda: compute(bars, indicators(bars)), 30))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a peer's deprecations are its own affair
        for talib, how, times in ((True, "on TA-Lib", 10), (False, "by itself", 3)):
            took = repeated(lambda talib=talib: pandas_ta_batch(bars, talib=talib), times)
            rows.append((f"macd, rsi, cci, adx: pandas-ta-classic {how}", took))
    for name, spec in zip(("stationary", "classic"), presets, strict=True):
        n_columns = len(spec.asset_columns) + len(spec.shared_columns)
        rows.append((f"preset {name} ({n_columns} columns)", repeated(lambda spec=spec: compute(bars, spec), 30)))
    report(f"history of 7 × {N_BARS} bars", rows, unit="ms")


@pytest.mark.parametrize("n_tickers", [7, 50, 500])
def test_a_bar_is_taken_in_at_once(n_tickers: int) -> None:
    bars = market(n_tickers, 600 + N_UPDATES)
    history, fresh = bars.slice(0, 600), [bars.slice(k, k + 1) for k in range(600, bars.n_bars)]
    specs = {"preset stationary": preset("stationary", tickers=bars.tickers, timeframe_s=HOUR_S)}
    specs["preset classic"] = preset("classic", tickers=bars.tickers, timeframe_s=HOUR_S)
    rows = []
    for name, spec in {"macd, rsi, cci, dx: FeatureStream": indicators(bars), **specs}.items():
        coming, live = iter(fresh), FeatureStream(spec, history)
        rows.append((name, repeated(lambda live=live, coming=coming: live.update(next(coming)), N_UPDATES)))
    update, coming = talipp_streams(history), iter(fresh)
    rows.insert(1, ("macd, rsi, cci, adx: talipp", repeated(lambda: update(next(coming)), N_UPDATES)))
    report(f"one bar of {n_tickers} tickers", rows, unit="µs")


def test_a_restarted_stream_is_there_soon(tmp_path_factory: pytest.TempPathFactory) -> None:
    bars = market(7, N_BARS)
    pairs = {ticker: f"{ticker}-USDT" for ticker in bars.tickers}
    store, table = CandleStore(tmp_path_factory.mktemp("store")), candles_from_bars(bars)
    span = (bars.first_close_s - HOUR_S, bars.last_close_s)
    with store.writer("venue", HOUR_S, pause=lambda: None) as writer:
        for ticker, pair in pairs.items():
            candles = Candles.of_source(table[table["ticker"] == ticker], timeframe_s=HOUR_S)
            writer.append(pair, candles, answered=span, seen_s=span[1])
    spec = preset("stationary", tickers=bars.tickers, timeframe_s=HOUR_S)
    month = 24 * 31 * HOUR_S

    def read(after_s: int) -> Bars:
        return store.bars("venue", HOUR_S, pairs, after_s=after_s, until_s=span[1])

    def restart(after_s: int) -> None:
        FeatureStream(spec, read(after_s))

    report(
        "restart of the stationary stream of 7 tickers",
        [
            (f"FeatureStream on {N_BARS} bars", repeated(lambda: FeatureStream(spec, bars), 20)),
            ("candle store: read the last 31 days", repeated(lambda: read(span[1] - month), 20)),
            ("candle store: read 31 days, FeatureStream", repeated(lambda: restart(span[1] - month), 20)),
            (f"candle store: read all {N_BARS} bars, FeatureStream", repeated(lambda: restart(span[0]), 5)),
        ],
        unit="ms",
    )
