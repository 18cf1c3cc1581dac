"""The algebra features are written in: a small graph of exact operations, evaluated over history or bar by bar.

An expression knows how many bars it reads back (`lookback`) and whether it is one value for the market or one per
ticker (`shared`). `features/batch.py` evaluates it over whole arrays, `features/stream.py` one bar at a time; both
give the same bits, because every operation is either element by element, a shift, TA-Lib's own pair of batch function
and stream handle, or a rolling sum in fixed point, where addition is associative and forgets exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Union

import numpy as np

Operand = Union["Expr", float]
BarField = Literal["open", "high", "low", "close", "volume"]

RECURSIVE_LOOKBACK_BARS = 240  # the memory of Wilder's and exponential averages then weighs < 4e-7 (decisions.md)


class Expr:
    """Base of all nodes; immutable, compared by value, so that equal subexpressions are evaluated once."""

    __slots__ = ()

    @property
    def inputs(self) -> "tuple[Expr, ...]":
        return ()

    @property
    def lookback(self) -> int:
        """Bars before the current one that the value depends on."""
        return max((x.lookback for x in self.inputs), default=0)

    @property
    def shared(self) -> bool:
        """One value for the whole market rather than one per ticker."""
        return all(x.shared for x in self.inputs)

    @property
    def recursive(self) -> bool:
        """Whether it remembers, ever more faintly, where history began."""
        return any(x.recursive for x in self.inputs)

    def __add__(self, other: Operand) -> "Expr":
        return Apply(np.add, (self, other))

    def __sub__(self, other: Operand) -> "Expr":
        return Apply(np.subtract, (self, other))

    def __mul__(self, other: Operand) -> "Expr":
        return Apply(np.multiply, (self, other))

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> "Expr":
        return Apply(np.divide, (self, other))


@dataclass(frozen=True, slots=True)
class Field(Expr):
    """A column of the bars."""

    name: BarField

    @property
    def shared(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Apply(Expr):
    """A numpy ufunc, element by element; numbers are broadcast."""

    ufunc: np.ufunc
    operands: tuple[Operand, ...]

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return tuple(x for x in self.operands if isinstance(x, Expr))


@dataclass(frozen=True, slots=True)
class Lag(Expr):
    """The value of `x` a number of bars ago."""

    x: Expr
    bars: int

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return (self.x,)

    @property
    def lookback(self) -> int:
        return self.x.lookback + self.bars


@dataclass(frozen=True, slots=True)
class Fixed(Expr):
    """`x` as int64 in units of 2**-bits; only a rolling sum reads it."""

    x: Expr
    bits: int

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return (self.x,)


@dataclass(frozen=True, slots=True)
class RollingSum(Expr):
    """Sum of the last `bars` values of a fixed-point expression, exact; the sum must stay below 2**63 units."""

    fixed: Fixed
    bars: int

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return (self.fixed,)

    @property
    def lookback(self) -> int:
        return self.fixed.lookback + self.bars - 1


@dataclass(frozen=True, slots=True)
class Standing(Expr):
    """Tickers below minus tickers above, in `x`, over twice the others: -0.5 (lowest) to 0.5 (highest)."""

    x: Expr

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return (self.x,)


@dataclass(frozen=True, slots=True)
class Calendar(Expr):
    """A value looked up by the UTC close time: `table[(close_time_s // period_s + offset) % len(table)]`."""

    table: tuple[float, ...]
    period_s: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Talib(Expr):
    """One output of a TA-Lib function over bar fields; params are its keyword arguments, sorted."""

    function: str
    fields: tuple[BarField, ...]
    params: tuple[tuple[str, int], ...]
    output: int = 0

    @property
    def inputs(self) -> tuple[Expr, ...]:
        return tuple(Field(name) for name in self.fields)

    @property
    def lookback(self) -> int:
        return RECURSIVE_LOOKBACK_BARS

    @property
    def recursive(self) -> bool:
        return True


def talib(function: str, *fields: BarField, output: int = 0, **params: int) -> Talib:
    """`talib("RSI", "close", timeperiod=14)`: inputs in the function's own order."""
    return Talib(function, fields, tuple(sorted(params.items())), output)


def log(x: Expr) -> Expr:
    return Apply(np.log, (x,))


def log1p(x: Expr) -> Expr:
    return Apply(np.log1p, (x,))


def sqrt(x: Expr) -> Expr:
    return Apply(np.sqrt, (x,))


def at_least(x: Expr, floor: float) -> Expr:
    return Apply(np.maximum, (x, floor))


def change(x: Expr, bars: int) -> Expr:
    """`x` minus its value `bars` ago."""
    return x - Lag(x, bars)


def rolling_mean(x: Expr, bars: int, *, bits: int) -> Expr:
    """Mean of the last `bars` values, rounded to 2**-bits each; |sum| must stay below 2**(63 - bits)."""
    return RollingSum(Fixed(x, bits), bars) * 2.0**-bits / float(bars)


def walk(roots: tuple[Expr, ...]) -> Iterator[Expr]:
    """Every distinct expression under `roots`, inputs before what reads them."""
    seen: set[Expr] = set()

    def visit(x: Expr) -> Iterator[Expr]:
        if x not in seen:
            seen.add(x)
            for child in x.inputs:
                yield from visit(child)
            yield x

    for root in roots:
        yield from visit(root)
