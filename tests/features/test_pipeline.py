from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import random_bars

from features.bars import Bars
from features.errors import DataError
from features.indicators import REGISTRY
from features.pipeline import FeatureStream, compute
from features.spec import FeatureDef, FeatureSpec, preset

PRESETS = ("stationary", "classic")
WINDOWS = sorted(
    n for n, k in REGISTRY.items() if k.scope == "asset" and not any(x.recursive for x in k.expressions(k.defaults))
)


def streamed_equals_batch(bars: Bars, spec: FeatureSpec, start: int, stop: int) -> None:
    rows = compute(bars, spec)
    live = FeatureStream(spec, bars.slice(0, start))
    for k in range(start, stop):
        row, r = live.update(bars.slice(k, k + 1)), k - spec.warmup_bars
        assert row.asset[0].tobytes() == rows.asset[r].tobytes(), f"bar {k}"
        assert row.shared[0].tobytes() == rows.shared[r].tobytes(), f"bar {k}"


@pytest.mark.parametrize("name", PRESETS)
def test_the_stream_equals_the_batch_bit_for_bit_wherever_it_is_opened(name: str) -> None:
    for seed, start in ((1, 241), (2, 300), (3, 411)):
        bars = random_bars(seed)
        spec = preset(name, tickers=bars.tickers, timeframe_s=3600, stack_bars=1)
        streamed_equals_batch(bars, spec, start, start + 120)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_registered_feature_streams_to_the_bits_of_its_batch(name: str) -> None:
    bars, definition = random_bars(4, n_bars=400), FeatureDef.of(name)
    spec = FeatureSpec(tickers=bars.tickers, timeframe_s=3600, features=(definition,), scaling="robust")
    streamed_equals_batch(bars, spec, spec.warmup_bars + 1, spec.warmup_bars + 120)


@pytest.mark.parametrize("name", PRESETS)
def test_the_stream_equals_the_batch_on_real_candles_across_an_outage(name: str, real_bars: Bars) -> None:
    spec = preset(name, tickers=real_bars.tickers, timeframe_s=3600)
    outage = int(np.flatnonzero(real_bars.filled.all(axis=1))[1])
    streamed_equals_batch(real_bars.slice(0, outage + 300), spec, outage - 50, outage + 250)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(250, 380), column=st.sampled_from(["close", "volume"]))
def test_no_row_sees_a_later_bar(seed: int, at: int, column: str) -> None:
    bars = random_bars(seed, n_bars=400)
    changed = {
        f.name: np.array(getattr(bars, f.name)) for f in fields(bars) if f.name not in ("tickers", "timeframe_s")
    }
    changed[column][at:] *= 1.5
    changed["high"] = np.maximum(changed["high"], changed["close"])
    later = Bars(tickers=bars.tickers, timeframe_s=3600, **changed)
    for name in PRESETS:
        spec = preset(name, tickers=bars.tickers, timeframe_s=3600)
        before, after, r = compute(bars, spec), compute(later, spec), at - spec.warmup_bars
        assert before.asset[:r].tobytes() == after.asset[:r].tobytes()
        assert before.asset[r:].tobytes() != after.asset[r:].tobytes()


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_feature_forgets_everything_before_its_lookback(name: str) -> None:
    definition = FeatureDef.of(name)
    bars = random_bars(9, n_bars=400)
    spec = FeatureSpec(tickers=bars.tickers, timeframe_s=3600, features=(definition,), scaling="robust")
    full = compute(bars, spec)
    short = compute(bars.slice(bars.n_bars - definition.lookback_bars - 1, bars.n_bars), spec)
    assert short.n_rows == 1
    assert short.asset[0].tobytes() == full.asset[-1].tobytes()


def test_prices_in_another_unit_give_the_same_stationary_row() -> None:
    bars = random_bars(10)
    values = {f.name: np.array(getattr(bars, f.name)) for f in fields(bars) if f.name not in ("tickers", "timeframe_s")}
    for name in ("open", "high", "low", "close"):
        values[name] = values[name] * 8.0  # a power of two: exact in binary
    values["volume"] = values["volume"] / 8.0
    scaled = Bars(tickers=bars.tickers, timeframe_s=3600, **values)
    spec = preset("stationary", tickers=bars.tickers, timeframe_s=3600)
    np.testing.assert_allclose(compute(scaled, spec).asset, compute(bars, spec).asset, rtol=0, atol=1e-9)


def test_permuted_tickers_permute_the_columns_and_nothing_else() -> None:
    bars = random_bars(11)
    order = ("LTC", "BTC", "ETH")
    one = compute(bars, preset("stationary", tickers=bars.tickers, timeframe_s=3600))
    two = compute(bars.select(order), preset("stationary", tickers=order, timeframe_s=3600))
    columns = [bars.tickers.index(t) for t in order]
    assert one.asset[:, columns].tobytes() == two.asset.tobytes()


def test_short_history_and_a_skipped_bar_are_refused() -> None:
    bars = random_bars(12)
    spec = preset("stationary", tickers=bars.tickers, timeframe_s=3600)
    with pytest.raises(DataError, match="241 needed"):
        compute(bars.slice(0, 240), spec)
    live = FeatureStream(spec, bars.slice(0, 300))
    with pytest.raises(DataError, match="expected the bar after"):
        live.update(bars.slice(301, 302))
