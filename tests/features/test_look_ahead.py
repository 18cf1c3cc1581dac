"""Over the registry: what a feature reads is what it declares, neither a later bar nor an older one."""

from dataclasses import fields

import numpy as np
import pytest
from world import random_bars

from features.bars import Bars
from features.indicators import REGISTRY
from features.pipeline import compute
from features.spec import FeatureDef, FeatureSpec

BAR_FIELDS = ("open", "high", "low", "close", "volume")
RECURSIVE_MEMORY = 4e-7  # weight of what lies before the declared lookback, relative to the change put in there


def with_bar(bars: Bars, at: int, rng: np.random.Generator) -> Bars:
    """The same bars with another bar at position `at`, a valid one in every field, for every ticker."""
    values = {f.name: np.array(getattr(bars, f.name)) for f in fields(bars) if f.name not in ("tickers", "timeframe_s")}
    move = np.exp(rng.normal(0, 0.05, bars.n_tickers))
    for name in ("open", "close"):
        values[name][at] *= move
    values["high"][at] = np.maximum(values["open"][at], values["close"][at]) * (1 + 0.02 * rng.random(bars.n_tickers))
    values["low"][at] = np.minimum(values["open"][at], values["close"][at]) * (1 - 0.02 * rng.random(bars.n_tickers))
    values["volume"][at] *= 1 + rng.random(bars.n_tickers)
    return Bars(tickers=bars.tickers, timeframe_s=bars.timeframe_s, **values)


def rows_of(definition: FeatureDef, bars: Bars) -> np.ndarray:
    spec = FeatureSpec(tickers=bars.tickers, timeframe_s=3600, features=(definition,), scaling="robust")
    rows = compute(bars, spec)
    return rows.asset if definition.kind.scope == "asset" else rows.shared


ASSET = sorted(n for n, k in REGISTRY.items() if k.scope == "asset")


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_no_later_bar_changes_an_earlier_row(name: str) -> None:
    definition, rng = FeatureDef.of(name), np.random.default_rng(1)
    for seed in range(5):
        bars = random_bars(seed, n_bars=420)
        before = rows_of(definition, bars)
        for at in rng.integers(definition.lookback_bars + 2, bars.n_bars, 8).tolist():
            after = rows_of(definition, with_bar(bars, at, rng))
            r = at - definition.lookback_bars
            assert before[:r].tobytes() == after[:r].tobytes(), f"bar {at}"


@pytest.mark.parametrize("name", ASSET)
def test_the_current_bar_and_the_oldest_one_declared_matter(name: str) -> None:
    """Some bar at either end of the lookback changes the row; for recursive features the far end weighs too little."""
    definition, rng = FeatureDef.of(name), np.random.default_rng(2)
    bars = random_bars(3, n_bars=420)
    row, last = rows_of(definition, bars)[-1], bars.n_bars - 1
    recursive = any(x.recursive for x in definition.expressions)
    far = last - (5 if recursive else definition.lookback_bars)
    for at in (last, far):
        assert any(rows_of(definition, with_bar(bars, at, rng))[-1].tobytes() != row.tobytes() for _ in range(5)), at


@pytest.mark.parametrize("name", ASSET)
def test_a_bar_before_the_lookback_does_not_matter(name: str) -> None:
    """To the bit; a recursive feature forgets to within RECURSIVE_MEMORY of what the same change does at its last bar."""
    definition, rng = FeatureDef.of(name), np.random.default_rng(4)
    recursive = any(x.recursive for x in definition.expressions)
    for seed in range(4):
        bars = random_bars(seed, n_bars=420)
        row, last = rows_of(definition, bars)[-1], bars.n_bars - 1
        for at in rng.integers(1, last - definition.lookback_bars, 8).tolist():
            changed = rows_of(definition, with_bar(bars, at, rng))[-1]
            if recursive:
                spread = rows_of(definition, bars).std(axis=(0, 1))
                assert (np.abs(changed - row) <= RECURSIVE_MEMORY * spread).all(), f"bar {at}"
            else:
                assert changed.tobytes() == row.tobytes(), f"bar {at}"
