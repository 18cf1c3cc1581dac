"""Stream against batch on all real candles, whatever the market and the machine do to the stream meanwhile."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from features.bars import Bars, bars_from_candles, candles_from_bars
from features.pipeline import FeatureRows, FeatureStream, compute
from features.spec import FeatureSpec, preset

PRESETS = ("stationary", "classic")
HOUR_S = 3600


def spec_of(name: str, bars: Bars) -> FeatureSpec:
    return preset(name, tickers=bars.tickers, timeframe_s=HOUR_S)


def assert_same(row: FeatureRows, rows: FeatureRows, spec: FeatureSpec) -> None:
    r = int(np.searchsorted(rows.close_time_s, row.close_time_s[0]))
    for got, expected, columns in (
        (row.asset[0], rows.asset[r], spec.asset_columns),
        (row.shared[0], rows.shared[r], spec.shared_columns),
    ):
        if got.tobytes() != expected.tobytes():
            wrong = [c for k, c in enumerate(columns) if got[..., k].tobytes() != expected[..., k].tobytes()]
            raise AssertionError(f"{', '.join(wrong)} differ at {row.close_time_s[0]}")


@pytest.mark.parametrize("name", PRESETS)
def test_every_bar_of_the_real_candles_streams_to_the_very_bits_of_the_batch(name: str, real_bars: Bars) -> None:
    spec = spec_of(name, real_bars)
    rows, start = compute(real_bars, spec), spec.warmup_bars + 1
    live = FeatureStream(spec, real_bars.slice(0, start))
    assert real_bars.filled.any(axis=1).sum() >= 20, "the outage hours belong to the data"
    for k in range(start, real_bars.n_bars):
        assert_same(live.update(real_bars.slice(k, k + 1)), rows, spec)


@pytest.mark.parametrize("name", PRESETS)
def test_a_stream_restarted_at_any_bar_goes_on_with_the_same_bits(name: str, real_bars: Bars) -> None:
    """1,000 restarts over both presets; history shortened to 4,000 bars so that each is opened on all of it."""
    bars = real_bars.slice(real_bars.n_bars - 4000, real_bars.n_bars)
    spec = spec_of(name, bars)
    rows = compute(bars, spec)
    for k in np.random.default_rng(2026).integers(spec.warmup_bars + 1, bars.n_bars - 2, 500):
        live = FeatureStream(spec, bars.slice(0, int(k)))
        for step in range(int(k), int(k) + 2):
            assert_same(live.update(bars.slice(step, step + 1)), rows, spec)


@dataclass(frozen=True, slots=True)
class Faults:
    """Row numbers of candles that never come, come twice, come one bar late, or come wrong and are revised."""

    missing: set[int]
    doubled: set[int]
    late: set[int]
    revised: set[int]


def deliveries(candles: "object", faults: Faults) -> Iterator[tuple[int, dict[str, object]]]:
    """(bar at which it arrives, candle), in order of arrival within a bar."""
    for k, row in enumerate(candles.to_dict("records")):  # type: ignore[attr-defined]
        if k in faults.missing:
            continue
        close_s = int(row["time"].timestamp()) + HOUR_S
        if k in faults.revised:
            yield close_s, row | {"close": row["low"], "volume": row["volume"] / 2}
        yield close_s + HOUR_S * (k in faults.late), row
        if k in faults.doubled:
            yield close_s, row


@pytest.mark.parametrize("name", PRESETS)
def test_gaps_duplicates_late_and_revised_bars_end_in_the_bits_of_the_batch(name: str, real_bars: Bars) -> None:
    """What the store holds after each hour decides: the stream that a reader of the store opens equals the batch of it.

    Candles are put down in order of arrival, the newest word of the venue about one (ticker, time) wins.
    """
    import pandas as pd

    bars = real_bars.slice(20_000, 21_000)
    rng = np.random.default_rng(7)
    candles = candles_from_bars(bars).sort_values(["time", "ticker"], ignore_index=True)
    picked = rng.permutation(np.arange(len(bars.tickers), len(candles)))[:400].tolist()
    faults = Faults(set(picked[:100]), set(picked[100:200]), set(picked[200:300]), set(picked[300:]))
    arrived: dict[tuple[object, object], dict[str, object]] = {}
    arrivals = sorted(deliveries(candles, faults), key=lambda item: item[0])
    spec = spec_of(name, bars)

    def known_at(close_s: int) -> Bars:
        while arrivals and arrivals[0][0] <= close_s:
            _, row = arrivals.pop(0)
            arrived[row["ticker"], row["time"]] = row
        table = pd.DataFrame(list(arrived.values()))
        return bars_from_candles(table, tickers=bars.tickers, timeframe_s=HOUR_S)

    for k in sorted(rng.integers(300, 999, 40).tolist()):
        known = known_at(int(bars.close_time_s[k]))
        rows, cut = compute(known, spec), known.n_bars - 5
        live = FeatureStream(spec, known.slice(0, cut))
        for step in range(cut, known.n_bars):
            assert_same(live.update(known.slice(step, step + 1)), rows, spec)
    assert known.filled.any(), "missing candles were filled forward"
