"""Reads from a venue that give a true answer or an error that says what to do: one policy for every client.

Every client here sits on a `requests` session. A response hook keeps status, headers and the venue's clock of the last
answer, and refuses a 2xx body that is not JSON: several clients take an HTML page served with status 200 for an *empty
list* of candles, which would pass for "no trades". What an exception of a client means is told by its `classify`.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TypeVar
from urllib.parse import urlsplit

import numpy as np
import requests
import structlog
import tenacity

from features.errors import CappuccinoError, ConfigurationError
from features.sources.errors import MarketUnavailable

log = structlog.get_logger()
Answer = TypeVar("Answer")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
PATIENCE_S = 60.0  # waited or spent in one read before giving up
RATE_LIMIT_WAIT_S = 60.0  # where a 429 names no time
MAINTENANCE_WAIT_S = 300.0
CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 3.05, 10.0  # 3.05: just over the 3 s after which TCP repeats a lost SYN


class Trouble(Enum):
    """What the reader does about an error."""

    PASSING = "repeat the read soon"
    RATE_LIMITED = "repeat it when the venue says"
    MAINTENANCE = "come back in minutes"
    REFUSED = "the same read will be refused again"
    KEYS_REFUSED = "the credentials are wrong"
    MISCONFIGURED = "the venue has no such pair, timeframe or endpoint"


HINTS = {
    Trouble.KEYS_REFUSED: "check the venue's credentials: are they of this account, and still valid?",
    Trouble.MISCONFIGURED: "check market.exchange, market.quote, market.tickers and market.timeframe_s",
}


class UnreadableAnswer(Exception):
    """A 2xx answer that is not JSON: a proxy's or a bot check's page, or a body that was cut."""


def quiet_clients() -> None:
    """Keep the libraries under the clients from logging below INFO, whatever the root logger is set to.

    At DEBUG ccxt prints key and secret, and websockets the bytes of every frame, the one with the keys among them.
    """
    for name in ("ccxt", "urllib3", "requests", "websockets"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.INFO))


def checked_api_url(api_url: str) -> str:
    """`market.api_url` without a trailing slash. Raises ConfigurationError unless https, or http to this machine.

    Plain http elsewhere is refused because clients that have keys send them along.
    """
    parts = urlsplit(api_url)
    local = parts.hostname in {"127.0.0.1", "localhost", "::1"}
    if not parts.hostname or parts.query or parts.scheme not in ({"http", "https"} if local else {"https"}):
        raise ConfigurationError(
            f"market.api_url is {api_url!r}", hint="write https://HOST, or http://127.0.0.1:PORT for this machine"
        )
    return api_url.rstrip("/")


def will_pass(trouble: Trouble, headers: Mapping[str, str]) -> bool:
    """Whether repeating the read within PATIENCE_S may help."""
    if trouble is Trouble.RATE_LIMITED:
        return (retry_after_s(headers) or 0.0) <= PATIENCE_S
    return trouble is Trouble.PASSING


def wait_s(trouble: Trouble, headers: Mapping[str, str], *, attempt: int, jitter: np.random.Generator) -> float:
    """Seconds before the next attempt; attempt counts from 1.

    After a 429 what the venue asks, else RATE_LIMIT_WAIT_S. Otherwise uniform from 0 to a ceiling that doubles from
    FIRST_WAIT_S to LONGEST_WAIT_S.
    """
    if trouble is Trouble.RATE_LIMITED:
        asked = retry_after_s(headers)
        return RATE_LIMIT_WAIT_S if asked is None else asked
    ceiling = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempt - 1, 10))
    return float(jitter.uniform(0.0, ceiling))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds the venue asks for: Retry-After, else X-RateLimit-Reset (epoch) minus its Date; None when it says none."""
    named = {name.lower(): value for name, value in headers.items()}
    if (text := named.get("retry-after", "")).isdigit():
        return float(text)
    if (text := named.get("x-ratelimit-reset", "")).isdigit() and (now_s := date_s(headers)) is not None:
        return max(0.0, float(text) - now_s)
    return None


def date_s(headers: Mapping[str, str]) -> float | None:
    """The Date header as UTC epoch seconds, whole ones; None when absent or unreadable."""
    text = next((value for name, value in headers.items() if name.lower() == "date"), None)
    try:
        return None if text is None else parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What a reader takes from the process it runs in. clock_now_s: UTC epoch seconds.

    sleep: waits between attempts. beat is called after every answer and before every wait.
    """

    clock_now_s: Callable[[], float]
    sleep: Callable[[float], None]
    jitter: np.random.Generator
    beat: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The last answer: status None when none came. Times by our clock, UTC epoch seconds."""

    status: int | None = None
    headers: Mapping[str, str]
    asked_s: float
    answered_s: float

    @property
    def offset_s(self) -> float | None:
        """Our clock minus the venue's, right within half a second plus half the round trip; None without a Date.

        A Date of whole seconds says that the venue's clock stood somewhere within that second.
        """
        at_s = date_s(self.headers)
        return None if at_s is None else (self.asked_s + self.answered_s) / 2.0 - (at_s + 0.5)


class Reader:
    """Idempotent reads through the client that owns `session`, repeated while `will_pass`, for at most PATIENCE_S.

    classify: what an exception means, given the status of the answer; None for one that is not the venue's.
    """

    def __init__(
        self, session: requests.Session, ports: Ports, *,
        classify: Callable[[BaseException, int | None], Trouble | None],
    ) -> None:  # fmt: skip
        self._ports, self._classify = ports, classify
        self.heard = Heard(headers={}, asked_s=0.0, answered_s=0.0)
        self._asked_s = 0.0
        self.offset_s: float | None = None  # of the last answer that told the time
        session.hooks["response"].append(self._inspect)

    def read(self, what: str, call: Callable[[], Answer]) -> Answer:
        """The answer of `call`. Raises MarketUnavailable, or ConfigurationError for what will not heal."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda error: (trouble := self._trouble(error)) is not None and will_pass(trouble, self.heard.headers)
            ),
            wait=lambda state: wait_s(
                self._trouble(_error_of(state)) or Trouble.PASSING, self.heard.headers,
                attempt=state.attempt_number, jitter=self._ports.jitter,
            ),
            stop=lambda state: max(state.idle_for, state.seconds_since_start or 0.0) >= PATIENCE_S,
            sleep=self._pause,
            before_sleep=lambda state: self._announce(what, state),
            reraise=True,
        )  # fmt: skip
        try:
            answer: Answer = retrying(self._attempt, call)
        except Exception as error:
            trouble = self._trouble(error)
            if trouble is None:
                raise
            raise self._translated(what, trouble, error) from error
        return answer

    def _attempt(self, call: Callable[[], Answer]) -> Answer:
        self._asked_s = self._ports.clock_now_s()
        self.heard = Heard(headers={}, asked_s=self._asked_s, answered_s=self._asked_s)
        answer = call()
        self._ports.beat()
        return answer

    def _inspect(self, response: requests.Response, *_: object, **__: object) -> None:
        self.heard = Heard(
            status=response.status_code,
            headers=response.headers,
            asked_s=self._asked_s,
            answered_s=self._ports.clock_now_s(),
        )
        if self.heard.offset_s is not None:
            self.offset_s = self.heard.offset_s
        if response.ok:
            try:
                response.json()
            except requests.JSONDecodeError as error:
                raise UnreadableAnswer(f"{response.text[:80]!r} is not JSON") from error

    def _trouble(self, error: BaseException | None) -> Trouble | None:
        if error is None or isinstance(error, CappuccinoError):
            return None
        return Trouble.PASSING if isinstance(error, UnreadableAnswer) else self._classify(error, self.heard.status)

    def _pause(self, seconds: float) -> None:
        self._ports.beat()
        self._ports.sleep(seconds)

    def _announce(self, what: str, state: tenacity.RetryCallState) -> None:
        log.warning(
            "market_data.retry", read=what, attempt=state.attempt_number, status=self.heard.status,
            error=type(_error_of(state)).__name__, wait_s=round(state.upcoming_sleep, 3),
        )  # fmt: skip

    def _translated(self, what: str, trouble: Trouble, error: Exception) -> CappuccinoError:
        text = f"{what}: {type(error).__name__}: {str(error)[:300]}"
        if trouble in HINTS:
            return ConfigurationError(text, hint=HINTS[trouble])
        if trouble is Trouble.RATE_LIMITED:
            return MarketUnavailable(text, retry_after_s=retry_after_s(self.heard.headers) or RATE_LIMIT_WAIT_S)
        if trouble is Trouble.MAINTENANCE:
            return MarketUnavailable(text, retry_after_s=MAINTENANCE_WAIT_S)
        return MarketUnavailable(text, hint="the venue may be down, or may refuse this address")


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()
