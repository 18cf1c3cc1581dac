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

from features.errors import ConfigurationError
from features.files import write_atomic
from trainer.space import Hyperparameters, Network, Parameter, defaults, search_space

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
        """The whole space less `ranges`; ConfigurationError names every one that is not inside it.

        "width=32" locks a parameter, "head=gaussian|dirichlet" and "gamma=0.97..0.99" narrow it.
        """
        space = {p.name: p for p in search_space(network, stack_bars)}
        locked: dict[str, Any] = {}
        problems = []
        for text in ranges:
            name, _, rest = (part.strip() for part in text.partition("="))
            if name not in space:
                problems.append(f"{text}: {name!r} is not searched here" if name not in locked else f"{text}: twice")
                continue
            try:
                narrowed = _narrowed(space[name], rest)
            except ValueError as error:
                problems.append(f"{text}: {error}")
                continue
            if isinstance(narrowed, Parameter):
                space[name] = narrowed
            else:
                locked[name] = narrowed.value
                del space[name]
        if problems:
            raise ConfigurationError(
                "study.ranges does not fit the space:\n  " + "\n  ".join(problems),
                hint='write "width=32", "head=gaussian|dirichlet" or "gamma=0.97..0.99"',
            )
        return cls(network=network, searched=tuple(space.values()), locked=locked)

    def suggest(self, trial: optuna.Trial) -> Hyperparameters:
        return replace(defaults(self.network), **self.locked, **{p.name: p.suggest(trial) for p in self.searched})

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


@dataclass(frozen=True, slots=True)
class _Locked:
    value: Any


def _narrowed(parameter: Parameter, text: str) -> Parameter | _Locked:
    """ValueError says why not."""
    if parameter.choices:
        wanted = [part.strip() for part in text.split("|")]
        unknown = [w for w in wanted if w not in map(str, parameter.choices)]
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is none of {parameter.choices}")
        kept = tuple(c for c in parameter.choices if str(c) in wanted)
        return _Locked(kept[0]) if len(kept) == 1 else replace(parameter, choices=kept)
    low, dots, high = text.partition("..")
    ends = [_number(parameter, end) for end in ((low, high) if dots else (low,))]
    if why := next((why for end in ends if (why := parameter.refusal(end))), ""):
        raise ValueError(why)
    if ends[0] > ends[-1]:
        raise ValueError("its low end is above its high end")
    return _Locked(ends[0]) if ends[0] == ends[-1] else replace(parameter, low=ends[0], high=ends[-1])


def _number(parameter: Parameter, text: str) -> float:
    value = float(text)
    return int(value) if parameter.integer and value == int(value) else value


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
