"""Strategies that a policy has to beat."""

from dataclasses import replace

import numpy as np
from world import random_bars

from features.allocation import Limits
from features.costs import Costs
from features.venue_rules import VenueRules
from trainer.baselines import run_baselines
from trainer.evaluate import Arena

ARENA = Arena(
    initial_cash=10_000.0, costs=Costs(fee_bps=25.0, half_spread_bps=2.0, slippage_bps=3.0),
    limits=Limits(min_cash_reserve=0.0, max_weight=1.0, no_trade_band=0.0),
    rules=VenueRules.uniform("here", ("BTC", "ETH", "LTC")),
)  # fmt: skip


def test_who_holds_buys_once_also_what_an_outage_keeps_back_at_first() -> None:
    bars, window = random_bars(4), range(100, 400)
    bars = replace(bars, filled=np.zeros_like(bars.filled))
    out = bars.filled.copy()
    out[101:104, 0] = True  # BTC cannot be traded at the first three fills
    for name, coins in (("hold BTC", 1), ("1/N hold", 3)):
        whole, late = (run_baselines(b, window, ARENA, only=name)[name] for b in (bars, replace(bars, filled=out)))
        assert (whole.n_fills, late.n_fills) == (coins, coins)
        assert late.cash_weight[:3].min() > 0.3 and late.cash_weight[3:].max() < 0.05


def test_nothing_that_is_held_is_sold_for_what_an_outage_kept_back() -> None:
    """The other coins have risen meanwhile: all of 1/N would be more than there is."""
    bars, window = random_bars(4), range(100, 400)
    out = np.zeros_like(bars.filled)
    out[101:200, 0] = True
    risen = {name: getattr(bars, name).copy() for name in ("open", "high", "low", "close")}
    for column in risen.values():
        column[150:, 1:] *= 2.0
    bars = replace(bars, filled=out, **risen)
    late = run_baselines(bars, window, ARENA, only="1/N hold")["1/N hold"]
    assert late.n_fills == 3 and late.cash_weight[99:].max() < 0.05
