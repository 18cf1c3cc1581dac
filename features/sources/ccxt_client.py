"""A public ccxt client whose reads either give a true answer or an error that says what to do.

Two things ccxt leaves open are closed here. An HTML page served with status 200 becomes an *empty list* of candles in
several adapters, which would pass for "no trades": a response hook refuses every 2xx body that is not JSON. And 4xx
statuses are mapped to ExchangeNotAvailable, a NetworkError: the hook keeps the status, so that only 5xx is retried.
"""

import logging
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import ccxt
import numpy as np
import structlog
import tenacity

from features.errors import CappuccinoError, ConfigurationError
from features.sources.errors import MarketUnavailable

log = structlog.get_logger()
Answer = TypeVar("Answer")

TIMEOUT_MS = 10_000
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
PATIENCE_S = 60.0  # waited or spent in one read before giving up
RATE_LIMIT_WAIT_S = 60.0  # where a 429 names no time
MAINTENANCE_WAIT_S = 300.0

RATE_LIMITED = (ccxt.RateLimitExceeded, ccxt.DDoSProtection)
PASSING = (ccxt.OperationFailed, TypeError, KeyError)  # the latter two: ccxt parsing an answer of unexpected form
FINAL = (ccxt.OnMaintenance, ccxt.InvalidNonce)
MISCONFIGURED = (ccxt.AuthenticationError, ccxt.BadSymbol, ccxt.NotSupported)


def open_client(exchange: str, *, urls: Mapping[str, Any] | None = None) -> Any:
    """A spot client of `exchange` for public endpoints, without keys. urls: overrides ccxt's `urls`, for tests."""
    if exchange not in ccxt.exchanges:
        raise ConfigurationError(
            f"ccxt knows no exchange {exchange!r}", hint="see market.exchange; for example binance"
        )
    for name in ("ccxt", "urllib3", "requests"):
        logging.getLogger(name).setLevel(logging.INFO)  # at DEBUG ccxt prints keys and whole answers
    options: dict[str, Any] = {"defaultType": "spot"}
    if exchange.startswith("binance"):
        options["fetchMarkets"] = {"types": ["spot"]}  # else it also asks the futures hosts
    settings: dict[str, Any] = {"enableRateLimit": True, "timeout": TIMEOUT_MS, "options": options}
    if urls is not None:
        settings["urls"] = dict(urls)
    return getattr(ccxt, exchange)(settings)


def urls_for(exchange: str, api_url: str) -> dict[str, Any]:
    """ccxt's `urls` with every endpoint of `exchange` moved to the host `api_url`, paths kept; {} when api_url is "".

    So binance's public endpoint becomes `api_url/api/v3`, kraken's and alpaca's plain `api_url`; and no request can
    leave for the exchange's own hosts by an endpoint somebody forgot. api_url: `https://host[:port]`; `http` is
    accepted for this machine alone, because clients that have keys send them along. Raises ConfigurationError.
    """
    if not api_url:
        return {}
    parts = urlsplit(api_url)
    local = parts.hostname in {"127.0.0.1", "localhost", "::1"}
    if not parts.hostname or parts.scheme not in ({"http", "https"} if local else {"https"}):
        raise ConfigurationError(
            f"market.api_url is {api_url!r}", hint="write https://HOST, or http://127.0.0.1:PORT for this machine"
        )
    if exchange not in ccxt.exchanges:
        raise ConfigurationError(
            f"ccxt knows no exchange {exchange!r}", hint="see market.exchange; for example binance"
        )

    def moved(url: Any) -> Any:
        if isinstance(url, Mapping):
            return {name: moved(inner) for name, inner in url.items()}
        return api_url.rstrip("/") + urlsplit(str(url)).path

    return {"api": moved(getattr(ccxt, exchange)().urls["api"])}


def will_pass(error: BaseException, *, status: int | None, headers: Mapping[str, str]) -> bool:
    """Whether repeating the read within PATIENCE_S may help."""
    if isinstance(error, RATE_LIMITED):
        return (retry_after_s(headers) or 0.0) <= PATIENCE_S
    if isinstance(error, FINAL):
        return False
    if status is not None and status >= 400:
        return status >= 500 and isinstance(error, ccxt.BaseError)
    return isinstance(error, PASSING)


def wait_s(
    error: BaseException | None, *, headers: Mapping[str, str], attempt: int, jitter: np.random.Generator
) -> float:
    """Seconds before the next attempt; attempt counts from 1.

    After a 429 what Retry-After asks, else RATE_LIMIT_WAIT_S. Otherwise uniform from 0 to a ceiling that doubles from
    FIRST_WAIT_S to LONGEST_WAIT_S.
    """
    if isinstance(error, RATE_LIMITED):
        asked = retry_after_s(headers)
        return RATE_LIMIT_WAIT_S if asked is None else asked
    ceiling = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempt - 1, 10))
    return float(jitter.uniform(0.0, ceiling))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The Retry-After header in seconds; None when absent or not a number."""
    text = _header(headers, "retry-after")
    return float(text) if text is not None and text.isdigit() else None


class PublicReader:
    """Idempotent reads through one client, repeated while `will_pass`, for at most PATIENCE_S."""

    def __init__(
        self, client: Any, *, sleep: Callable[[float], None], jitter: np.random.Generator, beat: Callable[[], None]
    ) -> None:
        self.client = client
        self._sleep, self._jitter, self._beat = sleep, jitter, beat
        self._status: int | None = None
        self._headers: Mapping[str, str] = {}
        client.session.hooks["response"].append(self._inspect)

    def read(self, what: str, call: Callable[[], Answer]) -> Answer:
        """The answer of `call`. Raises MarketUnavailable, or ConfigurationError for what will not heal."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda error: will_pass(error, status=self._status, headers=self._headers)
            ),
            wait=lambda state: wait_s(
                _error_of(state), headers=self._headers, attempt=state.attempt_number, jitter=self._jitter
            ),
            stop=lambda state: max(state.idle_for, state.seconds_since_start or 0.0) >= PATIENCE_S,
            sleep=self._pause,
            before_sleep=lambda state: self._announce(what, state),
            reraise=True,
        )
        try:
            answer: Answer = retrying(self._attempt, call)
        except (ccxt.BaseError, TypeError, KeyError) as error:
            raise self._translated(what, error) from error
        return answer

    def server_time_s(self) -> float | None:
        """What the exchange's clock said in the last answer (Date header, whole seconds); None when it did not."""
        text = _header(self._headers, "date")
        return None if text is None else parsedate_to_datetime(text).timestamp()

    def _attempt(self, call: Callable[[], Answer]) -> Answer:
        self._status, self._headers = None, {}
        answer = call()
        self._beat()
        return answer

    def _inspect(self, response: Any, *_: Any, **__: Any) -> None:
        self._status, self._headers = response.status_code, response.headers
        if response.ok:
            try:
                response.json()
            except ValueError as error:
                raise ccxt.BadResponse(f"{response.url} answered {response.text[:80]!r}, which is not JSON") from error

    def _pause(self, seconds: float) -> None:
        self._beat()
        self._sleep(seconds)

    def _announce(self, what: str, state: tenacity.RetryCallState) -> None:
        log.warning(
            "market_data.retry", read=what, attempt=state.attempt_number, status=self._status,
            error=type(_error_of(state)).__name__, wait_s=round(state.upcoming_sleep, 3),
        )  # fmt: skip

    def _translated(self, what: str, error: Exception) -> CappuccinoError:
        text = f"{what}: {type(error).__name__}: {str(error)[:300]}"
        if isinstance(error, MISCONFIGURED):
            return ConfigurationError(text, hint="check market.exchange, market.quote and market.tickers")
        if isinstance(error, RATE_LIMITED):
            return MarketUnavailable(text, retry_after_s=retry_after_s(self._headers) or RATE_LIMIT_WAIT_S)
        if isinstance(error, ccxt.OnMaintenance):
            return MarketUnavailable(text, retry_after_s=MAINTENANCE_WAIT_S)
        return MarketUnavailable(text, hint="the exchange may be down, or may refuse this address")


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name), None)
