"""The advisor's own proposals: what the routes of its report would have one do, as records that can be tried. Pure."""

from collections.abc import Mapping, Sequence

from daemon.advisor.analysis import Analysis
from daemon.advisor.book import Book
from daemon.advisor.parameters import ParameterRow, on_scale, shown
from daemon.advisor.proposals import Proposal, configuration
from daemon.advisor.records import Bounds, Trial
from daemon.child.advice import Span

NAME = "advisor"
CROWDED_SHARE = 0.3  # of the best tenth in the outer tenth of a range, where chance puts .1
OUTER = 0.1
WIDER = 0.5  # of the adopted range


def proposals(
    analysis: Analysis, trials: Sequence[Trial], bounds: Mapping[str, Bounds], book: Book
) -> list[Proposal]:  # fmt: skip
    """At most one of each kind, and none of a kind that is being tried; nothing that was proposed before."""
    open_kinds = {e.kind for e in book.experiments.values() if e.proposer == NAME and e.state == "open"}
    before = {p.subject for e in book.experiments.values() for p in e.proposals.values()}
    made = [
        _narrow(analysis, bounds, book.adopted), _widen(analysis, trials, bounds, book.adopted),
        _replicate(analysis, trials, bounds, book), *_for_a_person(analysis),
    ]  # fmt: skip
    return [p for p in made if p is not None and p.kind not in open_kinds and p.subject not in before]


def _narrow(analysis: Analysis, bounds: Mapping[str, Bounds], adopted: Mapping[str, Span]) -> Proposal | None:
    """Exploit: the middle nine tenths of the best tenth, of every parameter that matters."""
    ranges = {r.name: span for r in analysis.findings if (span := _span(r, bounds[r.name])) is not None}
    if not ranges or all(n in adopted for n in ranges) or analysis.facts is None:
        return None
    facts = analysis.facts
    named = "; ".join(f"{n} {_said(s)}" for n, s in ranges.items())
    return Proposal(
        kind="narrow", proposer=NAME, ranges=ranges, hypothesis=f"the best tenth has {named}",
        predicted_delta=None if facts.keep is None else facts.keep * (facts.top_mean - facts.mean),
    )  # fmt: skip


def _widen(
    analysis: Analysis, trials: Sequence[Trial], bounds: Mapping[str, Bounds], adopted: Mapping[str, Span]
) -> Proposal | None:
    """Give back what an adopted range cut off too much of: where the best crowd its end."""
    if analysis.facts is None:
        return None
    top = [t.parameters for t in trials if t.score is not None and t.score >= analysis.facts.top_low]
    ranges = {}
    for name, span in adopted.items():
        bound, values = bounds.get(name), [p[name] for p in top if name in p]
        if span.choices or bound is None or not values or (wider := _wider(span, values, bound)) == span:
            continue
        ranges[name] = wider
    if not ranges:
        return None
    named = "; ".join(f"{n} {_said(s)}" for n, s in ranges.items())
    return Proposal(
        kind="widen", proposer=NAME, ranges=ranges,
        hypothesis=f"the best {len(top)} crowd the end of an adopted range: {named}",
    )  # fmt: skip


def _replicate(
    analysis: Analysis, trials: Sequence[Trial], bounds: Mapping[str, Bounds], book: Book
) -> Proposal | None:  # fmt: skip
    """The best configuration on fresh seeds, once: its pairs measure the noise, too."""
    route = next(r for r in analysis.routes if r.name == "replicate")
    if not route.met or analysis.facts is None:
        return None
    best = next(t for t in trials if t.number == analysis.facts.best_number)
    facts, parameters = analysis.facts, {n: best.parameters[n] for n in bounds if n in best.parameters}
    before = [p.parameters for e in book.experiments.values() for p in e.proposals.values() if p.kind == "replicate"]
    if configuration(parameters) in map(configuration, before):  # the best is one of its own replicates
        return None
    return Proposal(
        kind="replicate", proposer=NAME, trials=(best.number,), parameters=parameters,
        hypothesis=f"trial {best.number} is better than what the search draws, not only luckier",
        predicted_delta=None if facts.shrunken is None else facts.shrunken - facts.mean,
    )  # fmt: skip


def _for_a_person(analysis: Analysis) -> list[Proposal]:
    """No pair of trials can test these; the report says why, and `cappuccinoctl advice adopt` does it."""
    made = []
    for route in analysis.routes:
        if route.name == "ensemble" and route.met and analysis.evidence is not None:
            members = tuple(m["number"] for m in analysis.evidence["distinct_best"])
            gain = None if route.gain is None else route.gain.mean
            made.append(Proposal(
                kind="ensemble", proposer=NAME, trials=members, hypothesis=route.action, predicted_delta=gain
            ))  # fmt: skip
        if route.name == "stop" and route.recommended:
            made.append(Proposal(kind="stop", proposer=NAME, hypothesis=route.action))
    return made


def _span(row: ParameterRow, bound: Bounds) -> Span | None:
    """Up to the bound itself where the best crowd it; None where nothing would be left out."""
    if bound.choices:
        kept = tuple(c for c in bound.choices if str(c) == str(row.top))
        return Span(choices=kept) if kept else None
    assert row.low is not None and row.high is not None and bound.low is not None and bound.high is not None
    low = bound.low if "lower" in row.edge else max(bound.low, row.low)
    high = bound.high if "upper" in row.edge else min(bound.high, row.high)
    if bound.integer:
        low, high = int(low), -int(-high // 1)
    return None if (low, high) == (bound.low, bound.high) else Span(low=low, high=high)


def _wider(span: Span, values: Sequence[float], bound: Bounds) -> Span:
    """On the scale of the search, half of its length on every side that is crowded, as far as the space goes."""
    assert bound.low is not None and bound.high is not None
    low, high = (float(v) for v in on_scale([span.low, span.high], bound))
    at, length = on_scale(values, bound), high - low
    first, last = span.low, span.high
    if float((at <= low + OUTER * length).mean()) > CROWDED_SHARE:
        first = max(bound.low, _back(low - WIDER * length, bound))
    if float((at >= high - OUTER * length).mean()) > CROWDED_SHARE:
        last = min(bound.high, _back(high + WIDER * length, bound))
    return Span(low=first, high=last)


def _back(value: float, bound: Bounds) -> float:
    plain = 10.0**value if bound.log else value
    return round(plain) if bound.integer else plain


def _said(span: Span) -> str:
    return "|".join(map(str, span.choices)) if span.choices else f"{shown(span.low)} … {shown(span.high)}"
