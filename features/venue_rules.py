"""Lot, tick and minimum notional of a venue, keyed by ticker and never by position."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from features.errors import ContractMismatch


@dataclass(frozen=True, slots=True, kw_only=True)
class TickerRule:
    """lot: base units a quantity is a multiple of; min_notional: quote currency. Decimal texts; "0" means no limit."""

    lot: str
    tick: str
    min_notional: str

    @property
    def lot_decimal(self) -> Decimal:
        return Decimal(self.lot)


@dataclass(frozen=True, slots=True, kw_only=True)
class VenueRules:
    """The rules of every ticker on one venue."""

    venue: str
    rules: tuple[tuple[str, TickerRule], ...]

    @classmethod
    def uniform(
        cls, venue: str, tickers: Sequence[str], *, lot: str = "0.00001", tick: str = "0.01", min_notional: str = "10"
    ) -> Self:
        rule = TickerRule(lot=lot, tick=tick, min_notional=min_notional)
        return cls(venue=venue, rules=tuple((t, rule) for t in sorted(tickers)))

    def rule(self, ticker: str) -> TickerRule:
        for name, rule in self.rules:
            if name == ticker:
                return rule
        raise ContractMismatch(f"{self.venue} has no trading rules", differences=[f"missing {ticker}"])

    def arrays(self, tickers: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """lot (N,) and min_notional (N,) in the order of `tickers`."""
        rules = [self.rule(t) for t in tickers]
        return np.array([float(r.lot) for r in rules]), np.array([float(r.min_notional) for r in rules])

    def to_dict(self) -> dict[str, Any]:
        return {"venue": self.venue, "rules": {t: asdict(r) for t, r in self.rules}}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        rules = tuple((t, TickerRule(**r)) for t, r in sorted(record["rules"].items()))
        return cls(venue=record["venue"], rules=rules)
