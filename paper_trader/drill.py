"""A fire drill: a shadow account falls through the drawdown limit, and the real parts must stop it, for good.

Journal, embedded broker, order flow, limits and session are those of the trader, in a directory of their own; only the
market is made up: one coin, bought at once, that loses 5 % an hour and then recovers.
"""

import contextlib
import tempfile
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from daemon.child.clock import Clock
from daemon.child.logs import get_logger
from features.bars import Bars
from features.costs import Costs
from features.decision import Decision
from features.files import append_jsonl, read_jsonl
from features.ledger import Ledger
from features.venue_rules import VenueRules
from paper_trader import risk
from paper_trader.brokers.simulated import SimulatedBroker
from paper_trader.journal import Decided, Journal
from paper_trader.ordering import OrderFlow, Sendings
from paper_trader.session import BarSettled, Decide, Latch, Phase, PolicyLoaded, Session, step

EVERY_S = 7 * 86_400.0
_TICKERS, _HOUR_S, _BEGIN_S = ("DRILL",), 3600, 1_600_002_000
_FALL, _BARS = 0.95, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """drawdown: at which it fired, a fraction; text: what was seen, in words."""

    passed: bool
    text: str
    limit: float
    drawdown: float


def kill_switch(limits: risk.Limits, costs: Costs, scratch: Path) -> Drill:
    """Falls until it is stopped; the account must stay stopped over a restart, whatever the price does."""
    if limits.max_drawdown >= 1.0:
        return Drill(passed=False, text="risk.max_drawdown is 1.0: there is no kill switch", limit=1.0, drawdown=0.0)
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="drill-") as place:
        fired_at, before = _fall(limits, costs, Path(place))
        if not fired_at:
            return _failed(limits, before, "it fell to the end and nothing stopped it")
        if not before < limits.max_drawdown <= fired_at:
            return _failed(limits, fired_at, f"stopped at {fired_at:.1%}, the bar before stood at {before:.1%}")
        if decisions := _decisions_after_restart(limits, costs, Path(place)):
            return _failed(limits, fired_at, f"after the halt and a restart it decided {decisions} times")
    text = f"stopped at {fired_at:.1%}, one bar after {before:.1%}; nothing was decided after a restart"
    return Drill(passed=True, text=text, limit=limits.max_drawdown, drawdown=fired_at)


def recorded(state_dir: Path, drill: Drill, clock: Clock) -> dict[str, Any]:
    record = {"at_utc": clock.now_utc().isoformat(), "drill": "kill-switch", **asdict(drill)}
    append_jsonl(_path(state_dir), record)
    return record


def last(state_dir: Path) -> dict[str, Any] | None:
    return next(reversed(read_jsonl(_path(state_dir))), None)


def is_due(record: dict[str, Any] | None, clock: Clock) -> bool:
    """Weekly; a record from the future says nothing."""
    if record is None:
        return True
    age_s = (clock.now_utc() - datetime.fromisoformat(record["at_utc"])).total_seconds()
    return not 0.0 <= age_s < EVERY_S


def _path(state_dir: Path) -> Path:
    return state_dir / "paper" / "drills.jsonl"


def _failed(limits: risk.Limits, drawdown: float, text: str) -> Drill:
    return Drill(passed=False, text=text, limit=limits.max_drawdown, drawdown=drawdown)


class _Desk:
    """The trader's parts on one drill directory, opened as a trader opens them."""

    def __init__(self, limits: risk.Limits, costs: Costs, place: Path, books: contextlib.ExitStack) -> None:
        self.limits, self.rules = limits, VenueRules.uniform("drill", _TICKERS)
        opening = Ledger.opened(_TICKERS, 10_000.0)
        self.journal = books.enter_context(contextlib.closing(Journal(place / "journal.db")))
        if not self.journal.meta():
            begin = {"tickers": '["DRILL"]', "timeframe_s": str(_HOUR_S), "broker": "simulated"}
            self.journal.begin(begin, _bar(0, 100.0), opening)
        broker = SimulatedBroker(place / "broker.db", costs=costs, rules=self.rules, opening=opening, opened_s=_BEGIN_S)
        books.callback(broker.close)
        self.flow = OrderFlow(
            journal=self.journal, broker=broker, rules=self.rules, sendings=Sendings(born_s=0.0), now_s=lambda: 0.0,
            pause=lambda _: None, log=get_logger(),
        )  # fmt: skip
        at_s, self.account = self.journal.last_mark()
        self.state = self.journal.risk_states(since_s=at_s)[at_s]
        halted = self.journal.meta().get("halted", "")
        session = Session(
            phase=Phase.HALTED if halted else Phase.IDLE, reason=halted, stale_after_s=1.0, max_clock_offset_s=1.0
        )
        self.session, _ = step(session, PolicyLoaded())

    def walk(self, bar: Bars) -> bool:
        """Settle, then decide if the session lets it; whether it halted now."""

        def limited(after: Ledger, fills: Any) -> risk.State:
            self.state = risk.settled(self.state, self._view(bar, after), fills)
            return self.state

        self.account = self.flow.settle(bar, self.account, limited=limited)
        alarm = risk.alarm(self.limits, self.state, self._view(bar, self.account))
        settled = BarSettled(
            age_s=0.0, account_agrees=not self.flow.difference, alarm="" if alarm is None else alarm.text
        )
        self.session, effects = step(self.session, settled)
        for effect in effects:
            match effect:
                case Latch(reason=reason):
                    self.journal.halt(reason)
                    return True
                case Decide():
                    self._buy(bar)
        return False

    def drawdown(self, bar: Bars) -> float:
        return 1.0 - float(self.account.equity(bar.close[0])) / self.state.peak

    def _buy(self, bar: Bars) -> None:
        """Everything into the coin: what a policy gone wrong would do."""
        ruling = risk.rule(self.limits, self.state, self._view(bar, self.account), (1.0,), self.rules)
        self.state = ruling.state
        decision = Decision(close_time_s=bar.last_close_s, observation=b"", raw=(), target=(1.0,))
        decided = Decided(
            artifact="drill", bars_sha256="", decision=decision, guarded=ruling.target or (), flatten=False,
            limits=self.limits,
        )  # fmt: skip
        self.flow.place(decided, ruling.state, ruling.orders, self.account)

    def _view(self, bar: Bars, account: Ledger) -> risk.View:
        return risk.View(
            close_time_s=bar.last_close_s, close=bar.close[0], account=account,
            min_notional=self.rules.arrays(_TICKERS)[1],
        )  # fmt: skip


def _fall(limits: risk.Limits, costs: Costs, place: Path) -> tuple[float, float]:
    """(drawdown that halted, or 0.0; drawdown one bar before)."""
    # the other limits would sell before the drawdown is reached; this drill is about the last of them
    alone = risk.Limits(max_drawdown=limits.max_drawdown)
    before, price = 0.0, 100.0
    with contextlib.ExitStack() as books:
        desk = _Desk(alone, costs, place, books)
        for k in range(1, _BARS):
            price *= _FALL if k > 2 else 1.0  # bought at the second open
            bar = _bar(k, price)
            if desk.walk(bar):
                return desk.drawdown(bar), before
            before = desk.drawdown(bar)
    return 0.0, before


def _decisions_after_restart(limits: risk.Limits, costs: Costs, place: Path) -> int:
    """Decisions of a new life while the price is back where it began."""
    with contextlib.ExitStack() as books:
        desk = _Desk(risk.Limits(max_drawdown=limits.max_drawdown), costs, place, books)
        before = desk.journal.counts()
        for k in range(before["marks"], before["marks"] + 5):
            desk.walk(_bar(k, 100.0))
        return desk.journal.counts()["decisions"] - before["decisions"]


def _bar(k: int, price: float) -> Bars:
    one = np.full((1, 1), price)
    return Bars(
        tickers=_TICKERS, timeframe_s=_HOUR_S, close_time_s=np.array([_BEGIN_S + k * _HOUR_S], dtype=np.int64),
        open=one, high=one, low=one, close=one, volume=np.full((1, 1), 1e9), filled=np.zeros((1, 1), dtype=np.bool_),
    )  # fmt: skip
