"""One worker process: ask for a trial, train and judge it over folds and seeds, record it, again until done."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from structlog.typing import FilteringBoundLogger

from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.child.holds import hold_reason, worker_number, write_usage
from daemon.child.progress import Progress
from features.artifact import PolicyArtifact
from features.errors import CappuccinoError
from features.files import read_json, write_atomic
from trainer import ppo
from trainer.arrays import npz
from trainer.baselines import FIXED_BASELINE, run_baselines
from trainer.dataset import Dataset, arena, require_room_for_an_order, settings_text
from trainer.evaluate import Run, over_seeds, pooled, run_policy
from trainer.holdout import holdout_ledger
from trainer.judgement import Judgement
from trainer.ledger import TrialLedger
from trainer.memory import card_bytes, grown_bytes, out_of_memory, resident_bytes, smaller
from trainer.promote import Judge, incumbent
from trainer.pruning import Look, look
from trainer.report import fold_excess
from trainer.routes import Route
from trainer.rungs import SCREEN_FOLDS, Screening, screened
from trainer.score import excess_t, score
from trainer.sharpe import sharpe, varies
from trainer.space import Hyperparameters
from trainer.study import (
    SharedStudy,
    StudyIdentity,
    checkpoints,
    first_number,
    mark_trial,
    paired,
    seed_number,
    trial_dir,
)
from trainer.training import ROOM_POLL_S, Stopped, Trainer

SCREENING = 999_999  # the replicate number of a screening: neither a seed of the search nor a fresh one


class Pruned(Exception):
    """The trial is given up: on the folds it has run it is worse than the incumbent."""

    def __init__(self, *, seen: Look, run: Run, objective: float) -> None:
        super().__init__(f"worse than the incumbent after {seen.folds} folds (p {seen.p_no_worse:.3f})")
        self.seen, self.run, self.objective = seen, run, objective


class Screened(Exception):
    """The trial is given up: after a short training it is not among the best of those screened so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What a trial leaves: the saved policy, its pooled validation run and the study's objective.

    run: the first seed's, whose policy is kept. returns: (T,) simple returns over all folds, of the mean log wealth over
    seeds; the objective is theirs.
    """

    artifact: Path
    fold_artifacts: tuple[str, ...]
    run: Run
    returns: NDArray[np.float64]
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
        # what will be wanted of the account, the bars and the ledgers in the end is refused at the start
        require_room_for_an_order(self.arena, dataset.spec.tickers)
        if config.promotion.automatic and config.promotion.cross_validated:
            _ = dataset.cross_validation
        self.ledger.sharpes(timeframe_s=dataset.spec.timeframe_s)
        holdout_ledger(state_dir).openings(dataset.holdout_closes_s)
        self.trainer = Trainer(
            config=config, state_dir=state_dir, dataset=dataset, clock=clock, progress=progress, log=log,
            should_stop=should_stop,
        )  # fmt: skip
        self._durably = self.trainer.durably
        index = worker_number(name)
        self.route = Route.of(config.study.policy, dataset.spec.stack_bars, config.study.ranges)
        self.study = SharedStudy(
            state_dir=state_dir, name=config.study.name, worker=name, target_trials=config.study.target_trials,
            startup_trials=config.study.sampler_startup_trials, seed=config.run.seed + 1000 * index,
            identity=identity(config, dataset), recovered=self._recovered,
            route=self.route, advice_share=config.advisor.trial_share, parent=config.study.parent,
        )  # fmt: skip
        self.route.write(state_dir, config.study.name, parent=config.study.parent)
        self._baseline = self._fixed_baseline()
        self._index, self._after_trial = index, list[int]()

    def run(self) -> bool:
        """Work until the study is complete (True), or a stop is asked for or a new process is needed (False)."""
        try:
            while not self.should_stop() and not self.should_finish() and not self.recycle:
                if reason := hold_reason(self.state_dir, worker=self._index, on_gpu=self.config.study.device == "cuda"):
                    self.trainer.beat(f"waiting: {reason}")
                    self.clock.sleep(ROOM_POLL_S)
                    continue
                trial = self._durably(self.study.next_trial)
                if trial is None:
                    progress = self.study.progress()
                    if progress["finished"] < progress["target"]:  # its last trials may come back, or need a judge
                        self.trainer.beat("waiting for the last trials of others")
                        self.clock.sleep(ROOM_POLL_S)
                        continue
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
                self.state_dir, self.name, study=self.config.study.name, worker=self._index, vram_bytes=held,
                vram_peak_bytes=peak,
            ))  # fmt: skip
        if self.recycle:
            self.log.warning(
                "worker.recycled", grown_bytes=grown_bytes(self._after_trial), trials=len(self._after_trial)
            )

    def judge_if_due(self) -> None:
        """Judge at every `promotion.every_trials` finished trials and when the study is complete, once each.

        The evidence is shared work: between two trials a worker does what is free of it, at the end all do it together.
        """
        progress = self.study.progress()
        every, finished = self.config.promotion.every_trials, progress["finished"]
        complete = finished >= progress["target"]
        due = progress["target"] if complete else finished // every * every
        if not self.config.promotion.automatic or self.study.judged(complete=complete) >= due:
            return
        judge = Judge(
            config=self.config, state_dir=self.state_dir, dataset=self.dataset, clock=self.clock,
            beat=self.trainer.beat_or_stop, train=self.trainer.again,
        )  # fmt: skip
        if not self._durably(lambda: judge.gather(complete=complete)):
            return
        self.log.info("judge.started", finished=finished)

        def settle(judgement: Judgement) -> None:
            judge.publish(judgement)
            self.study.mark_judged(due, complete=complete)

        judgement = self._durably(
            lambda: judge.judge(
                complete=complete, due=lambda: self.study.judged(complete=complete) < due, settle=settle
            )
        )
        if judgement is not None:
            self.log.info("judge.ended", champion=judgement.champion, holds=judgement.holds, reason=judgement.reason)

    def _run_trial(self, trial: optuna.Trial) -> None:
        began_s = self.clock.monotonic_s()
        hyperparameters = self._durably(lambda: self.route.suggest(trial))
        study, number, chosen = self.config.study.name, trial.number, hyperparameters.to_dict()
        self._durably(lambda: self.ledger.started(
            study=study, number=number, data_sha256=self.dataset.data_sha256, parameters=chosen,
            at_utc=self.clock.now_utc().isoformat(),
        ))  # fmt: skip
        self._durably(
            lambda: mark_trial(
                self.state_dir,
                study,
                number,
                state="RUNNING",
                parameters=chosen,
                worker=self.name,
                **paired(_frozen(trial)),
            )
        )
        self.log.info("trial.started", trial=trial.number)
        result, failure = self._attempt(trial, hyperparameters)
        seconds = self.clock.monotonic_s() - began_s
        if failure == "stopped":
            self._durably(lambda: self.study.hand_back(trial, seconds=seconds))
            self.log.info("trial.handed_back", trial=trial.number)
            return
        if failure == "oom" and (less := smaller(hyperparameters)) is not None and self.route.allows(less):
            self._durably(lambda: self.study.retry_smaller(trial, less))
        objective = None if result is None else result.objective
        self._record(trial.number, result, failure, seconds)
        self._durably(lambda: self.study.finish(trial, score=objective, failure=failure, seconds=seconds))
        self.log.info("trial.ended", trial=trial.number, score=objective, failure=failure, seconds=round(seconds, 1))

    def _attempt(self, trial: optuna.Trial, chosen: Hyperparameters) -> tuple[TrialResult | Pruned | None, str | None]:
        """The trial's result, or the category of its failure; an incomplete trial never has a score."""
        try:
            frozen = _frozen(trial)
            kept_at = checkpoints(self.state_dir, self.config.study.name, first_number(frozen))
            self._screen(trial, chosen, seed_number=seed_number(frozen), kept_at=kept_at)
            return self.evaluate(trial.number, chosen, seed_number=seed_number(frozen), kept_at=kept_at), None
        except Stopped:
            return None, "stopped"
        except Screened:
            return None, "screened"
        except Pruned as given_up:
            self.log.info("trial.pruned", trial=trial.number, folds=given_up.seen.folds, p=given_up.seen.p_no_worse)
            return given_up, "pruned"
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

    def _screen(self, trial: optuna.Trial, chosen: Hyperparameters, *, seed_number: int, kept_at: Path) -> None:
        """Raises Screened where a short training says so. A retry stands by what was said before."""
        settings, said_at = self.config.study, kept_at / "screening.json"
        if settings.screen_share == 0.0:
            return
        if said_at.exists():
            said = Screening(**read_json(said_at))
            self._durably(lambda: self.study.screenings(trial, said.score))
        else:
            score = self.short_score(trial.number, chosen, seed_number=seed_number, kept_at=kept_at)
            earlier = self._durably(lambda: self.study.screenings(trial, score))
            said = screened(score, earlier, keep=settings.screen_keep, spared=settings.sampler_startup_trials)
            self._durably(lambda: write_atomic(said_at, json.dumps(said.to_dict()).encode()))
        self._durably(lambda: mark_trial(self.state_dir, settings.name, trial.number, screening=said.to_dict()))
        self.log.info("trial.screened", trial=trial.number, **said.to_dict())
        if not said.passed:
            raise Screened

    def short_score(self, number: int, chosen: Hyperparameters, *, seed_number: int, kept_at: Path) -> float:
        """The objective after `study.screen_share` of the steps, on the first folds and a seed used for nothing else."""
        folds, policy = self.dataset.folds[:SCREEN_FOLDS], []
        for f, fold in enumerate(folds):
            note = f"trial {number} screened on fold {f + 1}/{len(folds)}"
            artifact = self.trainer.train(
                chosen, fold, seed=_seed(self.config.run.seed, seed_number, f, SCREENING), note=note,
                checkpoint=kept_at / f"screen-{f}.safetensors", share=self.config.study.screen_share,
            )  # fmt: skip
            run = run_policy(note, artifact, self.dataset.bars, self.dataset.rows, fold.validate, self.arena)
            self.trainer.beat(f"{note}, judged")
            policy.append(run.returns)
        baseline = [b.returns for b in self._baseline[: len(folds)]]
        return excess_t(np.concatenate(policy), np.concatenate(baseline))

    def evaluate(self, number: int, chosen: Hyperparameters, *, seed_number: int, kept_at: Path) -> TrialResult:
        """Train on every fold and seed; keep the first seed's validation runs and its policy of the last fold.

        Raises Pruned when the folds so far say that it is worse than the incumbent on fresh seeds.

        That policy has seen everything before the last validation block, is saved before it is judged, and is judged
        as saved: what is pooled for its own fold is its own run (lessons 11).
        """
        firsts: list[Run] = []
        kept: list[Path] = []
        returns, by_fold = list[NDArray[np.float64]](), list[float]()
        best = incumbent(self.state_dir, self.config.study.name)
        folds, seeds = self.dataset.folds, self.config.study.seeds
        for f, fold in enumerate(folds):
            runs: list[Run] = []
            for s in range(seeds):
                note = f"trial {number} fold {f + 1}/{len(folds)}" + (f" seed {s + 1}/{seeds}" if seeds > 1 else "")
                artifact = self.trainer.train(
                    chosen, fold, seed=_seed(self.config.run.seed, seed_number, f, s), note=note,
                    checkpoint=kept_at / f"fold-{f}-seed-{s}.safetensors",
                )  # fmt: skip
                path = self._durably(lambda: artifact.save(self.state_dir / "artifacts"))  # noqa: B023  called at once
                run = run_policy(
                    f"trial {number}", PolicyArtifact.load(path), self.dataset.bars, self.dataset.rows, fold.validate,
                    self.arena,
                )  # fmt: skip
                self.trainer.beat(f"{note} judged")
                runs.append(run)
                if s == 0:
                    kept.append(path)
                    # named at once: the janitor spares what an unfinished trial names
                    names = [p.name for p in kept]
                    self._durably(
                        lambda: mark_trial(self.state_dir, self.config.study.name, number, fold_artifacts=names)  # noqa: B023
                    )
            firsts.append(runs[0])
            returns.append(over_seeds(runs))
            by_fold.append(float(np.mean(fold_excess([[r] for r in runs], [self._baseline[f]]))))
            run = pooled(f"trial {number}", firsts)
            objective = excess_t(np.concatenate(returns), np.concatenate([b.returns for b in self._baseline[: f + 1]]))
            if best is not None and f + 1 < len(folds) and (seen := look(by_fold, best)).prune:
                raise Pruned(seen=seen, run=run, objective=objective)
        return TrialResult(
            artifact=kept[-1], fold_artifacts=tuple(p.name for p in kept), run=run, returns=np.concatenate(returns),
            objective=objective,
        )  # fmt: skip

    def _record(
        self, number: int, result: TrialResult | Pruned | None, failure: str | None, seconds: float
    ) -> None:  # fmt: skip
        """The plain record last: where it says that the trial ended, the ledger says so too (see `_recovered`)."""
        study = self.config.study.name
        facts: dict[str, Any] = {"failure": failure, "seconds": round(seconds, 3)}
        if result is not None:
            facts |= {"objective": result.objective, "sharpe": _sharpe(result.run)}
        if isinstance(result, TrialResult):
            folder = trial_dir(self.state_dir, study, number)
            self._durably(lambda: write_atomic(folder / "returns.npz", npz(returns=result.returns)))
            facts |= {
                "score": result.objective,
                "artifact": result.artifact.name,
                "fold_artifacts": list(result.fold_artifacts),
                "validation": score(result.run, timeframe_s=self.dataset.spec.timeframe_s).to_dict(),
            }
        if isinstance(result, Pruned):
            facts |= {"folds_run": result.seen.folds, "p_no_worse": result.seen.p_no_worse}
        state = "COMPLETE" if failure is None else "PRUNED" if failure in ("pruned", "screened") else "FAIL"
        self._durably(lambda: mark_trial(self.state_dir, study, number, state=state, **facts))
        self._durably(lambda: self._ended(number, facts))

    def _ended(self, number: int, record: Mapping[str, Any]) -> None:
        """A pruned trial has no score, but its Sharpe ratio counts among those that were tried; a screened one's is of

        another budget.
        """
        self.ledger.ended(
            study=self.config.study.name,
            number=number,
            score=record.get("score"),
            sharpe=record.get("sharpe"),
            timeframe_s=self.dataset.spec.timeframe_s,
            failure=record["failure"],
        )

    def _recovered(self, number: int, record: Mapping[str, Any]) -> None:
        """Whoever ended the trial was killed over it, or it was not its worker: every start in the ledger gets one end."""
        mine = (self.config.study.name, number)
        events = [r["event"] for r in self.ledger.records() if (r.get("study"), r.get("number")) == mine]
        if "started" in events and "ended" not in events:
            self._ended(number, record)

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


def _sharpe(run: Run) -> float:
    return float(sharpe(run.returns)) if varies(run.returns) else 0.0


def _frozen(trial: optuna.Trial) -> FrozenTrial:
    return trial.storage.get_trial(trial._trial_id)  # noqa: SLF001  no public way to the frozen trial


def _seed(base: int, trial: int, fold: int, replicate: int) -> int:
    """A seed per (seed number, fold, replicate), the same whichever worker runs it."""
    return int(np.random.SeedSequence([base, trial, fold, replicate]).generate_state(1)[0])
