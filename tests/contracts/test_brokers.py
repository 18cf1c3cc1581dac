"""Every broker keeps the contract: the embedded one, and each real client against its local venue."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from contracts.broker_suite import BrokerSuite, intent
from exchange_account import OrderFault
from order_world import BARS, OPENED_S, VENUES
from venue import hung, server_error

from features.costs import Costs
from features.errors import ConfigurationError
from features.ledger import Ledger
from features.sources.keys import KeyPair
from features.venue_rules import VenueRules
from paper_trader.brokers.alpaca import PAPER_URL, AlpacaBroker, sandbox_url
from paper_trader.brokers.base import Accepted, BrokerUnavailable, Deferred, Known, Rejected, Stale, Unknown
from paper_trader.brokers.binance import SANDBOX_URL, BinanceBroker
from paper_trader.brokers.simulated import SimulatedBroker


class TestSimulated(BrokerSuite):
    @pytest.fixture
    def given(self, tmp_path: Path) -> Iterator[SimulatedBroker]:
        self.path = tmp_path / "broker.db"
        with closing(self.open()) as broker:
            yield broker

    def open(self) -> SimulatedBroker:
        costs = Costs(fee_bps=25.0, half_spread_bps=2.0, slippage_bps=3.0, fee_in="received", max_volume_share=0.0)
        opening = Ledger(
            tickers=BARS.tickers, cash=Decimal(20_000), quantity=(Decimal(0), Decimal(4), Decimal(0)),
            peak=Decimal(20_000), bars_since_trade=0,
        )  # fmt: skip
        return SimulatedBroker(
            self.path, costs=costs, rules=VenueRules.uniform("simulated", BARS.tickers), opening=opening,
            opened_s=OPENED_S,
        )  # fmt: skip

    @pytest.fixture
    def slow(self) -> Callable[[], None]:
        """Its orders wait for the next bar anyway."""
        return lambda: None

    @pytest.fixture
    def reopened(self) -> Callable[[], SimulatedBroker]:
        return self.open


class VenueSuite(BrokerSuite):
    name: str
    order_path: str  # what the venue's answer about the account is read from

    @pytest.fixture
    def given(self) -> Iterator[Any]:
        open_venue, self.open_broker = VENUES[self.name]
        with open_venue() as self.venue, closing(self.open_broker(self.venue)) as broker:
            yield broker

    @pytest.fixture
    def fill(self, given: Any) -> Callable[[], None]:
        return lambda: self.venue.account.fill_slow(self.venue.now_s)

    @pytest.fixture
    def slow(self) -> Callable[[], None]:
        return lambda: self.venue.account.faults.append(OrderFault.SLOW)

    @pytest.fixture
    def reopened(self) -> Callable[[], Any]:
        return lambda: self.open_broker(self.venue)

    @pytest.mark.parametrize("fault", [f for f in OrderFault if f.name.startswith(("LOST", "TAKEN", "LATE"))])
    def test_an_answer_that_does_not_say_what_is_is_unknown_and_nothing_is_sent_twice(self, given, fault):
        self.venue.account.faults.append(fault)
        outcome = given.submit(intent("BTC", "0.02"))
        assert isinstance(outcome, Unknown) or fault is OrderFault.TAKEN_ODD
        assert self.venue.account.posts == 1

    def test_too_many_requests_is_a_proof_that_the_order_was_not_taken(self, given):
        self.venue.account.faults.append(OrderFault.TOO_MANY)
        outcome = given.submit(intent("BTC", "0.02"))
        assert isinstance(outcome, Deferred) and outcome.retry_after_s == 1.0
        assert self.venue.account.posts == 1

    def test_too_little_money_is_a_rejection_and_no_refused_credential(self, given):
        self.venue.account.faults.append(OrderFault.POOR)
        outcome = given.submit(intent("BTC", "0.02"))
        assert isinstance(outcome, Rejected) and "insufficient balance" in outcome.reason

    def test_an_id_that_is_taken_is_no_rejection(self, given):
        """The order is there: somebody has to look, not to write it off."""
        self.venue.account.faults.append(OrderFault.SLOW)
        given.submit(intent("BTC", "0.02"))
        assert isinstance(given.submit(intent("BTC", "0.02")), Unknown)

    def test_an_account_that_cannot_be_asked_is_stale_and_before_the_first_answer_unknown(self, given, monkeypatch):
        answer = type(self.venue).answer
        monkeypatch.setattr(
            type(self.venue), "answer", lambda *_: (503, {"code": -1, "message": "down", "msg": "down"})
        )
        assert isinstance(given.account(), Unknown)
        monkeypatch.setattr(type(self.venue), "answer", answer)
        known = given.account()
        assert isinstance(known, Known)
        self.venue.now_s += 90.0
        monkeypatch.setattr(
            type(self.venue), "answer", lambda *_: (503, {"code": -1, "message": "down", "msg": "down"})
        )
        stale = given.account()
        assert isinstance(stale, Stale) and (stale.known, stale.age_s) == (known, 90.0)
        with pytest.raises(BrokerUnavailable):
            given.executions(after_s=OPENED_S, booked=())

    @pytest.mark.parametrize("odd", ["", None, "abc", "NaN"])
    def test_a_fill_whose_amount_is_no_number_is_an_outage(self, given, odd, monkeypatch):
        given.submit(intent("BTC", "0.02"))
        made_by = "_fill" if self.name == "alpaca" else "_trade"
        true = getattr(type(self.venue), made_by)
        monkeypatch.setattr(type(self.venue), made_by, lambda venue, trade: true(venue, trade) | {"qty": odd})
        with pytest.raises(BrokerUnavailable):
            given.executions(after_s=OPENED_S - 1, booked=())

    @pytest.mark.parametrize("text", ["NaN", "inf", "none"])
    def test_an_amount_that_is_no_number_makes_the_account_unknown(self, given, text, monkeypatch):
        class Odd(Decimal):
            def __str__(self) -> str:
                return text

            def quantize(self, *_: Any, **__: Any) -> "Odd":
                return self

        self.venue.account.cash = Odd(1)
        assert isinstance(given.account(), Unknown)

    def test_refused_credentials_are_permanent(self, given):
        wrong = VENUES[self.name][1](self.venue)
        _forget_keys(wrong)
        for ask in (wrong.account, wrong.open_orders, lambda: wrong.submit(intent("BTC", "0.02"))):
            with pytest.raises(ConfigurationError, match="refuses the credentials") as caught:
                ask()
            assert caught.value.exit_code == 78
        assert self.venue.account.posts == 0

    def test_pages_of_fills_are_joined(self, given, monkeypatch):
        for name in ("FILLS_PER_PAGE", "TRADES_PER_PAGE"):
            monkeypatch.setattr(f"paper_trader.brokers.{self.name}.{name}", 2, raising=False)
        for n in range(3):
            given.submit(intent("BTC", "0.02", artifact=str(n)))
        found = given.executions(after_s=OPENED_S - 1, booked=())
        assert len(found) == 6 and sum(e.fill.quantity for e in found) == Decimal("0.06")


def _forget_keys(broker: Any) -> None:
    client = broker._client
    for name, value in (("_api_key", "PKOTHER"), ("apiKey", "other")):
        if hasattr(client, name):
            setattr(client, name, value)


class TestAlpaca(VenueSuite):
    name = "alpaca"

    def test_the_quantity_is_decimal_text_to_the_ninth_place(self, given):
        given.submit(intent("LINK", "0.800000001"))
        assert self.venue.requests[-1][1]["qty"] == "0.800000001"
        given.submit(intent("ETH", "-0.00001"))
        assert self.venue.requests[-1][1]["qty"] == "0.00001"

    def test_a_ticker_without_a_market_is_rejected_with_a_reason(self, given, monkeypatch):
        refusal = (422, {"code": 42210000, "message": "asset DOGE/USD not found"}, None)
        monkeypatch.setattr(type(self.venue), "_post", lambda *_: refusal)
        super().test_a_ticker_without_a_market_is_rejected_with_a_reason(given)


class TestBinance(VenueSuite):
    name = "binance"

    def test_a_ticker_without_a_market_is_rejected_with_a_reason(self, given, monkeypatch):
        refusal = (400, {"code": -1121, "msg": "Invalid symbol."}, None)
        monkeypatch.setattr(type(self.venue), "command", lambda *_: refusal)
        super().test_a_ticker_without_a_market_is_rejected_with_a_reason(given)

    def test_a_fee_in_a_coin_that_is_not_traded_is_refused_by_name(self, given, monkeypatch):
        given.submit(intent("BTC", "0.02"))
        trade = type(self.venue)._trade
        monkeypatch.setattr(type(self.venue), "_trade", lambda s, t: trade(s, t) | {"commissionAsset": "BNB"})
        with pytest.raises(ConfigurationError, match="BNB"):
            given.executions(after_s=OPENED_S - 1, booked=())

    @pytest.mark.parametrize("tells_the_time", [True, False])
    def test_a_clock_a_second_ahead_is_set_by_the_venues_and_the_next_request_is_taken(
        self, given, tells_the_time, monkeypatch
    ):
        """Every signed request, reads included: the trader would wait for the broker for ever."""
        self.venue.now_s = given._client.milliseconds() / 1000.0 - 3.0
        refusal = {"code": -1021, "msg": "Timestamp for this request was 1000ms ahead of the server's time."}
        answer, command = type(self.venue).answer, type(self.venue).command

        def is_early(fields: dict[str, str]) -> bool:
            return int(fields.get("timestamp", "0")) > (self.venue.now_s + 1.0) * 1000.0

        def answers(venue: Any, path: str, query: dict[str, str], headers: dict[str, str]) -> Any:
            if path == "/api/v3/time" and not tells_the_time:
                return 503, {}
            return (400, refusal) if is_early(query) else answer(venue, path, query, headers)

        def takes(venue: Any, method: str, path: str, fields: dict[str, str], headers: dict[str, str]) -> Any:
            return (400, refusal, None) if is_early(fields) else command(venue, method, path, fields, headers)

        monkeypatch.setattr(type(self.venue), "answer", answers)
        monkeypatch.setattr(type(self.venue), "command", takes)
        for ask in (given.account, given.open_orders, lambda: given.find(intent("BTC", "0.02"))):
            given._client.options["timeDifference"] = 0
            with contextlib.suppress(BrokerUnavailable):
                assert isinstance(ask(), Unknown)
            assert isinstance(given.account(), Known) is tells_the_time
        given._client.options["timeDifference"] = 0
        assert isinstance(given.submit(intent("BTC", "0.02")), Deferred)
        assert isinstance(given.submit(intent("BTC", "0.02")), Accepted if tells_the_time else Deferred)


REAL_MONEY = (
    "https://api.alpaca.markets", "https://api.alpaca.markets/v2", "https://broker-api.alpaca.markets",
    "https://api.binance.com", "https://api.binance.us", "https://paper-api.alpaca.markets.evil.example",
    "https://paper-api.alpaca.markets@api.alpaca.markets", "http://127.0.0.1@api.alpaca.markets",
    "http://127.0.0.1.example.com", "https://localhost.example.com", "http://user:pw@127.0.0.1:1", "ftp://127.0.0.1",
    "127.0.0.1:8080", "https://testnet.binance.vision.example.com",
)  # fmt: skip


@pytest.mark.parametrize("url", REAL_MONEY)
@pytest.mark.parametrize("known", [PAPER_URL, SANDBOX_URL])
def test_an_account_with_real_money_cannot_be_configured(url: str, known: str) -> None:
    with pytest.raises(ConfigurationError, match="nowhere else") as caught:
        sandbox_url(url, known=known)
    assert caught.value.exit_code == 78


def test_without_an_address_orders_go_to_the_account_with_play_money() -> None:
    keys = KeyPair(key_id="k", secret="s")
    shared: dict[str, Any] = {"keys": keys, "tickers": ("BTC",), "now_s": lambda: 0.0}
    with closing(AlpacaBroker(**shared, quote="USD", fee=Decimal("0.0025"))) as broker:
        assert broker._client._base_url == "https://paper-api.alpaca.markets"
        assert broker._client._retry == 0
    with closing(BinanceBroker(**shared, quote="USDT")) as binance:
        hosts = {url.split("/")[2] for url in _urls(binance._client.urls["api"])}
        assert hosts == {"testnet.binance.vision"}


def _urls(tree: Any) -> list[str]:
    return [tree] if isinstance(tree, str) else [u for branch in tree.values() for u in _urls(branch)]


@pytest.mark.parametrize("fault", [hung(), server_error(504)])
def test_a_client_repeats_nothing_by_itself(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for open_venue, open_broker in VENUES.values():
        with open_venue() as venue, closing(open_broker(venue)) as broker:
            monkeypatch.setattr(type(venue), "command", lambda *_, f=fault: (504, {}, f))
            assert isinstance(broker.submit(intent("BTC", "0.02")), Unknown)
            assert len([r for r in venue.requests if r[0].startswith("POST")]) == 1
