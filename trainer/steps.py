"""What a batch of accounts sees at a bar, and what one bar did to it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """market: (G, M), the same for every account of a group; account: (G, A, N + 3). Of T bars: (T, G, ...)."""

    market: Tensor
    account: Tensor


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

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By name, those of `final` as final_market and final_account."""
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "final"}
        return {**numbers, "final_market": self.final.market, "final_account": self.final.account}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """From what `tensors` names, of one bar or of several; others beside them are passed over."""
        final = Observed(market=tensors["final_market"], account=tensors["final_account"])
        return cls(final=final, **{f.name: tensors[f.name] for f in fields(cls) if f.name != "final"})

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


class Kept:
    """What is kept of T bars, by name and (T, ...): each tensor goes to its place in memory bar by bar.

    As one tensor a bar they would lie scattered among what a bar needs for a moment only, and the heap would grow by as
    much again in holes.
    """

    def __init__(self, n_bars: int) -> None:
        self._n_bars = n_bars
        self._places: list[tuple[Tensor, ...]] = []
        self.tensors: dict[str, Tensor] = {}

    def put(self, bar: int, **tensors: Tensor) -> None:
        if not self.tensors:
            self.tensors = {n: x.new_empty((self._n_bars, *x.shape)) for n, x in tensors.items()}
            self._places = [x.unbind() for x in self.tensors.values()]
        torch._foreach_copy_([places[bar] for places in self._places], list(tensors.values()))
