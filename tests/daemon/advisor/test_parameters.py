"""What the trials say about a parameter: something when there is something, and nothing when there is nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from simulated_study import BOUNDS, trials

from daemon.advisor.effects import (
    benjamini_hochberg,
    binomial_tail,
    cliffs_delta,
    delta_interval,
    midranks,
    rank_sum_p,
    spearman,
)
from daemon.advisor.importance import strata_of
from daemon.advisor.parameters import ParameterRow, parameter_rows, shown
from daemon.advisor.records import Bounds, Trial

SMALL = {
    "lr": Bounds(low=1e-4, high=1e-2, log=True), "gamma": Bounds(low=0.9, high=0.999),
    "clip": Bounds(low=0.1, high=0.3), "schedule": Bounds(choices=("constant", "linear", "cosine")),
}  # fmt: skip


def draw(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "lr": float(10 ** rng.uniform(-4, -2)), "gamma": float(rng.uniform(0.9, 0.999)),
        "clip": float(rng.uniform(0.1, 0.3)), "schedule": str(rng.choice(["constant", "linear", "cosine"])),
    }  # fmt: skip


def study(seed: int, effect: Any = lambda p: 0.0, *, n: int = 400) -> list[Trial]:
    rng = np.random.default_rng(seed)
    made = []
    for number in range(n):
        parameters = draw(rng)
        score = float(rng.normal()) + effect(parameters)
        made.append(
            Trial(number=number, state="COMPLETE", score=score, parameters=parameters, seconds=60.0, failure=None)
        )
    return made


def rows(made: list[Trial], bounds: dict[str, Bounds] | None = None) -> dict[str, ParameterRow]:
    return {r.name: r for r in parameter_rows(made, bounds or SMALL, np.random.default_rng(0))}


def test_in_noise_it_finds_something_in_at_most_one_study_in_ten() -> None:
    """Lessons: differences of 30 to 100 % between top and rest were reported for pure noise."""
    studies_with = sum(any(r.is_finding for r in rows(study(seed)).values()) for seed in range(40))
    assert studies_with <= 4


def test_a_planted_effect_is_found_with_its_sign_and_the_others_are_not() -> None:
    found = rows(study(3, lambda p: 2.0 * np.log10(p["lr"])))
    assert found["lr"].is_finding
    assert found["lr"].delta is not None and found["lr"].delta > 0.33
    assert found["lr"].q is not None and found["lr"].q < 0.05
    assert not any(found[n].is_finding for n in ("gamma", "clip", "schedule"))


def test_an_optimum_inside_the_range_moves_no_median_and_is_found_all_the_same() -> None:
    found = rows(study(1, lambda p: -600.0 * (p["clip"] - 0.2) ** 2))["clip"]
    assert found.verdict == "matters"
    assert found.delta is not None and abs(found.delta) < 0.33
    assert found.focus is not None and found.focus > 0.33


def test_a_best_group_that_crowds_a_bound_is_called_a_range_too_narrow() -> None:
    found = rows(study(4, lambda p: 60.0 * p["gamma"], n=1000))["gamma"]
    assert found.verdict == "range too narrow"
    assert "upper bound" in found.edge


def test_the_ends_of_a_grid_hold_their_share_and_are_no_edge() -> None:
    """Whole numbers from 2 to 10: one in nine lies at each end by chance, not one in fifty."""
    for seed in range(10):
        made = [
            r for r in parameter_rows(trials(seed, n=1000, k=0), BOUNDS, np.random.default_rng(0)) if r.name == "p03"
        ]
        assert made[0].edge == ""


def test_a_choice_is_compared_as_a_choice_never_as_its_index() -> None:
    """Lessons: a categorical's index was averaged and reported as "26.58 % higher"."""
    found = rows(study(5, lambda p: 3.0 * (p["schedule"] == "linear")))["schedule"]
    assert found.verdict == "matters"
    assert found.kind == "choice" and found.top == "linear" and found.difference_pct is None
    assert "constant" in found.avoid and "of the best tenth where chance gives" in found.avoid


def test_equivalent_is_said_of_what_was_shown_to_be_small_and_inert_of_what_is_like_a_random_column() -> None:
    many, few = rows(study(7, n=4000)), rows(study(8, n=300))
    assert {r.verdict for r in many.values()} == {"equivalent"}
    assert "equivalent" not in {r.verdict for r in few.values()}  # thirty in a group cannot show it
    assert {r.verdict for r in few.values()} <= {"inert", "no evidence"}


def test_what_is_to_be_avoided_is_said_of_findings_only() -> None:
    for r in rows(study(9)).values():
        assert r.is_finding or not r.avoid
    assert "below" in rows(study(3, lambda p: 2.0 * np.log10(p["lr"])))["lr"].avoid


def test_a_few_trials_say_nothing() -> None:
    found = rows(study(6, lambda p: 5.0 * np.log10(p["lr"]), n=20))
    assert {r.verdict for r in found.values()} == {"insufficient data"}
    assert {r.verdict for r in rows([]).values()} == {"insufficient data"}


def test_a_conditional_parameter_is_compared_among_the_trials_that_have_it() -> None:
    made = study(10, lambda p: 2.0 * np.log10(p["lr"]))
    half = [
        t
        if i % 2
        else replace(t, parameters={k: v for k, v in t.parameters.items() if k != "clip"}, score=(t.score or 0) + 50)
        for i, t in enumerate(made)
    ]
    found = rows(half)["clip"]
    assert (found.n_top, found.n_rest) == (20, 180)  # the trials without it are all better, and no part of this


def test_a_drift_of_the_sampler_is_no_finding() -> None:
    """Later trials are better and have smaller values, for reasons of their own: within a stretch nothing is related."""
    rng = np.random.default_rng(3)
    made = []
    for i, t in enumerate(study(11, n=1000)):
        late = i * 5 // 1000 / 5
        clip = float(0.3 - 0.1 * late - 0.02 * rng.random())
        made.append(replace(t, score=float(rng.normal()) + 1.5 * late, parameters={**t.parameters, "clip": clip}))
    scores = np.array([t.score for t in made])
    top = scores >= np.sort(scores)[-100]
    values = np.array([t.parameters["clip"] for t in made])
    assert rank_sum_p(values, top, np.zeros(1000, dtype=int)) < 1e-4  # which the plain test takes for an effect
    assert not rows(made)["clip"].is_finding


def test_the_displayed_difference_is_that_of_the_displayed_values() -> None:
    for r in parameter_rows(trials(5, n=300, k=3), BOUNDS, np.random.default_rng(0)):
        if r.difference_pct is not None:
            assert r.difference_pct == pytest.approx(100 * (float(shown(r.top)) / float(shown(r.rest)) - 1))


@pytest.mark.parametrize("seed", range(5))
def test_the_rank_statistics_are_those_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0.3, 1, 30).round(1), rng.normal(0, 1, 50).round(1)  # rounded: with ties
    expected = scipy_stats.mannwhitneyu(a, b, method="asymptotic")
    both, top = np.concatenate([a, b]), np.arange(80) < 30
    assert rank_sum_p(both, top, np.zeros(80, dtype=int)) == pytest.approx(expected.pvalue, rel=1e-9)
    assert cliffs_delta(a, b) == pytest.approx(2 * expected.statistic / (30 * 50) - 1)
    assert midranks(both) == pytest.approx(scipy_stats.rankdata(both))
    assert spearman(a, b[:30]) == pytest.approx(scipy_stats.spearmanr(a, b[:30]).statistic)
    p_values = rng.random(12)
    assert benjamini_hochberg(list(p_values)) == pytest.approx(scipy_stats.false_discovery_control(p_values))
    assert binomial_tail(7, 40, 0.1) == pytest.approx(scipy_stats.binom.sf(6, 40, 0.1))


def test_the_interval_of_an_effect_holds_the_truth_as_often_as_it_says() -> None:
    """Normal groups half a standard deviation apart: the delta of the populations is 2·Phi(.5/sqrt 2) − 1."""
    truth, held = 2 * scipy_stats.norm.cdf(0.5 / np.sqrt(2)) - 1, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        low, high = delta_interval(rng.normal(0.5, 1, 60), rng.normal(0, 1, 300), rng)
        held += low <= truth <= high
    assert 180 <= held <= 199


def test_the_stratified_test_keeps_its_level_when_the_strata_differ() -> None:
    hits = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        strata = np.repeat([0, 1, 2], 60)
        top = rng.random(180) < np.array([0.05, 0.1, 0.3])[strata]
        if top.any():
            hits += rank_sum_p(rng.normal(size=180) + strata, top, strata) < 0.05
    assert 8 <= hits <= 32  # 20 expected


def test_strata_are_stretches_of_the_search_and_fewer_when_there_is_little_to_compare() -> None:
    assert sorted(np.bincount(strata_of(range(0, 2000, 2), 100))) == [200] * 5
    assert len(np.unique(strata_of(range(60), 6))) == 1
