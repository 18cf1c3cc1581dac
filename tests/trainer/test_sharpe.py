"""The Sharpe ratio and its doubts against published numbers, each with its source."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from features.errors import DataError
from trainer import sharpe as stats


@pytest.mark.parametrize(("n", "expected"), [(10, 1.5746), (100, 2.5306), (1000, 3.2551), (3425, 3.5902)])
def test_the_expected_maximum_of_n_normals_is_that_of_bailey_et_al_2014(n: int, expected: float) -> None:
    assert stats.expected_max_normal(n) == pytest.approx(expected, abs=1e-4)
    assert stats.expected_max_normal(1) == 0.0


@pytest.mark.parametrize(
    ("n", "years"),
    [(5, 1.4223), (10, 2.4794), (1000, 10.5958), (45, 4.9981), (46, 5.0363), (100, 6.404), (3425, 12.8893)],
)
def test_the_minimum_backtest_length_is_that_of_bailey_et_al_2014(n: int, years: float) -> None:
    assert stats.min_backtest_length_years(n) == pytest.approx(years, abs=1e-3)


@pytest.mark.parametrize(("n_trials", "sr0", "dsr"), [(100, 0.113172, 0.900397), (46, 0.100362, 0.950502)])
def test_the_deflated_sharpe_ratio_is_that_of_bailey_and_lopez_de_prado_2014(
    n_trials: int, sr0: float, dsr: float
) -> None:
    found, threshold = stats.deflated_sharpe(
        2.5 / math.sqrt(250), n_trials=n_trials, trial_variance=0.5 / 250, n=1250, skew=-3.0, kurtosis=10.0
    )
    assert found == pytest.approx(dsr, abs=1e-5)
    assert threshold == pytest.approx(sr0, abs=1e-6)


def test_the_probabilistic_sharpe_ratio_is_that_of_bailey_and_lopez_de_prado_2012() -> None:
    psr = stats.probabilistic_sharpe(0.458, benchmark=0.0, n=24, skew=0.0, kurtosis=3.0)
    assert psr == pytest.approx(0.9816749190910771, abs=1e-9)
    worse = stats.probabilistic_sharpe(0.458, benchmark=0.0, n=24, skew=-2.448, kurtosis=10.164)
    assert worse == pytest.approx(0.913361083860933, abs=1e-9)


@pytest.mark.parametrize(("per_year", "years"), [(252, 2.730984), (52, 2.828834), (12, 3.239801)])
def test_the_minimum_track_record_is_that_of_bailey_and_lopez_de_prado_2012(per_year: int, years: float) -> None:
    annual = math.sqrt(per_year)  # the paper prints 2.73, 2.83 and 3.24 years for a Sharpe of 2 against 1
    bars = stats.min_track_record(2 / annual, benchmark=1 / annual, skew=0.0, kurtosis=3.0)
    assert bars / per_year == pytest.approx(years, abs=1e-6)


def test_three_years_of_daily_bitcoin_have_the_probabilities_that_two_libraries_print() -> None:
    moments = {"n": 1095, "skew": 0.09828187540900273, "kurtosis": 6.454312383673756}  # daily closes 2021–2023
    sr = 0.0009224614536640957 / 0.03394044552182113
    assert sr == pytest.approx(0.027178825719038457, rel=1e-12)
    psr = stats.probabilistic_sharpe(sr, benchmark=0.0, **moments)
    assert psr == pytest.approx(0.815861828789251, abs=1e-9)  # skfolio 1.12.2, quantstats 0.0.86
    assert psr == pytest.approx(0.815971229874208, abs=2e-4)  # purgedcv 0.1.11 corrects the moments' bias
    dsr, _ = stats.deflated_sharpe(sr, n_trials=100, trial_variance=0.000841541, **moments)
    assert dsr == pytest.approx(0.06295433888157033, abs=1e-6)  # skfolio 1.12.2


@pytest.mark.parametrize(("splits", "share", "ratio"), [(15, 0.5, 2.9), (45, 0.25, 3.5)])
def test_the_naive_error_of_overlapping_splits_is_about_three_times_too_small(
    splits: int, share: float, ratio: float
) -> None:
    values = np.random.default_rng(4).normal(size=splits)
    naive = values.std(ddof=1) / math.sqrt(splits)
    assert stats.resampled_mean_se(values, test_share=share) / naive == pytest.approx(ratio, abs=0.05)
    assert stats.resampled_mean_se(values, test_share=0.0) == pytest.approx(naive)


def test_a_sharpe_ratio_is_never_printed_as_a_percentage() -> None:
    annual = stats.annualised(0.0737, 8760)
    assert f"{annual:.2f}" == "6.90"
    for value in (annual, stats.sharpe(np.array([0.1, 0.2]))):
        with pytest.raises(DataError, match="not a percentage"):
            f"{value:.2%}"


def test_twice_the_sample_has_the_same_annual_sharpe() -> None:
    returns = np.random.default_rng(2).normal(0.001, 0.01, 500)
    once, twice = (stats.annualised(stats.sharpe(r), 8760) for r in (returns, np.tile(returns, 2)))
    assert twice == pytest.approx(once, rel=2e-3)


def test_a_track_record_of_the_minimum_length_has_just_the_confidence_asked_for() -> None:
    length = stats.min_track_record(0.05, benchmark=0.01, skew=-0.5, kurtosis=6.0)
    psr = stats.probabilistic_sharpe(0.05, benchmark=0.01, n=round(length), skew=-0.5, kurtosis=6.0)
    assert psr == pytest.approx(0.95, abs=1e-3)
    assert stats.min_track_record(0.01, benchmark=0.01, skew=0, kurtosis=3) == math.inf


@pytest.mark.parametrize("broken", [[0.1], [0.1, float("nan")], [0.1, float("-inf")], [0.1, 0.1, 0.1]])
def test_returns_without_a_sharpe_ratio_are_refused_by_name(broken: list[float]) -> None:
    with pytest.raises(DataError, match="Sharpe"):
        stats.sharpe(np.array(broken))


def test_the_sharpe_of_a_series_and_its_error_are_those_of_the_formula() -> None:
    returns = np.random.default_rng(1).normal(0.001, 0.01, 5000)
    assert stats.sharpe(returns) == pytest.approx(returns.mean() / returns.std(ddof=1))
    assert stats.sharpe_se(returns) == pytest.approx(1 / math.sqrt(5000), rel=0.02)
    assert stats.annualised(0.01, 8760) == pytest.approx(0.936, abs=1e-3)


def test_moments_and_the_error_of_a_sharpe_ratio_by_hand() -> None:
    """4, 0, 0, 0: mean 1, deviations 3, -1, -1, -1; their standard deviation is √3 (biased) and 2 (not)."""
    returns = np.array([4.0, 0.0, 0.0, 0.0])
    skew, kurtosis = (27 - 3) / 4 / 3**1.5, (81 + 3) / 4 / 9
    assert stats.moments(returns) == pytest.approx((skew, kurtosis))
    assert stats.sharpe(returns) == 0.5
    assert stats.sharpe_se(returns) == pytest.approx(math.sqrt((1 - skew / 2 + (kurtosis - 1) / 16) / 3))


def test_twice_the_sharpe_ratio_shows_in_a_quarter_of_the_years() -> None:
    once, twice = (stats.min_backtest_length_years(100, annual_sharpe=x) for x in (1.0, 2.0))
    assert twice == pytest.approx(once / 4)


def test_the_best_of_two_skill_less_trials_is_already_above_zero() -> None:
    quantile = NormalDist().inv_cdf(1 - 1 / (2 * math.e))  # of the median, the other term, it is zero
    assert stats.expected_max_normal(2) == pytest.approx(0.5772156649 * quantile)


@pytest.mark.parametrize("broken", [[1.0], [1.0, float("nan")], [1.0, float("inf"), 2.0]])
def test_splits_without_a_standard_error_are_refused(broken: list[float]) -> None:
    with pytest.raises(DataError, match="standard error"):
        stats.resampled_mean_se(np.array(broken), test_share=0.5)
