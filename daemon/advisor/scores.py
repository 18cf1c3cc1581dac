"""What the scores say of the search as a whole: how good, how lucky, how noisy, and how much is left. Pure.

Sources: Hosking & Wallis 1987 (generalised Pareto tail by probability-weighted moments); Wilson & Hilferty 1931
(chi-square quantiles); the normal-normal posterior mean for what the best of many is worth.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from daemon.advisor.effects import Float
from daemon.advisor.parameters import top_mask, unit
from daemon.advisor.records import Bounds, Trial

EULER_GAMMA = 0.5772156649015329
TAIL_MIN = 20  # exceedances below which no tail is fitted
TAIL_RESAMPLES = 400
AHEAD = 50  # trials ahead: one cycle of the advisor
NEIGHBOURS_OF = 1500  # trials among which nearest neighbours are looked for
_NORMAL = NormalDist()

NoiseSource = Literal["replicates", "nearest neighbours", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """SD of the score of one configuration run again, 95 % interval. From nearest neighbours it is an upper bound.

    local_sd: how much neighbouring configurations truly differ, beyond noise.
    """

    sd: float | None
    low: float | None
    high: float | None
    degrees: int
    source: NoiseSource
    local_sd: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """Where the scores end if their upper tail goes on as it is: `end` None when no end shows. 90 % interval."""

    end: float | None
    low: float | None
    high: float | None
    shape: float | None
    exceedances: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFacts:
    """The distribution of n scores. All in the unit of the score except counts, shares and probabilities.

    best_age: trials ended since the best. half_by: trials until half of the improvement over the first was made.
    chance_best: what the best of n would be if all were equal and the spread were luck. keep: the share of a score's
    distance from the mean that is skill. shrunken: what the best is worth on average, with a 95 % interval.
    p_improve: probability that one of the next AHEAD trials is better, if they are drawn like those so far.
    """

    n: int
    best: float
    best_number: int
    best_age: int
    half_by: int
    mean: float
    median: float
    sd: float
    top_n: int
    top_low: float
    top_mean: float
    top_sd: float
    chance_best: float
    p_improve: float
    noise: Noise
    keep: float | None
    shrunken: float | None
    shrunken_low: float | None
    shrunken_high: float | None
    tail: Tail | None
    regret: float | None


def score_facts(trials: Sequence[Trial], bounds: Mapping[str, Bounds], rng: np.random.Generator) -> ScoreFacts | None:
    """trials: those with a score, in the order they ran. None of none."""
    if not trials:
        return None
    scores = np.array([t.score for t in trials], dtype=float)
    n, best, top = len(scores), int(scores.argmax()), top_mask(scores)
    sd = float(scores.std(ddof=1)) if n > 1 else 0.0
    noise = noise_of(trials, bounds)
    keep, shrunken, half = _shrunken(scores, noise)
    tail = tail_end(scores, rng)
    return ScoreFacts(
        n=n, best=float(scores[best]), best_number=trials[best].number, best_age=n - 1 - best,
        half_by=_half_by(scores), mean=float(scores.mean()), median=float(np.median(scores)), sd=sd,
        top_n=int(top.sum()), top_low=float(scores[top].min()), top_mean=float(scores[top].mean()),
        top_sd=float(scores[top].std(ddof=1)) if top.sum() > 1 else 0.0,
        chance_best=float(scores.mean()) + sd * expected_max(n), p_improve=AHEAD / (n + AHEAD), noise=noise, keep=keep,
        shrunken=shrunken, shrunken_low=None if shrunken is None else shrunken - half,
        shrunken_high=None if shrunken is None else shrunken + half, tail=tail,
        regret=None if tail is None or tail.end is None else tail.end - float(scores.max()),
    )  # fmt: skip


def expected_max(n: int) -> float:
    """E[max] of n independent standard normals; 0 below two."""
    if n < 2:
        return 0.0
    return (1 - EULER_GAMMA) * _NORMAL.inv_cdf(1 - 1 / n) + EULER_GAMMA * _NORMAL.inv_cdf(1 - 1 / (n * math.e))


def noise_of(trials: Sequence[Trial], bounds: Mapping[str, Bounds]) -> Noise:
    """From completed trials of equal parameters where there are any; else bounded by the nearest neighbours."""
    groups: dict[str, list[float]] = {}
    for t in trials:
        assert t.score is not None
        groups.setdefault(repr(sorted(t.parameters.items())), []).append(t.score)
    repeated = [np.array(g) for g in groups.values() if len(g) > 1]
    degrees = sum(len(g) - 1 for g in repeated)
    near = _neighbour_variance(trials, bounds)
    if degrees == 0:
        if near is None:
            return Noise(sd=None, low=None, high=None, degrees=0, source="unknown")
        return Noise(sd=math.sqrt(near), low=0.0, high=math.sqrt(near), degrees=0, source="nearest neighbours")
    variance = sum(float(((g - g.mean()) ** 2).sum()) for g in repeated) / degrees
    low, high = (math.sqrt(variance * degrees / _chi_square(p, degrees)) for p in (0.975, 0.025))
    return Noise(
        sd=math.sqrt(variance), low=low, high=high, degrees=degrees, source="replicates",
        local_sd=math.sqrt(max(0.0, (near or 0.0) - variance)),
    )  # fmt: skip


def tail_end(scores: Float, rng: np.random.Generator) -> Tail | None:
    """Generalised Pareto fit to the top tenth; None when that is too few scores or they do not differ."""
    ordered = np.sort(scores)
    count = max(TAIL_MIN, math.ceil(len(scores) / 10))
    if len(scores) < 2 * TAIL_MIN or ordered[-1] <= ordered[-count - 1]:
        return None
    threshold = float(ordered[-count - 1])
    over = ordered[-count:] - threshold
    end, shape = _pareto_end(over)
    ends = np.array([_pareto_end(np.sort(rng.choice(over, len(over))))[0] for _ in range(TAIL_RESAMPLES)])
    low, high = np.quantile(np.maximum(ends, over[-1]), [0.05, 0.95], method="higher")
    return Tail(
        end=_finite(threshold + max(end, float(over[-1]))), low=_finite(threshold + float(low)),
        high=_finite(threshold + float(high)), shape=_finite(shape), exceedances=count,
    )  # fmt: skip


def _pareto_end(over: Float) -> tuple[float, float]:
    """(end above the threshold, infinite when the tail has none; shape xi) by probability-weighted moments."""
    n = len(over)
    place = (np.arange(1, n + 1) - 0.35) / n
    first, second = float(over.mean()), float(((1 - place) * over).mean())
    if first <= 2 * second:
        return math.inf, math.inf
    k = first / (first - 2 * second) - 2
    return (2 * first * second / (first - 2 * second) / k if k > 0 else math.inf), -k


def _shrunken(scores: Float, noise: Noise) -> tuple[float | None, float | None, float]:
    """(share of the spread that is not noise, posterior mean of the best, 95 % half-width)."""
    if noise.sd is None or len(scores) < 3:
        return None, None, 0.0
    total = float(scores.var(ddof=1))
    keep = max(0.0, 1.0 - noise.sd**2 / total) if total > 0 else 0.0
    mean = float(scores.mean())
    spread = 1.96 * math.sqrt(keep * noise.sd**2 + (1 - keep) ** 2 * total / len(scores))
    return keep, mean + keep * (float(scores.max()) - mean), spread


def _half_by(scores: Float) -> int:
    path = np.maximum.accumulate(scores)
    return int(np.argmax(path >= (path[0] + path[-1]) / 2)) + 1


def _neighbour_variance(trials: Sequence[Trial], bounds: Mapping[str, Bounds]) -> float | None:
    """Half the mean squared difference of each trial from its nearest neighbour (Rice 1984): noise, and a little more."""
    names = [n for n in bounds if all(n in t.parameters for t in trials)]
    if len(trials) < 40 or not names:
        return None
    chosen = [trials[i] for i in np.unique(np.linspace(0, len(trials) - 1, NEIGHBOURS_OF).round().astype(int))]
    scores = np.array([t.score for t in chosen], dtype=float)
    far = np.zeros((len(chosen), len(chosen)), dtype=np.float32)
    for name in names:
        far += distances(chosen, chosen, name, bounds[name])
    far[far <= 1e-9] = np.inf  # itself, and replicates: those are told apart
    nearest = far.argmin(axis=1)
    known = np.isfinite(far[np.arange(len(chosen)), nearest])
    return float(((scores - scores[nearest]) ** 2)[known].mean() / 2.0) if known.any() else None


def distances(ours: Sequence[Trial], theirs: Sequence[Trial], name: str, bound: Bounds) -> Any:
    """(len(ours), len(theirs)) distance in one parameter: share of its range, or 1 between different choices."""
    a, b = [t.parameters[name] for t in ours], [t.parameters[name] for t in theirs]
    if bound.choices:
        left, right = (np.array([bound.choices.index(v) for v in x]) for x in (a, b))
        return (left[:, None] != right[None, :]).astype(np.float32)
    x, y = unit(a, bound).astype(np.float32), unit(b, bound).astype(np.float32)
    return np.abs(x[:, None] - y[None, :])


def _chi_square(p: float, degrees: int) -> float:
    """Quantile by Wilson & Hilferty; within 1 % from three degrees of freedom on."""
    c = 2.0 / (9.0 * degrees)
    return max(1e-9, degrees * (1 - c + _NORMAL.inv_cdf(p) * math.sqrt(c)) ** 3)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
