"""The configured market: one way for every program to open its bar source and know its feature spec and rules."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.child.credentials import ALPACA, BINANCE, alpaca_keys, key_pair
from features.allocation import Limits
from features.costs import Costs
from features.files import held
from features.sources import open_source
from features.sources.base import BarSource, CandleSource
from features.sources.errors import MarketUnavailable
from features.sources.keys import KeyPair
from features.sources.live import LiveSource
from features.sources.simulated import GENERATOR_VERSION
from features.sources.stored import StoredSource
from features.spec import FeatureSpec, preset
from features.store.store import CandleStore
from features.venue_rules import VenueRules

LOCK_POLL_S = 0.2
LONGEST_NAP_S = 2.0  # a waiting child is still seen alive, and stops when told


def feature_spec(config: Config) -> FeatureSpec:
    """What the configured pipeline computes."""
    return preset(
        config.features.preset, tickers=config.market.tickers, timeframe_s=config.market.timeframe_s,
        stack_bars=config.features.stack_bars,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How a program waits for a market. `beat` is called at least every few seconds, so that it is seen alive."""

    clock: Clock
    beat: Callable[[], None] = lambda: None
    should_stop: Callable[[], bool] = lambda: False

    def sleep(self, seconds: float) -> None:
        """Raises MarketUnavailable when a stop is asked for meanwhile."""
        until_s = self.clock.monotonic_s() + seconds
        while (left_s := until_s - self.clock.monotonic_s()) > 0:
            if self.should_stop():
                raise MarketUnavailable("a stop was asked for while waiting for the market")
            self.beat()
            self.clock.sleep(min(left_s, LONGEST_NAP_S))

    def pause(self) -> None:
        """While another process holds a lock."""
        self.sleep(LOCK_POLL_S)

    def now_s(self) -> float:
        return self.clock.now_utc().timestamp()


def bar_source(config: Config, state_dir: Path, waiting: Waiting, *, listen: bool = False) -> BarSource:
    """The configured source; of a live venue through the candle store, so that nothing is asked for twice.

    listen: see `open_market`.
    """
    source = open_market(config, waiting, listen=listen)
    if not isinstance(source, LiveSource):
        return source
    return StoredSource(
        candle_store(state_dir), source, venue=venue_of(config), tickers=config.market.tickers,
        timeframe_s=config.market.timeframe_s, clock_now_s=waiting.now_s, pause=waiting.pause,
    )  # fmt: skip


def candle_store(state_dir: Path) -> CandleStore:
    return CandleStore(state_dir / "market")


def venue_of(config: Config) -> str:
    """Under which name the store keeps the configured market: never that of another one's candles."""
    match config.market.source:
        case "ccxt":
            return config.market.exchange
        case "alpaca":
            return "alpaca"
        case "recorded":
            name, place = _record(config)
            return f"recorded-{name}-{_short_hash(place)}"
        case "simulated":
            world, seed = config.simulation.world, config.simulation.seed
            name, place = _record(config) if world == "bootstrap" else ("", "")
            # All but the number of bars, since a longer world begins with the shorter one. The tickers too: in some
            # worlds one's candles depend on the others.
            keys = {**asdict(config.simulation), "bars": None, "tickers": config.market.tickers}
            drawn_from = _short_hash(json.dumps([GENERATOR_VERSION, place, keys], sort_keys=True))
            return "-".join(filter(None, ("simulated", world, name, f"seed{seed}", drawn_from)))


def _record(config: Config) -> tuple[str, str]:
    """Name and place of the recorded candles."""
    path = Path(config.market.recorded_path).expanduser().resolve()
    return path.name.partition(".")[0], str(path)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def open_market(config: Config, waiting: Waiting, *, listen: bool = False) -> BarSource:
    """The configured source itself.

    listen: also to the venue's stream, where it has one; one process at a time, as Alpaca allows one connection per
    account.
    """
    market, simulation = config.market, config.simulation
    of_alpaca = market.source == "alpaca" or (market.source == "ccxt" and market.exchange == "alpaca")
    return open_source(
        source=market.source, exchange=market.exchange, quote=market.quote, tickers=market.tickers,
        timeframe_s=market.timeframe_s, recorded_path=market.recorded_path, grace_s=market.grace_s,
        history_bars=market.history_bars, world=simulation.world, seed=simulation.seed, bars=simulation.bars,
        start_utc=simulation.start_utc, oracle_sharpe=simulation.oracle_sharpe,
        clock_now_s=waiting.now_s, sleep=waiting.sleep, beat=waiting.beat, api_url=market.api_url,
        keys=alpaca_keys(Path(config.run.credentials_dir)) if of_alpaca else None,
        stream_clock_s=waiting.clock.monotonic_s if listen else None,
    )  # fmt: skip


def broker_keys(config: Config) -> KeyPair | None:
    """The credentials of the account that paper.broker names; None where there are none."""
    names = {"alpaca": ALPACA, "ccxt": BINANCE}.get(config.paper.broker)
    return None if names is None else key_pair(names, Path(config.run.credentials_dir))


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
    stored = candle_store(state_dir).venue_rules(venue_of(config), config.market.quote)
    return stored or VenueRules.uniform(config.market.source, config.market.tickers)


def store_venue_rules(config: Config, source: BarSource | CandleSource, state_dir: Path, waiting: Waiting) -> None:
    """Write down the venue's rules, once for each ticker: whoever opens the market first does it for all.

    What is written stays: accounts and studies stand on it.
    """
    store, venue, quote = candle_store(state_dir), venue_of(config), config.market.quote
    with held(state_dir / "run" / "market.lock", pause=waiting.pause):
        stored = store.venue_rules(venue, quote)
        known = {} if stored is None else dict(stored.rules)
        if set(config.market.tickers) - set(known):
            read = source.venue_rules()
            merged = {**dict(read.rules), **known}
            store.write_venue_rules(venue, quote, VenueRules(venue=read.venue, rules=tuple(sorted(merged.items()))))
