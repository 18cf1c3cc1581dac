"""Opens the configured broker; a venue's library is loaded only when it is chosen."""

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING

from daemon.child.config import Config
from features.errors import ConfigurationError
from features.sources.keys import KeyPair

if TYPE_CHECKING:
    from paper_trader.brokers.alpaca import AlpacaBroker
    from paper_trader.brokers.binance import BinanceBroker


def venue_broker(
    config: Config, *, keys: KeyPair | None, now_s: Callable[[], float], beat: Callable[[], None]
) -> "AlpacaBroker | BinanceBroker | None":
    """The venue's account as paper.broker says; None for the embedded one, which needs no venue."""
    name = config.paper.broker
    if name == "simulated":
        return None
    if keys is None:
        raise ConfigurationError(
            f"paper.broker is {name}, its credentials are missing",
            hint="supply the two files that run.credentials_dir's comment in config.toml names",
        )
    tickers, quote, url = config.market.tickers, config.market.quote, config.paper.broker_url
    if name == "alpaca":
        from paper_trader.brokers.alpaca import AlpacaBroker

        fee = Decimal(repr(config.costs.fee_bps)) / 10_000
        return AlpacaBroker(keys=keys, tickers=tickers, quote=quote, fee=fee, now_s=now_s, beat=beat, url=url)
    from paper_trader.brokers.binance import BinanceBroker

    return BinanceBroker(keys=keys, tickers=tickers, quote=quote, now_s=now_s, beat=beat, url=url)
