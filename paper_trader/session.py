"""When the trader may decide: `step(state, event) -> (state, effects)`, pure.

IDLE (nothing to trade yet) → TRADING → HALTED. HALTED is latched in the journal: a restart does not leave it, only
an operator does (`cappuccinoctl rearm`).
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never


class Phase(StrEnum):
    IDLE = "idle"
    TRADING = "trading"
    HALTED = "halted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """max_drawdown: fraction of the peak that trips the kill switch. stale_after_s: age above which a bar is too old."""

    phase: Phase
    max_drawdown: float
    stale_after_s: float
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BarSettled:
    """A closed bar was booked. drawdown: fraction; age_s: since its close; account_agrees: journal equals broker."""

    drawdown: float
    age_s: float
    account_agrees: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoaded:
    """There is something to trade."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that must never happen did: a parity mismatch, a value that is not finite."""

    reason: str


Event = BarSettled | PolicyLoaded | Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide:
    """Decide on this bar and send the orders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latch:
    """Write the halt down, durably."""

    reason: str


Effect = Decide | Latch


def step(state: Session, event: Event) -> tuple[Session, tuple[Effect, ...]]:
    match event:
        case BarSettled():
            return _bar(state, event)
        case PolicyLoaded():
            return (replace(state, phase=Phase.TRADING) if state.phase is Phase.IDLE else state), ()
        case Fault(reason=reason):
            return _halted(state, reason)
        case _:
            assert_never(event)


def _bar(state: Session, event: BarSettled) -> tuple[Session, tuple[Effect, ...]]:
    if state.phase is Phase.HALTED:
        return state, ()
    if not event.account_agrees:
        return _halted(state, "the journal's account is not the broker's")
    # written so that a NaN halts instead of passing
    if not event.drawdown < state.max_drawdown:
        return _halted(state, f"drawdown {event.drawdown:.1%} reached the limit of {state.max_drawdown:.0%}")
    if state.phase is Phase.IDLE or event.age_s > state.stale_after_s:
        return state, ()  # an old bar is booked, never traded on as if it were new
    return state, (Decide(),)


def _halted(state: Session, reason: str) -> tuple[Session, tuple[Effect, ...]]:
    if state.phase is Phase.HALTED:
        return state, ()
    return replace(state, phase=Phase.HALTED, reason=reason), (Latch(reason=reason),)
