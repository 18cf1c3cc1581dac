"""The trader's loop: a bar closes, it is settled, decided on, ordered; each step durable before the next."""

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from structlog.typing import FilteringBoundLogger

from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.child.market import Waiting, bar_source, broker_keys, costs, feature_spec, store_venue_rules, venue_rules
from daemon.child.progress import Progress
from features.bars import Bars, utc_text
from features.decision import Decider, MarketWindow
from features.errors import DataError
from features.files import disk_full, write_atomic
from features.ledger import Ledger, plan_orders
from features.pipeline import FeatureRows, FeatureStream, compute
from features.sources.base import BarSource
from features.sources.errors import MarketUnavailable
from paper_trader.brokers import venue_broker
from paper_trader.brokers.base import Broker, BrokerUnavailable
from paper_trader.brokers.simulated import SimulatedBroker
from paper_trader.champion import Holding, load_holding
from paper_trader.journal import Journal
from paper_trader.opening import begin, require_same_account
from paper_trader.ordering import OrderFlow, Sendings
from paper_trader.parity import Rederiver, difference
from paper_trader.session import BarSettled, Decide, Event, Fault, Latch, Phase, PolicyLoaded, Session, step

PARITY_EVERY_BARS = 24
STATUS_EVERY_S = 0.2
POLL_S = 0.25
OUTAGE_RETRY_S = 15.0
ROOM_BYTES = 2_097_152  # twice the journal's capped write-ahead log: the janitor's reserve file gives more than that


class Trader:
    """One account on one bar source. `crash_point` is called after every durable step; tests die there."""

    def __init__(
        self, *, config: Config, state_dir: Path, clock: Clock, progress: Progress, log: FilteringBoundLogger,
        should_stop: Callable[[], bool], crash_point: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.config, self.state_dir, self.clock, self.progress, self.log = config, state_dir, clock, progress, log
        self.should_stop, self.crash_point = should_stop, crash_point
        self._holding: Holding | None = None
        self._window: MarketWindow | None = None
        self._market_now: NDArray[np.float32] | None = None
        self._pointer_stamp_ns = -1
        self._mismatches, self._status_due_s, self._pulses = 0, 0.0, 0
        self._sendings = Sendings(born_s=clock.now_utc().timestamp())
        self._halt_due = ""  # a halt that the journal has not taken yet

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
            except BrokerUnavailable as error:
                self.log.warning("trader.broker_unavailable", error=str(error), retry_after_s=error.retry_after_s)
                if not self._wait_for_broker(error.retry_after_s or OUTAGE_RETRY_S):
                    return
                continue
            except (OSError, sqlite3.Error) as error:
                if not disk_full(error):
                    raise
                self.log.warning("trader.disk_full", reason=str(error))
            if not self._wait_for_room():
                return

    def _wait_for_room(self) -> bool:
        """False when a stop is asked for first."""
        while not self.should_stop():
            if shutil.disk_usage(self.state_dir / "paper").free >= ROOM_BYTES:
                return True
            self._pulse("no orders: the disk is full")
            self.clock.sleep(1.0)
        return False

    def _wait_for_broker(self, seconds: float) -> bool:
        """False when a stop is asked for first. The books are closed meanwhile."""
        try:
            self._waiting.sleep(seconds)
        except MarketUnavailable:
            return False
        return True

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
            journal=self._journal, broker=broker, sendings=self._sendings, now_s=self._waiting.now_s,
            pause=self._waiting.sleep, log=self.log, crash_point=self.crash_point,
        )  # fmt: skip
        bars = self._journal.bars()
        self._stream = FeatureStream(self._spec, bars)
        self._recent = _last_rows(bars, self._spec.warmup_bars, self._spec.stack_bars, lambda b: compute(b, self._spec))
        self._processed = self._journal.counts()["marks"] - 1
        self._close = bars.close[-1]
        if self._halt_due:
            self._journal.halt(self._halt_due)
        halted = meta.get("halted", self._halt_due)
        self._session = Session(
            phase=Phase.HALTED if halted else Phase.IDLE, reason=halted,
            max_drawdown=self.config.paper.max_drawdown_halt, stale_after_s=self.config.paper.stale_after_s,
        )  # fmt: skip
        self._holding, self._window, self._pointer_stamp_ns = None, None, -1
        books.callback(lambda: self._write_status(force=True))
        self._orders.open(self._account, bars)  # ready only when no order's fate is open and the books agree
        self._halt_if_books_differ()
        self.log.info("trader.opened", settled=utc_text(self._settled_s), cash=str(self._account.cash), halted=halted)

    # the loop --------------------------------------------------------------------------------------------------

    def _wait_for_policy(self) -> bool:
        """False when stopped first. Until the first judgement the trader waits, or holds cash, as configured."""
        while not self.should_stop():
            self._load_policy()
            if self._holding is not None or self.config.paper.start_without_champion:
                self.progress.ready()
                return True
            self._pulse("waiting for the first judgement")
            self._write_status()
            self.clock.sleep(POLL_S)
        return False

    def _trade(self) -> None:
        self._finish_interrupted_bar()
        pace_s = 1.0 / self.config.paper.replay_bars_per_s if self.config.paper.replay_bars_per_s > 0 else 0.0
        while not self.should_stop():
            began_s = self.clock.monotonic_s()
            try:
                self._orders.tick()
                self._take(self._next_bars())
            except MarketUnavailable as error:  # nothing was lost: the bars are read when the market is back
                self.log.warning("trader.market_unavailable", error=str(error), retry_after_s=error.retry_after_s)
                self._wait(error.retry_after_s or OUTAGE_RETRY_S)
                continue
            except BrokerUnavailable as error:  # nothing was booked: the bar is read and settled when it is back
                self.log.warning("trader.broker_unavailable", error=str(error), retry_after_s=error.retry_after_s)
                self._wait(error.retry_after_s or OUTAGE_RETRY_S)
                continue
            if self._replay and self._settled_s >= self._last_s:
                self.log.info("trader.replay_ended", bars=self._processed)
                return
            self._pulse(self._note())
            wait_s = pace_s - (self.clock.monotonic_s() - began_s) if self._replay else 1.0
            if wait_s > 0:
                self.clock.sleep(wait_s)

    def _take(self, bars: Bars) -> None:
        for k in range(bars.n_bars):
            if self.should_stop():
                return
            self._load_policy()
            # of several bars that closed meanwhile only the newest may be traded on
            self._on_bar(bars.slice(k, k + 1), fresh=self._replay or k == bars.n_bars - 1)

    def _next_bars(self) -> Bars:
        """One bar in a replay; live, everything that has closed since the last one."""
        until_s = self._settled_s + self._spec.timeframe_s if self._replay else self._source.last_close_s()
        return self._source.bars(after_s=self._settled_s, until_s=until_s)

    def _on_bar(self, bar: Bars, *, fresh: bool) -> None:
        """Settle the bar, then decide on it if the session allows."""
        self._account = self._orders.settle(bar, self._account)
        self._settled_s, self._close = bar.last_close_s, bar.close[0]
        self._processed += 1
        row = self._stream.update(bar)
        self._recent = [*self._recent, row][-self._spec.stack_bars :]
        market = None if self._window is None else self._window.push(row)
        self._decide_if_allowed(bar, market, fresh=fresh)
        self._pulse(self._note())
        self._write_status()

    def _halt_if_books_differ(self) -> None:
        if text := self._orders.difference:
            self._feed(Fault(reason=f"the journal's account is not the broker's: {text}"))

    def _decide_if_allowed(self, bar: Bars, market: NDArray[np.float32] | None, *, fresh: bool) -> None:
        self._halt_if_books_differ()
        worth = float(self._account.equity(bar.close[0]))
        age_s = 0.0 if self._replay else self.clock.now_utc().timestamp() - bar.last_close_s
        event = BarSettled(
            drawdown=1.0 - worth / float(self._account.peak), age_s=age_s if fresh else float("inf"),
            account_agrees=not self._orders.difference,
        )  # fmt: skip
        for effect in self._feed(event):
            if isinstance(effect, Decide) and market is not None:
                self._decide(bar, market)

    def _decide(self, bar: Bars, market: NDArray[np.float32]) -> None:
        holding = self._holding
        assert holding is not None
        try:
            decision = self._decider.decide(
                market=market, ledger=self._account, close=bar.close[0], close_time_s=bar.last_close_s
            )
        except DataError as error:
            self._feed(Fault(reason=str(error)))
            return
        if self._processed % PARITY_EVERY_BARS == 1:
            again = Rederiver(holding.artifact, self._journal.bars()).decision(bar.last_close_s, self._account)
            if text := difference(decision, again):
                self._mismatches += 1
                self._feed(Fault(reason=f"parity: {text}"))
                return
        orders = plan_orders(self._account, np.array(decision.target), bar.close[0], self._rules)
        self._orders.place(decision, holding.artifact_id, orders, self._account)

    def _finish_interrupted_bar(self) -> None:
        """After a restart of a replay: decide on the newest bar if the crash came before that."""
        if not self._replay or self._journal.decision_at(self._settled_s) is not None:
            return
        if self._orders.is_past(self._settled_s):
            return  # this bar was never decided on, and the broker has settled the next one
        bars = self._journal.bars()
        self._decide_if_allowed(bars.slice(bars.n_bars - 1, bars.n_bars), self._market_now, fresh=True)

    # helpers ---------------------------------------------------------------------------------------------------

    def _load_policy(self) -> None:
        """Take up a new champion between two bars; the account goes on unchanged."""
        pointer = self.state_dir / "champion.json"
        stamp = pointer.stat().st_mtime_ns if pointer.exists() else 0
        if stamp == self._pointer_stamp_ns:
            return
        self._pointer_stamp_ns = stamp
        holding = load_holding(self.state_dir, self._spec)
        if holding is None or (self._holding is not None and holding.artifact_id == self._holding.artifact_id):
            return
        self._holding, self._decider, self._window = holding, Decider(holding.artifact), MarketWindow(holding.artifact)
        for row in self._recent:
            self._market_now = self._window.push(row)
        self._feed(PolicyLoaded())
        self.log.info("trader.policy", artifact=holding.artifact_id, champion=holding.is_champion)

    def _feed(self, event: Event) -> tuple[Any, ...]:
        self._session, effects = step(self._session, event)
        for effect in effects:
            if isinstance(effect, Latch):
                self._halt_due = effect.reason
                self._journal.halt(effect.reason)
                self.log.error("trader.halted", reason=effect.reason)
        return effects

    def _pulse(self, note: str) -> None:
        self._pulses += 1
        self.progress.beat(done=self._pulses, unit="steps", note=note)

    def _wait(self, seconds: float) -> None:
        """Until the time is over or a stop is asked for, seen alive all the while."""
        until_s = self.clock.monotonic_s() + seconds
        while not self.should_stop() and self.clock.monotonic_s() < until_s:
            self._pulse("the market does not answer")
            self._write_status()
            self.clock.sleep(min(1.0, until_s - self.clock.monotonic_s()))

    def _note(self) -> str:
        worth = float(self._account.equity(self._close))
        return f"{utc_text(self._settled_s)} equity {worth:.2f}" + (
            " HALTED" if self._session.phase is Phase.HALTED else ""
        )

    def _write_status(self, *, force: bool = False) -> None:
        now_s = self.clock.monotonic_s()
        if not force and now_s < self._status_due_s:
            return
        self._status_due_s = now_s + STATUS_EVERY_S
        counts, worth = self._journal.counts(), float(self._account.equity(self._close))
        total = (self._last_s - self._start_s) // self._spec.timeframe_s if self._replay else None
        weights = self._account.weights(self._close)
        record = {
            "schema": 1, "state": str(self._session.phase), "reason": self._session.reason,
            "artifact": None if self._holding is None else self._holding.artifact_id,
            "champion": self._holding is not None and self._holding.is_champion,
            "last_close_utc": utc_text(self._settled_s), "equity": worth, "cash": float(self._account.cash),
            "weights": {t: round(float(w), 4) for t, w in zip(self._spec.tickers, weights, strict=True)},
            "drawdown": 1.0 - worth / float(self._account.peak), "decisions": counts["decisions"],
            "fills": counts["fills"], "orders_open": counts["open"], "mismatches": self._mismatches,
            "processed_bars": self._processed, "total_bars": total, "started_with": self.config.account.initial_cash,
            "return_since_start": worth / self.config.account.initial_cash - 1.0,
        }  # fmt: skip
        try:
            write_atomic(self.state_dir / "paper" / "status.json", json.dumps(record).encode())
        except OSError as error:  # a picture for others: the journal is what counts, and it is asked next
            if not disk_full(error):
                raise


def _last_rows(bars: Bars, warmup_bars: int, n_rows: int, rows_of: Callable[[Bars], FeatureRows]) -> list[FeatureRows]:
    """The last `n_rows` feature rows of stored history, one record each."""
    rows = rows_of(bars)
    assert bars.n_bars > warmup_bars
    return [rows.slice(k, k + 1) for k in range(max(0, rows.n_rows - n_rows), rows.n_rows)]
