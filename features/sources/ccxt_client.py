"""Real ccxt clients, moved to another host where asked, and what their exceptions mean.

ccxt maps 4xx statuses to ExchangeNotAvailable, a NetworkError: the status decides here, so that only 5xx is repeated.
"""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from features.errors import ConfigurationError
from features.sources.ccxt_library import errors, exchange_class
from features.sources.keys import KeyPair
from features.sources.reader import ANSWER_TIMEOUT_S, Trouble, checked_api_url, quiet_clients

PARSING = (TypeError, KeyError)  # what ccxt raises over an answer of unexpected form
MISCONFIGURED = (errors.BadSymbol, errors.NotSupported, errors.ArgumentsRequired)
SPOKEN = (
    ((errors.RateLimitExceeded, errors.DDoSProtection), Trouble.RATE_LIMITED),
    (errors.OnMaintenance, Trouble.MAINTENANCE),
    (errors.AuthenticationError, Trouble.KEYS_REFUSED),
    ((errors.BadSymbol, errors.NotSupported, errors.ArgumentsRequired), Trouble.MISCONFIGURED),
    (errors.InvalidNonce, Trouble.REFUSED),
)


def open_client(
    exchange: str, *, urls: Mapping[str, Any] | None = None, keys: KeyPair | None = None,
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> Any:  # fmt: skip
    """A spot client of `exchange`. urls: overrides ccxt's `urls`, see `urls_for`. timeout_s: per connect and per read.

    keys: needed by the `alpaca` class alone, whose list of pairs is not public; it is only ever given the paper
    account's host. Raises ConfigurationError for an unknown exchange or absent keys.
    """
    quiet_clients()
    options: dict[str, Any] = {"defaultType": "spot"}
    if exchange.startswith("binance"):
        options["fetchMarkets"] = {"types": ["spot"]}  # else it also asks the futures hosts
    settings: dict[str, Any] = {"enableRateLimit": True, "timeout": int(timeout_s * 1000), "options": options}
    if urls:
        settings["urls"] = dict(urls)
    if exchange == "alpaca":
        if keys is None:
            raise ConfigurationError(
                "ccxt's alpaca lists its pairs only to an account",
                hint="supply the credentials alpaca_key_id and alpaca_secret_key, or set market.source = alpaca",
            )
        settings |= {"apiKey": keys.key_id, "secret": keys.secret}
    client = exchange_class(exchange)(settings)
    client.throttle = _unmoved_by_clocks(client)
    if exchange == "alpaca" and not urls:  # with urls of our own this call would put the real hosts back
        client.set_sandbox_mode(True)
    return client


def _unmoved_by_clocks(client: Any) -> Callable[[Any], None]:
    """The client's throttle. It subtracts wall clocks, and one put back by an hour would have it sleep for an hour."""
    throttle = client.throttle

    def waits_once(cost: Any = None) -> None:
        client.lastRestRequestTimestamp = min(client.lastRestRequestTimestamp, client.milliseconds())
        throttle(cost)

    return waits_once


def urls_for(exchange: str, api_url: str) -> dict[str, Any]:
    """ccxt's `urls` with every endpoint of `exchange` moved to the host `api_url`, paths kept; {} when api_url is "".

    So binance's public endpoint becomes `api_url/api/v3`, kraken's and alpaca's plain `api_url`; and no request can
    leave for the exchange's own hosts by an endpoint somebody forgot. Raises ConfigurationError.
    """
    if not api_url:
        return {}
    host = checked_api_url(api_url)

    def moved(url: Any) -> Any:
        if isinstance(url, Mapping):
            return {name: moved(inner) for name, inner in url.items()}
        return host + urlsplit(str(url)).path

    return {"api": moved(exchange_class(exchange)().urls["api"])}


def classify(error: BaseException, status: int | None) -> Trouble | None:
    """What an exception of a ccxt client means; status: of the answer it arose from, None where there was none."""
    if not isinstance(error, (errors.BaseError, *PARSING)):
        return None
    for kinds, trouble in SPOKEN:
        if isinstance(error, kinds):
            return trouble
    if status is not None and status >= 400:
        return Trouble.PASSING if status >= 500 else Trouble.REFUSED
    return Trouble.PASSING if isinstance(error, (errors.OperationFailed, *PARSING)) else Trouble.REFUSED
