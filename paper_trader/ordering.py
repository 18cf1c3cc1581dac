"""The life of an order: written down, sent, confirmed, and booked when its bar is settled."""

from collections.abc import Callable, Sequence
from decimal import Decimal

from features.bars import Bars
from features.ledger import Fill, Ledger
from paper_trader import risk
from paper_trader.brokers.base import Broker
from paper_trader.journal import Decided, Journal
from paper_trader.orders import intents

ACCOUNT = "paper"


class OrderFlow:
    """Between one journal and one broker. `crash_point` is called after every durable step; tests die there."""

    def __init__(self, *, journal: Journal, broker: Broker, crash_point: Callable[[str], None]) -> None:
        self._journal, self._broker, self._crash_point = journal, broker, crash_point

    def settle(self, bar: Bars, account: Ledger, *, limited: Callable[[Ledger, Sequence[Fill]], risk.State]) -> Ledger:
        """Book the bar (one closed bar) and what filled since the one before; the account after it.

        limited: the limits' state after the account and the fills it is given.
        """
        executions = self._broker.executions(bar)
        self._crash_point("broker settled")
        fills = [e.fill for e in executions]
        after = account.book(fills).marked(bar.close[0])
        self._journal.settle(bar, executions, after, limited(after, fills))
        self._crash_point("bar settled")
        return after

    def place(self, decided: Decided, state: risk.State, orders: Sequence[tuple[str, Decimal]]) -> None:
        """Write down the decision and every order it calls for, then send them."""
        close_time_s = decided.decision.close_time_s
        wanted = intents(orders, account=ACCOUNT, artifact=decided.artifact, close_time_s=close_time_s)
        self._journal.decide(decided, state, wanted)
        self._crash_point("decided")
        self.send()

    def send(self) -> None:
        """Send every intent that was not confirmed; the broker knows an id it has seen."""
        unsent = self._journal.unsent()
        for intent in unsent:
            self._broker.submit(intent)
            self._crash_point("submitted")
        if unsent:
            self._journal.acknowledge([i.client_order_id for i in unsent])
            self._crash_point("acknowledged")

    def agree(self, account: Ledger) -> bool:
        """Whether the broker's book is ours."""
        return self._broker.account() == account
