"""An ensemble is made of good trials that differ."""

import numpy as np
import pytest

from features.errors import DataError
from trainer.ensemble import choose_members

HOW = {"size": 0.1, "mean_block": 5.0, "n_resamples": 300}


def _families() -> np.ndarray:
    """Nine trials: three near copies each of two good ideas and of one bad idea."""
    rng = np.random.default_rng(1)
    ideas = np.repeat(rng.normal([0.002, 0.002, -0.004], 0.01, (1500, 3)), 3, axis=1)
    return ideas + rng.normal(0, 0.002, ideas.shape)


def test_one_of_every_good_kind_is_chosen_and_none_of_the_bad() -> None:
    returns = _families()
    members = choose_members(returns, **HOW, rng=np.random.default_rng(2))
    assert sorted(m // 3 for m in members) == [0, 1]
    growth = np.log1p(returns).sum(axis=0)
    assert list(members) == sorted(members, key=lambda m: -growth[m])  # best first


def test_copies_of_one_trial_make_no_ensemble() -> None:
    one = np.random.default_rng(3).normal(0.001, 0.01, (400, 1))
    assert choose_members(np.tile(one, (1, 5)), **HOW, rng=np.random.default_rng(1)) == (0,)


def test_an_account_that_was_lost_is_refused() -> None:
    with pytest.raises(DataError, match="above -1"):
        choose_members(np.array([[0.1, -1.0], [0.2, 0.1]]), **HOW, rng=np.random.default_rng(1))
