"""How far a trial goes is decided by numbers alone."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.advisor.experiment import outcome
from trainer.rungs import CrossValidated, cross_validated, most_promising, rung, screened, with_finalists
from trainer.splits import cpcv

scores = st.lists(st.integers(-9, 9).map(float), max_size=30)


@given(scores, st.integers(-9, 9), st.floats(0.01, 1.0), st.integers(0, 12))
def test_a_screened_trial_goes_on_exactly_among_the_best_share_so_far(
    earlier: list[float], score: int, keep: float, spared: int
) -> None:
    said = screened(float(score), earlier, keep=keep, spared=spared)
    better = sum(e >= score for e in earlier)
    assert said.rank == better + 1 and said.of == len(earlier) + 1
    assert said.passed == (len(earlier) < spared or better < keep * (len(earlier) + 1))
    assert said.passed or earlier  # the first always goes on


@given(scores, st.floats(0.01, 1.0))
def test_the_best_so_far_goes_on_and_an_equal_one_after_it_ranks_behind(earlier: list[float], keep: float) -> None:
    best = max(earlier, default=0.0) + 1.0
    assert screened(best, earlier, keep=keep, spared=0).passed
    assert screened(best, [*earlier, best], keep=keep, spared=0).rank == 2


def test_in_a_pair_the_half_that_was_screened_loses_to_the_one_with_a_score_and_two_say_nothing() -> None:
    """Both halves meet the same bar in an order that a coin chose, so neither is favoured."""
    scored, given_up = {"score": 1.0}, {"failure": "screened", "screening": {"score": 9.0}}
    assert outcome(scored, given_up) == ("win", None) and outcome(given_up, scored) == ("loss", None)
    assert outcome(given_up, given_up) == ("void", None)


@given(st.lists(st.integers(0, 999), unique=True, max_size=120), st.integers(0, 20))
def test_the_best_tenth_is_cross_validated_and_never_more_than_allowed(numbers: list[int], most: int) -> None:
    chosen = most_promising(numbers, most=most)
    assert list(chosen) == numbers[: len(chosen)]
    assert len(chosen) == min(most, math.ceil(len(numbers) / 10))


def result(trial: int, t: float) -> CrossValidated:
    return CrossValidated(
        trial=trial, n_splits=15, n_paths=5, n_seeds=1, excess=0.0, t=t, path_quartile=0.0, group_quartile=0.0
    )


def test_finalists_are_the_best_by_their_t_and_the_search_settles_a_tie() -> None:
    ranked = with_finalists([result(4, 1.0), result(2, 3.0), result(9, 3.0), result(1, -1.0)], most=2)
    assert [(r.trial, r.finalist) for r in ranked] == [(2, True), (9, True), (4, False), (1, False)]


def test_the_numbers_of_cross_validation_are_those_of_its_definition() -> None:
    """Nadeau & Bengio's variance (1/J + n_test/n_train)·s², paths joined from their groups, quartiles over both."""
    splits = cpcv(range(6000), n_groups=6, n_test=2, purge_bars=0, embargo_bars=0)
    rng, bars = np.random.default_rng(1), np.full((15, 2), 1000)
    excess = rng.normal(0.5, 1.0, (3, 15, 2))
    found = cross_validated(7, excess, bars, splits)
    x = excess.mean(axis=0).sum(axis=1) / 2000
    assert found.excess == pytest.approx(x.mean())
    assert found.t == pytest.approx(x.mean() / math.sqrt((1 / 15 + 2000 / 4000) * x.var(ddof=1)))
    paths = np.zeros((3, 5))
    for j, split in enumerate(splits):
        for k, path in enumerate(split.paths):
            paths[:, path] += excess[:, j, k] / 6000
    assert found.path_quartile == pytest.approx(np.quantile(paths, 0.25))
    assert found.group_quartile == pytest.approx(np.quantile(excess / 1000, 0.25))
    assert found.group_quartile < found.path_quartile < found.excess
    assert cross_validated(7, np.zeros((1, 15, 2)), bars, splits).t == 0.0  # the same account as the baseline


def test_every_trial_says_how_far_it_came() -> None:
    assert rung({"failure": "screened"}, judged=False).startswith("R0")
    assert rung({"failure": None, "score": 1.0}, judged=False).startswith("R1")
    assert rung({"failure": None, "cross_validation": {}}, judged=False).startswith("R2")
    assert rung({"failure": None, "cross_validation": {}}, judged=True).startswith("R3")
