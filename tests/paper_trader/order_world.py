"""A small account on a local venue, traded by the real order flow through the real client, life after life.

`live` is one life of a trader: it opens its books, decides where a decision is missing, sends, waits, settles. It dies by
an exception that drops everything but the files. `violations` then holds the journal against the venue's own books.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from alpaca_like import KEYS, AlpacaLike
from binance_like import LOT, BinanceLike
from exchange_account import CENT, ExchangeAccount, OrderFault
from rig import HOUR, TICKERS, truth_bars
from venue import Venue

from daemon.child.logs import get_logger
from features.decision import Decision
from features.ledger import Ledger
from features.venue_rules import VenueRules
from paper_trader import risk
from paper_trader.brokers.alpaca import AlpacaBroker
from paper_trader.brokers.base import Broker, BrokerUnavailable
from paper_trader.brokers.binance import BinanceBroker
from paper_trader.journal import Decided, Journal
from paper_trader.ordering import OrderFlow, Sendings

BARS = truth_bars(40).slice(30, 38)
OPENED_S = BARS.first_close_s
PLAN: tuple[tuple[tuple[str, str], ...], ...] = (
    (("BTC", "0.0213"), ("ETH", "-1.5")), (("BTC", "-0.01"), ("ETH", "0.75"), ("LINK", "12.25")), (("LINK", "-12"),),
)  # fmt: skip
QUICK_S = 0.25  # what a venue that says nothing is given


class Died(BaseException):
    """Stands for SIGKILL at one exact line."""


def account(**more: Any) -> ExchangeAccount:
    return ExchangeAccount(
        cash=Decimal("20000.00"), coins={"BTC": Decimal(0), "ETH": Decimal(4), "LINK": Decimal(0)},
        price={"BTC": Decimal("40123.45"), "ETH": Decimal("2010.5"), "LINK": Decimal("14.321")}, **more,
    )  # fmt: skip


def alpaca(**more: Any) -> AlpacaLike:
    return AlpacaLike(truth=BARS, now_s=OPENED_S + 20.0, account=account(), **more)


def alpaca_broker(venue: Venue, *, timeout_s: float = QUICK_S, kind: type[AlpacaBroker] = AlpacaBroker) -> AlpacaBroker:
    return kind(
        keys=KEYS, tickers=TICKERS, quote=venue.quote, fee=Decimal("0.0025"), now_s=lambda: venue.now_s,
        url=venue.api_url, timeout_s=timeout_s,
    )  # fmt: skip


def binance(**more: Any) -> BinanceLike:
    """Ids are taken while an order is open, and requests within five seconds."""
    return BinanceLike(truth=BARS, now_s=OPENED_S + 20.0, account=account(id_for_ever=False, window_s=5.0), **more)


def binance_broker(
    venue: Venue, *, timeout_s: float = QUICK_S, kind: type[BinanceBroker] = BinanceBroker
) -> BinanceBroker:
    broker = kind(
        keys=KEYS, tickers=TICKERS, quote=venue.quote, now_s=lambda: venue.now_s, url=venue.api_url, timeout_s=timeout_s
    )  # fmt: skip
    broker._client.enableRateLimit = False  # the venue is ours
    return broker


VENUES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "alpaca": (alpaca, alpaca_broker), "binance": (binance, binance_broker),
}  # fmt: skip


@dataclass
class World:
    """One account and its files. plan: per bar the orders decided on at its close, as (ticker, quantity)."""

    venue: Any
    state_dir: Path
    open_broker: Callable[[Any], Any]
    plan: Sequence[Sequence[tuple[str, str]]] = PLAN
    journal: Callable[[Path], Journal] = Journal
    flow: type[OrderFlow] = OrderFlow
    crash_point: Callable[[str], None] = lambda _: None
    seen: list[str] = field(default_factory=list)  # crash points, in order
    planned: set[tuple[int, str]] = field(default_factory=set)  # (bar, ticker) of every order that had to be sent
    difference: str = ""

    @property
    def account(self) -> ExchangeAccount:
        return self.venue.account

    def pause(self, seconds: float) -> None:
        self.venue.now_s += seconds

    def point(self, name: str) -> None:
        self.seen.append(name)
        self.crash_point(name)

    def live(self) -> None:
        """One life, until the plan is settled or it dies."""
        with (
            closing(self.journal(self.state_dir / "journal.db")) as journal,
            closing(self.open_broker(self.venue)) as broker,
        ):
            if not journal.meta():
                journal.begin(self.meta(), BARS.slice(0, 1), self.opening(broker))
            self.trade(journal, broker)

    def trade(self, journal: Journal, broker: Broker) -> None:
        flow = self.flow(
            journal=journal, broker=broker, rules=VenueRules.uniform("venue", TICKERS),
            sendings=Sendings(born_s=self.venue.now_s), now_s=lambda: self.venue.now_s, pause=self.pause, log=get_logger(),
            crash_point=self.point,
        )  # fmt: skip
        settled_s, held = journal.last_mark()
        self.patiently(lambda: flow.open(held, journal.bars()))
        while (k := BARS.index_of(settled_s)) < len(self.plan):
            if not journal.decision_at(settled_s) and not flow.difference:
                self.point("deciding")
                orders = [(t, Decimal(q)) for t, q in self.plan[k]]
                coins = dict(zip(held.tickers, held.quantity, strict=True))
                self.planned |= {(k, t) for t, q in orders if q > 0 or coins[t] >= LOT}  # else there is nothing to sell
                flow.place(decision(settled_s), limits_state(settled_s), orders, held)
            for seconds in (2.0, 4.0, 6.0, 6.0):
                self.pause(seconds)
                self.patiently(flow.tick)
            self.venue.now_s = max(self.venue.now_s, settled_s + HOUR + 20.0)
            bar = BARS.slice(k + 1, k + 2)
            held = self.patiently(lambda bar=bar, held=held: flow.settle(bar, held, limited=lambda *_: limits_state(0)))
            settled_s += HOUR
        self.difference = flow.difference

    def patiently(self, step: Callable[[], Any]) -> Any:
        """As the trader's loop does: what the broker cannot say now is asked again."""
        for _ in range(100):
            try:
                return step()
            except BrokerUnavailable as error:
                self.pause(error.retry_after_s or 15.0)
        raise AssertionError("the broker is never available again")

    def meta(self) -> dict[str, str]:
        return {
            "tickers": '["BTC", "ETH", "LINK"]', "timeframe_s": str(HOUR), "start_s": str(OPENED_S), "broker": "venue",
        }  # fmt: skip

    def opening(self, broker: Broker) -> Ledger:
        known = self.patiently(lambda: known_or_wait(broker))
        quantity = tuple(known.quantity[t] for t in TICKERS)
        return Ledger(tickers=TICKERS, cash=known.cash, quantity=quantity, peak=known.cash, bars_since_trade=0)


def known_or_wait(broker: Broker) -> Any:
    known = broker.account()
    if not hasattr(known, "cash"):
        raise BrokerUnavailable("not known")
    return known


def decision(close_time_s: int) -> Decided:
    seen = Decision(close_time_s=close_time_s, observation=b"", raw=(0.0,), target=(0.0, 0.0, 0.0))
    return Decided(
        artifact="artifact", bars_sha256="", decision=seen, guarded=seen.target, flatten=False, limits=risk.Limits()
    )


def limits_state(close_time_s: int) -> risk.State:
    """These worlds are about orders: limits stand still."""
    return risk.opened(len(TICKERS), equity=1.0, close_time_s=close_time_s)


def dying(*plan: tuple[str, int]) -> Callable[[str], None]:
    """Die at the n-th passage of a point, then of the next point in the next life, and so on."""
    left = list(plan)
    passed: Counter[str] = Counter()

    def die(name: str) -> None:
        passed[name] += 1
        if left and left[0][0] == name and passed[name] == left[0][1]:
            left.pop(0)
            passed.clear()
            raise Died

    return die


def lives(world: World, *, most: int = 60) -> int:
    """Live until the plan is settled; how many lives that took."""
    for n in range(1, most + 1):
        try:
            world.live()
        except Died:
            world.pause(5.0)  # what the supervisor takes to start it again
            continue
        return n
    raise AssertionError("it never ends")


def violations(world: World) -> list[str]:
    """What the journal and the venue disagree about; empty is the promise."""
    found = []
    venue = world.account
    with closing(world.journal(world.state_dir / "journal.db")) as journal:
        intents = {i.client_order_id: i for i in journal.intents(*STATES)}
        _, held = journal.last_mark()
        executions = sum(bool(name) for name, _ in journal.executed())
    planned = Counter(ticker for _, ticker in world.planned)
    taken = Counter(o.ticker for o in venue.orders)
    given_up = Counter(i.ticker for i in intents.values() if i.state in ("REJECTED", "ABANDONED"))
    for ticker, n in planned.items():
        if taken[ticker] > n:
            found.append(f"doubled: {taken[ticker]} orders of {ticker}, {n} planned")
        if taken[ticker] < n - given_up[ticker]:
            found.append(f"lost: {taken[ticker]} orders of {ticker}, {n} planned")
    found += [f"twice: {i}" for i, n in Counter(o.client_order_id for o in venue.orders).items() if n > 1]
    found += [f"open: {i.ticker} is {i.state}" for i in intents.values() if i.state in ("INTENT", "UNKNOWN", "ACKED")]
    found += [
        f"written off: {i.ticker} is REJECTED, which the venue never said"
        for i in intents.values() if i.state == "REJECTED" and i.client_order_id not in venue.refused
    ]  # fmt: skip
    if world.difference:
        found.append(f"halted: {world.difference}")
    if abs(held.cash - venue.cash) > CENT:
        found.append(f"cash: {held.cash} in the journal, {venue.cash} at the venue")
    coins = dict(zip(held.tickers, held.quantity, strict=True))
    if coins != venue.coins:
        found.append(f"coins: {coins} in the journal, {venue.coins} at the venue")
    if executions != len(venue.trades):
        found.append(f"fills: {executions} in the journal, {len(venue.trades)} at the venue")
    return found


STATES = ("INTENT", "UNKNOWN", "ACKED", "REJECTED", "ABANDONED", "CLOSED")
ALL_FAULTS = tuple(OrderFault)
