"""What a judgement looks at: every candidate trained anew on fresh seeds, and run beside the baselines at every fee.

All of it is pieces that the study's workers share and that outlive them (`trainer.pieces`), so a judgement that is begun
again, or that meets the same configuration at the next milestone, computes nothing twice.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from daemon.child.config import Config
from features.artifact import PolicyArtifact, ensemble
from features.files import read_json
from trainer.arrays import npz
from trainer.baselines import run_baselines
from trainer.candidates import Candidate, Replicate
from trainer.dataset import Dataset
from trainer.evaluate import Arena, Run, pooled, run_policy_in_each
from trainer.gates import STRESS_FEES_BPS
from trainer.pieces import Piece, work_off
from trainer.splits import Split
from trainer.study import trial_dir

SHOWN_FEES_BPS = (0.0, 10.0, 25.0, 50.0)
FRESH = 1_000_000  # replicate numbers from here on were never used by a search


class TrainFold(Protocol):
    """Trains one configuration on one split with one seed."""

    def __call__(self, parameters: Mapping[str, Any], fold: Split, *, seed: int, note: str) -> PolicyArtifact: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One candidate's policies and runs. artifacts: [run][fold]; runs: fee in bp → [run][fold].

    parts: at the configured fee, the runs of every replicate by itself over all folds.
    """

    candidate: Candidate
    artifacts: tuple[tuple[PolicyArtifact, ...], ...]
    runs: Mapping[float, tuple[tuple[Run, ...], ...]]
    parts: tuple[Run, ...]

    @property
    def deployed(self) -> PolicyArtifact:
        """The first seed's policy of the last fold: fixed beforehand, never the luckiest."""
        return self.artifacts[0][-1]

    def pooled(self, fee_bps: float) -> tuple[Run, ...]:
        """One run per seed over all folds."""
        return tuple(pooled(self.candidate.name, folds) for folds in self.runs[fee_bps])


class Gatherer:
    """Makes and reads the evidence of one study. `wait` is called while other workers make a piece."""

    def __init__(
        self, *, config: Config, state_dir: Path, dataset: Dataset, arena: Arena, train: TrainFold,
        beat: Callable[[str], None], on_replicate: Callable[[Replicate, int, str], None],
    ) -> None:  # fmt: skip
        self._config, self._state_dir, self._dataset, self._arena = config, state_dir, dataset, arena
        self._train, self._beat, self._on_replicate = train, beat, on_replicate

    @property
    def fees_bps(self) -> tuple[float, ...]:
        """Of a policy; the configured fee first."""
        return tuple(dict.fromkeys((self._config.costs.fee_bps, *SHOWN_FEES_BPS)))

    @property
    def baseline_fees_bps(self) -> tuple[float, ...]:
        return tuple(dict.fromkeys((self._config.costs.fee_bps, *STRESS_FEES_BPS)))

    def gather(
        self, candidates: Sequence[Candidate], parameters: Mapping[int, Mapping[str, Any]],
        wait: Callable[[], None] | None = None,
    ) -> bool:  # fmt: skip
        """Do what nobody else does; True when everything is there. parameters: of every trial that stands."""
        folds = range(len(self._dataset.folds))
        wanted = sorted({r for c in candidates for r in c.replicates}, key=lambda r: (r.seed, r.trial))
        pieces = [self._trained(r, f, parameters[r.trial]) for r in wanted for f in folds]
        pieces += [self._baselines(f, fee) for fee in self.baseline_fees_bps for f in folds]
        if not work_off(pieces, wait=wait):
            return False
        policies = {
            (p.artifact_id, f): p for c in candidates for run in (*c.runs, *((r,) for r in c.replicates))
            for f in folds for p in (self._policy(run, f),)
        }  # fmt: skip
        return work_off([self._evaluated(p, f) for (_, f), p in policies.items()], wait=wait)

    def evidence(self, candidate: Candidate) -> Evidence:
        """After `gather` said that everything is there."""
        folds = range(len(self._dataset.folds))
        artifacts = tuple(tuple(self._policy(run, f) for f in folds) for run in candidate.runs)
        stored = [[self._read(self._evaluated(p, f).path) for f, p in enumerate(run)] for run in artifacts]
        alone = [
            [self._read(self._evaluated(self._policy((r,), f), f).path) for f in folds] for r in candidate.replicates
        ]
        configured = f"{self._config.costs.fee_bps:g}"
        return Evidence(
            candidate=candidate, artifacts=artifacts,
            runs={fee: tuple(tuple(s[f"{fee:g}"] for s in run) for run in stored) for fee in self.fees_bps},
            parts=tuple(pooled(candidate.name, [s[configured] for s in part]) for part in alone),
        )  # fmt: skip

    def baselines(self, fee_bps: float) -> dict[str, tuple[Run, ...]]:
        """Baseline → run per fold at one of `baseline_fees_bps`, after `gather`."""
        folds = [self._read(self._baselines(f, fee_bps).path) for f in range(len(self._dataset.folds))]
        return {name: tuple(f[name] for f in folds) for name in folds[0]}

    def _trained(self, replicate: Replicate, fold: int, parameters: Mapping[str, Any]) -> Piece:
        def make() -> bytes:
            seed = fresh_seed(self._config.run.seed, replicate, fold)
            note = f"trial {replicate.trial} again, fresh seed {replicate.seed + 1}, fold {fold + 1}"
            artifact = self._train(parameters, self._dataset.folds[fold], seed=seed, note=note)
            saved = artifact.save(self._state_dir / "artifacts").name
            self._on_replicate(replicate, fold, saved)
            return json.dumps({"artifact": saved, "seed": seed}).encode()

        return Piece(path=self._replicate_path(replicate, fold), make=make)

    def _policy(self, run: Sequence[Replicate], fold: int) -> PolicyArtifact:
        """The saved policy of one run on one fold; an ensemble is saved when first asked for."""
        artifacts = self._state_dir / "artifacts"
        members = [PolicyArtifact.load(artifacts / read_json(self._replicate_path(r, fold))["artifact"]) for r in run]
        if len(members) == 1:
            return members[0]
        training = {"study": self._config.study.name, "trials": [r.trial for r in run], "seeds": [r.seed for r in run]}
        together = ensemble(members, training=training)
        together.save(artifacts)
        return together

    def _evaluated(self, policy: PolicyArtifact, fold: int) -> Piece:
        name = policy.artifact_id

        def make() -> bytes:
            self._beat(f"judging {name[:12]} at every fee, fold {fold + 1}")
            runs = run_policy_in_each(
                name[:12], policy, self._dataset.bars, self._dataset.rows, self._dataset.folds[fold].validate,
                [self._arena.at_fee(fee) for fee in self.fees_bps],
            )  # fmt: skip
            return packed({f"{fee:g}": run for fee, run in zip(self.fees_bps, runs, strict=True)})

        return Piece(path=self._folder / f"{name}-{fold}.npz", make=make)

    def _baselines(self, fold: int, fee_bps: float) -> Piece:
        def make() -> bytes:
            self._beat(f"running the baselines at {fee_bps:g} bp, fold {fold + 1}")
            where = self._arena.at_fee(fee_bps)
            return packed(run_baselines(self._dataset.bars, self._dataset.folds[fold].validate, where))

        return Piece(path=self._folder / f"baselines-{fee_bps:g}-{fold}.npz", make=make)

    @property
    def _folder(self) -> Path:
        return self._state_dir / "trials" / self._config.study.name / "evidence"

    def _replicate_path(self, replicate: Replicate, fold: int) -> Path:
        folder = trial_dir(self._state_dir, self._config.study.name, replicate.trial) / "replicates"
        return folder / f"seed-{replicate.seed}-fold-{fold}.json"

    def _read(self, path: Path) -> dict[str, Run]:
        return unpacked(path, self._arena.initial_cash)


def fresh_seed(base: int, replicate: Replicate, fold: int) -> int:
    return int(np.random.SeedSequence([base, replicate.trial, fold, FRESH + replicate.seed]).generate_state(1)[0])


def packed(runs: Mapping[str, Run]) -> bytes:
    """Runs by name, without their decisions; `unpacked` reads them."""
    arrays: dict[str, Any] = {"names": np.array(list(runs))}
    for i, run in enumerate(runs.values()):
        arrays[f"{i}.series"] = np.stack([run.returns, run.cash_weight])
        arrays[f"{i}.totals"] = np.array([run.turnover, run.fees, run.n_fills])
    return npz(**arrays)


def unpacked(path: Path, initial_cash: float) -> dict[str, Run]:
    with np.load(path) as stored:
        return {
            str(name): _run(str(name), stored[f"{i}.series"], stored[f"{i}.totals"], initial_cash)
            for i, name in enumerate(stored["names"])
        }


def _run(name: str, series: Any, totals: Any, initial_cash: float) -> Run:
    equity = initial_cash * np.concatenate([[1.0], np.cumprod(1.0 + series[0])])
    return Run(
        name=name, returns=series[0], equity=equity, cash_weight=series[1], turnover=float(totals[0]),
        fees=float(totals[1]), n_fills=int(totals[2]),
    )  # fmt: skip
