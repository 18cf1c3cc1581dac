"""How far a trial goes: screened on a short budget, trained in full, cross-validated, judged on fresh seeds. Pure.

Source of the screening: Li et al. 2020 ("A System for Massively Parallel Hyperparameter Tuning", asynchronous successive
halving), in the form that decides at once: a trial is never paused and taken up again.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

SCREEN_FOLDS = 3  # at most: a short look at three regimes, whatever the number of folds


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
