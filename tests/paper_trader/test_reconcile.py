"""Position truth is the broker's, and ours must be its fills less its fees."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from features.errors import DataError
from features.ledger import Fill, Ledger
from paper_trader.brokers.base import Known, Traits
from paper_trader.journal import Execution
from paper_trader.reconcile import Agreed, Differs, reconcile

TRAITS = Traits(
    order_life_s=300.0, late_s=0.0, settles_s=5.0, cash_unit=Decimal("0.01"), coin_unit=Decimal("1e-9"), whole_lots=True
)  # fmt: skip
ACCOUNT = Ledger(
    tickers=("BTC", "ETH"), cash=Decimal(1000), quantity=(Decimal(0), Decimal(2)), peak=Decimal(5000),
    bars_since_trade=7,
)  # fmt: skip
CLOSE = np.array([40000.0, 2000.0])


def bought(quantity: str = "0.01", *, order: str = "ours", execution: str = "1") -> Execution:
    q = Decimal(quantity)
    fill = Fill(
        ticker="BTC", close_time_s=0, quantity=q, price=Decimal(40000), fee_quote=Decimal(0), fee_base=q / 400
    )  # fmt: skip
    return Execution(execution_id=execution, client_order_id=order, fill=fill)


def compared(known: Known, *executions: Execution, adopt: bool = False) -> Agreed | Differs:
    return reconcile(
        ACCOUNT, executions, known, ours={"ours"}, traits=TRAITS, close_time_s=3600, close=CLOSE, adopt=adopt
    )  # fmt: skip


def held(cash: str = "600", btc: str = "0.009975", eth: str = "2") -> Known:
    return Known(cash=Decimal(cash), quantity={"BTC": Decimal(btc), "ETH": Decimal(eth)})


def test_fills_less_fees_are_what_is_held() -> None:
    """0.01 BTC bought at 40000 for 400 of 1000; the fee of 25 bp in the coin leaves 0.009975."""
    assert compared(held(), bought()) == Agreed(executions=(bought(),))


def test_what_rounding_took_is_booked_and_then_both_are_equal_to_the_last_digit() -> None:
    known = held(cash="599.99", btc="0.009974999", eth="1.999999999")
    verdict = compared(known, bought())
    assert isinstance(verdict, Agreed)
    after = ACCOUNT.book([e.fill for e in verdict.executions])
    assert (after.cash, *after.quantity) == (known.cash, known.quantity["BTC"], known.quantity["ETH"])
    assert len({e.execution_id for e in verdict.executions}) == len(verdict.executions)


@pytest.mark.parametrize(
    ("known", "named"),
    [
        (held(btc="0.01"), "BTC"),  # another fee than ours
        (held(btc="0.009974"), "BTC"),
        (held(eth="1.9"), "ETH"),  # somebody sold by hand, or withdrew
        (held(eth="2.000000002"), "ETH"),  # nothing filled: one unit, not two
        (held(cash="590"), "cash"),
        (held(cash="10600"), "cash"),  # somebody paid in
    ],
)  # fmt: skip
def test_a_difference_beyond_one_unit_per_fill_is_named(known: Known, named: str) -> None:
    verdict = compared(known, bought())
    assert isinstance(verdict, Differs) and named in verdict.text
    assert verdict.executions == (bought(),)  # our own fill is booked all the same


def test_one_unit_per_fill_and_one_more_are_put_right_and_not_one_beyond() -> None:
    """One fill of BTC and none of ETH: two units of BTC, one of ETH; two cents of cash."""
    for known, agrees in [
        (held(btc="0.009974998"), True), (held(btc="0.009974997"), False), (held(eth="2.000000001"), True),
        (held(eth="1.999999999"), True), (held(cash="600.02"), True), (held(cash="599.98"), True),
        (held(cash="600.03"), False), (held(cash="599.97"), False),
    ]:  # fmt: skip
        assert isinstance(compared(known, bought()), Agreed) is agrees, known


def test_fills_of_ours_that_leave_less_than_nothing_are_not_booked() -> None:
    verdict = compared(held(cash="-39000", btc="0.9975"), bought("1"))
    assert isinstance(verdict, Differs) and "overdraw" in verdict.text and verdict.executions == ()


def moved(cash: str) -> Fill:
    """Cash that an operator has looked at: paid out where it is positive."""
    zero = Decimal(0)
    return Fill(
        ticker="BTC", close_time_s=0, quantity=zero, price=Decimal(40000), fee_quote=Decimal(cash), fee_base=zero
    )


@pytest.mark.parametrize(("paid_out", "peak"), [("500", "5625"), ("-5000", "12500"), ("0", "6250")])
def test_what_is_paid_in_or_out_leaves_the_drawdown_that_the_policy_sees_as_it_was(paid_out: str, peak: str) -> None:
    """5000 under a peak of 6250, of which 500 are paid out, or to which 5000 come: a fifth below it before and after."""
    after = replace(ACCOUNT, peak=Decimal(6250)).settled([moved(paid_out)], CLOSE)
    assert after.peak == Decimal(peak) and 1 - after.equity(CLOSE) / after.peak == Decimal("0.2")
    assert after.bars_since_trade == 1


def test_what_trading_gains_and_loses_is_no_payment() -> None:
    fell = ACCOUNT.settled([bought("0.01").fill], np.array([40000.0, 1000.0]))
    assert fell.peak == ACCOUNT.peak and fell.equity(np.array([40000.0, 1000.0])) < 3000
    for fills in ([], [bought("0.01").fill]):  # to the digit what training books
        assert ACCOUNT.settled(fills, CLOSE) == ACCOUNT.book(fills).marked(CLOSE)
    assert ACCOUNT.settled([], np.array([40000.0, 3000.0])).peak == 7000
    with pytest.raises(DataError, match="overdraw"):
        ACCOUNT.settled([bought("1").fill], CLOSE)


def test_an_account_that_had_nothing_takes_money_in() -> None:
    nothing = replace(ACCOUNT, cash=Decimal(0), quantity=(Decimal(0), Decimal(0)))
    assert nothing.settled([moved("-1000")], CLOSE).equity(CLOSE) == 1000


def test_a_fill_that_no_order_of_ours_explains_is_named_and_not_booked() -> None:
    stranger = bought("0.005", order="by hand", execution="2")
    verdict = compared(held(cash="400", btc="0.0149625"), bought(), stranger)
    assert isinstance(verdict, Differs)
    assert "0.005 BTC at 40000 that no order of ours explains" in verdict.text
    assert verdict.executions == (bought(),)


def test_what_an_operator_has_looked_at_is_taken_over() -> None:
    known = held(cash="10400.00", btc="0.0149625", eth="1")
    verdict = compared(known, bought(), bought("0.005", order="by hand", execution="2"), adopt=True)
    assert isinstance(verdict, Agreed)
    after = ACCOUNT.book([e.fill for e in verdict.executions])
    assert (after.cash, *after.quantity) == (known.cash, known.quantity["BTC"], known.quantity["ETH"])


def test_a_buy_is_booked_also_where_the_sell_that_paid_for_it_is_told_after_it() -> None:
    buy = bought("0.05")
    fill = Fill(
        ticker="ETH", close_time_s=0, quantity=Decimal(-1), price=Decimal(2000), fee_quote=Decimal(0), fee_base=Decimal(0)
    )  # fmt: skip
    sell = Execution(execution_id="2", client_order_id="ours", fill=fill)
    known = held(cash="1000", btc="0.049875", eth="1")
    assert compared(known, buy, sell) == Agreed(executions=(buy, sell))


def test_an_account_is_taken_over_whatever_its_fills_alone_would_leave() -> None:
    """Somebody paid 5000 in and bought for 4000 of it: our books never had that much."""
    known = held(cash="2000", btc="0.09975", eth="2")
    by_hand = bought("0.1", order="by hand", execution="2")
    verdict = compared(known, by_hand, adopt=True)
    assert isinstance(verdict, Agreed)
    after = ACCOUNT.book([e.fill for e in verdict.executions])
    assert (after.cash, *after.quantity) == (known.cash, known.quantity["BTC"], known.quantity["ETH"])
