"""The port to a broker: typed outcomes, because "it raised" does not say whether an order exists.

An order's fate is known when the broker said so. Everything else is `Unknown`, and is asked for by the client's own
order id before anything is sent again.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from features.bars import Bars
from features.errors import CappuccinoError
from paper_trader.journal import Execution, Intent

ORDER_LIFE_S = 300.0  # a decision on an hourly bar is worth little more than its first minutes


class BrokerUnavailable(CappuccinoError):
    """The broker gave no usable answer for now. Nothing was booked: the same step is tried again later.

    retry_after_s: how long to stay away, None when the broker did not say.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The broker has the order. order_id: its own name for it."""

    order_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The broker said that it does not and will not have this order."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """The broker does not have the order and would take it later (429). retry_after_s: when."""

    reason: str
    retry_after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """No answer, or none that says what is."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """There is such an order. order_id: the broker's own name for it."""

    order_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """The broker knows no such order; it may still be under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the account holds now: cash in quote currency, and the quantity of every ticker, zero included."""

    cash: Decimal
    quantity: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """What it held `age_s` seconds ago; the question could not be answered now. To be shown, never to be traded on."""

    known: Known
    age_s: float
    reason: str


Outcome = Accepted | Rejected | Deferred | Unknown
Sight = Found | Absent | Unknown
Knowledge = Known | Stale | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """How a broker behaves.

    order_life_s: an order that was not accepted within this time of its decision is given up. late_s: for how long
    after it was sent an order that cannot be found may still arrive *and* sending it again could make two; 0 where a
    client order id is taken once for ever. settles_s: how long fills, positions and cash may lag behind each other.
    cash_unit, coin_unit: what one fill may be off by rounding. whole_lots: orders of anything else are refused, so that the
    dust which fees in coins leave cannot be sold.
    """

    order_life_s: float
    late_s: float
    settles_s: float
    cash_unit: Decimal
    coin_unit: Decimal
    whole_lots: bool


class Broker(Protocol):
    """Takes each client order id once, however often it is sent, and tells what became of it.

    Every method may raise ConfigurationError: the credentials are refused. Nothing here repeats a request by itself.
    """

    @property
    def traits(self) -> Traits: ...

    def submit(self, intent: Intent) -> Outcome:
        """Send the order, once."""
        ...

    def find(self, intent: Intent) -> Sight:
        """Look for the order by its client order id."""
        ...

    def cancel(self, intent: Intent) -> None:
        """Ask for the end of an accepted order; that it has ended already is no error. Raises BrokerUnavailable."""
        ...

    def open_orders(self) -> frozenset[str]:
        """Client order ids of all orders that may still fill, ours or not. Raises BrokerUnavailable."""
        ...

    def executions(self, *, after_s: int, booked: Container[str]) -> Sequence[Execution]:
        """Fills of the account's tickers executed after `after_s` (UTC epoch seconds), oldest first.

        Those whose execution id is `booked` are left out. Raises BrokerUnavailable.
        """
        ...

    def account(self) -> Knowledge:
        """The broker's own book: the truth about positions."""
        ...

    def on_bar(self, bar: Bars) -> None:
        """A bar closed (one bar). An embedded market fills at its open, once; a venue's has moved by itself."""
        ...

    def rest(self) -> None:
        """The bar's orders are out, and nothing waits: time for what was put off."""
        ...

    def stands_at(self) -> int | None:
        """Close time of the last bar that an embedded market has filled; None where the market is not ours."""
        ...
