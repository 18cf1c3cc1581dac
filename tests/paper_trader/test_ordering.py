"""What leaves, what waits and what is called off, through the real client."""

import contextlib
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from alpaca_like import AlpacaLike
from desk import command, settings
from exchange_account import OrderFault
from order_world import BARS, TICKERS, VENUES, World, decision, limits_state
from rig import HOUR, truth_bars
from test_journal import damaged

from daemon.child.logs import get_logger
from features.errors import DataError
from features.ledger import Ledger
from features.venue_rules import VenueRules
from paper_trader.__main__ import main
from paper_trader.journal import Journal
from paper_trader.ordering import OrderFlow, Sendings

PLAN = [("BTC", Decimal("0.02")), ("LINK", Decimal(3))]
BELOW_MINIMUM = [("BTC", Decimal("0.0001")), ("ETH", Decimal("0.001")), ("LINK", Decimal("0.1"))]


@contextlib.contextmanager
def flowing(tmp_path: Path, *, of: str = "alpaca", **more: Any) -> Iterator[tuple[Any, Journal, OrderFlow]]:
    open_venue, open_broker = VENUES[of]
    with open_venue() as venue, contextlib.closing(Journal(tmp_path / "journal.db")) as journal:
        world = World(venue=venue, state_dir=tmp_path, open_broker=lambda v: open_broker(v, timeout_s=5.0))
        with contextlib.closing(world.open_broker(venue)) as broker:
            journal.begin(world.meta(), BARS.slice(0, 1), world.opening(broker))
            flow = OrderFlow(
                journal=journal, broker=broker, rules=VenueRules.uniform("venue", TICKERS),
                sendings=Sendings(born_s=venue.now_s), now_s=lambda: venue.now_s, pause=world.pause, log=get_logger(),
                **more,
            )  # fmt: skip
            flow.open(journal.last_mark()[1], journal.bars())
            yield venue, journal, flow


def put_off(venue: AlpacaLike, journal: Journal, flow: OrderFlow) -> None:
    """Two orders, and the venue takes neither for now."""
    at_s, held = journal.last_mark()
    venue.account.faults.append(OrderFault.TOO_MANY)
    flow.place(decision(at_s), limits_state(at_s), PLAN, held)


def passed(venue: AlpacaLike, flow: OrderFlow) -> None:
    for _ in range(30):
        venue.now_s += 5.0
        flow.tick()


@pytest.mark.parametrize("halted", [True, False])
def test_an_order_that_was_put_off_waits_with_its_batch_and_is_not_sent_once_trading_is_halted(
    tmp_path: Path, *, halted: bool
) -> None:
    with flowing(tmp_path, may_send=lambda _: not halted) as (venue, journal, flow):
        put_off(venue, journal, flow)
        posts = [path for path, _ in venue.requests if path.startswith("POST")]
        assert len(posts) == 1 and {i.state for i in journal.intents()} == {"INTENT"}
        passed(venue, flow)
        assert {i.state for i in journal.intents()} == {"ABANDONED" if halted else "ACKED"}
        assert len(venue.account.orders) == (0 if halted else 2)


def test_what_a_halt_held_back_is_not_sent_after_a_rearm(tmp_path: Path) -> None:
    with flowing(tmp_path) as (venue, journal, flow):
        put_off(venue, journal, flow)
        flow.call_off()
        passed(venue, flow)
        assert {i.state for i in journal.intents()} == {"ABANDONED"} and venue.account.orders == []


def test_five_refused_orders_within_an_hour_are_an_alarm_until_an_operator_has_looked(tmp_path: Path) -> None:
    with flowing(tmp_path) as (_, journal, flow):
        at_s, held = journal.last_mark()
        for hour in (0, 1):
            flow.place(decision(at_s + hour * HOUR), limits_state(at_s), BELOW_MINIMUM, held)
        assert [i.state for i in journal.intents()] == ["REJECTED"] * 6
        told = "6 orders were refused within an hour, the last: 403: cost basis must be >= minimal amount of order 10"
        assert flow.alarm(BARS.slice(1, 2)) == told
        assert flow.alarm(BARS.slice(2, 3)) == ""  # three of them are older
        journal.told(1, rearmed=limits_state(at_s))
        assert flow.alarm(BARS.slice(1, 2)) == ""


def test_orders_that_there_was_no_money_for_are_no_alarm(tmp_path: Path) -> None:
    """One sell that did not arrive leaves all the buys of its bar unpaid."""
    with flowing(tmp_path) as (venue, journal, flow):
        at_s, held = journal.last_mark()
        venue.account.faults.extend([OrderFault.POOR] * 6)
        for hour in (0, 1):
            orders = [(ticker, Decimal(1)) for ticker in TICKERS]
            flow.place(decision(at_s + hour * HOUR), limits_state(at_s), orders, held)
        assert [i.state for i in journal.intents()] == ["REJECTED"] * 6
        assert flow.alarm(BARS.slice(1, 2)) == ""


def test_an_order_that_filled_in_parts_is_shown_with_all_of_them_and_never_with_rounding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two executions each; the venue then keeps a cent and a coin's last digit."""
    with flowing(tmp_path / "paper") as (venue, journal, flow):
        at_s, held = journal.last_mark()
        flow.place(decision(at_s), limits_state(at_s), PLAN, held)
        venue.account.cash -= Decimal("0.01")
        venue.account.coins["BTC"] -= Decimal("1e-9")
        venue.now_s += HOUR
        flow.settle(BARS.slice(1, 2), held, limited=lambda *_: limits_state(at_s))
        assert flow.difference == "" and any(f.quantity == 0 for f in journal.fills())
        assert main([*command(settings(), tmp_path, "orders")[4:], "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)["orders"]
    assert [(o["ticker"], Decimal(o["filled"])) for o in shown] == PLAN
    assert [Decimal(o["price"]) for o in shown] == [venue.account.price[t] for t, _ in PLAN]
    fees = [sum(t.fee * t.price for t in venue.account.trades if t.order.ticker == name) for name, _ in PLAN]
    assert [Decimal(o["fee_value"]) for o in shown] == fees


def test_a_fill_taken_over_while_catching_up_with_days_is_booked_once(tmp_path: Path) -> None:
    """Somebody traded by hand while the trader was down, and said so: it is booked days before the bar it happened in."""
    bars = truth_bars(80).slice(30, 76)
    with flowing(tmp_path) as (venue, journal, flow):
        at_s, held = journal.last_mark()
        venue.now_s = bars.last_close_s + 20.0
        venue.account.take("by hand", "LINK", Decimal(2), venue.now_s - 5 * HOUR, OrderFault.NONE)
        journal.told(1, rearmed=limits_state(at_s))
        for k in range(1, bars.n_bars):
            held = flow.settle(bars.slice(k, k + 1), held, limited=lambda *_: limits_state(at_s))
            assert flow.difference == "", k
        assert sum(f.quantity for f in journal.fills()) == 2


@pytest.mark.parametrize("of", VENUES)
def test_a_fill_that_a_venue_tells_twice_in_one_answer_is_booked_once(
    tmp_path: Path, of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with flowing(tmp_path, of=of) as (venue, journal, flow):
        answer = type(venue)._account_answer

        def twice(venue: Any, account: Any, path: str, query: dict[str, str]) -> Any:
            status, found = answer(venue, account, path, query)
            return status, [x for x in found for _ in range(2)] if path.endswith(("FILL", "myTrades")) else found

        monkeypatch.setattr(type(venue), "_account_answer", twice)
        at_s, held = journal.last_mark()
        flow.place(decision(at_s), limits_state(at_s), PLAN, held)
        venue.now_s += HOUR
        held = flow.settle(BARS.slice(1, 2), held, limited=lambda *_: limits_state(at_s))
        booked = [name for name, _ in journal.executed() if name]
        assert flow.difference == "" and len(booked) == len(venue.account.trades) == 4


@pytest.mark.parametrize("bars_later", [2, 40])
def test_a_sandbox_that_is_emptied_every_month_is_traded_on_once_an_operator_has_looked(
    tmp_path: Path, bars_later: int
) -> None:
    """Binance's deletes all orders and trades; their numbers begin again."""
    bars = truth_bars(80).slice(30, 76)
    with flowing(tmp_path, of="binance") as (venue, journal, flow):
        at_s, held = journal.last_mark()

        def settled(k: int, held: Ledger) -> Ledger:
            venue.now_s = int(bars.close_time_s[k]) + 20.0
            return flow.settle(bars.slice(k, k + 1), held, limited=lambda *_: limits_state(at_s))

        flow.place(decision(at_s), limits_state(at_s), PLAN, held)
        for k in range(1, bars_later + 1):
            held = settled(k, held)
        venue.account.orders.clear(), venue.account.trades.clear()
        venue.account.cash, venue.account.coins["BTC"] = Decimal(10_000), Decimal(1)
        held = settled(bars_later + 1, held)
        assert "the broker holds" in flow.difference
        journal.told(1, rearmed=limits_state(at_s))
        held = settled(bars_later + 2, held)
        flow.place(decision(journal.last_bar_s()), limits_state(at_s), PLAN, held)
        held = settled(bars_later + 3, held)
        assert flow.difference == "" and sum(bool(name) for name, _ in journal.executed()) == 8
        assert held.cash == venue.account.cash


def test_the_journal_is_checked_every_hour_while_it_is_in_use(tmp_path: Path) -> None:
    with flowing(tmp_path) as (venue, journal, flow):
        damaged(journal)
        flow.rest()
        venue.now_s += HOUR
        with pytest.raises(DataError, match=r"journal\.db is damaged"):
            flow.rest()
