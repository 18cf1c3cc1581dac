"""Expressions over a whole history at once."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import talib
from numpy.typing import NDArray

from features.bars import Bars
from features.expressions import Apply, Calendar, Expr, Field, Fixed, Lag, RollingSum, Standing, Talib, walk

Float = NDArray[np.float64]


class BatchValues:
    """Values of expressions over `bars`, each evaluated once.

    A value is (N, T), or (1, T) for a shared expression; the first `x.lookback` columns are arbitrary. roots: what
    will be asked for by `take`, each as often as it stands there; a buffer that nothing will read any more is used
    again, because fresh pages cost several times the arithmetic. Without roots every value is kept.
    """

    def __init__(self, bars: Bars, roots: Sequence[Expr] = ()) -> None:
        self._bars = bars
        self._known: dict[Expr, NDArray[Any]] = {}
        self._readers = Counter(roots)
        for x in walk(tuple(roots)):
            self._readers.update(x.inputs)
        self._spare: defaultdict[int, list[Float]] = defaultdict(list)

    def take(self, x: Expr, into: Float) -> None:
        """Copy the last columns of `x` into `into` (N or 1, ≤ T) and count it as read."""
        into[:] = self.value(x)[:, -into.shape[1] :]
        self._release(x)

    def value(self, x: Expr) -> Float:
        if x not in self._known:
            if isinstance(x, Apply):
                self._known[x] = self._apply(x)
            else:
                self._evaluate(x)
                for read in x.inputs:
                    self._release(read)
        return self._known[x]

    def fixed(self, x: Fixed) -> NDArray[np.int64]:
        """(N, T) int64 units of 2**-bits; 0 where `x` is still arbitrary."""
        values = self.value(x.x)
        scaled = self._buffer(len(values))
        np.multiply(values, 2.0**x.bits, scaled)
        scaled[:, : x.lookback] = 0.0
        np.rint(scaled, scaled)
        units = self._buffer(len(values)).view(np.int64)
        units[:] = scaled
        self._spare[len(values)].append(scaled)
        return units

    def _apply(self, x: Apply) -> Float:
        values = [self.value(o) if isinstance(o, Expr) else o for o in x.operands]
        for read in x.inputs:  # before the result has a buffer: element by element it may go where an operand stood
            self._release(read)
        out = self._buffer(1 if x.shared else self._bars.n_tickers)
        with np.errstate(all="ignore"):  # before the lookback anything may stand here; after it, rows check
            x.ufunc(*values, out=out)
        return out

    def _evaluate(self, x: Expr) -> None:
        if isinstance(x, Talib):
            self._evaluate_talib(x)
        elif isinstance(x, Fixed):
            prefix = self.fixed(x)
            self._known[x] = np.cumsum(prefix, axis=1, out=prefix)
        else:
            out = self._buffer(1 if x.shared else self._bars.n_tickers)
            self._write(x, out)
            self._known[x] = out

    def _write(self, x: Expr, out: Float) -> None:
        match x:
            case Field(name):
                out[:] = getattr(self._bars, name).T
            case Lag(of, bars):
                out[:, :bars] = 0.0
                out[:, bars:] = self.value(of)[:, : out.shape[1] - bars]
            case RollingSum(fixed, bars):
                # differences of prefix sums; wrapping modulo 2**64 they stay right
                prefix = self.value(fixed)
                out[:, :bars] = prefix[:, :bars]
                np.subtract(prefix[:, bars:], prefix[:, :-bars], out[:, bars:], casting="unsafe")
            case Standing(of):
                _standing(self.value(of), out)
            case Calendar(table, period_s, offset):
                out[:] = np.array(table)[(self._bars.close_time_s // period_s + offset) % len(table)]
            case _:
                raise TypeError(f"no batch rule for {type(x).__name__}")

    def _evaluate_talib(self, x: Talib) -> None:
        """Every output of the function that is read, in one pass."""
        function, params = getattr(talib, x.function), dict(x.params)
        for i, inputs in enumerate(zip(*map(self.value, x.inputs), strict=True)):
            result = function(*inputs, **params)
            for k, series in enumerate(result if isinstance(result, tuple | list) else (result,)):
                output = Talib(x.function, x.fields, x.params, k)
                if self._readers and output not in self._readers:
                    continue
                if i == 0:
                    self._known[output] = self._buffer(self._bars.n_tickers)
                self._known[output][i] = series

    def _buffer(self, n: int) -> Float:
        """(n, T) of anything."""
        spare = self._spare[n]
        return spare.pop() if spare else np.empty((n, self._bars.n_bars))

    def _release(self, x: Expr) -> None:
        if x not in self._readers:
            return
        self._readers[x] -= 1
        if self._readers[x] == 0:
            buffer = self._known.pop(x)
            self._spare[len(buffer)].append(buffer.view(np.float64))


def _standing(x: Float, out: Float) -> None:
    """Pair by pair, because a pair costs two comparisons of whole columns and no temporary of (N, N, T)."""
    n = len(x)
    score = np.zeros(x.shape, dtype=np.int32)
    for i in range(n - 1):
        above = (x[i] > x[i + 1 :]).view(np.int8) - (x[i] < x[i + 1 :]).view(np.int8)
        score[i] += above.sum(axis=0, dtype=np.int32)
        score[i + 1 :] -= above
    np.divide(score, float(2 * max(n - 1, 1)), out)
