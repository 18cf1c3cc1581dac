"""When the trader may decide: `step(state, event) -> (state, effects)`, pure.

IDLE (nothing to trade yet) → TRADING → HALTED. HALTED is latched in the journal: a restart does not leave it, only
an operator does (`cappuccinoctl rearm`). What passes by itself (an old bar, a clock that is off) is no halt but a
reason to wait. Beside all that stands what the operator wants: trade, pause, or everything sold.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never


class Phase(StrEnum):
    IDLE = "idle"
    TRADING = "trading"
    HALTED = "halted"


class Command(StrEnum):
    """pause: no decisions; flatten: sell everything, then none; resume: decide again; rearm: forget a halt."""

    PAUSE = "pause"
    RESUME = "resume"
    FLATTEN = "flatten"
    REARM = "rearm"


class Standing(StrEnum):
    """The operator's standing order."""

    TRADE = "trade"
    PAUSE = "pause"
    FLATTEN = "flatten"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """stale_after_s: age above which a bar is too old. max_clock_offset_s: between ours and the venue's.

    reason: of the halt. waiting: why the newest bar is not decided on although nothing is halted.
    """

    phase: Phase
    stale_after_s: float
    max_clock_offset_s: float
    operator: Standing = Standing.TRADE
    has_policy: bool = False
    reason: str = ""
    waiting: str = ""

    @property
    def flatten(self) -> bool:
        return self.operator is Standing.FLATTEN

    def may_send(self, *, sells: bool) -> bool:
        """Whether an order that was decided on before and has not arrived may still go out."""
        if self.flatten:
            return sells
        return self.phase is not Phase.HALTED and self.operator is Standing.TRADE

    @property
    def shown(self) -> str:
        """One word for a person: what the trader is doing."""
        if self.phase is Phase.HALTED or self.operator is Standing.TRADE:
            return str(self.phase)
        return "paused" if self.operator is Standing.PAUSE else "flattened"


@dataclass(frozen=True, slots=True, kw_only=True)
class BarSettled:
    """A closed bar was booked. age_s: since its close; account_agrees: journal equals broker; alarm: why to halt, or "".

    clock_offset_s: our clock minus the venue's, None where there is no such clock. newest: none has closed since.
    invested: whether any coin is held.
    """

    age_s: float
    account_agrees: bool
    alarm: str = ""
    clock_offset_s: float | None = None
    newest: bool = True
    invested: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NoBar:
    """The market had nothing new. age_s: since the last settled bar closed."""

    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoaded:
    """There is something to trade."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that must never happen did: a parity mismatch, a value that is not finite."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An operator's request was taken up."""

    command: Command


Event = BarSettled | NoBar | PolicyLoaded | Fault | Told


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide:
    """Decide on this bar and send the orders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latch:
    """Write the halt down, durably."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Not halted, not deciding: said once when it begins."""

    reason: str


Effect = Decide | Latch | Wait


def step(state: Session, event: Event) -> tuple[Session, tuple[Effect, ...]]:
    match event:
        case BarSettled():
            return _bar(state, event)
        case NoBar(age_s=age_s):
            late = age_s > state.stale_after_s
            return _waiting(state, f"no bar for {age_s / 60.0:.0f} min") if late and not state.waiting else (state, ())
        case PolicyLoaded():
            phase = Phase.TRADING if state.phase is Phase.IDLE else state.phase
            return replace(state, phase=phase, has_policy=True), ()
        case Fault(reason=reason):
            return _halted(state, reason)
        case Told(command=command):
            return _told(state, command), ()
        case _:
            assert_never(event)


def _bar(state: Session, event: BarSettled) -> tuple[Session, tuple[Effect, ...]]:
    reason = _why_wait(state, event)
    if not event.account_agrees:
        return _halted(replace(state, waiting=reason), "the journal's account is not the broker's")
    if event.alarm and not state.flatten:  # an operator who sells everything is not stopped by what he reacts to
        return _halted(replace(state, waiting=reason), event.alarm)
    if reason:
        return _waiting(state, reason)
    state = replace(state, waiting="")
    halted = state.phase is Phase.HALTED and not state.flatten
    if halted or not state.has_policy or state.operator is Standing.PAUSE:
        return state, ()
    return state, (Decide(),)


def _why_wait(state: Session, event: BarSettled) -> str:
    """Such a bar is booked, never traded on as if it were new and certain. NaN waits too."""
    if not event.newest:
        return "catching up: later bars have closed"
    if not event.age_s <= state.stale_after_s:
        return f"the newest bar is {event.age_s / 60.0:.0f} min old"
    offset_s = event.clock_offset_s
    if offset_s is not None and not abs(offset_s) <= state.max_clock_offset_s:
        return f"our clock is {offset_s:+.1f} s off the venue's"
    if state.flatten and event.invested and not state.has_policy:
        return "nothing can be sold before the first judgement: there is no policy to decide with"
    return ""


def _told(state: Session, command: Command) -> Session:
    match command:
        case Command.PAUSE:
            return replace(state, operator=Standing.PAUSE)
        case Command.RESUME:
            return replace(state, operator=Standing.TRADE)
        case Command.FLATTEN:
            return replace(state, operator=Standing.FLATTEN)
        case Command.REARM:
            return replace(state, phase=Phase.TRADING if state.has_policy else Phase.IDLE, reason="")
        case _:
            assert_never(command)


def _waiting(state: Session, reason: str) -> tuple[Session, tuple[Effect, ...]]:
    begins = not state.waiting
    return replace(state, waiting=reason), (Wait(reason=reason),) if begins else ()


def _halted(state: Session, reason: str) -> tuple[Session, tuple[Effect, ...]]:
    if state.phase is Phase.HALTED:
        return state, ()
    return replace(state, phase=Phase.HALTED, reason=reason), (Latch(reason=reason),)
