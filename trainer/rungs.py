"""How far a trial goes: screened on a short budget, trained in full, cross-validated, judged on fresh seeds. Pure.

Source of the screening: Li et al. 2020 ("A System for Massively Parallel Hyperparameter Tuning", asynchronous successive
halving), in the form that decides at once: a trial is never paused and taken up again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.baselines import FIXED_BASELINE
from trainer.splits import CombinatorialSplit

Float = NDArray[np.float64]
SCREEN_FOLDS = 3  # at most: a short look at three regimes, whatever the number of folds
TOP_SHARE = 0.1  # of the trials with a score go on to cross-validation


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """A trial's score on the short budget, its rank (1 is best) among the `of` screenings so far, and what follows."""

    score: float
    rank: int
    of: int
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def screened(score: float, earlier: Sequence[float], *, keep: float, spared: int) -> Screening:
    """earlier: scores of the other trials' screenings, in any order. keep: share that goes on; the first `spared` all do.

    The best so far always goes on, whatever the share. A tie is the earlier one's.
    """
    of, rank = len(earlier) + 1, 1 + sum(e >= score for e in earlier)
    return Screening(score=score, rank=rank, of=of, passed=of <= spared or rank <= math.ceil(keep * of))


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidated:
    """A configuration trained on every combinatorial split, over the fixed baseline.

    excess: mean excess log return per bar. t: of it over the splits, by Nadeau & Bengio 2003, since they overlap.
    path_quartile: the lower quartile over paths and seeds. group_quartile: over the groups of all paths and seeds, each
    about as long as a hold-out. finalist: it stands for champion.
    """

    trial: int
    n_splits: int
    n_paths: int
    n_seeds: int
    excess: float
    t: float
    path_quartile: float
    group_quartile: float
    finalist: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def most_promising(numbers: Sequence[int], *, most: int) -> tuple[int, ...]:
    """Who is cross-validated: the best tenth, at most `most`. numbers: of the trials with a score, best first."""
    return tuple(numbers[: min(most, math.ceil(TOP_SHARE * len(numbers)))])


def with_finalists(results: Sequence[CrossValidated], *, most: int) -> tuple[CrossValidated, ...]:
    """Best first; the first `most` are finalists. results: in the order of the search's scores, which settles a tie."""
    ranked = sorted(results, key=lambda r: -r.t)
    return tuple(replace(r, finalist=i < most) for i, r in enumerate(ranked))


def cross_validated(
    trial: int, excess: Float, bars: NDArray[np.int64], splits: Sequence[CombinatorialSplit]
) -> CrossValidated:
    """excess: (S, J, k) sums of excess log return of S seeds over the k groups of J splits; bars: (J, k) theirs."""
    n_seeds, n_splits, _ = excess.shape
    by_split = excess.mean(axis=0).sum(axis=1) / bars.sum(axis=1)
    test_share = float(np.mean([t.sum() / sum(map(len, s.train)) for t, s in zip(bars, splits, strict=True)]))
    mean, error = float(by_split.mean()), math.sqrt((1.0 / n_splits + test_share) * float(by_split.var(ddof=1)))
    path = np.array([s.paths for s in splits])
    n_paths = int(path.max()) + 1
    per_path = [excess[:, path == p].sum(axis=1) / bars[path == p].sum() for p in range(n_paths)]
    return CrossValidated(
        trial=trial, n_splits=n_splits, n_paths=n_paths, n_seeds=n_seeds, excess=mean, t=mean / error if error else 0.0,
        path_quartile=float(np.quantile(per_path, 0.25)), group_quartile=float(np.quantile(excess / bars, 0.25)),
    )  # fmt: skip


def rung(record: Mapping[str, Any], *, judged: bool) -> str:
    """How far a trial came. record: its plain one; judged: trained anew on fresh seeds and judged."""
    if judged:
        return "R3, judged on fresh seeds"
    if "cross_validation" in record:
        return "R2, cross-validated"
    return "R0, screened" if record.get("failure") == "screened" else "R1, trained on all folds"


def cross_text(results: Sequence[CrossValidated]) -> str:
    """A table a person reads; bp are of log return per bar over the fixed baseline."""
    first = results[0]
    lines = [
        f"cross-validation: {first.n_splits} splits, {first.n_paths} paths, {first.n_seeds} seed(s), over {FIXED_BASELINE}",
        f"{'trial':<12}{'excess, bp a bar':>18}{'t':>8}{'lower quartile of paths':>26}{'of groups':>12}",
    ]
    for r in results:
        name = f"{r.trial}{', finalist' if r.finalist else ''}"
        lines.append(
            f"{name:<14}{1e4 * r.excess:>16.3f}{r.t:>8.2f}{1e4 * r.path_quartile:>26.3f}{1e4 * r.group_quartile:>12.3f}"
        )
    return "\n".join(lines)
