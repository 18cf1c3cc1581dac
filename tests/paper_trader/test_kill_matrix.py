"""A slice of the kill matrix small enough for every change; all of it is in tests/chaos (`make chaos`)."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange_account import OrderFault
from kill_matrix import CELLS, CRASHES, Cell, play, played_seed
from order_world import (
    VENUES,
    Died,
    World,
    alpaca,
    alpaca_broker,
    binance_broker,
    dying,
    limits_state,
    lives,
    violations,
)

from paper_trader import ordering
from paper_trader.brokers.alpaca import AlpacaBroker
from paper_trader.brokers.base import Absent, Outcome, Unknown
from paper_trader.journal import Intent, Journal

SLICE = tuple(cell for cell in CELLS if cell.second == "none" and cell.crash in ("none", "after TX1", "after POST"))


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize("cell", SLICE, ids=str)
def test_no_order_is_lost_none_doubled_and_the_ledger_is_the_venues(venue: str, cell: Cell, tmp_path: Path) -> None:
    assert play(venue, cell, tmp_path) == []


@pytest.mark.parametrize("seed", range(12))
def test_random_faults_and_deaths_change_nothing(seed: int, tmp_path: Path) -> None:
    assert played_seed(seed, tmp_path) == []


@pytest.mark.parametrize("venue", VENUES)
def test_a_sell_pays_for_the_buys_of_its_bar_also_where_they_fill_within_a_second(venue: str, tmp_path: Path) -> None:
    """A venue tells fills coin by coin, and BTC comes before LINK."""
    opened, broker = VENUES[venue]
    with opened() as world:
        world.account.cash, world.account.coins["LINK"] = Decimal("100.00"), Decimal(700)
        plan = ((("BTC", "0.2"), ("LINK", "-700")), ())
        trading = World(venue=world, state_dir=tmp_path, open_broker=lambda v: broker(v, timeout_s=5.0), plan=plan)
        trading.live()
    assert (trading.difference, violations(trading)) == ("", [])
    assert {t.order.ticker for t in world.account.trades} == {"BTC", "LINK"}


# The tests above would notice: each of these changes breaks at least one cell.


class NoClientId(AlpacaBroker):
    """The venue makes up a name of its own; the answer is believed."""

    def _body(self, intent: Intent) -> dict[str, str]:
        return {k: v for k, v in super()._body(intent).items() if k != "client_order_id"}

    def _learn(self, order: Any, intent: Intent) -> str:
        self._ids[order["id"]] = intent.client_order_id
        return str(order["id"])


class RandomId(AlpacaBroker):
    """A new name with every sending."""

    def _body(self, intent: Intent) -> dict[str, str]:
        return super()._body(intent) | {"client_order_id": str(uuid.UUID(bytes=np.random.default_rng().bytes(16)))}

    _learn = NoClientId._learn


class BlindRetry(AlpacaBroker):
    """What is not answered is sent again at once, as alpaca-py would, under another name so that it is taken."""

    def submit(self, intent: Intent) -> Outcome:
        outcome = super().submit(intent)
        if isinstance(outcome, Unknown):
            return super().submit(replace(intent, client_order_id=intent.client_order_id[::-1]))
        return outcome


class ForgetfulFlow(ordering.OrderFlow):
    """Sends first and writes down afterwards."""

    def place(self, decided: Any, state: Any, orders: Any, held: Any) -> None:
        now_s = self._now_s()
        wanted = ordering.intents(
            orders, account="paper", artifact=str(self._sendings.born_s),
            close_time_s=decided.decision.close_time_s, sent_s=now_s, expires_s=now_s + 300.0,
        )  # fmt: skip
        for intent in wanted:
            self._broker.submit(intent)
            self._crash_point("submitted")
        self._journal.decide(decided, state, [replace(i, state="ACKED") for i in wanted])


class TrustsSilence(AlpacaBroker):
    """An order that was not answered is taken for not sent: it is given up."""

    def find(self, intent: Intent) -> Any:
        return Absent()

    def submit(self, intent: Intent) -> Outcome:
        outcome = super().submit(intent)
        return ordering_rejected(outcome) if isinstance(outcome, Unknown) else outcome


def ordering_rejected(outcome: Unknown) -> Outcome:
    from paper_trader.brokers.base import Rejected

    return Rejected(reason=outcome.reason)


MUTANTS: dict[str, dict[str, Any]] = {
    "no client id": {"kind": NoClientId}, "random id": {"kind": RandomId}, "blind retry": {"kind": BlindRetry},
    "silence is refusal": {"kind": TrustsSilence}, "memory-only state": {"flow": ForgetfulFlow},
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_trader_that_is_careless_in_a_known_way_is_caught(mutant: str, tmp_path: Path) -> None:
    changed, caught = MUTANTS[mutant], []
    cells = [c for c in SLICE if c.fault in (OrderFault.TAKEN_504, OrderFault.NONE, OrderFault.LOST_504)]
    for n, cell in enumerate(cells):
        place = tmp_path / str(n)
        place.mkdir()
        found = play(
            "alpaca", cell, place, flow=changed.get("flow", ordering.OrderFlow),
            open_broker=lambda venue: alpaca_broker(venue, kind=changed.get("kind", AlpacaBroker)),
        )  # fmt: skip
        caught += found
    assert any(text.startswith(("doubled", "lost", "halted", "written off")) for text in caught), caught


def test_on_a_venue_that_forgets_ids_sending_again_at_once_is_caught(tmp_path: Path) -> None:
    """Binance takes the id of a filled order a second time; only the time window of its requests helps."""

    def hasty(venue: Any) -> Any:
        broker = binance_broker(venue)
        broker.traits = replace(broker.traits, late_s=0.0)
        return broker

    late = Cell(fault=OrderFault.LATE_FIRST, crash="none", second="none")
    (tmp_path / "hasty").mkdir()
    assert any("twice" in text for text in play("binance", late, tmp_path / "hasty", open_broker=hasty))
    assert play("binance", late, tmp_path) == []


def test_the_matrix_has_every_cell_it_claims() -> None:
    assert len(CELLS) == len(OrderFault) * len(CRASHES) * 3 >= 162
    assert len(set(CELLS)) == len(CELLS)


def test_a_memory_only_journal_is_not_a_journal(tmp_path: Path) -> None:
    """The files are what the next life has: with them gone, the venue's orders are nobody's."""

    def forgetting(path: Path) -> Journal:
        for file in path.parent.glob("journal.db*"):
            file.unlink()
        return Journal(path)

    with alpaca() as venue:
        world = World(venue, tmp_path, alpaca_broker, journal=forgetting, crash_point=dying(("submitted", 2)))
        lives(world)
        world.journal = Journal
        assert violations(world)


@pytest.mark.parametrize("venue", VENUES)
def test_an_order_that_was_given_up_and_arrives_after_all_is_cancelled_or_booked(venue: str, tmp_path: Path) -> None:
    open_venue, open_broker = VENUES[venue]
    with open_venue() as running:
        running.account.window_s = None  # as late as it likes
        world = World(running, tmp_path, open_broker, plan=((("BTC", "0.02"),), (("ETH", "-1"),)))
        running.account.faults.append(OrderFault.LATE_SECOND)
        world.crash_point = dying(("submitted", 1))
        with pytest.raises(Died):
            world.live()
        running.now_s += 400.0  # the trader was away for longer than an order lives
        arrive = _arrive_once(running)
        world.crash_point = lambda name: arrive() if name == "deciding" else None
        lives(world)
        assert violations(world) == []


def _arrive_once(venue: Any) -> Callable[[], None]:
    return lambda: venue.account.deliver(None, venue.now_s)


@pytest.mark.parametrize("venue", VENUES)
def test_a_sell_of_everything_is_cut_to_whole_lots_of_what_is_held_and_leaves_dust(venue: str, tmp_path: Path) -> None:
    """0.0213 BTC less a fee of 0.00005325 are 0.02124675; 0.02124 are whole lots of 0.00001, the rest is dust."""
    open_venue, open_broker = VENUES[venue]
    with open_venue() as running:
        world = World(running, tmp_path, open_broker, plan=((("BTC", "0.0213"),), (("BTC", "-0.0213"),)))
        lives(world)
        assert violations(world) == []
        assert running.account.orders[-1].quantity == Decimal("-0.02124")
        assert Decimal(0) < running.account.coins["BTC"] < Decimal("0.00001")


@pytest.mark.parametrize("venue", VENUES)
def test_an_intervention_by_hand_halts_and_an_operator_may_take_it_over(venue: str, tmp_path: Path) -> None:
    open_venue, open_broker = VENUES[venue]
    with open_venue() as running:
        world = World(running, tmp_path, open_broker, plan=((("BTC", "0.02"),),))
        lives(world)
        assert violations(world) == []
        running.account.take("by hand", "LINK", Decimal(3), running.now_s, OrderFault.NONE)
        world.plan = (*world.plan, (("ETH", "-1"),))
        before = running.account.posts
        lives(world)
        assert "3 LINK" in world.difference.replace("1.000000000 LINK", "3 LINK") and running.account.posts == before
        journal = Journal(tmp_path / "journal.db")
        journal.told(1, rearmed=limits_state(0))
        journal.close()
        world.plan = (*world.plan, (("ETH", "-0.5"),))
        lives(world)
        assert world.difference == ""
        assert running.account.posts == before + 1
