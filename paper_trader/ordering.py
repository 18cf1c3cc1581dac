"""The life of an order: written down, sent once, looked for when in doubt, and booked when its bar is settled.

Nothing leaves before it is durable, and nothing whose fate is open is sent again before the broker was asked for it by
its id. A bar is settled only when no order's fate is open and the broker's book is ours: until then the trader waits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from structlog.typing import FilteringBoundLogger

from features.bars import Bars
from features.ledger import Fill, Ledger, sendable_orders
from features.venue_rules import VenueRules
from paper_trader import risk
from paper_trader.brokers.base import Broker, BrokerUnavailable, Deferred, Known
from paper_trader.journal import Decided, Execution, Intent, Journal, Note
from paper_trader.orders import (
    CancelLate,
    Resend,
    after_look,
    after_post,
    called_off,
    intents,
    refused_too_often,
)  # fmt: skip
from paper_trader.reconcile import Agreed, Differs, reconcile

ACCOUNT = "paper"
RESOLVE_EVERY_S = 5.0
WATCH_S = 600.0  # an order that was given up is looked for this long after it expired
OVERLAP_S = 6 * 3600  # fills are asked for from this long before the last booked bar: a venue may tell late
CHECK_EVERY_S = 3600.0
HOUR_S, DAY_S = 3600, 86_400
POLL_S = 0.25


@dataclass(slots=True)
class Sendings:
    """When this process gave each order to the network; kept when the books are closed and opened again.

    born_s: what an earlier process sent, it sent before. UTC epoch seconds.
    """

    born_s: float
    over_s: dict[str, float] = field(default_factory=dict)

    def latest_s(self, intent: Intent) -> float:
        """The latest moment at which the order may have been sent."""
        return self.over_s.get(intent.client_order_id, max(intent.sent_s, self.born_s))


@dataclass(frozen=True, slots=True)
class _Booked:
    """Ids of the fills that the journal knows, asked for one by one: there are more every day."""

    journal: Journal

    def __contains__(self, execution_id: object) -> bool:
        return self.journal.is_booked(str(execution_id))


class OrderFlow:
    """Between one journal and one broker. `crash_point` is called after every durable step; tests die there.

    now_s: UTC epoch seconds. pause: waits that many seconds, seen alive. may_send: whether what has not arrived may be sent
    again; what is decided on now may. `difference` says how the broker's book differs from ours since it was last compared,
    "" when it does not.
    """

    def __init__(
        self, *, journal: Journal, broker: Broker, rules: VenueRules, sendings: Sendings, now_s: Callable[[], float],
        pause: Callable[[float], None], log: FilteringBoundLogger, crash_point: Callable[[str], None] = lambda _: None,
        may_send: Callable[[Intent], bool] = lambda _: True,
    ) -> None:  # fmt: skip
        self._journal, self._broker, self._crash_point, self._log = journal, broker, crash_point, log
        self._rules, self._sendings, self._now_s, self._pause, self._may_send = rules, sendings, now_s, pause, may_send
        self._not_before_s = self._resolve_due_s = 0.0
        self._check_due_s = now_s() + CHECK_EVERY_S  # opening has just looked
        self.difference = ""

    # orders ----------------------------------------------------------------------------------------------------

    def place(
        self, decided: Decided, state: risk.State, orders: Sequence[tuple[str, Decimal]], held: Ledger
    ) -> None:  # fmt: skip
        """Write down the decision, the limits' state after it and every order it calls for, then send them."""
        now_s = self._now_s()
        wanted = intents(
            sendable_orders(orders, held, self._rules, whole_lots=self._broker.traits.whole_lots), account=ACCOUNT,
            artifact=decided.artifact, close_time_s=decided.decision.close_time_s, sent_s=now_s,
            expires_s=now_s + self._broker.traits.order_life_s,
        )  # fmt: skip
        self._journal.decide(decided, state, wanted)
        self._crash_point("decided")
        sells, buys = [i for i in wanted if i.quantity < 0], [i for i in wanted if i.quantity > 0]
        self._send(sells)
        if sells and buys:
            self._await(sells)
        self._send(buys)

    def resolve(self) -> None:
        """One look at everything whose fate is open, and at what was given up lately."""
        late_s = self._broker.traits.late_s
        self._resolve_due_s = self._now_s() + RESOLVE_EVERY_S
        for intent in self._open_fates() + self._journal.intents("ABANDONED", alive_at_s=self._now_s() - WATCH_S):
            sight = self._broker.find(intent)
            sent_s = self._sendings.latest_s(intent)
            match after_look(intent, sight, now_s=self._now_s(), sent_s=sent_s, late_s=late_s):
                case Note() as note:
                    self._keep([note])
                case CancelLate(note=note):
                    self._keep([note])
                    self._broker.cancel(intent)
                case Resend() if not self._may_send(intent):
                    self._keep([called_off(intent)])
                case Resend() if self._now_s() >= self._not_before_s:
                    self._send([intent], again=True)
                case _:
                    pass

    def call_off(self) -> None:
        """Before trading goes on after a halt: what had not arrived then was perhaps why, and is not sent again."""
        self._keep([called_off(intent) for intent in self._open_fates()])

    def cancel_open(self) -> None:
        """What the venue has and has not filled yet: nobody will be there to look after it. Raises BrokerUnavailable."""
        for intent in self._still_open("INTENT", "UNKNOWN", "ACKED"):
            self._broker.cancel(intent)
            self._log.warning("order.cancelled", order=intent.client_order_id, ticker=intent.ticker)

    def tick(self) -> None:
        """Between bars: resolve, every few seconds while there is something to resolve."""
        if self._now_s() >= self._resolve_due_s:
            self.resolve()

    def rest(self) -> None:
        """Once a bar's orders are out: what the books put off until nobody waits for them. BookUnusable when damaged."""
        if self._now_s() >= self._check_due_s:
            self._check_due_s = self._now_s() + CHECK_EVERY_S
            self._journal.check()
        self._journal.fold_back()
        self._broker.rest()

    def _send(self, wanted: Sequence[Intent], *, again: bool = False) -> None:
        """One POST each, then what became of them in one transaction. What a venue has put off, and the rest, waits."""
        notes = []
        for intent in wanted:
            if self._now_s() < self._not_before_s:
                break
            self._crash_point("sending")
            outcome = self._broker.submit(intent)
            self._sendings.over_s[intent.client_order_id] = self._now_s()
            self._crash_point("submitted")
            if isinstance(outcome, Deferred):
                self._not_before_s = self._now_s() + outcome.retry_after_s
            notes.append(after_post(intent, outcome, again=again))
        if notes:
            self._keep(notes)
            self._crash_point("acknowledged")

    def _await(self, sent: Sequence[Intent]) -> None:
        """Give sells a moment to fill: what they bring pays for the buys."""
        until_s = self._now_s() + self._broker.traits.settles_s
        ids = {i.client_order_id for i in sent}
        try:
            while self._now_s() < until_s and ids & self._broker.open_orders():
                self._pause(POLL_S)
        except BrokerUnavailable:
            return  # then the buys are sent all the same; too little cash is a rejection

    def _keep(self, notes: Sequence[Note]) -> None:
        self._journal.note(notes)
        for note in notes:
            if note.state in ("UNKNOWN", "REJECTED", "ABANDONED"):
                self._log.warning("order.trouble", order=note.client_order_id, state=note.state, reason=note.reason)

    def _open_fates(self) -> list[Intent]:
        return self._journal.intents("INTENT", "UNKNOWN")

    # the account -----------------------------------------------------------------------------------------------

    def open(self, account: Ledger, bars: Bars) -> None:
        """After a start: resolve what was left and compare the books. Raises BrokerUnavailable until that is done."""
        self._resolve_all()
        self._compare(account, bars, closing=False)

    def settle(self, bar: Bars, account: Ledger, *, limited: Callable[[Ledger, Sequence[Fill]], risk.State]) -> Ledger:
        """Book the bar (one closed bar) and what filled since the one before; the account after it.

        limited: the limits' state after the account and fills given to it. Raises BrokerUnavailable before anything is written.
        """
        self._resolve_all()
        self._broker.on_bar(bar)
        self._crash_point("broker settled")
        executions = self._compare(account, bar, closing=True)
        fills = [e.fill for e in executions]
        after = account.settled(fills, bar.close[0])
        self._journal.settle(bar, executions, after, limited(after, fills))
        self._sendings.over_s.clear()
        self._crash_point("bar settled")
        return after

    def alarm(self, bar: Bars) -> str:
        """Why to halt, or "", now that `bar` has closed."""
        return refused_too_often(self._journal.refusals(since_s=bar.last_close_s - max(HOUR_S, bar.timeframe_s)))

    def is_past(self, close_time_s: int) -> bool:
        """Whether the market has moved on from this bar, so that an order of it would fill in another one."""
        at_s = self._broker.stands_at()
        return at_s is not None and at_s > close_time_s

    def _resolve_all(self) -> None:
        if self._open_fates():
            self.resolve()
        if left := self._open_fates():
            raise BrokerUnavailable(
                f"the fate of {len(left)} orders is open, {left[0].ticker} of {left[0].close_time_s} the first",
                retry_after_s=RESOLVE_EVERY_S,
            )

    def _compare(self, account: Ledger, bars: Bars, *, closing: bool) -> Sequence[Execution]:
        """What filled, once the broker's fills, positions and cash fit together; a difference that stays is said.

        closing: orders are good for one bar; what has not filled now that it closes shall not fill later.
        """
        until_s, pause_s = self._now_s() + self._broker.traits.settles_s, POLL_S
        while True:
            verdict = self._look_at_books(account, bars) if not closing or self._nothing_open() else None
            if isinstance(verdict, Agreed):
                self.difference = ""
                return verdict.executions
            if self._now_s() >= until_s:
                break
            self._pause(pause_s)
            pause_s *= 2  # each look is several requests, and a venue counts them
        if verdict is None:
            raise BrokerUnavailable("orders of the bar before are still open", retry_after_s=RESOLVE_EVERY_S)
        self.difference = verdict.text
        return verdict.executions

    def _nothing_open(self) -> bool:
        """Whether none of our orders can still fill; those that could are cancelled."""
        late = self._still_open("ACKED")
        for intent in late:
            self._broker.cancel(intent)
        return not late

    def _still_open(self, *states: str) -> list[Intent]:
        ours = self._journal.intents(*states)
        still_open = self._broker.open_orders() if ours else frozenset()
        return [i for i in ours if i.client_order_id in still_open]

    def _look_at_books(self, account: Ledger, bars: Bars) -> Agreed | Differs:
        since_s = bars.last_close_s - bars.timeframe_s - OVERLAP_S
        told = self._broker.executions(after_s=since_s, booked=_Booked(self._journal))
        # an answer may tell one twice, at the seam of two pages
        executions = {e.execution_id: e for e in told}.values()
        known = self._broker.account()
        if not isinstance(known, Known):
            raise BrokerUnavailable(f"the account is not known: {known.reason}")
        return reconcile(
            account, [e.booked_at(bars.last_close_s) for e in executions], known,
            ours=self._journal.intent_ids(since_s=since_s - DAY_S), traits=self._broker.traits,
            close_time_s=bars.last_close_s, close=bars.close[-1], adopt=self._journal.adopting(),
        )  # fmt: skip
