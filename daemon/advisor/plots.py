"""The report's figures: what was searched, what came of it, and how far it can be trusted. Pure."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from daemon.advisor.analysis import Analysis
from daemon.advisor.parameters import ParameterRow, top_mask, unit
from daemon.advisor.records import Bounds, Material, Trial
from daemon.advisor.svg import RIGHT, TOP, WIDTH, Axis, Frame, around, figure, number, text

POINTS = 600  # of a cloud; more are thinned evenly, the best tenth is always whole
LINES = 60  # of a bundle in parallel coordinates
SLICES = 6
COORDINATES = 8
LETTER = 5.2  # units a letter of a tick takes


def history(trials: Sequence[Trial]) -> str:
    """Every score in the order of the trials, and the best so far."""
    numbers, scores = [t.number for t in trials], [t.score or 0.0 for t in trials]
    best = np.maximum.accumulate(scores).tolist()
    frame = Frame(x=Axis(low=0, high=max(1, *numbers), label="trial", whole=True), y=around(scores, "score"))
    steps_x = [x for _, here in pairwise(numbers) for x in (here, here)]
    steps_y = [y for pair in pairwise(best) for y in pair]
    kept = _thinned(top_mask(np.array(scores)))
    marks = [
        frame.dots([numbers[i] for i in kept], [scores[i] for i in kept], "rest"),
        frame.line([numbers[0], *steps_x], [best[0], *steps_y], "ours"),
    ]
    return frame.drawn(marks, f"Scores of {len(trials)} trials and the best so far, now {best[-1]:+.4g}")


def importance(rows: Sequence[ParameterRow]) -> str:
    """Share of the distances per parameter, beside what chance gives at its 95 % point."""
    known = sorted((r for r in rows if r.importance), key=lambda r: -(r.importance.share if r.importance else 0.0))
    pitch, left = 15.0, 12.0 + LETTER * max((len(r.name) for r in known), default=0)
    height = TOP + pitch * len(known) + 34
    most = max((max(r.importance.share, r.importance.null_share) for r in known if r.importance), default=1.0)
    axis = Axis(low=0.0, high=100 * most * 1.05, label="share of all distances, %")
    frame = Frame(x=axis, y=Axis(low=0, high=1, label=""), height=height, left=left)
    marks = []
    for tick in axis.ticks():
        x, _ = frame.at(tick, 0)
        marks += [f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - 30:.1f}"/>']
        marks += [text(x, height - 18, number(tick), anchor="middle")]
    for i, row in enumerate(known):
        assert row.importance is not None
        y, kind = TOP + pitch * i, "ours" if row.is_finding else "rest"
        right, chance = (frame.at(100 * s, 0)[0] for s in (row.importance.share, row.importance.null_share))
        marks.append(
            f'<rect class="bar {kind}" x="{left}" y="{y + 2:.1f}" width="{right - left:.1f}" height="{pitch - 4}"/>'
        )
        marks.append(
            f'<line class="chance" x1="{chance:.1f}" x2="{chance:.1f}" y1="{y + 1:.1f}" y2="{y + pitch - 1:.1f}"/>'
        )
        marks.append(text(left - 5, y + pitch - 4, row.name, anchor="end"))
    marks.append(text((left + WIDTH - RIGHT) / 2, height - 4, axis.label, anchor="middle", kind="label"))
    return figure(marks, "Importance of every parameter beside what chance gives", height)


def slices(
    trials: Sequence[Trial], rows: Sequence[ParameterRow], bounds: Mapping[str, Bounds]
) -> list[tuple[str, str]]:
    """(parameter, chart) of the most important few: value against score, the best tenth coloured."""
    return [(r.name, _slice(trials, r.name, bounds[r.name])) for r in _leading(rows, SLICES)]


def _slice(trials: Sequence[Trial], name: str, bound: Bounds) -> str:
    active = [t for t in trials if name in t.parameters]
    scores = np.array([t.score or 0.0 for t in active])
    top = top_mask(scores)
    kept = np.array(_thinned(top))
    raw = [active[i].parameters[name] for i in kept]
    if bound.choices:
        spread = (kept * 0.6180339887 % 1.0 - 0.5) * 0.5  # side by side, the same way every time
        places = np.array([bound.choices.index(v) for v in raw]) + spread
        axis = Axis(low=-0.5, high=len(bound.choices) - 0.5, label=name, names=tuple(map(str, bound.choices)))
    else:
        assert bound.low is not None and bound.high is not None
        places = np.array(raw, dtype=float)
        axis = Axis(low=bound.low, high=bound.high, label=name + (" (log)" if bound.log else ""), log=bound.log)
    frame = Frame(x=axis, y=around(scores.tolist(), "score"))
    best = top[kept]
    marks = [
        frame.dots(places[~best].tolist(), scores[kept][~best].tolist(), "rest"),
        frame.dots(places[best].tolist(), scores[kept][best].tolist(), "ours"),
    ]
    return frame.drawn(marks, f"{name} against score, {len(active)} trials")


def parallel(trials: Sequence[Trial], rows: Sequence[ParameterRow], bounds: Mapping[str, Bounds]) -> str:
    """The best tenth across the leading parameters, over a sample of the rest. Axes run across, for narrow screens."""
    names = [r.name for r in _leading(rows, COORDINATES)]
    full = [t for t in trials if all(n in t.parameters for n in names)]
    top = top_mask(np.array([t.score or 0.0 for t in full]))
    pitch, left = 34.0, 12.0
    height = 22 + pitch * len(names)
    places = np.stack([_places(full, n, bounds[n]) for n in names], axis=1)
    marks = []
    for kind, members in (("rest", np.flatnonzero(~top)), ("ours", np.flatnonzero(top))):
        for i in (
            members[np.unique(np.linspace(0, len(members) - 1, LINES).round().astype(int))] if len(members) else ()
        ):
            points = " ".join(
                f"{left + (WIDTH - 2 * left) * places[i, k]:.1f},{24 + pitch * k:.1f}" for k in range(len(names))
            )
            marks.append(f'<polyline class="thread {kind}" points="{points}"/>')
    for k, name in enumerate(names):
        y, b = 24 + pitch * k, bounds[name]
        ends = (b.choices[0], b.choices[-1]) if b.choices else (number(b.low or 0.0), number(b.high or 0.0))
        marks.append(f'<line class="axis" x1="{left}" x2="{WIDTH - left}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(text(left, y - 4, str(ends[0])))
        marks.append(text(WIDTH - left, y - 4, str(ends[1]), anchor="end"))
        marks.append(text(WIDTH / 2, y - 4, name + (" (log)" if b.log else ""), anchor="middle", kind="label halo"))
    return figure(marks, f"The best {int(top.sum())} trials across {len(names)} parameters, over the rest", height)


def _places(trials: Sequence[Trial], name: str, bound: Bounds) -> Any:
    values = [t.parameters[name] for t in trials]
    if bound.choices:
        return np.array([bound.choices.index(v) for v in values]) / max(1, len(bound.choices) - 1)
    return np.clip(unit(values, bound), 0.0, 1.0)


def equity(found: Mapping[str, Any]) -> str:
    """Wealth of the candidate with its band, cash, and every baseline; the named ones are in the legend."""
    days, wealth = found["days"], found["wealth"]
    shown = [v for w in wealth.values() for v in w]
    frame = Frame(
        x=Axis(low=0, high=max(days[-1], 1e-9), label="days of validation"),
        y=around([*shown, *found["low"], *found["high"]], "wealth, start = 1 (log)", log=True),
    )
    marks = [frame.band(days, found["low"], found["high"], "ours")]
    marks += [frame.line(days, w, _line_kind(n, found["candidate"])) for n, w in reversed(list(wealth.items()))]
    return frame.drawn(marks, "Wealth of the judged candidate and the baselines, with a 90 % band")


def drawdown(found: Mapping[str, Any]) -> str:
    days = found["days"]
    percent = {n: [100 * v for v in d] for n, d in found["drawdown"].items()}
    lowest = min(v for d in percent.values() for v in d)
    frame = Frame(
        x=Axis(low=0, high=max(days[-1], 1e-9), label="days of validation"),
        y=Axis(low=min(lowest, -1.0) * 1.03, high=0.0, label="below the peak, %"),
    )
    marks = [frame.line(days, d, _line_kind(n, found["candidate"])) for n, d in reversed(list(percent.items()))]
    return frame.drawn(marks, "Drawdown of the judged candidate and the baselines")


def _line_kind(name: str, candidate: str) -> str:
    return {candidate: "ours", "1/N daily": "other", "cash": "cash"}.get(name, "faint")


def logits(evidence: Mapping[str, Any]) -> str:
    """How the in-sample best ranks out of sample: mass left of zero is the probability of overfitting."""
    shares = [100 * s for _, _, s in evidence["logits"]]
    frame = Frame(
        x=Axis(low=-6, high=6, label="logit of the out-of-sample rank of the in-sample best"),
        y=Axis(low=0, high=max(shares) * 1.08, label="halvings, %"),
    )
    marks = [frame.bar(a, b, 100 * s, "other" if b <= 0 else "rest") for a, b, s in evidence["logits"]]
    return frame.drawn(marks, f"PBO logits; probability of overfitting {evidence['pbo']:.2f}")


def deflated(evidence: Mapping[str, Any]) -> str:
    """The deflated Sharpe ratio of the best trial by the number of trials it is charged with."""
    numbers, values = zip(*evidence["dsr_curve"], strict=True)
    frame = Frame(
        x=Axis(low=1, high=max(numbers), label="trials charged (log)", log=True),
        y=Axis(low=0.0, high=1.0, label="probability"),
    )
    marks = [frame.level(0.95, "gate .95"), frame.line(numbers, values, "ours")]
    marks += [frame.dots([max(1.0, evidence["counts"][n])], [v], "mark") for n, v in evidence["dsr"].items()]
    return frame.drawn(marks, "Deflated Sharpe ratio against the number of trials")


def figures(analysis: Analysis, material: Material) -> dict[str, list[tuple[str, str]]]:
    """(caption, SVG) by section; a section whose figures have nothing to show is left out."""
    scored = [t for t in material.trials if t.score is not None]
    searched = [t for t in scored if not t.advised]
    known = [r for r in analysis.rows if r.importance]
    found: dict[str, list[tuple[str, str]]] = {}
    if len(scored) > 1:
        found["history"] = [("Scores in the order they ran (points) and the best so far (line)", history(scored))]
    if known:
        found["parameters"] = [
            ("Importance: bars beyond the tick are rarer than 1 in 20 by chance; coloured ones have a verdict",
             importance(known)),
            ("Best tenth (coloured) and others across the leading parameters",
             parallel(searched, known, material.bounds)),
        ]  # fmt: skip
        drawn = slices(searched, known, material.bounds)
        found["slices"] = [(f"{n}: value against score, best tenth coloured", s) for n, s in drawn]
    evidence = analysis.evidence or {}
    if evidence.get("equity"):
        who = evidence["equity"]["candidate"]
        found["equity"] = [
            (f"Wealth of {who} (line, 90 % band), 1/N daily (dashed), cash (dotted), other baselines (faint)",
             equity(evidence["equity"])),
            ("Drawdown, the same lines", drawdown(evidence["equity"])),
        ]  # fmt: skip
    if evidence.get("logits"):
        found["trust"] = [
            (
                "PBO logits, copies counted once: left of zero the chosen trial is below the median out of sample",
                logits(evidence),
            )
        ]
    if evidence.get("dsr_curve"):
        caption = "DSR by the number of trials charged; dots: the ways of counting"
        found.setdefault("trust", []).append((caption, deflated(evidence)))
    return found


def _leading(rows: Sequence[ParameterRow], count: int) -> list[ParameterRow]:
    known = [r for r in rows if r.importance is not None]
    return sorted(known, key=lambda r: (not r.is_finding, -(r.importance.share if r.importance else 0.0)))[:count]


def _thinned(top: Any) -> list[int]:
    """Indices of at most POINTS of the rest, and of all of the top."""
    rest = np.flatnonzero(~top)
    kept = rest[np.unique(np.linspace(0, len(rest) - 1, POINTS).round().astype(int))] if len(rest) else rest
    return sorted([*np.flatnonzero(top).tolist(), *kept.tolist()])
