"""The risk guard by hand: just at its limits, over payments that are no gain, and what it remembers."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from test_risk import NOON_S, TICKERS, WISH, account, fill, fired, view

from features.ledger import Fill, Ledger
from features.venue_rules import VenueRules
from paper_trader import risk
from paper_trader.risk import Limits, Position, Rule, State

RULES = VenueRules.uniform("x", TICKERS)
ALL_BTC = account(0.0, 100.0, 0.0, 0.0)  # 10,000 at 100


def at(price: float, **more: Any) -> risk.View:
    return view(ALL_BTC, (price, 10.0, 1.0), **more)


def invested(**more: Any) -> State:
    """All of 10,000 in BTC at 100, the account's best."""
    state = risk.opened(3, equity=10_000.0, close_time_s=NOON_S - 3600)
    return replace(state, positions=(Position(entry=100.0, best=100.0, bars=5), None, None), **more)


@pytest.mark.parametrize(
    ("limits", "price", "rule"),
    [
        (Limits(stop_loss=0.25), 75.0, Rule.STOP_LOSS), (Limits(trailing_stop=0.25), 75.0, Rule.TRAILING_STOP),
        (Limits(take_profit=0.25), 125.0, Rule.TAKE_PROFIT), (Limits(daily_loss=0.25), 75.0, Rule.DAILY_LOSS),
        (Limits(portfolio_trailing_stop=0.25), 75.0, Rule.PORTFOLIO_STOP),
        (Limits(max_drawdown=0.25), 75.0, Rule.KILL_SWITCH),
    ],
)  # fmt: skip
def test_a_limit_speaks_where_it_is_reached_and_not_a_hair_before(limits: Limits, price: float, rule: Rule) -> None:
    assert fired(risk.guard(limits, invested(), at(price), WISH)) == [rule]
    assert fired(risk.guard(limits, invested(), at(100.0 + 0.999 * (price - 100.0)), WISH)) == []


def test_each_limit_is_measured_from_its_own_mark() -> None:
    """Worth 9,000 at 90: 10 % below a peak of 10,000, nothing below a trail and a day's opening of 9,000, and so on."""
    marks = {
        "peak": (10_000.0, 9_000.0, 9_000.0),
        "trail": (9_000.0, 10_000.0, 9_000.0),
        "day": (9_000.0, 9_000.0, 10_000.0),
    }
    for name, limits in (
        ("peak", Limits(max_drawdown=0.05)), ("trail", Limits(portfolio_trailing_stop=0.05)), ("day", Limits(daily_loss=0.05)),
    ):  # fmt: skip
        spoke = []
        for marked, (peak, trail, day_open) in marks.items():
            state = invested(peak=peak, trail=trail, day_open=day_open)
            spoke += [marked] * bool(fired(risk.guard(limits, state, at(90.0), WISH)))
        assert spoke == [name]


def payment(cash: float, *, coins: float = 0.0) -> Fill:
    """Put right after an operator has looked: cash and BTC that have gone (negative: that have come)."""
    put = {"fee_quote": Decimal(repr(cash)), "fee_base": Decimal(repr(coins))}
    return replace(fill("BTC", 0.0, 100.0), quantity=Decimal(0), **put)


@pytest.mark.parametrize(
    ("book", "fills", "factor"),
    [
        (account(0.0, 75.0, 0.0, 0.0), [payment(0.0, coins=25.0)], 0.75),  # a quarter was withdrawn, in coins
        (account(5000.0, 100.0, 0.0, 0.0), [payment(-5000.0)], 1.5),
        (account(10_000.0, 0.0, 0.0, 0.0), [replace(fill("BTC", -100.0, 100.0), fee_quote=Decimal(25))], 1.0),
    ],
)
def test_what_is_paid_in_or_out_moves_every_mark_along_and_a_fee_moves_none(
    book: Ledger, fills: list[Fill], factor: float
) -> None:
    state = invested(peak=12_500.0, trail=11_000.0, day_open=10_400.0)
    after = risk.settled(state, view(book), fills)
    assert (after.peak, after.trail, after.day_open) == pytest.approx(
        (12_500 * factor, 11_000 * factor, 10_400 * factor)
    )


def test_money_that_comes_to_an_account_that_had_nothing_moves_no_mark() -> None:
    state = invested(peak=12_500.0, trail=11_000.0, day_open=10_400.0)
    after = risk.settled(state, view(account(1000.0, 0.0, 0.0, 0.0)), [payment(-1000.0)])
    assert (after.peak, after.trail, after.day_open) == (12_500.0, 11_000.0, 10_400.0)


@pytest.mark.parametrize("mark", ["trail", "day_open", "entry", "best"])
def test_a_mark_that_is_no_number_halts(mark: str) -> None:
    nan: Any = float("nan")
    state = invested()
    if mark in ("entry", "best"):
        position = state.positions[0]
        assert position is not None
        state = replace(state, positions=(replace(position, **{mark: nan}), None, None))
    else:
        state = replace(state, **{mark: nan})
    assert fired(risk.guard(Limits(), state, at(100.0), WISH)) == [Rule.NOT_FINITE]


def test_an_infinite_wish_an_empty_account_and_a_price_that_is_none_halt_and_flatten_sells_on_none_of_them() -> None:
    assert fired(risk.guard(Limits(), invested(), at(100.0), np.array([0.5, np.inf, 0.0]))) == [Rule.NOT_FINITE]
    done = risk.guard(Limits(), invested(), view(account(0.0)), WISH)
    assert fired(done) == [Rule.NOT_FINITE] and done.events[0].rule.halts
    blind = risk.guard(Limits(), invested(), at(float("nan"), flatten=True), WISH)
    assert blind.target is None and fired(blind) == [Rule.NOT_FINITE]


def test_a_weight_half_a_percent_above_the_cap_is_cut_and_said() -> None:
    done = risk.guard(Limits(max_weight=0.6), invested(), at(100.0), np.array([0.605, 0.1, 0.0]))
    assert done.target is not None and done.target.tolist() == [0.6, 0.1, 0.0] and fired(done) == [Rule.CAPS]
    done = risk.guard(Limits(min_cash_reserve=0.5), invested(), at(100.0), np.array([0.5, 0.005, 0.0]))
    assert done.target is not None and done.target.sum() == pytest.approx(0.5) and fired(done) == [Rule.CAPS]


def test_a_cap_cuts_what_is_held_back_from_sale_and_both_are_said() -> None:
    limits = Limits(max_weight=0.75, min_hold_bars=9)
    done = risk.guard(limits, invested(), at(100.0), np.zeros(3))
    assert done.target is not None and done.target.tolist() == [0.75, 0.0, 0.0]
    assert fired(done) == [Rule.MIN_HOLD, Rule.CAPS]


def test_a_coin_that_cools_down_is_neither_bought_nor_sold_by_that() -> None:
    half = account(5000.0, 50.0, 0.0, 0.0)
    state = invested(cooling=(2, 0, 0))
    more = risk.guard(Limits(), state, view(half), np.array([0.7, 0.0, 0.0]))
    assert more.target is not None and more.target[0] == 0.5 and fired(more) == [Rule.COOLDOWN]
    for wish in (0.5, 0.3):
        done = risk.guard(Limits(), state, view(half), np.array([wish, 0.0, 0.0]))
        assert done.target is not None and (done.target[0], fired(done)) == (wish, [])
    just_held = risk.guard(Limits(min_hold_bars=9), invested(), view(half), np.array([0.5, 0.0, 0.0]))
    assert just_held.events == ()  # what changes nothing does not speak


def test_the_days_loss_speaks_once_and_a_day_ends_at_midnight_utc() -> None:
    limits, state = Limits(daily_loss=0.1), invested(day_open=12_000.0)
    done = risk.guard(limits, state, at(100.0, at_s=NOON_S - 12 * 3600 + 3600), WISH)
    assert fired(done) == [Rule.DAILY_LOSS] and done.state.day_over
    state, day = done.state, NOON_S // 86_400
    for hour in range(2, 24):
        now = at(100.0, at_s=day * 86_400 + hour * 3600)
        state = risk.settled(state, now, [])
        done = risk.guard(limits, state, now, WISH)
        assert done.target is not None and not done.target.any() and done.events == ()
    after = risk.settled(state, at(100.0, at_s=(day + 1) * 86_400), [])
    assert (after.day, after.day_open, after.day_over) == (day + 1, 10_000.0, False)


def test_the_peak_and_the_trail_follow_the_best_equity_and_stay_there() -> None:
    risen = risk.settled(invested(), at(120.0), [])
    fallen = risk.settled(risen, at(110.0), [])
    assert (risen.peak, risen.trail) == (fallen.peak, fallen.trail) == (12_000.0, 12_000.0)
    assert fired(risk.guard(Limits(max_drawdown=0.05), fallen, at(110.0), WISH)) == [Rule.KILL_SWITCH]


def test_a_rearm_measures_every_drawdown_from_here() -> None:
    state = risk.rearmed(invested(peak=20_000.0, trail=19_000.0), 10_000.0)
    assert (state.peak, state.trail) == (10_000.0, 10_000.0)


def test_a_position_is_what_the_venue_would_take_back_and_what_its_fees_leave() -> None:
    """Bought 50 at 100 and 50 at 120 in one bar, one coin of each for the fee; of LTC, 10 USDT that were dust before."""
    bought = [replace(fill("BTC", 50.0, price), fee_base=Decimal(1)) for price in (100.0, 120.0)]
    state = risk.opened(3, equity=11_000.0, close_time_s=NOON_S - 3600)
    after = risk.settled(state, view(account(0.0, 98.0, 0.0, 10.0), (110.0, 10.0, 1.0)), bought)
    assert after.positions[0] == Position(entry=110.0, best=110.0, bars=1)
    assert after.positions[1:] == (None, Position(entry=1.0, best=1.0, bars=1))
    again = [replace(fill("BTC", 50.0, 120.0), fee_base=Decimal(1))]
    more = risk.settled(after, view(account(0.0, 147.0, 0.0, 9.9), (110.0, 10.0, 1.0)), again)
    assert more.positions[0] is not None and more.positions[0].entry == pytest.approx((98 * 110 + 49 * 120) / 147)
    assert more.positions[2] is None  # 9.90 are below the least that can be sold


def test_what_is_ordered_is_what_the_guard_let_pass_and_what_the_hour_held_back_is_said() -> None:
    stopped = risk.rule(Limits(stop_loss=0.1), invested(), at(80.0), WISH.tolist(), RULES)
    assert stopped.target == (0.0, 0.1, 0.0)
    assert dict(stopped.orders)["BTC"] == -100 and dict(stopped.orders)["ETH"] == 80  # all of it, and 800 of 8,000
    held = risk.rule(Limits(stop_loss=0.1, max_orders_per_hour=1), invested(), at(80.0), WISH.tolist(), RULES)
    assert [t for t, _ in held.orders] == ["BTC"]
    assert [(e.rule, e.ticker) for e in held.events] == [(Rule.STOP_LOSS, "BTC"), (Rule.ORDER_RATE, "ETH")]
    halted = risk.rule(Limits(max_drawdown=0.1), invested(), at(80.0), WISH.tolist(), RULES)
    assert halted.target is None and halted.orders == ()


def test_more_sales_than_the_hour_allows_leave_no_room_for_any_purchase() -> None:
    wanted = [("BTC", Decimal(-1)), ("ETH", Decimal(-1)), ("LTC", Decimal(1)), ("X", Decimal(1)), ("Y", Decimal(1))]
    state = invested(sent=((NOON_S - 60, 4),))
    after, sent, events = risk.admit(Limits(max_orders_per_hour=5), state, at(100.0), wanted)
    assert [t for t, _ in sent] == ["BTC", "ETH"] and [e.ticker for e in events] == ["LTC", "X", "Y"]
    assert after.sent == ((NOON_S - 60, 4), (NOON_S, 2))
    over, sent, _ = risk.admit(Limits(max_orders_per_hour=5), after, at(100.0), wanted[2:])
    assert sent == () and over == after
    assert len(risk.admit(Limits(), after, at(100.0), wanted)[1]) == 5  # 0 is off
