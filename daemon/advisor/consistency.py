"""Whether the best three trials agree with one another more than chance makes three trials agree. Pure.

A sampler that draws each trial near the last good one makes relatives; relatives agree in everything, also in what does
not matter. So three trials are compared with random triples of all trials, and of the trials most like them in every
*other* parameter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from daemon.advisor.effects import Float
from daemon.advisor.parameters import MIN_TRIALS, unit
from daemon.advisor.records import Bounds, Trial
from daemon.advisor.scores import distances

NEIGHBOURS = 50
TRIPLES = 1000
P = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One parameter of the best three. spread: share of the searched range; None for a choice, whose values are counted.

    p_all, p_neighbours: how often a random triple, of all trials or of relatives, agrees at least as well.
    """

    name: str
    values: tuple[Any, ...]
    spread: float | None
    p_all: float
    p_neighbours: float


def agreement(trials: Sequence[Trial], bounds: Mapping[str, Bounds], rng: np.random.Generator) -> tuple[Agreement, ...]:
    """A row per parameter that every trial has; none from fewer than MIN_TRIALS trials."""
    names = [n for n in bounds if all(n in t.parameters for t in trials)]
    if len(trials) < MIN_TRIALS or not names:
        return ()
    ordered = sorted(trials, key=lambda t: (-(t.score or 0.0), t.number))
    three, others = ordered[:3], ordered[3:]
    apart = {n: np.asarray(distances(three, others, n, bounds[n])).mean(axis=0) for n in names}
    total = np.sum(list(apart.values()), axis=0)
    anywhere = _triples(len(trials), rng)
    rows = []
    for name in names:
        places = _places(ordered, name, bounds[name])
        seen = float(_spread(places[None, :3], bounds[name])[0])
        near = 3 + np.argsort(total - apart[name], kind="stable")[:NEIGHBOURS]
        random = [_spread(places[index], bounds[name]) for index in (anywhere, near[_triples(len(near), rng)])]
        p_all, p_near = ((1 + int((s <= seen + 1e-9).sum())) / (1 + TRIPLES) for s in random)
        values = tuple(t.parameters[name] for t in three)
        spread = None if bounds[name].choices else seen
        rows.append(Agreement(name=name, values=values, spread=spread, p_all=p_all, p_neighbours=p_near))
    return tuple(rows)


def _triples(n: int, rng: np.random.Generator) -> Any:
    """(TRIPLES, 3) different indices below n."""
    if n > 200:  # drawn with replacement, three of so many are different but for one in fifty
        return rng.integers(0, n, size=(TRIPLES, 3))
    return np.argsort(rng.random((TRIPLES, n)), axis=1)[:, :3]


def _places(trials: Sequence[Trial], name: str, bound: Bounds) -> Float:
    values = [t.parameters[name] for t in trials]
    return np.array([bound.choices.index(v) for v in values], dtype=float) if bound.choices else unit(values, bound)


def _spread(places: Float, bound: Bounds) -> Float:
    """(R,) of (R, 3) places."""
    if bound.choices:
        ordered = np.sort(places, axis=1)
        return np.asarray((np.diff(ordered, axis=1) > 0).sum(axis=1), dtype=float)
    return np.asarray(np.ptp(places, axis=1), dtype=float)
