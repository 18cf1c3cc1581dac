"""A small real study in which proposals run beside controls: queued, trained by a worker, settled by the advisor."""

import json
from pathlib import Path

import pytest
from test_pairs import HIGH
from test_worker import records, settings, worker

from daemon.advisor.desk import Desk
from daemon.advisor.proposals import Proposal
from daemon.advisor.records import Bounds
from daemon.child.advice import read_pairs
from daemon.child.clock import ManualClock
from daemon.child.logs import get_logger
from features.files import Lock, read_json
from trainer.routes import Route

FIXED = {**Route.of("per_asset", 1, ()).first(), "gamma": 0.991}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A small real study: two trials, then an adviser's configuration and a range beside controls."""
    state_dir = tmp_path_factory.mktemp("lived")
    config = settings(target_trials=6, train_steps=2048, seeds=1)
    at = Desk(state_dir=state_dir, study="s", clock=ManualClock(), log=get_logger(), target=40, share=0.5)
    with Lock(state_dir / "run" / "worker-0.lock"):
        running = worker(state_dir, config)
        running.study._pairing._share = 0.5
        calls = iter(range(100))
        running.should_finish = lambda: next(calls) >= 2
        running.run()
        kept = {p.name: p.read_bytes() for p in (state_dir / "trials" / "s").glob("*.json")}
        space = read_json(state_dir / "trials" / "s" / "space.json")
        bounds = {n: Bounds(low=p.get("low"), high=p.get("high"), log=p.get("log", False), integer=p.get("integer", False),
                            choices=tuple(p.get("choices", ()))) for n, p in space.items()}  # fmt: skip
        refused = at.propose([
            Proposal(kind="enqueue", proposer="somebody", hypothesis="patience", parameters=FIXED),
            Proposal(kind="narrow", proposer="advisor", hypothesis="faster", ranges=HIGH),
        ], bounds, ())  # fmt: skip
        assert refused == [None, None]
        running.should_finish = lambda: False
        assert running.run()
    at.settle(records(state_dir))
    return state_dir, kept


def test_in_a_real_study_a_proposal_is_enqueued_run_and_settled(lived: tuple[Path, dict[str, bytes]]) -> None:
    state_dir, kept = lived
    pairs, by_half = read_pairs(state_dir, "s"), {(r["pair"], r["half"]): r for r in records(state_dir) if "pair" in r}
    assert len(pairs) == 2 and len(by_half) == 4 and all(r["state"] == "COMPLETE" for r in by_half.values())
    at = Desk(state_dir=state_dir, study="s", clock=ManualClock(), log=get_logger(), target=40, share=0.5)
    for name in ("enqueue-1", "narrow-2"):
        found = at.find(name)
        (settled,) = found.tally.path
        ours, theirs = (next(r for r in by_half.values() if r["number"] == n) for n in settled.trials)
        assert settled.difference == pytest.approx(ours["score"] - theirs["score"])
        assert settled.outcome == ("win" if settled.difference > 0 else "loss") and settled.e == pytest.approx(1.0)
        print(
            f"{name}: trial {settled.trials[0]} against {settled.trials[1]}, {settled.outcome} by {settled.difference:+.3f}"
        )
    run_parameters = next(r for r in by_half.values() if r["number"] == at.find("enqueue-1").tally.path[0].trials[0])
    assert {n: run_parameters["parameters"][n] for n in FIXED} == FIXED
    assert kept == {
        p.name: p.read_bytes() for p in (state_dir / "trials" / "s").glob("*.json")
    }  # the space is what it was


def test_both_halves_of_a_pair_start_from_the_same_seeds(lived: tuple[Path, dict[str, bytes]]) -> None:
    """The artifacts say with which seed they were trained."""
    state_dir, _ = lived
    for pair in read_pairs(state_dir, "s"):
        seeds = [
            [
                json.loads((state_dir / "artifacts" / a / "manifest.json").read_bytes())["training"]["seed"]
                for a in r["fold_artifacts"]
            ]
            for r in records(state_dir)
            if r.get("pair") == pair.number
        ]
        assert len(seeds) == 2 and seeds[0] == seeds[1]
