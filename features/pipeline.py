"""Bars to feature rows, over history (`compute`) and bar by bar (`FeatureStream`), bit for bit the same."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.bars import Bars, utc_text
from features.batch import BatchValues
from features.errors import DataError
from features.expressions import Expr
from features.spec import FeatureSpec
from features.stream import StreamValues

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
            with np.errstate(all="ignore"):
                total = values.sum()  # finite only if every value is; one pass without a mask of millions
            if not np.isfinite(total) and not np.isfinite(values).all():
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
    columns, warm = _expressions(spec), spec.warmup_bars
    values = BatchValues(bars, [x for expressions in columns for x in expressions])
    blocks = []
    for expressions, n in zip(columns, (bars.n_tickers, 1), strict=True):
        block = np.empty((len(expressions), n, bars.n_bars - warm))
        for column, x in zip(block, expressions, strict=True):
            values.take(x, column)
        blocks.append(block.transpose(2, 1, 0))
    asset, shared = blocks
    return FeatureRows(close_time_s=bars.close_time_s[warm:], asset=asset, shared=shared[:, 0])


class FeatureStream:
    """Feature rows bar by bar. Opened on stored history, it equals one that has run since its first bar.

    Recursive features remember where history began, so a comparison with `compute` must start at the same bar.
    """

    def __init__(self, spec: FeatureSpec, history: Bars) -> None:
        require_history(history, spec)
        self._spec = spec
        self._last_close_s = history.last_close_s
        asset, shared = _expressions(spec)
        self._values = StreamValues((*asset, *shared), history)
        self._asset = [self._values.value(x) for x in asset]
        self._shared = [self._values.value(x) for x in shared]

    @property
    def last_close_s(self) -> int:
        return self._last_close_s

    def update(self, bar: Bars) -> FeatureRows:
        """The row of one more closed bar (`bar.n_bars == 1`), which must follow the last one directly."""
        if bar.n_bars != 1 or bar.first_close_s != self._last_close_s + self._spec.timeframe_s:
            got = utc_text(bar.first_close_s) if bar.n_bars else "nothing"
            raise DataError(f"expected the bar after {utc_text(self._last_close_s)}, got {got}")
        self._values.update(bar)
        self._last_close_s = bar.last_close_s
        asset = np.array(self._asset).T if self._asset else np.empty((bar.n_tickers, 0))
        return FeatureRows(
            close_time_s=bar.close_time_s, asset=asset[None], shared=np.array([x[0] for x in self._shared])[None]
        )


def _expressions(spec: FeatureSpec) -> tuple[list[Expr], list[Expr]]:
    """The expressions of the asset columns and of the shared ones, in the spec's order."""
    asset: list[Expr] = []
    shared: list[Expr] = []
    for definition in spec.features:
        (asset if definition.kind.scope == "asset" else shared).extend(definition.expressions)
    return asset, shared
