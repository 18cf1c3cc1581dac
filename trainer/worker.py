"""One worker process: ask for a trial, train and judge it over folds and seeds, record it, again until done."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optuna
import torch
from structlog.typing import FilteringBoundLogger

from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.child.holds import hold_reason, write_usage
from daemon.child.progress import Progress
from features.artifact import PolicyArtifact
from features.errors import CappuccinoError
from features.files import disk_full, write_atomic
from features.observation import Layout
from trainer import ppo
from trainer.baselines import FIXED_BASELINE, run_baselines
from trainer.checkpoint import CheckpointRefused
from trainer.dataset import Dataset, arena, settings_text
from trainer.evaluate import Run, pooled, run_policy
from trainer.ledger import TrialLedger
from trainer.memory import card_bytes, grown_bytes, out_of_memory, resident_bytes, smaller
from trainer.promote import Judge
from trainer.score import excess_t, score
from trainer.sharpe import sharpe
from trainer.space import Hyperparameters, defaults, search_space, suggest
from trainer.splits import Fold
from trainer.study import SharedStudy, StudyIdentity, checkpoints, first_number, mark_trial, trial_dir, write_space
from trainer.vector_env import MarketTensors, Problem

CHECKPOINT_EVERY_S = 30.0  # what a killed worker loses at most
ROOM_POLL_S = 2.0
T = TypeVar("T")


class Stopped(Exception):
    """A stop was asked for in the middle of a trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What a trial leaves: the saved policy, its pooled validation run and the study's objective."""

    artifact: Path
    fold_artifacts: tuple[str, ...]
    run: Run
    objective: float


class Worker:
    """Everything a trial needs that does not change between trials."""

    def __init__(
        self, *, config: Config, state_dir: Path, name: str, dataset: Dataset, clock: Clock, progress: Progress,
        log: FilteringBoundLogger, should_stop: Callable[[], bool], should_finish: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self.config, self.state_dir, self.name, self.dataset = config, state_dir, name, dataset
        self.clock, self.progress, self.log = clock, progress, log
        self.should_stop, self.should_finish = should_stop, should_finish  # now; after the present trial
        self.arena = arena(config, state_dir)
        self.ledger = TrialLedger(state_dir / "ledger.jsonl")
        index = int(name.rsplit("-", 1)[-1]) if name.rsplit("-", 1)[-1].isdigit() else 0
        searched = search_space(config.study.policy, dataset.spec.stack_bars)
        known_good = defaults(config.study.policy)  # what a search has to improve on
        self.study = SharedStudy(
            state_dir=state_dir, name=config.study.name, worker=name, target_trials=config.study.target_trials,
            startup_trials=config.study.sampler_startup_trials, seed=config.run.seed + 1000 * index,
            identity=identity(config, dataset), first={p.name: getattr(known_good, p.name) for p in searched},
        )  # fmt: skip
        write_space(state_dir, config.study.name, searched)
        self._baseline = self._fixed_baseline()
        self._steps_done = 0
        self._index, self._after_trial = index, list[int]()

    def run(self) -> bool:
        """Work until the study is complete (True), or a stop is asked for or a new process is needed (False)."""
        try:
            while not self.should_stop() and not self.should_finish() and not self.recycle:
                if reason := hold_reason(self.state_dir, worker=self._index, on_gpu=torch.cuda.is_available()):
                    self.progress.beat(done=self._bumped(), unit="steps", note=f"waiting: {reason}")
                    self.clock.sleep(ROOM_POLL_S)
                    continue
                trial = self._durably(self.study.next_trial)
                if trial is None:
                    self.judge_if_due()
                    return True
                self._run_trial(trial)
                self._measure()
                self.judge_if_due()
        except Stopped:  # on a full disk: the trial is found by its owner's lock and tried again
            return False
        return False

    @property
    def recycle(self) -> bool:
        """Whether memory grows from trial to trial: a new process gets it back, between two trials."""
        return grown_bytes(self._after_trial) > self.config.study.recycle_growth_bytes

    def _measure(self) -> None:
        held, peak = card_bytes()
        self._after_trial.append(resident_bytes() + held)
        if peak:
            self._durably(lambda: write_usage(
                self.state_dir, self.name, worker=self._index, vram_bytes=held, vram_peak_bytes=peak
            ))  # fmt: skip
        if self.recycle:
            self.log.warning(
                "worker.recycled", grown_bytes=grown_bytes(self._after_trial), trials=len(self._after_trial)
            )

    def _durably(self, write: Callable[[], T]) -> T:
        """`write`, repeated while the disk is full: hours of training are not thrown away for want of a kilobyte.

        It must be repeatable. Raises Stopped when a stop is asked for meanwhile.
        """
        while True:
            try:
                return write()
            except Exception as error:
                if not disk_full(error):
                    raise
                self.log.warning("worker.disk_full", reason=str(error))
            if self.should_stop():
                raise Stopped
            self.progress.beat(done=self._bumped(), unit="steps", note="waiting: the disk is full")
            self.clock.sleep(ROOM_POLL_S)

    def judge_if_due(self) -> None:
        """Judge at every `promotion.every_trials` finished trials and when the study is complete, once each."""
        progress = self.study.progress()
        every, finished = self.config.promotion.every_trials, progress["finished"]
        due = progress["target"] if finished >= progress["target"] else finished // every * every
        if (
            not self.config.promotion.automatic
            or due == 0
            or not self._durably(lambda: self.study.claim_judgement(due))
        ):
            return
        self.log.info("judge.started", finished=finished)
        judge = Judge(
            config=self.config, state_dir=self.state_dir, dataset=self.dataset, clock=self.clock,
            beat=lambda note: self.progress.beat(done=self._bumped(), unit="steps", note=note),
        )  # fmt: skip
        judgement = self._durably(judge.judge)
        self.log.info("judge.ended", champion=judgement.champion, holds=judgement.holds, reason=judgement.reason)

    def _bumped(self) -> int:
        self._steps_done += 1
        return self._steps_done

    def _run_trial(self, trial: optuna.Trial) -> None:
        began_s = self.clock.monotonic_s()
        network, stack_bars = self.config.study.policy, self.dataset.spec.stack_bars
        hyperparameters = self._durably(lambda: suggest(trial, network, stack_bars))
        study, number, chosen = self.config.study.name, trial.number, hyperparameters.to_dict()
        self._durably(lambda: self.ledger.started(
            study=study, number=number, data_sha256=self.dataset.data_sha256, parameters=chosen,
            at_utc=self.clock.now_utc().isoformat(),
        ))  # fmt: skip
        self._durably(
            lambda: mark_trial(self.state_dir, study, number, state="RUNNING", parameters=chosen, worker=self.name)
        )
        self.log.info("trial.started", trial=trial.number)
        result, failure = self._attempt(trial, hyperparameters)
        seconds = self.clock.monotonic_s() - began_s
        if failure == "stopped":
            self._durably(lambda: self.study.hand_back(trial, seconds=seconds))
            self.log.info("trial.handed_back", trial=trial.number)
            return
        if failure == "oom" and (less := smaller(hyperparameters)) is not None:
            self._durably(lambda: self.study.retry_smaller(trial, less))
        objective = None if result is None else result.objective
        self._record(trial.number, result, failure, seconds)
        self._durably(lambda: self.study.finish(trial, score=objective, failure=failure, seconds=seconds))
        self.log.info("trial.ended", trial=trial.number, score=objective, failure=failure, seconds=round(seconds, 1))

    def _attempt(self, trial: optuna.Trial, chosen: Hyperparameters) -> tuple[TrialResult | None, str | None]:
        """The trial's result, or the category of its failure; an incomplete trial never has a score."""
        try:
            return self.evaluate(trial.number, _first(trial), chosen), None
        except Stopped:
            return None, "stopped"
        except ppo.TrainingDiverged as error:
            failure, reason = "diverged", str(error)
        except CappuccinoError as error:
            failure, reason = "error", str(error)
        except Exception as error:
            failure, reason = ("oom", str(error)) if out_of_memory(error) else ("error", repr(error))
            if failure == "error":
                self.log.exception("trial.raised", trial=trial.number)
        self.log.warning("trial.failed", trial=trial.number, failure=failure, reason=reason)
        return None, failure

    def evaluate(self, number: int, seed_number: int, chosen: Hyperparameters) -> TrialResult:
        """Train on every fold and seed; pool the validation runs; keep the policy of the last fold and first seed.

        That policy has seen everything before the last validation block, is saved before it is judged, and is judged
        as saved: what is pooled for its own fold is its own run (lessons 11).
        """
        runs: list[Run] = []
        kept: list[Path] = []
        excess_policy, excess_baseline = [], []
        folds, seeds = self.dataset.folds, self.config.study.seeds
        kept_at = checkpoints(self.state_dir, self.config.study.name, seed_number)
        for f, fold in enumerate(folds):
            for s in range(seeds):
                note = f"trial {number} fold {f + 1}/{len(folds)}" + (f" seed {s + 1}/{seeds}" if seeds > 1 else "")
                artifact = self._train(
                    chosen, fold, seed=_seed(self.config.run.seed, seed_number, f, s), note=note,
                    checkpoint=kept_at / f"fold-{f}-seed-{s}.safetensors",
                )  # fmt: skip
                path = self._durably(lambda: artifact.save(self.state_dir / "artifacts"))  # noqa: B023  called at once
                run = run_policy(
                    f"trial {number}", PolicyArtifact.load(path), self.dataset.bars, self.dataset.rows, fold.validate,
                    self.arena,
                )  # fmt: skip
                self.progress.beat(done=self._steps_done, unit="steps", note=f"{note} judged")
                runs.append(run)
                excess_policy.append(run.returns)
                excess_baseline.append(self._baseline[f].returns)
                if s == 0:
                    kept.append(path)
                    # named at once: the janitor spares what an unfinished trial names
                    names = [p.name for p in kept]
                    self._durably(
                        lambda: mark_trial(self.state_dir, self.config.study.name, number, fold_artifacts=names)  # noqa: B023
                    )
        objective = excess_t(np.concatenate(excess_policy), np.concatenate(excess_baseline))
        return TrialResult(
            artifact=kept[-1], fold_artifacts=tuple(p.name for p in kept), run=pooled(f"trial {number}", runs),
            objective=objective,
        )  # fmt: skip

    def _train(
        self, chosen: Hyperparameters, fold: Fold, *, seed: int, note: str, checkpoint: Path
    ) -> PolicyArtifact:  # fmt: skip
        """Train on one fold, going on from `checkpoint` where a stopped or killed worker left one."""
        dataset, steps = self.dataset, self.config.study.train_steps
        scaler = dataset.fit_scaler(fold.train)
        blocks, bars = dataset.blocks(scaler, fold.train)
        lot, min_notional = self.arena.rules.arrays(dataset.spec.tickers)
        done_before, written_s = self._steps_done, self.clock.monotonic_s()

        def on_update(stats: ppo.UpdateStats, pack: Callable[[], bytes]) -> None:
            nonlocal written_s
            self._steps_done = done_before + stats.steps
            self.progress.beat(
                done=self._steps_done, unit="steps", note=f"{note} step {stats.steps}/{steps}",
                facts={"samples_per_s": round(stats.samples_per_s)},
            )  # fmt: skip
            stopping = self.should_stop()
            if stopping or self.clock.monotonic_s() - written_s >= CHECKPOINT_EVERY_S:
                self._keep(checkpoint, pack())
                written_s = self.clock.monotonic_s()
            if stopping:
                raise Stopped

        problem = Problem(
            market=MarketTensors.of(blocks, bars), layout=Layout.of(dataset.spec), limits=self.arena.limits,
            costs=self.arena.costs, lot=lot, min_notional=min_notional, stack_bars=dataset.spec.stack_bars,
            initial_cash=self.arena.initial_cash,
        )  # fmt: skip
        train = partial(
            ppo.train_portfolio, problem, chosen, accounts=self.config.study.accounts, steps=steps, seed=seed,
            on_update=on_update, monotonic_s=self.clock.monotonic_s,
        )  # fmt: skip
        try:
            trained = train(resume=checkpoint.read_bytes() if checkpoint.exists() else None)
        except CheckpointRefused as refusal:  # another thread count or torch since: it is whole only from its start
            self.log.warning("checkpoint.refused", path=str(checkpoint), reason=str(refusal))
            trained = train(resume=None)
        last = trained.history[-1]
        return PolicyArtifact(
            kind=trained.kind, width=trained.width, spec=dataset.spec, scaler=scaler, limits=trained.limits,
            costs=self.arena.costs, venue_rules=self.arena.rules, weights=trained.weights,
            training={
                "study": self.config.study.name, "data_sha256": dataset.data_sha256, "source": dataset.source_name,
                "train_first_close_s": int(bars.first_close_s), "train_last_close_s": int(bars.last_close_s),
                "steps": trained.steps, "seed": seed, "hyperparameters": chosen.to_dict(), "scales": trained.scales,
                # of the last rollout; the shaping is told apart because no score contains it
                "reward_bps": last.mean_reward_bps, "shaping_bps": last.shaping_bps,
            },
        )  # fmt: skip

    def _keep(self, path: Path, packed: bytes) -> None:
        """A checkpoint is a convenience: a full disk costs the last one its successor, not the trial."""
        try:
            write_atomic(path, packed)
        except OSError as error:
            if not disk_full(error):
                raise
            self.log.warning("worker.disk_full", reason=str(error))

    def _record(self, number: int, result: TrialResult | None, failure: str | None, seconds: float) -> None:
        study = self.config.study.name
        facts: dict[str, Any] = {"failure": failure, "seconds": round(seconds, 3)}
        sharpe_per_bar = None
        if result is not None:
            scores = score(result.run, timeframe_s=self.dataset.spec.timeframe_s)
            sharpe_per_bar = sharpe(result.run.returns) if result.run.returns.std() > 0 else 0.0
            folder = trial_dir(self.state_dir, study, number)
            self._durably(lambda: np.savez_compressed(folder / "returns.npz", returns=result.run.returns))
            facts |= {
                "score": result.objective,
                "artifact": result.artifact.name,
                "fold_artifacts": list(result.fold_artifacts),
                "validation": scores.to_dict(),
            }
        self._durably(
            lambda: mark_trial(self.state_dir, study, number, state="FAIL" if failure else "COMPLETE", **facts)
        )
        self._durably(lambda: self.ledger.ended(
            study=study, number=number, score=None if result is None else result.objective, sharpe=sharpe_per_bar,
            failure=failure,
        ))  # fmt: skip

    def _fixed_baseline(self) -> list[Run]:
        """The fixed baseline on every validation block, computed once per worker."""
        runs = []
        for fold in self.dataset.folds:
            self.progress.beat(done=0, unit="steps", note="running the baseline")
            runs.append(
                run_baselines(self.dataset.bars, fold.validate, self.arena, only=FIXED_BASELINE)[FIXED_BASELINE]
            )
        return runs


def identity(config: Config, dataset: Dataset) -> StudyIdentity:
    return StudyIdentity(
        data_sha256=dataset.data_sha256, fingerprint=dataset.spec.fingerprint, settings=settings_text(config)
    )


def _first(trial: optuna.Trial) -> int:
    """The number under which these parameters were first tried: retries keep its seeds and its checkpoints."""
    return first_number(trial.storage.get_trial(trial._trial_id))  # noqa: SLF001  no public way to the frozen trial


def _seed(base: int, trial: int, fold: int, replicate: int) -> int:
    """A seed per (trial, fold, replicate), the same whichever worker runs it."""
    return int(np.random.SeedSequence([base, trial, fold, replicate]).generate_state(1)[0])


def describe(study: str, record: dict[str, Any]) -> str:
    """One line about a trial record, for lists."""
    score_text = "—" if record.get("score") is None else f"{record['score']:+.2f}"
    return f"{study} #{record['number']:<5}{record['state']:<10}score {score_text:<8}{record.get('failure') or ''}"
