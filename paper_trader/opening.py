"""How an account begins: the history its features stand on, the terms it trades at, what it holds. Then, is it the same?"""

import json
from collections.abc import Mapping
from decimal import Decimal

from daemon.child.config import Config
from features.bars import Bars, epoch_s, utc_text
from features.costs import Costs
from features.errors import ConfigurationError
from features.ledger import Ledger
from features.sources.base import BarSource
from features.spec import FeatureSpec
from features.venue_rules import VenueRules
from paper_trader import anchoring
from paper_trader.brokers.base import Broker, BrokerUnavailable, Known
from paper_trader.journal import Journal

EXTRA_HISTORY_BARS = 500  # beyond warm-up, so that recursive features have forgotten where history began
DAY_S = 86_400


def begin(
    journal: Journal, config: Config, spec: FeatureSpec, source: BarSource, costs: Costs, rules: VenueRules,
    venue: Broker | None,
) -> None:  # fmt: skip
    """The first transaction of a journal. venue: whose account is traded, None for the embedded broker.

    Raises BrokerUnavailable while a venue does not say what the account holds.
    """
    history = _history(config, spec, source)
    meta = {
        "tickers": json.dumps(spec.tickers), "timeframe_s": str(spec.timeframe_s), "start_s": str(history.last_close_s),
        "fingerprint": spec.fingerprint, "source": source.name, "costs": json.dumps(costs.to_dict()),
        "venue_rules": json.dumps(rules.to_dict()), "broker": config.paper.broker,
        "anchor_bars": str(anchoring.EVERY_BARS),
    }  # fmt: skip
    opening = Ledger.opened(spec.tickers, config.account.initial_cash)
    if venue is not None:
        if waiting := venue.open_orders():
            raise ConfigurationError(
                f"the account has {len(waiting)} open orders", hint="cancel them: what fills later would not be ours"
            )
        older = venue.executions(after_s=history.last_close_s - 2 * DAY_S - spec.timeframe_s, booked=())
        meta["older_fills"] = json.dumps([e.execution_id for e in older])
        opening = _held(venue, spec, history)
    journal.begin(meta, history, opening)


def _held(venue: Broker, spec: FeatureSpec, history: Bars) -> Ledger:
    known = venue.account()
    if not isinstance(known, Known):
        raise BrokerUnavailable(f"the account is not known: {known.reason}")
    quantity = tuple(known.quantity[t] for t in spec.tickers)
    held = Ledger(tickers=spec.tickers, cash=known.cash, quantity=quantity, peak=Decimal(0), bars_since_trade=0)
    peak = held.equity(history.close[-1])
    if peak <= 0:
        raise ConfigurationError("the account holds nothing to trade with", hint="reset the paper account at the venue")
    return Ledger(tickers=spec.tickers, cash=known.cash, quantity=quantity, peak=peak, bars_since_trade=0)


def _history(config: Config, spec: FeatureSpec, source: BarSource) -> Bars:
    """Up to the bar at which the account opens."""
    timeframe_s, needed = spec.timeframe_s, spec.warmup_bars + EXTRA_HISTORY_BARS
    replay = config.paper.clock == "replay"
    if replay and not config.paper.replay_start_utc:
        raise ConfigurationError("paper.replay_start_utc is empty", hint="a replay needs its first bar")
    start_s = epoch_s(config.paper.replay_start_utc) if replay else source.last_close_s()
    history = source.bars(after_s=start_s - needed * timeframe_s, until_s=start_s)
    if history.n_bars and not replay:
        # The newest bar has closed by the clock, which does not mean that the venue serves it yet.
        start_s = history.last_close_s
    if history.n_bars <= spec.warmup_bars or history.last_close_s != start_s:
        raise ConfigurationError(
            f"{source.name} gives {history.n_bars} bars up to {utc_text(start_s)}, "
            f"{spec.warmup_bars + 1} are needed, the last of them closing then",
            hint="choose a later paper.replay_start_utc, on the timeframe's grid, or give more history",
        )
    return history


def require_same_account(
    meta: Mapping[str, str], config: Config, spec: FeatureSpec, costs: Costs, rules: VenueRules
) -> None:
    """Raises ConfigurationError when the journal was begun with another pipeline, broker, cost model or rules."""
    if meta["fingerprint"] != spec.fingerprint:
        raise ConfigurationError(
            "the paper journal was begun with another feature spec",
            hint="keep market.tickers and [features] as they were, or move the paper/ directory away",
        )
    if meta["broker"] != config.paper.broker:
        raise ConfigurationError(
            f"the paper journal was begun with the broker {meta['broker']}, now {config.paper.broker}",
            hint="put paper.broker back, or move the paper/ directory away",
        )
    for name, now in (("costs", costs.to_dict()), ("venue_rules", rules.to_dict())):
        if json.loads(meta[name]) != now:
            raise ConfigurationError(
                f"the paper journal was begun with other {name}: {meta[name]}, now {json.dumps(now)}",
                hint="one account has one cost model; put it back, or move the paper/ directory away",
            )
