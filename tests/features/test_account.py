"""What an order becomes: fees, lots, minimums, limits, filled bars. That all books agree: test_account_books.py."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import random_bars

from features.allocation import Limits, Lots, target_weights
from features.costs import Costs
from features.errors import ConfigurationError, DataError
from features.ledger import Fill, Ledger, plan_orders, sendable_orders, simulate_fills
from features.venue_rules import TickerRule, VenueRules

LIMITS = Limits(min_cash_reserve=0.02, max_weight=0.6, no_trade_band=0.01)
TICKERS = ("BTC", "ETH", "LTC")
RULES = VenueRules.uniform("here", TICKERS)


def costs(**changes: object) -> Costs:
    return Costs(**({"fee_bps": 25.0, "half_spread_bps": 2.0, "slippage_bps": 3.0} | changes))  # type: ignore[arg-type]


def test_a_buy_pays_its_fee_in_the_coin_it_receives_and_a_sell_in_cash() -> None:
    bars = random_bars(1, n_bars=3)
    cost = costs(half_spread_bps=0.0, slippage_bps=0.0)
    start = Ledger.opened(TICKERS, 10_000.0)
    (buy,) = simulate_fills(start, (("BTC", Decimal("0.1")),), bars.slice(1, 2), cost, RULES)
    assert buy.fee_quote == 0 and buy.fee_base == Decimal("0.000250000")
    held = start.book([buy])
    assert held.quantity[0] == Decimal("0.09975")  # 0.1 less 25 bp, as Alpaca books it
    (sell,) = simulate_fills(held, (("BTC", Decimal("-0.05")),), bars.slice(2, 3), cost, RULES)
    assert sell.fee_base == 0
    assert sell.fee_quote == pytest.approx(Decimal("0.05") * sell.price * Decimal("0.0025"), abs=Decimal("1e-8"))


def test_value_is_conserved_to_the_last_digit() -> None:
    bars = random_bars(2, n_bars=60)
    ledger, fills = Ledger.opened(TICKERS, 5_000.0), []
    rng = np.random.default_rng(2)
    for k in range(59):
        orders = plan_orders(ledger, rng.dirichlet(np.ones(4))[:3] * 0.9, bars.close[k], RULES)
        done = simulate_fills(ledger, orders, bars.slice(k + 1, k + 2), costs(), RULES)
        fills += done
        ledger = ledger.book(done).marked(bars.close[k + 1])
    assert len(fills) > 50
    assert ledger.cash == Decimal("5000.0") - sum(f.quantity * f.price + f.fee_quote for f in fills)
    for i, ticker in enumerate(TICKERS):
        assert ledger.quantity[i] == sum(f.quantity - f.fee_base for f in fills if f.ticker == ticker)
    assert ledger.fees == sum(f.fee_value for f in fills)


def test_a_higher_fee_never_raises_wealth_for_the_same_targets() -> None:
    bars = random_bars(3, n_bars=200)
    wealth = []
    for fee_bps in (0.0, 10.0, 25.0, 50.0):
        ledger, rng = Ledger.opened(TICKERS, 10_000.0), np.random.default_rng(3)
        for k in range(199):
            orders = plan_orders(ledger, rng.dirichlet(np.ones(4))[:3] * 0.9, bars.close[k], RULES)
            ledger = ledger.book(
                simulate_fills(ledger, orders, bars.slice(k + 1, k + 2), costs(fee_bps=fee_bps), RULES)
            )
        wealth.append(ledger.equity(bars.close[-1]))
    assert wealth == sorted(wealth, reverse=True) and len(set(wealth)) == 4


def test_nobody_trades_on_a_filled_bar() -> None:
    bars = random_bars(4, n_bars=300)
    at = int(np.argwhere(bars.filled[:, 0])[0][0])
    fills = simulate_fills(
        Ledger.opened(TICKERS, 10_000.0), (("BTC", Decimal(1)),), bars.slice(at, at + 1), costs(), RULES
    )
    assert fills == ()


def test_a_volume_share_leaves_the_rest_of_the_order_unfilled() -> None:
    bars = random_bars(5, n_bars=3)
    available = bars.volume[1, 2]
    (fill,) = simulate_fills(
        Ledger.opened(TICKERS, 1e9), (("LTC", Decimal(10**6)),), bars.slice(1, 2), costs(max_volume_share=0.01), RULES
    )
    assert float(fill.quantity) == pytest.approx(0.01 * available, abs=1e-5)


def test_lots_and_minimums_belong_to_the_ticker_not_to_its_position() -> None:
    rule = {
        "BTC": TickerRule(lot="0.01", tick="1", min_notional="500"),
        "ETH": TickerRule(lot="1", tick="1", min_notional="1"),
    }
    rules = VenueRules(venue="v", rules=tuple(rule.items()))
    price = {"BTC": 100.0, "ETH": 50.0}
    orders = []
    for tickers in (("BTC", "ETH"), ("ETH", "BTC")):
        ledger = Ledger.opened(tickers, 1_000.0)
        target = np.array([{"BTC": 0.4, "ETH": 0.33}[t] for t in tickers])
        orders.append(dict(plan_orders(ledger, target, np.array([price[t] for t in tickers]), rules)))
    assert orders[0] == orders[1] == {"ETH": Decimal(6)}  # 400 of BTC is under its 500; 330 / 50 = 6.6 → 6


def test_lots_round_towards_zero_and_keep_whole_numbers_whole() -> None:
    lot = np.array([0.1, 0.1, 0.1, 0.0])
    np.testing.assert_allclose(Lots.of(lot).whole(np.array([0.3, -0.37, 0.09, 0.123])), [0.3, -0.3, 0.0, 0.123])


@given(raw=st.lists(st.floats(-30, 30), min_size=5, max_size=5), held=st.floats(0, 0.3))
def test_targets_stay_on_the_simplex_within_cap_and_reserve(raw: list[float], held: float) -> None:
    target = target_weights(np.array(raw), np.full(3, held), LIMITS)
    assert (target >= 0).all() and (target <= LIMITS.max_weight + 1e-12).all()
    assert target.sum() <= 1 - LIMITS.min_cash_reserve + 1e-12


def test_permuting_the_assets_permutes_the_target() -> None:
    raw, held, order = np.array([0.3, -1.0, 2.0, 0.1, 0.5]), np.array([0.1, 0.2, 0.3]), [2, 0, 1]
    permuted = np.concatenate([raw[:3][order], raw[3:]])
    np.testing.assert_array_equal(
        target_weights(permuted, held[order], LIMITS), target_weights(raw, held, LIMITS)[order]
    )


@pytest.mark.parametrize("fee_in", ["quote", "received"])
@given(cash=st.floats(1e-9, 1e-3), seed=st.integers(0, 1_000))
def test_dust_is_traded_without_overdrawing_although_fees_are_rounded_up(fee_in: str, cash: float, seed: int) -> None:
    """Where the fee's unit is worth more than the trade; found by test_account_books at an opening cash of 1."""
    bars, rules = random_bars(6, n_bars=4), VenueRules.uniform("here", TICKERS, lot="0", min_notional="0")
    rng, ledger = np.random.default_rng(seed), Ledger.opened(TICKERS, cash)
    for k in range(3):
        orders = plan_orders(ledger, rng.dirichlet(np.ones(3)) * (k < 2), bars.close[k], rules)
        ledger = ledger.book(simulate_fills(ledger, orders, bars.slice(k + 1, k + 2), costs(fee_in=fee_in), rules))
    assert ledger.cash >= 0 and min(ledger.quantity) >= 0


def test_an_overdrawing_fill_and_senseless_costs_are_refused() -> None:
    fill = Fill(
        ticker="BTC", close_time_s=0, quantity=Decimal(2), price=Decimal(100), fee_quote=Decimal(0), fee_base=Decimal(0)
    )
    with pytest.raises(DataError, match=r"overdraw the account: -50\.0* cash"):
        Ledger.opened(TICKERS, 150.0).book([fill])
    with pytest.raises(ConfigurationError, match="fee_bps"):
        costs(fee_bps=float("nan"))


@given(
    held=st.integers(0, 10**9),
    wanted=st.integers(-(10**9), 10**9),
    lot=st.sampled_from(["0.00001", "0.001", "0.1", "0"]),
)
def test_what_is_sent_is_no_more_than_is_held_and_in_whole_lots_where_a_venue_wants_them(
    held: int, wanted: int, lot: str
) -> None:
    """The Decimal twin of `Lots` after the clamp that `plan_trades` makes; 1e-9 is the finest unit that is booked."""
    unit = Decimal("1e-9")
    account = Ledger(tickers=("A",), cash=Decimal(1), quantity=(held * unit,), peak=Decimal(1), bars_since_trade=0)
    rules = VenueRules(venue="here", rules=(("A", TickerRule(lot=lot, tick="0.01", min_notional="10")),))
    most = max(wanted * unit, -held * unit)
    cut = dict(sendable_orders([("A", wanted * unit)], account, rules, whole_lots=True)).get("A", Decimal(0))
    plain = dict(sendable_orders([("A", wanted * unit)], account, rules, whole_lots=False)).get("A", Decimal(0))
    assert plain == most and abs(cut) <= abs(most) and cut * most >= 0
    assert float(cut) == pytest.approx(float(Lots.of(np.float64(lot)).whole(np.float64(most))), abs=1e-12)
    assert Decimal(lot) == 0 or (cut % Decimal(lot) == 0 and abs(most - cut) < Decimal(lot))
