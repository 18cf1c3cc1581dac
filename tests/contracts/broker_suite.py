"""What every broker promises, whatever account it stands for: an adapter's tests inherit this suite."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from order_world import BARS, OPENED_S

from paper_trader.brokers.base import Absent, Accepted, Broker, Found, Known, Rejected
from paper_trader.journal import Intent
from paper_trader.orders import client_order_id


def intent(ticker: str, quantity: str, *, artifact: str = "a") -> Intent:
    name = client_order_id(account="paper", artifact=artifact, ticker=ticker, close_time_s=OPENED_S)
    return Intent(
        client_order_id=name, ticker=ticker, close_time_s=OPENED_S, quantity=Decimal(quantity), sent_s=OPENED_S,
        expires_s=OPENED_S + 300.0,
    )  # fmt: skip


class BrokerSuite:
    """`given` is a broker that holds cash and ETH but no BTC, at BARS[0]; `fill` lets its market move to BARS[1]."""

    @pytest.fixture
    def given(self, tmp_path: Any) -> Any:
        raise NotImplementedError

    @pytest.fixture
    def fill(self, given: Broker) -> Callable[[], None]:
        return lambda: given.on_bar(BARS.slice(1, 2))

    def known(self, broker: Broker) -> Known:
        account = broker.account()
        assert isinstance(account, Known)
        return account

    def test_an_order_is_accepted_and_then_found_under_the_same_name(self, given):
        outcome = given.submit(intent("BTC", "0.02"))
        assert isinstance(outcome, Accepted)
        assert given.find(intent("BTC", "0.02")) == Found(order_id=outcome.order_id)

    def test_an_order_that_was_never_sent_is_absent(self, given):
        assert given.find(intent("BTC", "0.02")) == Absent()

    def test_the_account_holds_every_ticker_by_name_zero_included(self, given):
        known = self.known(given)
        assert known.cash > 0 and known.quantity["ETH"] > 0 and known.quantity["BTC"] == 0
        assert set(known.quantity) == set(BARS.tickers)

    def test_a_buy_moves_cash_and_coins_by_what_its_fills_say_and_nothing_else(self, given, fill):
        before = self.known(given)
        given.submit(intent("BTC", "0.02"))
        fill()
        fills = [e.fill for e in given.executions(after_s=OPENED_S - 1, booked=())]
        after, traits = self.known(given), given.traits
        assert {f.ticker for f in fills} == {"BTC"} and sum(f.quantity for f in fills) == Decimal("0.02")
        spent = sum(f.quantity * f.price + f.fee_quote for f in fills)
        received = sum(f.quantity - f.fee_base for f in fills)
        assert received < Decimal("0.02")  # the fee is taken in the coin received
        assert abs(before.cash - spent - after.cash) <= traits.cash_unit * len(fills)
        assert abs(after.quantity["BTC"] - received) <= traits.coin_unit * len(fills)
        assert after.quantity["ETH"] == before.quantity["ETH"]

    def test_a_sell_of_all_that_is_held_leaves_none(self, given, fill):
        held = self.known(given).quantity["ETH"]
        given.submit(intent("ETH", f"-{held}"))
        fill()
        assert self.known(given).quantity["ETH"] == 0

    def test_every_fill_names_the_order_it_belongs_to_and_has_an_id_of_its_own(self, given, fill):
        sent = [intent("BTC", "0.02"), intent("ETH", "-1")]
        for one in sent:
            given.submit(one)
        fill()
        found = given.executions(after_s=OPENED_S - 1, booked=())
        assert {e.client_order_id for e in found} == {i.client_order_id for i in sent}
        assert len({e.execution_id for e in found}) == len(found)
        assert found == given.executions(after_s=OPENED_S - 1, booked=())  # asked again, the same

    def test_fills_that_are_booked_are_left_out(self, given, fill):
        given.submit(intent("BTC", "0.02"))
        fill()
        found = given.executions(after_s=OPENED_S - 1, booked=())
        first = {found[0].execution_id}
        assert given.executions(after_s=OPENED_S - 1, booked=first) == found[1:]
        assert not given.executions(after_s=OPENED_S + 7200, booked=())

    def test_sending_an_open_order_again_makes_no_second_one(self, given, fill, slow):
        one = intent("BTC", "0.02")
        slow()
        given.submit(one)
        given.submit(one)
        fill()
        assert sum(e.fill.quantity for e in given.executions(after_s=OPENED_S - 1, booked=())) == Decimal("0.02")

    def test_a_ticker_without_a_market_is_rejected_with_a_reason(self, given):
        outcome = given.submit(replace(intent("BTC", "0.02"), ticker="DOGE"))
        assert isinstance(outcome, Rejected) and outcome.reason

    def test_a_cancelled_order_is_not_open_and_never_fills(self, given, fill, slow):
        one = intent("BTC", "0.02")
        slow()
        accepted = given.submit(one)
        assert isinstance(accepted, Accepted)
        one = replace(one, order_id=accepted.order_id)
        assert given.open_orders() == {one.client_order_id}
        given.cancel(one)
        given.cancel(one)  # that it has ended already is no error
        assert given.open_orders() == frozenset()
        fill()
        assert not given.executions(after_s=OPENED_S - 1, booked=())

    def test_a_broker_opened_anew_knows_what_the_one_before_did(self, given, fill, reopened):
        given.submit(intent("BTC", "0.02"))
        fill()
        other = reopened()
        assert isinstance(other.find(intent("BTC", "0.02")), Found)
        assert other.executions(after_s=OPENED_S - 1, booked=()) == given.executions(after_s=OPENED_S - 1, booked=())
        assert other.account() == given.account()
