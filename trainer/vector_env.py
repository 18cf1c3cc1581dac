"""Thousands of accounts in lockstep on one resident market: the training environment.

Accounts come in groups that walk the same bars, so the market half of an observation exists once per group. Each
account in it has its own episode: it opens flat at the group's present bar, lasts a random number of bars, pays a fee
and a price impact of its own, and ends by ruin (terminated) or by time (truncated); then another opens in its place.
A group whose window is over, or whose accounts all ended at once, moves to a new random start: groups of one account
are accounts with a random start and length each. Everything an account does — target, trades, fills, fees,
observation — is the code of `features`, on torch tensors.
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
from features.observation import Layout, account_block, market_block
from features.pipeline import compute
from features.scaling import Scaler
from features.spec import FeatureSpec
from features.venue_rules import VenueRules

RUIN = 0.05  # share of the opening equity below which an account is finished
COST_SPREAD = (0.5, 1.5)  # per-episode multiplier of fee and price impact: a policy tuned to exact costs is brittle
WINDOW_EPISODES = 2  # a group's window is this many of the longest episodes: its accounts end at different bars
STATE = ("bar", "until", "opened", "end", "cash", "quantity", "peak", "since_trade", "fee", "impact")


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
    """After one bar. All (G, A) but market_return (G, N); numbers float64, ended flags bool.

    reward: log-wealth change net of costs less the equal-weight market's, which no action changes (a control
    variate). log_return: the log-wealth change alone. market_return: close to close. turnover: traded value over
    equity. drawdown: below the episode's peak; deepened: by how much it grew. cash_share: of equity. concentration:
    sum of the squared asset weights. elapsed: share of the account's episode that is over.
    terminated: ruin. truncated: the episode's time is up. `final` is the observation before any reset: its value
    bootstraps what truncation cut off.
    """

    reward: Tensor
    log_return: Tensor
    market_return: Tensor
    turnover: Tensor
    drawdown: Tensor
    deepened: Tensor
    cash_share: Tensor
    concentration: Tensor
    elapsed: Tensor
    terminated: Tensor
    truncated: Tensor
    final: Observed


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A market to trade in and the rules of the account. Episodes last min to max bars: a week to a month of hours."""

    market: MarketTensors
    layout: Layout
    limits: Limits
    costs: Costs
    lot: NDArray[np.float64]
    min_notional: NDArray[np.float64]
    stack_bars: int = 1
    initial_cash: float = 10_000.0
    min_episode_bars: int = 168
    max_episode_bars: int = 720

    @classmethod
    def of(cls, bars: Bars, spec: FeatureSpec, *, costs: Costs, limits: Limits, rules: VenueRules) -> Self:
        """From bars; the scaler is fitted on all of them, so give training bars only."""
        rows = compute(bars, spec)
        scaled = Scaler.fit(rows, spec).transform(rows)
        blocks = market_block(scaled.asset, scaled.shared, spec.stack_bars)
        lot, min_notional = rules.arrays(spec.tickers)
        return cls(
            market=MarketTensors.of(blocks, bars.slice(bars.n_bars - len(blocks), bars.n_bars)),
            layout=Layout.of(spec), limits=limits, costs=costs, lot=lot, min_notional=min_notional,
            stack_bars=spec.stack_bars,
        )  # fmt: skip

    def batched(self, *, groups: int, accounts_per_group: int, seed: int) -> "BatchedPortfolioEnv":
        return BatchedPortfolioEnv(self, groups=groups, accounts_per_group=accounts_per_group, seed=seed)


class BatchedPortfolioEnv:
    """G groups of A accounts on the problem's market and device."""

    def __init__(self, problem: Problem, *, groups: int, accounts_per_group: int, seed: int) -> None:
        market = problem.market
        device = market.market.device
        self.market, self.limits, self.costs = market, problem.limits, problem.costs
        self.groups, self.per_group, self.initial_cash = groups, accounts_per_group, problem.initial_cash
        self.generator = torch.Generator(device=device).manual_seed(seed)
        last = market.n_bars - 1  # bars an episode can last at most
        self.min_episode_bars = min(problem.min_episode_bars, last)
        self.max_episode_bars = min(problem.max_episode_bars, last)
        self.window_bars = min(WINDOW_EPISODES * problem.max_episode_bars, last)
        self._lot = torch.as_tensor(problem.lot, dtype=torch.float64, device=device)
        self._min_notional = torch.as_tensor(problem.min_notional, dtype=torch.float64, device=device)
        shape, n = (groups, accounts_per_group), market.close.shape[1]
        zeros: dict[str, Any] = {"dtype": torch.float64, "device": device}
        bars: dict[str, Any] = {"dtype": torch.int64, "device": device}
        self.bar, self.until = torch.zeros(groups, **bars), torch.zeros(groups, **bars)
        self.opened, self.end = torch.zeros(shape, **bars), torch.zeros(shape, **bars)
        self.cash, self.quantity = torch.zeros(shape, **zeros), torch.zeros((*shape, n), **zeros)
        self.peak, self.since_trade = torch.zeros(shape, **zeros), torch.zeros(shape, **zeros)
        self.fee, self.impact = torch.zeros((*shape, 1), **zeros), torch.zeros((*shape, 1), **zeros)
        self.fee_share = 1.0  # of each account's fee that is charged; the trainer raises it from 0
        self.restart()

    @property
    def n_accounts(self) -> int:
        return self.groups * self.per_group

    def restart(self) -> None:
        """New windows and fresh accounts everywhere."""
        everyone = torch.ones((self.groups, self.per_group), dtype=torch.bool, device=self.cash.device)
        self._move(everyone[:, 0])
        self._open(everyone)

    def state(self) -> dict[str, Tensor]:
        """Everything the future depends on; `restore` of it continues the same history bit for bit."""
        return {n: getattr(self, n).clone() for n in STATE} | {"generator": self.generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        for name in STATE:
            setattr(self, name, state[name].to(self.cash.device).clone())
        self.generator.set_state(state["generator"])

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
        before = equity(self.cash, self.quantity, close)
        under = 1.0 - before / self.peak
        target = target_weights(raw.to(torch.float64), self.quantity * close / before[..., None], self.limits)
        delta = plan_trades(
            target=target, cash=self.cash, quantity=self.quantity, price=close, lot=self._lot,
            min_notional=self._min_notional,
        )  # fmt: skip
        self.bar = self.bar + 1
        filled = fill_trades(
            delta=delta, cash=self.cash, quantity=self.quantity, open_price=self.market.open[self.bar][:, None],
            volume=self.market.volume[self.bar][:, None], tradable=self.market.tradable[self.bar][:, None],
            lot=self._lot, fee=self.fee * self.fee_share, price_impact=self.impact,
            fee_in_received=self.costs.fee_in == "received", max_volume_share=self.costs.max_volume_share,
        )  # fmt: skip
        self.cash, self.quantity = settle(self.cash, self.quantity, filled)
        value = self.quantity * self._close()
        after = self.cash + value.sum(-1)
        self.peak = torch.maximum(self.peak, after)
        drawdown = 1.0 - after / self.peak
        traded = (filled.quantity.abs() * filled.price).sum(-1)
        self.since_trade = torch.where(traded > 0, torch.ones_like(after), self.since_trade + 1)
        terminated, truncated = after < RUIN * self.initial_cash, self.bar[:, None] >= self.end
        log_return = torch.log(after / before)
        result = StepResult(
            reward=log_return - self.market.benchmark[self.bar][:, None], log_return=log_return,
            market_return=(self._close() / close - 1.0)[:, 0], turnover=traded / before,
            drawdown=drawdown, deepened=(drawdown - under).clamp(min=0.0), cash_share=self.cash / after,
            concentration=(value / after[..., None]).square().sum(-1),
            elapsed=(self.bar[:, None] - self.opened) / (self.end - self.opened),
            terminated=terminated, truncated=truncated & ~terminated, final=self.observe(),
        )  # fmt: skip
        ended = terminated | truncated
        if bool(ended.any()):
            over = (self.bar >= self.until) | ended.all(dim=1)
            self._move(over)
            self._open(ended | over[:, None])
        return result

    def _close(self) -> Tensor:
        return self.market.close[self.bar][:, None]

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=self.generator, device=self.cash.device)

    def _move(self, groups: Tensor) -> None:
        """New windows for `groups` (G,)."""
        starts = self.market.n_bars - self.window_bars  # possible ones
        start = (self._uniform(self.groups) * starts).long().clamp(max=starts - 1)
        self.bar = torch.where(groups, start, self.bar)
        self.until = torch.where(groups, start + self.window_bars, self.until)

    def _open(self, accounts: Tensor) -> None:
        """Fresh flat accounts where `accounts` (G, A) says, each with its own length and costs.

        An account that would leave less than the shortest episode of the window lasts to the window's end.
        """
        shape = (self.groups, self.per_group)
        span = self.max_episode_bars - self.min_episode_bars
        length = self.min_episode_bars + (self._uniform(*shape) * (span + 1)).long().clamp(max=span)
        end, until = self.bar[:, None] + length, self.until[:, None]
        end = torch.where(until - end < self.min_episode_bars, until, end)
        low, high = COST_SPREAD
        factor = low + (high - low) * self._uniform(*shape, 2)
        cash = torch.full_like(self.cash, self.initial_cash)
        zero, each = torch.zeros_like(cash), accounts[..., None]
        self.opened = torch.where(accounts, self.bar[:, None], self.opened)
        self.end = torch.where(accounts, end, self.end)
        self.cash, self.peak = torch.where(accounts, cash, self.cash), torch.where(accounts, cash, self.peak)
        self.quantity = torch.where(each, torch.zeros_like(self.quantity), self.quantity)
        self.since_trade = torch.where(accounts, zero, self.since_trade)
        self.fee = torch.where(each, self.costs.fee * factor[..., :1], self.fee)
        self.impact = torch.where(each, self.costs.price_impact * factor[..., 1:], self.impact)
