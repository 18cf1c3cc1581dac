"""One account kept in four books: Decimal ledger, numpy float64, torch float64 and torch float32 tensors.

Each book decides for itself: it turns the same raw output into targets by its own weights, plans its own trades and
fills them. So a disagreement can feed itself, and what the tests bound is the drift of a whole life.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal, Inexact, localcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from features.account import fill_trades, settle, worth
from features.allocation import Limits, Lots, plan_trades, target_weights
from features.bars import Bars
from features.costs import Costs
from features.ledger import BASE_UNIT, QUOTE_UNIT, Fill, Ledger, plan_orders, simulate_fills
from features.venue_rules import VenueRules

TICKERS = ("BTC", "ETH", "LTC")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """costs: one record per account, alike in fee_in and max_volume_share, which one call of the arrays shares."""

    bars: Bars = field(repr=False)
    raw: NDArray[np.float64] = field(repr=False)  # (T - 1, A, N + 2)
    seed: int  # of the bars and of raw
    cash: float
    costs: tuple[Costs, ...]
    limits: Limits
    rules: VenueRules


@dataclass(slots=True)
class Worst:
    """Largest relative difference of equity from numpy's seen so far, by book."""

    drift: dict[str, float] = field(default_factory=dict)
    least_equity: float = np.inf
    n_fills: int = 0
    steps: int = 0

    def see(self, book: str, difference: Any) -> None:
        self.drift[book] = max(self.drift.get(book, 0.0), float(np.max(difference)))


class ArrayBook:
    """A accounts in one array library and one precision."""

    def __init__(self, scenario: Scenario, convert: Any) -> None:
        self.s, self.convert = scenario, convert
        n_accounts = len(scenario.costs)
        self.cash = convert(np.full(n_accounts, scenario.cash))
        self.quantity = convert(np.zeros((n_accounts, len(TICKERS))))
        self.lot, self.least = map(convert, scenario.rules.arrays(TICKERS))
        self.fee = convert(np.array([[c.fee] for c in scenario.costs]))
        self.impact = convert(np.array([[c.price_impact] for c in scenario.costs]))

    def step(self, k: int) -> None:
        bars, convert, costs = self.s.bars, self.convert, self.s.costs[0]
        close = convert(bars.close[k])
        value = self.quantity * close
        equity = self.cash + value.sum(-1)
        delta = plan_trades(
            target=target_weights(convert(self.s.raw[k]), value / equity[..., None], self.s.limits),
            value=value, equity=equity, quantity=self.quantity, price=close, lots=Lots.of(self.lot), min_notional=self.least,
        )  # fmt: skip
        filled = fill_trades(
            delta=delta, cash=self.cash, quantity=self.quantity, open_price=convert(bars.open[k + 1]),
            volume=convert(bars.volume[k + 1]), tradable=convert(~bars.filled[k + 1]), lots=Lots.of(self.lot), fee=self.fee,
            price_impact=self.impact, fee_in_received=costs.fee_in == "received",
            max_volume_share=costs.max_volume_share,
        )  # fmt: skip
        before = self.cash + (self.quantity * filled.price).sum(-1)
        fees = (filled.fee_quote + filled.fee_base * filled.price).sum(-1)
        self.cash, self.quantity = settle(self.cash, self.quantity, filled)
        after = self.cash + (self.quantity * filled.price).sum(-1)
        eps = float(np.finfo(np.float32 if "32" in str(after.dtype) else np.float64).eps)
        assert (abs(after - before + fees) <= 16 * eps * before).all(), "value appeared or vanished"

    def equity(self, k: int) -> NDArray[np.float64]:
        close = self.convert(self.s.bars.close[k])
        marked = worth(cash=self.cash, quantity=self.quantity, price=close, peak=self.cash)
        return np.asarray(marked.equity, dtype=np.float64)


def as_numpy(x: NDArray[Any]) -> NDArray[Any]:
    return np.array(x)


def as_torch64(x: NDArray[Any]) -> torch.Tensor:
    return torch.as_tensor(np.array(x))


def as_torch32(x: NDArray[Any]) -> torch.Tensor:
    return torch.as_tensor(np.array(x, dtype=bool if x.dtype == bool else np.float32))


def exactly_conserved(before: Ledger, after: Ledger, fills: Sequence[Fill]) -> bool:
    """Cash and positions at the fill prices, less the fees: equal in Decimal, or Inexact is raised."""
    with localcontext(prec=400, traps=[Inexact]):
        price = {f.ticker: f.price for f in fills}
        was, now = (
            book.cash + sum((q * price.get(t, Decimal(1)) for t, q in zip(TICKERS, book.quantity, strict=True)), Decimal(0))
            for book in (before, after)
        )  # fmt: skip
        charged = sum((f.fee_quote + f.fee_base * f.price for f in fills), Decimal(0))
        return now == was - charged and after.fees - before.fees == charged


def keep_books(s: Scenario) -> Worst:
    """Live through the scenario in every book, checking conservation and balances at every step."""
    arrays = {"numpy": ArrayBook(s, as_numpy), "torch64": ArrayBook(s, as_torch64), "torch32": ArrayBook(s, as_torch32)}
    ledgers = [Ledger.opened(TICKERS, s.cash) for _ in s.costs]
    granted = np.zeros(len(s.costs))  # what the ledger's rounding of fees may have taken, share of equity
    worst = Worst()
    for k in range(s.bars.n_bars - 1):
        bar, close = s.bars.slice(k + 1, k + 2), s.bars.close[k]
        for book in arrays.values():
            book.step(k)
        for a, cost in enumerate(s.costs):
            target = target_weights(s.raw[k, a], ledgers[a].weights(close), s.limits)
            orders = plan_orders(ledgers[a], target, close, s.rules)
            fills = simulate_fills(ledgers[a], orders, bar, cost, s.rules)
            booked = ledgers[a].book(fills)
            assert exactly_conserved(ledgers[a], booked, fills), f"bar {k}"
            ledgers[a] = booked.marked(s.bars.close[k + 1])
            worst.n_fills += len(fills)
            granted[a] += sum(float(QUOTE_UNIT + BASE_UNIT * f.price) for f in fills) / float(booked.equity(close))
        wealth = arrays["numpy"].equity(k + 1)
        for name in ("torch64", "torch32"):
            worst.see(name, np.abs(arrays[name].equity(k + 1) / wealth - 1.0))
        worst.least_equity = min(worst.least_equity, float(wealth.min()))
        exact = np.array([float(book.equity(s.bars.close[k + 1])) for book in ledgers])
        off = np.abs(exact / wealth - 1.0)
        worst.see("ledger", off)
        worst.see("ledger beyond its rounding", np.maximum(off - granted, 0.0))
        for book in arrays.values():
            assert float(book.cash.min()) >= 0.0, f"overdrawn at bar {k + 1}"
            # Lots lets 1e-9 of a lot pass as rounding
            assert bool((book.quantity >= -1e-9 * book.lot).all()), f"short at bar {k + 1}"
        worst.steps += len(s.costs)
    return worst
