"""The account beside the shadows: who trades with it, how they stand, and whether it loses beyond chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daemon.child.config import Config
from features.bars import Bars
from features.costs import Costs
from features.pipeline import FeatureRows
from features.spec import FeatureSpec
from features.venue_rules import VenueRules
from paper_trader.evidence import Evidence, next_day, over_days
from paper_trader.journal import Journal
from paper_trader.shadows import DAY_S, EQUAL, Shadows, challengers


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What one bar brought. ended: shadows that could not go on, and why; losing: the alarm went off now."""

    ended: tuple[str, ...]
    losing: bool


class Comparison:
    """Shadows and evidence on the journal's bars."""

    def __init__(
        self, *, config: Config, state_dir: Path, spec: FeatureSpec, costs: Costs, rules: VenueRules, last_bar_s: int
    ) -> None:
        self._state_dir, self._most = state_dir, config.paper.challengers
        self._alpha, self._cash = config.paper.loss_alarm, config.account.initial_cash
        self._shadows = Shadows(
            state_dir / "paper" / "shadows.db", artifacts=state_dir / "artifacts", spec=spec, costs=costs, rules=rules,
            cash=config.account.initial_cash, last_bar_s=last_bar_s,
        )  # fmt: skip
        self._evidence = Evidence()

    def close(self) -> None:
        self._shadows.close()

    @property
    def lost(self) -> str:
        """Why all shadows begin anew; "" when they do not."""
        return self._shadows.lost

    def enter(self, journal: Journal, recent: list[FeatureRows]) -> list[str]:
        """After a start, and whenever another judgement was made; shadows that ended over it, and why."""
        roster, unreadable = challengers(self._state_dir, most=self._most)
        anchors = journal.anchors()
        bars = journal.bars(since_s=anchors.of(self._shadows.settled_s(journal.last_bar_s())))
        ended = self._shadows.enter(roster, bars, anchors, recent)
        paper, equal = journal.midnights(), self._shadows.midnights(EQUAL)
        self._evidence = over_days((paper[t], equal[t]) for t in sorted(paper.keys() & equal.keys()) if paper[t] > 0)
        return [*unreadable, *ended]

    def walk(self, bar: Bars, rows: Sequence[FeatureRows], worth: float) -> News:
        """One settled bar; `worth` is the paper account's equity at its close."""
        ended = tuple(self._shadows.walk(bar, rows))
        was_losing = self.losing
        if bar.last_close_s % DAY_S == 0 and worth > 0:
            equal = self._shadows.equities(bar.close[0])[EQUAL]
            self._evidence = next_day(self._evidence, paper=worth, baseline=equal)
        return News(ended=ended, losing=self.losing and not was_losing)

    @property
    def losing(self) -> bool:
        return self._alpha > 0 and self._evidence.highest >= 1.0 / self._alpha

    def shown(self, close: NDArray[np.float64]) -> dict[str, Any]:
        """For the status file."""
        worth = self._shadows.equities(close)
        returns = {n: e / self._cash - 1.0 for n, e in worth.items()}
        evidence = {"loss_evidence": self._evidence.highest, "loss_days": self._evidence.days, "losing": self.losing}
        return {"shadows": returns, **evidence}
