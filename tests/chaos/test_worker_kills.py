"""Two workers on one study, SIGKILLed at every durable step of a trial and of a judgement: nothing is lost or doubled.

What a full disk does to a worker is in test_disk_full.py.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import mortals
import numpy as np
import optuna
import pytest
import torch
from test_worker import records, worker

from daemon.child.config import Config, parse
from features.artifact import PolicyArtifact
from features.files import read_json, write_atomic
from trainer.evidence import unpacked
from trainer.ledger import TrialLedger
from trainer.space import Hyperparameters
from trainer.study import MAX_RETRIES, first_number, seed_number, storage_url

WORLD = {
    "market": {"source": "simulated", "tickers": ["BTC", "ETH", "LTC"]},
    "simulation": {"world": "sv", "seed": 3, "bars": 2500},
    "data": {"n_folds": 2, "embargo_bars": 24, "holdout_share": 0.3, "judge_start_utc": "2021-03-10T00:00:00Z"},
}
STUDY = {"name": "s", "train_steps": 2000, "accounts": 8, "sampler_startup_trials": 4, "screen_share": 0.5}
SMALL = ["width=16", "epochs=2", "rollout_bars=64"]


def settings(*, target: int, judged_every: int, seeds: int) -> Config:
    return parse({
        **WORLD, "study": {**STUDY, "ranges": SMALL, "target_trials": target},
        "promotion": {
            "seeds": seeds, "ensemble_members": 1, "every_trials": judged_every,
            "cross_validated": 1, "cross_seeds": 1, "finalists": 1,
        },
    })  # fmt: skip


def machine(state_dir: Path, config: Config, *fates: str) -> subprocess.Popen[bytes]:
    write_atomic(state_dir / "config.json", config.to_json().encode())
    return subprocess.Popen([sys.executable, "-P", mortals.__file__, str(state_dir), *fates], start_new_session=True)


def survived(state_dir: Path, config: Config, *, kills: int, seed: int, machine_deaths: int) -> None:
    """Run the study to its end through deaths of workers, and `machine_deaths` of all processes at once."""
    rng = np.random.default_rng(seed)
    for life in range(machine_deaths + 1):
        with machine(state_dir, config, "random", str(kills), str(seed + 1000 * life)) as running:
            try:
                if life == machine_deaths:
                    assert running.wait(timeout=900) == 0
                else:
                    time.sleep(float(rng.uniform(5.0, 15.0)))  # three of them to import everything
            finally:
                if running.poll() is None:
                    os.killpg(running.pid, signal.SIGKILL)
                    mortals.died(state_dir, "both workers", "the machine")


def assert_whole(state_dir: Path, config: Config) -> None:
    """No trial lost, doubled or stuck; every record says the same."""
    trials = optuna.load_study(study_name="s", storage=storage_url(state_dir)).get_trials(deepcopy=False)
    assert Counter(t.state.is_finished() for t in trials) == {True: len(trials)}
    assert sum(not t.user_attrs.get("requeued", False) for t in trials) == config.study.target_trials
    told = records(state_dir)
    assert [r["number"] for r in told] == list(range(len(trials)))
    for trial, record in zip(trials, told, strict=True):
        assert (record["state"], record.get("failure")) == (trial.state.name, trial.user_attrs.get("failure"))
        assert record.get("score") == (trial.value if record["state"] == "COMPLETE" else None)
    assert_tried_once_more_at_most(trials)
    assert_every_start_has_one_end(TrialLedger(state_dir / "ledger.jsonl"), told)
    for artifact in (state_dir / "artifacts").glob("[!.]*"):
        PolicyArtifact.load(artifact)  # its hash is its name
    named = {a for r in told for a in r.get("fold_artifacts", ())}
    assert named <= {p.name for p in (state_dir / "artifacts").iterdir()}
    assert not list((state_dir / "trials").rglob("checkpoints/*"))
    assert all(
        r["screening"]["passed"] == (r["state"] != "PRUNED") for r in told if r["state"] in ("COMPLETE", "PRUNED")
    )
    crossed = list((state_dir / "trials").rglob("crossed/*.npz"))
    completed = any(r["state"] == "COMPLETE" for r in told)
    assert len(crossed) == (15 if completed else 0) and all(
        len(unpacked(p, 1.0)) == 2 for p in crossed
    )  # the best one's
    assert read_json(state_dir / "trials" / "s" / "judged.json")["finished"] == config.study.target_trials
    assert read_json(state_dir / "champion.json")["holds"] in {p.name for p in (state_dir / "artifacts").iterdir()}


def assert_tried_once_more_at_most(trials: list[optuna.trial.FrozenTrial]) -> None:
    attempts = defaultdict(list)
    for trial in trials:
        attempts[first_number(trial)].append(trial)
    for tried in attempts.values():
        assert len(tried) <= 1 + MAX_RETRIES
        assert [t.user_attrs.get("requeued", False) for t in tried] == [True] * (len(tried) - 1) + [False]
        for before, after in pairwise(tried):
            drawn = before.params.keys() & after.params.keys()  # it may have died before it had drawn all of them
            assert {k: before.params[k] for k in drawn} == {k: after.params[k] for k in drawn}


def assert_every_start_has_one_end(ledger: TrialLedger, told: list[dict[str, Any]]) -> None:
    events = defaultdict(list)
    for record in ledger.records():  # hashes and order are checked
        if record["event"] != "replicated":
            events[record["number"]].append(record)
    for record in told:
        found = events.pop(record["number"], [])
        # killed after it was asked for and before it was begun, a trial was never tried
        assert [e["event"] for e in found] in (["started", "ended"], [] if record.get("failure") == "killed" else None)
        assert not found or (found[1]["failure"], found[1]["score"]) == (record["failure"], record.get("score"))
    assert not events
    replicated = [r for r in ledger.records() if r["event"] == "replicated"]  # twice, where its worker died over it
    assert len({(r["number"], r["fresh_seed"], r["fold"]) for r in replicated}) == len(
        {r["artifact"] for r in replicated}
    )


def assert_scored_as_if_undisturbed(state_dir: Path, config: Config, elsewhere: Path, *, most: int) -> int:
    """Every completed trial, trained again in one go, gives the same artifacts and the same score. How many there were."""
    torch.set_num_threads(config.daemon.torch_threads)  # sums differ in their last bit with the number of threads
    calm = worker(elsewhere, config)
    trials = optuna.load_study(study_name="s", storage=storage_url(state_dir)).get_trials(deepcopy=False)
    completed = [r for r in records(state_dir) if r["state"] == "COMPLETE"]
    retried_first = sorted(completed, key=lambda r: -trials[r["number"]].user_attrs.get("retries", 0))[:most]
    for record in retried_first:
        again = calm.evaluate(
            record["number"], Hyperparameters.from_dict(record["parameters"]),
            seed_number=seed_number(trials[record["number"]]), kept_at=elsewhere / "kept" / str(record["number"]),
        )  # fmt: skip
        assert (list(again.fold_artifacts), again.objective) == (record["fold_artifacts"], record["score"])
    return len(retried_first)


# in the order of a trial's life; "A > B": the first B after an A
STAGES = (
    "commit insert study_directions",
    "commit insert trial_user_attributes worker",  # asked for and nobody's
    "commit insert trial_params > commit insert trial_params > commit insert trial_params",
    "insert trial_params > open ledger.jsonl",
    "insert trial_params > open .ledger.head",  # begun in the ledger, whose head does not say so
    "insert trial_params > replace trials/s/N/trial.json",
    "commit insert trial_intermediate_values",  # screened, and nobody remembers what followed
    "replace .*/checkpoints/screening.json",
    "replace .*/checkpoints/ > replace .*/checkpoints/",
    "replace artifacts/ID$",  # written and not there
    "replace .*/returns.npz",
    "replace .*/returns.npz > open ledger.jsonl",  # on record, without an end in the ledger
    "replace .*/returns.npz > replace ledger.head > commit",  # everywhere but in the study
    "replace .*/returns.npz > clear .*/checkpoints",
    "clear .*/checkpoints > commit insert trial_values",
    "replace .*/crossed/ > replace .*/crossed/",
    "replace .*/replicates/",
    "open .*/evidence/.ID",
    "open run/judge.lock > replace champion.json",
    "open run/judge.lock > replace .*/judged.json",
)


def assert_stages_survived(state_dir: Path, stages: Sequence[str], *, target: int) -> None:
    config = settings(target=target, judged_every=target, seeds=1)
    with machine(state_dir, config, "named", *stages) as running:
        assert running.wait(timeout=280) == 0
    assert len(mortals.deaths(state_dir)) == len(stages)
    assert_whole(state_dir, config)


def test_a_death_at_some_stages_of_a_trial_and_of_its_judgement_loses_and_doubles_nothing(tmp_path: Path) -> None:
    assert_stages_survived(tmp_path, STAGES[1::2], target=4)


@pytest.mark.chaos
def test_a_death_at_each_stage_of_a_trial_and_of_its_judgement_loses_and_doubles_nothing(tmp_path: Path) -> None:
    assert_stages_survived(tmp_path, STAGES, target=12)


@pytest.mark.chaos
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(4))
def test_deaths_at_any_step_and_any_instant_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    """At least 50 deaths in each of four studies: 200."""
    config = settings(target=28, judged_every=10, seeds=1)  # the kills use up some twenty
    survived(tmp_path / "state", config, kills=48, seed=seed, machine_deaths=2)
    assert_whole(tmp_path / "state", config)
    compared = assert_scored_as_if_undisturbed(tmp_path / "state", config, tmp_path / "calm", most=4)
    stages, told = Counter(mortals.deaths(tmp_path / "state")), records(tmp_path / "state")
    states = Counter(f"{r['state']} {r.get('failure')}" for r in told)
    print(f"{stages.total()} deaths, {compared} trials compared with undisturbed ones; {dict(states)}")
    print("\n".join(f"  {n:>3} {stage}" for stage, n in stages.most_common()))
    assert stages.total() >= 50 and compared > 0
