"""Pairs of trials: what is queued beside what, how much of a study that may be, and what a killed worker leaves."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from test_study import IDENTITY

from daemon.child.advice import Source, Span, Standing, read_pairs
from daemon.child.search import search_space
from features.files import Lock
from trainer.routes import Route, the_same_again
from trainer.space import defaults
from trainer.study import SharedStudy, seed_number

HIGH = {
    "learning_rate": Span(low=4e-3, high=5e-3),
    "head": Span(choices=("dirichlet",)),
    "epochs": Span(low=9, high=10),
}
# four parameters are searched, so that a trial costs a database little
LOCKED = the_same_again(
    defaults("per_asset").to_dict(),
    [p for p in search_space("per_asset") if p.name not in (*HIGH, "gamma")],
)
ROUTE = Route.of("per_asset", 1, LOCKED)


def opened(state_dir: Path, worker_name: str = "worker-0", *, target: int = 100, share: float = 0.5) -> SharedStudy:
    return SharedStudy(
        state_dir=state_dir, name="s", worker=worker_name, target_trials=target, startup_trials=4, seed=1,
        identity=IDENTITY, route=ROUTE, advice_share=share,
    )  # fmt: skip


def run(study: SharedStudy, n: int) -> list[int]:
    """Run n trials whose score is their learning rate; their numbers."""
    numbers = []
    for _ in range(n):
        trial = study.next_trial()
        assert trial is not None
        study.finish(trial, score=ROUTE.suggest(trial).learning_rate, failure=None, seconds=1.0)
        numbers.append(trial.number)
    return numbers


def halves(study: SharedStudy) -> dict[tuple[int, int], list[Any]]:
    found: dict[tuple[int, int], list[Any]] = {}
    for t in study.study.get_trials(deepcopy=False):
        if "pair" in t.user_attrs:
            found.setdefault((t.user_attrs["pair"], t.user_attrs["half"]), []).append(t)
    return found


def test_a_proposal_runs_beside_what_the_sampler_would_have_drawn_on_the_same_seeds_and_nobody_is_told_which(
    tmp_path: Path,
) -> None:
    study = opened(tmp_path)
    with Lock(tmp_path / "run" / "worker-0.lock"):
        run(study, 6)
        Standing(sources=(Source(proposal="narrow-1", pairs=12, ranges=HIGH),)).write(tmp_path, "s")
        run(study, 24)
    pairs, found = read_pairs(tmp_path, "s"), halves(study)
    assert len(pairs) == 12 and all(len(v) == 1 for v in found.values()) and len(found) == 24
    order = [p.halves[0].arm for p in pairs]
    assert 2 <= order.count("proposal") <= 10  # a coin's
    for pair in pairs:
        both = [found[pair.number, position][0] for position in (0, 1)]
        assert seed_number(both[0]) == seed_number(both[1])
        assert set(both[0].user_attrs) - {"seconds", "worker"} == {"pair", "half", "seed_number"}
        for half, trial in zip(pair.halves, both, strict=True):
            assert trial.params == half.parameters  # executed as written down
            if half.arm == "proposal":
                assert all(span.holds(trial.params[name]) for name, span in HIGH.items())
    controls = [h.parameters for p in pairs for h in p.halves if h.arm == "control"]
    assert any(c["head"] != "dirichlet" for c in controls) and len({c["gamma"] for c in controls}) == 12


def test_the_share_of_trials_for_advice_is_never_exceeded_and_its_pairs_end(tmp_path: Path) -> None:
    study = opened(tmp_path, share=0.2)
    with Lock(tmp_path / "run" / "worker-0.lock"):
        Standing(sources=(Source(proposal="narrow-1", pairs=100, ranges=HIGH),)).write(tmp_path, "s")
        for n in range(1, 31):
            run(study, 1)
            begun = [t for t in study.study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]
            places = [(t.user_attrs["pair"], t.user_attrs["half"]) for t in begun if "pair" in t.user_attrs]
            pairs = read_pairs(tmp_path, "s")
            advised = [place for place in places if pairs[place[0]].halves[place[1]].arm == "proposal"]
            assert len(advised) <= 1 + 0.2 * n
    assert len(read_pairs(tmp_path, "s")) == 6


def test_adopted_ranges_hold_for_every_later_draw_and_without_advice_nothing_is_different(tmp_path: Path) -> None:
    plain, advised = opened(tmp_path / "a"), opened(tmp_path / "b")
    with Lock(tmp_path / "a" / "run" / "worker-0.lock"), Lock(tmp_path / "b" / "run" / "worker-0.lock"):
        run(plain, 8), run(advised, 8)
        Standing(ranges=HIGH).write(tmp_path / "b", "s")
        run(plain, 8), run(advised, 8)
    before, after = ([t.params for t in s.study.get_trials(deepcopy=False)] for s in (plain, advised))
    assert before[:8] == after[:8]
    assert all(span.holds(p[name]) for p in after[8:] for name, span in HIGH.items())
    assert not all(span.holds(p[name]) for p in before[8:] for name, span in HIGH.items())


def test_a_stop_that_was_adopted_lets_the_workers_rest(tmp_path: Path) -> None:
    study = opened(tmp_path, target=10)
    with Lock(tmp_path / "run" / "worker-0.lock"):
        run(study, 3)
        Standing(target=3).write(tmp_path, "s")
        assert study.next_trial() is None and study.progress()["target"] == 3
        Standing().write(tmp_path, "s")
        run(study, 7)


def test_what_does_not_fit_the_study_is_never_run(tmp_path: Path) -> None:
    study = opened(tmp_path)
    bad = (
        Source(proposal="a", pairs=9, parameters={**ROUTE.first(), "gamma": 2.0}), Source(proposal="b", pairs=9, parameters={}),
        Source(proposal="c", pairs=9, ranges={"clip": Span(low=0.0, high=1.0)}),
    )  # fmt: skip
    Standing(sources=bad).write(tmp_path, "s")
    with Lock(tmp_path / "run" / "worker-0.lock"):
        run(study, 6)
    assert read_pairs(tmp_path, "s") == []


DEATHS = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_pairs import opened, run, ROUTE
from features.files import Lock
state = Path({state!r})
def dies_at(point):
    def at(reached):
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)
    return at
for point in ("pair written", "half 0 queued", "half 1 queued", "asked"):
    if os.fork() == 0:
        lock = Lock(state / "run" / "worker-0.lock"); lock.__enter__()
        study = opened(state)
        study._pairing._crash_point = dies_at(point)
        for _ in range(3):
            trial = study.next_trial()
            if point == "asked" and "pair" in trial.user_attrs:
                os.kill(os.getpid(), signal.SIGKILL)
            study.finish(trial, score=ROUTE.suggest(trial).learning_rate, failure=None, seconds=1.0)
        os._exit(3)
    _, status = os.wait()
    assert os.WTERMSIG(status) == signal.SIGKILL, (point, status)
"""


def test_a_worker_that_is_killed_anywhere_neither_loses_half_a_pair_nor_doubles_one(tmp_path: Path) -> None:
    """SIGKILL after every step that reaches the disk, and while a half is running."""
    with Lock(tmp_path / "run" / "worker-0.lock"):
        run(opened(tmp_path), 4)
    Standing(sources=(Source(proposal="narrow-1", pairs=5, ranges=HIGH),)).write(tmp_path, "s")
    code = DEATHS.format(here=str(Path(__file__).parent), state=str(tmp_path))
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)
    study = opened(tmp_path, "worker-1")
    with Lock(tmp_path / "run" / "worker-1.lock"):
        run(study, 14)
    pairs, found = read_pairs(tmp_path, "s"), halves(study)
    assert len(pairs) == 5
    for pair in pairs:
        for position, half in enumerate(pair.halves):
            tries = found[pair.number, position]
            assert [t.state for t in tries][-1] == TrialState.COMPLETE
            assert [t.state for t in tries].count(TrialState.COMPLETE) == 1
            assert all(t.params in ({}, half.parameters) for t in tries)  # one that died before it drew has none
            assert {seed_number(t) for t in tries} == {pair.seed_number}
    print(f"killed 4 times; {len(pairs)} pairs, tries per half: {sorted(len(v) for v in found.values())}")
