"""How the machine was used: durations, arrivals and utilisation are three numbers; an estimate has an interval."""

from dataclasses import replace

import numpy as np
import pytest

from daemon.advisor.operations import Operations, eta, operations, wilson
from daemon.advisor.records import Machine, Trial

RNG = np.random.default_rng


def ended(number: int, *, began_s: float, seconds: float, failure: str | None = None) -> Trial:
    return Trial(
        number=number, state="FAIL" if failure else "COMPLETE", score=None if failure else 1.0, parameters={},
        seconds=seconds, failure=failure, began_s=began_s,
    )  # fmt: skip


def run(
    trials: list[Trial], *, workers: int = 2, target: int = 1000, now_s: float | None = None, **facts: object
) -> Operations:
    until = max((t.began_s or 0) + (t.seconds or 0) for t in trials) if now_s is None else now_s
    machine = Machine(workers=workers, target=target, now_s=until, **facts)  # type: ignore[arg-type]
    return operations(trials, machine, RNG(0))


def test_the_predecessors_day_in_its_three_numbers() -> None:
    """345 trials in a day on three workers, 7.5 minutes each: arrivals, worker time and utilisation as recomputed."""
    every_s = 86_400 / 345
    trials = [ended(i, began_s=(i + 1) * every_s - 450, seconds=450) for i in range(3425)]
    found = run(trials, workers=3, target=5000)
    assert found.complete_per_hour == pytest.approx(14.375)
    assert found.worker_s_per_trial == pytest.approx(60 * 12.521739)
    assert found.utilisation == pytest.approx(0.598958, abs=1e-4)
    assert found.durations_s == (450, 450, 450)
    assert found.eta_complete is not None
    assert found.eta_complete.mid_s / 86_400 == pytest.approx(4.565217, rel=0.02)
    assert any("idle" in n and "60%" in n and "12.5 worker-minutes" in n for n in found.notes)


def test_the_interval_of_the_estimate_holds_the_truth_nine_times_in_ten() -> None:
    held = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        arrivals = np.cumsum(rng.exponential(100.0, 90))
        found = eta(40, float(arrivals[39]), 50, rng)
        assert found is not None
        held += found.low_s <= arrivals[89] - arrivals[39] <= found.high_s
    assert 255 <= held <= 285


def test_there_is_no_estimate_from_nothing_and_none_when_all_is_done() -> None:
    assert eta(1, 100.0, 5, RNG(0)) is None
    assert eta(10, None, 5, RNG(0)) is None
    assert eta(10, 100.0, 0, RNG(0)) is None
    assert run([ended(0, began_s=0, seconds=10)]).eta_complete is None
    empty = operations([], Machine(workers=2, target=10, now_s=0.0), RNG(0))
    assert (empty.ended, empty.unseen, empty.notes, empty.utilisation) == (0, 0, (), None)


def test_every_state_is_counted_and_numbers_nobody_speaks_of_are_told() -> None:
    """Lessons: 774 of 4,199 trials never completed and nothing said so."""
    trials = [ended(i, began_s=i, seconds=1) for i in range(0, 30, 3)]
    found = run([*trials, ended(31, began_s=31, seconds=1, failure="oom")])
    assert found.by_state == {"COMPLETE": 10, "FAIL": 1}
    assert found.unseen == 32 - 11


def test_trials_that_fail_for_one_reason_are_a_note_with_the_numbers() -> None:
    trials = [ended(i, began_s=10 * i, seconds=10, failure="diverged" if i % 4 == 0 else None) for i in range(100)]
    found = run(trials, workers=1)
    assert (found.failures[0].category, found.failures[0].count) == ("diverged", 25)
    assert any("25 of 25 failures are `diverged`" in n and "18% to 34%" in n for n in found.notes)
    few = [ended(i, began_s=10 * i, seconds=10, failure="diverged" if i % 20 == 0 else None) for i in range(100)]
    assert not any("one reason" in n for n in run(few, workers=1).notes)


def test_trials_given_up_on_purpose_are_counted_and_are_no_failures() -> None:
    trials = [ended(i, began_s=10 * i, seconds=10) for i in range(100)]
    for i in range(0, 60, 2):
        trials[i] = replace(trials[i], state="PRUNED", score=None, failure="pruned" if i < 20 else "screened")
    trials[99] = ended(99, began_s=990, seconds=10, failure="diverged")
    found = run(trials, workers=1)
    assert {f.category: f.count for f in found.failures} == {"screened": 20, "pruned": 10, "diverged": 1}
    assert not any("one reason" in n for n in found.notes)  # 1 of 100 failed


def test_stopped_trials_are_neither_successes_nor_failures() -> None:
    trials = [ended(i, began_s=10 * i, seconds=10, failure="stopped" if i % 2 else None) for i in range(40)]
    found = run(trials, workers=1)
    assert found.ended_per_hour == found.complete_per_hour
    assert not any("one reason" in n for n in found.notes)


def test_a_worker_that_adds_nothing_is_told_by_what_two_and_three_end_in_an_hour() -> None:
    """On a card that is full, three at a time take half as long again: two end as many."""

    def waves(start_s: float, workers: int, seconds: float, first: int) -> list[Trial]:
        return [
            ended(first + k, began_s=start_s + seconds * (k // workers), seconds=seconds) for k in range(10 * workers)
        ]

    two, three = waves(0.0, 2, 100.0, 0), waves(10_000.0, 3, 150.0, 100)
    card = {"index": 0, "name": "card", "utilisation": 0.99, "memory_used_bytes": 1, "memory_total_bytes": 2}
    found = run([*two, *three], workers=3, gpus=(card,))
    assert [(v.workers, v.per_hour) for v in found.levels] == [(2, 72.0), (3, 72.0)]
    assert any("Worker 3 adds nothing" in n and "99% busy" in n and "scale 2" in n for n in found.notes)
    faster = run([*two, *waves(10_000.0, 3, 105.0, 100)], workers=3)
    assert not any("adds nothing" in n for n in faster.notes)


def test_a_disk_that_will_not_hold_the_rest_is_told() -> None:
    trials = [ended(i, began_s=10 * i, seconds=10) for i in range(20)]
    found = run(trials, target=100, free_bytes=3_000_000, floor_bytes=1_000_000, bytes_per_trial=100_000.0)
    assert found.room_trials == 20
    assert any("20 more trials" in n and "80 are to come" in n for n in found.notes)


@pytest.mark.parametrize(
    ("count", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (774, 4199, 0.1729, 0.1964)]
)
def test_shares_have_wilsons_interval(count: int, n: int, low: float, high: float) -> None:
    assert wilson(count, n) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))
