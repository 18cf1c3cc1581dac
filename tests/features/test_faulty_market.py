"""What bars, features and account do with a market at its worst: gaps are flagged, numbers stay finite, nobody trades."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from faulty_market import SPIKE, SURVIVED, duplicated, missing, spiked, stale

from features.bars import Bars, bars_from_candles, candles_from_bars
from features.costs import Costs
from features.errors import DataError
from features.ledger import Fill, Ledger, plan_orders, simulate_fills
from features.pipeline import FeatureStream, compute
from features.scaling import CLIP, Scaler
from features.sources.simulated import simulate
from features.spec import preset
from features.venue_rules import VenueRules

TICKERS = ("BTC", "ETH", "LTC")
HOUR_S = 3600
PRESETS = ("stationary", "classic")
FULL = simulate(world="sv", seed=2, bars=960, tickers=TICKERS, timeframe_s=HOUR_S, start_s=1_609_459_200)
CANDLES = candles_from_bars(FULL)
COSTS = Costs(fee_bps=25.0, half_spread_bps=2.0, slippage_bps=3.0, max_volume_share=0.05)
RULES = VenueRules.uniform("here", TICKERS)


def market(fault: str) -> Bars:
    return bars_from_candles(SURVIVED[fault](CANDLES), tickers=TICKERS, timeframe_s=HOUR_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traded:
    fills: tuple[Fill, ...]
    equity: np.ndarray
    ledger: Ledger


def traded(bars: Bars, *, start: int = 680, costs: Costs = COSTS) -> Traded:
    """An account that wants other weights at every close."""
    rng = np.random.default_rng(3)
    ledger, fills, equity = Ledger.opened(TICKERS, 10_000.0), [], []
    for k in range(start, bars.n_bars - 1):
        orders = plan_orders(ledger, rng.dirichlet(np.ones(4))[:3], bars.close[k], RULES)
        done = simulate_fills(ledger, orders, bars.slice(k + 1, k + 2), costs, RULES)
        ledger = ledger.book(done).marked(bars.close[k + 1])
        fills += done
        equity.append(float(ledger.equity(bars.close[k + 1])))
    return Traded(fills=tuple(fills), equity=np.array(equity), ledger=ledger)


@pytest.mark.parametrize("fault", SURVIVED)
def test_what_is_missing_is_filled_at_the_last_close_and_flagged_and_nothing_else_is(fault: str) -> None:
    bars, handed = market(fault), SURVIVED[fault](CANDLES)
    assert bars.n_bars == FULL.n_bars
    assert (~bars.filled).sum() == len(handed)
    t, n = np.nonzero(bars.filled)
    for name in ("open", "high", "low", "close"):
        np.testing.assert_array_equal(getattr(bars, name)[t, n], bars.close[t - 1, n])
    assert not bars.volume[t, n].any()
    given = candles_from_bars(bars).set_index(["time", "ticker"]).sort_index()
    assert given.equals(handed.set_index(["time", "ticker"]).sort_index()[given.columns.tolist()])


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("fault", SURVIVED)
def test_features_stay_finite_and_the_stream_gives_the_bits_of_the_batch(fault: str, name: str) -> None:
    bars = market(fault)
    spec = preset(name, tickers=TICKERS, timeframe_s=HOUR_S)
    rows = compute(bars, spec)  # FeatureRows itself refuses what is not finite
    live = FeatureStream(spec, bars.slice(0, 690))
    for k in range(690, bars.n_bars):
        got, r = live.update(bars.slice(k, k + 1)), k - spec.warmup_bars
        assert got.asset[0].tobytes() == rows.asset[r].tobytes(), k
        assert got.shared[0].tobytes() == rows.shared[r].tobytes(), k
    calm = Scaler.fit(rows.slice(0, 690 - spec.warmup_bars), spec).transform(rows)
    assert np.isfinite(calm.asset).all()
    assert np.abs(calm.asset).max() <= CLIP


@pytest.mark.parametrize("share", [0.0, 0.05])
@pytest.mark.parametrize("fault", SURVIVED)
def test_nobody_trades_on_a_filled_bar_or_beyond_a_share_of_the_volume(fault: str, share: float) -> None:
    """A share of 0 is no limit: what keeps the account off a filled bar then is the flag, not its volume of 0."""
    bars = market(fault)
    account = traded(bars, costs=replace(COSTS, max_volume_share=share))
    assert len(account.fills) > 300
    for fill in account.fills:
        k, n = bars.index_of(fill.close_time_s), TICKERS.index(fill.ticker)
        assert not bars.filled[k, n]
        assert share == 0.0 or float(abs(fill.quantity)) <= share * bars.volume[k, n]
    assert np.isfinite(account.equity).all()
    assert account.equity.min() > 0
    assert account.ledger.cash >= 0


def test_a_delisted_coin_is_held_to_the_end_at_its_last_price() -> None:
    bars = market("a delisting")
    last_true_s = int(bars.close_time_s[699])
    of_ltc = [f for f in traded(bars).fills if f.ticker == "LTC"]
    assert of_ltc and max(f.close_time_s for f in of_ltc) <= last_true_s
    assert bars.filled[700:, 2].all() and not bars.filled[:, :2].any()
    held = sum(f.quantity - f.fee_base for f in of_ltc)
    ledger = traded(bars).ledger
    assert ledger.quantity[2] == held > 0
    assert float(ledger.equity(bars.close[-1])) == pytest.approx(
        float(ledger.cash) + float(ledger.quantity_array() @ np.append(bars.close[-1, :2], FULL.close[699, 2]))
    )


def test_a_coin_without_volume_is_not_traded() -> None:
    bars = market("ten days without volume")
    silent = set(bars.close_time_s[700:940].tolist())
    tickers = [f.ticker for f in traded(bars).fills if f.close_time_s in silent]
    assert "ETH" not in tickers and "BTC" in tickers
    assert not bars.filled.any(), "a venue's own candle of no volume is a true one"


def test_a_spike_reaches_the_equity_of_who_holds_the_coin_and_leaves_with_the_price() -> None:
    bars = market("a spike of 43 %")
    assert bars.close[700, 2] / bars.open[700, 2] - 1 == pytest.approx(SPIKE)
    jump = np.abs(np.diff(np.log(traded(bars).equity)))
    calm = np.abs(np.diff(np.log(traded(FULL).equity)))
    assert jump[10:30].max() > 3 * calm[10:30].max()


def test_a_stale_quote_is_no_gap_and_has_neither_return_nor_range() -> None:
    """Nothing in the candles tells a stale quote from a quiet hour; how old data may be is the trader's limit."""
    bars = market("ten days of one stale quote")
    assert not bars.filled.any()
    assert not np.diff(np.log(bars.close[699:940, 0])).any()
    assert (bars.high[700:940, 0] == bars.low[700:940, 0]).all()


def test_two_candles_for_one_hour_are_refused_by_name_whether_they_agree_or_not() -> None:
    for revised in ({}, {"close": float(FULL.close[700, 1]), "volume": 1.0}):
        table = duplicated(CANDLES, at=700, ticker="ETH", **revised)
        with pytest.raises(DataError, match="two candles for ETH closing at 2021-01-30T05:00:00Z"):
            bars_from_candles(table, tickers=TICKERS, timeframe_s=HOUR_S)


def test_faults_do_what_their_names_say() -> None:
    """Sums by hand: 3 tickers by 4 hours are gone; an open, a close and two highs move; the quote stands still."""
    assert len(CANDLES) - len(missing(CANDLES, span=range(700, 704))) == 12
    changed = (
        spiked(CANDLES, at=700, ticker="LTC").set_index(["time", "ticker"]) != CANDLES.set_index(["time", "ticker"])
    ).sum()
    assert changed.to_dict() == {"open": 1, "high": 2, "low": 0, "close": 1, "volume": 0}
    still = stale(CANDLES, span=range(10, 13), ticker="BTC")
    assert still["close"].nunique() == CANDLES["close"].nunique() - 3
