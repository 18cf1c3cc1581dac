"""What the trials say about each searched parameter: effect, uncertainty and a verdict. Pure.

Decoded values of completed trials in, a row per parameter out. A parameter on a log scale is compared on the log scale;
groups are compared by rank, so an outlier cannot make a finding; all p-values are corrected together; and a conditional
parameter is compared among the trials that have it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from daemon.advisor import effects
from daemon.advisor.effects import Codes, Float, Mask
from daemon.advisor.importance import Importance, importances, strata_of
from daemon.advisor.records import Bounds, Trial

TOP_SHARE = 0.1
MIN_TRIALS = 40  # below, a tenth is fewer than four trials: nothing can be said
LARGE = 0.33  # Romano et al. 2006: medium effect
SMALL = 0.147
EQUIVALENT_MIN_PER_GROUP = 60
Q = 0.05
IMPORTANCE_P = 0.05
INERT_P = 0.5
EDGE_SHARE = 0.02  # of the range, at either end
EDGE_P = 0.001
AVOID_P = 0.01
OUTER = 0.2  # of all trials, at either end: where a value is to be avoided is not chosen by looking at the best
FEW_VALUES = 40  # a parameter that took no more is a grid: its end points are more than EDGE_SHARE of it

Verdict = Literal["matters", "range too narrow", "equivalent", "inert", "no evidence", "insufficient data"]
Kind = Literal["number", "log number", "choice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterRow:
    """One parameter: the top tenth against the rest.

    top, rest: medians (numbers) or the commonest choice. difference_pct: of the two as they are displayed.
    delta: Cliff's delta, positive when the top group has larger values; for a choice the distance of the two mixes, which
    has no sign. focus: Cliff's delta of nearness to the top group's median, for an optimum inside the range.
    q: Benjamini-Hochberg over all parameters. low, high: the 5 and 95 % points of the top group.
    avoid: values of a finding that the top group has fewer of than chance gives, with the counts.
    raw_mean_pct: what a comparison of plain means would claim; shown to be distrusted.
    """

    name: str
    kind: Kind
    n_top: int
    n_rest: int
    top: Any
    rest: Any
    difference_pct: float | None
    delta: float | None
    delta_low: float | None
    delta_high: float | None
    focus: float | None
    spearman: float | None
    q: float | None
    importance: Importance | None
    edge: str
    low: float | None
    high: float | None
    avoid: str
    raw_mean_pct: float | None
    verdict: Verdict

    @property
    def is_finding(self) -> bool:
        return self.verdict in ("matters", "range too narrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """A parameter before its p-value is corrected and its verdict passed."""

    row: ParameterRow
    column: Float | Codes
    p: float


def top_mask(scores: Float) -> Mask:
    """The best tenth, rounded up, ties included."""
    if len(scores) == 0:
        return np.zeros(0, dtype=np.bool_)
    count = math.ceil(TOP_SHARE * len(scores))
    mask: Mask = scores >= np.sort(scores)[-count]
    return mask


def shown(value: Any) -> str:
    """A value as every table displays it."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e6 else f"{value:.3g}"


def on_scale(values: Sequence[Any], bound: Bounds) -> Float:
    """Numbers on the scale they were searched on."""
    raw = np.array(values, dtype=float)
    return np.log10(raw) if bound.log else raw


def unit(values: Sequence[Any], bound: Bounds) -> Float:
    """Numbers on the unit interval of their searched range."""
    assert bound.low is not None and bound.high is not None
    low, high = on_scale([bound.low, bound.high], bound)
    scaled: Float = (on_scale(values, bound) - low) / max(high - low, 1e-300)
    return scaled


def parameter_rows(
    trials: Sequence[Trial], bounds: Mapping[str, Bounds], rng: np.random.Generator
) -> tuple[ParameterRow, ...]:
    """A row per parameter of `bounds`, from trials that all have a score."""
    measured: dict[str, _Measured] = {}
    for names, group in _by_activity(trials, bounds):
        scores = np.array([t.score for t in group])
        top = top_mask(scores)
        if len(group) < MIN_TRIALS or top.all():
            measured |= {n: _unmeasured(n, bounds[n], group, top) for n in names}
            continue
        strata = strata_of([t.number for t in group], int(top.sum()))
        several = [_measure(n, bounds[n], group, scores, top, strata, rng) for n in names]
        found = importances([m.column for m in several], top, strata, rng)
        measured |= {m.row.name: _with_importance(m, i) for m, i in zip(several, found, strict=True)}
    q_values = effects.benjamini_hochberg([measured[n].p for n in bounds])
    return tuple(_judged(measured[n].row, q) for n, q in zip(bounds, q_values, strict=True))


def _by_activity(
    trials: Sequence[Trial], bounds: Mapping[str, Bounds]
) -> list[tuple[list[str], list[Trial]]]:  # fmt: skip
    """Parameters that were active in the same trials, with those trials."""
    groups: dict[tuple[bool, ...], list[str]] = {}
    for name in bounds:
        groups.setdefault(tuple(name in t.parameters for t in trials), []).append(name)
    return [(names, [t for t, on in zip(trials, active, strict=True) if on]) for active, names in groups.items()]


def _unmeasured(name: str, bound: Bounds, trials: Sequence[Trial], top: Mask) -> _Measured:
    top_values, rest_values = _split([t.parameters[name] for t in trials], top)
    row = ParameterRow(
        name=name, kind=_kind(bound), n_top=len(top_values), n_rest=len(rest_values),
        top=_middle(top_values, bound), rest=_middle(rest_values, bound), difference_pct=None, delta=None,
        delta_low=None, delta_high=None, focus=None, spearman=None, q=None, importance=None, edge="", low=None,
        high=None, avoid="", raw_mean_pct=None, verdict="insufficient data",
    )  # fmt: skip
    return _Measured(row=row, column=np.zeros(0), p=1.0)


def _measure(
    name: str, bound: Bounds, trials: Sequence[Trial], scores: Float, top: Mask, strata: Codes, rng: np.random.Generator
) -> _Measured:
    raw = [t.parameters[name] for t in trials]
    top_values, rest_values = _split(raw, top)
    middle_top, middle_rest = _middle(top_values, bound), _middle(rest_values, bound)
    common: dict[str, Any] = {
        "name": name, "kind": _kind(bound), "n_top": len(top_values), "n_rest": len(rest_values), "top": middle_top,
        "rest": middle_rest, "q": None, "importance": None, "verdict": "no evidence",
    }  # fmt: skip
    if bound.choices:
        codes = np.array([bound.choices.index(v) for v in raw], dtype=np.int64)
        n = len(bound.choices)
        low, high = effects.mix_interval(codes[top], codes[~top], n, rng)
        row = ParameterRow(
            **common, difference_pct=None, delta=effects.mix_distance(codes[top], codes[~top], n), delta_low=low,
            delta_high=high, focus=None, spearman=None, edge="", low=None, high=None, raw_mean_pct=None,
            avoid=_shunned([(str(c), codes == k) for k, c in enumerate(bound.choices)], top),
        )  # fmt: skip
        return _Measured(row=row, column=codes, p=1.0)
    scaled = on_scale(raw, bound)
    near = -np.abs(scaled - np.median(scaled[top]))
    low, high = effects.delta_interval(scaled[top], scaled[~top], rng)
    ends = np.quantile(np.array(top_values, dtype=float), [0.05, 0.95])
    row = ParameterRow(
        **common, difference_pct=_difference_pct(middle_top, middle_rest),
        delta=effects.cliffs_delta(scaled[top], scaled[~top]), delta_low=low, delta_high=high,
        focus=effects.cliffs_delta(near[top], near[~top]), spearman=effects.spearman(scaled, scores),
        edge=_edge(scaled, top, bound), low=float(ends[0]), high=float(ends[1]),
        avoid=_shunned(_ends(np.array(raw, dtype=float)), top),
        raw_mean_pct=_difference_pct(float(np.mean(top_values)), float(np.mean(rest_values))),
    )  # fmt: skip
    return _Measured(row=row, column=unit(raw, bound), p=effects.rank_sum_p(scaled, top, strata))


def _with_importance(m: _Measured, found: Importance) -> _Measured:
    """Two tests per number, of place and of shape: the smaller p, doubled. A choice has a shape only."""
    row = replace(m.row, importance=found)
    return _Measured(row=row, column=m.column, p=found.p if row.kind == "choice" else min(1.0, 2 * min(m.p, found.p)))


def _judged(row: ParameterRow, q: float) -> ParameterRow:
    if row.importance is None:
        return row
    corrected = replace(row, q=q)
    judged = replace(corrected, verdict=_verdict(corrected))
    return judged if judged.is_finding else replace(judged, avoid="")


def _verdict(row: ParameterRow) -> Verdict:
    assert row.importance is not None and row.q is not None and row.delta is not None
    strong = max(abs(row.delta), row.focus or 0.0) >= LARGE
    if row.q < Q and strong and row.importance.p < IMPORTANCE_P:
        return "range too narrow" if row.edge else "matters"
    assert row.delta_low is not None and row.delta_high is not None
    # an optimum inside the range moves no median, so nearness to it must be small, too
    narrow = row.delta_low > -SMALL and row.delta_high < SMALL and row.importance.p >= IMPORTANCE_P
    if narrow and min(row.n_top, row.n_rest) >= EQUIVALENT_MIN_PER_GROUP:
        return "equivalent"
    return "inert" if row.importance.p > INERT_P and not row.edge else "no evidence"


def _edge(scaled: Float, top: Mask, bound: Bounds) -> str:
    """Which bound the top group crowds: more of it lies there than an even spread would put there by chance."""
    assert bound.low is not None and bound.high is not None
    low, high = on_scale([bound.low, bound.high], bound)
    margin = EDGE_SHARE * (high - low)
    values = np.unique(scaled)
    grid = values if len(values) <= FEW_VALUES else None
    found: list[tuple[int, str]] = []
    sides: tuple[tuple[str, Callable[[Float], Mask]], ...] = (
        ("lower", lambda x: x <= low + margin), ("upper", lambda x: x >= high - margin),
    )  # fmt: skip
    for where, near in sides:
        count = int(near(scaled[top]).sum())
        expected = EDGE_SHARE if grid is None else max(EDGE_SHARE, float(near(grid).mean()))
        if effects.binomial_tail(count, int(top.sum()), expected) < EDGE_P:
            found.append((count, where))
    if not found:
        return ""
    count, where = max(found)
    return f"{count / int(top.sum()):.0%} at the {where} bound"


def _ends(values: Float) -> list[tuple[str, Mask]]:
    """The outer fifths of all trials."""
    low, high = np.quantile(values, [OUTER, 1.0 - OUTER])
    return [(f"below {shown(float(low))}", values < low), (f"above {shown(float(high))}", values > high)]


def _shunned(places: Sequence[tuple[str, Mask]], top: Mask) -> str:
    """Those places where the top group is rarer than chance: exact binomial, one-sided."""
    found = []
    for name, inside in places:
        count, seen, expected = int(inside.sum()), int((inside & top).sum()), float(inside.mean() * top.sum())
        fewer = 1.0 - effects.binomial_tail(seen + 1, int(top.sum()), count / len(top))
        if count and fewer < AVOID_P:
            found.append(f"{name} ({count} trials, {seen} of the best tenth where chance gives {expected:.1f})")
    return "; ".join(found)


def _difference_pct(ours: float | None, theirs: float | None) -> float | None:
    """Of the two figures as they are displayed, so that whoever divides them finds the same; below zero it means nothing."""
    if ours is None or theirs is None or float(shown(theirs)) <= 0.0 or ours < 0.0:
        return None
    return 100.0 * (float(shown(ours)) / float(shown(theirs)) - 1.0)


def _kind(bound: Bounds) -> Kind:
    return "choice" if bound.choices else "log number" if bound.log else "number"


def _split(values: Sequence[Any], top: Mask) -> tuple[list[Any], list[Any]]:
    return [v for v, t in zip(values, top, strict=True) if t], [v for v, t in zip(values, top, strict=True) if not t]


def _middle(values: Sequence[Any], bound: Bounds) -> Any:
    """Median, or the commonest choice; None of nothing."""
    if not values:
        return None
    if bound.choices:
        return max(sorted(set(values), key=str), key=values.count)
    return float(np.median(np.array(values, dtype=float)))
