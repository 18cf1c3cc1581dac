"""Binance's sandbox through ccxt, by the endpoints of its own API: ccxt has no unified order by client id.

Two things differ from Alpaca. A client order id is taken only while its order is *open*: sending the same order again
after it filled makes a second one. What protects is the time window in which binance takes a request: an order that is
not found after RECV_WINDOW_S cannot arrive any more, and only then is it sent again. And the fee is part of each trade,
in the coin it was taken in. Errors are judged by status and by binance's own code: ccxt's classes for the same code
differ with the host, and 4xx become a NetworkError.
"""

import contextlib
from collections.abc import Callable, Container, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

import requests

from features.bars import Bars
from features.errors import ConfigurationError
from features.ledger import Fill
from features.sources.ccxt_client import PARSING, open_client, urls_for
from features.sources.ccxt_library import errors
from features.sources.keys import KeyPair
from features.sources.reader import ANSWER_TIMEOUT_S, RATE_LIMIT_WAIT_S, retry_after_s
from paper_trader.brokers.alpaca import SETTLES_S, sandbox_url
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
)
from paper_trader.journal import Execution, Intent

SANDBOX_URL = "https://testnet.binance.vision"
RECV_WINDOW_S = 5.0
TRADES_PER_PAGE = 1000  # the venue's maximum
KEYS_REFUSED = (-2014, -2015, -1022)
NOT_FOUND, ENDED, CLOCK_OFF, NOT_SURE = -2013, -2011, -1021, (-1006, -1007)
TROUBLE = (errors.BaseError, requests.RequestException, *PARSING, ValueError, AttributeError, InvalidOperation)


class BinanceBroker:
    """`tickerquote` pairs of one sandbox account. beat: called before every request."""

    # late: an order sent when our clock was a second ahead still has its whole window
    traits = Traits(
        order_life_s=ORDER_LIFE_S, late_s=2 * RECV_WINDOW_S, settles_s=SETTLES_S, cash_unit=Decimal("0.00000001"),
        coin_unit=Decimal("0.00000001"), whole_lots=True,
    )  # fmt: skip

    def __init__(
        self, *, keys: KeyPair, tickers: Sequence[str], quote: str, now_s: Callable[[], float],
        beat: Callable[[], None] = lambda: None, url: str = "", timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:  # fmt: skip
        host = sandbox_url(url, known=SANDBOX_URL)
        self._client = open_client("binance", urls=urls_for("binance", host), timeout_s=timeout_s)
        self._client.apiKey, self._client.secret = keys.key_id, keys.secret
        self._client.options["recvWindow"] = int(RECV_WINDOW_S * 1000)
        self._client.maxRetriesOnFailure = 0  # it would repeat orders
        self._client.session.hooks["response"].append(self._hear)
        self._tickers, self._quote, self._now_s, self._beat = tuple(tickers), quote, now_s, beat
        self._ids: dict[str, str] = {}  # its order id → ours
        self._last_known: tuple[float, Known] | None = None
        self._status, self._code, self._headers = 0, 0, requests.structures.CaseInsensitiveDict[str]()

    def close(self) -> None:
        self._client.session.close()

    def submit(self, intent: Intent) -> Outcome:
        order = {
            "symbol": f"{intent.ticker}{self._quote}", "side": "BUY" if intent.quantity > 0 else "SELL",
            "type": "MARKET", "quantity": format(abs(intent.quantity), "f"), "newOrderRespType": "RESULT",
            "newClientOrderId": intent.client_order_id,
        }  # fmt: skip
        self._begin()
        try:
            return Accepted(order_id=self._learn(self._client.privatePostOrder(order), intent))
        except TROUBLE as error:
            return self._outcome(error)

    def find(self, intent: Intent) -> Sight:
        self._begin()
        asked = {"symbol": f"{intent.ticker}{self._quote}", "origClientOrderId": intent.client_order_id}
        try:
            return Found(order_id=self._learn(self._client.privateGetOrder(asked), intent))
        except TROUBLE as error:
            self._require_welcome(error)
            sight = Absent() if self._code == NOT_FOUND else Unknown(reason=_text(error))
            self._heed_clock()
            return sight

    def cancel(self, intent: Intent) -> None:
        asked = {"symbol": f"{intent.ticker}{self._quote}", "origClientOrderId": intent.client_order_id}
        self._ask("cancel", lambda: self._client.privateDeleteOrder(asked), ended=(ENDED, NOT_FOUND))

    def open_orders(self) -> frozenset[str]:
        found: frozenset[str] = self._ask(
            "open orders", lambda: frozenset(o["clientOrderId"] for o in self._client.privateGetOpenOrders())
        )
        return found

    def executions(self, *, after_s: int, booked: Container[str]) -> Sequence[Execution]:
        found = [e for t in self._tickers for e in self._of_ticker(t, after_s, booked)]
        return sorted(found, key=lambda e: e.fill.close_time_s)

    def account(self) -> Knowledge:
        known: Known
        try:
            known, may_trade = self._ask("account", self._holdings)
        except BrokerUnavailable as error:
            if self._last_known is None:
                return Unknown(reason=str(error))
            at_s, known = self._last_known
            return Stale(known=known, age_s=self._now_s() - at_s, reason=str(error))
        if not may_trade:
            return Unknown(reason="the venue has blocked the account")
        self._last_known = (self._now_s(), known)
        return known

    def on_bar(self, bar: Bars) -> None:
        """The venue's market moves by itself."""

    def rest(self) -> None:
        """Nothing is put off."""

    def stands_at(self) -> int | None:
        return None

    def _holdings(self) -> tuple[Known, bool]:
        answer = self._client.privateGetAccount()
        held = {b["asset"]: _number(b["free"]) + _number(b["locked"]) for b in answer["balances"]}
        quantity = {t: held.get(t, Decimal(0)) for t in self._tickers}
        return Known(cash=held.get(self._quote, Decimal(0)), quantity=quantity), answer["canTrade"]

    def _of_ticker(self, ticker: str, after_s: int, booked: Container[str]) -> list[Execution]:
        asked: dict[str, Any] = {
            "symbol": f"{ticker}{self._quote}", "startTime": after_s * 1000 + 1, "limit": TRADES_PER_PAGE
        }  # fmt: skip
        found: list[Execution] = []
        while True:
            page, next_id = self._ask(f"fills of {ticker}", partial(self._page, ticker, asked, booked))
            found += page
            if next_id is None:
                return found
            asked = {"symbol": asked["symbol"], "fromId": next_id, "limit": TRADES_PER_PAGE}

    def _page(
        self, ticker: str, asked: Mapping[str, Any], booked: Container[str]
    ) -> tuple[list[Execution], int | None]:
        """Trades of one page, and the id of the next page's first; None when there is none."""
        page = self._client.privateGetMyTrades(dict(asked))
        found = [self._execution(ticker, t) for t in page if _execution_id(ticker, t) not in booked]
        return found, int(page[-1]["id"]) + 1 if len(page) == TRADES_PER_PAGE else None

    def _execution(self, ticker: str, trade: Mapping[str, Any]) -> Execution:
        order_id = str(trade["orderId"])
        if order_id not in self._ids:
            self._beat()
            order = self._client.privateGetOrder({"symbol": f"{ticker}{self._quote}", "orderId": order_id})
            self._ids[order_id] = order["clientOrderId"]
        fee, coin = _number(trade["commission"]), trade["commissionAsset"]
        if fee and coin not in (ticker, self._quote):
            raise ConfigurationError(
                f"binance took a fee in {coin}", hint="turn off paying fees with a coin that is not traded"
            )
        bought = trade["isBuyer"] in (True, "true")
        return Execution(
            execution_id=_execution_id(ticker, trade), client_order_id=self._ids[order_id],
            fill=Fill(
                ticker=ticker, close_time_s=int(trade["time"]) // 1000, price=_number(trade["price"]),
                quantity=_number(trade["qty"]) if bought else -_number(trade["qty"]),
                fee_base=fee if coin == ticker else Decimal(0), fee_quote=fee if coin == self._quote else Decimal(0),
            ),
        )  # fmt: skip

    def _learn(self, order: Mapping[str, Any], intent: Intent) -> str:
        """Its id of the order. ValueError when the answer is about another order."""
        if order["clientOrderId"] != intent.client_order_id:
            raise ValueError(f"asked for {intent.client_order_id}, told of {order['clientOrderId']}")
        order_id = str(order["orderId"])
        self._ids[order_id] = intent.client_order_id
        return order_id

    def _outcome(self, error: Exception) -> Outcome:
        """What a POST that raised means for the order."""
        self._require_welcome(error)
        status, code, text = self._status, self._code, _text(error)
        if status in (418, 429):
            return Deferred(reason=text, retry_after_s=retry_after_s(self._headers) or RATE_LIMIT_WAIT_S)
        if code == CLOCK_OFF:
            self._heed_clock()
            return Deferred(reason=text, retry_after_s=RECV_WINDOW_S)
        if 400 <= status < 500 and code not in NOT_SURE and "uplicate" not in text:
            return Rejected(reason=text)
        return Unknown(reason=text)

    def _require_welcome(self, error: Exception) -> None:
        if self._status == 401 or self._code in KEYS_REFUSED:
            raise ConfigurationError(
                f"the sandbox refuses the credentials: {_text(error)}",
                hint="binance_key_id and binance_secret_key must be those of the sandbox, and still valid",
            )

    def _ask(self, what: str, call: Callable[[], Any], *, ended: Sequence[int] = ()) -> Any:
        """The answer, or None for a code among `ended`."""
        self._begin()
        try:
            return call()
        except TROUBLE as error:
            if self._code in ended:
                return None
            self._require_welcome(error)
            wait_s = retry_after_s(self._headers) if self._status in (418, 429) else None
            self._heed_clock()
            raise BrokerUnavailable(f"{what}: {_text(error)}", retry_after_s=wait_s) from error

    def _heed_clock(self) -> None:
        """Where the answer was that our clock is off (a second ahead is too much): later requests go by the venue's.

        If it does not tell the time now, it is asked after the next such answer.
        """
        if self._code == CLOCK_OFF:
            self._begin()
            with contextlib.suppress(*TROUBLE):
                self._client.load_time_difference()

    def _begin(self) -> None:
        self._beat()
        self._status = self._code = 0

    def _hear(self, response: requests.Response, *_: object, **__: object) -> None:
        self._status, self._headers, self._code = response.status_code, response.headers, 0
        if not response.ok:
            try:
                self._code = int(response.json()["code"])
            except TROUBLE:
                self._code = 0


def _execution_id(ticker: str, trade: Mapping[str, Any]) -> str:
    """With its time, as the sandbox is emptied about once a month and numbers its trades anew."""
    return f"{ticker}::{trade['id']}::{trade['time']}"


def _number(text: Any) -> Decimal:
    number = Decimal(str(text))
    if not number.is_finite():
        raise ValueError(f"{text!r} is no amount")
    return number


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
