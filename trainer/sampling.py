"""TPE whose price does not grow with the study: of a long history it looks at the best and at an even sample of the rest.

TPE compares the density of the 25 best trials with that of all others, a kernel each, and translates every parameter of
every trial anew each time it is asked: with 5,000 trials of 24 parameters a third of a second. The density of the others
is as well known from hundreds as from thousands; the best are all kept, and so is what runs now (`constant_liar`).
"""

import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

HISTORY = 600
KEPT_BEST = 100  # four times what TPE ever counts among the best


class ThinnedTPE(optuna.samplers.TPESampler):
    """`TPESampler` exactly, as long as no more than HISTORY trials have ended."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        shown: Any = _Shown(study)
        return super().sample_relative(shown, trial, search_space)


class _Shown:
    """A study that shows samplers fewer of its trials."""

    def __init__(self, study: optuna.Study) -> None:
        self._of = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)

    def _get_trials(self, *arguments: Any, **named: Any) -> list[FrozenTrial]:
        return thinned(self._of._get_trials(*arguments, **named))  # noqa: SLF001  what samplers ask for trials


def thinned(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """In their order: all that run, the KEPT_BEST of those that ended, and every n-th of the others up to HISTORY."""
    ended = [t for t in trials if t.state != TrialState.RUNNING]
    if len(ended) <= HISTORY:
        return list(trials)
    order = sorted(range(len(ended)), key=lambda i: -_score(ended[i]))
    rest = sorted(order[KEPT_BEST:])
    kept = {ended[i].number for i in (*order[:KEPT_BEST], *rest[:: math.ceil(len(rest) / (HISTORY - KEPT_BEST))])}
    return [t for t in trials if t.state == TrialState.RUNNING or t.number in kept]


def _score(trial: FrozenTrial) -> float:
    """Studies maximise; a pruned trial, whose value is of some folds only, is not among the best."""
    return trial.value if trial.state == TrialState.COMPLETE and trial.value is not None else -math.inf
