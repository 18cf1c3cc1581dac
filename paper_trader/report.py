"""The paper account beside the shadows: a table, and the equity curves as one HTML file with nothing to load."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.bars import utc_text
from paper_trader.journal import Journal
from paper_trader.shadows import Curve, curves

PAPER = "paper account"
_COLOURS = ("#b5460f", "#1f5fa8", "#5b8c2a", "#777777", "#8a4fa3", "#c9a227", "#2a9d8f", "#d1495b", "#444444")
_WIDTH, _HEIGHT, _MARGIN = 900, 420, 60
_POINTS = 1500  # more than pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Fractions, net of costs, since `since_utc`. paper: the paper account's return over the same bars."""

    name: str
    since_utc: str
    net_return: float
    paper: float
    max_drawdown: float
    fees: float
    retired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    lines: tuple[Line, ...]
    curves: tuple[Curve, ...]


def compared(journal: Journal, shadows: Path) -> Compared:
    """The paper account first, then every shadow that has a bar in common with it."""
    marks = journal.marks()
    times = np.array([t for t, _, _ in marks], dtype=np.int64)
    own = Curve(
        name=PAPER, close_time_s=times, equity=np.array([float(e) for _, _, e in marks]),
        fees=float(marks[-1][1].fees), retired=False,
    )  # fmt: skip
    found = [own, *(c for c in curves(shadows) if len(c.close_time_s))]
    return Compared(lines=tuple(_line(c, own) for c in found), curves=tuple(found))


def text(found: Compared) -> str:
    head = (
        f"{'account':<18}{'since':<18}{'net return %':>13}{'paper %':>9}{'max drawdown %':>16}{'fees % of start':>17}"
    )
    rows = [
        f"{x.name:<18}{x.since_utc[:16]:<18}{100 * x.net_return:>13.2f}{100 * x.paper:>9.2f}"
        f"{100 * x.max_drawdown:>16.2f}{100 * x.fees:>17.2f}{'  retired' if x.retired else ''}"
        for x in found.lines
    ]
    return "\n".join([head, "-" * len(head), *rows])


def html(found: Compared) -> str:
    """One page: the curves as inline SVG, the table below."""
    names = "".join(
        f'<tspan fill="{_colour(n)}" x="{_MARGIN + 8}" dy="16">{escape(c.name)}</tspan>'
        for n, c in enumerate(found.curves)
    )
    low, high = (
        min(float(_relative(c).min()) for c in found.curves),
        max(float(_relative(c).max()) for c in found.curves),
    )
    first, last = found.curves[0].close_time_s[0], found.curves[0].close_time_s[-1]
    paths = "".join(
        f'<polyline fill="none" stroke="{_colour(n)}" stroke-width="1.4" points="{_points(c, first, last, low, high)}"/>'
        for n, c in enumerate(found.curves)
    )
    ticks = "".join(
        f'<text x="{_MARGIN - 6}" y="{_y(v, low, high):.0f}" text-anchor="end">{100 * (v - 1):+.1f} %</text>'
        for v in np.linspace(low, high, 5)
    )
    when = (
        f'<text x="{_MARGIN}" y="{_HEIGHT - 20}">{utc_text(int(first))[:10]}</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - 20}" text-anchor="end">{utc_text(int(last))[:10]}</text>'
    )
    return (
        '<!doctype html><meta charset="utf-8"><title>cappuccino: paper account</title>'
        "<style>body{font:14px sans-serif;margin:2em}svg text{font:12px sans-serif}</style><h1>Paper account</h1>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="100%" role="img" aria-label="equity curves">{ticks}{when}{paths}'
        f'<text y="{_MARGIN - 20}">{names}</text></svg><pre>{escape(text(found))}</pre>\n'
    )


def _line(curve: Curve, own: Curve) -> Line:
    equity = curve.equity
    start = int(np.searchsorted(own.close_time_s, curve.close_time_s[0]))
    stop = int(np.searchsorted(own.close_time_s, curve.close_time_s[-1]))
    return Line(
        name=curve.name, since_utc=utc_text(int(curve.close_time_s[0])), net_return=float(equity[-1] / equity[0] - 1.0),
        paper=float(own.equity[min(stop, len(own.equity) - 1)] / own.equity[start] - 1.0),
        max_drawdown=float((1.0 - equity / np.maximum.accumulate(equity)).max()), fees=curve.fees / float(equity[0]),
        retired=curve.retired,
    )  # fmt: skip


def _relative(curve: Curve) -> NDArray[np.float64]:
    relative: NDArray[np.float64] = curve.equity / curve.equity[0]
    return relative


def _points(curve: Curve, first: int, last: int, low: float, high: float) -> str:
    keep = np.unique(np.linspace(0, len(curve.equity) - 1, _POINTS).astype(int))
    span = max(1, int(last) - int(first))
    xs = _MARGIN + (curve.close_time_s[keep] - first) / span * (_WIDTH - 2 * _MARGIN)
    return " ".join(f"{x:.1f},{_y(v, low, high):.1f}" for x, v in zip(xs, _relative(curve)[keep], strict=True))


def _y(value: float, low: float, high: float) -> float:
    return _HEIGHT - _MARGIN - (value - low) / max(high - low, 1e-9) * (_HEIGHT - 2 * _MARGIN)


def _colour(n: int) -> str:
    return _COLOURS[n % len(_COLOURS)]
