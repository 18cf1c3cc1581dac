"""Proof that the trader did what training would have done: every decision and every mark, computed again."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np

from features.artifact import PolicyArtifact
from features.bars import Bars, utc_text
from features.decision import Decider, Decision, market_blocks
from features.ledger import Ledger, plan_orders, simulate_fills
from features.pipeline import compute
from paper_trader.journal import Journal, ledger_record


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was compared and what differed; `mismatches` names the first place of each difference."""

    decisions: int
    marks: int
    fills: int
    mismatches: tuple[str, ...]


class Rederiver:
    """Re-derives decisions of one artifact with the training path: batch features over the stored bars."""

    def __init__(self, artifact: PolicyArtifact, bars: Bars) -> None:
        self.artifact, self._bars = artifact, bars
        self._blocks = market_blocks(artifact, compute(bars, artifact.spec))
        self._decider = Decider(artifact)

    def decision(self, close_time_s: int, account: Ledger) -> Decision:
        k = self._bars.index_of(close_time_s)
        row = k - self.artifact.spec.warmup_bars - self.artifact.spec.stack_bars + 1
        return self._decider.decide(
            market=self._blocks[row], ledger=account, close=self._bars.close[k], close_time_s=close_time_s
        )


def difference(stored: Decision, again: Decision) -> str:
    """Which part differs, in words; empty when they are the same to the last bit."""
    for name in ("observation_sha256", "raw", "target"):
        if getattr(stored, name) != getattr(again, name):
            return f"{utc_text(stored.close_time_s)}: {name} is not what the training path computes"
    return ""


def verify(journal: Journal, artifacts: Path, *, beat: Callable[[int], None] = lambda _: None) -> Verification:
    """Replay the whole journal: bars → features → policy → orders → fills → account, byte for byte.

    What a venue filled cannot be computed: there the account is what the stored fills make it.
    """
    bars, marks = journal.bars(), journal.marks()
    stored = {d.close_time_s: (artifact, d) for artifact, d in journal.decisions()}
    rederivers: dict[str, Rederiver] = {}
    mismatches: list[str] = []
    costs, rules = journal.terms()
    stored_fills, embedded = journal.fills(), journal.meta()["broker"] == "simulated"
    (_, account, _), fills = marks[0], []
    orders: tuple[tuple[str, Decimal], ...] = ()
    for n, (close_time_s, marked, equity) in enumerate(marks):
        k = bars.index_of(close_time_s)
        if n > 0:
            if embedded:
                done = simulate_fills(account, orders, bars.slice(k, k + 1), costs, rules)
            else:
                done = tuple(f for f in stored_fills if f.close_time_s == close_time_s)
            fills += list(done)
            account, orders = account.book(done).marked(bars.close[k]), ()
        if ledger_record(account) != ledger_record(marked) or account.equity(bars.close[k]) != equity:
            mismatches.append(f"{utc_text(close_time_s)}: the account is not what its orders and fills make it")
            account = marked  # go on from the stored account, so that one fault is not reported at every later bar
        if close_time_s in stored:
            artifact_id, decision = stored[close_time_s]
            if artifact_id not in rederivers:
                rederivers[artifact_id] = Rederiver(PolicyArtifact.load(artifacts / artifact_id), bars)
            again = rederivers[artifact_id].decision(close_time_s, account)
            if text := difference(decision, again):
                mismatches.append(text)
            orders = plan_orders(account, np.array(again.target), bars.close[k], rules)
        beat(n)
    if fills != stored_fills:
        mismatches.append(f"{len(fills)} fills re-derived, {len(stored_fills)} stored, or they differ")
    return Verification(decisions=len(stored), marks=len(marks), fills=len(fills), mismatches=tuple(mismatches))
