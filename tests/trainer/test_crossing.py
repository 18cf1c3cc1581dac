"""Cross-validation of the best trials: nothing of a test is learned from, no episode crosses a gap, no piece is made twice."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from test_promotion import Trains, add_trial, policy
from test_splits import _perturbed
from test_worker import settings as worker_settings
from test_worker import worker

from daemon.child.clock import SystemClock
from daemon.child.config import Config, parse
from daemon.child.logs import get_logger
from daemon.child.market import costs, limits
from daemon.child.progress import Progress
from features.artifact import PolicyArtifact
from features.errors import ConfigurationError
from features.files import read_json
from features.observation import Layout
from trainer.crossing import cross_seed
from trainer.dataset import Dataset, arena, load_dataset
from trainer.evaluate import run_policy
from trainer.evidence import unpacked
from trainer.promote import Judge, completed_trials
from trainer.space import Hyperparameters
from trainer.splits import CombinatorialSplit, Fold, Split
from trainer.study import trial_dir
from trainer.training import Stopped, Trainer
from trainer.vector_env import MarketTensors, Problem, windows


def settings(**promotion: Any) -> Config:
    return parse({
        "market": {"source": "simulated", "tickers": ["BTC", "ETH", "LTC"]},
        "simulation": {"world": "sv", "seed": 3, "bars": 3200},
        "data": {"n_folds": 2, "embargo_bars": 24, "holdout_share": 0.3, "judge_start_utc": "2021-04-01T00:00:00Z"},
        "study": {"name": "s", "train_steps": 2000, "accounts": 8},
        "promotion": {"seeds": 1, "ensemble_members": 1, "cross_validated": 2, "cross_seeds": 1, "finalists": 2, **promotion},
    })  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(settings(), tmp_path_factory.mktemp("market"), SystemClock())


def trainer(dataset: Dataset, state_dir: Path) -> Trainer:
    return Trainer(
        config=settings(), state_dir=state_dir, dataset=dataset, clock=SystemClock(), progress=Progress(None),
        log=get_logger(), should_stop=lambda: False,
    )  # fmt: skip


def unread(dataset: Dataset, split: CombinatorialSplit) -> tuple[range, ...]:
    """All bars that are neither trained on nor warm a training range: the test groups and most of their margins."""
    warm = dataset.spec.warmup_bars
    starts, stops = [0, *(t.stop for t in split.train)], [*(t.start - warm for t in split.train), dataset.bars.n_bars]
    return tuple(range(a, b) for a, b in zip(starts, stops, strict=True) if a < b)


def elsewhere(dataset: Dataset, split: CombinatorialSplit) -> Dataset:
    bars = _perturbed(dataset._everything, unread(dataset, split))
    return Dataset(everything=bars, spec=dataset.spec, config=settings(), source_name="perturbed")


def test_no_test_bar_reaches_what_any_combinatorial_split_trains_on(dataset: Dataset) -> None:
    """Bit for bit: the scaler, every market block and every bar of training, for all fifteen splits."""
    for split in dataset.cross_validation:
        assert {b for t in split.tests for b in t} <= {b for r in unread(dataset, split) for b in r}
        changed = elsewhere(dataset, split)
        (scaler, parts), (other_scaler, other_parts) = dataset.joined(split.train), changed.joined(split.train)
        assert scaler == other_scaler and len(parts) == len(split.train)
        for (blocks, bars), (other_blocks, other_bars), r in zip(parts, other_parts, split.train, strict=True):
            assert blocks.tobytes() == other_blocks.tobytes() and len(blocks) == len(r)
            assert bars.sha256() == other_bars.sha256() and bars.n_bars == len(r)


@pytest.mark.parametrize("number", [1, 7])
def test_what_a_test_group_holds_changes_no_trained_weight(dataset: Dataset, tmp_path: Path, number: int) -> None:
    split = dataset.cross_validation[number]
    small = replace(Hyperparameters(), width=16, epochs=2, rollout_bars=64)
    trained = [
        trainer(d, tmp_path / str(i)).train(small, split, seed=5, note="", checkpoint=tmp_path / f"{i}.safetensors")
        for i, d in enumerate((dataset, elsewhere(dataset, split)))
    ]
    assert trained[0].weights.keys() == trained[1].weights.keys()
    assert all(w.tobytes() == trained[1].weights[name].tobytes() for name, w in trained[0].weights.items())
    assert trained[0].training["data_sha256"] != trained[1].training["data_sha256"]


lengths = st.lists(st.integers(1, 4000), min_size=1, max_size=6).filter(lambda x: max(x) > 200)


@given(lengths, st.integers(1, 200))
def test_a_window_never_crosses_a_gap_and_each_range_is_drawn_as_often_as_it_is_long(
    found: list[int], shortest: int
) -> None:
    stops = np.cumsum(found)
    ranges = [range(int(b) - n, int(b)) for n, b in zip(found, stops, strict=True)]
    starts, ends = windows(ranges, longest=1440, shortest=shortest)
    inside = np.array([sum(r.start <= a <= b < r.stop for r in ranges) for a, b in zip(starts, ends, strict=True)])
    assert (inside == 1).all() and (ends - starts <= 1440).all() and (ends - starts >= shortest).all()
    long_enough = [r for r in ranges if len(r) > shortest]
    drawn = np.array([np.isin(starts, r).sum() for r in long_enough])
    share = np.array([len(r) for r in long_enough]) / sum(map(len, long_enough))
    assert np.abs(drawn - share * len(starts)).max() <= len(long_enough)


def test_one_range_is_drawn_as_it_always_was() -> None:
    starts, ends = windows([range(3000)], longest=1440, shortest=168)
    assert starts.tolist() == list(range(3000 - 1440)) and (ends - starts == 1440).all()


@examples(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_no_episode_crosses_a_gap(dataset: Dataset, seed: int) -> None:
    _, market, ranges = trainer(dataset, Path("unused"))._market(dataset.cross_validation[seed % 15])
    env = problem_of(dataset, market, ranges).batched(groups=16, accounts_per_group=2, seed=seed)
    part = torch.cat([torch.full((len(r),), i) for i, r in enumerate(ranges)])
    raw = torch.zeros(16, 2, 5)
    for _ in range(60):
        assert (part[env.bar] == part[env.until]).all() and (env.end <= env.until[:, None]).all()
        assert (part[env.opened] == part[env.bar][:, None]).all()
        env.step(raw)


def problem_of(dataset: Dataset, market: MarketTensors, ranges: tuple[range, ...]) -> Problem:
    n = len(dataset.spec.tickers)
    return Problem(
        market=market, ranges=ranges, layout=Layout.of(dataset.spec), limits=limits(settings()), costs=costs(settings()),
        lot=np.zeros(n), min_notional=np.zeros(n), min_episode_bars=8, max_episode_bars=30,
    )  # fmt: skip


class Counted(Trains):
    """Untrained networks; how often each split of each trial was asked for. `until`: a stop after so many."""

    def __init__(self, *positional: Any, until: int = 10**9) -> None:
        super().__init__(*positional)
        self.seen: Counter[tuple[Any, int]] = Counter()
        self.until = until

    def __call__(self, parameters: Mapping[str, Any], fold: Split, *, seed: int, note: str) -> PolicyArtifact:
        if self.seen.total() >= self.until:
            raise Stopped
        self.seen[parameters["seed"], seed] += 1
        return policy(self.dataset, self.config, self.state_dir, seed)


def judge(state_dir: Path, config: Config, dataset: Dataset, train: Counted) -> Judge:
    return Judge(
        config=config, state_dir=state_dir, dataset=dataset, clock=SystemClock(), beat=lambda _: None, train=train
    )


def test_the_finalists_of_cross_validation_stand_and_a_killed_judge_trains_no_piece_twice(
    dataset: Dataset, tmp_path: Path
) -> None:
    config = settings()
    for number in range(12):
        add_trial(tmp_path, config, dataset, number, score=float(number))
    stopped = Counted(config, dataset, tmp_path, until=7)
    with pytest.raises(Stopped):
        judge(tmp_path, config, dataset, stopped).gather(complete=True)
    goes_on = Counted(config, dataset, tmp_path)
    judging = judge(tmp_path, config, dataset, goes_on)
    trials = completed_trials(tmp_path, "s")
    assert judging._crossed(trials, complete=True) == ()  # not before all of it is there
    assert judging.gather(complete=True)
    assert judging._crossed(trials, complete=False) == ()
    verdict = judging.judge()
    assert verdict is not None
    counted = stopped.seen + goes_on.seen
    assert set(counted.values()) == {1} and counted.total() == 2 * 15 + 2 * 2  # two trials: splits, then folds
    first, second = verdict.cross_validation  # the best tenth of twelve is two
    assert {first.trial, second.trial} == {10, 11} and first.t >= second.t and first.finalist and second.finalist
    assert [v.candidate for v in verdict.verdicts] == [f"trial {first.trial}", f"trial {second.trial}"]
    record = read_json(trial_dir(tmp_path, "s", first.trial) / "trial.json")
    assert record["cross_validation"] == first.to_dict()
    report = json.loads((tmp_path / "reports" / "judgement-0001.json").read_bytes())
    assert report["cross_validation"][0] == first.to_dict()
    assert "cross-validation: 15 splits, 5 paths" in (tmp_path / "reports" / "judgement-0001.txt").read_text()
    split, where = dataset.cross_validation[4], arena(config, tmp_path)
    stored = unpacked(trial_dir(tmp_path, "s", 11) / "crossed" / "split-4-seed-0.npz", where.initial_cash)
    trained = policy(dataset, config, tmp_path, cross_seed(config.run.seed, 11, 4, 0))
    for group in split.tests:  # one episode each, from a flat start
        run = run_policy("by hand", trained, dataset.bars, dataset.rows, group, where)
        assert np.array_equal(stored[f"{group.start}-{group.stop}"].returns, run.returns)


def test_bars_too_few_for_the_splits_are_refused_before_anything_is_searched(tmp_path: Path) -> None:
    config = worker_settings(n_folds=1)
    config = replace(
        config, simulation=replace(config.simulation, bars=1800), promotion=replace(config.promotion, automatic=True),
        data=replace(config.data, judge_start_utc="2021-02-10T00:00:00Z"),
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="nothing is left to train on"):
        worker(tmp_path, config)
    worker(tmp_path, replace(config, promotion=replace(config.promotion, cross_validated=0)))


def test_a_fold_is_one_range_and_a_split_several(dataset: Dataset, tmp_path: Path) -> None:
    assert isinstance(dataset.folds[0], Fold)
    assert trainer(dataset, tmp_path)._market(dataset.folds[0])[2] == ()
    assert len(trainer(dataset, tmp_path)._market(dataset.cross_validation[7])[2]) == 3
