"""One account booked exactly: fills in Decimal, the same arithmetic that the array functions do in float64.

Evaluation and paper trading both run on this ledger, so their accounts agree to the last digit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_UP, Context, Decimal, localcontext
from typing import Self

import numpy as np
from numpy.typing import NDArray

from features.account import Filled, fill_trades
from features.allocation import Lots, plan_trades
from features.bars import Bars
from features.costs import Costs
from features.errors import DataError
from features.observation import account_block
from features.venue_rules import VenueRules

QUOTE_UNIT = Decimal("0.00000001")  # fees are rounded up to it, as venues do
BASE_UNIT = Decimal("0.000000001")  # Alpaca's nine decimals
EXACT = Context(prec=200)  # a float has 17 digits, so quantity x price x fee, and sums over years, fit without rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """One executed trade. quantity is signed base units; fees are charged beside it, never inside the price."""

    ticker: str
    close_time_s: int
    quantity: Decimal
    price: Decimal
    fee_quote: Decimal
    fee_base: Decimal

    @property
    def notional(self) -> Decimal:
        return abs(self.quantity) * self.price

    @property
    def fee_value(self) -> Decimal:
        """Both fees in quote currency at the fill price."""
        return self.fee_quote + self.fee_base * self.price


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Cash in quote currency, quantity per ticker, and what the observation needs of the past."""

    tickers: tuple[str, ...]
    cash: Decimal
    quantity: tuple[Decimal, ...]
    peak: Decimal
    bars_since_trade: int
    fees: Decimal = Decimal(0)
    turnover: Decimal = Decimal(0)

    @classmethod
    def opened(cls, tickers: Sequence[str], cash: float) -> Self:
        start = Decimal(repr(cash))
        if not start.is_finite() or start <= 0:
            raise DataError(f"an account needs positive cash, got {cash}")
        zero = Decimal(0)
        return cls(tickers=tuple(tickers), cash=start, quantity=(zero,) * len(tickers), peak=start, bars_since_trade=0)

    def book(self, fills: Sequence[Fill]) -> Self:
        """After `fills` of one bar, without any rounding; DataError where they leave a negative balance.

        What they leave counts and not the order they are told in: a venue's sell may be told after the buy it paid for.
        """
        after = self.after(fills)
        left = {"cash": after.cash, **dict(zip(after.tickers, after.quantity, strict=True))}
        if below := [f"{held} {name}" for name, held in left.items() if held < 0]:
            raise DataError(f"{len(fills)} fill(s) overdraw the account: {', '.join(below)} would be left")
        return after

    def after(self, fills: Sequence[Fill]) -> Self:
        """`book`, whatever is left."""
        cash, quantity = self.cash, list(self.quantity)
        with localcontext(EXACT):
            for fill in fills:
                i = self.tickers.index(fill.ticker)
                cash -= fill.quantity * fill.price + fill.fee_quote
                quantity[i] += fill.quantity - fill.fee_base
            return replace(
                self, cash=cash, quantity=tuple(quantity),
                bars_since_trade=0 if fills else self.bars_since_trade,
                fees=self.fees + sum((f.fee_value for f in fills), Decimal(0)),
                turnover=self.turnover + sum((f.notional for f in fills), Decimal(0)),
            )  # fmt: skip

    def marked(self, close: NDArray[np.float64]) -> Self:
        """One bar later: the peak follows the equity at `close` (N,), the time since the last trade counts on."""
        return self.valued(close)[0]

    def settled(self, fills: Sequence[Fill], close: NDArray[np.float64]) -> Self:
        """`book` and `marked`. The peak goes along with what was paid in or out: the drawdown is about trading.

        Of an account that nothing is paid into, as in training, it is the two and no more.
        """
        after, paid = self.book(fills), paid_in(fills)
        worth = after.equity(close)
        if paid and worth > max(Decimal(0), paid):
            after = replace(after, peak=after.peak * worth / (worth - paid))
        return after.marked(close)

    def valued(self, close: NDArray[np.float64]) -> tuple[Self, Decimal]:
        """`marked`, and the equity then."""
        worth = self.equity(close)
        return replace(self, peak=max(self.peak, worth), bars_since_trade=self.bars_since_trade + 1), worth

    def equity(self, close: NDArray[np.float64]) -> Decimal:
        return self.cash + sum(
            (q * Decimal(repr(float(p))) for q, p in zip(self.quantity, close, strict=True)), Decimal(0)
        )

    def cash_array(self) -> NDArray[np.float64]:
        return np.array(float(self.cash))

    def quantity_array(self) -> NDArray[np.float64]:
        return np.array([float(q) for q in self.quantity])

    def weights(self, close: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) asset weights at `close`; zeros of an account that holds nothing at all."""
        value = self.quantity_array() * close
        weights: NDArray[np.float64] = value / (float(self.cash) + value.sum() or 1.0)
        return weights

    def observed(self, close: NDArray[np.float64]) -> NDArray[np.float32]:
        """The account half of the observation, (N + 3,) float32."""
        seen: NDArray[np.float32] = observed((self,), close)[0]
        return seen


def paid_in(fills: Sequence[Fill]) -> Decimal:
    """What was put right by fills of no quantity, in quote currency; negative: paid out. No gain and no loss."""
    return -sum((f.fee_value for f in fills if not f.quantity), Decimal(0))


def observed(ledgers: Sequence[Ledger], close: NDArray[np.float64]) -> NDArray[np.float32]:
    """(B, N + 3): the account half of the observation of several accounts at one close (N,)."""
    block: NDArray[np.float32] = account_block(
        cash=np.array([float(each.cash) for each in ledgers]),
        quantity=np.array([each.quantity_array() for each in ledgers]), price=close,
        peak=np.array([float(each.peak) for each in ledgers]),
        bars_since_trade=np.array([float(each.bars_since_trade) for each in ledgers]),
    )  # fmt: skip
    return block


def plan_orders(
    ledger: Ledger, target: NDArray[np.float64], close: NDArray[np.float64], rules: VenueRules
) -> tuple[tuple[str, Decimal], ...]:
    """(ticker, signed quantity) for every trade that moves the account towards `target` (N,), in whole lots."""
    lot, min_notional = rules.arrays(ledger.tickers)
    value = ledger.quantity_array() * close
    delta = plan_trades(
        target=target, value=value, equity=ledger.cash_array() + value.sum(), quantity=ledger.quantity_array(),
        price=close, lots=Lots.of(lot), min_notional=min_notional,
    )  # fmt: skip
    return tuple(
        (ticker, _in_lots(float(d), rules.rule(ticker).lot_decimal))
        for ticker, d in zip(ledger.tickers, delta, strict=True)
        if d != 0.0
    )


def sendable_orders(
    orders: Sequence[tuple[str, Decimal]], held: Ledger, rules: VenueRules, *, whole_lots: bool
) -> tuple[tuple[str, Decimal], ...]:
    """What of `orders` can be sent: sells of no more than is held, and none of nothing.

    whole_lots: towards zero to multiples of the lot, for venues that refuse anything else; what fees in coins have left
    over is dust that stays.
    """
    found = []
    for ticker, quantity in orders:
        sent, lot = (
            max(quantity, held.quantity[held.tickers.index(ticker)].copy_negate()),
            rules.rule(ticker).lot_decimal,
        )
        found.append((ticker, sent // lot * lot if whole_lots and lot else sent))
    return tuple((t, q) for t, q in found if q)


def simulate_fills(
    ledger: Ledger, orders: Sequence[tuple[str, Decimal]], bar: Bars, costs: Costs, rules: VenueRules
) -> tuple[Fill, ...]:
    """What `orders` become at the open of `bar` (one bar, the one after the decision)."""
    wanted = dict(orders)
    if len(wanted) != len(orders):
        raise DataError("two orders for one ticker in one bar")
    lot, _ = rules.arrays(ledger.tickers)
    rounding = QUOTE_UNIT * len(ledger.tickers)  # what rounding every fee up may take beside the buys
    filled = fill_trades(
        delta=np.array([float(wanted.get(t, 0)) for t in ledger.tickers]),
        cash=np.array(float(ledger.cash - rounding)), quantity=ledger.quantity_array(),
        open_price=bar.open[0], volume=bar.volume[0],
        tradable=~bar.filled[0], lots=Lots.of(lot), fee=costs.fee, price_impact=costs.price_impact,
        fee_in_received=costs.fee_in == "received", max_volume_share=costs.max_volume_share,
    )  # fmt: skip
    # sells first: their proceeds pay for the buys
    order = np.argsort(filled.quantity, kind="stable")
    return tuple(_fill(ledger, filled, int(i), bar, costs, rules) for i in order if filled.quantity[i] != 0.0)


def _fill(ledger: Ledger, filled: Filled, i: int, bar: Bars, costs: Costs, rules: VenueRules) -> Fill:
    ticker = ledger.tickers[i]
    # all of a holding, as a float, may be half a unit in the last place more than all of it
    all_held = ledger.quantity[i].copy_negate()
    quantity = max(_in_lots(float(filled.quantity[i]), rules.rule(ticker).lot_decimal), all_held)
    price = Decimal(repr(float(filled.price[i])))
    in_base = costs.fee_in == "received" and quantity > 0
    fee_quote, fee_base = fees(quantity, price, rate=Decimal(repr(costs.fee)), in_base=in_base)
    return Fill(
        ticker=ticker, close_time_s=bar.last_close_s, quantity=quantity, price=price, fee_quote=fee_quote,
        fee_base=fee_base,
    )  # fmt: skip


def fees(quantity: Decimal, price: Decimal, *, rate: Decimal, in_base: bool) -> tuple[Decimal, Decimal]:
    """(fee in quote currency, fee in base units) of one trade; rate: fraction of what is traded.

    Rounded up, but never more than is received: a sale of dust costs no cash, a buy of dust no coins.
    """
    with localcontext(EXACT):
        coins = abs(quantity)
        if in_base:
            return Decimal(0), min(coins, (coins * rate).quantize(BASE_UNIT, rounding=ROUND_UP))
        notional = coins * price
        return min(notional, (notional * rate).quantize(QUOTE_UNIT, rounding=ROUND_UP)), Decimal(0)


def _in_lots(quantity: float, lot: Decimal) -> Decimal:
    return Decimal(repr(quantity)) if lot == 0 else round(Decimal(repr(quantity)) / lot) * lot
