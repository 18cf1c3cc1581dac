"""What a handful of seeds and folds can say, exactly."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataError
from trainer.replicates import (
    improvement_interval,
    interquartile_mean,
    iqm_interval,
    probability_of_improvement,
    signed_rank,
)


def test_the_interquartile_mean_drops_a_quarter_at_each_end() -> None:
    assert interquartile_mean(np.arange(8.0)) == 3.5
    assert interquartile_mean(np.array([0.0, 1, 2, 3, 4, 5, 6, 100])) == 3.5
    assert interquartile_mean(np.arange(10.0)) == 4.5  # scipy.stats.trim_mean(x, 0.25)
    assert interquartile_mean(np.array([-1e9, 1.0, 2.0, 3.0, 4.0, 1e9])) == 2.5


def test_folds_of_different_levels_do_not_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    seeds = rng.normal(size=(10, 4))
    flat = iqm_interval(seeds, n_resamples=500, rng=rng)
    assert flat.low < flat.value < flat.high
    constant = iqm_interval(np.tile(np.arange(4.0) * 100, (10, 1)), n_resamples=50, rng=rng)
    assert constant.low == constant.value == constant.high  # seeds are drawn within a fold, never across folds


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hit = 0
    for _ in range(200):
        found = iqm_interval(rng.normal(size=(10, 5)), n_resamples=200, rng=rng)
        hit += found.low <= 0.0 <= found.high
    assert 0.86 <= hit / 200 <= 0.99


def test_the_probability_of_improvement_counts_pairs_and_halves_ties() -> None:
    ours, theirs = np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]])
    assert probability_of_improvement(ours, theirs) == 0.625  # of four pairs: 2 won, 1 tied, 1 lost
    assert probability_of_improvement(theirs, ours) == 0.375
    rng = np.random.default_rng(3)
    better = improvement_interval(rng.normal(3, 1, (8, 3)), rng.normal(0, 1, (8, 3)), n_resamples=200, rng=rng)
    assert better.low > 0.9
    with pytest.raises(DataError, match="folds"):
        probability_of_improvement(np.zeros((2, 3)), np.zeros((2, 2)))


def test_the_signed_rank_test_gives_the_published_example() -> None:
    found = signed_rank(np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75.0]))
    assert min(found.plus, found.minus) == 24.0
    assert found.p_two_sided == 0.041259765625  # SciPy's documentation, two-sided exact


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-4, 4), max_size=9))
def test_the_signed_rank_test_counts_every_assignment_of_signs_also_with_ties(values: list[int]) -> None:
    kept = np.array([v for v in values if v], dtype=float)
    size = np.abs(kept)
    rank = np.array([(size < s).sum() + ((size == s).sum() + 1) / 2 for s in size])
    sums = [float(np.dot(signs, rank)) for signs in product((0, 1), repeat=len(kept))]
    found = signed_rank(np.array(values, dtype=float))
    assert found.plus == rank[kept > 0].sum()
    assert found.p_less == np.mean([s <= found.plus for s in sums])
    assert found.p_greater == np.mean([s >= found.plus for s in sums])


def test_a_missing_fold_is_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        signed_rank(np.array([1.0, np.nan]))
