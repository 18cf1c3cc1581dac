"""Orderly ends: of one child, of training (pause, drain), of everything, with the trader last."""

from dataclasses import replace

from daemon.lifecycle.events import Effect, Signal
from daemon.lifecycle.records import STOP_ORDER, Fleet, State

Step = tuple[Fleet, tuple[Effect, ...]]


def terminate(fleet: Fleet, name: str, now_s: float) -> Step:
    """Ask one child to stop. Without a process it is stopped already; FINISHED and FATAL stay what they are."""
    c = fleet.child(name)
    if c.state is State.STARTING:  # settled when the shell reports its pid
        return fleet, ()
    if c.pid is None:
        state = State.STOPPED if c.state is State.BACKOFF or not c.wanted else c.state
        return fleet.put(replace(c, state=state)), ()
    if c.state in (State.STOPPING, State.UNKILLABLE):
        return fleet.put(replace(c, reason="")), ()  # if it was being recycled: now it is wanted gone
    asked = replace(c, state=State.STOPPING, term_s=now_s)
    return fleet.put(asked), (Signal(name=name, pid=c.pid, what="term"),)


def pause(fleet: Fleet, *, on: bool, now_s: float) -> Step:
    """Workers are held back, not unwanted: what the operator asked of each is kept."""
    fleet = replace(fleet, paused=on)
    return _each(fleet, "worker", now_s) if on else (fleet, ())


def drain(fleet: Fleet, now_s: float) -> Step:
    """Every working worker finishes its trial; nobody is started; `step` stops the rest when they are gone."""
    if fleet.draining or fleet.stopping_s is not None:
        return fleet, ()
    fleet = replace(fleet, draining=True)
    effects: list[Effect] = []
    for c in fleet.children:
        if c.spec.kind != "worker":
            continue
        if c.state is State.RUNNING and c.pid is not None:
            fleet = fleet.put(replace(c, state=State.DRAINING))
            effects.append(Signal(name=c.spec.name, pid=c.pid, what="finish"))
        elif c.state is State.BACKOFF:
            fleet = fleet.put(replace(c, state=State.STOPPED, due_s=now_s))
    return fleet, tuple(effects)


def stop_all(fleet: Fleet, now_s: float) -> Step:
    """Everyone but the trader at once, advisor first; the trader when they are gone (`stop_trader_when_due`)."""
    fleet = replace(fleet, stopping_s=fleet.stopping_s if fleet.stopping_s is not None else now_s)
    effects: list[Effect] = []
    for kind in STOP_ORDER:
        if kind != "paper_trader":
            fleet, more = _each(fleet, kind, now_s)
            effects += more
    fleet, last = stop_trader_when_due(fleet, now_s)
    return fleet, (*effects, *last)


def stop_trader_when_due(fleet: Fleet, now_s: float) -> Step:
    assert fleet.stopping_s is not None
    others_gone = not any(fleet.alive(kind) for kind in STOP_ORDER if kind != "paper_trader")
    if others_gone or now_s >= fleet.stopping_s + fleet.policy.trader_waits_s:
        return _each(fleet, "paper_trader", now_s)
    return fleet, ()


def _each(fleet: Fleet, kind: str, now_s: float) -> Step:
    effects: list[Effect] = []
    for child in fleet.children:
        if child.spec.kind == kind:
            fleet, more = terminate(fleet, child.spec.name, now_s)
            effects += more
    return fleet, tuple(effects)
