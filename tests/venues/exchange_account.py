"""The account behind a local venue: orders, fills and balances, booked by arithmetic of its own.

`OrderFault` says how one request to place an order goes wrong, on its way in or on its way back.
"""

import threading
from collections import deque
from dataclasses import dataclass, field
from decimal import ROUND_UP, Decimal
from enum import Enum

FEE = Decimal("0.0025")
CENT, COIN = Decimal("0.01"), Decimal("0.000000001")


class OrderFault(Enum):
    """What happens to one order. The order itself is taken unless the name says otherwise."""

    NONE = "accepted"
    LOST_504 = "504, never taken"
    LOST_HANG = "no answer, never taken"
    LOST_RESET = "connection reset, never taken"
    TAKEN_504 = "504 after it was taken"
    TAKEN_HANG = "no answer after it was taken"
    TAKEN_RESET = "connection reset after it was taken"
    TAKEN_HTML = "taken, the answer is a page"
    TAKEN_ODD = "taken with a status nobody knows"
    LATE_FIRST = "504, arrives as soon as it was looked for in vain"
    LATE_SECOND = "504, arrives after the next order"
    TOO_MANY = "429, never taken"
    POOR = "403 insufficient balance, never taken"
    PARTIAL = "taken, half of it fills"
    SLOW = "taken, fills later"


class Duplicate(Exception):
    """The client order id was used before."""


@dataclass
class Order:
    order_id: str
    client_order_id: str
    ticker: str
    quantity: Decimal
    share: Decimal = Decimal(1)  # of the quantity that will fill
    filled: Decimal = Decimal(0)
    status: str = "accepted"


@dataclass
class Trade:
    trade_id: str
    order: Order
    quantity: Decimal
    price: Decimal
    fee: Decimal  # in what was received
    at_s: float


@dataclass
class ExchangeAccount:
    """id_for_ever: whether a client order id is taken once for ever, or only while its order is open.

    window_s: an order that arrives later than this after it was sent is not taken; None: whenever it comes.
    """

    cash: Decimal
    coins: dict[str, Decimal]
    price: dict[str, Decimal]
    id_for_ever: bool = True
    window_s: float | None = None
    orders: list[Order] = field(default_factory=list)
    trades: list[Trade] = field(default_factory=list)
    faults: deque[OrderFault] = field(default_factory=deque)
    posts: int = 0
    refused: list[str] = field(default_factory=list)  # client order ids
    late: list[tuple[OrderFault, float, tuple[str, str, Decimal]]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def arrive(
        self, client_order_id: str, ticker: str, quantity: Decimal, at_s: float
    ) -> tuple[Order | None, OrderFault]:
        """An order reaches the venue. The order when it was taken, and how the answer fails. Raises Duplicate."""
        with self.lock:
            self.posts += 1
            fault = self.faults.popleft() if self.faults else OrderFault.NONE
            if fault in (OrderFault.LATE_FIRST, OrderFault.LATE_SECOND):
                self.late.append((fault, at_s, (client_order_id, ticker, quantity)))
                return None, fault
            if fault is OrderFault.POOR:
                self.refused.append(client_order_id)
            if fault in NEVER_TAKEN:
                return None, fault
            try:
                order = self.take(client_order_id, ticker, quantity, at_s, fault)
            finally:
                self.deliver(OrderFault.LATE_SECOND, at_s)
            return order, fault

    def deliver(self, kind: OrderFault | None, at_s: float) -> None:
        """Orders that were under way arrive; None: all of them."""
        due = [x for x in self.late if kind is None or x[0] is kind]
        self.late = [x for x in self.late if x not in due]
        for _, sent_s, order in due:
            if self.window_s is not None and at_s - sent_s > self.window_s:
                continue
            try:
                self.take(*order, at_s, OrderFault.NONE)
            except Duplicate:
                continue

    def take(self, client_order_id: str, ticker: str, quantity: Decimal, at_s: float, fault: OrderFault) -> Order:
        if any(
            o.client_order_id == client_order_id and (self.id_for_ever or o.status == "accepted") for o in self.orders
        ):
            raise Duplicate(client_order_id)
        order = Order(order_id=f"{len(self.orders):08d}-0000-4000-8000-000000000000", client_order_id=client_order_id,
                      ticker=ticker, quantity=quantity)  # fmt: skip
        self.orders.append(order)
        order.share = Decimal("0.5") if fault is OrderFault.PARTIAL else Decimal(1)
        if fault is not OrderFault.SLOW:
            self.fill(order, at_s)
        return order

    def fill(self, order: Order, at_s: float) -> None:
        """What fills of it fills now, in two executions; the rest is over (immediate or cancel)."""
        whole = (abs(order.quantity) * order.share).quantize(COIN)
        first = (whole / 3).quantize(COIN)
        for part in (first, whole - first):
            self._trade(order, part if order.quantity > 0 else -part, at_s)
        order.status = "filled" if order.filled == abs(order.quantity) else "canceled"

    def cancel(self, order_id: str) -> bool:
        """False when it has ended already."""
        with self.lock:
            order = self.by_order_id(order_id)
            if order is None or order.status != "accepted":
                return False
            order.status = "canceled"
            return True

    def fill_slow(self, at_s: float) -> None:
        with self.lock:
            for order in self.orders:
                if order.status == "accepted":
                    self.fill(order, at_s)

    def looked_up(self, client_order_id: str, at_s: float) -> Order | None:
        """As the venue answers; what was under way arrives right after a search in vain."""
        order = self.by_client_id(client_order_id)
        if order is None:
            self.deliver(OrderFault.LATE_FIRST, at_s)
        return order

    def by_client_id(self, client_order_id: str) -> Order | None:
        """The newest of that name."""
        return next((o for o in reversed(self.orders) if o.client_order_id == client_order_id), None)

    def by_order_id(self, order_id: str) -> Order | None:
        return next((o for o in self.orders if o.order_id == order_id), None)

    def _trade(self, order: Order, quantity: Decimal, at_s: float) -> None:
        price = self.price[order.ticker]
        if quantity > 0:
            fee = (quantity * FEE).quantize(COIN, rounding=ROUND_UP)
            self.cash -= quantity * price
            self.coins[order.ticker] += quantity - fee
        else:
            fee = -quantity * price * FEE
            self.cash += -quantity * price - fee
            self.coins[order.ticker] += quantity
        order.filled += abs(quantity)
        self.trades.append(
            Trade(trade_id=f"{len(self.trades):020d}", order=order, quantity=quantity, price=price, fee=fee, at_s=at_s)
        )


NEVER_TAKEN = frozenset({
    OrderFault.LOST_504, OrderFault.LOST_HANG, OrderFault.LOST_RESET, OrderFault.TOO_MANY, OrderFault.POOR,
})  # fmt: skip
