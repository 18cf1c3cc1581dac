"""Our account against the broker's, pure: position truth is the broker's, and ours must be its fills less its fees."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from features.errors import DataError
from features.ledger import Fill, Ledger
from paper_trader.brokers.base import Known, Traits
from paper_trader.journal import Execution


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """To be booked: the fills, and what rounding at the broker made of them as fills of no quantity."""

    executions: tuple[Execution, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Differs:
    """In words: what there is that no order of ours explains, or which balance is off. To be booked: our own fills."""

    text: str
    executions: tuple[Execution, ...]


def reconcile(
    account: Ledger, executions: Sequence[Execution], known: Known, *, ours: Collection[str], traits: Traits,
    close_time_s: int, close: NDArray[np.float64], adopt: bool,
) -> Agreed | Differs:  # fmt: skip
    """Whether `account` with the new `executions` is what the broker holds.

    ours: client order ids that may have filled. A balance may be off by one unit per fill and one more, and is then put
    right; adopt (an operator has looked): by anything. close (N,): values what is put right.
    """
    own = tuple(e for e in executions if adopt or e.client_order_id in ours)
    fills = [e.fill for e in own]
    try:
        expected = account.after(fills) if adopt else account.book(fills)
    except DataError as error:
        return Differs(text=str(error), executions=())
    for stranger in (e for e in executions if e not in own):
        f = stranger.fill
        text = f"a fill of {f.quantity} {f.ticker} at {f.price} that no order of ours explains"
        return Differs(text=text, executions=own)
    fixes = []
    for i, ticker in enumerate(account.tickers):
        coins = expected.quantity[i] - known.quantity[ticker]
        cash = expected.cash - known.cash if i == 0 else Decimal(0)
        n_fills = sum(e.fill.ticker == ticker for e in own)
        text = ""
        if abs(coins) > traits.coin_unit * (n_fills + 1):
            text = f"the broker holds {known.quantity[ticker]} {ticker}, our fills make {expected.quantity[i]}"
        elif abs(cash) > traits.cash_unit * (len(own) + 1):
            text = f"the broker holds {known.cash} in cash, our fills make {expected.cash}"
        if text and not adopt:
            return Differs(text=text, executions=own)
        if coins or cash:
            fixes.append(_fix(ticker, close_time_s, float(close[i]), coins=coins, cash=cash))
    return Agreed(executions=(*own, *fixes))


def _fix(ticker: str, close_time_s: int, price: float, *, coins: Decimal, cash: Decimal) -> Execution:
    """A fill of no quantity whose fees are what our account has too much of."""
    fill = Fill(
        ticker=ticker, close_time_s=close_time_s, quantity=Decimal(0), price=Decimal(repr(price)), fee_quote=cash,
        fee_base=coins,
    )  # fmt: skip
    return Execution(execution_id=f"rounding::{close_time_s}::{ticker}", client_order_id="", fill=fill)
