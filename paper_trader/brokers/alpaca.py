"""Alpaca's paper account through alpaca-py's own client, with a timeout and without its retries.

Orders go out as plain dictionaries with quantities as text: alpaca-py would make them floats (1e-05), and would raise
over a status it does not know *after* the order was taken. A client order id is taken once for ever, so an order that
cannot be found may be sent again at once: whichever arrives second is refused. The fee of a trade is taken in what is
received and is not part of the fill: it is computed from the schedule, and the account must agree.
"""

import json
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import requests
from alpaca.common.exceptions import APIError

from features.bars import Bars, utc_text
from features.errors import ConfigurationError
from features.ledger import BASE_UNIT, Fill, fees
from features.sources.alpaca_client import PARSING, open_trading_client
from features.sources.keys import KeyPair
from features.sources.reader import ANSWER_TIMEOUT_S, RATE_LIMIT_WAIT_S, retry_after_s
from paper_trader.brokers.base import (
    ORDER_LIFE_S,
    Absent,
    Accepted,
    BrokerUnavailable,
    Deferred,
    Found,
    Knowledge,
    Known,
    Outcome,
    Rejected,
    Sight,
    Stale,
    Traits,
    Unknown,
)  # fmt: skip
from paper_trader.journal import Execution, Intent

PAPER_URL = "https://paper-api.alpaca.markets"
HOSTS_HERE = ("127.0.0.1", "localhost", "::1")
SETTLES_S = 5.0
FILLS_PER_PAGE = 100  # the venue's maximum
TROUBLE = (requests.RequestException, *PARSING, InvalidOperation)
PROVEN = (400, 403, 404, 422)  # the order was read and refused


def sandbox_url(url: str, *, known: str) -> str:
    """`known`, the venue's own address for play money, when url is ""; else url, if it is on this machine.

    Nothing else can be configured: an account with real money is not reached by a slip of the pen.
    """
    if url in ("", known):
        return known
    parts = urlsplit(url)
    if parts.hostname not in HOSTS_HERE or parts.scheme not in ("http", "https") or parts.username:
        raise ConfigurationError(
            f"paper.broker_url is {url!r}: orders go to {known} or to this machine, nowhere else",
            hint='write paper.broker_url = "" for the venue\'s own paper account',
        )
    return url.rstrip("/")


class AlpacaBroker:
    """`ticker/quote` pairs of one paper account. fee: fraction of each trade. beat: called before every request."""

    traits = Traits(
        order_life_s=ORDER_LIFE_S, late_s=0.0, settles_s=SETTLES_S, cash_unit=Decimal("0.01"), coin_unit=BASE_UNIT,
        whole_lots=True,
    )  # fmt: skip

    def __init__(
        self, *, keys: KeyPair, tickers: Sequence[str], quote: str, fee: Decimal, now_s: Callable[[], float],
        beat: Callable[[], None] = lambda: None, url: str = "", timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:  # fmt: skip
        # Any: with raw_data the answers are not what alpaca-py declares
        self._client: Any = open_trading_client(
            keys=keys, api_url=sandbox_url(url, known=PAPER_URL), timeout_s=timeout_s
        )
        self._quote, self._fee, self._now_s, self._beat = quote, fee, now_s, beat
        # the venue writes pairs both ways
        self._tickers = {f"{t}{mark}{quote}": t for t in tickers for mark in ("/", "")}
        self._ids: dict[str, str] = {}  # its order id → ours
        self._last_known: tuple[float, Known] | None = None

    def close(self) -> None:
        self._client._session.close()  # noqa: SLF001  alpaca-py offers no public one

    def submit(self, intent: Intent) -> Outcome:
        self._beat()
        try:
            answer = self._client.post("/orders", self._body(intent))
            return Accepted(order_id=self._learn(answer, intent))
        except APIError as error:
            return _outcome(error)
        except TROUBLE as error:
            return Unknown(reason=_text(error))

    def find(self, intent: Intent) -> Sight:
        self._beat()
        try:
            answer = self._client.get("/orders:by_client_order_id", {"client_order_id": intent.client_order_id})
            return Found(order_id=self._learn(answer, intent))
        except APIError as error:
            _require_welcome(error)
            return Absent() if error.status_code == 404 else Unknown(reason=_text(error))
        except TROUBLE as error:
            return Unknown(reason=_text(error))

    def cancel(self, intent: Intent) -> None:
        sight = Found(order_id=intent.order_id) if intent.order_id else self.find(intent)
        if not isinstance(sight, Found):
            raise BrokerUnavailable(f"the order {intent.client_order_id} to cancel is not found")
        self._ask("cancel", lambda: self._client.delete(f"/orders/{sight.order_id}"), ended=(404, 422))

    def open_orders(self) -> frozenset[str]:
        asked = {"status": "open", "limit": 500}
        found: frozenset[str] = self._ask(
            "open orders", lambda: frozenset(o["client_order_id"] for o in self._client.get("/orders", asked))
        )
        return found

    def executions(self, *, after_s: int, booked: Container[str]) -> Sequence[Execution]:
        asked: dict[str, Any] = {"after": utc_text(after_s), "direction": "asc", "page_size": FILLS_PER_PAGE}
        found: list[Execution] = []
        while True:
            page, last_id = self._ask("fills", partial(self._page, asked, booked))
            found += page
            if not last_id:
                return found
            asked = {**asked, "page_token": last_id}

    def account(self) -> Knowledge:
        try:
            account = self._ask("account", lambda: self._client.get("/account"))
            held = self._ask("positions", lambda: self._client.get("/positions"))
            known = Known(
                cash=_number(account["cash"]),
                quantity=dict.fromkeys(self._tickers.values(), Decimal(0))
                | {self._tickers[p["symbol"]]: _number(p["qty"]) for p in held if p["symbol"] in self._tickers},
            )  # fmt: skip
            if account["trading_blocked"] or account["account_blocked"]:
                return Unknown(reason="the venue has blocked the account")
        except (BrokerUnavailable, *TROUBLE) as error:
            if self._last_known is None:
                return Unknown(reason=_text(error))
            at_s, known = self._last_known
            return Stale(known=known, age_s=self._now_s() - at_s, reason=_text(error))
        self._last_known = (self._now_s(), known)
        return known

    def on_bar(self, bar: Bars) -> None:
        """The venue's market moves by itself."""

    def rest(self) -> None:
        """Nothing is put off."""

    def stands_at(self) -> int | None:
        return None

    def _body(self, intent: Intent) -> dict[str, str]:
        return {
            "symbol": f"{intent.ticker}/{self._quote}", "qty": format(abs(intent.quantity), "f"),
            "side": "buy" if intent.quantity > 0 else "sell", "type": "market", "time_in_force": "ioc",
            "client_order_id": intent.client_order_id,
        }  # fmt: skip

    def _learn(self, order: Mapping[str, Any], intent: Intent) -> str:
        """Its id of the order. ValueError when the answer is about another order."""
        if order["client_order_id"] != intent.client_order_id:
            raise ValueError(f"asked for {intent.client_order_id}, told of {order['client_order_id']}")
        self._ids[order["id"]] = intent.client_order_id
        return str(order["id"])

    def _page(self, asked: Mapping[str, Any], booked: Container[str]) -> tuple[list[Execution], str]:
        """Fills of one page, and the id that the next page begins after; "" when there is none."""
        page = self._client.get("/account/activities/FILL", asked)
        found = [self._execution(f) for f in page if f["id"] not in booked and f["symbol"] in self._tickers]
        return found, page[-1]["id"] if len(page) == FILLS_PER_PAGE else ""

    def _execution(self, fill: Mapping[str, Any]) -> Execution:
        order_id = fill["order_id"]
        if order_id not in self._ids:
            self._beat()
            self._ids[order_id] = self._client.get(f"/orders/{order_id}")["client_order_id"]
        quantity, price = _number(fill["qty"]), _number(fill["price"])
        bought = fill["side"] == "buy"
        fee_quote, fee_base = fees(quantity, price, rate=self._fee, in_base=bought)
        return Execution(
            execution_id=fill["id"], client_order_id=self._ids[order_id],
            fill=Fill(
                ticker=self._tickers[fill["symbol"]], quantity=quantity if bought else -quantity, price=price,
                close_time_s=int(datetime.fromisoformat(fill["transaction_time"]).timestamp()),
                fee_quote=fee_quote, fee_base=fee_base,
            ),
        )  # fmt: skip

    def _ask(self, what: str, call: Callable[[], Any], *, ended: Sequence[int] = ()) -> Any:
        """The answer, or None for a status among `ended`."""
        self._beat()
        try:
            return call()
        except APIError as error:
            if error.status_code in ended:
                return None
            _require_welcome(error)
            wait_s = retry_after_s(error.response.headers) if error.status_code == 429 else None
            raise BrokerUnavailable(f"{what}: {_text(error)}", retry_after_s=wait_s) from error
        except TROUBLE as error:
            raise BrokerUnavailable(f"{what}: {_text(error)}") from error


def _outcome(error: APIError) -> Outcome:
    """What a refused POST means for the order."""
    _require_welcome(error)
    status, text = error.status_code, _text(error)
    if status == 429:
        return Deferred(reason=text, retry_after_s=retry_after_s(error.response.headers) or RATE_LIMIT_WAIT_S)
    if status in PROVEN and "unique" not in text:  # "client_order_id must be unique": it is there already
        return Rejected(reason=text)
    return Unknown(reason=text)


def _require_welcome(error: APIError) -> None:
    """Code 40310000 is both "forbidden" and "insufficient balance": only the message tells them apart."""
    refused = error.status_code == 401 or (error.status_code == 403 and "forbidden" in str(error))
    if refused:
        raise ConfigurationError(
            f"the paper account refuses the credentials: {_text(error)}",
            hint="alpaca_key_id and alpaca_secret_key must be those of a paper account, and still valid",
        )


def _number(text: Any) -> Decimal:
    number = Decimal(str(text))
    if not number.is_finite():
        raise ValueError(f"{text!r} is no amount")
    return number


def _text(error: BaseException) -> str:
    """The venue's own message where there is one; its bodies are not always JSON."""
    if isinstance(error, APIError):
        try:
            return f"{error.status_code}: {json.loads(str(error))['message']}"
        except PARSING:
            return f"{error.status_code}: {str(error)[:200]}"
    return f"{type(error).__name__}: {str(error)[:200]}"
