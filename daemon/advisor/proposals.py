"""A proposal: what to try, why, and what it is expected to bring; and whether it may be tried at all. Pure.

Whoever proposes, the same record and the same checks. Nothing here reaches gates, risk limits or the hold-out: a proposal
can name values inside the study's own space, trials of the study, or the end of its search, and nothing else.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from daemon.advisor.records import Bounds
from daemon.child.advice import Span, refusal, spans

Kind = Literal["narrow", "widen", "enqueue", "replicate", "ensemble", "stop"]
Reason = Literal[
    "unknown", "missing", "type", "range", "choice", "empty", "duplicate", "conflict", "budget", "limit", "retired",
    "malformed", "too large", "timeout", "unreachable",
]  # fmt: skip
ON_TRIAL: frozenset[Kind] = frozenset(
    {"narrow", "widen", "enqueue", "replicate"}
)  # the others are for a person to adopt
FEWEST_PAIRS = 8  # 8 of 8 is the first result that decides


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """ranges: of narrow and widen. parameters: of enqueue and replicate, every searched one. trials: those it is about.

    predicted_delta: expected difference of the scores, proposal less control; confidence: the proposer's own, 0 to 1.
    """

    kind: Kind
    proposer: str
    hypothesis: str
    predicted_delta: float | None = None
    confidence: float | None = None
    ranges: Mapping[str, Span] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    trials: tuple[int, ...] = ()

    @property
    def subject(self) -> str:
        """What is proposed, without who and why: two proposals with one subject are the same."""
        return json.dumps(
            [self.kind, {n: s.to_dict() for n, s in self.ranges.items()}, configuration(self.parameters), self.trials],
            sort_keys=True,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind, "proposer": self.proposer, "hypothesis": self.hypothesis,
            "predicted_delta": self.predicted_delta, "confidence": self.confidence,
            "ranges": {n: s.to_dict() for n, s in self.ranges.items()}, "parameters": dict(self.parameters),
            "trials": list(self.trials),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        return cls(**{**record, "ranges": spans(record["ranges"]), "trials": tuple(record["trials"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a proposal is held against.

    bounds: the searched space. tried: configurations that were tried or are queued (`configuration`). subjects: of every
    proposal there ever was. adopted, open: ranges in force and ranges being tried. retired: proposers that lost.
    pairs_left: how many more the share of trials for advice allows.
    """

    bounds: Mapping[str, Bounds]
    tried: Collection[str]
    subjects: Collection[str]
    adopted: Mapping[str, Span]
    open: Sequence[Mapping[str, Span]]
    retired: Collection[str]
    pairs_left: int
    scored: Collection[int]


def configuration(parameters: Mapping[str, Any]) -> str:
    """One text per configuration, whatever the order of its names and however a number is written."""
    plain = {n: float(v) if isinstance(v, int) and not isinstance(v, bool) else v for n, v in parameters.items()}
    return json.dumps(plain, sort_keys=True, default=str)


def refuse(proposal: Proposal, known: Known) -> Refusal | None:
    """The first reason why it may not be tried; None when it may."""
    if proposal.proposer in known.retired:
        return Refusal(reason="retired", detail=f"{proposal.proposer} lost its experiment")
    if (wrong := _misfit(proposal, known)) is not None:
        return wrong
    if proposal.subject in known.subjects:
        return Refusal(reason="duplicate", detail="the same was proposed before")
    least = 1 if proposal.kind == "enqueue" else FEWEST_PAIRS
    if proposal.kind in ON_TRIAL and known.pairs_left < least:
        return Refusal(
            reason="budget",
            detail=f"the share of trials for advice leaves {max(0, known.pairs_left)} pairs, {least} needed",
        )
    return None


def _misfit(proposal: Proposal, known: Known) -> Refusal | None:
    match proposal.kind:
        case "narrow" | "widen":
            return _ranges(proposal, known)
        case "enqueue":
            wrong = _parameters(proposal.parameters, known.bounds)
            if wrong is None and configuration(proposal.parameters) in known.tried:
                return Refusal(reason="duplicate", detail="these values were tried or are queued")
            return wrong
        case "replicate":
            return _parameters(proposal.parameters, known.bounds) or _trials(proposal, known)
        case "ensemble":
            return _trials(proposal, known)
        case "stop":
            return None


def _trials(proposal: Proposal, known: Known) -> Refusal | None:
    if not proposal.trials:
        return Refusal(reason="empty", detail="it names no trial")
    strange = [n for n in proposal.trials if n not in known.scored]
    return Refusal(reason="unknown", detail=f"no trial {strange[0]} has a score") if strange else None


def _parameters(given: Mapping[str, Any], bounds: Mapping[str, Bounds]) -> Refusal | None:
    for name in given:
        if name not in bounds:
            return Refusal(reason="unknown", detail=f"{name[:60]!r} is not searched here")
    for name in bounds:
        if name not in given:
            return Refusal(reason="missing", detail=f"{name} has no value")
    for name, value in given.items():
        if (found := refusal(value, _span(bounds[name]), integer=bounds[name].integer)) is not None:
            return Refusal(reason=found[0], detail=f"{name}: {found[1][:120]}")
    return None


def _ranges(proposal: Proposal, known: Known) -> Refusal | None:
    if not proposal.ranges:
        return Refusal(reason="empty", detail="it names no range")
    for name, span in proposal.ranges.items():
        if (
            wrong := _span_refusal(name, span, known.bounds) or _conflict(name, span, proposal.kind, known)
        ) is not None:
            return wrong
    if all(known.adopted.get(n, _span(known.bounds[n])) == s for n, s in proposal.ranges.items()):
        return Refusal(reason="empty", detail="it changes no range")
    return None


def _conflict(name: str, span: Span, kind: Kind, known: Known) -> Refusal | None:
    """Two proposals that cannot both be right, or a wider range of what was never narrowed."""
    for other in (*known.open, known.adopted if kind == "narrow" else {}):
        if name in other and not span.meets(other[name]):
            return Refusal(reason="conflict", detail=f"{name}: another proposal wants values apart from these")
    held = known.adopted.get(name)
    if kind == "widen" and (held is None or not _within(held, span)):
        return Refusal(reason="conflict", detail=f"{name}: no adopted range lies within this one")
    return None


def _span_refusal(name: str, span: Span, bounds: Mapping[str, Bounds]) -> Refusal | None:
    if name not in bounds:
        return Refusal(reason="unknown", detail=f"{name[:60]!r} is not searched here")
    bound = bounds[name]
    if bool(span.choices) != bool(bound.choices):
        return Refusal(reason="type", detail=f"{name}: {'choices' if bound.choices else 'a range'} wanted")
    ends = span.choices or (span.low, span.high)
    for end in ends:
        if (found := refusal(end, _span(bound), integer=bound.integer)) is not None:
            return Refusal(reason=found[0], detail=f"{name}: {found[1]}")
    if not span.choices and span.low > span.high:
        return Refusal(reason="range", detail=f"{name}: its low end is above its high end")
    return None


def _within(inner: Span, outer: Span) -> bool:
    return all(outer.holds(v) for v in (inner.choices or (inner.low, inner.high)))


def _span(bound: Bounds) -> Span:
    if bound.choices:
        return Span(choices=bound.choices)
    return Span(low=-math.inf if bound.low is None else bound.low, high=math.inf if bound.high is None else bound.high)
