"""Published wealth of online portfolio selection, earned through this account: what its arithmetic must not lose.

With every bar opening at the previous close, no costs, lots, minimum or limits, "decide at close t, fill at open t + 1"
is the literature's protocol. The wealth of vectors.json then comes out to RTOL, over 5,651 days and 18 orders of
magnitude too: whatever the account leaves unspent against rounding must not add up.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from olps import Strategy, best_constant, classic_bars, data_path, hold, olmar2, rebalanced, relatives, strategies
from world import REAL

from features.account import fill_trades, settle, worth
from features.allocation import Limits, Lots, limit_weights, plan_trades
from features.bars import Bars
from features.costs import Costs
from features.ledger import Ledger
from features.venue_rules import VenueRules
from trainer.baselines import run_baselines
from trainer.evaluate import Arena, run_targets

VECTORS = REAL.parents[1] / "vectors.json"
PUBLISHED = json.loads(VECTORS.read_text())["ops"] if VECTORS.exists() else {}
UNLIMITED = Limits(min_cash_reserve=0.0, max_weight=1.0, no_trade_band=0.0)
FREE = Costs(fee_bps=0.0, half_spread_bps=0.0, slippage_bps=0.0, fee_in="quote")
RTOL = 1e-11  # the worst of the 18 below is 1.9e-12, OLMAR-2 on nyse_o
CASH = 1e6  # the ledger's opening; large beside the 1e-8 of the quote currency that it keeps back per ticker

QUICK = [
    *(("djia", name) for name in ("Market", "Best", "UCRP", "EG_eta_0_05", "PAMR_eps_0_5", "OLMAR2_alpha_0_5_eps_10")),
    *(("tse", name) for name in ("Market", "Best", "UCRP", "PAMR_eps_0_5", "OLMAR2_alpha_0_5_eps_10")),
    *(("nyse_o", name) for name in ("Market", "Best", "OLMAR2_alpha_0_5_eps_10")),
]
LONG = [("tse", "EG_eta_0_05"), *(("nyse_o", name) for name in ("UCRP", "EG_eta_0_05", "PAMR_eps_0_5"))]


def market(name: str) -> Bars:
    if not data_path(name).exists() or not PUBLISHED:
        pytest.skip(f"{name} is not beside this checkout")
    return classic_bars(name)


def array_wealth(strategy: Strategy, bars: Bars, *, fee: float = 0.0) -> float:
    """Final wealth from 1 by plan_trades, fill_trades and settle: decide at a close, fill at the next open."""
    cash, quantity, none = np.array(1.0), np.zeros(bars.n_tickers), np.zeros(bars.n_tickers)
    x, wanted = relatives(bars), next(strategy)
    for k in range(bars.n_bars - 1):
        if wanted is not None:
            held = worth(cash=cash, quantity=quantity, price=bars.close[k], peak=cash)
            delta = plan_trades(
                target=limit_weights(wanted, UNLIMITED), value=held.value, equity=held.equity, quantity=quantity,
                price=bars.close[k], lots=Lots.of(none), min_notional=none,
            )  # fmt: skip
            filled = fill_trades(
                delta=delta, cash=cash, quantity=quantity, open_price=bars.open[k + 1], volume=bars.volume[k + 1],
                tradable=~bars.filled[k + 1], lots=Lots.of(none), fee=fee, price_impact=0.0, fee_in_received=False,
                max_volume_share=0.0,
            )  # fmt: skip
            cash, quantity = settle(cash, quantity, filled)
        wanted = strategy.send(x[k])
    return float(worth(cash=cash, quantity=quantity, price=bars.close[-1], peak=cash).equity)


def ledger_wealth(strategy: Strategy, bars: Bars) -> float:
    """The same in Decimal, by the loop that evaluates policies."""
    x = relatives(bars)

    def target(k: int, _: Ledger) -> np.ndarray | None:
        return next(strategy) if k == 0 else strategy.send(x[k - 1])

    rules = VenueRules.uniform("paper", bars.tickers, lot="0", min_notional="0")
    arena = Arena(initial_cash=CASH, costs=FREE, limits=UNLIMITED, rules=rules)
    return float(run_targets("published", target, bars, range(bars.n_bars), arena).equity[-1]) / CASH


def published(data: str, name: str) -> float:
    return float(PUBLISHED[data]["computed"][name])


@pytest.mark.parametrize(
    ("data", "name"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in LONG)], ids=str
)
def test_the_arrays_earn_the_published_wealth(data: str, name: str) -> None:
    bars = market(data)
    assert bars.close[1:].shape == tuple(PUBLISHED[data]["shape"])
    wealth = array_wealth(strategies(bars)[name](), bars)
    assert wealth == pytest.approx(published(data, name), rel=RTOL)


@pytest.mark.parametrize(
    "data", ["djia", pytest.param("tse", marks=pytest.mark.slow), pytest.param("nyse_o", marks=pytest.mark.slow)]
)
def test_the_best_constant_proportions_earn_the_published_digits_and_nothing_earns_more(data: str) -> None:
    """vectors.json gives BCRP by its digits. Optimality (Cover 1991): no asset has mean(x / b·x) above 1."""
    bars, digits = market(data), repr(published(data, "BCRP"))
    x = relatives(bars)
    b = best_constant(x)
    assert (x / (x @ b)[:, None]).mean(axis=0).max() <= 1.0 + 1e-6
    wealth = array_wealth(rebalanced(b), bars)
    assert f"{wealth:.{len(digits.partition('.')[2])}f}" == digits
    assert wealth > max(array_wealth(hold(one), bars) for one in np.eye(bars.n_tickers))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        *(("djia", name) for name in ("Market", "UCRP", "PAMR_eps_0_5", "OLMAR2_alpha_0_5_eps_10")),
        ("tse", "OLMAR2_alpha_0_5_eps_10"),
        pytest.param("nyse_o", "OLMAR2_alpha_0_5_eps_10", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_decimal_ledger_earns_the_published_wealth(data: str, name: str) -> None:
    bars = market(data)
    assert ledger_wealth(strategies(bars)[name](), bars) == pytest.approx(published(data, name), rel=RTOL)


def alternating(n_bars: int) -> Bars:
    """Cash-like asset at 1 beside one that doubles and halves in turn (Cover 1991)."""
    close = np.ones((n_bars, 2))
    close[1::2, 1] = 2.0
    opened = np.vstack([close[:1], close[:-1]])
    return Bars(
        tickers=("CASH", "SWING"), timeframe_s=3600, close_time_s=3600 * np.arange(1, n_bars + 1, dtype=np.int64),
        open=opened, close=close, high=np.maximum(opened, close), low=np.minimum(opened, close),
        volume=np.ones_like(close), filled=np.zeros(close.shape, dtype=bool),
    )  # fmt: skip


def test_rebalancing_earns_nine_eighths_every_two_bars_where_holding_earns_nothing() -> None:
    bars, half = alternating(21), np.array([0.5, 0.5])
    assert array_wealth(rebalanced(half), bars) == pytest.approx((9 / 8) ** 10, rel=1e-13)  # 3.247321025468409
    assert ledger_wealth(rebalanced(half), bars) == pytest.approx((9 / 8) ** 10, rel=1e-12)
    assert array_wealth(hold(half), bars) == pytest.approx(1.0, rel=1e-13)


def at_the_close(bars: Bars) -> Bars:
    """The same candles, opened at the previous close: fills at the decision's own price, as method.md's table has it."""
    opened = np.vstack([bars.close[:1], bars.close[:-1]])
    return replace(bars, open=opened, high=np.maximum(bars.high, opened), low=np.minimum(bars.low, opened))


@pytest.mark.slow
def test_hourly_olmar_turns_thousands_fold_into_ruin_at_ten_basis_points(real_bars: Bars) -> None:
    """The best test of costs: about 11,300 times the wealth is traded in a year. At the true next open it earns less."""
    n = real_bars.n_tickers
    assert array_wealth(olmar2(n), at_the_close(real_bars)) == pytest.approx(26_681, rel=0.1)  # 25,438
    assert 5_000 < array_wealth(olmar2(n), real_bars) < 15_000  # 9,950
    assert array_wealth(olmar2(n), real_bars, fee=1e-3) < 1e-9


TABLE = {
    "hold BTC": (398, 397),
    "1/N hold": (240, 239),
    "1/N daily": (411, 389),
    "inverse volatility 30 d": (426, 400),
}  # return in per cent at 10 and 25 bp (method, window A)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_the_baselines_earn_what_the_table_of_the_method_says(name: str, real_bars: Bars) -> None:
    bars = at_the_close(real_bars)
    rules = VenueRules.uniform("paper", bars.tickers, lot="0", min_notional="0")
    for fee_bps, per_cent in zip((10.0, 25.0), TABLE[name], strict=True):
        arena = Arena(initial_cash=CASH, costs=FREE.with_fee_bps(fee_bps), limits=UNLIMITED, rules=rules)
        run = run_baselines(bars, range(bars.n_bars), arena, only=name)[name]
        assert 100.0 * (run.equity[-1] / CASH - 1.0) == pytest.approx(per_cent, rel=0.05)
