"""The trader's loop: a bar closes, it is settled, decided on, ordered; each step durable before the next."""

import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.child.market import Waiting, bar_source, broker_keys, costs, feature_spec, store_venue_rules, venue_rules
from daemon.child.progress import Progress
from features.bars import Bars, utc_text
from features.errors import CappuccinoError, DataError
from features.ledger import Ledger
from features.sources.base import BarSource
from features.sources.errors import MarketUnavailable
from paper_trader import risk
from paper_trader.brokers import venue_broker
from paper_trader.brokers.base import ORDER_LIFE_S, Broker, BrokerUnavailable
from paper_trader.brokers.simulated import SimulatedBroker
from paper_trader.champion import load_holding
from paper_trader.comparison import Comparison
from paper_trader.deciding import Deciding, ParityBroken
from paper_trader.drill import is_due, kill_switch, recorded
from paper_trader.drill import last as last_drill
from paper_trader.journal import Journal
from paper_trader.opening import begin, require_same_account
from paper_trader.operator import Requests
from paper_trader.ordering import OrderFlow, Sendings
from paper_trader.outages import OUTAGES, Outages
from paper_trader.picture import Picture
from paper_trader.session import (
    BarSettled,
    Command,
    Decide,
    Event,
    Fault,
    Latch,
    NoBar,
    Phase,
    PolicyLoaded,
    Session,
    Standing,
    Told,
    Wait,
    step,
)  # fmt: skip
from paper_trader.shadows import EQUAL
from paper_trader.status import status_record

POLL_S = 0.25
CLOCK_EVERY_S = 600.0
LATENCIES = 1000  # of so many decisions the percentiles are taken: six weeks of hours


class Trader:
    """One account on one bar source. `crash_point` is called after every durable step; tests die there."""

    def __init__(
        self, *, config: Config, state_dir: Path, clock: Clock, progress: Progress, log: FilteringBoundLogger,
        should_stop: Callable[[], bool], crash_point: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.config, self.state_dir, self.clock, self.progress, self.log = config, state_dir, clock, progress, log
        self.should_stop, self.crash_point = should_stop, crash_point
        self._pointer_stamp_ns = -1
        self._clock_offset_s: float | None = None
        self._clock_due_s, self._at_hand_s = 0.0, clock.monotonic_s()
        self._drill, self._mismatches, self._pulses = last_drill(state_dir), 0, 0
        self._picture = Picture(state_dir / "paper" / "status.json", clock)
        self._sendings = Sendings(born_s=clock.now_utc().timestamp())
        self._halt_due = ""  # a halt that the journal has not taken yet
        self._outages = Outages(state_dir=state_dir, clock=clock, log=log, should_stop=should_stop)

    def run(self) -> None:
        """Until a stop is asked for, or a replay has reached its last bar.

        On a full disk nothing can be written down, so nothing is sent: the trader waits, alive, and then opens its
        books anew, as after a crash. What was in memory and never reached the journal has never happened.
        """
        self._open_market()
        while True:
            try:
                with contextlib.ExitStack() as books:
                    self._open(books)
                    if self._wait_for_policy():
                        self._trade()
                    return
            except OUTAGES as error:  # the books are closed meanwhile
                if self.should_stop() or not self._outages.sit_out(error, self._pulse):
                    return

    # opening ---------------------------------------------------------------------------------------------------

    def _open_market(self) -> None:
        """Once in a life, unlike the books: a venue allows one stream per account."""
        waiting = Waiting(
            clock=self.clock, beat=lambda: self._pulse("reading the market"), should_stop=self.should_stop
        )
        self._spec, self._waiting = feature_spec(self.config), waiting
        self._source: BarSource = bar_source(self.config, self.state_dir, waiting, listen=True)
        self._replay = self.config.paper.clock == "replay"

    def _open(self, books: contextlib.ExitStack) -> None:
        store_venue_rules(self.config, self._source, self.state_dir, self._waiting)
        self._rules, self._costs = venue_rules(self.config, self.state_dir), costs(self.config)
        self._journal = books.enter_context(contextlib.closing(Journal(self.state_dir / "paper" / "journal.db")))
        venue = venue_broker(
            self.config, now_s=self._waiting.now_s, beat=lambda: self._pulse("asking the broker"),
            keys=broker_keys(self.config),
        )  # fmt: skip
        if venue is not None:
            books.enter_context(contextlib.closing(venue))
        if not self._journal.meta():
            begin(self._journal, self.config, self._spec, self._source, self._costs, self._rules, venue)
            self.crash_point("begun")
        meta = self._journal.meta()
        require_same_account(meta, self.config, self._spec, self._costs, self._rules)
        self._start_s = int(meta["start_s"])
        self._last_s = self._source.last_close_s()
        self._settled_s, self._account = self._journal.last_mark()
        broker: Broker = venue or books.enter_context(contextlib.closing(SimulatedBroker(
            self.state_dir / "paper" / "broker.db", costs=self._costs, rules=self._rules, opened_s=self._start_s,
            opening=Ledger.opened(self._spec.tickers, self.config.account.initial_cash),
        )))  # fmt: skip
        self._orders = OrderFlow(
            journal=self._journal, broker=broker, rules=self._rules, sendings=self._sendings, now_s=self._waiting.now_s,
            pause=self._waiting.sleep, log=self.log, crash_point=self.crash_point,
            may_send=lambda intent: self._session.may_send(sells=intent.quantity < 0),
        )  # fmt: skip
        if venue is not None and self.config.paper.cancel_at_failure:
            books.push(self._cancel_if_it_ends)
        self._deciding = Deciding(
            journal=self._journal, artifacts=self.state_dir / "artifacts", spec=self._spec, rules=self._rules,
            limits=risk.Limits(**asdict(self.config.risk)),
        )  # fmt: skip
        self._comparison = books.enter_context(contextlib.closing(Comparison(
            config=self.config, state_dir=self.state_dir, spec=self._spec, costs=self._costs, rules=self._rules,
            last_bar_s=self._settled_s,
        )))  # fmt: skip
        self._say_ended([self._comparison.lost] if self._comparison.lost else [])
        self._processed, self._opened_with = self._journal.counts()["marks"] - 1, self._journal.opened_with()
        self._newest = self._journal.bars(since_s=self._journal.last_bar_s())
        if self._halt_due:
            self._journal.halt(self._halt_due)
        halted = meta.get("halted", self._halt_due)
        self._session = Session(
            phase=Phase.HALTED if halted else Phase.IDLE, reason=halted,
            operator=Standing(meta.get("operator", Standing.TRADE)), stale_after_s=self.config.paper.stale_after_s,
            max_clock_offset_s=self.config.paper.max_clock_offset_s,
        )  # fmt: skip
        self._requests = Requests(self.state_dir, after=int(meta.get("operator_number", 0)))
        self._latencies = deque(self._journal.latencies(most=LATENCIES), maxlen=LATENCIES)
        self._pointer_stamp_ns = -1
        books.callback(lambda: self._picture.write(self._record, force=True))
        self._hear_operator()  # before anything that was left is sent
        self._orders.open(self._account, self._newest)  # ready only when no order's fate is open and the books agree
        self._halt_if_books_differ()
        self.log.info("trader.opened", settled=utc_text(self._settled_s), cash=str(self._account.cash), halted=halted)

    def _cancel_if_it_ends(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> None:
        """Not at a stop, which leaves a trader's orders to the next start, and not at an outage, which it sits out."""
        if not isinstance(error, Exception) or self._outages.is_outage(error):
            return
        try:
            self._orders.cancel_open()
        except (CappuccinoError, sqlite3.Error) as trouble:
            self.log.warning("trader.broker_unavailable", error=f"open orders are left: {trouble}", retry_after_s=None)

    # the loop --------------------------------------------------------------------------------------------------

    def _wait_for_policy(self) -> bool:
        """False when stopped first. Until the first judgement the trader waits, or holds cash, as configured."""
        while not self.should_stop():
            self._look_around()
            if self._deciding.holding is not None or self.config.paper.start_without_champion:
                self.progress.ready()
                return True
            self._tell("waiting for the first judgement")
            self.clock.sleep(POLL_S)
        return False

    def _trade(self) -> None:
        self._drill_if_due()
        self._finish_interrupted_bar()
        pace_s = 1.0 / self.config.paper.replay_bars_per_s if self.config.paper.replay_bars_per_s > 0 else 0.0
        while not self.should_stop():
            began_s = self.clock.monotonic_s()
            self._look_around()  # first: what the operator has stopped is not sent again
            try:
                self._orders.tick()
                self._ask_the_venues_clock(began_s)
                self._take(self._next_bars())
            except (MarketUnavailable, BrokerUnavailable) as error:  # nothing was booked: the bar is read again
                self._outages.sit_out(error, self._tell)
                continue
            if self._replay and self._settled_s >= self._last_s:
                self.log.info("trader.replay_ended", bars=self._processed)
                return
            self._tell(self._note())
            wait_s = pace_s - (self.clock.monotonic_s() - began_s) if self._replay else 1.0
            if wait_s > 0:
                self.clock.sleep(wait_s)

    def _take(self, bars: Bars) -> None:
        self._at_hand_s = self.clock.monotonic_s()
        if bars.n_bars == 0 and not self._replay:
            self._feed(NoBar(age_s=self._age_s()))
        for k in range(bars.n_bars):
            if self.should_stop():
                return
            self._look_around()
            # of several bars that closed meanwhile only the newest may be traded on
            self._on_bar(bars.slice(k, k + 1), fresh=self._replay or k == bars.n_bars - 1)

    def _next_bars(self) -> Bars:
        """One bar in a replay; live, everything that has closed since the last one."""
        until_s = self._settled_s + self._spec.timeframe_s if self._replay else self._source.last_close_s()
        return self._source.bars(after_s=self._settled_s, until_s=until_s)

    def _on_bar(self, bar: Bars, *, fresh: bool) -> None:
        """Settle the bar, then decide on it if the session allows; the shadows follow when the orders are out."""
        self._account = self._orders.settle(
            bar, self._account, limited=lambda account, fills: self._deciding.limited(bar, account, fills)
        )
        self._settled_s, self._newest = bar.last_close_s, bar
        self._processed += 1
        rows = self._deciding.seen(bar)
        self._decide_if_allowed(bar, fresh=fresh)
        news = self._comparison.walk(bar, rows, self._worth())
        self._say_ended(news.ended)
        if news.losing:
            self.log.error("trader.losing", against=EQUAL, false_alarm=self.config.paper.loss_alarm)
        self._drill_if_due()
        self._tell(self._note())
        self._orders.rest()
        self._outages.over()

    def _halt_if_books_differ(self) -> None:
        if text := self._orders.difference:
            self._feed(Fault(reason=f"the journal's account is not the broker's: {text}"))

    def _decide_if_allowed(self, bar: Bars, *, fresh: bool) -> None:
        self._halt_if_books_differ()
        event = BarSettled(
            age_s=0.0 if self._replay else self._age_s(), newest=fresh, account_agrees=not self._orders.difference,
            alarm=self._deciding.alarm(bar, self._account) or self._orders.alarm(bar), clock_offset_s=self._clock_offset_s,
            invested=any(self._account.quantity),
        )  # fmt: skip
        for effect in self._feed(event):
            if isinstance(effect, Decide):
                self._decide(bar)

    def _decide(self, bar: Bars) -> None:
        """What is not a number, or not what training computes, halts: before its orders, or before the next ones."""
        try:
            self._decide_and_order(bar)
        except DataError as error:
            self._mismatches += isinstance(error, ParityBroken)
            self._feed(Fault(reason=str(error)))

    def _decide_and_order(self, bar: Bars) -> None:
        decided, ruling = self._deciding.decide(bar, self._account, flatten=self._session.flatten)
        for event in ruling.events:
            self.log.warning("trader.limited", rule=str(event.rule), ticker=event.ticker, reason=event.text)
        self._orders.place(decided, ruling.state, ruling.orders, self._account)
        took_s = self.clock.monotonic_s() - self._at_hand_s
        self._latencies.append(took_s)
        self._journal.note_latency(bar.last_close_s, took_s)
        self._deciding.prove(decided.decision, self._account)

    def _finish_interrupted_bar(self) -> None:
        """After a restart: decide on the newest bar if the crash came before that; live, while the bar is minutes old."""
        if self._journal.decision_at(self._settled_s):
            return
        if not self._replay and not 0.0 <= self._age_s() <= min(ORDER_LIFE_S, self._spec.timeframe_s):
            return
        if self._orders.is_past(self._settled_s):
            return  # this bar was never decided on, and the broker has settled the next one
        self._ask_the_venues_clock(self.clock.monotonic_s())
        self._decide_if_allowed(self._newest, fresh=True)

    # helpers ---------------------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Between two bars: what the operator asked for, and whether another policy is to be traded."""
        self._hear_operator()
        self._load_policy()

    def _hear_operator(self) -> None:
        for request in self._requests.new():
            self._feed(Told(command=request.command))
            if rearmed := request.command is Command.REARM:
                self._orders.call_off()
            self._journal.told(
                request.number, operator=str(self._session.operator),
                rearmed=self._deciding.rearmed(self._newest.close[0], self._account) if rearmed else None,
            )  # fmt: skip
            self._halt_due = "" if rearmed else self._halt_due
            self.log.warning("trader.told", command=str(request.command), number=request.number)

    def _load_policy(self) -> None:
        """Take up a new champion between two bars; the account goes on unchanged."""
        pointer = self.state_dir / "champion.json"
        stamp = pointer.stat().st_mtime_ns if pointer.exists() else 0
        if stamp == self._pointer_stamp_ns:
            return
        self._pointer_stamp_ns = stamp
        self._say_ended(self._comparison.enter(self._journal, self._deciding.recent))
        holding, held = load_holding(self.state_dir, self._spec), self._deciding.holding
        if holding is None or (held is not None and holding.artifact_id == held.artifact_id):
            return
        self._deciding.take_up(holding)
        self._feed(PolicyLoaded())
        self.log.info("trader.policy", artifact=holding.artifact_id, champion=holding.is_champion)

    def _feed(self, event: Event) -> tuple[Any, ...]:
        self._session, effects = step(self._session, event)
        for effect in effects:
            match effect:
                case Latch(reason=reason):
                    self._halt_due = reason
                    self._journal.halt(reason)
                    self.log.error("trader.halted", reason=reason)
                case Wait(reason=reason):
                    self.log.warning("trader.waits", reason=reason)
        return effects

    def _ask_the_venues_clock(self, now_s: float) -> None:
        """Every ten minutes, live. An offset that cannot be had is an outage like any other."""
        if self._replay or now_s < self._clock_due_s:
            return
        self._clock_offset_s = self._source.clock_offset_s()
        self._clock_due_s = now_s + CLOCK_EVERY_S

    def _drill_if_due(self) -> None:
        """A kill switch that does not fire is worse than none: then nothing is traded."""
        if not is_due(self._drill, self.clock) or self.config.risk.max_drawdown >= 1.0:
            return
        result = kill_switch(risk.Limits(**asdict(self.config.risk)), self._costs, self.state_dir / "paper")
        self._drill = recorded(self.state_dir, result, self.clock)
        self.log.info("trader.drilled", passed=result.passed, text=result.text)
        if not result.passed:
            self._feed(Fault(reason=f"the kill-switch drill failed: {result.text}"))

    def _age_s(self) -> float:
        """Since the newest settled bar closed."""
        return self.clock.now_utc().timestamp() - self._settled_s

    def _say_ended(self, shadows: Sequence[str]) -> None:
        for reason in shadows:
            self.log.warning("trader.shadow_ended", reason=reason)

    def _worth(self) -> float:
        return float(self._account.equity(self._newest.close[0]))

    def _pulse(self, note: str) -> None:
        self._pulses += 1
        self.progress.beat(done=self._pulses, unit="steps", note=note)

    def _note(self) -> str:
        halted = " HALTED" if self._session.phase is Phase.HALTED else ""
        return f"{utc_text(self._settled_s)} equity {self._worth():.2f}{halted}"

    def _tell(self, note: str) -> None:
        """Seen alive, and as it is: what an operator asked for shows before the next bar."""
        self._pulse(note)
        self._picture.write(self._record)

    def _record(self) -> dict[str, Any]:
        close, started_with = self._newest.close[0], self._opened_with
        total = (self._last_s - self._start_s) // self._spec.timeframe_s if self._replay else None
        record = status_record(
            session=self._session, account=self._account, close=close, settled_s=self._settled_s,
            holding=self._deciding.holding, risk_state=self._deciding.state, counts=self._journal.counts(),
            latencies_s=self._latencies, drill=self._drill,
        )  # fmt: skip
        return record | {
            **self._comparison.shown(close), "mismatches": self._mismatches, "processed_bars": self._processed,
            "total_bars": total, "started_with": started_with, "return_since_start": self._worth() / started_with - 1.0,
            "clock_offset_s": self._clock_offset_s,
        }  # fmt: skip
