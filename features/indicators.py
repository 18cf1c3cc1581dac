"""The registry of features: one definition gives the batch column, the stream and the documentation.

Two families exist. A **window** feature is a function of the last `lookback + 1` bars; the stream applies the very
same function to that trailing window, and every rolling sum inside runs on fixed-point int64, where addition is
associative, so the result does not depend on where the history starts. A **TA-Lib** feature is recursive; batch uses
TA-Lib's function and the stream its own stream handle, which TA-Lib keeps bit-identical (version >= 0.8).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import talib
from numpy.typing import NDArray
from talib import stream

from features.bars import Bars
from features.errors import ConfigurationError

Float = NDArray[np.float64]
Params = Mapping[str, int]

_RETURN_BITS = 50  # squared hourly log returns are < 1: 720 of them fit 2**60
_VOLUME_BITS = 40  # squared log volumes are < 2**11
_MIN_VOLATILITY = 1e-6  # per bar; a halted market must not divide by zero
_RECURSIVE_WARMUP_BARS = 240  # Wilder and EMA memory then weighs < 4e-7 (shared measurement, docs/decisions.md)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureKind:
    """What a feature is called, what it reads, and how it is computed.

    columns: names of the outputs. lookback: bars before the current one that it reads, from its parameters.
    window: (bars, params) -> (T, N, k) for scope "asset", (T, k) for "shared"; rows before `lookback` are arbitrary.
    """

    name: str
    doc: str
    columns: tuple[str, ...]
    defaults: Mapping[str, int]
    scope: Literal["asset", "shared"]
    lookback: Callable[[Params], int]
    window: Callable[[Bars, Params], Float] | None = None
    talib: "TalibCall | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TalibCall:
    """A TA-Lib function: `inputs` are bar fields in its order, `finish` maps (outputs, close) to the columns."""

    function: str
    inputs: tuple[str, ...]
    finish: Callable[[Sequence[Any], Any], tuple[Any, ...]]

    def batch(self, bars: Bars, params: Params) -> Float:
        columns = []
        for n in range(bars.n_tickers):
            inputs = [np.ascontiguousarray(getattr(bars, name)[:, n]) for name in self.inputs]
            outputs = getattr(talib, self.function)(*inputs, **params)
            outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
            columns.append(np.stack(self.finish(outputs, bars.close[:, n]), axis=-1))
        block: Float = np.stack(columns, axis=1)
        return block

    def open(self, bars: Bars, params: Params) -> list[Any]:
        """One stream handle per ticker, standing at the last bar of `bars`."""
        opener = getattr(stream, self.function)
        return [
            opener(*(np.ascontiguousarray(getattr(bars, name)[:, n]) for name in self.inputs), **params)
            for n in range(bars.n_tickers)
        ]

    def update(self, handles: list[Any], bar: Bars) -> Float:
        """(N, k) values after one more closed bar."""
        rows = []
        for n, handle in enumerate(handles):
            outputs = handle.update(*(float(getattr(bar, name)[0, n]) for name in self.inputs))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            rows.append(self.finish(outputs, bar.close[0, n]))
        return np.array(rows, dtype=np.float64)


def _rolling_sum(values: Float, window: int, bits: int) -> Float:
    """Sum over the last `window` rows along axis 0, exact in fixed point with `bits` fractional bits."""
    fixed = np.rint(values * 2.0**bits).astype(np.int64)
    total = np.cumsum(fixed, axis=0)  # wraps modulo 2**64; differences stay right
    out = total.copy()
    out[window:] = total[window:] - total[:-window]
    sums: Float = out.astype(np.float64) * 2.0**-bits
    return sums


def _log_close(bars: Bars) -> Float:
    return np.log(np.ascontiguousarray(bars.close))


def _change(log_close: Float, k: int) -> Float:
    out = np.zeros_like(log_close)
    out[k:] = log_close[k:] - log_close[:-k]
    return out


def _volatility(log_close: Float, window: int) -> Float:
    """Root mean square of one-bar log returns over `window` bars, per bar."""
    squares = _rolling_sum(np.square(_change(log_close, 1)), window, _RETURN_BITS)
    return np.maximum(np.sqrt(np.maximum(squares, 0.0) / window), _MIN_VOLATILITY)


def _log_return(bars: Bars, p: Params) -> Float:
    log_close = _log_close(bars)
    scale = _volatility(log_close, p["vol_bars"]) * np.sqrt(float(p["bars"]))
    return np.asarray(_change(log_close, p["bars"]) / scale)[..., None]


def _log_volatility(bars: Bars, p: Params) -> Float:
    return np.log(_volatility(_log_close(bars), p["bars"]))[..., None]


def _volume_z(bars: Bars, p: Params) -> Float:
    turnover = np.log1p(np.ascontiguousarray(bars.volume * bars.close))
    mean = _rolling_sum(turnover, p["bars"], _VOLUME_BITS) / p["bars"]
    mean_square = _rolling_sum(np.square(turnover), p["bars"], _VOLUME_BITS) / p["bars"]
    spread = np.sqrt(np.maximum(mean_square - np.square(mean), 1e-6))
    return ((turnover - mean) / spread)[..., None]


def _rank(bars: Bars, p: Params) -> Float:
    change = _change(_log_close(bars), p["bars"])
    n = change.shape[1]
    below = (change[:, :, None] > change[:, None, :]).sum(axis=2)
    ties = (change[:, :, None] == change[:, None, :]).sum(axis=2) - 1
    ranked: Float = (below + 0.5 * ties) / max(n - 1, 1) - (0.5 if n > 1 else 0.0)
    return ranked[..., None]


_HOUR_TABLE = 2 * np.pi * np.arange(24) / 24
_WEEKDAY_TABLE = 2 * np.pi * np.arange(7) / 7


def _hour(bars: Bars, _: Params) -> Float:
    angle = _HOUR_TABLE[bars.close_time_s // 3600 % 24]
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1)


def _weekday(bars: Bars, _: Params) -> Float:
    angle = _WEEKDAY_TABLE[(bars.close_time_s // 86400 + 3) % 7]  # 1970-01-01 was a Thursday
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1)


def _raw(field: str) -> Callable[[Bars, Params], Float]:
    return lambda bars, _: np.asarray(getattr(bars, field))[..., None]


def _kinds() -> tuple[FeatureKind, ...]:
    def none(_: Params) -> int:
        return 0

    def recursive(_: Params) -> int:
        return _RECURSIVE_WARMUP_BARS

    def as_is(outputs: Sequence[Any], _: Any) -> tuple[Any, ...]:
        return tuple(outputs)

    hlc = ("high", "low", "close")
    macd = {"fastperiod": 12, "slowperiod": 26, "signalperiod": 9}
    macd_columns = ("macd", "macd_signal", "macd_hist")
    asset: Literal["asset"] = "asset"
    raw = tuple(
        FeatureKind(
            name=f,
            doc=f"{f} of the bar, unscaled",
            columns=(f,),
            defaults={},
            scope=asset,
            lookback=none,
            window=_raw(f),
        )
        for f in ("open", "high", "low", "close", "volume")
    )
    windows = (
        FeatureKind(
            name="log_return", doc="log return over `bars`, divided by realised volatility over `vol_bars`",
            columns=("log_return",), defaults={"bars": 24, "vol_bars": 168}, scope=asset,
            lookback=lambda p: max(p["bars"], p["vol_bars"]), window=_log_return,
        ),
        FeatureKind(
            name="log_volatility", doc="log of realised volatility per bar over `bars`",
            columns=("log_volatility",), defaults={"bars": 168}, scope=asset,
            lookback=lambda p: p["bars"], window=_log_volatility,
        ),
        FeatureKind(
            name="volume_z", doc="z-score of log traded value over `bars`",
            columns=("volume_z",), defaults={"bars": 168}, scope=asset,
            lookback=lambda p: p["bars"], window=_volume_z,
        ),
        FeatureKind(
            name="rank", doc="rank of the `bars` return among the tickers, -0.5 to 0.5, ties averaged",
            columns=("rank",), defaults={"bars": 24}, scope=asset,
            lookback=lambda p: p["bars"], window=_rank,
        ),
        FeatureKind(
            name="hour", doc="hour of the close, UTC, as sine and cosine", columns=("hour_sin", "hour_cos"),
            defaults={}, scope="shared", lookback=none, window=_hour,
        ),
        FeatureKind(
            name="weekday", doc="weekday of the close, UTC, as sine and cosine", columns=("weekday_sin", "weekday_cos"),
            defaults={}, scope="shared", lookback=none, window=_weekday,
        ),
    )  # fmt: skip
    oscillators = (
        ("rsi", "RSI", ("close",), "relative strength index", 100.0, 0.5),
        ("cci", "CCI", hlc, "commodity channel index", 100.0, 0.0),
        ("dx", "DX", hlc, "directional movement index", 100.0, 0.5),
    )
    recursives = []
    for name, function, inputs, doc, scale, shift in oscillators:
        common: dict[str, Any] = {"defaults": {"timeperiod": 14}, "scope": asset, "lookback": recursive}
        recursives.append(
            FeatureKind(
                name=name,
                doc=f"TA-Lib {doc}, as it is",
                columns=(name,),
                **common,
                talib=TalibCall(function=function, inputs=inputs, finish=as_is),
            )
        )
        recursives.append(
            FeatureKind(
                name=f"{name}_scaled",
                doc=f"TA-Lib {doc} / {scale:g} - {shift:g}",
                columns=(f"{name}_scaled",),
                **common,
                talib=TalibCall(function=function, inputs=inputs, finish=_scaled(scale, shift)),
            )
        )
    macds = (
        FeatureKind(
            name="macd", doc="TA-Lib MACD, in quote currency", columns=macd_columns, defaults=macd, scope=asset,
            lookback=recursive, talib=TalibCall(function="MACD", inputs=("close",), finish=as_is),
        ),
        FeatureKind(
            name="macd_relative", doc="TA-Lib MACD and histogram, per cent of close",
            columns=("macd_relative", "macd_hist_relative"), defaults=macd, scope=asset, lookback=recursive,
            talib=TalibCall(
                function="MACD", inputs=("close",), finish=lambda o, close: (100.0 * o[0] / close, 100.0 * o[2] / close)
            ),
        ),
    )  # fmt: skip
    return (*raw, *windows, *recursives, *macds)


def _scaled(scale: float, shift: float) -> Callable[[Sequence[Any], Any], tuple[Any, ...]]:
    return lambda outputs, _: (outputs[0] / scale - shift,)


REGISTRY: Mapping[str, FeatureKind] = {kind.name: kind for kind in _kinds()}


def kind(name: str) -> FeatureKind:
    """The registered feature of that name; ConfigurationError names the nearest ones otherwise."""
    if name not in REGISTRY:
        raise ConfigurationError(f"unknown feature {name!r}", hint=f"known: {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]
