"""Simulated worlds look like real hourly candles in every respect that the measures of `stylised.py` name."""

from functools import cache

import numpy as np
import pytest
from stylised import BTC, TABLE, Range, facts, medians, outside

from features.bars import Bars
from features.sources.bootstrap import resample
from features.sources.simulated import simulate

TICKERS = ("AAVE", "AVAX", "BTC", "ETH", "LINK", "LTC", "UNI")
HOURS = 34_128  # as many as there are real ones
START_S = 1_602_730_800  # 2020-10-15T03:00:00Z, as the real ones
MARTINGALES = ("null", "planted")


@cache
def facts_of(world: str, seed: int) -> dict[str, np.ndarray]:
    return facts(
        simulate(
            world=world, seed=seed, bars=HOURS, tickers=TICKERS, timeframe_s=3600, start_s=START_S, oracle_sharpe=1.5
        )  # type: ignore[arg-type]
    )


def outside_of(world: str, seeds: range) -> dict[str, str]:
    """Facts of `world` outside their band.

    One is left out where it contradicts what the world is for. Real hours take back 3 % of yesterday's move; in a
    martingale nothing is known of the next move, so this autocorrelation is 0, above the band's −.01. It must be 0.
    """
    measured = medians([facts_of(world, seed) for seed in seeds])
    wrong = outside(measured)
    if world in MARTINGALES:
        assert np.abs(measured["acf r 24"]).max() < 0.01
        del wrong["acf r 24"]
    return wrong


def test_the_measures_find_in_the_real_candles_what_is_known_of_them(real_bars: Bars) -> None:
    assert not outside(facts(real_bars))
    for name, values in facts(real_bars).items():
        known = TABLE[name]
        # How the spans of four hours were cut is not known; the four ways to cut them give 10.1 to 11.8.
        relative = 0.15 if name == "BTC kurtosis 4 h" else 0.06
        assert values.min() == pytest.approx(known.low, rel=relative, abs=0.011), name
        assert values.max() == pytest.approx(known.high, rel=relative, abs=0.011), name


def test_a_random_walk_is_found_out() -> None:
    rng = np.random.default_rng(1)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.01, (8000, 7)), axis=0))
    opened = np.vstack([close[:1], close[:-1]])
    walk = Bars(
        tickers=TICKERS, timeframe_s=3600, close_time_s=START_S + 3600 * np.arange(8000, dtype=np.int64),
        open=opened, high=np.maximum(opened, close), low=np.minimum(opened, close), close=close,
        volume=rng.lognormal(8, 1, close.shape), filled=np.zeros(close.shape, dtype=np.bool_),
    )  # fmt: skip
    assert {"kurtosis 1 h", "Hill index 2 %", "acf |r| 1", "acf |r| 720", "mean pairwise correlation"} <= set(
        outside(facts(walk))
    )


def test_a_band_is_a_quarter_wider_than_the_range_and_two_hundredths_where_the_range_is_near_zero() -> None:
    assert Range(low=4.0, high=8.0).widened() == (3.0, 10.0)
    assert Range(low=-1.0, high=0.8).widened() == (-1.25, 1.0)
    assert Range(low=-0.04, high=0.01, near_zero=True).widened() == pytest.approx((-0.06, 0.03))
    assert TABLE["BTC 5-sigma hours, %"].widened() == pytest.approx((0.3375, 0.5625))


def test_the_sv_world_keeps_every_stylised_fact_over_a_few_seeds() -> None:
    assert not outside_of("sv", range(5))


@pytest.mark.slow
@pytest.mark.parametrize("world", ["sv", *MARTINGALES])
def test_a_world_keeps_every_stylised_fact_over_twenty_seeds(world: str) -> None:
    assert not outside_of(world, range(20))


def test_weeks_of_real_candles_in_another_order_keep_every_stylised_fact_but_the_memory_longer_than_a_block(
    real_bars: Bars,
) -> None:
    """Two bars `lag` apart lie in one block with probability exp(−lag / 168 h); between blocks nothing is remembered."""
    worlds = [facts(resample(real_bars, seed=seed, bars=HOURS, start_s=START_S)) for seed in range(20)]
    measured = medians(worlds)
    assert set(outside(measured)) <= {"acf |r| 168", "acf |r| 720"}
    for lag in (168, 720):
        name = f"acf |r| {lag}"
        assert measured[name] == pytest.approx(facts(real_bars)[name] * np.exp(-lag / 168), abs=0.03)
    annual = [world["annual volatility"][real_bars.tickers.index(BTC)] for world in worlds]
    assert max(annual) - min(annual) > 0.02, "another seed is another history"
