"""Scaling of feature columns, fitted on the training slice only and frozen in the artifact.

Columns are scaled alike for every ticker, so that a policy stays equivariant under permutation of the tickers.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.errors import ContractMismatch, DataError
from features.pipeline import FeatureRows
from features.spec import FeatureSpec

CLIP = 5.0  # scaled units; keeps one crash bar from saturating the network

# The predecessor's exponents: prices 2**-9, oscillators and volume 2**-15 (middle of its searched ranges).
_POWER_OF_TWO = {"open": 2.0**9, "high": 2.0**9, "low": 2.0**9, "close": 2.0**9}
_POWER_OF_TWO_OTHERS = 2.0**15


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledRows:
    """close_time_s: (R,); asset: (R, N, F) float32; shared: (R, G) float32; every value within ±CLIP."""

    close_time_s: NDArray[np.int64]
    asset: NDArray[np.float32]
    shared: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaler:
    """(x - centre) / scale per column, clipped to ±CLIP."""

    asset_centre: tuple[float, ...]
    asset_scale: tuple[float, ...]
    shared_centre: tuple[float, ...]
    shared_scale: tuple[float, ...]

    @classmethod
    def fit(cls, rows: FeatureRows, spec: FeatureSpec) -> Self:
        """Median and interquartile range / 1.349 over bars and tickers of `rows`, which must be training rows."""
        if spec.scaling == "power_of_two":
            scales = tuple(_POWER_OF_TWO.get(c, _POWER_OF_TWO_OTHERS) for c in spec.asset_columns)
            zero, one = (0.0,) * rows.shared.shape[1], (1.0,) * rows.shared.shape[1]
            return cls(asset_centre=(0.0,) * len(scales), asset_scale=scales, shared_centre=zero, shared_scale=one)
        if rows.n_rows < 2:
            raise DataError("cannot fit a scaler on fewer than two rows")
        asset_centre, asset_scale = _robust(rows.asset.reshape(-1, rows.asset.shape[2]))
        shared_centre, shared_scale = _robust(rows.shared)
        return cls(
            asset_centre=asset_centre, asset_scale=asset_scale, shared_centre=shared_centre, shared_scale=shared_scale
        )

    def transform(self, rows: FeatureRows) -> ScaledRows:
        if rows.asset.shape[2] != len(self.asset_scale) or rows.shared.shape[1] != len(self.shared_scale):
            raise ContractMismatch(
                "the scaler does not fit the feature rows",
                differences=[
                    f"asset columns: {len(self.asset_scale)} against {rows.asset.shape[2]}",
                    f"shared columns: {len(self.shared_scale)} against {rows.shared.shape[1]}",
                ],
            )
        asset = (rows.asset - np.array(self.asset_centre)) / np.array(self.asset_scale)
        shared = (rows.shared - np.array(self.shared_centre)) / np.array(self.shared_scale)
        return ScaledRows(
            close_time_s=rows.close_time_s,
            asset=np.clip(asset, -CLIP, CLIP).astype(np.float32),
            shared=np.clip(shared, -CLIP, CLIP).astype(np.float32),
        )

    def columns(self, spec: FeatureSpec) -> list[tuple[str, float, float]]:
        """(column, centre, scale) in the order of the spec's asset columns, then its shared ones."""
        names = (*spec.asset_columns, *spec.shared_columns)
        centres, scales = self.asset_centre + self.shared_centre, self.asset_scale + self.shared_scale
        return list(zip(names, centres, scales, strict=True))

    def differences(self, other: Self, spec: FeatureSpec) -> list[str]:
        """One line per column that is scaled otherwise; both must belong to `spec`."""
        pairs = zip(self.columns(spec), other.columns(spec), strict=True)
        return [
            f"scaler of {a[0]}: centre {a[1]!r}, scale {a[2]!r} against centre {b[1]!r}, scale {b[2]!r}"
            for a, b in pairs
            if a != b
        ]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        return cls(**{name: tuple(values) for name, values in record.items()})


def _robust(columns: NDArray[np.float64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if columns.shape[1] == 0:
        return (), ()
    low, middle, high = np.quantile(columns, [0.25, 0.5, 0.75], axis=0)
    spread = np.where(high > low, (high - low) / 1.349, 1.0)
    return tuple(map(float, middle)), tuple(map(float, spread))
