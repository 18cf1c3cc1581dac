"""The risk guard: what it lets pass, what it sells, what it never does."""

import contextlib
import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from features.allocation import Limits as Caps
from features.allocation import limit_weights
from features.errors import DataError
from features.ledger import Fill, Ledger
from features.venue_rules import VenueRules
from paper_trader import risk
from paper_trader.risk import Limits, Rule, State, View

TICKERS = ("BTC", "ETH", "LTC")
NOON_S = 1_700_000_000 // 86_400 * 86_400 + 43_200


def account(cash: float, *quantity: float) -> Ledger:
    opened = Ledger.opened(TICKERS, 10_000.0)
    held = tuple(Decimal(repr(float(q))) for q in quantity) or (Decimal(0),) * 3
    return replace(opened, cash=Decimal(repr(float(cash))), quantity=held)


def view(book: Ledger, close: tuple[float, ...] = (100.0, 10.0, 1.0), *, at_s: int = NOON_S, **more: Any) -> View:
    return View(close_time_s=at_s, close=np.array(close), account=book, min_notional=np.full(3, 10.0), **more)


def fill(ticker: str, quantity: float, price: float) -> Fill:
    zero = Decimal(0)
    return Fill(
        ticker=ticker, close_time_s=NOON_S, quantity=Decimal(repr(quantity)), price=Decimal(repr(price)),
        fee_quote=zero, fee_base=zero,
    )  # fmt: skip


def holding_btc(price: float = 100.0, **limits: Any) -> tuple[State, Ledger]:
    """60 % in BTC, bought at `price` at the open of this bar; the close is the same."""
    book = account(4000.0, 60.0, 0.0, 0.0)
    state = risk.opened(3, equity=10_000.0, close_time_s=NOON_S - 3600)
    return risk.settled(state, view(book, (price, 10.0, 1.0)), [fill("BTC", 60.0, price)]), book


def fired(done: risk.Guarded) -> list[Rule]:
    return [e.rule for e in done.events]


WISH = np.array([0.6, 0.1, 0.0])


def test_with_every_limit_off_the_policys_target_passes_to_the_last_bit() -> None:
    state, book = holding_btc()
    done = risk.guard(Limits(), state, view(book), WISH)
    assert done.target is not None and done.target.tobytes() == WISH.tobytes() and done.events == ()


@hypothesis_settings(max_examples=300, deadline=None)
@given(raw=st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3), cap=st.floats(0.05, 1.0), reserve=st.floats(0.0, 0.9))
def test_a_target_that_training_already_limited_is_not_limited_again(
    raw: list[float], cap: float, reserve: float
) -> None:
    """The same cap and reserve in [allocation] and [risk]: the guard changes no bit, so nothing is applied twice."""
    limited = limit_weights(np.array(raw), Caps(min_cash_reserve=reserve, max_weight=cap, no_trade_band=0.0))
    state, book = holding_btc()
    done = risk.guard(Limits(max_weight=cap, min_cash_reserve=reserve), state, view(book), limited)
    assert done.target is not None and done.target.tobytes() == limited.tobytes()


@hypothesis_settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_whatever_the_limits_and_the_past_what_is_guarded_stays_within_them(data: st.DataObject) -> None:
    share = st.one_of(st.just(0.0), st.floats(0.01, 0.6))
    limits = Limits(
        max_weight=data.draw(st.floats(0.05, 1.0)), min_cash_reserve=data.draw(st.floats(0.0, 0.9)),
        stop_loss=data.draw(share), trailing_stop=data.draw(share), take_profit=data.draw(share),
        portfolio_trailing_stop=data.draw(share), daily_loss=data.draw(share),
        max_drawdown=data.draw(st.floats(0.05, 1.0)), min_hold_bars=data.draw(st.integers(0, 3)),
        cooldown_bars=data.draw(st.integers(0, 5)),
    )  # fmt: skip
    state, book = holding_btc()
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    close = np.array([100.0, 10.0, 1.0])
    for n in range(40):
        close = close * np.exp(rng.normal(0, 0.1, 3))
        now = view(book, tuple(close), at_s=NOON_S + 3600 * (n + 1))
        state = risk.settled(state, now, [])
        done = risk.guard(limits, state, now, rng.dirichlet(np.ones(4))[:3])
        if done.target is None:
            assert [e for e in done.events if e.rule.halts]
            assert 1.0 - now.equity / state.peak >= limits.max_drawdown
            return
        assert np.isfinite(done.target).all() and (done.target >= 0).all()
        assert done.target.max() <= limits.max_weight + risk.WITHIN
        assert done.target.sum() <= 1.0 - limits.min_cash_reserve + risk.WITHIN
        assert risk.state_from(json.loads(json.dumps(risk.state_record(done.state)))) == done.state
        state = done.state


@hypothesis_settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_limit_holds_on_any_path_of_an_account_that_trades(data: st.DataObject) -> None:
    """Each limit said again in the plainest words, beside an account that does what the guard lets pass."""
    some = st.one_of(st.just(0.0), st.floats(0.02, 0.3))
    limits = Limits(
        stop_loss=data.draw(some), trailing_stop=data.draw(some), take_profit=data.draw(some),
        portfolio_trailing_stop=data.draw(some), daily_loss=data.draw(some), min_hold_bars=data.draw(st.integers(0, 4)),
        cooldown_bars=data.draw(st.integers(0, 4)), max_orders_per_hour=data.draw(st.integers(0, 3)),
    )  # fmt: skip
    rng, rules = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))), VenueRules.uniform("x", TICKERS)
    close, book, orders = np.array([100.0, 10.0, 1.0]), account(10_000.0), ()
    state = risk.opened(3, equity=10_000.0, close_time_s=NOON_S)
    paid, best, bars, barred = [0.0] * 3, [0.0] * 3, [0] * 3, [0] * 3
    day_open, day_lost, trail, rest = 10_000.0, False, 10_000.0, 0
    for n in range(1, 40):
        fills = affordable(book, [fill(t, float(q), float(close[TICKERS.index(t)])) for t, q in orders])
        had = [float(q) for q in book.quantity]
        close = close * np.exp(rng.normal(0, 0.06, 3))
        book = book.book(fills).marked(close)
        at_s = NOON_S + 3600 * n
        now = replace(view(book, tuple(close), at_s=at_s), min_notional=rules.arrays(TICKERS)[1])
        state = risk.settled(state, now, fills)
        worth, held = now.equity, book.weights(close)
        for i, t in enumerate(TICKERS):
            bought = next((f for f in fills if f.ticker == t and f.quantity > 0), None)
            if float(book.quantity[i]) * close[i] < now.min_notional[i]:
                paid[i], bars[i] = 0.0, 0
                continue
            if bought is not None:
                old = had[i] if paid[i] else 0.0
                gained, price = float(bought.quantity), float(bought.price)
                best[i] = max(best[i], price) if paid[i] else price
                paid[i] = (paid[i] * old + price * gained) / (old + gained)
            best[i], bars[i] = max(best[i], close[i]), bars[i] + 1
        midnight = at_s % 86_400 < 3600
        day_open, day_lost = (worth, False) if midnight else (day_open, day_lost)
        trail, rest, barred = max(trail, worth), max(0, rest - 1), [max(0, b - 1) for b in barred]
        ruling = risk.rule(limits, state, now, rng.dirichlet(np.ones(4))[:3], rules)
        state, orders = ruling.state, ruling.orders
        assert ruling.target is not None
        day_lost |= bool(limits.daily_loss) and worth <= day_open * (1 - limits.daily_loss)
        fell = bool(limits.portfolio_trailing_stop) and worth <= trail * (1 - limits.portfolio_trailing_stop)
        first = {e.rule for e in ruling.events} & {Rule.DAILY_LOSS}  # the day's loss speaks alone
        if fell and not first:
            trail, rest = (worth, limits.cooldown_bars) if Rule.PORTFOLIO_STOP in fired_in(ruling) else (trail, rest)
        if day_lost or rest or fell:
            assert ruling.target == (0.0, 0.0, 0.0)
        else:
            for i in range(3):
                stopped = bool(paid[i]) and (
                    (limits.stop_loss > 0 and close[i] / paid[i] - 1 <= -limits.stop_loss)
                    or (limits.trailing_stop > 0 and close[i] <= best[i] * (1 - limits.trailing_stop))
                    or (limits.take_profit > 0 and close[i] / paid[i] - 1 >= limits.take_profit)
                )
                if stopped:
                    barred[i] = limits.cooldown_bars
                    assert ruling.target[i] == 0.0
                elif barred[i]:
                    assert ruling.target[i] <= held[i]
                elif paid[i] and bars[i] < limits.min_hold_bars and Rule.CAPS not in fired_in(ruling):
                    assert ruling.target[i] >= held[i] - risk.WITHIN
        if limits.max_orders_per_hour and any(q > 0 for _, q in orders):
            assert len(orders) <= limits.max_orders_per_hour


def affordable(book: Ledger, fills: list[Fill]) -> list[Fill]:
    """Sales first, then the purchases that there is cash for."""
    done: list[Fill] = []
    for one in sorted(fills, key=lambda f: f.quantity > 0):
        with contextlib.suppress(DataError):
            book.book([*done, one])
            done.append(one)
    return done


def fired_in(ruling: risk.Ruling) -> set[Rule]:
    return {e.rule for e in ruling.events}


@pytest.mark.parametrize(
    ("limits", "path", "rule"),
    [
        (Limits(stop_loss=0.1), (95.0, 89.0), Rule.STOP_LOSS),  # 11 % below the 100 paid
        (Limits(trailing_stop=0.1), (130.0, 116.0), Rule.TRAILING_STOP),  # 10.8 % below 130, above what was paid
        (Limits(take_profit=0.2), (110.0, 121.0), Rule.TAKE_PROFIT),
    ],
)
def test_a_stop_sells_its_coin_and_leaves_the_others_alone(limits: Limits, path: tuple[float, ...], rule: Rule) -> None:
    limits = replace(limits, cooldown_bars=2)
    state, book = holding_btc()
    for n, price in enumerate(path):
        now = view(book, (price, 10.0, 1.0), at_s=NOON_S + 3600 * (n + 1))
        state = risk.settled(state, now, [])
        done = risk.guard(limits, state, now, WISH)
        state = done.state
        assert done.target is not None
        if n < len(path) - 1:
            assert done.events == () and done.target.tobytes() == WISH.tobytes()
    assert fired(done) == [rule] and done.target is not None and done.target.tolist() == [0.0, 0.1, 0.0]
    sold = account(4000.0 + 60 * path[-1])
    for left in (1, 0):  # sold at the next open; not bought back for two bars
        now = view(sold, (path[-1], 10.0, 1.0), at_s=now.close_time_s + 3600)
        state = risk.settled(state, now, [fill("BTC", -60.0, path[-1])] if left else [])
        done = risk.guard(limits, state, now, WISH)
        assert done.target is not None
        assert (fired(done), done.target[0]) == (([Rule.COOLDOWN], 0.0) if left else ([], 0.6))


def test_the_portfolios_trailing_stop_sells_everything_and_rests() -> None:
    limits = Limits(portfolio_trailing_stop=0.05, cooldown_bars=3)
    state, book = holding_btc()
    now = view(book, (90.0, 10.0, 1.0), at_s=NOON_S + 3600)  # 10,000 → 9,400
    done = risk.guard(limits, risk.settled(state, now, []), now, WISH)
    assert fired(done) == [Rule.PORTFOLIO_STOP]
    rested = 0
    while done.target is not None and not done.target.any():
        rested += 1
        now = replace(now, close_time_s=now.close_time_s + 3600)
        done = risk.guard(limits, risk.settled(done.state, now, []), now, WISH)
    assert rested == 3  # and what it lost is not held against it again
    assert done.events == ()


def test_after_the_days_loss_nothing_is_held_until_midnight() -> None:
    limits = Limits(daily_loss=0.1)
    state, book = holding_btc()
    now = view(book, (80.0, 10.0, 1.0), at_s=NOON_S + 3600)  # 10,000 → 8,800: −12 %
    done = risk.guard(limits, risk.settled(state, now, []), now, WISH)
    assert fired(done) == [Rule.DAILY_LOSS]
    hours = 0
    while done.target is not None and not done.target.any():
        hours += 1
        now = replace(now, close_time_s=now.close_time_s + 3600)
        done = risk.guard(limits, risk.settled(done.state, now, []), now, WISH)
    assert now.close_time_s % 86_400 == 0 and hours == 11  # from 13:00 to 24:00


@pytest.mark.parametrize("where", ["close", "target", "cash", "peak"])
def test_a_value_that_is_no_number_halts(where: str) -> None:
    state, book = holding_btc()
    now, wish = view(book), WISH.copy()
    match where:
        case "close":
            now = view(book, (float("nan"), 10.0, 1.0))
        case "target":
            wish[1] = np.nan
        case "cash":
            now = view(replace(book, cash=Decimal("NaN")))
        case "peak":
            state = replace(state, peak=float("nan"))
    done = risk.guard(Limits(), state, now, wish)
    assert done.target is None and fired(done) == [Rule.NOT_FINITE] and done.events[0].rule.halts


def test_the_kill_switch_halts_at_its_drawdown_and_not_before() -> None:
    state, book = holding_btc()
    for price, expected in ((100.1, []), (66.8, []), (66.6, [Rule.KILL_SWITCH])):  # 20 % of 10,006 is 2001.2
        now = view(book, (price, 10.0, 1.0))
        state = risk.settled(state, now, [])
        done = risk.guard(Limits(max_drawdown=0.2), state, now, WISH)
        assert fired(done) == expected
    assert done.target is None
    state = risk.rearmed(state, now.equity)
    assert risk.guard(Limits(max_drawdown=0.2), state, now, WISH).target is not None


def test_an_operators_flatten_sells_even_where_the_kill_switch_would_halt() -> None:
    state, book = holding_btc()
    now = view(book, (10.0, 10.0, 1.0), flatten=True)
    done = risk.guard(Limits(max_drawdown=0.2), risk.settled(state, now, []), now, WISH)
    assert done.target is not None and not done.target.any()


def test_a_young_position_is_not_sold_by_the_policy_but_by_a_stop() -> None:
    limits = Limits(min_hold_bars=3, stop_loss=0.1)
    state, book = holding_btc()
    for n, (price, target, rules) in enumerate([
        (100.0, 0.6, [Rule.MIN_HOLD]), (100.0, 0.0, []), (100.0, 0.0, []), (85.0, 0.0, [Rule.STOP_LOSS]),
    ]):  # fmt: skip
        now = view(book, (price, 10.0, 1.0), at_s=NOON_S + 3600 * (n + 1))
        state = risk.settled(state, now, [])
        done = risk.guard(limits, state, now, np.zeros(3))
        assert done.target is not None and (done.target[0], fired(done)) == (pytest.approx(target), rules)


def test_the_price_paid_is_the_average_of_what_was_bought() -> None:
    state, _ = holding_btc(100.0)
    state = risk.settled(state, view(account(1000.0, 80.0, 0, 0), (120.0, 10.0, 1.0)), [fill("BTC", 20.0, 120.0)])
    (btc, *_rest) = state.positions
    assert btc is not None and btc.entry == pytest.approx(105.0)  # (60 · 100 + 20 · 120) / 80
    assert (btc.best, btc.bars) == (120.0, 2)
    state = risk.settled(state, view(account(5800.0, 40.0, 0, 0), (120.0, 10.0, 1.0)), [fill("BTC", -40.0, 120.0)])
    assert state.positions[0] is not None and state.positions[0].entry == pytest.approx(105.0)
    state = risk.settled(state, view(account(10_600.0, 0.05, 0, 0), (120.0, 10.0, 1.0)), [fill("BTC", -39.95, 120.0)])
    assert state.positions == (None, None, None)  # 6 USDT are below the venue's 10: dust is no position


def test_more_orders_than_the_hour_allows_are_not_sent_sales_always_are() -> None:
    limits, (state, book) = Limits(max_orders_per_hour=3), holding_btc()
    buy, sell = Decimal(1), Decimal(-1)
    state, sent, events = risk.admit(limits, state, view(book), [("BTC", buy), ("ETH", buy)])
    assert len(sent) == 2 and events == ()
    soon = view(book, at_s=NOON_S + 600)
    state, sent, events = risk.admit(limits, state, soon, [("BTC", buy), ("ETH", sell), ("LTC", buy)])
    assert sent == (("ETH", sell),) and [e.ticker for e in events] == ["BTC", "LTC"]
    state = risk.settled(state, view(book, at_s=NOON_S + 3600), [])
    assert state.sent == ((NOON_S + 600, 1),)
    assert len(risk.admit(limits, state, view(book, at_s=NOON_S + 3600), [("BTC", buy), ("LTC", buy)])[1]) == 2
