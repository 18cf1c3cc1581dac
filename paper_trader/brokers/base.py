"""The port to a broker."""

from collections.abc import Sequence
from typing import Protocol

from features.bars import Bars
from features.ledger import Ledger
from paper_trader.journal import Execution, Intent


class Broker(Protocol):
    """Takes each client order id once, however often it is sent, and tells what became of it."""

    def submit(self, intent: Intent) -> None:
        """Accept the order, or do nothing when this client order id is already known. Raises when it is refused."""
        ...

    def executions(self, bar: Bars) -> Sequence[Execution]:
        """What filled at the open of `bar` (one closed bar). Asked again, the answer is the same."""
        ...

    def account(self) -> Ledger:
        """The broker's own book: the truth about positions."""
        ...
