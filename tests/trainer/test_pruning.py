"""A candidate is given up for being worse, not for the regime its folds happen to show."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import DataError
from trainer.pruning import look

scores = st.lists(st.floats(-5, 5), min_size=10, max_size=10)


@given(scores, st.integers(0, 3))
def test_nothing_is_given_up_before_the_first_look(incumbent: list[float], n: int) -> None:
    assert not look([-99.0] * n, incumbent).prune


@given(scores, st.integers(0, 10))
def test_a_candidate_that_is_never_worse_is_kept(incumbent: list[float], n: int) -> None:
    assert not look([x + 0.5 for x in incumbent[:n]], incumbent).prune
    assert not look(incumbent[:n], incumbent).prune


def test_a_candidate_worse_in_every_fold_is_given_up_at_the_sixth() -> None:
    levels = [100.0, -100.0, 3.0, 50.0, -7.0, 0.0, 1.0, 2.0, 3.0, 4.0]  # regimes cancel in the pairs
    worse = [x - 0.1 * (i + 1) for i, x in enumerate(levels)]
    assert [look(worse[:n], levels).prune for n in range(1, 11)] == [False] * 5 + [True] * 5
    assert look(worse[:6], levels).p_no_worse == 2**-6


def test_the_share_of_configurations_given_up_is_the_simulated_one() -> None:
    rng = np.random.default_rng(1)

    def given_up(worse_by: float) -> float:
        differences = rng.normal(-worse_by, 1.0, (300, 10))
        return float(np.mean([any(look(d[:n], [0.0] * 10).prune for n in range(4, 11)) for d in differences]))

    assert given_up(0.0) == pytest.approx(0.035, abs=0.035)
    assert given_up(1.0) == pytest.approx(0.79, abs=0.08)


def test_folds_that_the_incumbent_lacks_are_refused() -> None:
    with pytest.raises(DataError, match="3 folds of the candidate"):
        look([1.0, 2.0, 3.0], [1.0])
