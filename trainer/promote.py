"""From the best trial to the champion, or to the printed reason why there is none."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daemon.child.clock import Clock
from daemon.child.config import Config
from features.actor import constant_raw
from features.artifact import PolicyArtifact
from features.decision import Decider, MarketWindow
from features.errors import CappuccinoError
from features.files import Lock, write_atomic
from features.ledger import Ledger, plan_orders, simulate_fills
from features.pipeline import FeatureStream, compute
from trainer import gates
from trainer.baselines import FIXED_BASELINE, bound_names, run_baselines
from trainer.dataset import Dataset, arena
from trainer.evaluate import Arena, Run, pooled, run_policy
from trainer.gates import Comparison, Gate
from trainer.holdout import holdout_ledger
from trainer.ledger import TrialLedger
from trainer.score import Score, score, table

PARITY_DECISIONS = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The verdict on one study: gates, tables, and what the trader shall hold."""

    study: str
    trial: int | None
    artifact: str | None
    champion: str | None
    holds: str
    reason: str
    gates: tuple[Gate, ...]
    validation: tuple[Score, ...]
    holdout: tuple[Score, ...]

    def text(self) -> str:
        parts = []
        if self.validation:
            parts.append(
                table(self.validation, title=f"validation, best candidate of {self.study!r} beside the baselines")
            )
        if self.gates:
            parts.append(gates.verdict_text(self.gates))
        if self.holdout:
            parts.append(table(self.holdout, title="hold-out (opened once for this artifact, ledgered)"))
        parts.append(self.reason)
        return "\n\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def completed_trials(state_dir: Path, study: str) -> list[dict[str, Any]]:
    """Plain records of the study's scored trials, best score first."""
    records = [json.loads(p.read_bytes()) for p in (state_dir / "trials" / study).glob("*/trial.json")]
    scored = [r for r in records if r["state"] == "COMPLETE" and r.get("score") is not None]
    return sorted(scored, key=lambda r: (-r["score"], r["number"]))


class Judge:
    """Judges one study; `beat` is called between steps so that a watcher sees progress."""

    def __init__(
        self, *, config: Config, state_dir: Path, dataset: Dataset, clock: Clock, beat: Callable[[str], None]
    ) -> None:
        self.config, self.state_dir, self.dataset, self.clock, self.beat = config, state_dir, dataset, clock, beat
        self.arena = arena(config, state_dir)
        self.rng = np.random.default_rng(config.run.seed)

    def judge(self) -> Judgement:
        """Judge, write champion.json and the report, and return the verdict. One judge at a time."""
        with Lock(self.state_dir / "run" / "judge.lock", wait=True):
            judgement = self._judged(completed_trials(self.state_dir, self.config.study.name))
            self._publish(judgement)
        return judgement

    def _judged(self, trials: Sequence[dict[str, Any]]) -> Judgement:
        study = self.config.study.name
        if not trials:
            return self._without_champion(study, None, (), (), (), "no trial has completed")
        best = trials[0]
        members = [self._load(h) for h in best["fold_artifacts"]]
        comparisons = self._validation(f"trial {best['number']}", members)
        configured = comparisons[0]
        scores = self._scores(configured)
        measured = [
            *(gates.beats_every_baseline(self._beatable(c), self.rng) for c in comparisons if c.fee_bps in gates.STRESS_FEES_BPS),
            self._deflated(configured.policy),
            gates.overfitting(self._returns_matrix(trials)),
            gates.drawdown(scores[0].max_drawdown, self.config.promotion.max_drawdown),
            self._parity(members[-1]),
        ]  # fmt: skip
        seen: tuple[Score, ...] = ()
        if all(g.passed for g in measured):
            gate, seen = self._holdout(best, members[-1])
            measured.append(gate)
        measured_gates = tuple(sorted(measured, key=lambda g: g.gate))
        failed = [g for g in measured_gates if not g.passed]
        if failed:
            reason = "No champion: " + "; ".join(f"{g.gate} {g.what}: {_shown(g)}" for g in failed)
            return self._without_champion(study, best, measured_gates, scores, seen, reason)
        return Judgement(
            study=study, trial=best["number"], artifact=best["artifact"], champion=best["artifact"],
            holds=best["artifact"], reason=f"Champion: trial {best['number']} of study {study!r} passed every gate.",
            gates=measured_gates, validation=scores, holdout=seen,
        )  # fmt: skip

    def _validation(self, name: str, members: Sequence[PolicyArtifact]) -> list[Comparison]:
        """The configured fee first, then the stress fees; every fold's saved policy on its own block."""
        fees = dict.fromkeys((self.config.costs.fee_bps, *gates.STRESS_FEES_BPS))
        return [self._compared(name, members, fee) for fee in fees]

    def _compared(self, name: str, members: Sequence[PolicyArtifact], fee_bps: float) -> Comparison:
        where = Arena(
            initial_cash=self.arena.initial_cash, costs=self.arena.costs.with_fee_bps(fee_bps),
            limits=self.arena.limits, rules=self.arena.rules,
        )  # fmt: skip
        policy, others = [], []
        for fold, member in zip(self.dataset.folds, members, strict=True):
            self.beat(f"judging at {fee_bps:g} bp, bars {fold.validate.start}–{fold.validate.stop}")
            policy.append(run_policy(name, member, self.dataset.bars, self.dataset.rows, fold.validate, where))
            others.append(run_baselines(self.dataset.bars, fold.validate, where))
        return Comparison(
            fee_bps=fee_bps,
            policy=pooled(name, policy),
            baselines={n: pooled(n, [o[n] for o in others]) for n in others[0]},
        )

    def _beatable(self, comparison: Comparison) -> Comparison:
        bounds = bound_names(self.dataset.bars)
        return Comparison(
            fee_bps=comparison.fee_bps, policy=comparison.policy,
            baselines={n: r for n, r in comparison.baselines.items() if n not in bounds},
        )  # fmt: skip

    def _scores(self, comparison: Comparison) -> tuple[Score, ...]:
        """The candidate first, then the baselines."""
        step = self.dataset.spec.timeframe_s
        return (
            score(comparison.policy, timeframe_s=step),
            *(score(r, timeframe_s=step) for r in comparison.baselines.values()),
        )

    def _deflated(self, policy: Run) -> Gate:
        ledger = TrialLedger(self.state_dir / "ledger.jsonl")
        return gates.deflated(
            policy, n_trials=ledger.count(), trial_sharpes=ledger.sharpes(),
            threshold=self.config.promotion.dsr_threshold,
        )  # fmt: skip

    def _returns_matrix(self, trials: Sequence[dict[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        folder = self.state_dir / "trials" / self.config.study.name
        columns = []
        for trial in trials:
            with np.load(folder / str(trial["number"]) / "returns.npz") as stored:
                columns.append(stored["returns"])
        return np.stack(columns, axis=1)

    def _parity(self, artifact: PolicyArtifact) -> Gate:
        """Walk the end of validation bar by bar through the live stream beside the evaluated path."""
        bars, rows = self.dataset.bars, self.dataset.rows
        window = range(
            max(self.dataset.folds[-1].validate.stop - PARITY_DECISIONS - 1, 0), self.dataset.folds[-1].validate.stop
        )
        evaluated = run_policy("parity", artifact, bars, rows, window, self.arena).decisions
        stack = artifact.spec.stack_bars
        live = FeatureStream(artifact.spec, bars.slice(0, window.start - stack + 1))
        market, decider = MarketWindow(artifact), Decider(artifact)
        account, differing = Ledger.opened(bars.tickers, self.arena.initial_cash), 0
        for k in range(window.start - stack + 1, window.stop - 1):
            block = market.push(live.update(bars.slice(k, k + 1)))
            if block is None:
                continue
            decision = decider.decide(
                market=block, ledger=account, close=bars.close[k], close_time_s=int(bars.close_time_s[k])
            )
            differing += decision != evaluated[k - window.start]
            orders = plan_orders(account, np.array(decision.target), bars.close[k], artifact.venue_rules)
            fills = simulate_fills(account, orders, bars.slice(k + 1, k + 2), artifact.costs, artifact.venue_rules)
            account = account.book(fills).marked(bars.close[k + 1])
        return gates.parity(len(evaluated), differing)

    def _holdout(self, best: dict[str, Any], artifact: PolicyArtifact) -> tuple[Gate, tuple[Score, ...]]:
        """Open the hold-out for this artifact, once, and write down what was seen; later judgements read that."""
        ledger = holdout_ledger(self.state_dir)
        if (seen := ledger.verdict(best["artifact"])) is not None:
            return Gate(**seen["gate"]), tuple(Score(**s) for s in seen["scores"])
        if ledger.was_opened(best["artifact"]):
            return gates.holdout_cut_short(), ()
        self.beat("opening the hold-out")
        token = ledger.open(
            artifact=best["artifact"],
            data_sha256=self.dataset.data_sha256,
            who=f"judge of study {self.config.study.name}",
            at_utc=self.clock.now_utc().isoformat(),
        )
        bars, window = self.dataset.with_holdout(token)
        rows = compute(bars, self.dataset.spec)
        comparison = Comparison(
            fee_bps=self.config.costs.fee_bps,
            policy=run_policy(f"trial {best['number']}", artifact, bars, rows, window, self.arena),
            baselines=run_baselines(bars, window, self.arena),
        )
        gate = gates.holdout(comparison, baseline=FIXED_BASELINE, opening=token.opening, rng=self.rng)
        scores = self._scores(comparison)
        ledger.seen(
            artifact=best["artifact"],
            statistics={"gate": gate.to_dict(), "scores": [s.to_dict() for s in scores]},
        )
        return gate, scores

    def _without_champion(
        self, study: str, best: dict[str, Any] | None, measured: tuple[Gate, ...], validation: tuple[Score, ...],
        seen: tuple[Score, ...], reason: str,
    ) -> Judgement:  # fmt: skip
        """The champion there is stays; where there is none, the configured baseline."""
        standing = self._standing_champion()
        if standing is not None:
            return Judgement(
                study=study, trial=None if best is None else best["number"],
                artifact=None if best is None else best["artifact"], champion=standing, holds=standing,
                gates=measured, validation=validation, holdout=seen,
                reason=f"{reason}. The champion {standing[:12]} stays.",
            )  # fmt: skip
        fallback = self._fallback()
        holds = fallback.save(self.state_dir / "artifacts").name
        return Judgement(
            study=study, trial=None if best is None else best["number"], artifact=None if best is None else best["artifact"],
            champion=None, holds=holds, gates=measured, validation=validation, holdout=seen,
            reason=f"{reason}. The trader holds {self.config.promotion.without_champion}.",
        )  # fmt: skip

    def _standing_champion(self) -> str | None:
        """The artifact id of the present champion, if it still fits this market's contract."""
        pointer = self.state_dir / "champion.json"
        standing: str | None = json.loads(pointer.read_bytes())["champion"] if pointer.exists() else None
        if standing is not None:
            try:
                self._load(standing)
            except CappuccinoError:
                return None
        return standing

    def _fallback(self) -> PolicyArtifact:
        """Cash or the equal-weight portfolio as a constant policy: it trades through the same path."""
        n = self.dataset.bars.n_tickers
        share = 1.0 / n if self.config.promotion.without_champion == "equal_weight" else 0.0
        return PolicyArtifact(
            kind="constant", width=1, spec=self.dataset.spec, scaler=self.dataset.fit_scaler(self.dataset.folds[-1].train),
            limits=self.arena.limits, costs=self.arena.costs, venue_rules=self.arena.rules,
            weights={"raw": constant_raw(np.full(n, share))},
            training={"baseline": self.config.promotion.without_champion},
        )  # fmt: skip

    def _load(self, artifact_id: str) -> PolicyArtifact:
        artifact = PolicyArtifact.load(self.state_dir / "artifacts" / artifact_id)
        artifact.require_spec(self.dataset.spec)
        return artifact

    def _publish(self, judgement: Judgement) -> None:
        pointer = self.state_dir / "champion.json"
        history: list[dict[str, Any]] = json.loads(pointer.read_bytes())["history"] if pointer.exists() else []
        now = self.clock.now_utc().isoformat()
        entry = {"decided_utc": now, "champion": judgement.champion, "holds": judgement.holds}
        body = {
            "schema": 1, **entry, "study": judgement.study, "trial": judgement.trial, "reason": judgement.reason,
            "gates": [g.to_dict() for g in judgement.gates], "history": [*history, entry],
        }  # fmt: skip
        reports = self.state_dir / "reports"
        reports.mkdir(parents=True, exist_ok=True)
        stem = reports / f"judgement-{len(history) + 1:04d}"
        write_atomic(stem.with_suffix(".json"), json.dumps(judgement.to_dict(), indent=1).encode())
        write_atomic(stem.with_suffix(".txt"), (judgement.text() + "\n").encode())
        write_atomic(pointer, json.dumps(body, indent=1).encode())


def _shown(gate: Gate) -> str:
    return "not estimable" if gate.value is None else f"{gate.value:.3g}, required {gate.threshold}"
