"""Modes of a search: broad over the whole space, focused on a part of it, or one configuration over and over.

A focused search is a study of its own, linked to its parent; what narrows it is configuration (`study.ranges`), so it is
part of what makes two scores comparable. `cappuccinoctl focus` writes the overlay that begins one.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import optuna

from daemon.child.search import Network, Parameter, narrowed, search_space
from features.errors import ConfigurationError
from features.files import write_atomic
from trainer.space import Hyperparameters, defaults, suggest

MIN_TRIALS = 40  # below, a tenth is fewer than four trials: nothing says where to look
TOP_SHARE = 0.1
KEPT = (0.05, 0.95)  # quantiles of the top group that stay in range
CLAIM_SEEDS = 10  # what it takes to see a difference of one standard deviation (80 % power at 5 %, paired)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a study searches: `searched` parameters with their ranges, `locked` ones with their value."""

    network: Network
    searched: tuple[Parameter, ...]
    locked: Mapping[str, Any]

    @classmethod
    def of(cls, network: Network, stack_bars: int, ranges: Sequence[str]) -> Self:
        """The whole space less `ranges`. Raises ConfigurationError."""
        searched, locked = narrowed(search_space(network, stack_bars), ranges)
        return cls(network=network, searched=searched, locked=locked)

    def suggest(self, trial: optuna.Trial) -> Hyperparameters:
        return replace(defaults(self.network), **self.locked, **{p.name: suggest(p, trial) for p in self.searched})

    def first(self) -> dict[str, Any]:
        """The searched values that a new study tries first: the defaults, as far as they lie within it."""
        known_good = defaults(self.network)
        return {p.name: _nearest(p, getattr(known_good, p.name)) for p in self.searched}

    def allows(self, chosen: Hyperparameters) -> bool:
        values = chosen.to_dict()
        return not any(p.refusal(values[p.name]) for p in self.searched) and all(
            values[name] == value for name, value in self.locked.items()
        )

    def write(self, state_dir: Path, study: str, *, parent: str) -> None:
        """Beside the trials, as plain JSON: the searched ranges, and where they come from."""
        folder = state_dir / "trials" / study
        space = {p.name: p.to_dict() for p in self.searched}
        write_atomic(folder / "space.json", json.dumps(space, indent=1).encode())
        route = {"parent": parent or None, "locked": dict(self.locked)}
        write_atomic(folder / "route.json", json.dumps(route, indent=1).encode())


def around_the_best(trials: Sequence[Mapping[str, Any]], space: Sequence[Parameter]) -> tuple[str, ...]:
    """`study.ranges` that hold the middle nine tenths of the top tenth. trials: records with scores, best first."""
    if len(trials) < MIN_TRIALS:
        raise ConfigurationError(
            f"{len(trials)} trials have a score, at least {MIN_TRIALS} are needed to say where to look"
        )
    top = [t["parameters"] for t in trials[: math.ceil(TOP_SHARE * len(trials))]]
    return tuple(_around(p, [t[p.name] for t in top]) for p in space if all(p.name in t for t in top))


def the_same_again(parameters: Mapping[str, Any], space: Sequence[Parameter]) -> tuple[str, ...]:
    """`study.ranges` that lock everything to one trial's values."""
    return tuple(f"{p.name}={parameters[p.name]}" for p in space)


def overlay(*, name: str, parent: str, policy: Network, ranges: Sequence[str], replicate: bool) -> str:
    """The TOML that begins the study: cappuccinoctl run --config config.toml --config THIS."""
    said = {"name": name, "parent": parent, "policy": policy}
    lines = ["[study]", *(f"{key} = {json.dumps(value)}" for key, value in said.items())]
    lines += [f"seeds = {CLAIM_SEEDS}", "target_trials = 1"] if replicate else []
    return "\n".join([*lines, "ranges = [", *(f"  {json.dumps(r)}," for r in ranges), "]"])


def _nearest(parameter: Parameter, value: Any) -> Any:
    if parameter.choices:
        return value if value in parameter.choices else parameter.choices[0]
    return min(max(value, parameter.low), parameter.high)


def _around(parameter: Parameter, values: Sequence[Any]) -> str:
    if parameter.choices:
        return f"{parameter.name}=" + "|".join(str(c) for c in parameter.choices if c in values)
    low, high = (float(x) for x in np.quantile(values, KEPT))
    if parameter.integer:
        low, high = math.floor(low), math.ceil(high)
    return f"{parameter.name}={low:.6g}..{high:.6g}"
