"""Advice that is tried: its trials are queued as pairs, the proposal beside what the sampler would draw at that moment.

A pair is written down before either half is queued, and a half that is on record and not in the study is queued by
whoever looks next: a worker killed at any point neither loses half a pair nor runs one twice. All of it under the
study's lock.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from daemon.child.advice import Half, Pair, Source, Span, Standing, read_pairs
from trainer.routes import Route
from trainer.sampling import ThinnedTPE


class ConfinedSampler(BaseSampler):
    """TPE; a value that it draws outside `within` is drawn anew, evenly, inside.

    The distributions stay those of the study: with narrower ones TPE would model every such parameter by itself.
    """

    def __init__(self, *, startup_trials: int, seed: int, within: Mapping[str, Span] | None = None) -> None:
        self.within: Mapping[str, Span] = within or {}
        self._tpe = ThinnedTPE(n_startup_trials=startup_trials, multivariate=True, constant_liar=True, seed=seed)
        self._evenly = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn = self._tpe.sample_relative(study, trial, search_space)
        return {name: self._inside(study, trial, name, search_space[name], value) for name, value in drawn.items()}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        drawn = self._tpe.sample_independent(study, trial, param_name, param_distribution)
        return self._inside(study, trial, param_name, param_distribution, drawn)

    def reseed_rng(self) -> None:
        self._tpe.reseed_rng()
        self._evenly.reseed_rng()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._tpe.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._tpe.after_trial(study, trial, state, values)

    def _inside(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution, value: Any
    ) -> Any:
        span = self.within.get(name)
        if span is None or span.holds(value):
            return value
        return self._evenly.sample_independent(study, trial, name, _confined(distribution, span))


class Pairing:
    """Queues the next pair when one is due: at most `share` of the study's trials are halves of the advisor's choosing."""

    def __init__(
        self, *, state_dir: Path, study: str, route: Route, share: float, startup_trials: int, seed: int,
        crash_point: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._state_dir, self._study, self._route, self._share = state_dir, study, route, share
        self._startup_trials, self._seed, self._crash_point = startup_trials, seed, crash_point

    def queue(self, study: optuna.Study, standing: Standing, *, room: int) -> None:
        """Complete what a killed worker left, else begin a pair if one is due. room: trials still to be begun."""
        trials = study.get_trials(deepcopy=False)
        pairs = read_pairs(self._state_dir, self._study)
        self._complete(study, trials, pairs)
        if any(t.state == TrialState.WAITING for t in study.get_trials(deepcopy=False)):
            return
        source = self._next(standing, pairs)
        if source is None or room < 2:
            return
        begun = sum(not t.user_attrs.get("requeued", False) for t in trials)
        if len(pairs) + 1 > self._share * (begun + 2):
            return
        pair = self._drawn(standing, source, trials, pairs)
        pair.write(self._state_dir, self._study)
        self._crash_point("pair written")
        self._complete(study, trials, [pair])

    def _complete(self, study: optuna.Study, trials: Sequence[FrozenTrial], pairs: Sequence[Pair]) -> None:
        there = {(t.user_attrs["pair"], t.user_attrs["half"]) for t in trials if "pair" in t.user_attrs}
        for pair in pairs:
            for position, half in enumerate(pair.halves):
                if (pair.number, position) not in there:
                    study.enqueue_trial(
                        dict(half.parameters),
                        user_attrs={"pair": pair.number, "half": position, "seed_number": pair.seed_number},
                    )
                    self._crash_point(f"half {position} queued")

    def _next(self, standing: Standing, pairs: Sequence[Pair]) -> Source | None:
        """The source with fewest pairs so far; what does not fit the study's ranges is no source."""
        spent = {s.proposal: sum(p.proposal == s.proposal for p in pairs) for s in standing.sources}
        left = [s for s in standing.sources if spent[s.proposal] < s.pairs and self._fits(s)]
        return min(left, key=lambda s: spent[s.proposal], default=None)

    def _fits(self, source: Source) -> bool:
        searched = {p.name: p for p in self._route.searched}
        if source.parameters is None:
            return source.ranges.keys() <= searched.keys()
        return source.parameters.keys() == searched.keys() and not any(
            searched[name].refusal(value) for name, value in source.parameters.items()
        )

    def _drawn(
        self, standing: Standing, source: Source, trials: Sequence[FrozenTrial], pairs: Sequence[Pair]
    ) -> Pair:  # fmt: skip
        """Both halves, drawn now. The order is a coin's: whatever time does to a trial it does to both sides."""
        # a backup of the study knows pairs whose records are gone
        used = [p.number for p in pairs] + [t.user_attrs["pair"] for t in trials if "pair" in t.user_attrs]
        number = 1 + max(used, default=-1)
        control_seed, proposal_seed, coin = np.random.SeedSequence([self._seed, number]).generate_state(3)
        parameters = source.parameters
        if parameters is None:
            parameters = self._draw(trials, {**standing.ranges, **source.ranges}, seed=int(proposal_seed))
        halves = [Half(arm="proposal", parameters=parameters)]
        if source.paired:
            control = self._draw(trials, standing.ranges, seed=int(control_seed))
            halves.insert(int(coin) % 2, Half(arm="control", parameters=control))
        return Pair(number=number, proposal=source.proposal, seed_number=len(trials), halves=tuple(halves))

    def _draw(self, trials: Sequence[FrozenTrial], within: Mapping[str, Span], *, seed: int) -> dict[str, Any]:
        """What the sampler would draw next, on a copy: asking the study itself would leave a trial behind."""
        sampler = ConfinedSampler(startup_trials=self._startup_trials, seed=seed, within=within)
        copy = optuna.create_study(direction="maximize", sampler=sampler)
        copy.add_trials(t for t in trials if t.state != TrialState.WAITING)
        trial = copy.ask()
        self._route.suggest(trial)
        return dict(trial.params)


def _confined(distribution: BaseDistribution, span: Span) -> BaseDistribution:
    match distribution:
        case FloatDistribution():
            return FloatDistribution(span.low, span.high, log=distribution.log)
        case IntDistribution():
            return IntDistribution(int(np.ceil(span.low)), int(np.floor(span.high)), log=distribution.log)
        case CategoricalDistribution():
            return CategoricalDistribution(span.choices)
        case _:
            raise TypeError(f"no parameter of the space has a {type(distribution).__name__}")
