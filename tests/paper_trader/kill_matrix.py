"""The kill matrix: how an order goes wrong × where the trader dies × where its successor dies."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from exchange_account import OrderFault
from order_world import VENUES, Died, World, dying, lives, violations

from paper_trader.ordering import OrderFlow

# Where it dies, as (point, passage): the second order of the first decision is where it hurts most.
CRASHES: dict[str, tuple[str, int] | None] = {
    "none": None, "before TX1": ("deciding", 1), "after TX1": ("decided", 1), "before POST": ("sending", 2),
    "after POST": ("submitted", 2), "after TX2": ("acknowledged", 1),
}  # fmt: skip
SECONDS: dict[str, tuple[str, int] | None] = {
    "none": None, "before POST": ("sending", 1), "after POST": ("submitted", 1),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    fault: OrderFault
    crash: str
    second: str

    def __str__(self) -> str:
        return f"{self.fault.name}-{self.crash}-{self.second}"


CELLS = tuple(Cell(fault=f, crash=c, second=s) for f in OrderFault for c in CRASHES for s in SECONDS)


def play(
    venue: str, cell: Cell, state_dir: Path, *, flow: type[OrderFlow] = OrderFlow,
    open_broker: Callable[[Any], Any] | None = None,
) -> list[str]:  # fmt: skip
    """What is wrong in the end; the first two orders both meet the cell's fault."""
    open_venue, usual = VENUES[venue]
    with open_venue() as running:
        running.account.faults.extend([cell.fault, cell.fault])
        deaths = [point for point in (CRASHES[cell.crash], SECONDS[cell.second]) if point is not None]
        world = World(running, state_dir, open_broker or usual, flow=flow, crash_point=dying(*deaths))
        try:
            lives(world)
        except AssertionError as error:
            return [f"stuck: {error}"]
        return violations(world)


FAULTS_OF_READS = (503, 429, 200)


def played_seed(seed: int, state_dir: Path) -> list[str]:
    """One random life on a random venue: any fault on any order, deaths anywhere, reads that fail."""
    rng = np.random.default_rng(seed)
    open_venue, open_broker = VENUES[str(rng.choice(list(VENUES)))]
    with open_venue() as running:
        quick = [f for f in OrderFault if "HANG" not in f.name]
        running.account.faults.extend(rng.choice(np.array(quick, dtype=object), 12))
        world = World(running, state_dir, open_broker)
        share = float(rng.uniform(0.0, 0.2))
        deaths = [int(rng.integers(1, 7))]

        def perhaps_die(_: str) -> None:
            if deaths[0] and rng.random() < share:
                deaths[0] -= 1
                raise Died

        world.crash_point = perhaps_die
        _fail_some_reads(running, rng, share)
        try:
            lives(world)
        except AssertionError as error:
            return [f"seed {seed} stuck: {error}"]
        _answer_again(running)
        return [f"seed {seed}: {text}" for text in violations(world)]


def _fail_some_reads(running: Any, rng: np.random.Generator, share: float) -> None:
    true_answer = running.answer

    def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> tuple[int, Any]:
        if rng.random() < share:
            return int(rng.choice(FAULTS_OF_READS)), "<html>come back later</html>"
        given: tuple[int, Any] = true_answer(path, query, headers)
        return given

    running.answer = answer


def _answer_again(running: Any) -> None:
    del running.answer
