"""Statistics against published numbers, each with its source."""

import math

import numpy as np
import pytest

from features.errors import DataError
from trainer import stats


@pytest.mark.parametrize(("n", "expected"), [(10, 1.5746), (100, 2.5306), (1000, 3.2551), (3425, 3.5902)])
def test_the_expected_maximum_of_n_normals_is_that_of_bailey_et_al_2014(n: int, expected: float) -> None:
    assert stats.expected_max_normal(n) == pytest.approx(expected, abs=1e-4)
    assert stats.expected_max_normal(1) == 0.0


@pytest.mark.parametrize(("n", "years"), [(5, 1.4223), (45, 4.9981), (46, 5.0363), (100, 6.404), (3425, 12.8893)])
def test_the_minimum_backtest_length_is_that_of_bailey_et_al_2014(n: int, years: float) -> None:
    assert stats.min_backtest_length_years(n) == pytest.approx(years, abs=1e-3)


@pytest.mark.parametrize(("n_trials", "sr0", "dsr"), [(100, 0.113172, 0.900397), (46, None, 0.950502)])
def test_the_deflated_sharpe_ratio_is_that_of_bailey_and_lopez_de_prado_2014(
    n_trials: int, sr0: float | None, dsr: float
) -> None:
    found, threshold = stats.deflated_sharpe(
        2.5 / math.sqrt(250), n_trials=n_trials, trial_variance=0.5 / 250, n=1250, skew=-3.0, kurtosis=10.0
    )
    assert found == pytest.approx(dsr, abs=1e-5)
    if sr0 is not None:
        assert threshold == pytest.approx(sr0, abs=1e-6)


def test_the_probabilistic_sharpe_ratio_is_that_of_bailey_and_lopez_de_prado_2012() -> None:
    psr = stats.probabilistic_sharpe(0.458, benchmark=0.0, n=24, skew=0.0, kurtosis=3.0)
    assert psr == pytest.approx(0.9816749190910771, abs=1e-9)
    worse = stats.probabilistic_sharpe(0.458, benchmark=0.0, n=24, skew=-2.448, kurtosis=10.164)
    assert worse == pytest.approx(0.913361083860933, abs=1e-9)


def test_a_track_record_of_the_minimum_length_has_just_the_confidence_asked_for() -> None:
    length = stats.min_track_record(0.05, benchmark=0.01, skew=-0.5, kurtosis=6.0)
    psr = stats.probabilistic_sharpe(0.05, benchmark=0.01, n=round(length), skew=-0.5, kurtosis=6.0)
    assert psr == pytest.approx(0.95, abs=1e-3)
    assert stats.min_track_record(0.01, benchmark=0.01, skew=0, kurtosis=3) == math.inf


def _lcg(rows: int, columns: int) -> np.ndarray:
    x, values = 12345, []
    for _ in range(rows * columns):
        x = (1103515245 * x + 12345) % 2**31
        values.append(x / 2**31 - 0.5)
    return np.array(values).reshape(rows, columns)


PBO_CASES = {
    "noise": (0.15714285714285714, 0.9642443491389886),
    "col3_plus_0_5": (0.0, 2.3025850929940446),
}  # purgedcv 0.1.11


@pytest.mark.parametrize("case", PBO_CASES)
def test_the_probability_of_backtest_overfitting_agrees_with_an_independent_implementation(case: str) -> None:
    returns = _lcg(240, 10)
    if case == "col3_plus_0_5":
        returns[:, 3] += 0.5
    value, logits = stats.pbo(returns, n_blocks=8)
    assert len(logits) == 70
    assert (value, logits.mean()) == pytest.approx(PBO_CASES[case], abs=1e-12)


def test_useless_strategies_have_a_pbo_near_one_half_and_a_dominating_one_near_zero() -> None:
    rng = np.random.default_rng(3)
    useless = rng.normal(size=(4000, 20))
    assert 0.2 < stats.pbo(useless)[0] < 0.8
    useless[:, 7] += 0.2
    assert stats.pbo(useless)[0] < 0.01


def test_the_interquartile_mean_drops_a_quarter_at_each_end() -> None:
    assert stats.interquartile_mean(np.arange(8.0)) == 3.5
    assert stats.interquartile_mean(np.array([-1e9, 1.0, 2.0, 3.0, 4.0, 1e9])) == 2.5


def test_holm_is_never_smaller_than_the_p_value_and_keeps_the_order() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_the_stationary_bootstrap_rejects_at_its_level_and_finds_what_is_there() -> None:
    rng = np.random.default_rng(5)
    p_values = [stats.bootstrap_p(rng.normal(size=400), mean_block=10, n_resamples=200, rng=rng) for _ in range(200)]
    assert 0.05 <= np.mean(np.array(p_values) < 0.1) <= 0.16
    assert stats.bootstrap_p(rng.normal(0.3, 1, 400), mean_block=10, n_resamples=200, rng=rng) < 0.01


@pytest.mark.parametrize("broken", [[0.1], [0.1, float("nan")], [0.1, 0.1, 0.1]])
def test_returns_without_a_sharpe_ratio_are_refused_by_name(broken: list[float]) -> None:
    with pytest.raises(DataError, match="Sharpe"):
        stats.sharpe(np.array(broken))


def test_the_sharpe_of_a_series_and_its_error_are_those_of_the_formula() -> None:
    returns = np.random.default_rng(1).normal(0.001, 0.01, 5000)
    assert stats.sharpe(returns) == pytest.approx(returns.mean() / returns.std(ddof=1))
    assert stats.sharpe_se(returns) == pytest.approx(1 / math.sqrt(5000), rel=0.02)
    assert stats.annualised(0.01, 8760) == pytest.approx(0.936, abs=1e-3)
