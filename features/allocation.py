"""The meaning of a policy's raw output: target weights, then trades the venue would take.

Every function is generic over numpy and torch and over a leading batch shape (...).
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from array_api_compat import array_namespace

from features.errors import ConfigurationError

SLOWEST = -700.0  # of the speed: below it nothing moves anyway, and exp would overflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All are fractions of equity. no_trade_band: a position moves only when it is off its aim by at least this."""

    min_cash_reserve: float
    max_weight: float
    no_trade_band: float

    def __post_init__(self) -> None:
        for name in ("min_cash_reserve", "max_weight", "no_trade_band"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigurationError(f"allocation.{name} must be between 0 and 1, got {getattr(self, name)}")

    def with_extra_reserve(self, extra: float) -> Self:
        """The same with `extra` more of equity kept in cash."""
        return replace(self, min_cash_reserve=self.min_cash_reserve + extra)

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def target_weights(raw: Any, current: Any, limits: Limits) -> Any:
    """Asset weights (..., N) from raw output (..., N + 2) = N asset logits, the cash logit, the speed.

    The softmax over assets and cash is the portfolio aimed at; sigmoid(speed) is the share of the way gone there
    now. Partial adjustment is the optimal form under quadratic trading costs (Gârleanu & Pedersen 2013,
    "Dynamic Trading with Predictable Returns and Transaction Costs"); the no-trade band around the aim is the optimal
    form under proportional ones (Davis & Norman 1990). current: (..., N) weights held.
    What the cap and the reserve cut off stays in cash.
    """
    xp = array_namespace(raw)
    logits, speed = raw[..., :-1], raw[..., -1:]
    exps = xp.exp(logits - xp.max(logits, axis=-1, keepdims=True))
    aim = exps[..., :-1] / xp.sum(exps, axis=-1, keepdims=True)
    rate = 1.0 / (1.0 + xp.exp(-speed.clip(SLOWEST, None)))
    gap = aim - current
    step = xp.where(xp.abs(gap) >= limits.no_trade_band, rate * gap, 0.0)
    return limit_weights(current + step, limits)


def limit_weights(weights: Any, limits: Limits) -> Any:
    """Cap each asset and keep the cash reserve; the cut goes to cash, never to another asset."""
    xp = array_namespace(weights)
    capped = weights.clip(0.0, limits.max_weight)
    invested = xp.sum(capped, axis=-1, keepdims=True)
    room = 1.0 - limits.min_cash_reserve
    return capped * (room / invested.clip(max(room, 1e-12), None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lots:
    """What quantities are multiples of, made ready once.

    unit (..., N): base units, 1 where divisible (..., N) is true; divisible is None where nothing is.
    """

    unit: Any
    divisible: Any | None

    @classmethod
    def of(cls, lot: Any) -> Self:
        """lot (..., N): base units; 0 means divisible."""
        divisible = lot == 0
        return cls(unit=lot + divisible, divisible=divisible if bool(divisible.any()) else None)

    def whole(self, quantity: Any) -> Any:
        """Signed quantities (..., N) rounded towards zero to whole lots; what is divisible stays as it is."""
        xp = array_namespace(quantity)
        return xp.copysign(self.down(xp.abs(quantity)), quantity)

    def down(self, quantity: Any) -> Any:
        """`whole` of quantities (..., N) that are not negative."""
        xp = array_namespace(quantity)
        # 1e-9 of a lot absorbs the division's rounding, so 3 lots stay 3
        whole = xp.floor(quantity / self.unit + 1e-9) * self.unit
        return whole if self.divisible is None else xp.where(self.divisible, quantity, whole)


def plan_trades(
    *, target: Any, value: Any, equity: Any, quantity: Any, price: Any, lots: Lots, min_notional: Any
) -> Any:  # fmt: skip
    """Signed quantities (..., N) to trade so that holdings approach `target` (..., N), in whole lots.

    value (..., N) and equity (...): what is held is worth at the decision close, quote currency; quantity (..., N):
    base units; price (N,) or (..., N): that close; min_notional (N,). A trade below the minimum notional is not made.
    """
    xp = array_namespace(target)
    wanted = target * equity[..., None] - value
    wanted = xp.maximum(wanted / price, -quantity)
    size = lots.down(xp.abs(wanted))
    return xp.where(size * price >= min_notional, xp.copysign(size, wanted), 0.0)
