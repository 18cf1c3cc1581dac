"""What trading costs: one frozen record, in basis points of traded value."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from features.errors import ConfigurationError

FeeIn = Literal["quote", "received"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """fee_bps per side; half_spread_bps and slippage_bps move the fill price against us.

    fee_in: "quote" takes fees in cash; "received" takes them from the asset received, as Alpaca and most spot venues
    do on a buy. max_volume_share: largest share of a bar's volume one order may take; 0 is no limit.
    """

    fee_bps: float
    half_spread_bps: float
    slippage_bps: float
    fee_in: FeeIn = "received"
    max_volume_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("fee_bps", "half_spread_bps", "slippage_bps", "max_volume_share"):
            if not getattr(self, name) >= 0.0:
                raise ConfigurationError(f"costs.{name} must not be negative, got {getattr(self, name)}")
        if self.fee_in not in ("quote", "received"):
            raise ConfigurationError(f"costs.fee_in must be quote or received, got {self.fee_in!r}")

    @property
    def fee(self) -> float:
        """Fee as a fraction of traded value."""
        return self.fee_bps * 1e-4

    @property
    def price_impact(self) -> float:
        """Half-spread plus slippage as a fraction of the price."""
        return (self.half_spread_bps + self.slippage_bps) * 1e-4

    def with_fee_bps(self, fee_bps: float) -> Self:
        return replace(self, fee_bps=fee_bps)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
