"""The advisor says what the trials show, and nothing when they show nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from daemon.advisor.analysis import (
    Analysis,
    Bounds,
    ParameterRow,
    Trial,
    analyse,
    benjamini_hochberg,
    cliffs_delta,
    mann_whitney_p,
)  # fmt: skip
from daemon.advisor.shell import Advisor
from daemon.child.clock import SystemClock
from daemon.child.config import parse
from daemon.child.logs import get_logger
from features.files import write_atomic

BOUNDS = {
    "lr": Bounds(low=1e-4, high=1e-2, log=True), "gamma": Bounds(low=0.9, high=0.999),
    "clip": Bounds(low=0.1, high=0.3), "schedule": Bounds(choices=("constant", "linear", "cosine")),
}  # fmt: skip


def draw(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "lr": float(10 ** rng.uniform(-4, -2)), "gamma": float(rng.uniform(0.9, 0.999)),
        "clip": float(rng.uniform(0.1, 0.3)), "schedule": str(rng.choice(["constant", "linear", "cosine"])),
    }  # fmt: skip


def study(seed: int, effect: Any = lambda p: 0.0, *, n: int = 400) -> Analysis:
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(n):
        parameters = draw(rng)
        score = float(rng.normal()) + effect(parameters)
        trials.append(
            Trial(number=number, state="COMPLETE", score=score, parameters=parameters, seconds=60.0, failure=None)
        )
    return analyse(trials, BOUNDS, rng)


def row(analysis: Analysis, name: str) -> ParameterRow:
    return next(r for r in analysis.rows if r.name == name)


def test_in_noise_it_finds_something_in_at_most_one_study_in_ten() -> None:
    """Lessons: differences of 30 to 100 % between top and rest were reported for pure noise."""
    findings = [r.verdict for seed in range(40) for r in study(seed).rows]
    studies_with = sum(
        any(r.verdict in ("matters", "range too narrow") for r in study(seed).rows) for seed in range(40)
    )
    assert studies_with <= 4
    assert set(findings) <= {"no evidence", "equivalent", "matters", "range too narrow"}


def test_a_planted_effect_is_found_with_its_sign_and_the_others_are_not() -> None:
    analysis = study(3, lambda p: 2.0 * np.log10(p["lr"]))
    found = row(analysis, "lr")
    assert found.verdict in ("matters", "range too narrow")
    assert found.delta is not None and found.delta > 0.33
    assert found.q is not None and found.q < 0.05
    assert all(row(analysis, n).verdict in ("no evidence", "equivalent") for n in ("gamma", "clip", "schedule"))


def test_a_best_group_that_crowds_a_bound_is_called_a_range_too_narrow() -> None:
    found = row(study(4, lambda p: 60.0 * p["gamma"], n=1000), "gamma")
    assert found.verdict == "range too narrow"
    assert "upper bound" in found.edge


def test_a_choice_is_compared_as_a_choice_never_as_its_index() -> None:
    """Lessons: a categorical's index was averaged and reported as "26.58 % higher"."""
    found = row(study(5, lambda p: 3.0 * (p["schedule"] == "linear")), "schedule")
    assert found.verdict == "matters"
    assert found.kind == "choice" and found.top == "linear" and found.delta is None


def test_a_few_trials_say_nothing() -> None:
    analysis = study(6, lambda p: 5.0 * np.log10(p["lr"]), n=20)
    assert {r.verdict for r in analysis.rows} == {"insufficient data"}
    empty = analyse([], BOUNDS, np.random.default_rng(0))
    assert empty.best is None and {r.verdict for r in empty.rows} == {"insufficient data"}


def test_failed_trials_count_as_failures_and_never_as_scores() -> None:
    rng = np.random.default_rng(0)
    good = [
        Trial(number=i, state="COMPLETE", score=1.0 + i, parameters=draw(rng), seconds=1, failure=None)
        for i in range(3)
    ]
    bad = [Trial(number=9, state="FAIL", score=None, parameters=draw(rng), seconds=1, failure="diverged")]
    analysis = analyse([*good, *bad], BOUNDS, rng)
    assert (analysis.n_complete, analysis.n_failed, dict(analysis.failures)) == (3, 1, {"diverged": 1})
    assert (analysis.best, analysis.best_number, analysis.median) == (3.0, 2, 2.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_rank_statistics_are_those_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0.3, 1, 30).round(1), rng.normal(0, 1, 50).round(1)  # rounded: with ties
    expected = scipy_stats.mannwhitneyu(a, b, method="asymptotic")
    assert mann_whitney_p(a, b) == pytest.approx(expected.pvalue, rel=1e-9)
    assert cliffs_delta(a, b) == pytest.approx(2 * expected.statistic / (30 * 50) - 1)
    p_values = rng.random(12)
    assert benjamini_hochberg(list(p_values)) == pytest.approx(scipy_stats.false_discovery_control(p_values))


def written(state_dir: Path, n: int) -> Advisor:
    rng = np.random.default_rng(1)
    folder = state_dir / "trials" / "s"
    space = {
        name: {"choices": list(b.choices)} if b.choices else {"low": b.low, "high": b.high, "log": b.log}
        for name, b in BOUNDS.items()
    }
    write_atomic(folder / "space.json", json.dumps(space).encode())
    for number in range(n):
        record = {
            "study": "s", "number": number, "state": "COMPLETE", "score": float(rng.normal()), "parameters": draw(rng),
            "seconds": 60.0,
        }  # fmt: skip
        write_atomic(folder / str(number) / "trial.json", json.dumps(record).encode())
    config = parse({"study": {"name": "s"}, "advisor": {"every_trials": 10}})
    return Advisor(config=config, state_dir=state_dir, clock=SystemClock(), log=get_logger())


def test_a_report_appears_after_every_so_many_completed_trials_and_not_in_between(tmp_path: Path) -> None:
    assert not written(tmp_path, 9).advise_if_due()
    assert written(tmp_path, 10).advise_if_due()
    assert not written(tmp_path, 19).advise_if_due()
    assert written(tmp_path, 20).advise_if_due()
    reports = sorted((tmp_path / "advice").glob("*.md"))
    assert len(reports) == 2
    text = reports[-1].read_text()
    for name in BOUNDS:
        assert name in text
    latest = json.loads((tmp_path / "advice" / "latest.json").read_bytes())
    assert latest["n_complete"] == 20 and len(latest["rows"]) == len(BOUNDS)


def test_the_same_trials_give_the_same_advice(tmp_path: Path) -> None:
    advisor = written(tmp_path, 60)
    assert advisor.advise()[0] == advisor.advise()[0]
