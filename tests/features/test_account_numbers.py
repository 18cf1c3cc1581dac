"""Allocation, fills and books, number by number, by hand."""

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from world import random_bars

from features.account import fill_trades, settle, worth
from features.allocation import Limits, Lots, limit_weights, plan_trades, target_weights
from features.costs import Costs
from features.errors import ConfigurationError, DataError
from features.ledger import Fill, Ledger, fees, observed, plan_orders, sendable_orders, simulate_fills
from features.observation import SINCE_TRADE_CAP_BARS
from features.venue_rules import VenueRules

TICKERS = ("BTC", "ETH", "LTC")
FREE = Limits(min_cash_reserve=0.0, max_weight=1.0, no_trade_band=0.0)
WHOLE = Lots.of(np.array([1.0, 1.0]))


def raw(*aim: float, speed: float) -> np.ndarray:
    """The output that aims at these asset weights, the rest in cash."""
    return np.array([*map(math.log, (*aim, 1.0 - sum(aim))), speed])


def test_half_of_the_way_is_gone_where_the_speed_is_zero_and_all_of_it_where_it_is_great() -> None:
    aim, held = (0.5, 0.2), np.array([0.1, 0.4])
    assert target_weights(raw(*aim, speed=0.0), held, FREE) == pytest.approx([0.3, 0.3])
    assert target_weights(raw(*aim, speed=math.log(3)), held, FREE) == pytest.approx([0.4, 0.25])  # three quarters
    assert target_weights(raw(*aim, speed=60.0), held, FREE) == pytest.approx(aim)
    for slow in (-60.0, -1e9):
        assert target_weights(raw(*aim, speed=slow), held, FREE) == pytest.approx(held)
    assert target_weights(raw(*aim, speed=-10.0), held, FREE)[0] == pytest.approx(
        0.1 + 0.4 / (1 + math.exp(10)), rel=1e-9
    )
    assert target_weights(raw(*aim, speed=0.0) + 900.0 * np.array([1, 1, 1, 0]), held, FREE) == pytest.approx(
        [0.3, 0.3]
    )


def test_the_band_is_about_how_far_the_aim_is_and_not_about_the_step() -> None:
    banded = replace(FREE, no_trade_band=0.125)
    still = target_weights(raw(0.24, 0.26, speed=0.0), np.array([0.36, 0.14]), banded)
    assert still.tolist() == [0.36, 0.14]
    moved = target_weights(raw(0.24, 0.26, speed=0.0), np.array([0.37, 0.13]), banded)
    assert moved == pytest.approx([0.305, 0.195])  # 0.13 away, a step of 0.065
    just = target_weights(np.array([0.0, 0.0, 60.0]), np.array([0.375]), banded)  # half, an eighth away
    assert just == pytest.approx([0.5])


def test_what_the_cap_and_the_reserve_cut_off_stays_in_cash() -> None:
    capped = Limits(min_cash_reserve=0.25, max_weight=0.5, no_trade_band=0.0)
    assert limit_weights(np.array([0.75, 0.125]), capped).tolist() == [0.5, 0.125]
    assert limit_weights(np.array([0.75, 0.5]), capped).tolist() == [0.375, 0.375]  # of 0.5 and 0.5, three quarters
    assert limit_weights(np.array([-0.25, 0.25]), capped).tolist() == [0.0, 0.25]
    assert target_weights(raw(0.8, 0.1, speed=60.0), np.zeros(2), capped) == pytest.approx([0.5, 0.1])
    assert capped.with_extra_reserve(0.25).min_cash_reserve == 0.5


@pytest.mark.parametrize("name", ["min_cash_reserve", "max_weight", "no_trade_band"])
@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_a_limit_that_is_no_fraction_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=name):
        replace(FREE, **{name: value})


def test_what_is_planned_is_the_gap_in_whole_lots_and_no_less_than_the_venue_takes() -> None:
    def planned(*target: float, least: float = 0.0) -> list[float]:
        made: np.ndarray = plan_trades(
            target=np.array(target), value=np.array([300.0, 100.0]), equity=np.array(1000.0),
            quantity=np.array([3.0, 10.0]), price=np.array([100.0, 10.0]), lots=WHOLE,
            min_notional=np.array([least, least]),
        )  # fmt: skip
        return made.tolist()

    assert planned(0.55, 0.1) == [2.0, 0.0]  # 250 more: two lots of 100
    assert planned(0.15, 0.155) == [-1.0, 5.0]
    assert planned(-1.0, 0.1) == [-3.0, 0.0]  # no more than is held
    assert planned(0.4, 0.19, least=100.0) == [1.0, 0.0]  # 100 are taken, 90 are not


def test_a_lot_of_a_hundred_millionth_is_a_lot() -> None:
    fine = Lots.of(np.array([1e-8, 0.0]))
    assert fine.down(np.array([2.5e-8, 2.5e-8])) == pytest.approx([2e-8, 2.5e-8], rel=1e-12)


def filled(**changes: Any) -> tuple[Any, tuple[Any, Any]]:
    """1000 in cash, 5 at 100 and 40 at 10; fee and impact 1 %."""
    how: dict[str, Any] = {
        "delta": np.array([0.0, 0.0]), "cash": np.array(1000.0), "quantity": np.array([5.0, 40.0]),
        "open_price": np.array([100.0, 10.0]), "volume": np.array([1000.0, 1000.0]), "tradable": np.array([True, True]),
        "lots": WHOLE, "fee": 0.01, "price_impact": 0.01, "fee_in_received": False, "max_volume_share": 0.0,
    } | {k: np.array(v) if isinstance(v, list) else v for k, v in changes.items()}  # fmt: skip
    done = fill_trades(**how)
    return done, settle(how["cash"], how["quantity"], done)


def test_a_buy_and_a_sell_by_hand_with_the_fee_in_cash_or_in_what_is_received() -> None:
    done, (cash, quantity) = filled(delta=[2.0, -10.0])
    assert done.price.tolist() == [101.0, 9.9] and quantity.tolist() == [7.0, 30.0]
    assert done.fee_quote == pytest.approx([2.02, 0.99]) and done.fee_base.tolist() == [0.0, 0.0]
    assert cash == pytest.approx(1000 - 202 - 2.02 + 99 - 0.99)
    done, (cash, quantity) = filled(delta=[2.0, -10.0], fee_in_received=True)
    assert done.fee_quote == pytest.approx([0.0, 0.99]) and done.fee_base == pytest.approx([0.02, 0.0])
    assert cash == pytest.approx(1000 - 202 + 99 - 0.99) and quantity == pytest.approx([6.98, 30.0])


def test_buys_share_the_cash_at_hand_with_what_the_sells_bring() -> None:
    _, (cash, quantity) = filled(delta=[20.0, 0.0])
    assert quantity.tolist() == [14.0, 40.0]  # 1000 / (101 · 1.01) = 9.8
    assert cash == pytest.approx(1000 - 9 * 101 * 1.01)
    _, (_, quantity) = filled(delta=[20.0, -40.0])
    assert quantity.tolist() == [18.0, 0.0]  # 1000 + 40 · 9.9 · .99 = 1392: 13.6
    _, (cash, quantity) = filled(delta=[20.0, 0.0], cash=np.array(1012.0), fee_in_received=True)
    assert quantity == pytest.approx([5.0 + 10 * 0.99, 40.0]) and cash == pytest.approx(2.0)  # 1012 / 101 = 10.02
    _, (_, quantity) = filled(delta=[20.0, 50.0])
    assert quantity.tolist() == [12.0, 59.0]  # 20 and 50 cost 2550: 39 % of each, 7.8 and 19.5
    done, (cash, _) = filled(delta=[1.0, 0.0], cash=np.array(-5.0))
    assert done.quantity.tolist() == [0.0, 0.0] and cash == -5.0
    _, (cash, _) = filled(delta=[10.0, 0.0], cash=np.array(10 * 101 * 1.01 * (1 + 1e-12)))
    assert 0.0 <= cash < 1e-8


def test_nothing_is_sold_that_is_not_there_nor_more_traded_than_a_share_of_the_volume() -> None:
    assert filled(delta=[-9.0, -40.5])[0].quantity.tolist() == [-5.0, -40.0]
    bounded = filled(delta=[9.0, -40.0], max_volume_share=0.01, volume=[250.0, 1750.0])[0]
    assert bounded.quantity.tolist() == [2.0, -17.0]  # 2.5 and 17.5, in whole lots
    assert filled(delta=[1.0, -1.0], volume=[0.0, 0.0])[0].quantity.tolist() == [1.0, -1.0]  # 0 is no limit
    assert filled(delta=[1.0, -1.0], tradable=[False, True])[0].quantity.tolist() == [0.0, -1.0]


def test_an_account_is_worth_what_it_holds_and_its_peak_counts_the_present() -> None:
    price = np.array([100.0, 10.0])
    low = worth(cash=np.array(100.0), quantity=np.array([5.0, 40.0]), price=price, peak=np.array(1250.0))
    assert (low.equity, low.peak, low.cash_weight, low.drawdown) == pytest.approx((1000.0, 1250.0, 0.1, 0.2))
    assert low.weights == pytest.approx([0.5, 0.4]) and low.value.tolist() == [500.0, 400.0]
    high = worth(cash=np.array(100.0), quantity=np.array([5.0, 40.0]), price=price, peak=np.array(900.0))
    assert (high.peak, high.drawdown) == (1000.0, 0.0)


def fill(ticker: str, quantity: str, price: str, *, quote: str = "0", base: str = "0") -> Fill:
    q, p, fq, fb = map(Decimal, (quantity, price, quote, base))
    return Fill(ticker=ticker, close_time_s=0, quantity=q, price=p, fee_quote=fq, fee_base=fb)


def test_a_ledger_counts_fees_turnover_its_peak_and_the_bars_since_a_trade() -> None:
    fills = [fill("BTC", "2", "100", base="0.01"), fill("ETH", "-4", "10", quote="0.5")]
    start = replace(Ledger.opened(TICKERS, 1000.0), quantity=(Decimal(0), Decimal(10), Decimal(0)), bars_since_trade=7)
    after = start.book(fills)
    assert (after.cash, after.quantity) == (Decimal("839.5"), (Decimal("1.99"), Decimal(6), Decimal(0)))
    assert (after.fees, after.turnover, after.bars_since_trade) == (Decimal("1.5"), Decimal(240), 0)
    close = np.array([100.0, 10.0, 1.0])
    again = after.book(fills[1:]).marked(close)
    assert (again.fees, again.turnover, again.bars_since_trade) == (Decimal(2), Decimal(280), 1)
    assert again.equity(close) == Decimal("839.5") + Decimal("39.5") + 199 + 20 == again.peak
    fallen = again.book([]).marked(np.array([50.0, 10.0, 1.0]))
    assert (fallen.peak, fallen.bars_since_trade) == (again.peak, 2)
    assert again.weights(close) == pytest.approx([199 / 1098, 20 / 1098, 0.0])
    empty = replace(start, cash=Decimal(0), quantity=(Decimal(0),) * 3)
    assert empty.weights(close).tolist() == [0.0, 0.0, 0.0]
    lower = np.array([50.0, 10.0, 1.0])  # 879 in cash, 99.50 in BTC, 20 in ETH
    seen = [
        99.5 / 998.5,
        20 / 998.5,
        0.0,
        879 / 998.5,
        1 - 998.5 / 1098,
        math.log(3) / math.log1p(SINCE_TRADE_CAP_BARS),
    ]
    assert fallen.observed(lower).tolist() == pytest.approx(seen, rel=1e-6)
    assert observed((start, fallen), lower)[1].tolist() == fallen.observed(lower).tolist()


@pytest.mark.parametrize("cash", [0.0, -1.0, float("nan"), float("inf")])
def test_an_account_without_money_is_not_opened(cash: float) -> None:
    with pytest.raises(DataError, match="positive cash"):
        Ledger.opened(TICKERS, cash)


def test_a_sale_of_more_than_is_held_is_named_by_its_coin_and_a_hair_is_more() -> None:
    held = replace(Ledger.opened(TICKERS, 1000.0), quantity=(Decimal(1), Decimal(0), Decimal(0)))
    with pytest.raises(DataError, match="-1E-9 BTC would be left"):
        held.book([fill("BTC", "-1.000000001", "100")])
    with pytest.raises(DataError, match="cash would be left"):
        held.book([fill("BTC", "10", "100", quote="0.00000001")])


def test_fees_are_rounded_up_and_never_more_than_what_is_received() -> None:
    def of(quantity: str, price: str, *, in_base: bool) -> tuple[Decimal, Decimal]:
        return fees(Decimal(quantity), Decimal(price), rate=Decimal("0.0025"), in_base=in_base)

    assert of("0.1000001", "3", in_base=False) == (Decimal("0.00075001"), 0)  # 0.00075000075
    assert of("-0.1000001", "3", in_base=False) == (Decimal("0.00075001"), 0)
    assert of("0.1000001", "3", in_base=True) == (0, Decimal("0.000250001"))  # 0.00025000025
    assert of("-0.000000001", "0.5", in_base=False) == (Decimal("0.0000000005"), 0)  # all of it, not a whole unit
    assert of("0.0000000004", "3", in_base=True) == (0, Decimal("0.0000000004"))


def test_a_bar_fills_the_sells_first_and_one_order_a_ticker() -> None:
    bars, rules = random_bars(1, n_bars=3), VenueRules.uniform("here", TICKERS)
    bars = replace(bars, filled=np.zeros_like(bars.filled))
    book = replace(Ledger.opened(TICKERS, 10_000.0), quantity=(Decimal(0), Decimal(2), Decimal(0)))
    costs = Costs(fee_bps=25.0, half_spread_bps=2.0, slippage_bps=3.0)
    orders = [("BTC", Decimal("0.01")), ("ETH", Decimal(-1))]
    done = simulate_fills(book, orders, bars.slice(1, 2), costs, rules)
    assert [f.ticker for f in done] == ["ETH", "BTC"]
    assert float(done[0].price) == pytest.approx(bars.open[1, 1] * 0.9995)
    assert float(done[1].price) == pytest.approx(bars.open[1, 0] * 1.0005)
    with pytest.raises(DataError, match="two orders for one ticker"):
        simulate_fills(book, [*orders, orders[0]], bars.slice(1, 2), costs, rules)


def test_what_fills_is_whole_lots_to_the_last_digit() -> None:
    """Three lots of 0.1 are 0.30000000000000004 as a float."""
    bars, rules = random_bars(1, n_bars=3), VenueRules.uniform("here", TICKERS, lot="0.1")
    bars = replace(bars, filled=np.zeros_like(bars.filled))
    book = Ledger.opened(TICKERS, 0.35 * float(bars.open[1, 0]))
    costs = Costs(fee_bps=25.0, half_spread_bps=0.0, slippage_bps=0.0)
    (bought,) = simulate_fills(book, [("BTC", Decimal(1))], bars.slice(1, 2), costs, rules)
    assert bought.quantity == Decimal("0.3")


def test_an_order_is_sized_by_all_that_the_account_is_worth() -> None:
    book = replace(Ledger.opened(TICKERS, 500.0), quantity=(Decimal(5), Decimal(0), Decimal(0)))
    orders = dict(
        plan_orders(book, np.array([0.5, 0.25, 0.0]), np.array([100.0, 10.0, 1.0]), VenueRules.uniform("x", TICKERS))
    )
    assert orders == {"ETH": Decimal(25)}  # a quarter of 1000
    assert sendable_orders([("ETH", Decimal(-1))], book, VenueRules.uniform("x", TICKERS), whole_lots=True) == ()


@pytest.mark.parametrize("name", ["fee_bps", "half_spread_bps", "slippage_bps", "max_volume_share"])
def test_costs_are_fractions_against_us_and_never_negative(name: str) -> None:
    costs = Costs(fee_bps=25.0, half_spread_bps=2.0, slippage_bps=3.0)
    assert (costs.fee, costs.price_impact) == pytest.approx((0.0025, 0.0005))
    assert (costs.fee_in, costs.max_volume_share) == ("received", 0.0)
    assert costs.with_fee_bps(10.0) == replace(costs, fee_bps=10.0)
    assert getattr(replace(costs, **{name: 0.0}), name) == 0.0
    for senseless in (-0.1, float("nan")):
        with pytest.raises(ConfigurationError, match=name):
            replace(costs, **{name: senseless})
    with pytest.raises(ConfigurationError, match="fee_in"):
        replace(costs, fee_in="base")  # type: ignore[arg-type]
