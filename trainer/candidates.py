"""Who stands for champion at a judgement: the best configurations, the first one's seeds averaged, and the best that differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.errors import DataError
from trainer.ensemble import choose_members

Float = NDArray[np.float64]
MCS_SIZE = 0.10  # of the model confidence set: the usual level (Hansen, Lunde & Nason 2011)
MEAN_BLOCK_BARS = 48.0
RESAMPLES = 500


@dataclass(frozen=True, slots=True, order=True)
class Replicate:
    """A trial's configuration trained on a fresh seed: one that had no part in choosing it."""

    trial: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """runs: per judged run the replicates whose targets are averaged in it; the first run's policy is the one to trade."""

    name: str
    runs: tuple[tuple[Replicate, ...], ...]

    @property
    def replicates(self) -> tuple[Replicate, ...]:
        return tuple(sorted({r for run in self.runs for r in run}))

    @property
    def trials(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(r.trial for run in self.runs for r in run))


def stand(
    numbers: Sequence[int], returns: Float, *, n_seeds: int, most_members: int, seed: int, finalists: Sequence[int] = (),
) -> tuple[Candidate, ...]:  # fmt: skip
    """The candidates of a study. numbers: its scored trials, best first; returns: (T, K) theirs, in the same order.

    finalists: what cross-validation chose, best first; without any, the best by score stands. The seeds of the first one
    are averaged too: every further candidate is one more chance for luck.
    """
    if not numbers:
        raise DataError("no trial has a score: nobody stands for champion")
    seeds, (best, *others) = range(n_seeds), finalists or numbers[:1]
    found = [_alone(best, n_seeds)]
    if n_seeds > 1:
        together = tuple(Replicate(best, s) for s in seeds)
        found.append(Candidate(name=f"{n_seeds} seeds of trial {best}, averaged", runs=(together,)))
    found += [_alone(n, n_seeds) for n in others]
    if most_members > 1 and len(numbers) > 1:
        chosen = choose_members(
            returns, size=MCS_SIZE, mean_block=MEAN_BLOCK_BARS, n_resamples=RESAMPLES, rng=np.random.default_rng(seed)
        )  # fmt: skip
        members = [numbers[i] for i in chosen[:most_members]]
        if len(members) > 1:
            name = f"trials {', '.join(map(str, members))}, averaged"
            found.append(Candidate(name=name, runs=tuple(tuple(Replicate(m, s) for m in members) for s in seeds)))
    return tuple(found)


def _alone(trial: int, n_seeds: int) -> Candidate:
    return Candidate(name=f"trial {trial}", runs=tuple((Replicate(trial, s),) for s in range(n_seeds)))
