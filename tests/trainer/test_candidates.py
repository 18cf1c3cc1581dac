"""Who stands for champion, and that nobody stands on a seed that was searched with."""

import numpy as np
import pytest

from features.errors import DataError
from trainer.candidates import Candidate, Replicate, stand
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


def test_no_more_members_are_averaged_than_asked_for_and_the_best_of_each_idea_are() -> None:
    rng = np.random.default_rng(2)
    three = np.repeat(rng.normal([0.0022, 0.0021, 0.002], 0.01, (1500, 3)), 2, axis=1)
    three += rng.normal(0, 0.002, three.shape)

    def members(most: int) -> tuple[int, ...]:
        return stand([9, 8, 7, 3, 2, 1], three, n_seeds=1, most_members=most, seed=1)[-1].trials

    assert len(members(3)) == 3 and members(2) == members(3)[:2]
    assert [len(set(members(3)) & pair) for pair in ({9, 8}, {7, 3}, {2, 1})] == [1, 1, 1]


def test_what_is_surely_no_best_is_no_member() -> None:
    """1500 bars: a mean a hundredth of a deviation below the best may be chance, one that is a fifth below is none."""
    rng = np.random.default_rng(3)
    returns = rng.normal([0.002, 0.0019, 0.0], 0.01, (1500, 3))
    assert set(stand([5, 6, 7], returns, n_seeds=1, most_members=3, seed=1)[-1].trials) == {5, 6}


def test_a_replicate_of_several_runs_is_trained_once() -> None:
    seeds = tuple(Replicate(9, s) for s in (1, 0))
    twice = Candidate(name="twice", runs=(seeds, (Replicate(9, 1), Replicate(3, 1))))
    assert twice.replicates == (Replicate(3, 1), Replicate(9, 0), Replicate(9, 1))
    assert twice.trials == (9, 3)


def test_a_single_trial_or_no_wish_for_an_ensemble_makes_none() -> None:
    lone = stand([4], families()[:, :1], n_seeds=2, most_members=3, seed=1)
    assert [c.name for c in lone] == ["trial 4", "2 seeds of trial 4, averaged"]
    unwished = stand([9, 8, 7, 3, 2, 1], families(), n_seeds=2, most_members=1, seed=1)
    assert [c.name for c in unwished] == ["trial 9", "2 seeds of trial 9, averaged"]
    copies = np.repeat(families()[:, :1], 3, axis=1)
    assert len(stand([1, 2, 3], copies, n_seeds=1, most_members=3, seed=1)) == 1


def test_whether_a_borderline_trial_is_a_member_follows_from_the_seed_alone() -> None:
    returns = np.random.default_rng(9).normal([0.002, 0.00155], 0.01, (1500, 2))
    once, again = (
        [len(stand([1, 2], returns, n_seeds=1, most_members=2, seed=s)) for s in range(16)] for _ in range(2)
    )  # fmt: skip
    assert once == again and set(once) == {1, 2}
