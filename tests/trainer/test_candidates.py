"""Who stands for champion, and that nobody stands on a seed that was searched with."""

import numpy as np
import pytest

from features.errors import DataError
from trainer.candidates import Replicate, stand
from trainer.crossing import cross_seed
from trainer.evidence import fresh_seed
from trainer.worker import _seed


def families() -> np.ndarray:
    """Six trials, best first: three near copies each of two good ideas."""
    rng = np.random.default_rng(1)
    ideas = np.repeat(rng.normal([0.0021, 0.002], 0.01, (1500, 2)), 3, axis=1)
    return ideas + rng.normal(0, 0.002, ideas.shape)


def test_the_best_its_seeds_averaged_and_the_best_that_differ_averaged_stand() -> None:
    one, seeds, several = stand([9, 8, 7, 3, 2, 1], families(), n_seeds=3, most_members=3, seed=1)
    assert one.runs == ((Replicate(9, 0),), (Replicate(9, 1),), (Replicate(9, 2),))
    assert seeds.runs == ((Replicate(9, 0), Replicate(9, 1), Replicate(9, 2)),)
    assert len(several.trials) == 2 and len({t in (9, 8, 7) for t in several.trials}) == 2  # one of each idea
    assert [{r.seed for r in run} for run in several.runs] == [{0}, {1}, {2}]


def test_one_seed_and_one_member_leave_the_best_alone() -> None:
    only = stand([4, 2], families()[:, :2], n_seeds=1, most_members=1, seed=1)
    assert [c.name for c in only] == ["trial 4"]


def test_a_study_without_a_score_has_no_candidate() -> None:
    with pytest.raises(DataError, match="no trial has a score"):
        stand([], np.empty((0, 0)), n_seeds=5, most_members=3, seed=1)


def test_no_fresh_seed_is_one_of_the_search_nor_of_the_cross_validation() -> None:
    searched = {_seed(7, trial, fold, s) for trial in range(50) for fold in range(4) for s in range(10)}
    fresh = {fresh_seed(7, Replicate(trial, s), fold) for trial in range(50) for fold in range(4) for s in range(10)}
    crossed = {cross_seed(7, trial, split, s) for trial in range(50) for split in range(15) for s in range(3)}
    assert len(fresh) == 2000 and len(crossed) == 2250 and not (fresh & searched or crossed & (fresh | searched))


def test_every_finalist_of_cross_validation_stands_and_the_first_one_also_with_its_seeds_averaged() -> None:
    found = stand([9, 8, 7, 3, 2, 1], families(), n_seeds=2, most_members=1, seed=1, finalists=[7, 9])
    assert [c.name for c in found] == ["trial 7", "2 seeds of trial 7, averaged", "trial 9"]
    assert found[2].runs == ((Replicate(9, 0),), (Replicate(9, 1),))
