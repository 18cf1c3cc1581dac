"""What a batch of accounts sees at a bar, and what one bar did to it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """market: (G, M), the same for every account of a group; account: (G, A, N + 3). Of T bars: (T, G, ...)."""

    market: Tensor
    account: Tensor

    @classmethod
    def stacked(cls, seen: Sequence[Self]) -> Self:
        """T bars as one."""
        return cls(market=torch.stack([o.market for o in seen]), account=torch.stack([o.account for o in seen]))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """After one bar, (G, A) unless said otherwise; of T bars, (T, G, A). Numbers are float64, ended flags bool.

    What follows from other numbers is worked out when it is asked for. reward: log-wealth change net of costs less the
    equal-weight market's, which no action changes (a control variate). log_return: the log-wealth change alone.
    market_return: (G, N), close to close. traded, equity_before: quote currency. drawdown: below the episode's peak.
    weights: (G, A, N), and cash_share, of equity. elapsed: share of the account's episode that is over.
    terminated: ruin. truncated: the episode's time is up. `final` is the observation before any reset: its value
    bootstraps what truncation cut off.
    """

    reward: Tensor
    log_return: Tensor
    market_return: Tensor
    traded: Tensor
    equity_before: Tensor
    drawdown_before: Tensor
    drawdown: Tensor
    weights: Tensor
    cash_share: Tensor
    elapsed: Tensor
    terminated: Tensor
    truncated: Tensor
    final: Observed

    @classmethod
    def stacked(cls, steps: Sequence[Self]) -> Self:
        """T bars as one."""
        names = [f.name for f in fields(cls) if f.name != "final"]
        numbers = {n: torch.stack([getattr(s, n) for s in steps]) for n in names}
        return cls(**numbers, final=Observed.stacked([s.final for s in steps]))

    @property
    def turnover(self) -> Tensor:
        """Traded value over equity."""
        return self.traded / self.equity_before

    @property
    def deepened(self) -> Tensor:
        """By how much the drawdown grew."""
        return (self.drawdown - self.drawdown_before).clamp(min=0.0)

    @property
    def concentration(self) -> Tensor:
        """Sum of the squared asset weights."""
        return (self.weights * self.weights).sum(-1)
