"""Cross-validation of a study's best trials: every combinatorial split trained and run, as pieces that workers share.

What is trained here is run on the groups it has not seen and thrown away: nothing of it is ever traded.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daemon.child.config import Config
from trainer.baselines import FIXED_BASELINE, run_baselines
from trainer.dataset import Dataset
from trainer.evaluate import Arena, run_policy
from trainer.evidence import TrainFold, packed, unpacked
from trainer.pieces import Piece, work_off
from trainer.rungs import CrossValidated, cross_validated, most_promising, with_finalists
from trainer.study import trial_dir

CROSS = 2_000_000  # replicate numbers from here on are neither a search's nor a judgement's


class CrossValidation:
    """The second rung of one study. trials, everywhere: records of those with a score, best first."""

    def __init__(
        self, *, config: Config, state_dir: Path, dataset: Dataset, arena: Arena, train: TrainFold, beat: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._config, self._state_dir, self._dataset, self._arena = config, state_dir, dataset, arena
        self._train, self._beat = train, beat

    def gather(self, trials: Sequence[Mapping[str, Any]], wait: Callable[[], None]) -> None:
        """Train and run whatever nobody else does, until all of it is there."""
        work_off(self._pieces(trials), wait=wait)

    def results(self, trials: Sequence[Mapping[str, Any]]) -> tuple[CrossValidated, ...]:
        """Best first, the finalists marked; () while a piece of it is missing."""
        pieces = self._pieces(trials)
        if not pieces or not all(p.path.exists() for p in pieces):
            return ()
        found = [self._result(t["number"]) for t in self._chosen(trials)]
        return with_finalists(found, most=self._config.promotion.finalists)

    def _chosen(self, trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        numbers = most_promising([t["number"] for t in trials], most=self._config.promotion.cross_validated)
        return [t for t in trials if t["number"] in numbers]

    def _pieces(self, trials: Sequence[Mapping[str, Any]]) -> list[Piece]:
        chosen = self._chosen(trials)
        if not chosen:
            return []
        splits, seeds = range(len(self._dataset.cross_validation)), range(self._config.promotion.cross_seeds)
        pieces = [self._baseline(group) for group in self._groups]
        return pieces + [
            self._crossed(t["number"], j, s, t["parameters"]) for s in seeds for t in chosen for j in splits
        ]

    @property
    def _groups(self) -> list[range]:
        return sorted({g for split in self._dataset.cross_validation for g in split.tests}, key=lambda g: g.start)

    def _crossed(self, number: int, split: int, seed: int, parameters: Mapping[str, Any] | None = None) -> Piece:
        def make() -> bytes:
            assert parameters is not None
            chosen, data = self._dataset.cross_validation[split], self._dataset
            note = f"trial {number} cross-validated, split {split + 1}/{len(data.cross_validation)}, seed {seed + 1}"
            trained = self._train(
                parameters, chosen, seed=cross_seed(self._config.run.seed, number, split, seed), note=note
            )
            runs = {}
            for group in chosen.tests:
                self._beat(f"{note}, judged from bar {group.start}")
                runs[_name(group)] = run_policy(note, trained, data.bars, data.rows, group, self._arena)
            return packed(runs)

        folder = trial_dir(self._state_dir, self._config.study.name, number) / "crossed"
        return Piece(path=folder / f"split-{split}-seed-{seed}.npz", make=make)

    def _baseline(self, group: range) -> Piece:
        def make() -> bytes:
            self._beat(f"running the baseline from bar {group.start}")
            runs = run_baselines(self._dataset.bars, group, self._arena, only=FIXED_BASELINE)
            return packed({_name(group): runs[FIXED_BASELINE]})

        folder = self._state_dir / "trials" / self._config.study.name / "evidence"
        return Piece(path=folder / f"{FIXED_BASELINE.replace('/', ' of ')} {_name(group)}.npz", make=make)

    def _result(self, number: int) -> CrossValidated:
        splits = self._dataset.cross_validation
        baseline = {_name(g): self._log_wealth(self._baseline(g).path, g) for g in self._groups}
        excess = [
            [
                [self._log_wealth(self._crossed(number, j, s).path, g) - baseline[_name(g)] for g in split.tests]
                for j, split in enumerate(splits)
            ]
            for s in range(self._config.promotion.cross_seeds)
        ]
        bars = np.array([[len(g) - 1 for g in split.tests] for split in splits])
        return cross_validated(number, np.array(excess), bars, splits)

    def _log_wealth(self, path: Path, group: range) -> float:
        return float(np.log1p(unpacked(path, self._arena.initial_cash)[_name(group)].returns).sum())


def cross_seed(base: int, trial: int, split: int, seed: int) -> int:
    return int(np.random.SeedSequence([base, trial, split, CROSS + seed]).generate_state(1)[0])


def _name(group: range) -> str:
    return f"{group.start}-{group.stop}"
