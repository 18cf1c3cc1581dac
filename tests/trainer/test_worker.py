"""A worker on a real study: each trial ends in one state with its reason, and nothing half-done has a score."""

import itertools
import json
import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.child.clock import SystemClock
from daemon.child.config import AccountConfig, Config, parse
from daemon.child.logs import get_logger
from daemon.child.progress import Progress
from features.artifact import PolicyArtifact
from features.chain import HashChain
from features.errors import ConfigurationError
from features.files import Lock, write_atomic
from trainer import ppo
from trainer.__main__ import main
from trainer.dataset import load_dataset
from trainer.evaluate import run_policy
from trainer.ledger import TrialLedger
from trainer.parity import parity
from trainer.score import excess_t
from trainer.worker import TrialResult, Worker


def settings(*, n_folds: int = 2, **study: Any) -> Config:
    return parse({
        "market": {"source": "simulated", "tickers": ["BTC", "ETH", "LTC"]},
        "simulation": {"world": "sv", "seed": 3, "bars": 3600},
        "data": {"n_folds": n_folds, "embargo_bars": 24, "holdout_share": 0.3, "judge_start_utc": "2021-04-01T00:00:00Z"},
        "study": {"name": "s", "target_trials": 2, "train_steps": 8000, "accounts": 16, **study},
        "promotion": {"automatic": False},
    })  # fmt: skip


def worker(state_dir: Path, config: Config, *, should_stop: Any = lambda: False) -> Worker:
    clock = SystemClock()
    return Worker(
        config=config, state_dir=state_dir, name="worker-0", dataset=load_dataset(config, state_dir, clock), clock=clock,
        progress=Progress(None), log=get_logger(), should_stop=should_stop,
    )  # fmt: skip


def records(state_dir: Path) -> list[dict[str, Any]]:
    found = [json.loads(p.read_bytes()) for p in (state_dir / "trials" / "s").glob("*/trial.json")]
    return sorted(found, key=lambda r: r["number"])


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state_dir = tmp_path_factory.mktemp("worked")
    with Lock(state_dir / "run" / "worker-0.lock"):
        assert worker(state_dir, settings()).run()
    return state_dir


def test_exactly_the_target_is_run_and_each_trial_is_on_record_everywhere(worked: Path) -> None:
    assert [r["state"] for r in records(worked)] == ["COMPLETE", "COMPLETE"]
    ledger = TrialLedger(worked / "ledger.jsonl")
    assert ledger.count() == 2 and len(ledger.sharpes(timeframe_s=3600)) == 2
    db = sqlite3.connect(f"file:{worked / 'study.db'}?mode=ro", uri=True)
    assert db.execute("SELECT COUNT(*) FROM trials WHERE state = 'COMPLETE'").fetchone() == (2,)
    db.close()


def test_an_account_too_small_for_any_order_is_refused_before_it_scores_zero_in_every_trial(tmp_path: Path) -> None:
    # half of 19.9 in one coin is less than the 10 that the simulated venue takes at least
    with pytest.raises(ConfigurationError, match=r"never trades: it orders 9\.95 at most"):
        worker(tmp_path, replace(settings(), account=AccountConfig(initial_cash=19.9)))


@pytest.mark.parametrize(
    ("name", "record"),
    [("ledger", {"event": "ended", "sharpe": 0.01}), ("holdout", {"event": "opened", "artifact": "a"})],
)
def test_a_worker_refuses_an_earlier_versions_ledger_before_it_begins(
    tmp_path: Path, name: str, record: dict[str, Any]
) -> None:
    HashChain(tmp_path / f"{name}.jsonl").append(record)
    with pytest.raises(ConfigurationError, match=rf"{name}\.jsonl: line 1 .*new state directory"):
        worker(tmp_path, settings())
    assert not (tmp_path / "study.db").exists()


@pytest.mark.parametrize(("device", "begun"), [("cuda", 0), ("cpu", 1)])
def test_a_full_card_holds_the_workers_that_train_on_it_and_no_others(tmp_path: Path, device: str, begun: int) -> None:
    write_atomic(
        tmp_path / "run" / "gpu.json", json.dumps({"cards": [{"index": 0, "workers": 0, "why": "full"}]}).encode()
    )
    looks = itertools.count()
    with Lock(tmp_path / "run" / "worker-0.lock"):
        worker(tmp_path, settings(target_trials=1, device=device), should_stop=lambda: next(looks) > 0).run()
    assert TrialLedger(tmp_path / "ledger.jsonl").count() == begun


def test_a_study_that_ends_where_a_milestone_was_judged_is_judged_once_more_as_a_complete_one(
    worked: Path, tmp_path: Path
) -> None:
    state_dir = tmp_path / "stopped"  # at its second trial, by advice or by a smaller study.target_trials
    shutil.copytree(worked, state_dir)
    promotion = replace(settings().promotion, automatic=True, every_trials=1, seeds=1, cross_validated=0)
    once = worker(state_dir, replace(settings(), promotion=promotion))
    once.study.mark_judged(2, complete=False)
    once.judge_if_due()
    once.judge_if_due()
    assert len(list((state_dir / "reports").glob("judgement-*.json"))) == 1
    assert once.study.judged(complete=True) == 2


def test_more_seeds_make_the_score_surer_and_no_longer_record(worked: Path, tmp_path: Path) -> None:
    """Seeds are not time: each walks the same bars."""
    config = settings(seeds=2, target_trials=1)
    with Lock(tmp_path / "run" / "worker-0.lock"):
        judged = worker(tmp_path, config)
        assert judged.run()
    (record,), alone = records(tmp_path), records(worked)[0]
    assert record["validation"] == alone["validation"] and record["sharpe"] == alone["sharpe"]  # the first seed's
    with (
        np.load(tmp_path / "trials" / "s" / "0" / "returns.npz") as stored,
        np.load(worked / "trials" / "s" / "0" / "returns.npz") as first,
    ):
        assert stored["returns"].shape == first["returns"].shape and not np.array_equal(
            stored["returns"], first["returns"]
        )
        baseline = np.concatenate([b.returns for b in judged._baseline])
        assert record["score"] == excess_t(stored["returns"], baseline) != alone["score"]


def test_the_first_trial_is_the_default_configuration(worked: Path) -> None:
    from trainer.space import Hyperparameters

    assert records(worked)[0]["parameters"] == Hyperparameters().to_dict()


def test_the_saved_policy_is_the_judged_one_and_the_score_can_be_computed_again_from_disk(worked: Path) -> None:
    """Lessons: what was evaluated was not what was deployed."""
    config = settings()
    judged = worker(worked, config)
    for record in records(worked):
        members = [PolicyArtifact.load(worked / "artifacts" / a) for a in record["fold_artifacts"]]
        assert record["artifact"] == record["fold_artifacts"][-1]
        runs = [
            run_policy("again", m, judged.dataset.bars, judged.dataset.rows, f.validate, judged.arena)
            for m, f in zip(members, judged.dataset.folds, strict=True)
        ]
        returns = np.concatenate([r.returns for r in runs])
        with np.load(worked / "trials" / "s" / str(record["number"]) / "returns.npz") as stored:
            assert np.array_equal(stored["returns"], returns)
        baseline = np.concatenate([b.returns for b in judged._baseline])
        assert excess_t(returns, baseline) == record["score"]


def test_a_trial_whose_training_diverges_or_whose_fold_raises_fails_by_name_and_has_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lessons: a failed fold was dropped and the trial scored on the others."""
    real, calls = ppo.train_portfolio, iter(range(100))

    def failing(*positional: Any, **arguments: Any) -> ppo.TrainedPolicy:
        n = next(calls)
        if n == 1:  # the second fold of the first trial
            raise ppo.TrainingDiverged("the gradient is not finite")
        if n == 2:
            raise ZeroDivisionError("a bug")
        return real(*positional, **arguments)

    monkeypatch.setattr(ppo, "train_portfolio", failing)
    with Lock(tmp_path / "run" / "worker-0.lock"):
        assert worker(tmp_path, settings(target_trials=3)).run()
    first, second, third = records(tmp_path)
    assert (first["state"], first["failure"], first.get("score")) == ("FAIL", "diverged", None)
    assert (second["state"], second["failure"], second.get("score")) == ("FAIL", "error", None)
    assert third["state"] == "COMPLETE" and np.isfinite(third["score"])
    assert TrialLedger(tmp_path / "ledger.jsonl").count() == 3  # failed ones count too


def test_a_study_of_stacked_rows_trains_from_its_first_whole_stack_and_its_decisions_are_those_of_the_live_stream(
    tmp_path: Path,
) -> None:
    usual = settings(target_trials=1, train_steps=500)
    with Lock(tmp_path / "run" / "worker-0.lock"):
        working = worker(tmp_path, replace(usual, features=replace(usual.features, stack_bars=3)))
        assert working.run()
    (record,) = records(tmp_path)
    assert (record["state"], record["failure"]) == ("COMPLETE", None)
    saved = PolicyArtifact.load(tmp_path / "artifacts" / record["artifact"])
    assert saved.spec.stack_bars == 3 and parity(saved, working.dataset, working.arena).passed


def test_a_trials_returns_are_whole_on_disk_before_its_record_names_them(worked: Path, tmp_path: Path) -> None:
    state_dir = tmp_path / "copy"
    shutil.copytree(worked, state_dir)
    working, path = worker(state_dir, settings()), state_dir / "trials" / "s" / "1" / "returns.npz"
    before = path.read_bytes()
    os.link(path, state_dir / "linked")
    run = working._baseline[0]
    result = TrialResult(artifact=Path("a"), fold_artifacts=(), run=run, returns=run.returns, objective=0.0)
    working._record(1, result, None, seconds=1.0)
    assert np.array_equal(np.load(path)["returns"], run.returns)
    assert (state_dir / "linked").read_bytes() == before  # replaced as one step, not written over


def test_a_stop_hands_the_trial_back_within_one_update(tmp_path: Path) -> None:
    polls = iter(range(10_000))
    with Lock(tmp_path / "run" / "worker-0.lock"):
        assert not worker(tmp_path, settings(train_steps=10**9), should_stop=lambda: next(polls) > 3).run()
        assert records(tmp_path)[0]["failure"] == "stopped"
        ledger = TrialLedger(tmp_path / "ledger.jsonl").records()
        assert [(r["event"], r.get("failure")) for r in ledger] == [("started", None), ("ended", "stopped")]
        assert worker(tmp_path, settings(train_steps=10**9), should_stop=lambda: next(polls) > 0).run() is False


def test_a_stopped_trial_goes_on_where_it_was_and_ends_in_the_policy_it_would_have_become(
    worked: Path, tmp_path: Path
) -> None:
    """The same trial, stopped in its first and in its second fold, leaves the same artifacts bit for bit."""
    polls = iter(range(10_000))
    with Lock(tmp_path / "run" / "worker-0.lock"):
        for stop_at in (2, 9):  # a fold is four updates; each update and each trial asks once
            assert not worker(tmp_path, settings(target_trials=1), should_stop=lambda n=stop_at: next(polls) >= n).run()
            assert list((tmp_path / "trials" / "s" / "0" / "checkpoints").glob("fold-*.safetensors"))
        assert worker(tmp_path, settings(target_trials=1)).run()
    finished = [r for r in records(tmp_path) if r["state"] == "COMPLETE"]
    assert [r["failure"] for r in records(tmp_path)[:2]] == ["stopped", "stopped"]
    assert finished[0]["fold_artifacts"] == records(worked)[0]["fold_artifacts"]
    assert finished[0]["score"] == records(worked)[0]["score"]
    assert not list((tmp_path / "trials").rglob("*.safetensors"))  # of finished trials nothing is kept


def test_a_checkpoint_that_does_not_fit_is_said_and_the_training_begins_anew(worked: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "trials" / "s" / "0" / "checkpoints" / "fold-0-seed-0.safetensors"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"not a checkpoint")
    with Lock(tmp_path / "run" / "worker-0.lock"):
        assert worker(tmp_path, settings(target_trials=1)).run()
    assert records(tmp_path)[0]["fold_artifacts"] == records(worked)[0]["fold_artifacts"]


def test_the_artifact_tells_the_shaping_apart_from_what_was_earned_and_carries_the_normalisers(worked: Path) -> None:
    training = PolicyArtifact.load(worked / "artifacts" / records(worked)[1]["artifact"]).training
    assert training["hyperparameters"]["reward_drawdown_penalty"] > 0  # a random trial
    assert training["shaping_bps"] != 0 and np.isfinite(training["reward_bps"])
    assert training["scales"]["reward_count"] > training["steps"] - 1 and training["scales"]["value_deviation"] > 0
    assert training["hyperparameters"] == records(worked)[1]["parameters"]


def test_other_data_under_the_same_study_name_is_refused(worked: Path) -> None:
    with pytest.raises(Exception, match="begun on other data or settings") as caught:
        worker(worked, settings(train_steps=9000))
    assert "settings" in str(caught.value)
    with pytest.raises(Exception, match="initial_cash"):  # what a bar's volume allows depends on it
        worker(worked, replace(settings(), account=AccountConfig(initial_cash=1e8)))


def test_a_study_is_not_judged_under_settings_that_are_not_its_own(
    worked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state_dir = tmp_path / "copy"
    shutil.copytree(worked, state_dir)
    dearer = replace(settings(), costs=replace(settings().costs, slippage_bps=200.0))
    write_atomic(state_dir / "other.json", dearer.to_json().encode())
    assert main(["judge", "--config", str(state_dir / "other.json"), "--state-dir", str(state_dir)]) == 78
    assert "slippage_bps" in capsys.readouterr().err
    assert not (state_dir / "trials" / "s" / "evidence").exists()  # a later judgement would have read it as its own


def test_a_trial_that_is_worse_than_the_incumbent_in_six_folds_is_given_up_and_counts_everywhere(
    tmp_path: Path,
) -> None:
    best = {"number": 0, "seeds": 5, "excess_per_bar": [0.01] * 7}
    write_atomic(tmp_path / "trials" / "s" / "incumbent.json", json.dumps(best).encode())
    with Lock(tmp_path / "run" / "worker-0.lock"):
        working = worker(tmp_path, settings(n_folds=7, target_trials=1, train_steps=2000))
        assert working.run()
    (record,) = records(tmp_path)
    assert (record["state"], record["failure"], record["folds_run"]) == ("PRUNED", "pruned", 6)
    assert record["p_no_worse"] == 2**-6 and record.get("score") is None
    ended = TrialLedger(tmp_path / "ledger.jsonl")
    assert ended.count() == 1 and ended.sharpes(timeframe_s=3600) == [record["sharpe"]]
    (told,) = working.study.study.get_trials(deepcopy=False)
    assert told.state.name == "PRUNED" and told.value == record["objective"]  # the sampler learns from it


def test_a_trial_that_is_not_among_the_best_screened_is_given_up_counted_and_never_has_a_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_full: list[int] = []
    short_scores, full = iter([1.0, 3.0, 2.0, 2.5]), Worker.evaluate

    def trained_in_full(self: Worker, number: int, *positional: Any, **named: Any) -> Any:
        in_full.append(number)
        return full(self, number, *positional, **named)

    monkeypatch.setattr(Worker, "short_score", lambda *_, **__: next(short_scores))
    monkeypatch.setattr(Worker, "evaluate", trained_in_full)
    study = {"train_steps": 2000, "screen_share": 0.5, "screen_keep": 0.5, "sampler_startup_trials": 2}
    with Lock(tmp_path / "run" / "worker-0.lock"):
        assert worker(tmp_path, settings(target_trials=4, **study)).run()
    told = records(tmp_path)
    assert in_full == [0, 1, 2, 3]  # two are spared; 2.0 is second of three and 2.5 second of four
    assert [(r["screening"]["rank"], r["screening"]["of"]) for r in told] == [(1, 1), (1, 2), (2, 3), (2, 4)]
    short_scores = iter([1.5])
    with Lock(tmp_path / "run" / "worker-0.lock"):
        working = worker(tmp_path, settings(target_trials=5, **study))
        assert working.run()
    given_up, ledger = records(tmp_path)[4], TrialLedger(tmp_path / "ledger.jsonl")
    assert (given_up["state"], given_up["failure"], given_up.get("score")) == ("PRUNED", "screened", None)
    assert given_up["screening"] == {"score": 1.5, "rank": 4, "of": 5, "passed": False} and in_full[4:] == []
    assert ledger.count() == 5 and len(ledger.sharpes(timeframe_s=3600)) == 4
    optuna_trial = working.study.study.get_trials(deepcopy=False)[4]
    assert (optuna_trial.state.name, optuna_trial.value, optuna_trial.last_step) == ("PRUNED", 1.5, 0)


def test_a_short_training_is_short_leaves_no_artifact_and_a_retry_stands_by_what_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, steps = ppo.train_portfolio, list[int]()

    def counted(*positional: Any, **named: Any) -> ppo.TrainedPolicy:
        steps.append(named["steps"])
        if len(steps) == 3:
            raise KeyboardInterrupt  # the worker dies at the first fold of the whole training
        return real(*positional, **named)

    monkeypatch.setattr(ppo, "train_portfolio", counted)
    config = settings(target_trials=1, train_steps=4000, screen_share=0.25)
    with Lock(tmp_path / "run" / "worker-0.lock"), pytest.raises(KeyboardInterrupt):
        worker(tmp_path, config).run()
    assert steps == [1000, 1000, 4000] and not (tmp_path / "artifacts").exists()
    with Lock(tmp_path / "run" / "worker-0.lock"):
        working = worker(tmp_path, config)
        assert working.run()
    assert steps[3:] == [4000, 4000]
    killed, again = records(tmp_path)
    assert (killed["failure"], again["state"]) == ("killed", "COMPLETE") and again["screening"] == killed["screening"]
    first, second = (t.intermediate_values for t in working.study.study.get_trials(deepcopy=False))
    assert first == second == {0: again["screening"]["score"]}
    assert working.study.screenings(working.study.study.ask(), 0.0) == [again["screening"]["score"]]  # once


def test_a_trial_whose_worker_died_between_its_record_and_the_ledger_is_ended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    config, ledger = settings(target_trials=1, train_steps=2000), TrialLedger(tmp_path / "ledger.jsonl")
    with Lock(tmp_path / "run" / "worker-0.lock"), monkeypatch.context() as dying:
        dying.setattr(TrialLedger, "ended", dies)
        with pytest.raises(KeyboardInterrupt):
            worker(tmp_path, config).run()
    assert [r["event"] for r in ledger.records()] == ["started"]
    with Lock(tmp_path / "run" / "worker-0.lock"):
        after = worker(tmp_path, config)
        assert after.run()
    (record,), (_, end) = records(tmp_path), ledger.records()
    assert (end["event"], end["number"], end["score"]) == ("ended", 0, record["score"])
    (told,) = after.study.study.get_trials(deepcopy=False)
    assert told.state.name == "COMPLETE" and told.value == record["score"]
