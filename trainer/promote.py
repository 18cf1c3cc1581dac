"""From the best trials to the champion, or to the printed reason why there is none."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daemon.child.clock import Clock
from daemon.child.config import Config
from features.actor import constant_raw
from features.artifact import PolicyArtifact
from features.errors import CappuccinoError, ContractMismatch
from features.files import held, read_json, write_atomic
from features.pipeline import compute
from trainer import gates
from trainer.baselines import DAY_S, FIXED_BASELINE, bound_names, run_baselines
from trainer.candidates import Candidate, Replicate, stand
from trainer.champion import Decision, Pointer
from trainer.crossing import CrossValidation
from trainer.dataset import Dataset, arena
from trainer.evaluate import pooled, run_policy
from trainer.evidence import Evidence, Gatherer, TrainFold
from trainer.gates import Comparison, Gate
from trainer.holdout import holdout_ledger
from trainer.judgement import Judgement, Verdict, shown, write_report
from trainer.ledger import TrialLedger
from trainer.overfitting import TrialCounts, count_trials
from trainer.parity import parity
from trainer.regimes import regimes
from trainer.report import Report, fold_excess, report
from trainer.rungs import CrossValidated
from trainer.score import SECONDS_PER_YEAR, Score, score
from trainer.study import mark_trial
from trainer.trust import save_compared

Float = NDArray[np.float64]
POLL_S = 1.0


def completed_trials(state_dir: Path, study: str) -> list[dict[str, Any]]:
    """Plain records of the study's scored trials, best score first."""
    records = [read_json(p) for p in (state_dir / "trials" / study).glob("*/trial.json")]
    scored = [r for r in records if r["state"] == "COMPLETE" and r.get("score") is not None]
    return sorted(scored, key=lambda r: (-r["score"], r["number"]))


def incumbent(state_dir: Path, study: str) -> list[float] | None:
    """Excess log return per bar in each fold of the configuration judged last, mean over fresh seeds."""
    path = _incumbent_path(state_dir, study)
    return list(read_json(path)["excess_per_bar"]) if path.exists() else None


def _incumbent_path(state_dir: Path, study: str) -> Path:
    return state_dir / "trials" / study / "incumbent.json"


def fallback(config: Config, state_dir: Path, dataset: Dataset) -> str:
    """The artifact held without a champion: cash or equal weight as a constant policy, on the same path as any."""
    n, where = dataset.bars.n_tickers, arena(config, state_dir)
    share = 1.0 / n if config.promotion.without_champion == "equal_weight" else 0.0
    policy = PolicyArtifact(
        kind="constant", width=1, spec=dataset.spec, scaler=dataset.fit_scaler(dataset.folds[-1].train),
        limits=where.limits, costs=where.costs, venue_rules=where.rules, weights={"raw": constant_raw(np.full(n, share))},
        training={"baseline": config.promotion.without_champion},
    )  # fmt: skip
    return policy.save(state_dir / "artifacts").name


class Judge:
    """Judges one study; `beat` is called between steps so that a watcher sees progress."""

    def __init__(
        self, *, config: Config, state_dir: Path, dataset: Dataset, clock: Clock, beat: Callable[[str], None],
        train: TrainFold,
    ) -> None:  # fmt: skip
        self.config, self.state_dir, self.dataset, self.clock, self.beat = config, state_dir, dataset, clock, beat
        self.study = config.study.name
        self.arena = arena(config, state_dir)
        self._ledger = TrialLedger(state_dir / "ledger.jsonl")
        self._gatherer = Gatherer(
            config=config, state_dir=state_dir, dataset=dataset, arena=self.arena, train=train, beat=beat,
            on_replicate=self._replicated,
        )  # fmt: skip
        self._crossing = CrossValidation(
            config=config, state_dir=state_dir, dataset=dataset, arena=self.arena, train=train, beat=beat
        )

    def gather(self, *, complete: bool) -> bool:
        """Do what is free of the evidence; True when all of it is there.

        complete: the study is. Then the best trials are cross-validated to find who stands, averages of several stand too,
        and what others are doing is waited for.
        """
        trials = completed_trials(self.state_dir, self.study)
        if not trials:
            return True
        if complete:
            self._crossing.gather(trials, self._pause)
        parameters = {t["number"]: t["parameters"] for t in trials}
        standing = self._standing(trials, self._crossed(trials, complete=complete), complete=complete)
        return self._gatherer.gather(standing, parameters, self._pause if complete else None)

    def judge(
        self, *, complete: bool = True, due: Callable[[], bool] = lambda: True,
        settle: Callable[[Judgement], None] = lambda _: None,
    ) -> Judgement | None:  # fmt: skip
        """Judge, write the report and `settle`; None when it is not `due` any more. One judge at a time.

        By itself it changes no champion. Cross-validation counts where `gather` has seen to it that it is there.
        """
        with held(self.state_dir / "run" / "judge.lock", pause=self._pause):
            if not due():
                return None
            trials = completed_trials(self.state_dir, self.study)
            judgement = self._judged(trials, complete=complete)
            write_report(self.state_dir, judgement, at_utc=self.clock.now_utc().isoformat())
            settle(judgement)
        return judgement

    def publish(self, judgement: Judgement) -> None:
        """Let the trader hold what the verdict says."""
        new = judgement.champion is not None and judgement.champion != self._standing_champion()[0]
        decision = Decision(
            action="promoted" if new else "judged", champion=judgement.champion, holds=judgement.holds, study=self.study,
            trial=judgement.trial, reason=("Champion: " if new else "") + judgement.reason,
            gates=[g.to_dict() for g in judgement.gates],
        )  # fmt: skip
        Pointer(self.state_dir).decide(decision, at_utc=self.clock.now_utc().isoformat())

    def _judged(self, trials: Sequence[Mapping[str, Any]], *, complete: bool) -> Judgement:
        if not trials:
            return self._without_champion(None, (), (), "No champion: no trial has completed")
        crossed = self._crossed(trials, complete=complete)
        for result in crossed:
            mark_trial(self.state_dir, self.study, result.trial, cross_validation=result.to_dict())
        standing = self._standing(trials, crossed, complete=complete)
        self._gatherer.gather(standing, {t["number"]: t["parameters"] for t in trials}, self._pause)
        evidence = [self._gatherer.evidence(c) for c in standing]
        self._remember_incumbent(standing[0].trials[0], evidence[0])
        first = self._compared(evidence[0], self.config.costs.fee_bps)
        save_compared(
            self.state_dir / "trials" / self.study,
            {r.name: r.returns for r in (first.policies[0], *first.baselines.values())},
            bounds=bound_names(self.dataset.bars),
        )  # fmt: skip
        verdicts = [self._verdict(e, trials) for e in evidence]
        seen = tuple[Score, ...]()
        passed = [i for i, v in enumerate(verdicts) if not v.failed]
        if passed:  # the hold-out is opened for one of them: the one that grew most in validation
            grown = max(passed, key=lambda i: (verdicts[i].validation[0].log_wealth, -i))
            more, seen = self._holdout(evidence[grown], verdicts[grown], crossed)
            decided = replace(verdicts[grown], gates=(*verdicts[grown].gates, *more))
            verdicts = [decided, *(v for i, v in enumerate(verdicts) if i != grown)]
        verdicts = [replace(v, gates=tuple(sorted(v.gates, key=lambda g: g.gate))) for v in verdicts]
        top, best = verdicts[0], verdicts[0].trials[0]
        if top.failed:
            reason = f"No champion: {top.candidate}: {shown(top.failed)}"
            return self._without_champion(best, tuple(verdicts), seen, reason, crossed)
        if top.artifact in Pointer(self.state_dir).taken_down():
            reason = f"{top.candidate} passed every gate, but was taken down by hand; `promote` puts it back"
            return self._without_champion(best, tuple(verdicts), seen, reason, crossed)
        return Judgement(
            study=self.study, trial=best, artifact=top.artifact, champion=top.artifact, holds=top.artifact,
            reason=f"{top.candidate} of study {self.study!r} passed every gate.", verdicts=tuple(verdicts), holdout=seen,
            cross_validation=crossed,
        )  # fmt: skip

    def _crossed(self, trials: Sequence[Mapping[str, Any]], *, complete: bool) -> tuple[CrossValidated, ...]:
        return self._crossing.results(trials) if complete else ()

    def _standing(
        self, trials: Sequence[Mapping[str, Any]], crossed: Sequence[CrossValidated], *, complete: bool
    ) -> tuple[Candidate, ...]:  # fmt: skip
        promotion = self.config.promotion
        return stand(
            [t["number"] for t in trials], self._returns(trials), n_seeds=promotion.seeds,
            most_members=promotion.ensemble_members if complete else 1, seed=self.config.run.seed,
            finalists=[r.trial for r in crossed if r.finalist],
        )  # fmt: skip

    def _verdict(self, evidence: Evidence, trials: Sequence[Mapping[str, Any]]) -> Verdict:
        """Every gate but the hold-out's."""
        promotion, candidate, rng = self.config.promotion, evidence.candidate, self._rng()
        self.beat(f"measuring the gates of {candidate.name}")
        configured = self._compared(evidence, self.config.costs.fee_bps)
        returns = self._returns(trials)
        step_s = self.dataset.spec.timeframe_s
        measured = [
            *(gates.beats_every_baseline(self._beatable(self._compared(evidence, fee)), rng) for fee in gates.STRESS_FEES_BPS),
            gates.deflated(
                configured.policies, counts=self._counts(trials, returns),
                trial_variance=self._ledger.sharpe_variance(study=self.study, timeframe_s=step_s),
                threshold=promotion.dsr_threshold,
            ),
            *gates.overfitting(returns, self._beatable(configured).baselines, baseline=FIXED_BASELINE),
            gates.superior(
                np.column_stack([returns, np.expm1(configured.growth())]), self._beatable(configured).baselines, rng
            ),
            *gates.steady(
                evidence.parts, baseline=configured.baselines[FIXED_BASELINE], limit=promotion.max_drawdown,
                drawdowns=[score(r, timeframe_s=step_s).max_drawdown for r in (*configured.policies, *evidence.parts)],
            ),
            parity(evidence.deployed, self.dataset, self.arena),
        ]  # fmt: skip
        return Verdict(
            candidate=candidate.name, trials=candidate.trials, artifact=evidence.deployed.artifact_id,
            gates=tuple(measured), validation=self._scores(configured), report=self._report(evidence, rng),
        )  # fmt: skip

    def _compared(self, evidence: Evidence, fee_bps: float) -> Comparison:
        baselines = {n: pooled(n, folds) for n, folds in self._gatherer.baselines(fee_bps).items()}
        return Comparison(fee_bps=fee_bps, policies=evidence.pooled(fee_bps), baselines=baselines)

    def _beatable(self, comparison: Comparison) -> Comparison:
        bounds = bound_names(self.dataset.bars)
        return replace(comparison, baselines={n: r for n, r in comparison.baselines.items() if n not in bounds})

    def _scores(self, comparison: Comparison) -> tuple[Score, ...]:
        """The candidate's first seed, then the baselines."""
        runs = (comparison.policies[0], *comparison.baselines.values())
        return tuple(score(r, timeframe_s=self.dataset.spec.timeframe_s) for r in runs)

    def _report(self, evidence: Evidence, rng: np.random.Generator) -> Report:
        fee, step_s = self.config.costs.fee_bps, self.dataset.spec.timeframe_s
        return report(
            evidence.candidate.name, evidence.runs, self._gatherer.baselines(fee), fee_bps=fee,
            fixed_baseline=FIXED_BASELINE, regime=self._regime, bars_per_year=SECONDS_PER_YEAR / step_s, rng=rng,
        )  # fmt: skip

    @cached_property
    def _regime(self) -> NDArray[np.str_]:
        """Known at the close before each pooled validation return; "" before there was a month to tell it from."""
        month, close = max(2, 30 * DAY_S // self.dataset.spec.timeframe_s), self.dataset.bars.close
        known = regimes(close, trailing_bars=month) if len(close) > month else np.full(len(close), "")
        return np.concatenate([known[f.validate.start : f.validate.stop - 1] for f in self.dataset.folds])

    def _counts(self, trials: Sequence[Mapping[str, Any]], returns: Float) -> TrialCounts:
        ran = np.argsort([t["number"] for t in trials])
        scores = np.array([t["score"] for t in trials], dtype=float)
        return count_trials(returns[:, ran], scores[ran], n_ever=self._ledger.count())

    def _returns(self, trials: Sequence[Mapping[str, Any]]) -> Float:
        """(T, K), in the order of `trials`."""
        columns = []
        for trial in trials:
            with np.load(self.state_dir / "trials" / self.study / str(trial["number"]) / "returns.npz") as stored:
                columns.append(stored["returns"])
        return np.stack(columns, axis=1)

    def _holdout(
        self, evidence: Evidence, verdict: Verdict, crossed: Sequence[CrossValidated]
    ) -> tuple[tuple[Gate, ...], tuple[Score, ...]]:  # fmt: skip
        """Open the hold-out for this artifact, once, and write down what was seen; later judgements read that."""
        ledger, artifact = holdout_ledger(self.state_dir), verdict.artifact
        if (seen := ledger.verdict(artifact)) is not None:
            return tuple(Gate(**g) for g in seen["gates"]), tuple(Score(**s) for s in seen["scores"])
        if ledger.was_opened(artifact):
            return (gates.holdout_cut_short(),), ()
        self.beat("opening the hold-out")
        token = ledger.open(
            artifact=artifact,
            closes_s=self.dataset.holdout_closes_s,
            who=f"judge of study {self.study}",
            at_utc=self.clock.now_utc().isoformat(),
        )
        bars, window = self.dataset.with_holdout(token)
        run = run_policy(
            verdict.candidate, evidence.deployed, bars, compute(bars, self.dataset.spec), window, self.arena
        )
        fee = self.config.costs.fee_bps
        comparison = Comparison(fee_bps=fee, policies=(run,), baselines=run_baselines(bars, window, self.arena))
        of, lower_quartile = self._lower_quartile(evidence, crossed)
        measured = gates.holdout(
            comparison, baseline=FIXED_BASELINE, opening=token.opening,
            lower_quartile=lower_quartile, quartile_of=of, rng=self._rng(),
        )  # fmt: skip
        scores = self._scores(comparison)
        ledger.seen(
            artifact=artifact,
            statistics={"gates": [g.to_dict() for g in measured], "scores": [s.to_dict() for s in scores]},
        )
        return measured, scores

    def _lower_quartile(self, evidence: Evidence, crossed: Sequence[CrossValidated]) -> tuple[str, float]:
        """Where from, and what a hold-out must reach. An average of several trials was not cross-validated."""
        for result in crossed:
            if evidence.candidate.trials == (result.trial,):
                return "cross-validation", result.group_quartile
        fee = self.config.costs.fee_bps
        earned = fold_excess(evidence.runs[fee], self._gatherer.baselines(fee)[FIXED_BASELINE])
        return "validation", float(np.quantile(earned, 0.25))

    def _without_champion(
        self, trial: int | None, verdicts: tuple[Verdict, ...], seen: tuple[Score, ...], reason: str,
        crossed: tuple[CrossValidated, ...] = (),
    ) -> Judgement:  # fmt: skip
        """The champion there is stays; where there is none, the configured baseline."""
        standing, trouble = self._standing_champion()
        holds = standing or fallback(self.config, self.state_dir, self.dataset)
        stays = (
            f"The champion {holds[:12]} stays"
            if standing
            else f"The trader holds {self.config.promotion.without_champion}"
        ) + trouble
        return Judgement(
            study=self.study, trial=trial, artifact=verdicts[0].artifact if verdicts else None, champion=standing,
            holds=holds, verdicts=verdicts, holdout=seen, reason=f"{reason}. {stays}.", cross_validation=crossed,
        )  # fmt: skip

    def _standing_champion(self) -> tuple[str | None, str]:
        """The artifact id of the present champion, None if it was made for another market; and what is wrong with it.

        One that cannot be read stays: that a file is broken is no reason to sell what is held. A person decides.
        """
        standing: str | None = (Pointer(self.state_dir).read() or {"champion": None})["champion"]
        if standing is None:
            return None, ""
        try:
            PolicyArtifact.load(self.state_dir / "artifacts" / standing).require_spec(self.dataset.spec)
        except ContractMismatch as error:
            return None, f", for the champion {standing[:12]} does not fit: {error}"
        except CappuccinoError as error:
            remedy = "put its files back, or promote or demote"
            return standing, f", though it cannot be read: {error}; {remedy}"
        return standing, ""

    def _remember_incumbent(self, number: int, evidence: Evidence) -> None:
        """What a trial must not be worse than, fold by fold: the best configuration on seeds that did not choose it."""
        fee = self.config.costs.fee_bps
        earned = fold_excess(evidence.runs[fee], self._gatherer.baselines(fee)[FIXED_BASELINE])
        record = {"number": number, "seeds": len(earned), "excess_per_bar": earned.mean(axis=0).tolist()}
        write_atomic(_incumbent_path(self.state_dir, self.study), json.dumps(record).encode())

    def _replicated(self, replicate: Replicate, fold: int, artifact: str) -> None:
        self._ledger.append({
            "event": "replicated", "study": self.study, "number": replicate.trial, "fresh_seed": replicate.seed,
            "fold": fold, "artifact": artifact,
        })  # fmt: skip

    def _rng(self) -> np.random.Generator:
        """The same for every judgement of the same evidence."""
        return np.random.default_rng(self.config.run.seed)

    def _pause(self) -> None:
        self.beat("waiting for what another worker is judging")
        self.clock.sleep(POLL_S)
