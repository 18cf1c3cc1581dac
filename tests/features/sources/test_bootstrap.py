"""The bootstrap world: nothing in it that the record has not, in an order that the record has not."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import random_bars

from features.bars import PRICE_COLUMNS, Bars, candles_from_bars
from features.errors import ConfigurationError, DataError
from features.sources import open_source
from features.sources.bootstrap import LEAST_WEEKS, drawn_rows, resample
from features.sources.simulated import simulate

HOUR_S = 3600
WEEK = 168
START_S = 1_609_459_200  # 2021-01-01T00:00:00Z
RECORD = random_bars(1, n_bars=WEEK * 12 + 50)  # fills about 1 % of its bars; does not end with a whole week


def ratios(bars: Bars) -> np.ndarray:
    """(T − 1, 4 N + N): open, high, low and close over the close before, then the volume."""
    prices = [getattr(bars, name)[1:] / bars.close[:-1] for name in PRICE_COLUMNS]
    return np.hstack([*prices, bars.volume[1:]])


def hour_of_week(close_time_s: np.ndarray) -> np.ndarray:
    return close_time_s // HOUR_S % WEEK


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), later_h=st.integers(0, 500), bars=st.integers(2, 3000))
def test_every_row_is_a_whole_row_of_the_record_at_its_own_hour_of_the_week(seed: int, later_h: int, bars: int) -> None:
    start_s = START_S + later_h * HOUR_S
    world = resample(RECORD, seed=seed, bars=bars, start_s=start_s)
    rows = drawn_rows(RECORD, seed=seed, bars=bars, start_s=start_s)
    assert (world.n_bars, world.first_close_s) == (bars, start_s + HOUR_S)
    np.testing.assert_allclose(ratios(world), ratios(RECORD)[rows[1:] - 1], rtol=1e-12)
    np.testing.assert_array_equal(world.filled, RECORD.filled[rows])
    np.testing.assert_array_equal(hour_of_week(world.close_time_s), hour_of_week(RECORD.close_time_s[rows]))


def test_prices_go_on_where_blocks_meet() -> None:
    """A ratio to the close before is never that of two bars which the record does not have side by side."""
    world = resample(RECORD, seed=4, bars=20 * WEEK, start_s=START_S)
    moves, known = np.abs(np.diff(np.log(world.close), axis=0)), np.abs(np.diff(np.log(RECORD.close), axis=0))
    assert moves.max() <= known.max() * (1 + 1e-9)
    assert world.open[0] == pytest.approx(RECORD.close[0], rel=0.05)


def test_filled_bars_of_the_record_stay_filled_at_the_close_before() -> None:
    world = resample(RECORD, seed=4, bars=20 * WEEK, start_s=START_S)
    t, n = np.nonzero(world.filled)
    later = t > 0
    assert later.sum() > 20
    for name in PRICE_COLUMNS:
        np.testing.assert_array_equal(getattr(world, name)[t[later], n[later]], world.close[t[later] - 1, n[later]])
    assert not world.volume[t, n].any()


def test_the_same_seed_is_the_same_history_and_another_is_another() -> None:
    one, again, other = (resample(RECORD, seed=s, bars=900, start_s=START_S).sha256() for s in (5, 5, 6))
    assert one == again != other


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), short=st.integers(2, 2000), more=st.integers(0, 2000))
def test_a_longer_history_begins_with_the_shorter_one(seed: int, short: int, more: int) -> None:
    longer = resample(RECORD, seed=seed, bars=short + more, start_s=START_S)
    assert longer.slice(0, short).sha256() == resample(RECORD, seed=seed, bars=short, start_s=START_S).sha256()


def test_blocks_are_geometric_with_a_mean_of_one_week_and_use_every_hour_of_the_whole_weeks_alike() -> None:
    record = simulate(world="null", seed=2, bars=WEEK * 200 + 1, tickers=("BTC",), timeframe_s=HOUR_S, start_s=START_S)
    bars = 3_000_000
    rows = drawn_rows(record, seed=1, bars=bars, start_s=START_S)
    circle = WEEK * 200
    starts = np.flatnonzero(np.diff(rows) % circle != 1) + 1
    lengths = np.diff(starts)
    # One draw in 200 goes on where it was, so that two blocks look like one.
    mean = WEEK / (1 - 1 / 200)
    assert lengths.mean() == pytest.approx(mean, abs=4 * mean / np.sqrt(len(lengths)))
    for hours in (1, 24, 168, 500):
        share = (1 - 1 / mean) ** hours
        spread = np.sqrt(share * (1 - share) / len(lengths))
        assert (lengths > hours).mean() == pytest.approx(share, abs=4 * spread)
    of_week = np.bincount((rows - 1) // WEEK, minlength=200) / bars
    assert rows.min() == 1
    assert rows.max() == circle
    assert of_week == pytest.approx(1 / 200, rel=0.35)  # each week is drawn about 90 times: 4 standard errors


def settings_of(path: Path | str, **changes: object) -> dict[str, object]:
    return {
        "source": "simulated", "exchange": "", "quote": "USDT", "tickers": RECORD.tickers, "timeframe_s": HOUR_S,
        "recorded_path": path, "grace_s": 0.0, "history_bars": 0, "world": "bootstrap", "seed": 9, "bars": 400,
        "start_utc": "2021-01-01T00:00:00Z", "oracle_sharpe": 0.0, "clock_now_s": lambda: 0.0, **changes,
    }  # fmt: skip


def test_the_source_draws_from_the_named_file_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "record.parquet"
    candles_from_bars(RECORD).to_parquet(path)
    source = open_source(**settings_of(path))  # type: ignore[arg-type]
    assert source.name == "simulated:bootstrap:record.parquet:v2:seed9"
    world = source.bars(after_s=0, until_s=source.last_close_s())
    assert world.sha256() == resample(RECORD, seed=9, bars=400, start_s=START_S).sha256()
    assert (source.first_close_s(), source.last_close_s()) == (world.first_close_s, world.last_close_s)
    part = source.bars(after_s=source.first_close_s(), until_s=source.first_close_s() + 10 * HOUR_S)
    assert part.sha256() == world.slice(1, 11).sha256()


def test_what_cannot_be_drawn_from_is_refused_with_the_setting_to_change(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="recorded_path is empty"):
        open_source(**settings_of(""))  # type: ignore[arg-type]
    absent = open_source(**settings_of(tmp_path / "absent.parquet"))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="recorded_path"):
        absent.bars(after_s=0, until_s=1 << 40)
    short = RECORD.slice(0, LEAST_WEEKS * WEEK)
    for record, start_s, complaint in (
        (short, START_S, "recorded_path"), (RECORD, START_S + 1, "start_utc"),
        (simulate(world="null", seed=2, bars=900, tickers=("BTC",), timeframe_s=5 * HOUR_S, start_s=0), 0, "fill a week"),
    ):  # fmt: skip
        with pytest.raises(ConfigurationError, match=complaint):
            resample(record, seed=1, bars=10, start_s=start_s)
    with pytest.raises(ConfigurationError, match=r"simulation\.bars"):
        resample(RECORD, seed=1, bars=1, start_s=START_S)
