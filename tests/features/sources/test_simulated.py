"""The simulated worlds: reproducible, proper candles, unbeatable where they say so and beatable where they say so."""

from dataclasses import fields

import calibration
import numpy as np
import pytest

from features.bars import Bars
from features.errors import ConfigurationError
from features.sources.planted import (
    CALIBRATION,
    Z_BOUND,
    oracle_sharpe_of,
    oracle_weights,
    planted_signal,
    signal_strength,
)
from features.sources.simulated import (
    DAY_REVERSAL,
    HOUR_SCALE,
    WEEKDAY_SCALE,
    SimulatedSource,
    season_scale,
    simulate,
)

TICKERS = ("AAVE", "AVAX", "BTC", "ETH", "LINK", "LTC", "UNI")
START_S = 1_609_459_200  # 2021-01-01T00:00:00Z
HOUR = 3600
WORLDS = ("sv", "null", "planted")


def world_bars(world: str, *, seed: int = 3, bars: int = 3000, tickers: tuple[str, ...] = TICKERS, sharpe=4.0) -> Bars:
    return simulate(
        world=world, seed=seed, bars=bars, tickers=tickers, timeframe_s=HOUR, start_s=START_S, oracle_sharpe=sharpe
    )


def simple_returns(bars: Bars) -> np.ndarray:
    return bars.close / bars.open - 1.0


@pytest.fixture(scope="module")
def long_null() -> list[Bars]:
    return [world_bars("null", seed=seed, bars=26_000) for seed in range(6)]


@pytest.mark.parametrize("world", WORLDS)
def test_a_world_is_a_function_of_its_parameters_and_seed(world):
    assert world_bars(world).sha256() == world_bars(world).sha256()
    assert world_bars(world).sha256() != world_bars(world, seed=4).sha256()


@pytest.mark.parametrize("world", WORLDS)
def test_a_longer_world_begins_with_the_shorter_one(world):
    assert world_bars(world, bars=2000).slice(0, 700).sha256() == world_bars(world, bars=700).sha256()


def test_adding_a_ticker_to_the_null_world_leaves_the_others_alone():
    few, many = world_bars("null", tickers=("BTC", "XYZ")), world_bars("null", tickers=("ETH", "XYZ", "BTC"))
    assert many.select(("BTC", "XYZ")).sha256() == few.sha256()


@pytest.mark.parametrize("world", WORLDS)
def test_every_bar_keeps_the_rules_of_a_candle_and_opens_at_the_last_close(world):
    bars = world_bars(world)  # Bars itself refuses a high below, or a low above, open or close
    assert bars.n_bars == 3000
    assert bars.first_close_s == START_S + HOUR
    np.testing.assert_allclose(bars.open[1:], bars.close[:-1], rtol=1e-12)
    assert (bars.volume > 0).all()
    assert not bars.filled.any()
    assert (bars.high > np.maximum(bars.open, bars.close)).mean() > 0.99


def test_no_ticker_of_the_null_world_drifts(long_null):
    for bars in long_null:
        returns = simple_returns(bars)
        t = returns.mean(axis=0) / (returns.std(axis=0) / np.sqrt(bars.n_bars))
        assert (np.abs(t) < 4.0).all()
    pooled = np.concatenate([simple_returns(bars).mean(axis=1) for bars in long_null])
    assert abs(pooled.mean()) < 3.0 * pooled.std() / np.sqrt(len(pooled))


def test_the_null_world_cannot_be_timed_by_volatility_or_momentum(long_null):
    edges = []
    for bars in long_null:
        returns = simple_returns(bars)
        scaled = returns / returns.std(axis=0)
        for signal in (planted_signal(bars), np.abs(returns) - np.abs(returns).mean(axis=0)):
            position = np.sign(signal[:-1])
            earned = (position * scaled[1:]).mean(axis=1)
            edges.append(earned.mean() / (earned.std() / np.sqrt(len(earned))))
    assert max(np.abs(edges)) < 4.0
    assert abs(np.mean(edges)) < 3.0 / np.sqrt(len(edges))


def test_sv_is_null_plus_regime_drift_minus_a_little_of_yesterday():
    null, sv = simple_returns(world_bars("null", bars=8000)), simple_returns(world_bars("sv", bars=8000))
    drift = (sv[24:] - (null[24:] - DAY_REVERSAL * null[:-24])) * 365 * 24
    np.testing.assert_allclose(drift[:, TICKERS.index("BTC")], drift[:, TICKERS.index("ETH")] * 0.78, atol=1e-6)
    btc = np.unique(np.round(drift[:, TICKERS.index("BTC")], 6))
    assert len(btc) in (2, 3)  # one value per regime visited
    assert btc.max() == pytest.approx(0.9 * 0.78)


def rank(values: np.ndarray) -> np.ndarray:
    return values.argsort(axis=1).argsort(axis=1).astype(float)


def rank_ic(signal: np.ndarray, following: np.ndarray) -> float:
    """Mean over bars of the cross-sectional rank correlation."""
    a, b = rank(signal), rank(following)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    return float(np.mean((a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))))


def trailing_return(bars: Bars, hours: int) -> np.ndarray:
    return bars.close[hours:] / bars.close[:-hours] - 1.0


def test_the_planted_signal_predicts_the_next_bar_and_plain_returns_recover_it():
    bars = world_bars("planted", seed=1, bars=12_000)
    returns = simple_returns(bars)
    standard_error = 1.0 / np.sqrt(6 * 12_000)
    assert rank_ic(planted_signal(bars)[:-1], returns[1:]) > 5 * standard_error
    for hours in (24, 48, 168):
        known = trailing_return(bars, hours)
        assert rank_ic(known[:-1], returns[hours + 1 :]) > 3 * standard_error


def test_the_same_signal_predicts_nothing_in_the_null_world(long_null):
    ics = [rank_ic(planted_signal(bars)[:-1], simple_returns(bars)[1:]) for bars in long_null]
    assert abs(np.mean(ics)) < 3.0 / np.sqrt(6 * 26_000 * len(ics))


def test_the_planted_drift_is_relative_and_leaves_the_market_alone():
    null, planted = world_bars("null"), world_bars("planted")
    drift = simple_returns(planted) - simple_returns(null)
    assert np.abs(drift).max() > 1e-4
    np.testing.assert_allclose(drift.mean(axis=1), 0.0, atol=1e-12)


def test_the_signal_at_a_close_knows_nothing_later():
    bars = world_bars("planted", bars=1000)
    np.testing.assert_array_equal(planted_signal(bars)[:400], planted_signal(bars.slice(0, 400)))
    np.testing.assert_array_equal(oracle_weights(bars)[:400], oracle_weights(bars.slice(0, 400)))
    assert np.abs(planted_signal(bars)).max() <= Z_BOUND


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_calibration_is_what_its_recipe_measures():
    assert calibration.table(calibration.measured_sharpes(calibration.STRENGTHS)) == dict(CALIBRATION)


def test_the_oracle_earns_about_what_it_was_calibrated_to():
    measured = {
        sharpe: np.mean([oracle_sharpe_of(world_bars("planted", seed=s, bars=26_000, sharpe=sharpe)) for s in (50, 51)])
        for sharpe in (1.5, 5.0)
    }
    for sharpe, value in measured.items():
        assert value == pytest.approx(sharpe, abs=1.3)  # 3 standard errors of six years
    assert measured[5.0] - measured[1.5] == pytest.approx(3.5, abs=0.7)  # same shocks: most of the error cancels


def test_a_stronger_signal_is_asked_for_by_a_higher_sharpe_up_to_the_end_of_the_table():
    strengths = [signal_strength(sharpe) for sharpe in np.linspace(0.0, CALIBRATION[-1][0], 41)]
    assert (np.diff(strengths) > 0).all()
    for wrong in (-0.1, 10.1, float("nan")):
        with pytest.raises(ConfigurationError, match="oracle_sharpe"):
            signal_strength(wrong)


def test_hours_and_weekdays_have_their_measured_volatility():
    monday_s = 1_609_718_400  # 2021-01-04T00:00:00Z
    scale = season_scale(monday_s + HOUR * np.arange(168), HOUR)
    assert np.mean(scale**2) == pytest.approx(1.0)
    np.testing.assert_allclose(scale[:24] / scale[0], HOUR_SCALE / HOUR_SCALE[0])
    np.testing.assert_allclose(scale[::24] / scale[0], WEEKDAY_SCALE / WEEKDAY_SCALE[0])


def test_the_source_answers_ranges_of_one_history():
    source = SimulatedSource(
        world="null", seed=3, bars=500, tickers=TICKERS, timeframe_s=HOUR, start_s=START_S, oracle_sharpe=0.0
    )
    whole = world_bars("null", bars=500)
    assert source.bars(after_s=0, until_s=1 << 40).sha256() == whole.sha256()
    assert (source.first_close_s(), source.last_close_s()) == (whole.first_close_s, whole.last_close_s)
    part = source.bars(after_s=source.first_close_s(), until_s=source.first_close_s() + 10 * HOUR)
    assert part.sha256() == whole.slice(1, 11).sha256()
    assert "v2" in source.name and "null" in source.name


def test_a_world_that_cannot_be_made_is_refused_before_it_is_needed():
    good = {"world": "null", "seed": 1, "bars": 10, "tickers": TICKERS, "timeframe_s": HOUR, "start_s": START_S}
    for change in ({"world": "nul"}, {"bars": 1}, {"start_s": START_S + 1}, {"world": "planted", "tickers": ("BTC",)}):
        with pytest.raises(ConfigurationError):
            SimulatedSource(**{**good, **change}, oracle_sharpe=1.0)


def test_bars_carry_no_field_the_generator_leaves_unset():
    bars = world_bars("planted", bars=50)
    arrays = [getattr(bars, f.name) for f in fields(bars) if isinstance(getattr(bars, f.name), np.ndarray)]
    assert len(arrays) == 7
    assert all(np.isfinite(values).all() for values in arrays)
