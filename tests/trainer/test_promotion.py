"""Judging: what has not earned it is not promoted, the hold-out is opened last and once, and every number is kept."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from daemon.child.clock import SystemClock
from daemon.child.config import Config, parse
from daemon.janitor.references import references
from features.artifact import PolicyArtifact
from features.errors import DataError
from features.files import read_json, read_jsonl, write_atomic
from features.observation import Layout
from trainer import gates
from trainer.champion import Decision, Pointer
from trainer.dataset import Dataset, arena, load_dataset
from trainer.evaluate import pooled, run_policy
from trainer.holdout import holdout_ledger
from trainer.judgement import Judgement
from trainer.ledger import TrialLedger
from trainer.policy import PerAssetPolicy, Sight
from trainer.promote import Judge, fallback
from trainer.splits import Split
from trainer.study import trial_dir


@pytest.fixture(scope="module")
def config() -> Config:
    return parse({
        "market": {"source": "simulated", "tickers": ["BTC", "ETH", "LTC"]},
        "simulation": {"world": "null", "seed": 3, "bars": 3600},
        "data": {"n_folds": 2, "embargo_bars": 24, "holdout_share": 0.3, "judge_start_utc": "2021-04-01T00:00:00Z"},
        "study": {"name": "s"},
        "promotion": {"seeds": 2, "ensemble_members": 2},
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
        "parameters": {"seed": number},
        "artifact": name,
        "fold_artifacts": [name, name],
    }
    write_atomic(folder / "trial.json", json.dumps(record).encode())
    np.savez(folder / "returns.npz", returns=pooled("x", runs).returns)
    ledger = TrialLedger(state_dir / "ledger.jsonl")
    ledger.started(study="s", number=number, data_sha256=dataset.data_sha256, parameters={}, at_utc="t")
    sharpe = float(runs[0].returns.mean() / runs[0].returns.std())
    ledger.ended(study="s", number=number, score=score, sharpe=sharpe, timeframe_s=3600, failure=None)
    return name


class Trains:
    """An untrained network for every replicate, and how many were asked for."""

    def __init__(self, config: Config, dataset: Dataset, state_dir: Path) -> None:
        self.config, self.dataset, self.state_dir, self.asked = config, dataset, state_dir, 0

    def __call__(self, parameters: Mapping[str, Any], fold: Split, *, seed: int, note: str) -> PolicyArtifact:
        self.asked += 1
        return policy(self.dataset, self.config, self.state_dir, seed)


def judge(state_dir: Path, config: Config, dataset: Dataset) -> Judge:
    return Judge(
        config=config, state_dir=state_dir, dataset=dataset, clock=SystemClock(), beat=lambda _: None,
        train=Trains(config, dataset, state_dir),
    )  # fmt: skip


def judged(state_dir: Path, config: Config, dataset: Dataset) -> Judgement:
    """As a worker does it: judge, and let the trader hold what the verdict says."""
    judging = judge(state_dir, config, dataset)
    verdict = judging.judge()
    assert verdict is not None
    judging.publish(verdict)
    return verdict


def promoted(state_dir: Path, artifact: str) -> None:
    decision = Decision(
        action="promoted", champion=artifact, holds=artifact, study="s", trial=3, reason="earlier", gates=()
    )
    Pointer(state_dir).decide(decision, at_utc="then")


@pytest.fixture(scope="module")
def judged_once(
    config: Config, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Judge, Judgement]:
    """Eight untrained networks, judged at the strict limits: nothing is opened."""
    state_dir = tmp_path_factory.mktemp("judged")
    for number in range(8):
        add_trial(state_dir, config, dataset, number, score=float(number))
    judging = judge(state_dir, config, dataset)
    verdict = judging.judge()
    assert verdict is not None
    return state_dir, judging, verdict


@pytest.fixture
def searched(judged_once: tuple[Path, Judge, Judgement], tmp_path: Path) -> Path:
    """A state directory of its own whose candidates are trained and run, and have no verdict yet."""
    state_dir = tmp_path / "state"
    shutil.copytree(judged_once[0], state_dir)
    shutil.rmtree(state_dir / "reports")
    return state_dir


@pytest.fixture
def lenient(config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Limits at which an untrained network passes everything before the hold-out."""
    for name, limit in {"HOLM_P": 1.1, "PBO_LIMIT": 1.0, "SPA_P": 1.1, "SEEDS_SHARE": 0.0, "SLOPE_ABOVE": -9.0}.items():
        monkeypatch.setattr(gates, name, limit)
    return replace(config, promotion=replace(config.promotion, dsr_threshold=1e-300, max_drawdown=0.99))


def test_an_untrained_network_is_not_promoted_and_the_reasons_are_numbers(
    searched: Path, config: Config, dataset: Dataset
) -> None:
    verdict = judged(searched, config, dataset)
    assert verdict.champion is None and verdict.trial == 7  # the best one was judged
    assert {g.gate for g in verdict.gates if not g.passed} >= {"G1", "G4"}
    parity = next(g for g in verdict.gates if g.gate == "G7")
    assert parity.passed and parity.value == 0 and "250 decisions" in parity.what
    pointer = json.loads((searched / "champion.json").read_bytes())
    assert pointer["champion"] is None
    held = PolicyArtifact.load(searched / "artifacts" / pointer["holds"])
    assert held.kind == "constant"
    assert "No champion" in (searched / "reports" / "judgement-0001.txt").read_text()
    assert not (searched / "holdout.jsonl").exists()  # never opened for a candidate that failed before


def test_without_any_finished_trial_the_trader_still_gets_something_to_hold(
    tmp_path: Path, config: Config, dataset: Dataset
) -> None:
    verdict = judged(tmp_path, config, dataset)
    assert verdict.champion is None and "no trial has completed" in verdict.reason
    assert (tmp_path / "artifacts" / verdict.holds / "manifest.json").exists()


def test_a_champion_stays_when_a_later_candidate_fails(searched: Path, config: Config, dataset: Dataset) -> None:
    standing = read_json(trial_dir(searched, "s", 3) / "trial.json")["artifact"]
    promoted(searched, standing)
    verdict = judged(searched, config, dataset)
    assert verdict.trial == 7
    assert verdict.champion == verdict.holds == standing
    assert "stays" in verdict.reason


def test_a_champion_that_cannot_be_read_is_said_and_still_held(
    searched: Path, config: Config, dataset: Dataset
) -> None:
    standing = read_json(trial_dir(searched, "s", 3) / "trial.json")["artifact"]
    promoted(searched, standing)
    weights = next((searched / "artifacts" / standing).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    verdict = judged(searched, config, dataset)
    assert verdict.champion == verdict.holds == standing
    assert "cannot be read" in verdict.reason and "weights were altered" in verdict.reason
    pointer = read_json(searched / "champion.json")
    assert (pointer["holds"], pointer["reason"]) == (standing, verdict.reason)
    assert [e["action"] for e in pointer["history"]] == ["promoted"]


def test_a_champion_of_another_market_is_said_and_no_longer_held(
    searched: Path, config: Config, dataset: Dataset
) -> None:
    other = replace(dataset.spec, tickers=tuple(reversed(dataset.spec.tickers)))
    promoted(searched, replace(policy(dataset, config, searched, 3), spec=other).save(searched / "artifacts").name)
    verdict = judged(searched, config, dataset)
    assert verdict.champion is None and "does not fit" in verdict.reason and "ticker 0" in verdict.reason
    assert PolicyArtifact.load(searched / "artifacts" / verdict.holds).kind == "constant"


def test_the_holdout_is_opened_only_after_every_other_gate_once_per_artifact_and_written_down(
    searched: Path, config: Config, dataset: Dataset, lenient: Config
) -> None:
    verdict = judged(searched, lenient, dataset)
    assert [g.gate for g in verdict.gates if g.gate != "G6" and not g.passed] == []
    last = [g for g in verdict.gates if g.gate == "G6"]
    assert len(last) == 2 and (verdict.champion is not None) == all(g.passed for g in last)
    assert len(verdict.holdout) > 5  # the candidate and the baselines
    opened, seen = read_jsonl(searched / "holdout.jsonl")
    assert (opened["event"], seen["event"]) == ("opened", "seen")
    assert [g["value"] for g in seen["statistics"]["gates"]] == [g.value for g in last]
    again = judged(searched, lenient, dataset)  # a later milestone, the same best trial
    assert (again.champion, again.holdout) == (verdict.champion, verdict.holdout)
    assert [g for g in again.gates if g.gate == "G6"] == last
    assert len(read_jsonl(searched / "holdout.jsonl")) == 2
    with pytest.raises(DataError, match="already judged"):
        holdout_ledger(searched).open(artifact=opened["artifact"], closes_s=(0, 1), who="a test", at_utc="now")


def test_a_candidate_whose_judge_died_over_the_open_holdout_fails_and_is_not_looked_at_again(
    searched: Path, config: Config, dataset: Dataset, lenient: Config, judged_once: tuple[Path, Judge, Judgement]
) -> None:
    first = judged_once[2]
    for standing in first.verdicts:
        holdout_ledger(searched).open(
            artifact=standing.artifact, closes_s=(0, 1), who="a judge that died", at_utc="then"
        )
    verdict = judged(searched, lenient, dataset)
    assert verdict.champion is None and "nothing was written down" in verdict.reason
    assert len(read_jsonl(searched / "holdout.jsonl")) == len(first.verdicts)


def test_a_candidate_is_judged_on_fresh_seeds_that_are_trained_once_and_never_on_the_run_that_chose_it(
    judged_once: tuple[Path, Judge, Judgement], config: Config, dataset: Dataset, searched: Path
) -> None:
    _, judging, verdict = judged_once
    trains = judging._gatherer._train
    assert isinstance(trains, Trains)
    chosen_by = json.loads((trial_dir(searched, "s", 7) / "trial.json").read_bytes())["artifact"]
    assert chosen_by not in {v.artifact for v in verdict.verdicts}
    assert {v.candidate for v in verdict.verdicts} >= {"trial 7", "2 seeds of trial 7, averaged"}
    n_replicates = len({(t, s) for v in verdict.verdicts for t in v.trials for s in (0, 1)})
    assert trains.asked == 2 * n_replicates  # two folds
    again = judge(searched, config, dataset)
    assert again.judge() == verdict and again._gatherer._train.asked == 0  # type: ignore[attr-defined]
    ledger = TrialLedger(searched / "ledger.jsonl")
    assert ledger.count() == 8  # replicates are not tries
    assert sum(r["event"] == "replicated" for r in ledger.records()) == trains.asked
    kept = references(searched, keep_top=0, study="")
    assert {f"artifacts/{read_json(p)['artifact']}" for p in searched.glob("trials/s/*/replicates/*.json")} <= set(kept)


def test_an_ensemble_stands_as_its_own_candidate_with_its_own_numbers(
    judged_once: tuple[Path, Judge, Judgement],
) -> None:
    state_dir, _, verdict = judged_once
    together = next(v for v in verdict.verdicts if v.candidate == "2 seeds of trial 7, averaged")
    artifact = PolicyArtifact.load(state_dir / "artifacts" / together.artifact)
    assert artifact.kind == "ensemble" and len(artifact.members) == 2
    assert {g.gate for g in together.gates} >= {"G1", "G2", "G3", "G4", "G5", "G7"}
    assert next(g for g in together.gates if g.gate == "G7").passed
    alone = next(v for v in verdict.verdicts if v.candidate == "trial 7")
    assert together.validation[0].log_wealth != alone.validation[0].log_wealth


def test_the_report_shows_costs_intervals_and_regimes_beside_every_gate(
    judged_once: tuple[Path, Judge, Judgement],
) -> None:
    state_dir, _, verdict = judged_once
    shown = verdict.verdicts[0].report
    assert [c.fee_bps for c in shown.costs] == [0.0, 10.0, 25.0, 50.0]
    wealth = [c.log_wealth for c in shown.costs]
    assert wealth == sorted(wealth, reverse=True)  # a fee never makes rich
    assert len(shown.against) == len(verdict.verdicts[0].validation) - 1
    assert all(a.excess.low <= a.excess.value <= a.excess.high for a in shown.against)
    assert sum(r.bars for r in shown.regimes) == verdict.verdicts[0].validation[0].n_bars
    record = json.loads((state_dir / "reports" / "judgement-0001.json").read_bytes())
    assert record["verdicts"][0]["report"]["against"][0]["baseline"] == "cash"
    text = (state_dir / "reports" / "judgement-0001.txt").read_text()
    for piece in ("fee, bp a side", "excess log wealth a fold", "regime of the past month", "G4", "G5"):
        assert piece in text


def test_bars_that_span_no_month_are_judged_without_telling_regimes(tmp_path: Path, config: Config) -> None:
    minutes = replace(
        config, market=replace(config.market, timeframe_s=60), data=replace(config.data, judge_start_utc="")
    )
    short = load_dataset(minutes, tmp_path, SystemClock())
    known = judge(tmp_path, minutes, short)._regime
    assert len(known) == sum(len(f.validate) - 1 for f in short.folds) and set(known) == {""}


def test_what_a_person_took_down_stays_down_until_a_person_puts_it_back(
    searched: Path, config: Config, dataset: Dataset, lenient: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "holdout", lambda *a, **k: ())  # whatever is seen there
    champion = judged(searched, lenient, dataset).champion
    assert champion is not None
    down = Decision(
        action="demoted",
        champion=None,
        holds=fallback(lenient, searched, dataset),
        study="s",
        trial=None,
        reason="asked",
        gates=(),
    )
    Pointer(searched).decide(down, at_utc="later")
    again = judged(searched, lenient, dataset)
    assert again.champion is None and "taken down by hand" in again.reason
