"""Thousands of accounts in lockstep on one resident market: the training environment.

Accounts come in groups that share their bars, so the market half of an observation exists once per group. Everything
an account does — target, trades, fills, fees, observation — is the code of `features`, on torch tensors.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.account import equity, fill_trades, settle
from features.allocation import Limits, plan_trades, target_weights
from features.bars import Bars
from features.costs import Costs
from features.observation import account_block

RUIN = 0.05  # share of the opening equity below which an account is finished
FEE_SPREAD = (0.5, 1.5)  # per-episode multiplier of the fee: a policy tuned to one exact fee is brittle


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketTensors:
    """R bars on one device. market: (R, M) float32; open, close, volume: (R, N) float64; tradable: (R, N) bool.

    benchmark: (R,) float64, log return of the equal-weight market into each bar; row 0 is 0.
    """

    market: Tensor
    open: Tensor
    close: Tensor
    volume: Tensor
    tradable: Tensor
    benchmark: Tensor

    @classmethod
    def of(cls, blocks: NDArray[np.float32], bars: Bars, device: str = "cpu") -> Self:
        """From market blocks (R, M) and the bars they describe."""
        close = torch.as_tensor(np.ascontiguousarray(bars.close), device=device)
        benchmark = torch.zeros(bars.n_bars, dtype=torch.float64, device=device)
        benchmark[1:] = torch.log((close[1:] / close[:-1]).mean(dim=1))
        return cls(
            market=torch.as_tensor(np.ascontiguousarray(blocks), device=device), close=close, benchmark=benchmark,
            open=torch.as_tensor(np.ascontiguousarray(bars.open), device=device),
            volume=torch.as_tensor(np.ascontiguousarray(bars.volume), device=device),
            tradable=torch.as_tensor(np.ascontiguousarray(~bars.filled), device=device),
        )  # fmt: skip

    @property
    def n_bars(self) -> int:
        return len(self.market)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """market: (G, M), the same for every account of a group; account: (G, A, N + 3)."""

    market: Tensor
    account: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """After one bar. reward, excess, turnover, drawdown: (G, A) float64; ended flags: bool.

    reward: log-wealth change net of costs less the equal-weight market's, which no action changes (a control
    variate). market_return: (G, N), close to close. turnover: traded value over equity. terminated: ruin (G, A).
    truncated: the window ended (G,). `final` is the observation before any reset: its value bootstraps what truncation
    cut off.
    """

    reward: Tensor
    market_return: Tensor
    turnover: Tensor
    drawdown: Tensor
    terminated: Tensor
    truncated: Tensor
    final: Observed


class BatchedPortfolioEnv:
    """G groups of A accounts. Random start and length per group, random fee and opening position per account."""

    def __init__(
        self, *, market: MarketTensors, limits: Limits, costs: Costs, lot: NDArray[np.float64],
        min_notional: NDArray[np.float64], groups: int, accounts_per_group: int, initial_cash: float,
        min_episode_bars: int, max_episode_bars: int, generator: torch.Generator,
    ) -> None:  # fmt: skip
        device = market.market.device
        self.market, self.limits, self.costs, self.generator = market, limits, costs, generator
        self.groups, self.per_group, self.initial_cash = groups, accounts_per_group, initial_cash
        self.min_episode_bars = min(min_episode_bars, market.n_bars - 2)
        self.max_episode_bars = min(max_episode_bars, market.n_bars - 1)
        self._lot = torch.as_tensor(lot, dtype=torch.float64, device=device)
        self._min_notional = torch.as_tensor(min_notional, dtype=torch.float64, device=device)
        shape, n = (groups, accounts_per_group), market.close.shape[1]
        zeros: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.bar = torch.zeros(groups, dtype=torch.int64, device=device)
        self.end = torch.zeros(groups, dtype=torch.int64, device=device)
        self.cash, self.quantity = torch.zeros(shape, **zeros), torch.zeros((*shape, n), **zeros)
        self.peak, self.since_trade = torch.zeros(shape, **zeros), torch.zeros(shape, **zeros)
        self.fee = torch.zeros((*shape, 1), **zeros)
        self.fee_share = 1.0  # of each account's fee that is charged; the trainer raises it from 0
        self.restart()

    @property
    def n_accounts(self) -> int:
        return self.groups * self.per_group

    def restart(self) -> None:
        """New windows and fresh accounts everywhere."""
        self._reset(torch.ones(self.groups, dtype=torch.bool, device=self.cash.device))

    def observe(self) -> Observed:
        return Observed(
            market=self.market.market[self.bar],
            account=account_block(
                cash=self.cash, quantity=self.quantity, price=self._close(), peak=self.peak,
                bars_since_trade=self.since_trade,
            ),
        )  # fmt: skip

    def step(self, raw: Tensor) -> StepResult:
        """raw: (G, A, N + 2) policy output at the close of the current bars; fills at the next open."""
        close = self._close()
        value = self.quantity * close
        before = equity(self.cash, self.quantity, close)
        target = target_weights(raw.to(torch.float64), value / before[..., None], self.limits)
        delta = plan_trades(
            target=target, cash=self.cash, quantity=self.quantity, price=close, lot=self._lot,
            min_notional=self._min_notional,
        )  # fmt: skip
        self.bar = self.bar + 1
        filled = fill_trades(
            delta=delta, cash=self.cash, quantity=self.quantity, open_price=self.market.open[self.bar][:, None],
            volume=self.market.volume[self.bar][:, None], tradable=self.market.tradable[self.bar][:, None],
            lot=self._lot, fee=self.fee * self.fee_share, price_impact=self.costs.price_impact,
            fee_in_received=self.costs.fee_in == "received", max_volume_share=self.costs.max_volume_share,
        )  # fmt: skip
        self.cash, self.quantity = settle(self.cash, self.quantity, filled)
        after = equity(self.cash, self.quantity, self._close())
        self.peak = torch.maximum(self.peak, after)
        traded = (filled.quantity.abs() * filled.price).sum(-1)
        self.since_trade = torch.where(traded > 0, torch.ones_like(after), self.since_trade + 1)
        terminated, truncated = after < RUIN * self.initial_cash, self.bar >= self.end
        result = StepResult(
            reward=torch.log(after / before) - self.market.benchmark[self.bar][:, None], turnover=traded / before,
            market_return=(self._close() / close - 1.0)[:, 0],
            drawdown=1.0 - after / self.peak, terminated=terminated, truncated=truncated, final=self.observe(),
        )  # fmt: skip
        self._reset(truncated)
        self._reopen(terminated & ~truncated[:, None])
        return result

    def _close(self) -> Tensor:
        return self.market.close[self.bar][:, None]

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=self.generator, device=self.cash.device)

    def _reset(self, groups: Tensor) -> None:
        """New windows for `groups` (G,) and fresh accounts in them."""
        if not bool(groups.any()):
            return
        span = self.max_episode_bars - self.min_episode_bars
        length = self.min_episode_bars + (self._uniform(self.groups) * (span + 1)).long().clamp(max=span)
        start = (self._uniform(self.groups) * (self.market.n_bars - length)).long()
        start = torch.minimum(start, self.market.n_bars - 1 - length)
        self.bar = torch.where(groups, start, self.bar)
        self.end = torch.where(groups, start + length, self.end)
        self._reopen(groups[:, None].expand(self.groups, self.per_group))

    def _reopen(self, accounts: Tensor) -> None:
        """Fresh accounts where `accounts` (G, A): half of them flat, half already invested at random."""
        if not bool(accounts.any()):
            return
        close, n = self._close(), self.quantity.shape[-1]
        drawn = -torch.log(self._uniform(self.groups, self.per_group, n + 1).clamp(min=1e-12))
        share = drawn / drawn.sum(-1, keepdim=True)  # uniform on the simplex, cash included
        invested = (self._uniform(self.groups, self.per_group, 1) < 0.5).to(torch.float64)
        quantity = share[..., :-1] * invested * self.initial_cash / close
        cash = self.initial_cash - (quantity * close).sum(-1)
        low, high = FEE_SPREAD
        fee = self.costs.fee * (low + (high - low) * self._uniform(self.groups, self.per_group, 1))
        self.cash = torch.where(accounts, cash, self.cash)
        self.quantity = torch.where(accounts[..., None], quantity, self.quantity)
        self.fee = torch.where(accounts[..., None], fee, self.fee)
        self.peak = torch.where(accounts, torch.full_like(cash, self.initial_cash), self.peak)
        self.since_trade = torch.where(accounts, torch.zeros_like(cash), self.since_trade)
