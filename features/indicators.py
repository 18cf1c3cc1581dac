"""The registry of features. One decorated function gives the batch column, the stream, its lookback and its doc.

The function's keyword parameters are the feature's parameters, its docstring is the documentation, and what it returns
is an expression (or several) of `features/expressions.py`. Nothing else has to be written to add a feature: the parity
and look-ahead tests run over the registry, and `cappuccinoctl features list` prints it.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from features.errors import ConfigurationError
from features.expressions import (
    BarField,
    Calendar,
    Expr,
    Field,
    Standing,
    at_least,
    change,
    log,
    log1p,
    rolling_mean,
    sqrt,
    talib,
)  # fmt: skip

_RETURN_BITS = 50  # squared hourly log returns are < 1: 720 of them fit 2**60
_VOLUME_BITS = 40  # squared log volumes are < 2**11
_MIN_VOLATILITY = 1e-6  # per bar; a halted market must not divide by zero

Built = TypeVar("Built", Expr, tuple[Expr, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureKind:
    """A registered feature: what it is called, its output columns, the defaults of its parameters, its expressions."""

    name: str
    doc: str
    columns: tuple[str, ...]
    defaults: Mapping[str, int]
    build: Callable[..., Expr | tuple[Expr, ...]]

    def expressions(self, params: Mapping[str, int]) -> tuple[Expr, ...]:
        """One expression per column."""
        built = self.build(**params)
        return built if isinstance(built, tuple) else (built,)

    def lookback(self, params: Mapping[str, int]) -> int:
        """Bars before the current one that it reads (recursive features: that still weigh anything)."""
        return max(x.lookback for x in self.expressions(params))

    @property
    def scope(self) -> Literal["asset", "shared"]:
        return "shared" if all(x.shared for x in self.expressions(self.defaults)) else "asset"


REGISTRY: dict[str, FeatureKind] = {}


def feature(*columns: str, name: str | None = None) -> Callable[[Callable[..., Built]], Callable[..., Built]]:
    """Register the decorated function; without `columns` it has one, named like the feature."""

    def register(build: Callable[..., Built]) -> Callable[..., Built]:
        called = name or build.__name__
        defaults = {p.name: p.default for p in inspect.signature(build).parameters.values()}
        doc = " ".join((build.__doc__ or "").split())
        if called in REGISTRY or not doc or not all(isinstance(v, int) for v in defaults.values()):
            raise ConfigurationError(
                f"feature {called!r} cannot be registered",
                hint="it needs a new name, a docstring, and an integer default for every parameter",
            )
        REGISTRY[called] = FeatureKind(
            name=called, doc=doc, columns=columns or (called,), defaults=defaults, build=build
        )
        return build

    return register


def kind(name: str) -> FeatureKind:
    """The registered feature of that name; ConfigurationError names the known ones otherwise."""
    if name not in REGISTRY:
        raise ConfigurationError(f"unknown feature {name!r}", hint=f"known: {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]


_LOG_CLOSE = log(Field("close"))
_HLC: tuple[BarField, ...] = ("high", "low", "close")


def _volatility(bars: int) -> Expr:
    """Root mean square of one-bar log returns, per bar."""
    step = change(_LOG_CLOSE, 1)
    return at_least(sqrt(rolling_mean(step * step, bars, bits=_RETURN_BITS)), _MIN_VOLATILITY)


@feature()
def log_return(bars: int = 24, vol_bars: int = 168) -> Expr:
    """Log return over `bars`, divided by realised volatility over `vol_bars`."""
    return change(_LOG_CLOSE, bars) / (_volatility(vol_bars) * float(np.sqrt(float(bars))))


@feature()
def log_volatility(bars: int = 168) -> Expr:
    """Log of realised volatility per bar over `bars`."""
    return log(_volatility(bars))


@feature()
def volume_z(bars: int = 168) -> Expr:
    """z-score of log traded value over `bars`."""
    turnover = log1p(Field("volume") * Field("close"))
    mean = rolling_mean(turnover, bars, bits=_VOLUME_BITS)
    mean_square = rolling_mean(turnover * turnover, bars, bits=_VOLUME_BITS)
    return (turnover - mean) / sqrt(at_least(mean_square - mean * mean, 1e-6))


@feature()
def rank(bars: int = 24) -> Expr:
    """Rank of the `bars` return among the tickers, -0.5 to 0.5, ties averaged."""
    return Standing(change(_LOG_CLOSE, bars))


@feature("hour_sin", "hour_cos")
def hour() -> tuple[Expr, ...]:
    """Hour of the close, UTC, as sine and cosine."""
    return _on_the_clock(24, 3600)


@feature("weekday_sin", "weekday_cos")
def weekday() -> tuple[Expr, ...]:
    """Weekday of the close, UTC, as sine and cosine."""
    return _on_the_clock(7, 86400, offset=3)  # 1970-01-01 was a Thursday


def _on_the_clock(steps: int, period_s: int, offset: int = 0) -> tuple[Expr, ...]:
    angle = 2 * np.pi * np.arange(steps) / steps
    return tuple(Calendar(tuple(map(float, f(angle))), period_s, offset) for f in (np.sin, np.cos))


@feature("macd_relative", "macd_hist_relative")
def macd_relative(fastperiod: int = 12, slowperiod: int = 26, signalperiod: int = 9) -> tuple[Expr, ...]:
    """TA-Lib MACD and its histogram, per cent of the close."""
    line, _, histogram = macd(fastperiod, slowperiod, signalperiod)
    return line * 100.0 / Field("close"), histogram * 100.0 / Field("close")


@feature()
def rsi_scaled(timeperiod: int = 14) -> Expr:
    """TA-Lib relative strength index, -0.5 to 0.5."""
    return rsi(timeperiod) / 100.0 - 0.5


@feature()
def cci_scaled(timeperiod: int = 14) -> Expr:
    """TA-Lib commodity channel index over 100."""
    return cci(timeperiod) / 100.0


@feature()
def dx_scaled(timeperiod: int = 14) -> Expr:
    """TA-Lib directional movement index, -0.5 to 0.5."""
    return dx(timeperiod) / 100.0 - 0.5


@feature("macd", "macd_signal", "macd_hist")
def macd(fastperiod: int = 12, slowperiod: int = 26, signalperiod: int = 9) -> tuple[Expr, ...]:
    """TA-Lib MACD, signal and histogram, in quote currency."""
    periods: dict[str, Any] = {"fastperiod": fastperiod, "slowperiod": slowperiod, "signalperiod": signalperiod}
    return tuple(talib("MACD", "close", output=k, **periods) for k in range(3))


@feature()
def rsi(timeperiod: int = 14) -> Expr:
    """TA-Lib relative strength index, 0 to 100."""
    return talib("RSI", "close", timeperiod=timeperiod)


@feature()
def cci(timeperiod: int = 14) -> Expr:
    """TA-Lib commodity channel index."""
    return talib("CCI", *_HLC, timeperiod=timeperiod)


@feature()
def dx(timeperiod: int = 14) -> Expr:
    """TA-Lib directional movement index, 0 to 100."""
    return talib("DX", *_HLC, timeperiod=timeperiod)


@feature(name="open")
def _open() -> Expr:
    """Open of the bar, in quote currency."""
    return Field("open")


@feature(name="high")
def _high() -> Expr:
    """High of the bar, in quote currency."""
    return Field("high")


@feature(name="low")
def _low() -> Expr:
    """Low of the bar, in quote currency."""
    return Field("low")


@feature(name="close")
def _close() -> Expr:
    """Close of the bar, in quote currency."""
    return Field("close")


@feature(name="volume")
def _volume() -> Expr:
    """Volume of the bar, in base units."""
    return Field("volume")
