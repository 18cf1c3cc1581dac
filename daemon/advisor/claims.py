"""Statements of another report, checked against the trials and against one another. Pure.

A claim is a mapping with a `kind` and the fields of that kind (`KINDS`); what it says in words is `says`. Two advisers
once gave opposite advice for weeks and nobody noticed; and a figure that cannot be recomputed from what is displayed
beside it is worth nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.advisor.consistency import Agreement, P
from daemon.advisor.parameters import EQUIVALENT_MIN_PER_GROUP, MIN_TRIALS, ParameterRow, shown
from daemon.advisor.records import Bounds, Material
from daemon.advisor.scores import ScoreFacts, expected_max
from features.errors import ConfigurationError

POINTS = 1.0  # percentage points by which a stated difference may be off before it is wrong
HOURS_OFF = 0.15  # relative
TOP_TENTH_SD = 0.411  # of a normal distribution's SD: sqrt(1 + z·h − h²) at z = 1.2816, h = phi(z) / .1

KINDS: Mapping[str, tuple[str, ...]] = {
    "return": ("value_pct",), "difference": ("parameter", "top", "reference", "stated_pct", "n"),
    "heading": ("parameter", "stated_pct", "at_least_pct"), "value": ("parameter", "value"),
    "effect": ("parameter", "direction"), "irrelevant": ("parameter", "n"), "identical": ("parameter",),
    "range": ("parameter", "low", "high"), "tight": ("low", "high", "mean", "sd"),
    "rate": ("completed", "hours", "workers", "minutes_per_trial"), "eta": ("trials", "per_hour", "stated_hours"),
    "numbering": ("highest_number", "completed"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """says: the other report's words. found: what is the case, with the figures."""

    says: str
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What claims are held against."""

    material: Material
    facts: ScoreFacts | None
    rows: Mapping[str, ParameterRow]
    agreement: Mapping[str, Agreement]

    def bound(self, name: str) -> Bounds | None:
        return self.material.bounds.get(name)


def contradictions(
    claims: Sequence[Mapping[str, Any]], material: Material, facts: ScoreFacts | None, rows: Sequence[ParameterRow],
    agreeing: Sequence[Agreement],
) -> tuple[Contradiction, ...]:  # fmt: skip
    """Every claim that does not hold, in order, then the claims that contradict each other."""
    for claim in claims:
        require_known(claim)
    known = _Known(
        material=material, facts=facts, rows={r.name: r for r in rows}, agreement={a.name: a for a in agreeing}
    )
    found = [(c, why) for c in claims if (why := _CHECKS[c["kind"]](c, known))]
    made = [Contradiction(says=c["says"], found=why) for c, why in found]
    return (*made, *_opposed(claims))


def require_known(claim: Mapping[str, Any]) -> None:
    """ConfigurationError naming what is wrong with a claim."""
    kind = str(claim.get("kind"))
    if kind not in KINDS:
        raise ConfigurationError(f"a claim of kind {kind!r}", hint=f"known kinds: {', '.join(KINDS)}")
    missing = [f for f in ("says", *KINDS[kind]) if f not in claim]
    if missing:
        raise ConfigurationError(f"a claim of kind {kind!r} lacks {', '.join(missing)}")


def _return(claim: Mapping[str, Any], known: _Known) -> str:
    if known.material.score_name.startswith("return"):
        return ""
    return f"the objective is no return: it is the {known.material.score_name}. As such it is {claim['value_pct'] / 100:.4g}"


def _difference(claim: Mapping[str, Any], known: _Known) -> str:
    row, bound = known.rows.get(claim["parameter"]), known.bound(claim["parameter"])
    derived = 100.0 * (claim["top"] / claim["reference"] - 1.0)
    parts = []
    if abs(derived - claim["stated_pct"]) > POINTS:
        parts.append(
            f"{claim['top']:g} against {claim['reference']:g} is {derived:+.1f} %, not {claim['stated_pct']:+g} %"
        )
    if bound is not None and bound.choices:
        parts.append("these are indices of choices, and the mean of an index means nothing")
    if row is not None and not row.is_finding:
        parts.append(f"that is {claim['n']} trials; the best {row.n_top} against {row.n_rest}: {_measured(row)}")
    if row is not None and row.edge:
        parts.append(row.edge)
    return "; ".join(parts)


def _heading(claim: Mapping[str, Any], _: _Known) -> str:
    low = claim["at_least_pct"]
    return "" if abs(claim["stated_pct"]) >= low else f"{claim['stated_pct']:+g} % is not above {low:g} %"


def _value(claim: Mapping[str, Any], known: _Known) -> str:
    bound, value = known.bound(claim["parameter"]), claim["value"]
    if bound is None:
        return f"{claim['parameter']} is not a parameter of this study"
    if bound.choices:
        if any(type(c) is type(value) and c == value for c in bound.choices):  # 1 is not True
            return ""
        index = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(bound.choices)
        meant = f": {value} is the index of {bound.choices[value]}" if index else ""
        return (
            f"no trial had {claim['parameter']} = {value}; the choices are {', '.join(map(str, bound.choices))}{meant}"
        )
    assert bound.low is not None and bound.high is not None
    return "" if bound.low <= value <= bound.high else f"outside the searched {bound.low:g} … {bound.high:g}"


def _effect(claim: Mapping[str, Any], known: _Known) -> str:
    row = known.rows.get(claim["parameter"])
    if row is None:
        return f"{claim['parameter']} is not a parameter of this study"
    if not row.is_finding or row.kind == "choice":
        return ("a choice has no direction; " if row.kind == "choice" else "") + _measured(row)
    wrong = row.delta is not None and (row.delta > 0) != (claim["direction"] == "higher")
    return f"the top group's values are the other way: {_measured(row)}" if wrong else ""


def _irrelevant(claim: Mapping[str, Any], known: _Known) -> str:
    row = known.rows.get(claim["parameter"])
    if row is None:
        return f"{claim['parameter']} is not a parameter of this study"
    if claim["n"] >= EQUIVALENT_MIN_PER_GROUP and row.verdict == "equivalent":
        return ""
    short = ""
    if claim["n"] < EQUIVALENT_MIN_PER_GROUP:
        short = f"{claim['n']} trials show no equivalence, {EQUIVALENT_MIN_PER_GROUP} could; "
    return f"{short}here: {_measured(row)}"


def _identical(claim: Mapping[str, Any], known: _Known) -> str:
    found = known.agreement.get(claim["parameter"])
    if found is None or found.p_neighbours < P:
        return ""
    values = ", ".join(dict.fromkeys(shown(v) for v in found.values))
    return (
        f"agreement of relatives: of random triples of the 50 trials most like them in everything else, "
        f"{found.p_neighbours:.0%} agree at least as well ({found.p_all:.0%} of any triples); the values are {values}"
    )


def _range(claim: Mapping[str, Any], known: _Known) -> str:
    bound = known.bound(claim["parameter"])
    if bound is None:
        return f"{claim['parameter']} is not a parameter of this study"
    if bound.choices:
        inside = [v for v in bound.choices if isinstance(v, int | float) and claim["low"] <= v <= claim["high"]]
        return "" if inside else f"none of the choices {', '.join(map(str, bound.choices))} lies there"
    assert bound.low is not None and bound.high is not None
    apart = claim["high"] < bound.low or claim["low"] > bound.high
    return f"outside the searched {bound.low:g} … {bound.high:g}" if apart else ""


def _tight(claim: Mapping[str, Any], known: _Known) -> str:
    low, high, mean, sd = (float(claim[k]) for k in KINDS["tight"])
    even = (high - low) / math.sqrt(12)
    most = math.sqrt(max(0.0, (mean - low) * (high - mean)))
    parts = []
    if sd > 1.2 * even:
        parts.append(
            f"an SD of {sd:g} does not go with {low:g} … {high:g} (evenly spread it is {even:.2g}; {most:.2g} is the most "
            f"there can be, everything at the two ends)"
        )
    parts.append(f"the best tenth of any sample is tight: of a normal one its SD is {TOP_TENTH_SD} of the whole's")
    if known.facts is not None and known.facts.n >= MIN_TRIALS and known.facts.sd > 0:
        parts.append(f"here it is {known.facts.top_sd / known.facts.sd:.2f}, and the luckiest of {known.facts.n} equal "
                     f"trials is expected {expected_max(known.facts.n):.2f} SD above the mean")  # fmt: skip
    return "; ".join(parts)


def _rate(claim: Mapping[str, Any], _: _Known) -> str:
    low, high = claim["minutes_per_trial"]
    between = 60 * claim["hours"] / claim["completed"]
    cost, took = between * claim["workers"], (low + high) / 2
    if low * 0.9 <= cost <= high * 1.1:
        return ""
    return (
        f"one ended every {between:.2f} min, which is no duration: {claim['workers']} workers spent {cost:.2f} worker-minutes "
        f"per completed trial; at {low:g}–{high:g} min each that is a utilisation of {took / cost:.1%}, where "
        f"{claim['workers'] * 1440 / took:.0f} a day would have been possible"
    )


def _eta(claim: Mapping[str, Any], _: _Known) -> str:
    low, high = claim["stated_hours"]
    hours = claim["trials"] / claim["per_hour"]
    if low * (1 - HOURS_OFF) <= hours <= high * (1 + HOURS_OFF):
        return ""
    return f"{claim['trials']} trials at {claim['per_hour']:.4g} an hour take {hours:.1f} h ({hours / 24:.2f} days)"


def _numbering(claim: Mapping[str, Any], _: _Known) -> str:
    begun = claim["highest_number"] + 1
    missing = begun - claim["completed"]
    if missing <= 0:
        return ""
    return f"{begun} trials were begun if numbers count them, so {missing} ({missing / begun:.1%}) never completed, unmentioned"


def _measured(row: ParameterRow) -> str:
    if row.delta is None or row.q is None:
        return f"{row.verdict}: too few trials"
    return (
        f"{row.verdict} (Cliff's delta {row.delta:+.2f}, {row.delta_low:+.2f} to {row.delta_high:+.2f}, q {row.q:.2f})"
    )


def _opposed(claims: Sequence[Mapping[str, Any]]) -> list[Contradiction]:
    """Ranges recommended for one parameter that have nothing in common."""
    ranges = [c for c in claims if c["kind"] == "range"]
    return [
        Contradiction(
            says=f"{a['says']} / {b['says']}", found=f"the same report advises opposite values of {a['parameter']}"
        )
        for i, a in enumerate(ranges)
        for b in ranges[i + 1 :]
        if a["parameter"] == b["parameter"] and (a["high"] < b["low"] or b["high"] < a["low"])
    ]


_CHECKS: Mapping[str, Callable[[Mapping[str, Any], _Known], str]] = {
    "return": _return, "difference": _difference, "heading": _heading, "value": _value, "effect": _effect,
    "irrelevant": _irrelevant, "identical": _identical, "range": _range, "tight": _tight, "rate": _rate, "eta": _eta,
    "numbering": _numbering,
}  # fmt: skip
