"""Bars to feature rows, over history (`compute`) and bar by bar (`FeatureStream`), bit for bit the same."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.bars import Bars, utc_text
from features.errors import DataError
from features.spec import FeatureDef, FeatureSpec

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRows:
    """Unscaled features after warm-up. close_time_s: (R,); asset: (R, N, F); shared: (R, G); float64, finite."""

    close_time_s: NDArray[np.int64]
    asset: Float
    shared: Float

    def __post_init__(self) -> None:
        for name in ("asset", "shared"):
            values = getattr(self, name)
            if not np.isfinite(values).all():
                row = int(np.argwhere(~np.isfinite(values))[0][0])
                raise DataError(f"an {name} feature is not finite at {utc_text(int(self.close_time_s[row]))}")

    @property
    def n_rows(self) -> int:
        return len(self.close_time_s)

    def slice(self, start: int, stop: int) -> "FeatureRows":
        return FeatureRows(
            close_time_s=self.close_time_s[start:stop], asset=self.asset[start:stop], shared=self.shared[start:stop]
        )


def require_history(bars: Bars, spec: FeatureSpec) -> None:
    """Raise DataError unless `bars` are the spec's tickers and long enough for one usable row."""
    if bars.tickers != spec.tickers or bars.timeframe_s != spec.timeframe_s:
        raise DataError(f"bars of {bars.tickers} at {bars.timeframe_s} s do not fit the spec of {spec.tickers}")
    if bars.n_bars <= spec.warmup_bars:
        raise DataError(
            f"{bars.n_bars} bars of history, {spec.warmup_bars + 1} needed for the first feature row",
            hint="let the source supply more history",
        )


def compute(bars: Bars, spec: FeatureSpec) -> FeatureRows:
    """Rows for every bar from `spec.warmup_bars` on: row r describes bar `r + warmup_bars`."""
    require_history(bars, spec)
    asset: list[Float] = []
    shared: list[Float] = []
    for definition in spec.features:
        block = _batch(bars, definition)[spec.warmup_bars :]
        (asset if definition.kind.scope == "asset" else shared).append(block)
    n_rows = bars.n_bars - spec.warmup_bars
    return FeatureRows(
        close_time_s=bars.close_time_s[spec.warmup_bars :],
        asset=np.concatenate(asset, axis=2) if asset else np.zeros((n_rows, bars.n_tickers, 0)),
        shared=np.concatenate(shared, axis=1) if shared else np.zeros((n_rows, 0)),
    )


def _batch(bars: Bars, definition: FeatureDef) -> Float:
    kind, params = definition.kind, dict(definition.params)
    if kind.talib is not None:
        return kind.talib.batch(bars, params)
    assert kind.window is not None
    return kind.window(bars, params)


class FeatureStream:
    """Feature rows bar by bar. Opened on stored history, it equals one that has run since its first bar.

    Recursive features remember where history began, so a comparison with `compute` must start at the same bar.
    """

    def __init__(self, spec: FeatureSpec, history: Bars) -> None:
        require_history(history, spec)
        self._spec = spec
        self._window = history.slice(history.n_bars - spec.lookback_bars - 1, history.n_bars)
        self._steps: list[tuple[FeatureDef, Callable[[Bars], Float]]] = []
        for definition in spec.features:
            self._steps.append((definition, self._opened(definition, history)))

    @property
    def last_close_s(self) -> int:
        return self._window.last_close_s

    def update(self, bar: Bars) -> FeatureRows:
        """The row of one more closed bar (`bar.n_bars == 1`), which must follow the last one directly."""
        if bar.n_bars != 1 or bar.first_close_s != self.last_close_s + self._spec.timeframe_s:
            got = utc_text(bar.first_close_s) if bar.n_bars else "nothing"
            raise DataError(f"expected the bar after {utc_text(self.last_close_s)}, got {got}")
        self._window = self._window.slice(1, self._window.n_bars).concat(bar)
        asset: list[Float] = []
        shared: list[Float] = []
        for definition, step in self._steps:
            (asset if definition.kind.scope == "asset" else shared).append(step(bar))
        return FeatureRows(
            close_time_s=bar.close_time_s,
            asset=(np.concatenate(asset, axis=1) if asset else np.zeros((bar.n_tickers, 0)))[None],
            shared=(np.concatenate(shared) if shared else np.zeros(0))[None],
        )

    def _opened(self, definition: FeatureDef, history: Bars) -> Callable[[Bars], Float]:
        kind, params = definition.kind, dict(definition.params)
        if kind.talib is not None:
            call = kind.talib
            handles: list[Any] = call.open(history, params)
            return lambda bar: call.update(handles, bar)
        window = kind.window
        assert window is not None
        needed = definition.lookback_bars + 1

        def trailing(_: Bars) -> Float:
            recent = self._window.slice(self._window.n_bars - needed, self._window.n_bars)
            last: Float = window(recent, params)[-1]
            return last

        return trailing
