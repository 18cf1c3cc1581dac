"""Run one strategy over contiguous bars, bar by bar, with the functions that paper trading uses.

A policy, a baseline and the paper trader differ only in where the target weights come from; orders, fills, fees and
the account are the same code (`features.ledger`), so every number beside another is comparable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from features.allocation import Limits
from features.artifact import PolicyArtifact
from features.bars import Bars
from features.costs import Costs
from features.decision import Decider, Decision, market_blocks
from features.errors import DataError
from features.ledger import Ledger, plan_orders, simulate_fills
from features.pipeline import FeatureRows
from features.venue_rules import VenueRules

Float = NDArray[np.float64]
Target = Callable[[int, Ledger], Float | None]
"""(bar index, account) → asset weights (N,) wanted at that close, or None to leave the account alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """Where a run takes place: the account's opening cash, what trading costs and what the venue allows."""

    initial_cash: float
    costs: Costs
    limits: Limits
    rules: VenueRules

    def at_fee(self, fee_bps: float) -> "Arena":
        return replace(self, costs=self.costs.with_fee_bps(fee_bps))

    def unlimited(self) -> "Arena":
        """The same without cap, reserve and band: a baseline is not handicapped by the policy's limits."""
        return Arena(
            initial_cash=self.initial_cash, costs=self.costs, rules=self.rules,
            limits=Limits(min_cash_reserve=0.0, max_weight=1.0, no_trade_band=0.0),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What happened to one account from its flat start. T bars after the first decision.

    returns: (T,) simple returns per bar, fractions, net of every cost. equity: (T + 1,) quote currency.
    cash_weight: (T,) at each bar's close. turnover: traded value / mean equity over the run. fees: share of the
    opening cash. decisions: the policy's own records, empty for a baseline.
    """

    name: str
    returns: Float
    equity: Float
    cash_weight: Float
    turnover: float
    fees: float
    n_fills: int
    decisions: tuple[Decision, ...] = ()


def run_targets(name: str, target: Target, bars: Bars, window: range, arena: Arena) -> Run:
    """Trade `target` from the close of bar window.start to the close of bar window.stop - 1.

    The first decision falls on window.start; the last bar only marks. Raises DataError when equity is not finite.
    """
    account = _Account(name, bars, arena)
    for k in range(window.start, window.stop - 1):
        account.trade(k, target(k, account.ledger))
    return account.run()


def run_policy(name: str, artifact: PolicyArtifact, bars: Bars, rows: FeatureRows, window: range, arena: Arena) -> Run:
    """Trade an artifact's policy; `rows` are `compute(bars, artifact.spec)` and `arena.limits` are the artifact's."""
    return run_policy_in_each(name, artifact, bars, rows, window, (arena,))[0]


def run_policy_in_each(
    name: str, artifact: PolicyArtifact, bars: Bars, rows: FeatureRows, window: range, arenas: Sequence[Arena]
) -> tuple[Run, ...]:
    """`run_policy` in several arenas, bar by bar together: the same runs, in less time than one after the other."""
    first = window.start - artifact.spec.warmup_bars - artifact.spec.stack_bars + 1
    if first < 0:
        raise DataError(f"{name}: the window begins before the features are warm")
    blocks = market_blocks(artifact, rows.slice(first, window.stop - artifact.spec.warmup_bars))
    decider = Decider(artifact)
    accounts = [_Account(name, bars, arena) for arena in arenas]
    decisions = []
    for k in range(window.start, window.stop - 1):
        decided = decider.decide_each(
            market=blocks[k - window.start], ledgers=[a.ledger for a in accounts], close=bars.close[k],
            close_time_s=int(bars.close_time_s[k]),
        )  # fmt: skip
        for account, decision in zip(accounts, decided, strict=True):
            account.trade(k, np.array(decision.target))
        decisions.append(decided)
    return tuple(a.run(tuple(own)) for a, own in zip(accounts, zip(*decisions, strict=True), strict=True))


class _Account:
    """One account on its way through the bars."""

    def __init__(self, name: str, bars: Bars, arena: Arena) -> None:
        self._name, self._bars, self._arena = name, bars, arena
        self.ledger = Ledger.opened(bars.tickers, arena.initial_cash)
        self._equity, self._cash_weight, self._n_fills = [arena.initial_cash], list[float](), 0

    def trade(self, k: int, wanted: Float | None) -> None:
        """From the close of bar k, at which `wanted` was decided, to the next one."""
        bars, arena, ledger = self._bars, self._arena, self.ledger
        orders = () if wanted is None else plan_orders(ledger, wanted, bars.close[k], arena.rules)
        fills = simulate_fills(ledger, orders, bars.slice(k + 1, k + 2), arena.costs, arena.rules) if orders else ()
        self.ledger, exact = (ledger.book(fills) if fills else ledger).valued(bars.close[k + 1])
        worth = float(exact)
        if not np.isfinite(worth) or worth <= 0.0:
            raise DataError(f"{self._name}: equity is {worth} at bar {k + 1}")
        self._equity.append(worth)
        self._cash_weight.append(float(self.ledger.cash) / worth)
        self._n_fills += len(fills)

    def run(self, decisions: tuple[Decision, ...] = ()) -> Run:
        path = np.array(self._equity)
        return Run(
            name=self._name, returns=path[1:] / path[:-1] - 1.0, equity=path, cash_weight=np.array(self._cash_weight),
            turnover=float(self.ledger.turnover) / float(path.mean()),
            fees=float(self.ledger.fees) / self._arena.initial_cash, n_fills=self._n_fills, decisions=decisions,
        )  # fmt: skip


def pooled(name: str, runs: Sequence[Run]) -> Run:
    """Several runs of one strategy over disjoint windows as one record; equity is chained, never averaged."""
    returns = np.concatenate([r.returns for r in runs])
    start = runs[0].equity[0]
    return Run(
        name=name, returns=returns, equity=start * np.concatenate([[1.0], np.cumprod(1.0 + returns)]),
        cash_weight=np.concatenate([r.cash_weight for r in runs]), turnover=sum(r.turnover for r in runs),
        fees=sum(r.fees for r in runs), n_fills=sum(r.n_fills for r in runs),
        decisions=tuple(d for r in runs for d in r.decisions),
    )  # fmt: skip


def over_seeds(runs: Sequence[Run]) -> Float:
    """(T,) simple returns of the mean log wealth over runs on the same bars, one per seed."""
    if len(runs) == 1:
        return runs[0].returns
    mean: Float = np.expm1(np.mean([np.log1p(r.returns) for r in runs], axis=0))
    return mean
