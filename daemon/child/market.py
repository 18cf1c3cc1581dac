"""The configured market: one way for every program to open its bar source and know its feature spec and rules."""

import json
from collections.abc import Callable
from pathlib import Path

from daemon.child.config import Config
from features.allocation import Limits
from features.costs import Costs
from features.sources import open_source
from features.sources.base import BarSource
from features.spec import FeatureSpec, preset
from features.venue_rules import VenueRules


def feature_spec(config: Config) -> FeatureSpec:
    """What the configured pipeline computes."""
    return preset(
        config.features.preset, tickers=config.market.tickers, timeframe_s=config.market.timeframe_s,
        stack_bars=config.features.stack_bars,
    )  # fmt: skip


def bar_source(config: Config, now_s: Callable[[], float]) -> BarSource:
    """The configured source; `now_s` is the wall clock in UTC epoch seconds, which live sources ask."""
    market, simulation = config.market, config.simulation
    return open_source(
        source=market.source, exchange=market.exchange, quote=market.quote, tickers=market.tickers,
        timeframe_s=market.timeframe_s, recorded_path=market.recorded_path, grace_s=market.grace_s,
        history_bars=market.history_bars, world=simulation.world, seed=simulation.seed, bars=simulation.bars,
        start_utc=simulation.start_utc, oracle_sharpe=simulation.oracle_sharpe, clock_now_s=now_s,
    )  # fmt: skip


def costs(config: Config) -> Costs:
    c = config.costs
    return Costs(
        fee_bps=c.fee_bps, half_spread_bps=c.half_spread_bps, slippage_bps=c.slippage_bps, fee_in=c.fee_in,
        max_volume_share=c.max_volume_share,
    )  # fmt: skip


def limits(config: Config) -> Limits:
    a = config.allocation
    return Limits(min_cash_reserve=a.min_cash_reserve, max_weight=a.max_weight, no_trade_band=a.no_trade_band)


def venue_rules(config: Config, state_dir: Path) -> VenueRules:
    """The rules stored beside the data, or uniform ones until a download has stored the venue's own."""
    stored = state_dir / "market" / "venue_rules.json"
    if stored.exists():
        return VenueRules.from_dict(json.loads(stored.read_bytes()))
    return VenueRules.uniform(config.market.source, config.market.tickers)
