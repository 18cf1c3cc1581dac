"""Over the registry: what a feature reads is what it declares, neither a later bar nor an older one."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
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
    for name in ("open", "close"):
        values[name][at] *= np.exp(rng.normal(0, 0.05, bars.n_tickers))
    values["high"][at] = np.maximum(values["open"][at], values["close"][at]) * (1 + 0.02 * rng.random(bars.n_tickers))
    values["low"][at] = np.minimum(values["open"][at], values["close"][at]) * (1 - 0.02 * rng.random(bars.n_tickers))
    values["volume"][at] *= 1 + rng.random(bars.n_tickers)
    return Bars(tickers=bars.tickers, timeframe_s=bars.timeframe_s, **values)


def rows_of(definition: FeatureDef, bars: Bars) -> np.ndarray:
    spec = FeatureSpec(tickers=bars.tickers, timeframe_s=3600, features=(definition,), scaling="robust")
    rows = compute(bars, spec)
    return rows.asset if definition.kind.scope == "asset" else rows.shared


def is_recursive(definition: FeatureDef) -> bool:
    return any(x.recursive for x in definition.expressions)


ASSET = sorted(n for n, k in REGISTRY.items() if k.scope == "asset")
N_BARS = 420
# Derandomised, because "changes it" is a matter of chance for a rank, and "weighs too little" of a small one.
drawn = settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])
seeds = st.integers(0, 1_000_000)


@pytest.mark.parametrize("name", sorted(REGISTRY))
@drawn
@given(seed=seeds, where=st.floats(0, 1))
def test_no_later_bar_changes_an_earlier_row(name: str, seed: int, where: float) -> None:
    definition, bars = FeatureDef.of(name), random_bars(seed, n_bars=N_BARS)
    first = definition.lookback_bars + 1
    at = first + round(where * (N_BARS - 1 - first))
    before = rows_of(definition, bars)
    after = rows_of(definition, with_bar(bars, at, np.random.default_rng(seed)))
    r = at - definition.lookback_bars
    assert before[:r].tobytes() == after[:r].tobytes()


@pytest.mark.parametrize("name", ASSET)
@drawn
@given(seed=seeds)
def test_the_current_bar_and_the_oldest_one_declared_matter(name: str, seed: int) -> None:
    """Some bar at either end of the lookback changes the row; for recursive features the far end weighs too little."""
    definition, bars = FeatureDef.of(name), random_bars(seed, n_bars=N_BARS)
    rng = np.random.default_rng(seed)
    row, last = rows_of(definition, bars)[-1], N_BARS - 1
    far = last - (5 if is_recursive(definition) else definition.lookback_bars)
    for at in (last, far):
        assert any(rows_of(definition, with_bar(bars, at, rng))[-1].tobytes() != row.tobytes() for _ in range(20)), at


@pytest.mark.parametrize("name", ASSET)
@drawn
@given(seed=seeds, where=st.floats(0, 1))
def test_a_bar_before_the_lookback_does_not_matter(name: str, seed: int, where: float) -> None:
    """To the bit, from the very bar before it; a recursive feature forgets to within RECURSIVE_MEMORY of its spread."""
    definition, bars = FeatureDef.of(name), random_bars(seed, n_bars=N_BARS)
    last = N_BARS - 1
    at = 1 + round(where * (last - definition.lookback_bars - 2))
    rows = rows_of(definition, bars)
    row, changed = rows[-1], rows_of(definition, with_bar(bars, at, np.random.default_rng(seed)))[-1]
    if is_recursive(definition):
        assert (np.abs(changed - row) <= RECURSIVE_MEMORY * rows.std(axis=(0, 1))).all()
    else:
        assert changed.tobytes() == row.tobytes()
