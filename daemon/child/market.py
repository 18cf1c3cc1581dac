"""The configured market: one way for every program to open its bar source and know its feature spec and rules."""

import json
from collections.abc import Callable
from pathlib import Path

from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.child.credentials import alpaca_keys
from features.allocation import Limits
from features.costs import Costs
from features.files import Lock, write_atomic
from features.sources import open_source
from features.sources.base import BarSource
from features.sources.errors import MarketUnavailable
from features.spec import FeatureSpec, preset
from features.venue_rules import VenueRules

LONGEST_NAP_S = 2.0  # a waiting child is still seen alive, and stops when told


def feature_spec(config: Config) -> FeatureSpec:
    """What the configured pipeline computes."""
    return preset(
        config.features.preset, tickers=config.market.tickers, timeframe_s=config.market.timeframe_s,
        stack_bars=config.features.stack_bars,
    )  # fmt: skip


def bar_source(
    config: Config, clock: Clock, *, beat: Callable[[], None] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False, listen: bool = False,
) -> BarSource:  # fmt: skip
    """The configured source. `beat` is called while a live source works or waits, at least every few seconds.

    listen: also to the venue's stream, where it has one; one process at a time, as Alpaca allows one connection per
    account. A stop that is asked for while it waits raises MarketUnavailable.
    """

    def sleep(seconds: float) -> None:
        until_s = clock.monotonic_s() + seconds
        while (left_s := until_s - clock.monotonic_s()) > 0:
            if should_stop():
                raise MarketUnavailable("a stop was asked for while waiting for the market")
            beat()
            clock.sleep(min(left_s, LONGEST_NAP_S))

    market, simulation = config.market, config.simulation
    of_alpaca = market.source == "alpaca" or (market.source == "ccxt" and market.exchange == "alpaca")
    return open_source(
        source=market.source, exchange=market.exchange, quote=market.quote, tickers=market.tickers,
        timeframe_s=market.timeframe_s, recorded_path=market.recorded_path, grace_s=market.grace_s,
        history_bars=market.history_bars, world=simulation.world, seed=simulation.seed, bars=simulation.bars,
        start_utc=simulation.start_utc, oracle_sharpe=simulation.oracle_sharpe,
        clock_now_s=lambda: clock.now_utc().timestamp(), sleep=sleep, beat=beat, api_url=market.api_url,
        keys=alpaca_keys(Path(config.run.credentials_dir)) if of_alpaca else None,
        stream_clock_s=clock.monotonic_s if listen else None,
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
    """The stored rules of the venue; the uniform ones before any program has read the market."""
    stored = state_dir / "market" / "venue_rules.json"
    if stored.exists():
        return VenueRules.from_dict(json.loads(stored.read_bytes()))
    return VenueRules.uniform(config.market.source, config.market.tickers)


def store_venue_rules(source: BarSource, state_dir: Path) -> None:
    """Write down the venue's rules, once: whoever opens the market first does it for all."""
    stored = state_dir / "market" / "venue_rules.json"
    with Lock(state_dir / "run" / "market.lock", wait=True):
        if not stored.exists():
            write_atomic(stored, json.dumps(source.venue_rules().to_dict(), indent=1).encode())
