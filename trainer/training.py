"""One training as a worker and a judge do it: seen by a watcher, stopped within an update, going on where it was killed."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from structlog.typing import FilteringBoundLogger

from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.child.market import LOCK_POLL_S
from daemon.child.progress import Progress
from features.artifact import PolicyArtifact
from features.files import disk_full, write_atomic
from features.observation import Layout
from features.scaling import Scaler
from trainer import ppo
from trainer.checkpoint import CheckpointRefused
from trainer.dataset import Dataset, arena
from trainer.shared_market import SharedMarkets, identity
from trainer.space import Hyperparameters
from trainer.splits import CombinatorialSplit, Fold, Split
from trainer.vector_env import MarketTensors, Problem

CHECKPOINT_EVERY_S = 30.0  # what a killed worker loses at most
ROOM_POLL_S = 2.0
T = TypeVar("T")


class Stopped(Exception):
    """A stop was asked for in the middle of a training."""


class Trainer:
    """Trains configurations on the folds of one data set. `beat` counts on whatever it is that is going on."""

    def __init__(
        self, *, config: Config, state_dir: Path, dataset: Dataset, clock: Clock, progress: Progress,
        log: FilteringBoundLogger, should_stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._config, self._state_dir, self._dataset = config, state_dir, dataset
        self._clock, self._progress, self._log, self._should_stop = clock, progress, log, should_stop
        self._arena = arena(config, state_dir)
        self._markets = SharedMarkets(
            state_dir / "folds" / config.study.name, lock=state_dir / "run" / "folds.lock", pause=self._pause, log=log
        )
        self._steps_done = 0

    def beat(self, note: str) -> None:
        """Raises nothing and moves nothing: a watcher sees that something is done."""
        self._steps_done += 1
        self._progress.beat(done=self._steps_done, unit="steps", note=note)

    def beat_or_stop(self, note: str) -> None:
        """`beat`; raises Stopped when a stop was asked for."""
        if self._should_stop():
            raise Stopped
        self.beat(note)

    def _pause(self) -> None:
        self.beat_or_stop("waiting: another worker prepares the fold")
        self._clock.sleep(LOCK_POLL_S)

    def durably(self, write: Callable[[], T]) -> T:
        """`write`, repeated while the disk is full: hours of training are not thrown away for want of a kilobyte.

        It must be repeatable. Raises Stopped when a stop is asked for meanwhile.
        """
        while True:
            try:
                return write()
            except Exception as error:
                if not disk_full(error):
                    raise
                self._log.warning("worker.disk_full", reason=str(error))
            self.beat_or_stop("waiting: the disk is full")
            self._clock.sleep(ROOM_POLL_S)

    def again(self, parameters: Mapping[str, Any], fold: Split, *, seed: int, note: str) -> PolicyArtifact:
        """Train a recorded configuration on a fresh seed."""
        chosen = Hyperparameters.from_dict(parameters, stack_bars=self._dataset.spec.stack_bars)
        checkpoint = self._state_dir / "run" / f"replicate-{seed}.safetensors"
        artifact = self.train(chosen, fold, seed=seed, note=note, checkpoint=checkpoint)
        checkpoint.unlink(missing_ok=True)
        return artifact

    def train(
        self, chosen: Hyperparameters, fold: Split, *, seed: int, note: str, checkpoint: Path, share: float = 1.0
    ) -> PolicyArtifact:  # fmt: skip
        """Train on one split, going on from `checkpoint` where a stopped or killed worker left one.

        share: of the configured steps.
        """
        dataset, where, steps = self._dataset, self._arena, max(1, round(share * self._config.study.train_steps))
        scaler, market, ranges = self._market(fold)
        lot, min_notional = where.rules.arrays(dataset.spec.tickers)
        done_before, written_s = self._steps_done, self._clock.monotonic_s()

        def on_update(stats: ppo.UpdateStats, pack: Callable[[], bytes]) -> None:
            nonlocal written_s
            self._steps_done = done_before + stats.steps
            self._progress.beat(
                done=self._steps_done, unit="steps", note=f"{note} step {stats.steps}/{steps}",
                facts={"samples_per_s": round(stats.samples_per_s)},
            )  # fmt: skip
            stopping = self._should_stop()
            if stopping or self._clock.monotonic_s() - written_s >= CHECKPOINT_EVERY_S:
                self._keep(checkpoint, pack())
                written_s = self._clock.monotonic_s()
            if stopping:
                raise Stopped

        problem = Problem(
            market=market.to(self._config.study.device), ranges=ranges, layout=Layout.of(dataset.spec), limits=where.limits,
            costs=where.costs, lot=lot, min_notional=min_notional, stack_bars=dataset.spec.stack_bars,
            initial_cash=where.initial_cash,
        )  # fmt: skip
        train = partial(
            ppo.train_portfolio, problem, chosen, accounts=self._config.study.accounts, steps=steps, seed=seed,
            on_update=on_update, monotonic_s=self._clock.monotonic_s,
        )  # fmt: skip
        try:
            trained = train(resume=checkpoint.read_bytes() if checkpoint.exists() else None)
        except CheckpointRefused as refusal:  # another thread count or torch since: it is whole only from its start
            self._log.warning("checkpoint.refused", path=str(checkpoint), reason=str(refusal))
            trained = train(resume=None)
        last = trained.history[-1]
        learned_from = (fold.train,) if isinstance(fold, Fold) else fold.train
        closes = dataset.bars.close_time_s[learned_from[0].start : learned_from[-1].stop]
        return PolicyArtifact(
            kind=trained.kind, width=trained.width, spec=dataset.spec, scaler=scaler, limits=trained.limits,
            costs=where.costs, venue_rules=where.rules, weights=trained.weights,
            training={
                "study": self._config.study.name, "data_sha256": dataset.data_sha256, "source": dataset.source_name,
                "train_first_close_s": int(closes[0]), "train_last_close_s": int(closes[-1]),
                "steps": trained.steps, "seed": seed, "hyperparameters": chosen.to_dict(), "scales": trained.scales,
                # of the last rollout; the shaping is told apart because no score contains it
                "reward_bps": last.mean_reward_bps, "shaping_bps": last.shaping_bps,
            },
        )  # fmt: skip

    def _market(self, split: Split) -> tuple[Scaler, MarketTensors, tuple[range, ...]]:
        """Scaler, market and its contiguous ranges, () for one.

        A fold's is shared by all workers; on a combinatorial split few train.
        """
        dataset = self._dataset
        if isinstance(split, CombinatorialSplit):
            scaler, parts = dataset.joined(split.train)
            stops = np.cumsum([len(blocks) for blocks, _ in parts])
            ranges = tuple(range(int(b) - len(p[0]), int(b)) for b, p in zip(stops, parts, strict=True))
            return scaler, MarketTensors.joined([MarketTensors.of(*p) for p in parts]), ranges
        scaler = dataset.fit_scaler(split.train)
        market = self._markets.market(
            identity(data_sha256=dataset.data_sha256, spec=dataset.spec, scaler=scaler, bars=split.train),
            lambda: MarketTensors.of(*dataset.blocks(scaler, split.train)),
        )
        return scaler, market, ()

    def _keep(self, path: Path, packed: bytes) -> None:
        """A checkpoint is a convenience: a full disk costs the last one its successor, not the trial."""
        try:
            write_atomic(path, packed)
        except OSError as error:
            if not disk_full(error):
                raise
            self._log.warning("worker.disk_full", reason=str(error))
