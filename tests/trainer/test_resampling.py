"""Tests of superiority hold their level on strategies without skill and find the one that has it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataError
from trainer.resampling import bootstrap_p, confidence_set, holm, long_run_variance, resampled_means, spa, step_m

FEW = {"mean_block": 5.0, "n_resamples": 200}


def test_holm_is_never_smaller_than_the_p_value_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_the_stationary_bootstrap_rejects_at_its_level_and_finds_what_is_there() -> None:
    rng = np.random.default_rng(5)
    p_values = [bootstrap_p(rng.normal(size=400), mean_block=10, n_resamples=200, rng=rng) for _ in range(200)]
    assert 0.05 <= np.mean(np.array(p_values) < 0.1) <= 0.16
    assert bootstrap_p(rng.normal(0.3, 1, 400), mean_block=10, n_resamples=200, rng=rng) < 0.01


def test_the_closed_form_of_the_variance_is_what_resampling_shows() -> None:
    rng = np.random.default_rng(9)
    noise = rng.normal(size=(600, 2))
    noise[1:, 1] += 0.7 * noise[:-1, 1]
    drawn = resampled_means(noise, mean_block=8.0, n_resamples=6000, rng=rng)
    assert 600 * drawn.var(axis=0) == pytest.approx(long_run_variance(noise, mean_block=8.0), rel=0.08)


def test_the_test_of_superior_ability_holds_its_level_over_many_useless_strategies() -> None:
    rng = np.random.default_rng(11)
    found = [spa(rng.normal(size=(250, 10)), **FEW, rng=rng) < 0.1 for _ in range(150)]
    assert 0.03 <= np.mean(found) <= 0.18  # 0.10 ± 3 standard errors of 150 draws


def test_poor_strategies_beside_a_good_one_do_not_hide_it() -> None:
    rng = np.random.default_rng(12)
    advantage = rng.normal(size=(500, 12)) - 1.0
    advantage[:, 4] += 1.2
    assert spa(advantage, **FEW, rng=rng) < 0.02
    assert step_m(advantage, size=0.05, **FEW, rng=rng) == {4}


def test_no_strategy_is_named_when_none_is_better() -> None:
    rng = np.random.default_rng(13)
    named = [bool(step_m(rng.normal(size=(250, 6)), size=0.1, **FEW, rng=rng)) for _ in range(100)]
    assert np.mean(named) <= 0.2
    assert spa(rng.normal(-0.5, 1.0, (300, 4)), **FEW, rng=rng) > 0.9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_the_scale_of_a_strategy_does_not_decide_who_is_superior(seed: int) -> None:
    advantage = np.random.default_rng(seed).normal(0.1, 1.0, (120, 4))
    found = [spa(advantage * s, **FEW, rng=np.random.default_rng(1)) for s in (1.0, np.array([1.0, 8.0, 0.5, 3.0]))]
    assert found[0] == found[1]


def test_a_strategy_equal_to_the_benchmark_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="does not vary"):
        spa(np.zeros((50, 2)), **FEW, rng=np.random.default_rng(1))


def test_the_confidence_set_keeps_equals_and_lets_the_worse_go() -> None:
    rng = np.random.default_rng(14)
    returns = rng.normal(size=(800, 6))
    returns[:, 3:] -= 0.5
    p_values = confidence_set(returns, **FEW, rng=rng)
    assert (p_values[:3] > 0.05).all()
    assert (p_values[3:] < 0.05).all()
    assert p_values.max() == 1.0


def test_the_best_strategy_is_kept_as_often_as_promised() -> None:
    rng = np.random.default_rng(15)
    shift = np.array([0.1, 0.0, 0.0, 0.0])
    kept = [confidence_set(rng.normal(size=(200, 4)) + shift, **FEW, rng=rng)[0] > 0.1 for _ in range(100)]
    assert np.mean(kept) >= 0.9


def test_copies_of_one_strategy_stay_together() -> None:
    same = np.tile(np.random.default_rng(1).normal(size=(100, 1)), (1, 3))
    assert confidence_set(same, **FEW, rng=np.random.default_rng(1)).tolist() == [1.0, 1.0, 1.0]


def test_a_return_that_is_not_finite_is_never_averaged_away() -> None:
    with pytest.raises(DataError, match="not finite"):
        bootstrap_p(np.array([0.1, np.nan, 0.2]), mean_block=2, n_resamples=10, rng=np.random.default_rng(1))
