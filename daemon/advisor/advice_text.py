"""Experiments in words: the report's section and what the verb `advice` prints. Pure."""

from collections.abc import Sequence

from daemon.advisor import words
from daemon.advisor.book import Book, Experiment
from daemon.advisor.document import Block, Heading, Paragraph, Table
from daemon.advisor.experiment import THRESHOLD
from daemon.advisor.parameters import shown
from daemon.advisor.proposals import Proposal

HEAD = ("experiment", "state", "pairs won – lost", "E", "difference", "predicted", "what is tried")


def tried(book: Book, digits: int) -> list[Block]:
    """The report's section; empty as long as nothing was proposed."""
    if not book.experiments and not book.refused:
        return []
    rows = tuple(row(e, digits) for e in book.experiments.values())
    strong = frozenset(i for i, e in enumerate(book.experiments.values()) if e.state == "open")
    note = (
        "Each proposal runs beside a trial of the sampler's, on the same folds and seeds. E is the wealth of a bet against "
        f'"no better": at {THRESHOLD:.0f} the advice is adopted, at {THRESHOLD:.0f} on the losing side retracted; it may be '
        "looked at after every pair. Difference: Hodges-Lehmann, in units of the score."
    )  # fmt: skip
    made: list[Block] = [Heading(text="Advice that is tried")]
    made += [Table(head=HEAD, rows=rows, strong=strong)] if rows else []
    return [*made, *[Paragraph(text=t) for t in (note, refusals(book)) if t]]


def row(experiment: Experiment, digits: int) -> tuple[str, ...]:
    t, newest = experiment.tally, list(experiment.proposals.values())[-1]
    void = f" ({t.voids} void)" if t.voids else ""
    n = sum(s.difference is not None for s in t.path)
    by_hand = " by a person" if experiment.by == "person" else ""
    return (
        experiment.id, experiment.state + by_hand, f"{t.wins} – {t.losses}{void}", f"{t.e:.3g}",
        words.NONE if t.difference is None else f"{words.signed(t.difference, digits)} (n {n})",
        words.signed(newest.predicted_delta, digits), what(experiment),
    )  # fmt: skip


def what(experiment: Experiment) -> str:
    """In one line."""
    proposals = list(experiment.proposals.values())
    if experiment.kind == "enqueue":
        return f"{len(proposals)} configuration{'s' * (len(proposals) > 1)} of {experiment.proposer}"
    return subject(proposals[-1])


def subject(p: Proposal) -> str:
    match p.kind:
        case "narrow" | "widen":
            spans = (
                f"{n} " + ("|".join(map(str, s.choices)) if s.choices else f"{shown(s.low)} … {shown(s.high)}")
                for n, s in p.ranges.items()
            )
            return f"{p.kind}: " + "; ".join(spans)
        case "replicate" | "ensemble":
            return f"{p.kind}: trial{'s' * (len(p.trials) > 1)} {', '.join(map(str, p.trials))}"
        case "enqueue":
            return "; ".join(f"{n} {shown(v)}" for n, v in p.parameters.items())
        case "stop":
            return "stop searching"


def refusals(book: Book) -> str:
    """How often whom for which reason; empty when never."""
    if not book.refused:
        return ""
    counts = ", ".join(f"{who}: {why} {n}" for (who, why), n in sorted(book.refused.items()))
    return f"Refused: {counts}."


def listing(book: Book) -> str:
    if not book.experiments:
        return "\n".join(["no advice is being tried", *([refusals(book)] if book.refused else [])])
    rows: Sequence[tuple[str, ...]] = [HEAD, *(row(e, 3) for e in book.experiments.values())]
    widths = [max(len(r[i]) for r in rows) for i in range(len(HEAD) - 1)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(r, widths, strict=False)), r[-1]]) for r in rows]
    return "\n".join([*lines, *([refusals(book)] if book.refused else [])])


def page(experiment: Experiment) -> str:
    """Everything about one."""
    lines = [f"{name:<18}{text}" for name, text in zip(HEAD, row(experiment, 3), strict=True)]
    for name, p in experiment.proposals.items():
        lines += [
            "",
            f"{name}, by {p.proposer}: {p.hypothesis}",
            f"  {subject(p)}",
            *([] if p.confidence is None else [f"  its own confidence {p.confidence:.2f}"]),
        ]
    path = experiment.tally.path
    if path:
        lines += ["", f"{'pair':>6}{'proposal':>10}{'control':>10}  {'outcome':<9}{'difference':>11}{'E':>10}"]
    for s in path:
        lines.append(
            f"{s.pair:>6}{s.trials[0]:>10}{s.trials[1]:>10}  {s.outcome:<9}{words.signed(s.difference, 3):>11}{s.e:>10.3g}"
        )
    return "\n".join(lines)
