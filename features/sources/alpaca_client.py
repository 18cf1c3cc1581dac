"""alpaca-py's REST clients with a timeout and without their own retries, and what their exceptions mean.

alpaca-py 0.44 sets no HTTP timeout at all and repeats a 429 or 504 three times, 3 s apart, whatever the request was;
no constructor can change either. Both are private attributes, so their names are checked when a client is opened.
"""

from typing import Any, TypeVar

import requests
from alpaca.common.exceptions import APIError
from alpaca.common.rest import RESTClient
from alpaca.data.historical import CryptoHistoricalDataClient
from alpaca.trading.client import TradingClient
from requests.adapters import HTTPAdapter

from features.errors import ConfigurationError
from features.sources.keys import KeyPair
from features.sources.reader import CONNECT_TIMEOUT_S, Trouble, checked_api_url, quiet_clients

Client = TypeVar("Client", bound=RESTClient)

PARSING = (TypeError, KeyError, AttributeError, ValueError)  # an answer of unexpected form, in alpaca-py or after it


def open_data_client(*, keys: KeyPair | None, api_url: str, timeout_s: float) -> CryptoHistoricalDataClient:
    """Crypto candles; keys are optional, they raise the venue's rate limit. timeout_s: per read of the answer."""
    return _bounded(
        CryptoHistoricalDataClient(
            api_key=keys.key_id if keys else None, secret_key=keys.secret if keys else None, raw_data=True,
            url_override=checked_api_url(api_url) if api_url else None,
        ),
        timeout_s,
    )  # fmt: skip


def open_trading_client(*, keys: KeyPair, api_url: str, timeout_s: float) -> TradingClient:
    """The paper account's API; the one for real money cannot be reached from here."""
    return _bounded(
        TradingClient(
            api_key=keys.key_id, secret_key=keys.secret, paper=True, raw_data=True,
            url_override=checked_api_url(api_url) if api_url else None,
        ),
        timeout_s,
    )  # fmt: skip


def session_of(client: RESTClient) -> requests.Session:
    return client._session  # noqa: SLF001  alpaca-py offers no public one


def classify(error: BaseException, status: int | None) -> Trouble | None:
    """What an exception of an alpaca-py client means; status: of the answer it arose from, None where there was none."""
    if isinstance(error, APIError):
        match status or 0:
            case 429:
                return Trouble.RATE_LIMITED
            case 401 | 403:
                return Trouble.KEYS_REFUSED
            case 400 | 404 | 422:
                return Trouble.MISCONFIGURED
            case answered:
                return Trouble.PASSING if answered >= 500 else Trouble.REFUSED
    if isinstance(error, (requests.RequestException, *PARSING)):
        return Trouble.PASSING
    return None


class _Timed(HTTPAdapter):
    """Gives every request that names none a timeout."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout = (min(CONNECT_TIMEOUT_S, timeout_s), timeout_s)
        super().__init__()

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        return super().send(request, **{**options, "timeout": options.get("timeout") or self._timeout})


def _bounded(client: Client, timeout_s: float) -> Client:
    quiet_clients()
    absent = [name for name in ("_session", "_retry") if not hasattr(client, name)]
    if absent:
        raise ConfigurationError(
            f"this alpaca-py has no {', '.join(absent)} on its clients: their timeout and retries cannot be bounded",
            hint="install the version that constraints.txt names",
        )
    client._retry = 0  # noqa: SLF001
    for scheme in ("https://", "http://"):
        session_of(client).mount(scheme, _Timed(timeout_s))
    return client
