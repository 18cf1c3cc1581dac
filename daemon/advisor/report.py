"""The report: an analysis as blocks, in the order in which a person asks. Pure.

First what to do next and what changed, then the evidence, section by section; every number with its group, its n, its
unit and its uncertainty.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from daemon.advisor import words
from daemon.advisor.advice_text import tried
from daemon.advisor.analysis import Analysis
from daemon.advisor.book import Book
from daemon.advisor.consistency import NEIGHBOURS, P
from daemon.advisor.document import Block, Bullets, Facts, Figures, Folded, Heading, Lead, Paragraph, Table
from daemon.advisor.parameters import ParameterRow, shown
from daemon.advisor.scores import ScoreFacts

NOTHING_TRIED = Book()
Drawings = Mapping[str, Sequence[tuple[str, str]]]


def summary(analysis: Analysis) -> str:
    """One line for status."""
    if analysis.facts is None:
        return f"{analysis.operations.ended} trials ended, none with a score: nothing to analyse yet"
    found = [f"{r.name} {r.verdict}" for r in analysis.findings]
    return (
        f"{analysis.n_complete} trials analysed: " + ("; ".join(found) if found else "no parameter stands out")
        + f". Next: {analysis.recommended.name}"
    )  # fmt: skip


def blocks(
    analysis: Analysis, *, changes: Sequence[str], previous_utc: str | None, drawings: Drawings, book: Book = NOTHING_TRIED
) -> list[Block]:  # fmt: skip
    """The whole report. changes: against the report of `previous_utc`; drawings: by section, for the page."""
    made: list[Block] = [Heading(text=f"Study {analysis.study}, {analysis.at_utc}", level=1), _lead(analysis)]
    if previous_utc is not None:
        made += [Heading(text=f"What changed since {previous_utc}"), Bullets(items=tuple(changes) or ("Nothing.",))]
    if analysis.contradictions:
        made += _contradictions(analysis)
    made += [*_scores(analysis, drawings), *_parameters(analysis, drawings), *_top_three(analysis)]
    made += [*_trust(analysis, drawings), *_champion(analysis, drawings), *_operations(analysis), *_routes(analysis)]
    made += tried(book, _digits(analysis))
    return [*made, *_reading()]


def _lead(analysis: Analysis) -> Lead:
    pick, facts = analysis.recommended, analysis.facts
    text = f"Next: {pick.name}. {pick.action}."
    items = []
    if pick.name != "stop":
        items.append(f"Expected gain of the true score: {words.gain(pick.gain, _digits(analysis))}, {_unit(analysis)}")
    if facts is not None:
        worth = "what it is worth is not known"
        if facts.shrunken is not None:
            worth = f"worth {_worth(facts)} once the luck of the run is taken off{_elsewhere(analysis)}"
        best = words.signed(facts.best, _digits(analysis))
        items.append(f"Best score {best}, trial {facts.best_number}, the largest of {facts.n}: {worth}")
    items.append(_champion_line(analysis))
    found = ", ".join(f"`{r.name}` ({r.verdict})" for r in analysis.findings)
    items.append(f"Parameters: {found}" if found else "Parameters: none stands out from chance")
    done = analysis.operations
    items.append(f"{analysis.n_complete} of {analysis.target} trials have a score; the rest in " + words.eta(done.eta_complete)
                 if done.eta_complete else f"{analysis.n_complete} of {analysis.target} trials have a score")  # fmt: skip
    return Lead(text=text, items=(*items, *done.notes))


def _unit(analysis: Analysis) -> str:
    return f"in units of the score ({analysis.score_name})"


def _worth(facts: ScoreFacts) -> str:
    digits = words.places(facts.sd)
    mean, low, high = (words.signed(v, digits) for v in (facts.shrunken, facts.shrunken_low, facts.shrunken_high))
    return f"{mean} (95 %: {low} … {high})"


def _digits(analysis: Analysis) -> int:
    return words.places(None if analysis.facts is None else analysis.facts.sd)


def _elsewhere(analysis: Analysis) -> str:
    """The luck of the bars is another matter, and all trials share it."""
    sd = analysis.sampling_sd
    return "" if sd is None else f"; on other bars as many, anything within ±{1.96 * sd:.2f} of that"


def _champion_line(analysis: Analysis) -> str:
    judged = analysis.judgement
    if judged is None:
        return "Not judged yet: this study has no champion"
    failed = [g for g in judged.get("gates", ()) if not g["passed"]]
    if judged["champion"]:
        return f"Champion `{judged['champion'][:12]}`, decided {judged['decided_utc'][:16].replace('T', ' ')} UTC"
    names = ", ".join(dict.fromkeys(g["gate"] for g in failed)) or "none was tried"
    return f"No champion: trial {judged.get('trial')} failed {names}"


def _scores(analysis: Analysis, drawings: Drawings) -> list[Block]:
    facts = analysis.facts
    if facts is None:
        return []
    d = words.places(facts.sd)
    rows = (
        ("best", f"{facts.best:+.{d}f}, trial {facts.best_number}; {facts.best_age} trials ago"),
        ("what it is worth", words.NONE if facts.shrunken is None else
         f"{_worth(facts)}: {facts.keep:.0%} of a score's "
         f"distance from the mean is kept{_elsewhere(analysis)}"),
        ("luck alone", f"{facts.chance_best:+.{d}f} would be the best of {facts.n} equal trials with this spread"),
        ("all", f"median {facts.median:+.{d}f}, mean {facts.mean:+.{d}f}, SD {facts.sd:.{d}f}, n {facts.n}"),
        (f"best tenth ({facts.top_n})", (
            f"{facts.top_low:+.{d}f} … {facts.best:+.{d}f}, mean {facts.top_mean:+.{d}f}, SD {facts.top_sd:.{d}f}; tight by "
            "construction: of a normal sample it is .41 of the whole's SD"
        )),
        ("noise of one run, SD", words.noise(facts.noise, d)),
        ("where the tail ends", words.tail(facts.tail, d)),
        *([] if facts.regret is None else [("regret", words.regret(facts.regret, d))]),
        ("progress", f"half of the improvement came in the first {facts.half_by} trials; "
         + words.probability_of_more(facts.p_improve)),
    )  # fmt: skip
    return [
        Heading(text="Scores"),
        Paragraph(text=f"Score: {analysis.score_name}. It is not a return."),
        Facts(items=rows),
        *_drawn(drawings, "history"),
    ]


def _parameters(analysis: Analysis, drawings: Drawings) -> list[Block]:
    facts = analysis.facts
    if facts is None or not analysis.rows:
        return []
    order = sorted(analysis.rows, key=lambda r: (not r.is_finding, -(r.importance.share if r.importance else 0.0)))
    head = ("parameter", "verdict", "best tenth", "rest", "difference", "effect (95 %)", "q", "importance", "edge")
    table = Table(
        head=head, rows=tuple(_parameter(r) for r in order),
        strong=frozenset(i for i, r in enumerate(order) if r.is_finding),
    )  # fmt: skip
    return [
        Heading(text=f"Parameters: the best {max(r.n_top for r in order)} against the other {max(r.n_rest for r in order)}"),
        *_said(analysis), *([Paragraph(text=_LEFT_OUT.format(n=analysis.n_advised))] if analysis.n_advised else []),
        *_drawn(drawings, "parameters"),
        Folded(summary=f"All {len(order)} parameters, with their numbers", blocks=(table,)),
        Folded(summary="Values against scores, the most important parameters", blocks=tuple(_drawn(drawings, "slices"))),
    ]  # fmt: skip


def _parameter(r: ParameterRow) -> tuple[str, ...]:
    scale = " (log)" if r.kind == "log number" else ""
    importance = words.NONE
    if r.importance is not None:
        i = r.importance
        importance = f"{i.share:.1%}, chance ≤ {i.null_share:.1%}; p {i.p:.3f}; rank {i.rank_low}–{i.rank_high}"
    return (
        r.name + scale, r.verdict, f"{shown(r.top)} (n {r.n_top})", f"{shown(r.rest)} (n {r.n_rest})",
        words.NONE if r.difference_pct is None else f"{r.difference_pct:+.0f} %", words.delta(r),
        words.NONE if r.q is None else f"{r.q:.3f}", importance, r.edge or words.NONE,
    )  # fmt: skip


def _said(analysis: Analysis) -> list[Block]:
    """What matters, what does not, what to avoid: each only where a verdict says so."""

    def names(*verdicts: str) -> str:
        return ", ".join(f"`{r.name}`" for r in analysis.rows if r.verdict in verdicts)

    matters = [f"`{r.name}`: {_direction(r)}" for r in analysis.findings]
    items = ["**Matters:** " + ("; ".join(matters) if matters else "nothing that chance does not explain")]
    if same := names("equivalent"):
        items.append(f"**Does not matter** (effect within ±.147 at 95 %): {same}")
    if inert := names("inert"):
        items.append(f"**Inert** (no more important than a random column): {inert}")
    avoided = [f"`{r.name}` {r.avoid}" for r in analysis.findings if r.avoid]
    items.append("**Avoid:** " + ("; ".join(avoided) if avoided else "nothing; no value is shown to be bad"))
    if unknown := names("no evidence", "insufficient data"):
        items.append(f"**No evidence either way:** {unknown}")
    return [Bullets(items=tuple(items))]


def _direction(r: ParameterRow) -> str:
    if r.kind == "choice":
        return f"{r.top} is commonest in the best tenth"
    if abs(r.delta or 0.0) < (r.focus or 0.0):
        return f"the best lie around {shown(r.top)}, between {shown(r.low)} and {shown(r.high)}"
    where = "higher" if (r.delta or 0.0) > 0 else "lower"
    edge = f", {r.edge}: the range may be too narrow" if r.edge else ""
    return f"{where} is better, around {shown(r.top)}{edge}"


def _top_three(analysis: Analysis) -> list[Block]:
    if not analysis.top_three:
        return []
    compared = Table(
        head=("trial", "score", "begun", "duration"),
        rows=tuple(
            (f"{t.number}", words.signed(t.score, _digits(analysis)), _time(t.began_s), words.duration(t.seconds))
            for t in analysis.top_three
        ),
    )
    made: list[Block] = [Heading(text="The best three"), compared]
    rows = analysis.agreement
    if not rows:
        return [*made, Paragraph(text="Too few trials to compare them with chance.")]
    tight = [r for r in rows if r.p_neighbours < P]
    relatives = [r for r in rows if r.p_all < P <= r.p_neighbours]
    made.append(Paragraph(text=(
        f"They agree more than random triples of the {NEIGHBOURS} trials most like them in everything else in {len(tight)} of "
        f"{len(rows)} parameters at p < {P}; chance alone gives {P * len(rows):.1f}. In {len(relatives)} more they agree only "
        "as relatives do: by descent, which is no evidence that the value matters."
    )))  # fmt: skip
    table = Table(
        head=("parameter", "values", "spread", "p against any three", "p against relatives"),
        rows=tuple((r.name, ", ".join(shown(v) for v in r.values), _spread(r.spread, r.values), f"{r.p_all:.2f}",
                    f"{r.p_neighbours:.2f}") for r in rows),
        strong=frozenset(i for i, r in enumerate(rows) if r.p_neighbours < P),
    )  # fmt: skip
    return [*made, Folded(summary=f"Their values of all {len(rows)} parameters", blocks=(table,))]


def _spread(spread: float | None, values: tuple[Any, ...]) -> str:
    if spread is not None:
        return f"{spread:.0%} of the range"
    return "one choice" if len(set(values)) == 1 else f"{len(set(values))} choices"


def _time(began_s: float | None) -> str:
    return words.NONE if began_s is None else f"{datetime.fromtimestamp(began_s, UTC):%Y-%m-%d %H:%M} UTC"


def _trust(analysis: Analysis, drawings: Drawings) -> list[Block]:
    e = analysis.evidence
    if e is None:
        return []
    left = e["trials_left"]
    budget = (
        f"{e['years']:.2g} years of judged bars bear {e['trials_allowed']} independent trials before an annual Sharpe ratio of "
        f"{e['target_annual_sharpe']:g} is expected of luck alone; {e['n_ever']} were started, which needs "
        f"{e['years_needed']:.3g} years: " + (f"{left} are left" if left > 0 else f"overdrawn by {-left}")
    )  # fmt: skip
    rows = [
        ("deflated Sharpe ratio (probability) of the best trial's own run", words.counts(e) or "not estimable"),
        ("best trial, annual Sharpe ratio", (
            f"{words.signed(e['best_annual_sharpe'])}; the best of {e['n_ever']} skill-less trials would show "
            f"{e['chance_annual_sharpe']:+.2f} on so few bars"
        )),
        ("probability of overfitting (PBO), copies counted once", "not estimable before a judgement" if e["pbo"] is None else
         f"{e['pbo']:.2f} over {e['n_kinds']} kinds of trials and the best baseline; "
         f"slope of the other half on the chosen half over them {e['pbo_persistence']:+.2f}"),
        ("the same over all trials alike", "not estimable" if e["pbo_trials"] is None else
         f"{e['pbo_trials']:.2f} over {e['n_sampled']} trials; the chosen one loses out of sample in {e['pbo_loss']:.0%} of "
         "halvings"),
        ("budget (MinBTL)", budget),
    ]  # fmt: skip
    return [
        Heading(text="How far to trust it"),
        Facts(items=tuple(rows)),
        *_drawn(drawings, "trust"),
    ]


def _champion(analysis: Analysis, drawings: Drawings) -> list[Block]:
    judged = analysis.judgement
    if judged is None:
        return []
    rows = tuple(
        (g["gate"], "pass" if g["passed"] else "FAIL", words.NONE if g["value"] is None else f"{g['value']:.3g} {g['unit']}",
         g["threshold"], g["what"]) for g in judged.get("gates", ())
    )  # fmt: skip
    made: list[Block] = [Heading(text="Champion and baselines"), Paragraph(text=_champion_line(analysis) + ".")]
    if rows:
        made.append(Paragraph(text=(
            "The gates judge a configuration on fresh seeds, by the trials started until then: their deflated Sharpe ratio is "
            "that of the median seed, the one above that of the best trial's own, chosen run."
        )))  # fmt: skip
        made.append(Table(head=("gate", "verdict", "value", "required", "what"), rows=rows))
    return [*made, *_drawn(drawings, "equity")]


def _operations(analysis: Analysis) -> list[Block]:
    o = analysis.operations
    states = ", ".join(f"{n} {s}" for s, n in o.by_state.items()) or "none"
    unseen = f"; {o.unseen} more numbers were given out, running or lost" if o.unseen > 0 else ""
    rows = [("trials by state", states + unseen)]
    if o.window_s is not None:
        rows += [
            ("window of the rates", words.duration(o.window_s)),
            ("throughput", f"{_rate(o.complete_per_hour)} completed, {_rate(o.ended_per_hour)} ended per hour"),
            ("utilisation of the workers", words.share(o.utilisation)),
            ("worker time per completed trial", words.duration(o.worker_s_per_trial) + ", idle time included"),
            ("until all have completed", words.eta(o.eta_complete)), ("until all have ended", words.eta(o.eta_ended)),
        ]  # fmt: skip
    if o.durations_s is not None:
        low, mid, high = (words.duration(s) for s in o.durations_s)
        rows.append(("duration of a completed trial", f"median {mid}; 80 % take {low} … {high}"))
    rows += [
        (
            f"{words.without_score(f.state)}: {f.category}",
            f"{f.count}, {f.share:.1%} of ended (95 %: {f.low:.1%} … {f.high:.1%})",
        )
        for f in o.failures
    ]
    rows += [
        (
            f"{v.workers} at a time",
            f"{v.per_hour:.1f} trials per hour, {words.duration(v.median_s)} each (median of {v.trials})",
        )
        for v in o.levels
    ]
    rows += [(f"GPU {g.get('index', '')} {g.get('name', '')}", _gpu(g)) for g in o.gpus]
    if o.free_bytes is not None:
        room = "" if o.room_trials is None else f"; room for {o.room_trials:,} more trials above the floor"
        rows.append(("disk free", words.gigabytes(o.free_bytes) + room))
    return [Heading(text="The machine"), Facts(items=tuple(rows)), Bullets(items=o.notes)]


def _gpu(g: Mapping[str, Any]) -> str:
    busy = "utilisation not reported" if g.get("utilisation") is None else f"{g['utilisation']:.0%} busy"
    heat = "" if g.get("temperature_c") is None else f", {g['temperature_c']:.0f} °C"
    return f"{busy}, {words.gigabytes(g['memory_used_bytes'])} of {words.gigabytes(g['memory_total_bytes'])} used{heat}"


def _rate(per_hour: float | None) -> str:
    return words.NONE if per_hour is None else f"{per_hour:.3g}"


def _routes(analysis: Analysis) -> list[Block]:
    rows = tuple(
        (
            r.name,
            "recommended" if r.recommended else "open" if r.met else "no",
            words.gain(r.gain, _digits(analysis)),
            r.criterion,
            r.action,
        )
        for r in analysis.routes
    )
    table = Table(
        head=("route", "now", "expected gain", "criterion, fixed beforehand", "what it is"), rows=rows,
        strong=frozenset(i for i, r in enumerate(analysis.routes) if r.recommended),
    )  # fmt: skip
    note = (
        f"Gains are rises of the true score of what one would pick, {_unit(analysis)}, for the same number of trials."
    )
    return [Heading(text="Routes"), table, Paragraph(text=note)]


def _contradictions(analysis: Analysis) -> list[Block]:
    rows = tuple((c.says, c.found) for c in analysis.contradictions)
    return [Heading(text="The other report, checked"), Table(head=("it says", "found"), rows=rows)]


def _reading() -> list[Block]:
    notes = Bullets(items=tuple(" ".join(t.split()) for t in _NOTES))
    return [Heading(text="How to read this"), Folded(summary="What the words and numbers mean", blocks=(notes,))]


_LEFT_OUT = (
    "Without the {n} trials of proposals on trial: their values were chosen together, so nothing follows for each."
)
_NOTES = (
    "`no evidence` says that nothing was found, not that the parameter is irrelevant; only `equivalent` says that.",
    """Effect: Cliff's delta, −1 to 1, positive where the best tenth has larger values; for a choice, the share of the best
    tenth that would have to choose otherwise to look like the rest. Ranks, so no outlier makes one.""",
    """q: the smaller p of place (rank sum within stretches of the search) and shape (importance), doubled, corrected for
    all parameters (Benjamini-Hochberg). `matters`: q < .05, effect ≥ .33 and importance p < .05.""",
    """Importance: chi-square distance of the best tenth's density from everybody's (PED-ANOVA), beside what random tenths
    give. `inert`: p > .5. Rank: 90 % interval.""",
    "Differences are of the displayed medians; numbers on a log scale are compared there.",
)


def _drawn(drawings: Drawings, section: str) -> list[Block]:
    found = drawings.get(section, ())
    return [Figures(items=tuple(found))] if found else []
