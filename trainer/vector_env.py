"""Thousands of accounts in lockstep on one resident market: the training environment.

Accounts come in groups that walk the same bars, so the market half of an observation exists once per group. Each
account in it has its own episode: it opens flat at the group's present bar, lasts a random number of bars, pays a fee
and a price impact of its own, and ends by ruin (terminated) or by time (truncated); then another opens in its place.
A group whose window is over, or whose accounts all ended at once, moves to a new random start: groups of one account
are accounts with a random start and length each. A market may be several contiguous ranges with gaps between them; a
window lies within one of them, so that no episode crosses a gap. Everything an account does — target, trades, fills, fees,
observation — is the code of `features`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import array_api_compat.numpy as numpy_arrays
import array_api_compat.torch as torch_arrays
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.account import Worth, fill_trades, settle, worth
from features.allocation import Limits, Lots, plan_trades, target_weights
from features.bars import Bars
from features.costs import Costs
from features.observation import Layout, account_columns, market_block
from features.pipeline import compute
from features.scaling import Scaler
from features.spec import FeatureSpec
from features.venue_rules import VenueRules
from trainer.steps import Observed, StepResult

RUIN = 0.05  # share of the opening equity below which an account is finished
COST_SPREAD = (0.5, 1.5)  # per-episode multiplier of fee and price impact: a policy tuned to exact costs is brittle
WINDOW_EPISODES = 2  # a group's window is this many of the longest episodes: its accounts end at different bars
STATE = ("bar", "until", "opened", "end", "cash", "quantity", "peak", "since_trade", "fee", "impact")


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketTensors:
    """R bars on one device. market: (R, M) float32.

    bars: (R, 4 N + 1) float64, what an account meets, side by side so that one read of a row brings all of it: closes,
    opens, volumes, 1 where a ticker can be traded, and the log return of the equal-weight market into the bar (0 in
    row 0).
    """

    market: Tensor
    bars: Tensor

    @classmethod
    def of(cls, blocks: NDArray[np.float32], bars: Bars, device: str = "cpu") -> Self:
        """From market blocks (R, M) and the bars they describe."""
        close, benchmark = torch.as_tensor(bars.close), torch.zeros((bars.n_bars, 1), dtype=torch.float64)
        benchmark[1:, 0] = torch.log((close[1:] / close[:-1]).mean(dim=1))
        others = (torch.as_tensor(x, dtype=torch.float64) for x in (bars.open, bars.volume, ~bars.filled))
        return cls(
            market=torch.as_tensor(np.ascontiguousarray(blocks), device=device),
            bars=torch.cat([close, *others, benchmark], dim=1).to(device),
        )

    def to(self, device: str) -> Self:
        return replace(self, market=self.market.to(device), bars=self.bars.to(device))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """One after the other, with a gap between every two."""
        return cls(market=torch.cat([p.market for p in parts]), bars=torch.cat([p.bars for p in parts]))

    @property
    def n_assets(self) -> int:
        return (self.bars.shape[1] - 1) // 4

    @property
    def close(self) -> Tensor:
        return self.bars[:, : self.n_assets]

    @property
    def n_bars(self) -> int:
        return len(self.market)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Now:
    """What the accounts are worth at the present close: worked out once, for this step's result and the next one's start.

    rows: (G, 4 N + 1), of `MarketTensors.bars`; bars: (G, A, 4 N), the same for each account. worth: of (G, A)
    accounts; market and account as in `Observed`.
    """

    rows: Any
    bars: Any
    market: Any
    worth: Worth
    account: Any

    @property
    def observed(self) -> Observed:
        return Observed(market=_tensor(self.market), account=_tensor(self.account))


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A market to trade in and the rules of the account. Episodes last min to max bars: a week to a month of hours.

    ranges: the contiguous parts of the market's rows, in order; () is all of it in one.
    """

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
    ranges: tuple[range, ...] = ()

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

    def sha256(self) -> str:
        """Of everything that a training on it depends on."""
        found = hashlib.sha256()
        for tensor in (self.market.market, self.market.bars):
            found.update(tensor.cpu().contiguous().numpy().data)
        for array in (self.lot, self.min_notional):
            found.update(array.tobytes())
        rest = (
            self.layout, self.limits, self.costs, self.stack_bars, self.initial_cash, self.min_episode_bars,
            self.max_episode_bars, self.ranges,
        )  # fmt: skip
        found.update(repr(rest).encode())
        return found.hexdigest()

    def batched(
        self, *, groups: int, accounts_per_group: int, seed: int, on_card: bool | None = None
    ) -> "BatchedPortfolioEnv":
        """See `BatchedPortfolioEnv`."""
        return BatchedPortfolioEnv(
            self, groups=groups, accounts_per_group=accounts_per_group, seed=seed, on_card=on_card
        )  # fmt: skip


class BatchedPortfolioEnv:
    """G groups of A accounts on the problem's market and device; tensors go in and come out.

    on_card: whether the accounts are tensors and no number is looked at, which a card needs; otherwise they are numpy
    arrays, as in trading, which take a CPU less time. None: as the market's device asks for. In an array (G, A, K) the
    accounts are next to each other in memory: a handful of tickers is too short a row.
    """

    def __init__(
        self, problem: Problem, *, groups: int, accounts_per_group: int, seed: int, on_card: bool | None = None
    ) -> None:
        market = problem.market
        self._device = market.market.device
        self._on_card = self._device.type == "cuda" if on_card is None else on_card
        self._xp: Any = torch_arrays if self._on_card else numpy_arrays
        self.market, self.limits, self.costs = market, problem.limits, problem.costs
        self.groups, self.per_group, self.initial_cash = groups, accounts_per_group, problem.initial_cash
        self.generator = torch.Generator(device=self._device).manual_seed(seed)
        ranges = problem.ranges or (range(market.n_bars),)
        last = max(map(len, ranges)) - 1  # bars an episode can last at most
        self.min_episode_bars = min(problem.min_episode_bars, last)
        self.max_episode_bars = min(problem.max_episode_bars, last)
        found = windows(ranges, longest=WINDOW_EPISODES * problem.max_episode_bars, shortest=self.min_episode_bars)
        self._starts, self._stops = (self._array(torch.as_tensor(x)) for x in found)
        self._blocks, self._rows = self._array(market.market), self._array(market.bars)
        self._n = n = market.n_assets
        shape = (groups, accounts_per_group)
        lot, min_notional = (torch.as_tensor(x).expand(*shape, n) for x in (problem.lot, problem.min_notional))
        self._lots, self._min_notional = Lots.of(self._side_by_side(lot)), self._side_by_side(min_notional)
        self.bar, self.until = self._zeros(groups, dtype=torch.int64), self._zeros(groups, dtype=torch.int64)
        self.opened, self.end = self._zeros(*shape, dtype=torch.int64), self._zeros(*shape, dtype=torch.int64)
        self.cash, self.quantity = self._zeros(*shape), self._side_by_side(torch.zeros(*shape, n))
        self.peak, self.since_trade = self._zeros(*shape), self._zeros(*shape)
        self.fee, self.impact = self._zeros(*shape, 1), self._zeros(*shape, 1)
        one, none = self._zeros() + 1.0, self._zeros(n)
        self._flat = account_columns(
            worth(cash=one, quantity=none, price=none, peak=one), bars_since_trade=self._zeros()
        )
        self._fee_share = self._zeros()
        self.fee_share = 1.0
        self._places = {n: getattr(self, n) for n in STATE}
        self._now: _Now | None = None  # of the state as it is; None once that has moved on
        self.restart()

    @property
    def n_accounts(self) -> int:
        return self.groups * self.per_group

    @property
    def generators(self) -> tuple[torch.Generator, ...]:
        return (self.generator,)

    @property
    def fee_share(self) -> float:
        """Of each account's fee, what is charged; the trainer raises it from 0."""
        return float(self._fee_share)

    @fee_share.setter
    def fee_share(self, share: float) -> None:
        self._fee_share[...] = share

    def restart(self) -> None:
        """New windows and fresh accounts everywhere."""
        everyone = self._zeros(self.groups, self.per_group) == 0.0
        self._move(everyone[:, 0], self._uniform(self.groups))
        self._open(everyone)
        self.put_back()

    def state(self) -> dict[str, Tensor]:
        """Everything the future depends on; `restore` of it continues the same history bit for bit."""
        return {n: _tensor(getattr(self, n)).clone() for n in STATE} | {"generator": self.generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        for name in STATE:
            setattr(self, name, self._array(state[name]))
        self.generator.set_state(state["generator"])
        self.put_back()

    @torch.inference_mode()
    def put_back(self) -> None:
        """The state as it is, where it was in memory at first: a recorded rollout begins there."""
        for name, place in self._places.items():
            place[...] = getattr(self, name)
            setattr(self, name, place)
        self._now = None

    @torch.inference_mode()
    def observe(self) -> Observed:
        return self._look().observed

    @torch.inference_mode()
    def step(self, raw: Tensor) -> StepResult:
        """raw: (G, A, N + 2) policy output at the close of the current bars; fills at the next open."""
        xp, n, seen = self._xp, self._n, self._look()
        before = seen.worth
        target = target_weights(self._side_by_side(raw), before.weights, self.limits)
        delta = plan_trades(
            target=target, value=before.value, equity=before.equity, quantity=self.quantity, price=seen.bars[..., :n],
            lots=self._lots, min_notional=self._min_notional,
        )  # fmt: skip
        self.bar = self.bar + 1
        rows, bars = self._bars()
        filled = fill_trades(
            delta=delta, cash=self.cash, quantity=self.quantity, open_price=bars[..., n : 2 * n],
            volume=bars[..., 2 * n : 3 * n], tradable=bars[..., 3 * n : 4 * n] > 0, lots=self._lots,
            fee=self.fee * self._fee_share, price_impact=self.impact,
            fee_in_received=self.costs.fee_in == "received", max_volume_share=self.costs.max_volume_share,
        )  # fmt: skip
        self.cash, self.quantity = settle(self.cash, self.quantity, filled)
        traded = xp.sum(xp.abs(filled.value), axis=-1)
        self.since_trade = xp.where(traded > 0, 1.0, self.since_trade + 1.0)
        self._now = self._mark(rows, bars)
        now = self._now.worth
        log_return = xp.log(now.equity / before.equity)
        terminated, truncated = now.equity < RUIN * self.initial_cash, self.bar[:, None] >= self.end
        ended = terminated | truncated
        numbers = {
            "reward": log_return - rows[:, -1:], "log_return": log_return,
            "market_return": rows[:, :n] / seen.rows[:, :n] - 1.0, "traded": traded, "equity_before": before.equity,
            "drawdown_before": before.drawdown, "drawdown": now.drawdown, "weights": now.weights,
            "cash_share": now.cash_weight, "elapsed": (self.bar[:, None] - self.opened) / (self.end - self.opened),
            "terminated": terminated, "truncated": truncated & ~terminated,
        }  # fmt: skip
        result = StepResult(**{k: _tensor(v) for k, v in numbers.items()}, final=self._now.observed)
        if self._on_card or ended.any():  # a look at a card's memory waits for it; there masks alone decide
            over = (self.bar >= self.until) | xp.all(ended, axis=1)
            moved, drawn = self._on_card or bool(over.any()), self._uniform(self.groups)
            if moved:
                self._move(over, drawn)
            self._open(ended | over[:, None])
            self._now = None if moved else self._reopened(self._now, ended)
        return result

    def _look(self) -> _Now:
        if self._now is None:
            self._now = self._mark(*self._bars())
        return self._now

    def _bars(self) -> tuple[Any, Any]:
        """(G, 4 N + 1) rows of the present bars, and the same for each account, (G, A, 4 N)."""
        xp = self._xp
        rows = xp.take(self._rows, self.bar, axis=0)
        return rows, xp.permute_dims(xp.repeat(rows[:, :-1].T[..., None], self.per_group, axis=-1), (1, 2, 0))

    def _mark(self, rows: Any, bars: Any) -> _Now:
        """The state at the closes of the bars; raises the peaks to it."""
        valued = worth(cash=self.cash, quantity=self.quantity, price=bars[..., : self._n], peak=self.peak)
        self.peak = valued.peak
        market = self._xp.take(self._blocks, self.bar, axis=0)
        account = account_columns(valued, bars_since_trade=self.since_trade)
        return _Now(rows=rows, bars=bars, market=market, worth=valued, account=account)

    def _reopened(self, now: _Now, accounts: Any) -> _Now:
        """`now` with fresh accounts where `accounts` (G, A) says, at the same bar."""
        where, each, was = self._xp.where, accounts[..., None], now.worth
        fresh = Worth(
            value=where(each, 0.0, was.value), equity=where(accounts, self.initial_cash, was.equity), peak=self.peak,
            weights=where(each, 0.0, was.weights), drawdown=where(accounts, 0.0, was.drawdown),
            cash_weight=where(accounts, 1.0, was.cash_weight),
        )  # fmt: skip
        return replace(now, worth=fresh, account=where(each, self._flat, now.account))

    def _array(self, tensor: Tensor) -> Any:
        """The tensor as an array of the accounts' kind, without a copy where it is on the device already."""
        tensor = tensor.to(self._device)
        return tensor if self._on_card else tensor.numpy()

    def _zeros(self, *shape: int, dtype: torch.dtype = torch.float64) -> Any:
        return self._array(torch.zeros(shape, dtype=dtype, device=self._device))

    def _side_by_side(self, tensor: Tensor) -> Any:
        """(G, A, K), float64, in memory (K, G, A)."""
        return self._array(tensor.permute(2, 0, 1).to(torch.float64).contiguous().permute(1, 2, 0))

    def _uniform(self, *shape: int) -> Any:
        return self._array(torch.rand(*shape, dtype=torch.float64, generator=self.generator, device=self._device))

    def _whole(self, drawn: Any, n: int) -> Any:
        """Whole numbers below `n`, evenly, by `drawn` in [0, 1)."""
        return self._xp.astype(drawn * n, self._xp.int64).clip(None, n - 1)

    def _move(self, groups: Any, drawn: Any) -> None:
        """New windows for `groups` (G,), at random by `drawn` (G,) in [0, 1)."""
        window = self._whole(drawn, len(self._starts))
        self.bar = self._xp.where(groups, self._starts[window], self.bar)
        self.until = self._xp.where(groups, self._stops[window], self.until)

    def _open(self, accounts: Any) -> None:
        """Fresh flat accounts where `accounts` (G, A) says, each with its own length and costs.

        An account that would leave less than the shortest episode of the window lasts to the window's end.
        """
        where, drawn = self._xp.where, self._uniform(3, self.groups, self.per_group)
        length = self._whole(drawn[0], self.max_episode_bars - self.min_episode_bars + 1)
        end, until = self.bar[:, None] + self.min_episode_bars + length, self.until[:, None]
        end = where(until - end < self.min_episode_bars, until, end)
        low, high = COST_SPREAD
        factor, each = low + (high - low) * drawn[1:, ..., None], accounts[..., None]
        self.opened = where(accounts, self.bar[:, None], self.opened)
        self.end = where(accounts, end, self.end)
        self.cash = where(accounts, self.initial_cash, self.cash)
        self.peak = where(accounts, self.initial_cash, self.peak)
        self.quantity = where(each, 0.0, self.quantity)
        self.since_trade = where(accounts, 0.0, self.since_trade)
        self.fee = where(each, self.costs.fee * factor[0], self.fee)
        self.impact = where(each, self.costs.price_impact * factor[1], self.impact)


def _tensor(array: Any) -> Tensor:
    """The array as a tensor, without a copy."""
    return array if isinstance(array, Tensor) else torch.from_numpy(array)


def windows(ranges: Sequence[range], *, longest: int, shortest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(S,) first and last bars of the windows to draw from, evenly; each lies within one of `ranges`.

    A window is `longest` bars or what its range has; ranges under `shortest` bars have none. Every range is drawn as
    often as its length asks for: one with fewer possible starts for its length has them more than once.
    """
    fits = [(r, min(longest, len(r) - 1)) for r in ranges if len(r) > shortest]
    n, length = max(((len(r) - w, len(r)) for r, w in fits), key=lambda x: x[0] / x[1])
    drawn = [len(r) * n // length for r, _ in fits]
    starts = [r.start + np.arange(d) * (len(r) - w) // d for (r, w), d in zip(fits, drawn, strict=True)]
    return np.concatenate(starts), np.concatenate([s + w for s, (_, w) in zip(starts, fits, strict=True)])
