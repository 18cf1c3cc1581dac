"""What a policy sees, as one frozen record with one fingerprint."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import talib

from features.errors import ConfigurationError, ContractMismatch
from features.expressions import Expr
from features.indicators import FeatureKind, kind

SEMANTICS = 1  # bumped by hand whenever a feature, the observation or the action changes meaning
Scaling = Literal["robust", "power_of_two"]
PRESETS = ("stationary", "classic")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDef:
    """One feature with its parameters; `params` is sorted by name so that equal definitions compare equal."""

    name: str
    params: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, name: str, **params: int) -> Self:
        known = kind(name)
        unknown = sorted(set(params) - set(known.defaults))
        if unknown:
            raise ConfigurationError(f"feature {name} has no parameter {', '.join(unknown)}")
        return cls(name=name, params=tuple(sorted({**known.defaults, **params}.items())))

    @property
    def kind(self) -> FeatureKind:
        return kind(self.name)

    @property
    def expressions(self) -> tuple[Expr, ...]:
        return self.kind.expressions(dict(self.params))

    @property
    def lookback_bars(self) -> int:
        return self.kind.lookback(dict(self.params))

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names; parameters that differ from the default are part of the name."""
        given = dict(self.params)
        suffix = "".join(f"_{given[k]}" for k in sorted(given) if k == "bars" or given[k] != self.kind.defaults[k])
        return tuple(f"{column}{suffix}" for column in self.kind.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """Tickers in order, features in order, how they are scaled and stacked. Equal fingerprints mean equal inputs."""

    tickers: tuple[str, ...]
    timeframe_s: int
    features: tuple[FeatureDef, ...]
    scaling: Scaling
    stack_bars: int = 1
    talib_version: str = talib.__version__
    semantics: int = SEMANTICS

    def __post_init__(self) -> None:
        if not self.tickers or len(set(self.tickers)) != len(self.tickers):
            raise ConfigurationError(f"tickers must be distinct and at least one, got {self.tickers}")
        if self.stack_bars < 1:
            raise ConfigurationError(f"stack_bars must be at least 1, got {self.stack_bars}")

    @property
    def asset_columns(self) -> tuple[str, ...]:
        return tuple(c for f in self.features if f.kind.scope == "asset" for c in f.columns)

    @property
    def shared_columns(self) -> tuple[str, ...]:
        return tuple(c for f in self.features if f.kind.scope == "shared" for c in f.columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every input in order: `BTC:rank_24`, ..., then the shared ones."""
        return (*(f"{t}:{c}" for t in self.tickers for c in self.asset_columns), *self.shared_columns)

    @property
    def lookback_bars(self) -> int:
        """Bars before t that the row of t reads (recursive features: that still weigh anything)."""
        return max((f.lookback_bars for f in self.features), default=0) + self.stack_bars - 1

    @property
    def warmup_bars(self) -> int:
        """Bars that must precede the first usable row."""
        return self.lookback_bars

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"columns": list(self.columns)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; ContractMismatch when the stored column names are not what it now computes."""
        spec = cls(
            tickers=tuple(record["tickers"]), timeframe_s=record["timeframe_s"],
            features=tuple(
                FeatureDef(name=f["name"], params=tuple((k, v) for k, v in f["params"])) for f in record["features"]
            ),
            scaling=record["scaling"], stack_bars=record["stack_bars"],
            talib_version=record["talib_version"], semantics=record["semantics"],
        )  # fmt: skip
        if list(spec.columns) != record["columns"]:
            raise ContractMismatch(
                f"the stored columns ({len(record['columns'])}) are not those this pipeline computes ({len(spec.columns)})",
                differences=list_differences("column", record["columns"], spec.columns),
            )
        return spec

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def require(self, other: "FeatureSpec", *, mine: str, theirs: str) -> None:
        """Raise ContractMismatch naming every difference unless `other` is the same contract."""
        differences = self.differences(other)
        if differences:
            raise ContractMismatch(
                f"{mine} sees {len(self.columns)} columns, {theirs} gives {len(other.columns)}; they differ in",
                differences=differences, hint="use an artifact trained with this configuration, or retrain",
            )  # fmt: skip

    def differences(self, other: "FeatureSpec") -> list[str]:
        """One line per difference, empty when the fingerprints agree."""
        lines = list_differences("ticker", self.tickers, other.tickers)
        lines += list_differences("asset column", self.asset_columns, other.asset_columns)
        lines += list_differences("shared column", self.shared_columns, other.shared_columns)
        for name in ("timeframe_s", "features", "scaling", "stack_bars", "talib_version", "semantics"):
            a, b = getattr(self, name), getattr(other, name)
            if a != b and not (name == "features" and lines):
                lines.append(f"{name}: {a} against {b}")
        return lines


def list_differences(what: str, mine: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """Lines naming entries only one side has, or the first place where the order differs."""
    lines = [f"{what} {x}: only in the first" for x in mine if x not in theirs]
    lines += [f"{what} {x}: only in the second" for x in theirs if x not in mine]
    if not lines:
        lines = [f"{what} {i}: {a} against {b}" for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b]
    return lines


def preset(name: str, *, tickers: Sequence[str], timeframe_s: int, stack_bars: int = 1) -> FeatureSpec:
    """`stationary` (the default) or `classic` (the predecessor's eleven columns)."""
    of = FeatureDef.of
    if name == "stationary":
        features = (
            *(of("log_return", bars=k) for k in (1, 4, 24, 72, 168)),
            of("log_volatility", bars=24), of("log_volatility", bars=168), of("volume_z"),
            of("rank", bars=24), of("rank", bars=72), of("rank", bars=168),
            of("macd_relative"), of("rsi_scaled"), of("cci_scaled"), of("dx_scaled"), of("hour"), of("weekday"),
        )  # fmt: skip
        scaling: Scaling = "robust"
    elif name == "classic":
        features = tuple(of(n) for n in ("open", "high", "low", "close", "volume", "macd", "rsi", "cci", "dx"))
        scaling = "power_of_two"
    else:
        raise ConfigurationError(f"unknown feature preset {name!r}", hint=f"choose {' or '.join(PRESETS)}")
    return FeatureSpec(
        tickers=tuple(tickers), timeframe_s=timeframe_s, features=features, scaling=scaling, stack_bars=stack_bars
    )
