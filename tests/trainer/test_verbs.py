"""What a person asks of the search: named by study and number, promoted only with every gate, printed as JSON or prose."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.child.clock import SystemClock
from daemon.child.config import Config, parse
from features.actor import constant_raw
from features.artifact import PolicyArtifact
from features.files import write_atomic
from trainer.__main__ import main
from trainer.champion import Pointer
from trainer.dataset import Dataset, arena, load_dataset
from trainer.evaluate import pooled, run_policy
from trainer.gates import Gate
from trainer.judgement import EVERY_GATE, Judgement, Verdict, write_report
from trainer.ledger import TrialLedger
from trainer.report import Report
from trainer.space import Hyperparameters
from trainer.study import trial_dir


@pytest.fixture(scope="module")
def config() -> Config:
    return parse({
        "market": {"source": "simulated", "tickers": ["BTC", "ETH", "LTC"]},
        "simulation": {"world": "null", "seed": 3, "bars": 3600},
        "data": {"n_folds": 2, "embargo_bars": 24, "holdout_share": 0.3, "judge_start_utc": "2021-04-01T00:00:00Z"},
        "study": {"name": "s", "train_steps": 4000, "accounts": 16},
        "promotion": {"seeds": 1, "ensemble_members": 1},
    })  # fmt: skip


@pytest.fixture(scope="module")
def dataset(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(config, tmp_path_factory.mktemp("market"), SystemClock())


def saved(state_dir: Path, config: Config, dataset: Dataset, share: float) -> PolicyArtifact:
    where = arena(config, state_dir)
    policy = PolicyArtifact(
        kind="constant", width=1, spec=dataset.spec, scaler=dataset.fit_scaler(dataset.folds[-1].train),
        limits=where.limits, costs=where.costs, venue_rules=where.rules,
        weights={"raw": constant_raw(np.array([share, 0.2, 0.2]))}, training={"data_sha256": dataset.data_sha256},
    )  # fmt: skip
    policy.save(state_dir / "artifacts")
    return policy


def verdict(number: int, artifact: str, failing: frozenset[str] = frozenset(), missing: str = "") -> Verdict:
    gates = tuple(
        Gate(gate=g, what="a number", value=0.5, unit="p", threshold="< 0.1", passed=g not in failing)
        for g in sorted(EVERY_GATE) if g != missing
    )  # fmt: skip
    report = Report(
        candidate=f"trial {number}", n_seeds=1, n_folds=2, fixed_baseline="x", fee_bps=10.0, costs=(), against=(),
        regimes=(),
    )  # fmt: skip
    name = f"trial {number}"
    return Verdict(candidate=name, trials=(number,), artifact=artifact, gates=gates, validation=(), report=report)


class House:
    """A state directory with three trials of study `s`, one of `other`, and verdicts on some."""

    def __init__(self, state_dir: Path, config: Config, dataset: Dataset) -> None:
        self.state_dir, self.config, self.dataset = state_dir, config, dataset
        write_atomic(state_dir / "config.json", config.to_json().encode())
        self.policies = [saved(state_dir, config, dataset, share) for share in (0.1, 0.2, 0.3)]
        for number, policy in enumerate(self.policies):
            self.trial("s", number, score=float(number), artifact=policy.artifact_id)
        self.trial("s", 3, state="FAIL", failure="diverged")
        self.trial("other", 1, score=5.0)

    def trial(self, study: str, number: int, *, state: str = "COMPLETE", **facts: Any) -> None:
        if "artifact" in facts:
            facts["fold_artifacts"] = [facts["artifact"]] * 2
        record = {"study": study, "number": number, "state": state, "parameters": Hyperparameters().to_dict(), **facts}
        write_atomic(trial_dir(self.state_dir, study, number) / "trial.json", json.dumps(record).encode())

    def judged(self, *verdicts: Verdict) -> None:
        seen = Judgement(
            study="s", trial=0, artifact=None, champion=None, holds="-", reason="because", verdicts=verdicts
        )
        write_report(self.state_dir, seen, at_utc="then")

    def run(self, verb: str, *options: str) -> int:
        return main(
            [verb, "--config", str(self.state_dir / "config.json"), "--state-dir", str(self.state_dir), *options]
        )


@pytest.fixture
def house(tmp_path: Path, config: Config, dataset: Dataset) -> House:
    return House(tmp_path, config, dataset)


def test_trials_are_listed_best_first_and_failures_only_when_asked_for(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    assert house.run("trials", "--json") == 0
    assert [t["number"] for t in json.loads(capsys.readouterr().out)["trials"]] == [2, 1, 0]
    assert house.run("trials", "--all") == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["s", "#3", "FAIL", "score", "—", "diverged"]


def test_a_number_that_is_in_two_studies_is_refused_until_one_is_named(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    assert house.run("export", "1") == 78
    assert "trial 1 is in 2 studies: other, s" in capsys.readouterr().err
    assert house.run("export", "1", "--study", "s", "--json") == 0
    named = json.loads(capsys.readouterr().out)
    assert named["artifact"] == house.policies[1].artifact_id
    assert PolicyArtifact.load(Path(named["path"])).artifact_id == named["artifact"]
    assert house.run("export", "1", "--study", "other") == 78 and "left no artifact" in capsys.readouterr().err
    assert house.run("show", "9") == 78 and "no study has a trial 9" in capsys.readouterr().err


def test_show_has_the_parameters_and_every_verdict_on_a_trial(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    house.judged(verdict(2, house.policies[2].artifact_id, failing=frozenset({"G1", "G4"})))
    assert house.run("show", "2") == 0
    text = capsys.readouterr().out
    assert "learning_rate" in text and "judgement-0001.json: trial 2, failed gates: G1, G4" in text
    assert house.run("show", "2", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["verdicts"]) == 1


@pytest.mark.parametrize(("failing", "missing", "said"), [("G4", "", "G4 a number: 0.5, required < 0.1"),
                                                          ("", "G6", "G6 was not reached")])  # fmt: skip
def test_what_has_not_passed_every_gate_is_not_promoted_whatever_is_asked(
    house: House, capsys: pytest.CaptureFixture[str], failing: str, missing: str, said: str
) -> None:
    house.judged(verdict(2, house.policies[2].artifact_id, failing=frozenset({failing}), missing=missing))
    assert house.run("promote", "2") == 1
    assert said in capsys.readouterr().err
    assert Pointer(house.state_dir).read() is None
    assert house.run("promote", "0") == 1 and "no verdict on 0 is on record" in capsys.readouterr().err


def test_promoting_rolling_back_and_demoting_move_the_pointer_and_are_in_its_history(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _, second = (p.artifact_id for p in house.policies)
    house.judged(verdict(0, first), verdict(2, second))
    assert house.run("rollback") == 78 and "no earlier champion" in capsys.readouterr().err
    for step, champion in (
        (("promote", "0"), first),
        (("promote", second[:12]), second),
        (("rollback",), first),
        (("demote",), None),
    ):
        assert house.run(*step, "--json") == 0
        said, pointer = json.loads(capsys.readouterr().out), Pointer(house.state_dir).read()
        assert pointer is not None and said["champion"] == pointer["champion"] == champion
        assert PolicyArtifact.load(house.state_dir / "artifacts" / pointer["holds"]).spec == house.dataset.spec
    assert pointer is not None
    assert [e["action"] for e in pointer["history"]] == ["promoted", "promoted", "rolled back", "demoted"]
    assert Pointer(house.state_dir).taken_down() == {first, second}
    assert house.run("demote") == 78 and "no champion to take down" in capsys.readouterr().err


def test_a_backtest_is_the_trials_own_policies_on_their_validation_at_the_fee_asked_for(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    wealth = {}
    for fee in (0.0, 50.0):
        assert house.run("backtest", "2", "--fee-bps", str(fee), "--json") == 0
        shown = json.loads(capsys.readouterr().out)
        wealth[fee] = shown["scores"][0]["log_wealth"]
        where = arena(house.config, house.state_dir).at_fee(fee)
        data = house.dataset
        own = [run_policy("x", house.policies[2], data.bars, data.rows, f.validate, where) for f in data.folds]
        assert wealth[fee] == pytest.approx(float(np.log1p(pooled("x", own).returns).sum()), rel=1e-12)
    assert wealth[0.0] > wealth[50.0] and len(shown["scores"]) > 5  # the baselines stand beside it


def test_validate_judges_on_fresh_seeds_prints_every_gate_and_promotes_nothing(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    n_bars = sum(len(f.validate) - 1 for f in house.dataset.folds)
    rng, ledger = np.random.default_rng(1), TrialLedger(house.state_dir / "ledger.jsonl")
    for number in range(3):
        np.savez(trial_dir(house.state_dir, "s", number) / "returns.npz", returns=rng.normal(0, 0.01, n_bars))
        ledger.started(study="s", number=number, data_sha256="d", parameters={}, at_utc="t")
        ledger.ended(
            study="s", number=number, score=float(number), sharpe=0.01 * number, timeframe_s=3600, failure=None
        )
    assert house.run("judge", "--json") == 0
    judgement = json.loads(capsys.readouterr().out)
    assert {g["gate"] for g in judgement["gates"]} >= {"G1", "G2", "G3", "G4", "G5", "G7"}
    assert judgement["champion"] is None and judgement["trial"] == 2
    trained = PolicyArtifact.load(house.state_dir / "artifacts" / judgement["artifact"])
    assert trained.training["steps"] >= house.config.study.train_steps
    assert not (house.state_dir / "champion.json").exists()
    assert ledger.count() == 3
