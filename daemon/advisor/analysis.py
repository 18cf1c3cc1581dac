"""What the trials say about each hyperparameter: effect, uncertainty and a verdict. Pure; numpy only.

Decoded parameters and scores of completed trials in, plain records out. A parameter on a log scale is compared on the
log scale; groups are compared by rank, so an outlier cannot make a finding; all p-values are corrected together.
Sources: Cliff 1993 (delta), Mann & Whitney 1947 (tie-corrected normal approximation), Benjamini & Hochberg 1995.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
TOP_SHARE = 0.1
MIN_TRIALS = 40  # below, a tenth is fewer than four trials: nothing can be said
LARGE_DELTA = 0.33  # Romano et al. 2006: medium effect
SMALL_DELTA = 0.147
EQUIVALENT_MIN_PER_GROUP = 60
EDGE_SHARE = 0.02  # of the range, at either end
EDGE_P = 0.001
RESAMPLES = 400

Verdict = Literal["matters", "range too narrow", "equivalent", "no evidence", "insufficient data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One finished trial as its plain record has it."""

    number: int
    state: str
    score: float | None
    parameters: Mapping[str, Any]
    seconds: float | None
    failure: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterRow:
    """One parameter: the top tenth against the rest.

    delta: Cliff's delta in [-1, 1], positive when the top group has larger values; q: Benjamini-Hochberg.
    top and rest: medians (numbers) or the commonest choice. edge: share of the top group within 2 % of a bound.
    """

    name: str
    kind: Literal["number", "log number", "choice"]
    n_top: int
    n_rest: int
    top: Any
    rest: Any
    delta: float | None
    delta_low: float | None
    delta_high: float | None
    q: float | None
    edge: str
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the search allows for one parameter."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """n by state, the score's order statistics, operations, and a row per parameter. Scores are t-statistics."""

    n_complete: int
    n_failed: int
    failures: Mapping[str, int]
    best: float | None
    best_number: int | None
    median: float | None
    top_mean: float | None
    top_n: int
    median_seconds: float | None
    rows: tuple[ParameterRow, ...]


def analyse(trials: Sequence[Trial], bounds: Mapping[str, Bounds], rng: np.random.Generator) -> Analysis:
    """The table over every completed trial; `rng` draws the bootstrap intervals."""
    complete = [t for t in trials if t.score is not None]
    failures: dict[str, int] = {}
    for t in trials:
        if t.failure:
            failures[t.failure] = failures.get(t.failure, 0) + 1
    scores = np.array([t.score for t in complete], dtype=float)
    top = _top_mask(scores)
    best = int(scores.argmax()) if len(scores) else None
    seconds = [t.seconds for t in complete if t.seconds is not None]
    return Analysis(
        n_complete=len(complete), n_failed=sum(failures.values()), failures=failures,
        best=None if best is None else float(scores[best]),
        best_number=None if best is None else complete[best].number,
        median=float(np.median(scores)) if len(scores) else None,
        top_mean=float(scores[top].mean()) if len(scores) else None, top_n=int(top.sum()),
        median_seconds=float(np.median(seconds)) if seconds else None,
        rows=_rows(complete, top, bounds, rng),
    )  # fmt: skip


def _top_mask(scores: Float) -> NDArray[np.bool_]:
    """The best tenth, rounded up, ties included."""
    if len(scores) == 0:
        return np.zeros(0, dtype=np.bool_)
    count = math.ceil(TOP_SHARE * len(scores))
    mask: NDArray[np.bool_] = scores >= np.sort(scores)[-count]
    return mask


def _rows(
    trials: Sequence[Trial], top: NDArray[np.bool_], bounds: Mapping[str, Bounds], rng: np.random.Generator
) -> tuple[ParameterRow, ...]:
    measured = [_measure(name, bound, trials, top, rng) for name, bound in bounds.items()]
    q_values = benjamini_hochberg([1.0 if m["p"] is None else m["p"] for m in measured])
    return tuple(_row(m, q, len(trials)) for m, q in zip(measured, q_values, strict=True))


def _measure(
    name: str, bound: Bounds, trials: Sequence[Trial], top: NDArray[np.bool_], rng: np.random.Generator
) -> dict[str, Any]:
    raw = [t.parameters[name] for t in trials]
    facts: dict[str, Any] = {"name": name, "bound": bound, "p": None, "delta": None, "ci": (None, None), "edge": ""}
    facts |= {"n_top": int(top.sum()), "n_rest": int((~top).sum())}
    if bound.choices:
        groups = [[v for v, is_top in zip(raw, top, strict=True) if is_top == side] for side in (True, False)]
        facts |= {"kind": "choice", "top": _commonest(groups[0]), "rest": _commonest(groups[1])}
        if len(trials) >= MIN_TRIALS:
            facts["p"] = _permutation_p([bound.choices.index(v) for v in raw], top, rng)
        return facts
    values = np.array(raw, dtype=float)
    scaled = np.log10(values) if bound.log else values
    facts |= {"kind": "log number" if bound.log else "number"}
    facts |= {"top": _median(values[top]), "rest": _median(values[~top])}
    if len(trials) >= MIN_TRIALS and facts["n_rest"] > 0:
        facts["p"] = mann_whitney_p(scaled[top], scaled[~top])
        facts["delta"] = cliffs_delta(scaled[top], scaled[~top])
        facts["ci"] = _delta_interval(scaled[top], scaled[~top], rng)
        facts["edge"] = _edge(scaled[top], bound)
    return facts


def _row(m: Mapping[str, Any], q: float, n: int) -> ParameterRow:
    known = m["p"] is not None
    return ParameterRow(
        name=m["name"], kind=m["kind"], n_top=m["n_top"], n_rest=m["n_rest"], top=m["top"], rest=m["rest"],
        delta=m["delta"], delta_low=m["ci"][0], delta_high=m["ci"][1], q=q if known else None, edge=m["edge"],
        verdict=_verdict(m, q, n),
    )  # fmt: skip


def _verdict(m: Mapping[str, Any], q: float, n: int) -> Verdict:
    if n < MIN_TRIALS or m["p"] is None:
        return "insufficient data"
    strong = m["delta"] is None or abs(m["delta"]) >= LARGE_DELTA
    if q < 0.05 and strong:
        return "range too narrow" if m["edge"] else "matters"
    low, high = m["ci"]
    narrow = low is not None and low > -SMALL_DELTA and high < SMALL_DELTA
    if narrow and min(m["n_top"], m["n_rest"]) >= EQUIVALENT_MIN_PER_GROUP:
        return "equivalent"
    return "no evidence"


def cliffs_delta(a: Float, b: Float) -> float:
    """P(a > b) − P(a < b) over all pairs."""
    return float(np.sign(a[:, None] - b[None, :]).mean())


def mann_whitney_p(a: Float, b: Float) -> float:
    """Two-sided p by the normal approximation with tie and continuity correction."""
    n, m = len(a), len(b)
    both = np.concatenate([a, b])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2.0)[inverse]
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    total = n + m
    variance = n * m / 12.0 * (total + 1 - float((counts**3 - counts).sum()) / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    z = max(0.0, abs(u - n * m / 2) - 0.5) / math.sqrt(variance)
    return 2.0 * (1.0 - NormalDist().cdf(z))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (q) in the given order."""
    order = np.argsort(p_values)[::-1]
    adjusted, least, n = [1.0] * len(p_values), 1.0, len(p_values)
    for i, index in enumerate(order):
        least = min(least, p_values[index] * n / (n - i))
        adjusted[index] = least
    return adjusted


def _delta_interval(a: Float, b: Float, rng: np.random.Generator) -> tuple[float, float]:
    drawn = [cliffs_delta(rng.choice(a, len(a)), rng.choice(b, len(b))) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _permutation_p(codes: Sequence[int], top: NDArray[np.bool_], rng: np.random.Generator) -> float:
    """p that the top group's mix of choices differs from the rest by chance: chi-square under permutation."""
    values, mask = np.array(codes), top.copy()

    def distance(of: NDArray[np.bool_]) -> float:
        expected = np.bincount(values) * of.mean()
        seen = np.bincount(values[of], minlength=len(expected))
        return float(((seen - expected) ** 2 / np.maximum(expected, 1e-9)).sum())

    observed = distance(mask)
    exceed = sum(distance(rng.permutation(mask)) >= observed - 1e-12 for _ in range(RESAMPLES * 5))
    return (exceed + 1) / (RESAMPLES * 5 + 1)


def _edge(scaled_top: Float, bound: Bounds) -> str:
    """Which bound the top group crowds: more of it lies there than an even spread would put there by chance."""
    assert bound.low is not None and bound.high is not None
    low, high = (math.log10(bound.low), math.log10(bound.high)) if bound.log else (bound.low, bound.high)
    margin = EDGE_SHARE * (high - low)
    at_low, at_high = int((scaled_top <= low + margin).sum()), int((scaled_top >= high - margin).sum())
    if _binomial_tail(max(at_low, at_high), len(scaled_top), EDGE_SHARE) >= EDGE_P:
        return ""
    where, count = ("lower", at_low) if at_low >= at_high else ("upper", at_high)
    return f"{count / len(scaled_top):.0%} at the {where} bound"


def _binomial_tail(k: int, n: int, p: float) -> float:
    """P(X ≥ k) of n draws."""
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def _median(values: Float) -> float | None:
    return float(np.median(values)) if len(values) else None


def _commonest(values: Sequence[Any]) -> Any:
    return max(sorted(set(values), key=str), key=values.count) if values else None
