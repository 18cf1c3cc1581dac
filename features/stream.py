"""Expressions bar by bar: each node keeps just the state it needs and writes its new value into its own row."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import talib.abstract
import talib.stream
from numpy.typing import NDArray

from features.bars import PRICE_COLUMNS, Bars
from features.batch import BatchValues
from features.expressions import Apply, Calendar, Expr, Field, Fixed, Lag, RollingSum, Standing, Talib, walk

Float = NDArray[np.float64]
Step = Callable[[], object]


class StreamValues:
    """The values of `roots` at the last bar, moved on by `update`.

    history: the bars seen so far, at least `lookback + 1` of them; recursive functions remember where it began.
    value(x): (N,), or (1,) for a shared expression; overwritten by the next update.
    """

    def __init__(self, roots: Sequence[Expr], history: Bars) -> None:
        nodes = list(walk(tuple(roots)))
        self._fields: dict[str, Float] = {name: np.empty(history.n_tickers) for name in (*PRICE_COLUMNS, "volume")}
        self._close_time_s, self._count = np.empty(1, dtype=np.int64), 0
        self._values: dict[Expr, NDArray[Any]] = {}
        self._steps: list[Step] = []
        deepest = max((x.lookback for x in nodes if not x.recursive), default=0) + 1
        self._whole = BatchValues(history)
        self._tail = BatchValues(history.slice(max(0, history.n_bars - deepest), history.n_bars))
        self._history: Bars = history
        self._handles: dict[Talib, list[Float]] = {}
        self._rings: dict[Expr, NDArray[Any]] = {}
        self._depth = _ring_depths(nodes)
        for x in nodes:
            self._values[x] = self._open(x)
            if x in self._depth:
                self._steps.append(self._remember(x))
        del self._whole, self._tail, self._history

    def value(self, x: Expr) -> Float:
        return self._values[x]

    def update(self, bar: Bars) -> None:
        """Move on by one closed bar."""
        for name, row in self._fields.items():
            row[:] = getattr(bar, name)[0]
        self._close_time_s[0] = bar.close_time_s[0]
        for step in self._steps:
            step()
        self._count += 1

    def _open(self, x: Expr) -> NDArray[Any]:
        """Append the step that computes `x` and return the row it writes."""
        n = 1 if x.shared else len(self._fields["close"])
        match x:
            case Field(name):
                return self._fields[name]
            case Talib():
                return self._open_talib(x)
        row: NDArray[Any] = np.empty(n, dtype=np.int64 if isinstance(x, Fixed | RollingSum) else np.float64)
        match x:
            case Apply(ufunc, operands):
                # a number becomes an array now, or numpy would convert it anew at every bar
                values = [self._values[o] if isinstance(o, Expr) else np.array(o) for o in operands]
                self._steps.append(partial(ufunc, *values, out=row))
            case Lag(of, bars):
                self._steps.append(self._recall(self._ring(of), bars, row))
            case Fixed(of, bits):
                self._steps.append(partial(_to_fixed, self._values[of], np.array(2.0**bits), np.empty(n), row))
            case RollingSum(fixed, bars):
                ring = self._ring(fixed)
                row[:] = ring[-bars:].sum(axis=0)
                self._steps.append(self._slide(self._values[fixed], ring, bars, row))
            case Standing(of):
                self._steps.append(partial(_standing, self._values[of], row))
            case Calendar(table, period_s, offset):
                self._steps.append(partial(_look_up, self._close_time_s, np.array(table), period_s, offset, row))
            case _:
                raise TypeError(f"no stream rule for {type(x).__name__}")
        return row

    def _ring(self, x: Expr) -> NDArray[Any]:
        """The last values of `x`, (depth, N); the slot of the bar k updates ago is (count - k) modulo depth."""
        if x not in self._rings:
            values = self._whole if x.recursive else self._tail
            past = (values.fixed(x) if isinstance(x, Fixed) else values.value(x))[:, -self._depth[x] :]
            ring = np.zeros((self._depth[x], len(past)), dtype=past.dtype)
            ring[len(ring) - past.shape[1] :] = past.T
            self._rings[x] = ring
        return self._rings[x]

    def _remember(self, x: Expr) -> Step:
        """The ring is one slot deeper than any reader looks back, so this may run before them."""
        ring, row = self._ring(x), self._values[x]
        depth = len(ring)

        def step() -> None:
            ring[self._count % depth] = row

        return step

    def _recall(self, ring: NDArray[Any], bars: int, row: Float) -> Step:
        depth = len(ring)

        def step() -> None:
            row[:] = ring[(self._count - bars) % depth]

        return step

    def _slide(self, new: NDArray[Any], ring: NDArray[Any], bars: int, row: NDArray[Any]) -> Step:
        depth = len(ring)

        def step() -> None:
            np.add(row, new, row)
            np.subtract(row, ring[(self._count - bars) % depth], row)

        return step

    def _open_talib(self, x: Talib) -> Float:
        key = Talib(x.function, x.fields, x.params)
        if key not in self._handles:
            opener, params = getattr(talib.stream, x.function), dict(x.params)
            inputs = [np.ascontiguousarray(getattr(self._history, name).T) for name in x.fields]
            updates = [opener(*series, **params).update for series in zip(*inputs, strict=True)]
            rows = [self._fields[name] for name in x.fields]
            outputs = np.empty((_n_outputs(x.function), len(updates)))
            self._steps.append(partial(_update_handles, updates, rows, outputs))
            self._handles[key] = list(outputs)
        return self._handles[key][x.output]


def _ring_depths(nodes: Sequence[Expr]) -> dict[Expr, int]:
    """How many past values of an expression are read, plus the current one."""
    depths: dict[Expr, int] = {}
    for x in nodes:
        if isinstance(x, Lag | RollingSum):
            source = x.inputs[0]
            depths[source] = max(depths.get(source, 0), x.bars + 1)
    return depths


def _to_fixed(x: Float, scale: Float, scratch: Float, row: NDArray[np.int64]) -> None:
    np.multiply(x, scale, scratch)
    np.rint(scratch, scratch)
    row[:] = scratch


def _standing(x: Float, row: Float) -> None:
    """Counts by binary search; integers, so the order of counting does not matter."""
    ordered = np.sort(x)
    below = ordered.searchsorted(x, "left")
    not_above = ordered.searchsorted(x, "right")
    np.divide(below + not_above - len(x), float(2 * max(len(x) - 1, 1)), row)


def _look_up(close_time_s: NDArray[np.int64], table: Float, period_s: int, offset: int, row: Float) -> None:
    row[0] = table[(int(close_time_s[0]) // period_s + offset) % len(table)]


def _n_outputs(function: str) -> int:
    info = talib.abstract.Function(function).info  # type: ignore[attr-defined]
    return len(info["output_names"])


def _update_handles(updates: Sequence[Callable[..., Any]], rows: Sequence[Float], outputs: Float) -> None:
    bars = zip(*(row.tolist() for row in rows), strict=True)
    outputs[:] = np.array([update(*bar) for update, bar in zip(updates, bars, strict=True)]).T
