"""A small vocabulary of charts as inline SVG: scales, axes, lines, points, bars. Pure text; no scripts, no fonts fetched.

Drawn for a width of 360 units, which is a phone's, so that letters stay readable there; colours are classes that the
page's style sheet fills, for light and dark.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 10.0, 34.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """low … high in data units, drawn linearly or in decades. names: of 0, 1, … in place of ticks."""

    low: float
    high: float
    label: str
    log: bool = False
    whole: bool = False
    names: tuple[str, ...] = ()

    def share(self, value: float) -> float:
        """0 at low, 1 at high, held within."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, 1e-300))
        return min(1.0, max(0.0, (at - low) / (high - low))) if high > low else 0.5

    def ticks(self) -> list[float]:
        """About four round values."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            every = max(1, math.ceil((last - first) / 4))
            decades = [10.0**k for k in range(first, last + 1, every)]
            return decades if last > first else [float(f"{v:.1g}") for v in (1.1 * self.low, *decades, self.high / 1.1)]
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        step = 10 ** math.floor(math.log10(span / 4))
        step *= next(m for m in (1, 2, 2.5, 5, 10) if m * step >= span / 4.5)
        step = max(step, 1.0) if self.whole else step
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def around(values: Sequence[float], label: str, *, log: bool = False, include: Sequence[float] = ()) -> Axis:
    """An axis that holds the values with a little room."""
    seen = [v for v in (*values, *include) if math.isfinite(v)]
    low, high = (min(seen), max(seen)) if seen else (0.0, 1.0)
    if log:
        return Axis(low=low / 1.1, high=high * 1.1, label=label, log=True)
    room = 0.05 * (high - low) or max(1e-9, abs(high) * 0.05)
    return Axis(low=low - room, high=high + room, label=label)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Two axes and the rectangle between them."""

    x: Axis
    y: Axis
    height: float = HEIGHT
    left: float = LEFT

    def at(self, x: float, y: float) -> tuple[float, float]:
        wide, tall = WIDTH - self.left - RIGHT, self.height - TOP - BOTTOM
        return self.left + wide * self.x.share(x), TOP + tall * (1.0 - self.y.share(y))

    def line(self, xs: Sequence[float], ys: Sequence[float], kind: str) -> str:
        points = " ".join(f"{px:.1f},{py:.1f}" for px, py in (self.at(x, y) for x, y in zip(xs, ys, strict=True)))
        return f'<polyline class="line {kind}" points="{points}"/>'

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], kind: str) -> str:
        there = [self.at(x, y) for x, y in zip(xs, high, strict=True)]
        back = [self.at(x, y) for x, y in zip(reversed(xs), reversed(low), strict=True)]
        return f'<polygon class="band {kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in there + back)}"/>'

    def dots(self, xs: Sequence[float], ys: Sequence[float], kind: str) -> str:
        """Many points as one path: a page of thousands stays small."""
        path = "".join(f"M{px:.1f} {py:.1f}h0" for px, py in (self.at(x, y) for x, y in zip(xs, ys, strict=True)))
        return f'<path class="dots {kind}" d="{path}"/>'

    def bar(self, x_low: float, x_high: float, value: float, kind: str) -> str:
        left, top = self.at(x_low, value)
        right, floor = self.at(x_high, self.y.low)
        size = f'width="{max(0.0, right - left - 1):.1f}" height="{floor - top:.1f}"'
        return f'<rect class="bar {kind}" x="{left:.1f}" y="{top:.1f}" {size}/>'

    def level(self, y: float, label: str) -> str:
        left, py = self.at(self.x.low, y)
        right, _ = self.at(self.x.high, y)
        return f'<line class="level" x1="{left:.1f}" x2="{right:.1f}" y1="{py:.1f}" y2="{py:.1f}"/>' + text(
            right - 2, py - 4, label, anchor="end", kind="note"
        )

    def drawn(self, marks: Sequence[str], title: str) -> str:
        """The chart: axes, marks, and a title for those who cannot see it."""
        return figure([*self._axes(), *marks], title, self.height)

    def _axes(self) -> list[str]:
        left, floor = self.at(self.x.low, self.y.low)
        right, top = self.at(self.x.high, self.y.high)
        parts = []
        for tick in self.y.ticks():
            _, py = self.at(self.x.low, tick)
            parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{py:.1f}" y2="{py:.1f}"/>')
            parts.append(text(left - 4, py + 3.5, number(tick), anchor="end"))
        for place, name in enumerate(self.x.names):
            parts.append(text(self.at(place, self.y.low)[0], floor + 13, name, anchor="middle"))
        for tick in () if self.x.names else self.x.ticks():
            px, _ = self.at(tick, self.y.low)
            anchor = "end" if px > WIDTH - 28 else "middle"
            parts.append(text(px, floor + 13, number(tick), anchor=anchor))
        parts.append(f'<line class="axis" x1="{left:.1f}" x2="{right:.1f}" y1="{floor:.1f}" y2="{floor:.1f}"/>')
        parts.append(text((left + right) / 2, self.height - 4, self.x.label, anchor="middle", kind="label"))
        turned = f'transform="rotate(-90 10 {(top + floor) / 2:.1f})"'
        parts.append(text(10, (top + floor) / 2, self.y.label, anchor="middle", kind="label", more=turned))
        return parts


def figure(marks: Sequence[str], title: str, height: float = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
        + "".join(marks) + "</svg>"
    )  # fmt: skip


def text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "tick", more: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(words)}</text>'


def number(value: float) -> str:
    """A tick: short, and without the tail of floating point."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"
