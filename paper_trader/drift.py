"""The paper account against a replay of its policy, bar by bar, and where the difference comes from.

Every bar starts from the account as it was and is then played in steps, from the replay to what happened: the policy on
the bars as they are known today, on the bars as they were decided on, as it was decided, as it was ordered, as it
filled. What each step adds to the equity at the bar's close sums up to the difference.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np

from features.artifact import PolicyArtifact
from features.bars import PRICE_COLUMNS, Bars
from features.ledger import Fill, Ledger, plan_orders, simulate_fills
from paper_trader.journal import Decided, Journal
from paper_trader.parity import Rederiver

SOURCES = {
    "revised data": "bars that the venue has corrected since they were decided on",
    "model": "decisions that are not what the training path computes: verify names them",
    "limits": "[risk], operators, and what the venue was asked instead",
    "fees": "fees other than those of [costs]",
    "price": "fills at other prices than [costs] makes of the open: slippage and latency; hourly bars do not part them",
    "unfilled": "orders refused, late or filled in part, rounding, and what `rearm` took over",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """by: source → fraction of equity gained (negative: lost) against the replay, summed over `bars` bars.

    revised_bars: how many the venue gives otherwise now; None when it did not give all of them.
    """

    bars: int
    revised_bars: int | None
    by: Mapping[str, float]


def drift(journal: Journal, artifacts: Path, *, today: Bars | None) -> Drift:
    """today: the journal's bars as the venue gives them now."""
    played, marks = _Played(journal, artifacts, today), journal.marks()
    by = dict.fromkeys(SOURCES, 0.0)
    for (before_s, account, equity), (after_s, _, reached) in pairwise(marks):
        for source, gained in played.bar(before_s, after_s, account, float(reached)).items():
            by[source] += gained / float(equity)
    revised = None if today is None else _differing(played.stored, today)
    return Drift(bars=len(marks) - 1, revised_bars=revised, by=by)


def text(found: Drift) -> str:
    revised = "unknown" if found.revised_bars is None else str(found.revised_bars)
    lines = [
        f"paper account less replay over {found.bars} bars, % of equity (bars that the venue gives otherwise today: {revised})"
    ]
    lines += [f"  {100 * found.by[name]:>+9.4f}  {name}: {what}" for name, what in SOURCES.items()]
    return "\n".join([*lines, f"  {100 * sum(found.by.values()):>+9.4f}  in all"])


def _differing(stored: Bars, today: Bars) -> int:
    """How many bars are not the same in every number."""
    names = (*PRICE_COLUMNS, "volume", "filled")
    return int(np.any([(getattr(stored, n) != getattr(today, n)).any(axis=1) for n in names], axis=0).sum())


class _Played:
    """One journal, and each of its bars again from where the account stood."""

    def __init__(self, journal: Journal, artifacts: Path, today: Bars | None) -> None:
        self.stored, self._anchors = journal.bars(), journal.anchors()
        self._today = self.stored if today is None else today
        self._costs, self._rules = journal.terms()
        self._artifacts, self._derivers = artifacts, dict[tuple[str, bool], Rederiver]()
        self._decided = {d.decision.close_time_s: d for d in journal.decisions()}
        self._sent, self._filled = defaultdict[int, list[tuple[str, Decimal]]](list), defaultdict[int, list[Fill]](list)
        for order in journal.intents():
            self._sent[order.close_time_s].append((order.ticker, order.quantity))
        for fill in journal.fills():
            self._filled[fill.close_time_s].append(fill)

    def bar(self, before_s: int, after_s: int, account: Ledger, reached: float) -> dict[str, float]:
        """Source → gain in quote currency of the bar that closed at `after_s` with the equity `reached`."""
        bar = self.stored.between(before_s, after_s)
        modelled = simulate_fills(account, self._sent[before_s], bar, self._costs, self._rules)
        worth = float(account.book(modelled).equity(bar.close[0]))
        gains = self._decisions(before_s, account, bar, worth)
        # what was put right after a venue's rounding is booked as a fill of no quantity, and is no fee
        paid = sum(float(f.fee_value) for f in self._filled[after_s] if f.quantity)
        fees = sum(float(f.fee_value) for f in modelled) - paid
        expected = {f.ticker: float(f.price) for f in modelled}
        price = sum(
            (expected.get(f.ticker, float(f.price)) - float(f.price)) * float(f.quantity) for f in self._filled[after_s]
        )
        return gains | {"fees": fees, "price": price, "unfilled": reached - worth - fees - price}

    def _decisions(self, before_s: int, account: Ledger, bar: Bars, worth: float) -> dict[str, float]:
        if (stored := self._decided.get(before_s)) is None:
            return {}
        replayed = self._wished(before_s, account, bar, self._derived(stored, account, revised=True))
        derived = self._wished(before_s, account, bar, self._derived(stored, account, revised=False))
        decided = self._wished(before_s, account, bar, stored.decision.target)
        return {"revised data": derived - replayed, "model": decided - derived, "limits": worth - decided}

    def _derived(self, stored: Decided, account: Ledger, *, revised: bool) -> Sequence[float]:
        key = (stored.artifact, revised)
        if key not in self._derivers:
            bars = self._today if revised else self.stored
            self._derivers[key] = Rederiver(PolicyArtifact.load(self._artifacts / stored.artifact), bars, self._anchors)
        return self._derivers[key].decision(stored.decision.close_time_s, account).target

    def _wished(self, before_s: int, account: Ledger, bar: Bars, target: Sequence[float]) -> float:
        """Equity at the bar's close had `target` been ordered and filled as modelled."""
        close = self.stored.close[self.stored.index_of(before_s)]
        orders = plan_orders(account, np.array(target), close, self._rules)
        fills = simulate_fills(account, orders, bar, self._costs, self._rules)
        return float(account.book(fills).equity(bar.close[0]))
