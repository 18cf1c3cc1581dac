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
from features.pipeline import FeatureRows, FeatureStream, compute
from features.spec import FeatureSpec
from features.venue_rules import VenueRules
from paper_trader import risk
from paper_trader.bar_log import chained
from paper_trader.champion import Holding
from paper_trader.journal import Decided, Journal
from paper_trader.parity import Rederiver, difference

CHECK_EVERY_DECISIONS = 24  # and the first after every start: the whole history is computed again each time


class ParityBroken(DataError):
    """What the trader saw or wants is not what the training path makes of the stored bars."""


class Deciding:
    """One account's view of its market. The journal is its memory; everything here can be made again from it."""

    def __init__(
        self, *, journal: Journal, artifacts: Path, spec: FeatureSpec, rules: VenueRules, limits: risk.Limits
    ) -> None:
        self._journal, self._artifacts, self._spec, self._rules, self._limits = journal, artifacts, spec, rules, limits
        bars = journal.bars()
        self.recent = _last_rows(compute(bars, spec), spec.stack_bars)
        self._stream, self._chain = FeatureStream(spec, bars), chained("", bars)
        self.state = journal.risk_states(since_s=bars.last_close_s)[bars.last_close_s]
        self.holding: Holding | None = None
        self._market: NDArray[np.float32] | None = None
        self._unchecked = CHECK_EVERY_DECISIONS - 1

    def take_up(self, holding: Holding) -> None:
        """Another policy from the next decision on."""
        self.holding, self._decider, self._window = holding, Decider(holding.artifact), MarketWindow(holding.artifact)
        for row in self.recent:
            self._market = self._window.push(row)

    def limited(self, bar: Bars, account: Ledger, fills: Sequence[Fill]) -> risk.State:
        """The limits' state after the bar and its fills."""
        self.state = risk.settled(self.state, self._view(bar, account), fills)
        return self.state

    def seen(self, bar: Bars) -> FeatureRows:
        """Features and the hash of all bars move on by one settled bar."""
        row = self._stream.update(bar)
        self._chain = chained(self._chain, bar)
        self.recent = [*self.recent, row][-self._spec.stack_bars :]
        if self.holding is not None:
            self._market = self._window.push(row)
        return row

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
        self._check(decision, account)
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

    def _check(self, decision: Decision, account: Ledger) -> None:
        """Raises ParityBroken. The first check of a life also looks at the last decision of the life before."""
        self._unchecked += 1
        if self._unchecked < CHECK_EVERY_DECISIONS:
            return
        assert self.holding is not None
        bars = self._journal.bars()
        if chained("", bars) != self._chain:
            raise ParityBroken(f"parity: {utc_text(bars.last_close_s)}: the stored bars are not those that were seen")
        again = Rederiver(self.holding.artifact, bars).decision(decision.close_time_s, account)
        if text := difference(decision, again, self._spec):
            raise ParityBroken(f"parity: {text}")
        if self._unchecked == CHECK_EVERY_DECISIONS and (last := self._journal.last_decided()) is not None:
            then = self._journal.marks(since_s=last.decision.close_time_s)[0][1]
            derived = Rederiver(PolicyArtifact.load(self._artifacts / last.artifact), bars)
            if text := difference(last.decision, derived.decision(last.decision.close_time_s, then), self._spec):
                raise ParityBroken(f"parity: {text}")
        self._unchecked = 0


def _last_rows(rows: FeatureRows, n: int) -> list[FeatureRows]:
    """The last `n` rows, one record each."""
    return [rows.slice(k, k + 1) for k in range(max(0, rows.n_rows - n), rows.n_rows)]
