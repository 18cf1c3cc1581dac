"""Expressions over a whole history at once."""

import numpy as np
import talib
from numpy.typing import NDArray

from features.bars import Bars
from features.expressions import Apply, Calendar, Expr, Field, Fixed, Lag, RollingSum, Standing, Talib

Float = NDArray[np.float64]
Int = NDArray[np.int64]


class BatchValues:
    """Values of expressions over `bars`, each evaluated once.

    `value(x)` is (N, T), or (1, T) for a shared expression; the first `x.lookback` columns are arbitrary.
    """

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._known: dict[Expr, Float] = {}
        self._prefix: dict[Fixed, Int] = {}
        self._outputs: dict[Talib, list[Float]] = {}

    def value(self, x: Expr) -> Float:
        if x not in self._known:
            self._known[x] = self._evaluate(x)
        return self._known[x]

    def fixed(self, x: Fixed) -> Int:
        """(N, T) int64 units of 2**-bits; 0 where `x` is still arbitrary."""
        units = self.value(x.x) * 2.0**x.bits
        units[:, : x.lookback] = 0.0
        return np.rint(units, out=units).astype(np.int64)

    def _evaluate(self, x: Expr) -> Float:
        match x:
            case Field(name):
                value = np.ascontiguousarray(getattr(self._bars, name).T)
            case Apply(ufunc, operands):
                values = [self.value(o) if isinstance(o, Expr) else o for o in operands]
                with np.errstate(all="ignore"):  # before the lookback anything may stand here; after it, rows check
                    value = ufunc(*values)
            case Lag(of, bars):
                current = self.value(of)
                value = np.zeros_like(current)
                value[:, bars:] = current[:, : current.shape[1] - bars]
            case RollingSum(fixed, bars):
                value = self._rolling_sum(fixed, bars)
            case Standing(of):
                value = _standing(self.value(of))
            case Calendar(table, period_s, offset):
                value = np.array(table)[(self._bars.close_time_s // period_s + offset) % len(table)][None]
            case Talib(output=output):
                value = self._talib(x)[output]
            case _:
                raise TypeError(f"no batch rule for {type(x).__name__}")
        return value

    def _rolling_sum(self, fixed: Fixed, bars: int) -> Float:
        """Differences of prefix sums; wrapping modulo 2**64 they stay right."""
        if fixed not in self._prefix:
            self._prefix[fixed] = np.cumsum(self.fixed(fixed), axis=1)
        prefix = self._prefix[fixed]
        total = prefix.copy()
        total[:, bars:] -= prefix[:, :-bars]
        return total.astype(np.float64)

    def _talib(self, x: Talib) -> list[Float]:
        """All outputs of the function, each (N, T)."""
        key = Talib(x.function, x.fields, x.params)
        if key not in self._outputs:
            function, params = getattr(talib, x.function), dict(x.params)
            rows = [function(*inputs, **params) for inputs in zip(*map(self.value, x.inputs), strict=True)]
            several = isinstance(rows[0], tuple | list)
            self._outputs[key] = [np.stack(o) for o in zip(*rows, strict=True)] if several else [np.stack(rows)]
        return self._outputs[key]


def _standing(x: Float) -> Float:
    """Pair by pair, because a pair costs two comparisons of whole columns and no temporary of (N, N, T)."""
    n = len(x)
    score = np.zeros(x.shape, dtype=np.int32)
    for i in range(n - 1):
        above = (x[i] > x[i + 1 :]).view(np.int8) - (x[i] < x[i + 1 :]).view(np.int8)
        score[i] += above.sum(axis=0, dtype=np.int32)
        score[i + 1 :] -= above
    return score / float(2 * max(n - 1, 1))
