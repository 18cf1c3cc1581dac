"""From a settled bar to a ruling: features, policy, limits; checked against the training path before it is obeyed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.artifact import PolicyArtifact
from features.bars import Bars, utc_text
from features.decision import Decider, Decision, MarketWindow
from features.errors import DataError
from features.ledger import Fill, Ledger
from features.pipeline import FeatureRows, FeatureStream
from features.spec import FeatureSpec
from features.venue_rules import VenueRules
from paper_trader import risk
from paper_trader.anchoring import AnchoredRows
from paper_trader.bar_log import chained
from paper_trader.champion import Holding
from paper_trader.journal import Decided, Journal
from paper_trader.parity import Rederiver, difference


class ParityBroken(DataError):
    """What the trader saw or wants is not what the training path makes of the stored bars."""


class Deciding:
    """One account's view of its market. The journal is its memory; everything here can be made again from it."""

    def __init__(
        self, *, journal: Journal, artifacts: Path, spec: FeatureSpec, rules: VenueRules, limits: risk.Limits
    ) -> None:
        self._journal, self._artifacts, self._spec, self._rules, self._limits = journal, artifacts, spec, rules, limits
        self.recent: list[FeatureRows] = []
        self._stream: FeatureStream
        self._anchors = journal.anchors()
        last_s = journal.last_bar_s()
        self._begin(last_s)
        self._chain = journal.chain()
        self._proved = (last_s, self._chain)  # up to which bar the stored ones are known to be those that were seen
        self.state = journal.risk_states(since_s=last_s)[last_s]
        self.holding: Holding | None = None
        self._market: NDArray[np.float32] | None = None
        self._first = True

    def take_up(self, holding: Holding) -> None:
        """Another policy from the next decision on."""
        self._first = True
        self.holding, self._decider, self._window = holding, Decider(holding.artifact), MarketWindow(holding.artifact)
        self._push(self.recent)

    def limited(self, bar: Bars, account: Ledger, fills: Sequence[Fill]) -> risk.State:
        """The limits' state after the bar and its fills."""
        self.state = risk.settled(self.state, self._view(bar, account), fills)
        return self.state

    def seen(self, bar: Bars) -> Sequence[FeatureRows]:
        """Features and the hash of all bars move on by one settled bar. What is new: its row, or all at a new anchor."""
        self._chain = chained(self._chain, bar)
        if self._anchors.of(bar.last_close_s) != self._begin_s:
            self._begin(bar.last_close_s)
            new = self.recent
        else:
            new = [self._stream.update(bar)]
            self.recent = [*self.recent, *new][-self._spec.stack_bars :]
        if self.holding is not None:
            self._push(new)
        return new

    def _begin(self, close_time_s: int) -> None:
        """Features up to this bar, from its anchor on."""
        self._begin_s = self._anchors.of(close_time_s)
        bars = self._journal.bars(since_s=self._begin_s)
        self.recent = AnchoredRows(bars, self._spec, self._anchors).stack(close_time_s)
        self._stream = FeatureStream(self._spec, bars)

    def _push(self, rows: Sequence[FeatureRows]) -> None:
        for row in rows:
            self._market = self._window.push(row)

    def alarm(self, bar: Bars, account: Ledger) -> str:
        event = risk.alarm(self._limits, self.state, self._view(bar, account))
        return "" if event is None else event.text

    def rearmed(self, bar_close: NDArray[np.float64], account: Ledger) -> risk.State:
        self.state = risk.rearmed(self.state, float(account.equity(bar_close)))
        return self.state

    def decide(self, bar: Bars, account: Ledger, *, flatten: bool) -> tuple[Decided, risk.Ruling]:
        """Raises DataError where nothing may be ordered: not a number, or not what training computes."""
        assert self.holding is not None and self._market is not None
        decision = self._decider.decide(
            market=self._market, ledger=account, close=bar.close[0], close_time_s=bar.last_close_s
        )
        if self._first:
            self._prove(decision, account)
        view = self._view(bar, account, flatten=flatten)
        ruling = risk.rule(self._limits, self.state, view, decision.target, self._rules)
        if ruling.target is None:
            raise DataError("; ".join(e.text for e in ruling.events))
        self.state = ruling.state
        decided = Decided(
            artifact=self.holding.artifact_id, bars_sha256=self._chain, decision=decision, guarded=ruling.target,
            flatten=flatten, limits=self._limits,
        )  # fmt: skip
        return decided, ruling

    def _view(self, bar: Bars, account: Ledger, *, flatten: bool = False) -> risk.View:
        return risk.View(
            close_time_s=bar.last_close_s, close=bar.close[0], account=account,
            min_notional=self._rules.arrays(bar.tickers)[1], flatten=flatten,
        )  # fmt: skip

    def prove(self, decision: Decision, account: Ledger) -> None:
        """Once the orders are out, since a proof takes longer than they may. Raises ParityBroken.

        The first decision of a life or a policy was proved before anything was ordered.
        """
        if decision.close_time_s > self._proved[0]:
            self._prove(decision, account)

    def _prove(self, decision: Decision, account: Ledger) -> None:
        """Raises ParityBroken. The first proof of a life also looks at the last decision of the life before.

        Unless an operator has rearmed the account since: what he has looked at does not halt it for ever.
        """
        assert self.holding is not None
        at_s = decision.close_time_s
        if self._first and (last := self._journal.last_decided()) is not None and not self._looked_at(last):
            self._require_unrevised(last)
            self._require_same(
                last.decision, last.artifact, self._journal.marks(since_s=last.decision.close_time_s)[0][1]
            )
        proved_s, chain = self._proved
        if self._journal.chain(after_s=proved_s, before=chain) != self._chain:
            raise ParityBroken(f"parity: {utc_text(at_s)}: the stored bars are not those that were seen")
        self._require_same(decision, self.holding.artifact_id, account)
        self._proved, self._first = (at_s, self._chain), False

    def _looked_at(self, last: Decided) -> bool:
        at_s = last.decision.close_time_s
        return any(rearm > (at_s, False) for rearm in self._journal.rearms())

    def _require_same(self, decision: Decision, artifact: str, account: Ledger) -> None:
        """Raises ParityBroken unless the training path decides the same, with the policy as it lies on disk."""
        bars = self._journal.bars(since_s=self._anchors.of(decision.close_time_s))
        again = Rederiver(PolicyArtifact.load(self._artifacts / artifact), bars, self._anchors)
        if text := difference(decision, again.decision(decision.close_time_s, account), self._spec):
            raise ParityBroken(f"parity: {text}")

    def _require_unrevised(self, last: Decided) -> None:
        """Raises ParityBroken when a bar is not stored as it was when an earlier life decided on it, and says which."""
        if self._journal.chain(until_s=last.decision.close_time_s) == last.bars_sha256:
            return
        at_s, chain = 0, ""
        for decided in self._journal.decisions():
            chain = self._journal.chain(after_s=at_s, before=chain, until_s=decided.decision.close_time_s)
            at_s = decided.decision.close_time_s
            if chain != decided.bars_sha256:
                break
        raise ParityBroken(f"parity: {utc_text(at_s)}: a bar up to here is not the one that was decided on")
