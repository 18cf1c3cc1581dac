"""Proof that the trader did what training would have done: bars → features → policy → limits → orders → fills → equity."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np

from features.artifact import PolicyArtifact
from features.bars import Bars, utc_text
from features.decision import Decider, Decision, market_blocks
from features.ledger import Fill, Ledger, sendable_orders, simulate_fills
from features.observation import observed_columns
from features.pipeline import FeatureRows
from features.spec import FeatureSpec
from paper_trader import risk
from paper_trader.account_record import ledger_record
from paper_trader.anchoring import AnchoredRows, Anchors
from paper_trader.bar_log import chained
from paper_trader.journal import Decided, Intent, Journal
from paper_trader.ordering import ACCOUNT
from paper_trader.orders import intents


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was compared and what differed; `mismatches` names the first place of each difference."""

    decisions: int
    marks: int
    fills: int
    orders: int
    mismatches: tuple[str, ...]


class Rederiver:
    """Re-derives decisions of one artifact with the training path: batch features over the stored bars."""

    def __init__(self, artifact: PolicyArtifact, bars: Bars, anchors: Anchors) -> None:
        self.artifact, self._bars = artifact, bars
        self._features = AnchoredRows(bars, artifact.spec, anchors)
        self._rows: FeatureRows | None = None
        self._decider = Decider(artifact)

    def decision(self, close_time_s: int, account: Ledger) -> Decision:
        rows = self._features.span(close_time_s)
        if rows is not self._rows:
            self._rows, self._blocks = rows, market_blocks(self.artifact, rows)
        row = int(np.searchsorted(rows.close_time_s, close_time_s)) - self.artifact.spec.stack_bars + 1
        close = self._bars.close[self._bars.index_of(close_time_s)]
        return self._decider.decide(market=self._blocks[row], ledger=account, close=close, close_time_s=close_time_s)


def difference(stored: Decision, again: Decision, spec: FeatureSpec) -> str:
    """Which part differs, by bar and feature; empty when they are the same to the last bit."""
    when = utc_text(stored.close_time_s)
    if stored.observation != again.observation:
        return f"{when}: {_first_feature(stored, again, spec)}"
    for name in ("raw", "target"):
        if getattr(stored, name) != getattr(again, name):
            return f"{when}: {name} is not what the training path computes"
    return ""


def _first_feature(stored: Decision, again: Decision, spec: FeatureSpec) -> str:
    seen, derived = (np.frombuffer(d.observation, dtype="<f4") for d in (stored, again))
    if len(seen) != len(derived):
        return f"the observation has {len(seen)} values, the training path computes {len(derived)}"
    differing = np.flatnonzero(seen.view(np.uint32) != derived.view(np.uint32))
    i = int(differing[0])
    return (
        f"{len(differing)} of {len(seen)} features are not what the training path computes, the first "
        f"{observed_columns(spec)[i]}: {seen[i]:.9g} seen, {derived[i]:.9g} computed"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What stands after a settled bar: the account, the limits' state, and the orders for the next open."""

    account: Ledger
    state: risk.State
    orders: tuple[tuple[str, Decimal], ...] = ()


class _Checker:
    """Walks one journal bar by bar beside its own derivation."""

    def __init__(self, journal: Journal, artifacts: Path, since_s: int) -> None:
        self.bars, marks = journal.bars(), journal.marks()
        first = max((n for n, (at_s, _, _) in enumerate(marks) if at_s < since_s), default=0)
        self.marks, self.first_s, self.whole = marks[first:], marks[first][0], first == 0
        self.costs, self.rules = journal.terms()
        self.mismatches: list[str] = []
        self.n_decisions = self.n_orders = 0
        self._decided = {d.decision.close_time_s: d for d in journal.decisions(since_s=self.first_s)}
        self._states, self._rearms = journal.risk_states(since_s=self.first_s), journal.rearms()
        self._artifacts, self._rederivers = artifacts, dict[str, Rederiver]()
        self._anchors, self._chain, self._chained = journal.anchors(), "", 0
        self._embedded, self._stored_fills = journal.meta()["broker"] == "simulated", journal.fills()
        self._intents: dict[int, list[Intent]] = {}
        for intent in journal.intents():
            self._intents.setdefault(intent.close_time_s, []).append(intent)

    def start(self) -> _Step:
        """At the first mark: of a whole journal before its decision, else after it."""
        _, account, equity = self.marks[0]
        if self.whole:
            state = risk.opened(self.bars.n_tickers, equity=float(equity), close_time_s=self.first_s)
            return _Step(account=account, state=state)
        orders = tuple((i.ticker, i.quantity) for i in self._intents.get(self.first_s, ()))
        return _Step(account=account, state=self._states[self.first_s], orders=self._taken(self.first_s, orders))

    def view(self, k: int, account: Ledger, *, flatten: bool = False) -> risk.View:
        return risk.View(
            close_time_s=int(self.bars.close_time_s[k]), close=self.bars.close[k], account=account,
            min_notional=self.rules.arrays(self.bars.tickers)[1], flatten=flatten,
        )  # fmt: skip

    def differs(self, close_time_s: int, text: str) -> None:
        self.mismatches.append(f"{utc_text(close_time_s)}: {text}")

    def decided_and_rearmed(self, k: int, now: _Step) -> _Step:
        """Whatever happened between this close and the next bar."""
        close_time_s, worth = int(self.bars.close_time_s[k]), float(now.account.equity(self.bars.close[k]))
        if (close_time_s, False) in self._rearms:
            now = replace(now, state=risk.rearmed(now.state, worth))
        if (stored := self._decided.get(close_time_s)) is not None:
            now = self._after_decision(k, now, stored)
        if (close_time_s, True) in self._rearms:
            now = replace(now, state=risk.rearmed(now.state, worth))
        if now.state != self._states.get(close_time_s):
            self.differs(close_time_s, "the limits' state is not what bars and fills make it")
            now = replace(now, state=self._states.get(close_time_s, now.state))
        return now

    def _after_decision(self, k: int, now: _Step, stored: Decided) -> _Step:
        close_time_s = stored.decision.close_time_s
        self._check_bars(k, stored)
        rederiver = self._rederiver(stored.artifact)
        again = rederiver.decision(close_time_s, now.account)
        if text := difference(stored.decision, again, rederiver.artifact.spec):
            self.mismatches.append(text)
        view = self.view(k, now.account, flatten=stored.flatten)
        ruling = risk.rule(stored.limits, now.state, view, again.target, self.rules)
        if ruling.target != stored.guarded:
            self.differs(close_time_s, "guarded is not what the limits make of the target")
        self._check_orders(
            stored, sendable_orders(ruling.orders, now.account, self.rules, whole_lots=not self._embedded)
        )
        self.n_decisions, self.n_orders = self.n_decisions + 1, self.n_orders + len(ruling.orders)
        return replace(now, state=ruling.state, orders=self._taken(close_time_s, ruling.orders))

    def _taken(self, close_time_s: int, orders: tuple[tuple[str, Decimal], ...]) -> tuple[tuple[str, Decimal], ...]:
        """Of `orders` those that were neither refused nor called off."""
        given_up = {i.ticker for i in self._intents.get(close_time_s, ()) if i.state in ("REJECTED", "ABANDONED")}
        return tuple(order for order in orders if order[0] not in given_up)

    def fills(self, k: int, now: _Step) -> tuple[Fill, ...]:
        """What filled in bar k. What a venue filled cannot be computed: there it is what is stored."""
        if self._embedded:
            return simulate_fills(now.account, now.orders, self.bars.slice(k, k + 1), self.costs, self.rules)
        return tuple(f for f in self._stored_fills if f.close_time_s == int(self.bars.close_time_s[k]))

    def _check_orders(self, decided: Decided, orders: tuple[tuple[str, Decimal], ...]) -> None:
        at_s = decided.decision.close_time_s
        wanted = intents(
            orders, account=ACCOUNT, artifact=decided.artifact, close_time_s=at_s, sent_s=0.0, expires_s=0.0
        )
        derived, sent = ([_order(i) for i in x] for x in (wanted, self._intents.get(at_s, [])))
        if derived != sent:
            self.differs(at_s, "the orders are not those that the target calls for")

    def _check_bars(self, k: int, stored: Decided) -> None:
        self._chain = chained(self._chain, self.bars.slice(self._chained, k + 1))
        self._chained = k + 1
        if self._chain != stored.bars_sha256:
            self.differs(stored.decision.close_time_s, "a bar up to here is not the one that was decided on")
            self._chain = stored.bars_sha256  # so that one revised bar is not reported at every later one

    def _rederiver(self, artifact: str) -> Rederiver:
        if artifact not in self._rederivers:
            self._rederivers[artifact] = Rederiver(
                PolicyArtifact.load(self._artifacts / artifact), self.bars, self._anchors
            )
        return self._rederivers[artifact]


def _order(intent: Intent) -> tuple[str, str, Decimal]:
    return intent.client_order_id, intent.ticker, intent.quantity


def verify(
    journal: Journal, artifacts: Path, *, since_s: int = 0, beat: Callable[[int], None] = lambda _: None
) -> Verification:
    """Replay the journal, or what was settled and decided after the last bar before `since_s`, which is taken as it is."""
    check = _Checker(journal, artifacts, since_s)
    now, fills = check.start(), list[Fill]()
    for n, (close_time_s, marked, equity) in enumerate(check.marks):
        k = check.bars.index_of(close_time_s)
        if n > 0:
            done = check.fills(k, now)
            fills += done
            account = now.account.settled(done, check.bars.close[k])
            now = _Step(account=account, state=risk.settled(now.state, check.view(k, account), done))
        if ledger_record(now.account) != ledger_record(marked) or now.account.equity(check.bars.close[k]) != equity:
            check.differs(close_time_s, "the account is not what its orders and fills make it")
            now = replace(
                now, account=marked
            )  # go on from what is stored: one fault is not reported at every later bar
        if n > 0 or check.whole:
            now = check.decided_and_rearmed(k, now)
        beat(n)
    stored = [f for f in journal.fills() if f.close_time_s > check.first_s]
    if fills != stored:
        check.mismatches.append(f"{len(fills)} fills re-derived, {len(stored)} stored, or they differ")
    return Verification(
        decisions=check.n_decisions, marks=len(check.marks), fills=len(fills), orders=check.n_orders,
        mismatches=tuple(check.mismatches),
    )  # fmt: skip
