"""Tests of superiority hold their level on strategies without skill and find the one that has it."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataError
from trainer.resampling import (
    bootstrap_p,
    confidence_set,
    holm,
    long_run_variance,
    resampled_means,
    resampled_paths,
    spa,
    spa_against,
    step_m,
)  # fmt: skip

FEW: dict[str, Any] = {"mean_block": 5.0, "n_resamples": 200}


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


def test_what_equals_its_benchmark_is_surely_no_better_and_no_p_value_is_zero() -> None:
    how = {"mean_block": 5.0, "n_resamples": 99}
    assert bootstrap_p(np.zeros(50), **how, rng=np.random.default_rng(1)) == 1.0  # type: ignore[arg-type]
    sure = np.random.default_rng(2).normal(9.0, 1.0, 50)
    assert bootstrap_p(sure, **how, rng=np.random.default_rng(1)) == 0.01  # type: ignore[arg-type]
    assert spa(sure[:, None], **how, rng=np.random.default_rng(1)) == 0.01  # type: ignore[arg-type]
    assert spa(-sure[:, None], **how, rng=np.random.default_rng(1)) == 1.0  # type: ignore[arg-type]


def test_no_adjusted_p_value_is_above_one() -> None:
    assert holm([0.4, 0.9, 0.01]) == pytest.approx([0.8, 0.9, 0.03])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_resampled_blocks_begin_anywhere_wrap_around_and_are_as_many_as_asked_for() -> None:
    """Every bar is drawn equally often, and after a bar comes the next one but once in `mean_block` times."""
    n, index = 50, np.eye(50)
    drawn = resampled_means(index, mean_block=10.0, n_resamples=20_000, rng=np.random.default_rng(1))
    assert drawn.shape == (20_000, n)
    assert 20_000 * n * drawn.mean(axis=0) == pytest.approx(np.full(n, 20_000), rel=0.06)
    paths = resampled_paths(
        np.arange(1.0, n + 1), at=np.arange(n + 1), mean_block=10.0, n_resamples=400, rng=np.random.default_rng(1)
    )  # fmt: skip
    assert paths.shape == (400, n + 1) and (paths[:, 0] == 0.0).all()
    bars = np.diff(paths, axis=1).round() - 1
    follows = (np.diff(bars, axis=1) % n) == 1
    assert follows.mean() == pytest.approx(0.9 + 0.1 / n, abs=0.01)
    assert len(np.unique(bars[:, 0])) == n


def test_the_long_run_variance_is_the_lemma_of_politis_and_romano_written_out() -> None:
    values, p = np.random.default_rng(3).normal(size=(40, 2)).cumsum(axis=0), 1 / 6
    n, centred = len(values), values - values.mean(axis=0)
    expected = (centred**2).sum(axis=0) / n
    for lag in range(1, n):
        weight = (1 - lag / n) * (1 - p) ** lag + lag / n * (1 - p) ** (n - lag)
        expected += 2 * weight * (centred[lag:] * centred[:-lag]).sum(axis=0) / n
    assert long_run_variance(values, mean_block=6.0) == pytest.approx(expected)


def hansens(advantage: np.ndarray, seed: int) -> tuple[float, frozenset[int]]:
    """Hansen 2005 and one step of Romano & Wolf 2005, written out strategy by strategy and draw by draw."""
    n, k = advantage.shape
    means = resampled_means(advantage, **FEW, rng=np.random.default_rng(seed))
    omega = [math.sqrt(long_run_variance(advantage, mean_block=FEW["mean_block"])[j]) for j in range(k)]
    t = [math.sqrt(n) * advantage[:, j].mean() / omega[j] for j in range(k)]
    hopeless = [t[j] < -math.sqrt(2 * math.log(math.log(n))) for j in range(k)]
    exceed, largest = 0, []
    for draw in means:
        moved = [
            math.sqrt(n) * (draw[j] - (0.0 if hopeless[j] else advantage[:, j].mean())) / omega[j] for j in range(k)
        ]
        exceed += max(0.0, *moved) >= max(0.0, *t)
        largest.append(max(moved))
    critical = max(0.0, float(np.quantile(largest, 0.9)))
    return (exceed + 1) / (len(means) + 1), frozenset(j for j in range(k) if t[j] > critical)


@pytest.mark.parametrize("seed", range(8))
def test_superior_ability_is_hansens_and_stepwise_names_what_one_step_does_and_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shift = np.array([0.12, 0.08, 0.0, -0.1, -0.8]) * rng.choice([-0.5, 1.0])
    advantage = rng.normal(size=(120, 5)) * np.array([1.0, 1.0, 4.0, 0.2, 1.0]) + shift
    p, named = hansens(advantage, 3)
    assert spa(advantage, **FEW, rng=np.random.default_rng(3)) == pytest.approx(p)
    assert step_m(advantage, size=0.1, **FEW, rng=np.random.default_rng(3)) >= named
    strategies, benchmarks = advantage, rng.normal(0, 0.3, (120, 2))
    each = [hansens(strategies - b[:, None], 4)[0] for b in benchmarks.T]
    assert spa_against(strategies, benchmarks, **FEW, rng=np.random.default_rng(4)) == pytest.approx(each)


def test_what_is_named_first_makes_room_for_what_is_good_beside_it() -> None:
    """The best's own noise is wide at first: without it the critical value falls and the second one is named too."""
    rng, n = np.random.default_rng(5), 400
    noise = rng.standard_t(3, (n, 12))
    advantage = noise - noise.mean(axis=0)
    advantage /= np.sqrt(long_run_variance(advantage, mean_block=FEW["mean_block"]))
    t = np.array([4.0] * 10 + [2.1, 0.0])
    found = step_m(advantage + t / math.sqrt(n), size=0.1, **FEW, rng=np.random.default_rng(1))
    assert hansens(advantage + t / math.sqrt(n), 1)[1] == frozenset(range(10)) and found == frozenset(range(11))


def test_one_strategy_that_equals_the_benchmark_spoils_the_test_and_is_left_out_against_several() -> None:
    good = np.random.default_rng(1).normal(0.5, 1.0, (60, 1))
    with pytest.raises(DataError, match="does not vary"):
        spa(np.column_stack([good, np.zeros(60)]), **FEW, rng=np.random.default_rng(1))
    both, benchmarks = np.column_stack([good, np.zeros(60)]), np.column_stack([np.zeros(60), good])
    idle, itself = spa_against(both, benchmarks, **FEW, rng=np.random.default_rng(1))
    assert (idle, itself) == (hansens(good, 1)[0], hansens(-good, 1)[0])
    with pytest.raises(DataError, match="not finite"):
        resampled_means(np.array([[0.1], [np.inf]]), **FEW, rng=np.random.default_rng(1))


def test_equals_that_are_worse_leave_the_confidence_set_together_and_of_two_the_worse_goes() -> None:
    rng = np.random.default_rng(14)
    good, poor = rng.normal(0.4, 1.0, 400), rng.normal(0.0, 1.0, 400)
    together = confidence_set(np.column_stack([poor, good, poor, poor]), **FEW, rng=rng)
    assert together[0] == together[2] == together[3] < 0.01 and together[1] == 1.0
    alone = confidence_set(np.column_stack([good, poor]), **FEW, rng=rng)
    assert alone[0] == 1.0 and alone[1] < 0.01


def test_a_strategy_that_leaves_later_never_has_the_smaller_p_value() -> None:
    """Hansen, Lunde & Nason 2011 written out; among these returns some step alone would have a smaller one."""
    fell = 0
    for seed in range(12):
        returns = np.random.default_rng(seed).normal(0, 1.0, (150, 5)) + np.array([0.3, 0.25, 0.2, 0.1, 0.0])
        noise = resampled_means(returns - returns.mean(axis=0), **FEW, rng=np.random.default_rng(1))
        left, expected, largest = list(range(5)), [1.0] * 5, 0.0
        while len(left) > 1:
            mean = [returns[:, j].mean() - returns[:, left].mean() for j in left]
            drawn = [noise[:, j] - noise[:, left].mean(axis=1) for j in left]
            t = [-m / math.sqrt((d**2).mean()) for m, d in zip(mean, drawn, strict=True)]
            likely = np.max([-d / math.sqrt((d**2).mean()) for d in drawn], axis=0) >= max(t)
            fell += bool(likely.mean() < largest)
            largest = max(largest, float(likely.mean()))
            expected[left.pop(int(np.argmax(t)))] = largest
        assert confidence_set(returns, **FEW, rng=np.random.default_rng(1)) == pytest.approx(expected)
    assert fell > 0
