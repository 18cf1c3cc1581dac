"""Judging: what has not earned it is not promoted, the hold-out is opened last and once, and every number is kept."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from daemon.child.clock import SystemClock
from daemon.child.config import Config, parse
from features.artifact import PolicyArtifact
from features.errors import DataError
from features.files import read_jsonl, write_atomic
from features.observation import Layout
from trainer import gates
from trainer.dataset import Dataset, arena, load_dataset
from trainer.evaluate import Run, pooled, run_policy
from trainer.gates import Comparison
from trainer.holdout import holdout_ledger
from trainer.ledger import TrialLedger
from trainer.policy import PerAssetPolicy, Sight
from trainer.promote import Judge
from trainer.study import trial_dir


@pytest.fixture(scope="module")
def config() -> Config:
    return parse({
        "market": {"source": "simulated", "tickers": ["BTC", "ETH", "LTC"]},
        "simulation": {"world": "null", "seed": 3, "bars": 3600},
        "data": {"n_folds": 2, "embargo_bars": 24, "holdout_share": 0.3, "judge_start_utc": "2021-04-01T00:00:00Z"},
        "study": {"name": "s"},
    })  # fmt: skip


@pytest.fixture(scope="module")
def dataset(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(config, tmp_path_factory.mktemp("market"), SystemClock())


def policy(dataset: Dataset, config: Config, state_dir: Path, seed: int) -> PolicyArtifact:
    torch.manual_seed(seed)
    actor = PerAssetPolicy(Sight(layout=Layout.of(dataset.spec)), 16)
    with torch.no_grad():
        for p in actor.parameters():
            p.add_(0.5 * torch.randn_like(p))
    where = arena(config, state_dir)
    return PolicyArtifact(
        kind="per_asset", width=16, spec=dataset.spec, scaler=dataset.fit_scaler(dataset.folds[0].train),
        limits=where.limits, costs=where.costs, venue_rules=where.rules, weights=actor.export(), training={"seed": seed},
    )  # fmt: skip


def add_trial(state_dir: Path, config: Config, dataset: Dataset, number: int, score: float) -> str:
    """A finished trial as a worker leaves it behind, with an untrained network."""
    artifact = policy(dataset, config, state_dir, number)
    name = artifact.save(state_dir / "artifacts").name
    where = arena(config, state_dir)
    runs = [run_policy("x", artifact, dataset.bars, dataset.rows, f.validate, where) for f in dataset.folds]
    folder = trial_dir(state_dir, "s", number)
    record = {
        "study": "s",
        "number": number,
        "state": "COMPLETE",
        "score": score,
        "artifact": name,
        "fold_artifacts": [name, name],
    }
    write_atomic(folder / "trial.json", json.dumps(record).encode())
    np.savez(folder / "returns.npz", returns=pooled("x", runs).returns)
    ledger = TrialLedger(state_dir / "ledger.jsonl")
    ledger.started(study="s", number=number, data_sha256=dataset.data_sha256, parameters={}, at_utc="t")
    sharpe = float(runs[0].returns.mean() / runs[0].returns.std())
    ledger.ended(study="s", number=number, score=score, sharpe=sharpe, failure=None)
    return name


def judge(state_dir: Path, config: Config, dataset: Dataset) -> Judge:
    return Judge(config=config, state_dir=state_dir, dataset=dataset, clock=SystemClock(), beat=lambda _: None)


def test_an_untrained_network_is_not_promoted_and_the_reasons_are_numbers(
    tmp_path: Path, config: Config, dataset: Dataset
) -> None:
    for number in range(3):
        add_trial(tmp_path, config, dataset, number, score=float(number))
    verdict = judge(tmp_path, config, dataset).judge()
    assert verdict.champion is None and verdict.trial == 2  # the best one was judged
    assert {g.gate for g in verdict.gates if not g.passed} >= {"G1", "G3"}
    parity = next(g for g in verdict.gates if g.gate == "G7")
    assert parity.passed and parity.value == 0 and "250 decisions" in parity.what
    pointer = json.loads((tmp_path / "champion.json").read_bytes())
    assert pointer["champion"] is None
    held = PolicyArtifact.load(tmp_path / "artifacts" / pointer["holds"])
    assert held.kind == "constant"
    assert "No champion" in (tmp_path / "reports" / "judgement-0001.txt").read_text()
    assert not (tmp_path / "holdout.jsonl").exists()  # never opened for a candidate that failed before


def test_without_any_finished_trial_the_trader_still_gets_something_to_hold(
    tmp_path: Path, config: Config, dataset: Dataset
) -> None:
    verdict = judge(tmp_path, config, dataset).judge()
    assert verdict.champion is None and "no trial has completed" in verdict.reason
    assert (tmp_path / "artifacts" / verdict.holds / "manifest.json").exists()


def test_a_champion_stays_when_a_later_candidate_fails(tmp_path: Path, config: Config, dataset: Dataset) -> None:
    standing = add_trial(tmp_path, config, dataset, 7, score=-5.0)
    pointer = {"champion": standing, "holds": standing, "history": []}
    write_atomic(tmp_path / "champion.json", json.dumps(pointer).encode())
    add_trial(tmp_path, config, dataset, 8, score=5.0)
    verdict = judge(tmp_path, config, dataset).judge()
    assert verdict.trial == 8
    assert verdict.champion == verdict.holds == standing
    assert "stays" in verdict.reason


def test_the_holdout_is_opened_only_after_every_other_gate_once_per_artifact_and_written_down(
    tmp_path: Path, config: Config, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits of the earlier gates are set where an untrained network passes, so that the last one is reached."""
    for number in range(8):
        add_trial(tmp_path, config, dataset, number, score=float(number))
    monkeypatch.setattr(gates, "HOLM_P", 1.1)
    monkeypatch.setattr(gates, "PBO_LIMIT", 1.0)
    lenient = replace(config, promotion=replace(config.promotion, dsr_threshold=0.0, max_drawdown=0.99))
    verdict = judge(tmp_path, lenient, dataset).judge()
    assert [g.gate for g in verdict.gates if g.gate != "G6" and not g.passed] == []
    last = next(g for g in verdict.gates if g.gate == "G6")
    assert (verdict.champion is not None) == last.passed
    assert len(verdict.holdout) > 5  # the candidate and the baselines
    opened, seen = read_jsonl(tmp_path / "holdout.jsonl")
    assert (opened["event"], seen["event"]) == ("opened", "seen")
    assert seen["statistics"]["gate"]["value"] == last.value
    again = judge(tmp_path, lenient, dataset).judge()  # a later milestone, the same best trial
    assert (again.champion, again.holdout) == (verdict.champion, verdict.holdout)
    assert next(g for g in again.gates if g.gate == "G6") == last
    assert len(read_jsonl(tmp_path / "holdout.jsonl")) == 2
    with pytest.raises(DataError, match="already judged"):
        holdout_ledger(tmp_path).open(artifact=opened["artifact"], data_sha256="0", who="a test", at_utc="now")


def test_a_candidate_whose_judge_died_over_the_open_holdout_fails_and_is_not_looked_at_again(
    tmp_path: Path, config: Config, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        best = add_trial(tmp_path, config, dataset, number, score=float(number))
    holdout_ledger(tmp_path).open(artifact=best, data_sha256="0", who="a judge that died", at_utc="then")
    monkeypatch.setattr(gates, "HOLM_P", 1.1)
    monkeypatch.setattr(gates, "PBO_LIMIT", 1.0)
    lenient = replace(config, promotion=replace(config.promotion, dsr_threshold=0.0, max_drawdown=0.99))
    verdict = judge(tmp_path, lenient, dataset).judge()
    assert verdict.champion is None and "nothing was written down" in verdict.reason
    assert len(read_jsonl(tmp_path / "holdout.jsonl")) == 1


def run_of(returns: np.ndarray, name: str = "x") -> Run:
    equity = 10_000 * np.concatenate([[1.0], np.cumprod(1 + returns)])
    return Run(
        name=name, returns=returns, equity=equity, cash_weight=np.zeros(len(returns)), turnover=1.0, fees=0.0, n_fills=1
    )


def comparison(policy_returns: np.ndarray, *others: np.ndarray) -> Comparison:
    named = {f"b{i}": run_of(o, f"b{i}") for i, o in enumerate(others)}
    return Comparison(fee_bps=25.0, policy=run_of(policy_returns), baselines=named)


def test_the_first_gate_passes_only_what_beats_every_baseline_and_names_the_closest() -> None:
    rng = np.random.default_rng(0)
    market = rng.normal(0, 0.005, 4000)
    good = market + rng.normal(0.0004, 0.002, 4000)
    assert gates.beats_every_baseline(comparison(good, market, np.zeros(4000)), np.random.default_rng(1)).passed
    better_baseline = good + 0.0003
    gate = gates.beats_every_baseline(comparison(good, market, better_baseline), np.random.default_rng(1))
    assert not gate.passed and "closest: b1" in gate.what


def test_the_deflated_sharpe_gate_gets_harder_with_every_trial_ever_run() -> None:
    rng = np.random.default_rng(1)
    run = run_of(rng.normal(0.00025, 0.005, 6000))
    values = [
        gates.deflated(run, n_trials=n, trial_sharpes=[0.0, 0.02, -0.01, 0.01], threshold=0.95).value
        for n in (2, 20, 2000)
    ]
    assert values[0] > values[1] > values[2]  # type: ignore[operator]
    flat = gates.deflated(run_of(np.zeros(100)), n_trials=5, trial_sharpes=[0.0, 0.1], threshold=0.95)
    assert not flat.passed and flat.value is None


def test_too_few_trials_for_an_overfitting_estimate_is_not_a_pass() -> None:
    assert not gates.overfitting(np.random.default_rng(0).normal(size=(1000, 3))).passed


@pytest.mark.parametrize(("excess", "passed"), [(0.0002, True), (-0.0001, False), (-0.001, False)])
def test_the_holdout_gate_refuses_a_loss_to_the_fixed_baseline(excess: float, passed: bool) -> None:  # noqa: FBT001
    rng = np.random.default_rng(2)
    market = rng.normal(0, 0.005, 1500)
    seen = comparison(market + excess + rng.normal(0, 0.001, 1500), market)
    gate = gates.holdout(seen, baseline="b0", opening=1, rng=np.random.default_rng(3))
    assert gate.passed is passed


def test_no_gate_passes_a_number_that_is_not_one() -> None:
    nan: Any = float("nan")
    assert not gates.drawdown(nan, 0.5).passed
    assert not gates.parity(0, 0).passed
    assert not gates.parity(10, 1).passed
