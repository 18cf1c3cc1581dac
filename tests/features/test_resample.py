"""Coarser candles from finer ones: every number by hand, every route the same to the bit."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataError
from features.resample import LADDER_S, resample
from features.store.candles import Candles

START_S = 1_704_067_200  # 2024-01-01T00:00:00Z
DAY_S = 86_400


def minutes(seed: int, *, n: int, share: float = 0.9, offset: int = 0) -> Candles:
    """One-minute candles of a random walk; about `share` of the minutes have one."""
    rng = np.random.default_rng(seed)
    present = np.flatnonzero(rng.random(n) < share)
    close = 100.0 * np.exp(rng.normal(0, 0.001, n).cumsum())
    opened = close * np.exp(rng.normal(0, 0.0005, n))
    spread = np.exp(np.abs(rng.normal(0, 0.0005, n)))
    high, low = np.maximum(opened, close) * spread, np.minimum(opened, close) / spread
    ohlcv = np.column_stack([opened, high, low, close, rng.lognormal(3, 2, n)])
    times = START_S + 60 * (offset + 1 + np.arange(n, dtype=np.int64))
    return Candles(timeframe_s=60, close_time_s=times[present], ohlcv=ohlcv[present])


def same(one: Candles, other: Candles) -> bool:
    return (one.timeframe_s, one.sha256()) == (other.timeframe_s, other.sha256())


ROUTES = [(a, b) for a, b in combinations(LADDER_S[1:], 2) if b % a == 0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32), share=st.sampled_from([0.003, 0.05, 0.5, 1.0]), offset=st.integers(0, 1500),
    n=st.integers(1, 4000), route=st.sampled_from(ROUTES),
)  # fmt: skip
def test_by_way_of_any_rung_the_candles_are_the_same_to_the_bit(
    seed: int, share: float, offset: int, n: int, route: tuple[int, int]
) -> None:
    fine, (middle_s, coarse_s) = minutes(seed, n=n, share=share, offset=offset), route
    span: dict[str, Any] = {"after_s": START_S + 60 * offset, "until_s": START_S + 60 * (offset + n)}
    middle = resample(fine, timeframe_s=middle_s, **span)
    assert same(resample(middle, timeframe_s=coarse_s, **span), resample(fine, timeframe_s=coarse_s, **span))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.01, 0.3, 1.0]), n=st.integers(1, 2000))
def test_every_candle_is_what_its_own_bucket_says_and_no_bucket_is_cut(seed: int, share: float, n: int) -> None:
    fine, until_s = minutes(seed, n=n, share=share, offset=7), START_S + 60 * (7 + n)
    coarse = resample(fine, timeframe_s=3600, after_s=START_S + 420, until_s=until_s)
    expected = [
        close_s for close_s in range(START_S + 7200, until_s + 1, 3600)  # the first hour lacks its first seven minutes
        if len(fine.between(close_s - 3600, close_s))
    ]  # fmt: skip
    assert coarse.close_time_s.tolist() == expected
    for close_s, (o, h, l, c, volume) in zip(expected, coarse.ohlcv.tolist(), strict=True):
        inside = fine.between(close_s - 3600, close_s).ohlcv
        assert (o, h, l, c) == (inside[0, 0], inside[:, 1].max(), inside[:, 2].min(), inside[-1, 3])
        assert volume == pytest.approx(inside[:, 4].sum(), rel=1e-12)


def test_volume_is_summed_hour_by_hour_and_not_minute_by_minute() -> None:
    fine = minutes(1, n=240, share=1.0)
    hours = resample(fine, timeframe_s=3600, after_s=START_S, until_s=START_S + 14_400)
    four = resample(fine, timeframe_s=14_400, after_s=START_S, until_s=START_S + 14_400)
    assert four.ohlcv[0, 4] == np.add.reduceat(hours.ohlcv[:, 4], [0])[0]


def test_an_hour_without_a_true_minute_has_no_candle_and_the_four_hours_around_it_have() -> None:
    fine = minutes(2, n=480, share=1.0)
    fine = fine.take((fine.close_time_s <= START_S + 3600) | (fine.close_time_s > START_S + 7200))
    hours = resample(fine, timeframe_s=3600, after_s=START_S, until_s=START_S + 28_800)
    assert START_S + 7200 not in hours.close_time_s.tolist() and len(hours) == 7
    assert len(resample(hours, timeframe_s=14_400, after_s=START_S, until_s=START_S + 28_800)) == 2


def test_a_timeframe_that_is_no_multiple_is_refused() -> None:
    with pytest.raises(DataError, match="1h candles do not add up to 90m ones"):
        resample(Candles.empty(3600), timeframe_s=5400, after_s=0, until_s=DAY_S)
