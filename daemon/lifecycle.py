"""When a child runs, waits, is given up or is stopped: `step(fleet, event) -> (fleet, effects)`, pure.

Time is the supervisor's monotonic clock and arrives in events; so does the one random number a delay needs. The shell
performs the effects and reports back what happened as further events.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, assert_never

EXIT_CONFIGURATION = 78  # EX_CONFIG: no restart can help
KILL_AFTER_ABORT_S = 5.0  # time for the stack dump
TRADER_WAITS_S = 30.0  # in a full stop the trader goes last: when the others are gone, or then
SPAWN_PACE_S = 0.2  # a crash of everything must not fork everything at once
MAX_DOUBLINGS = 30  # 2**30 s is far beyond any cap; the exponent is clamped before it is used

Kind = Literal["worker", "paper_trader", "janitor", "advisor"]


class State(StrEnum):
    STOPPED = "stopped"
    RUNNING = "running"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    FINISHED = "finished"
    FATAL = "fatal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Seconds, and how many restarts within the window are too many."""

    backoff_first_s: float
    backoff_max_s: float
    backoff_reset_s: float
    max_restarts: int
    restart_window_s: float

    def delay_s(self, failures: int, jitter: float) -> float:
        """Delay before restart number `failures` (from 1), in [d/2, d]; jitter in [0, 1)."""
        doubled = self.backoff_first_s * 2.0 ** min(max(failures, 1) - 1, MAX_DOUBLINGS)
        return min(doubled, self.backoff_max_s) * (0.5 + 0.5 * jitter)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to run and how long it may be silent or slow to stop. A child that `finishes` may exit 0 for good."""

    name: str
    kind: Kind
    command: tuple[str, ...]
    hang_s: float
    grace_s: float
    finishes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One child now. `done` is its own progress counter; `wanted` is what the operator asked for."""

    spec: ChildSpec
    state: State = State.STOPPED
    wanted: bool = True
    pid: int | None = None
    since_s: float = 0.0
    due_s: float = 0.0
    failures: int = 0
    restarts_s: tuple[float, ...] = ()
    done: int = -1
    progress_s: float = 0.0
    abort_s: float | None = None
    term_s: float | None = None
    again: bool = False
    last_exit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    policy: Policy
    children: tuple[Child, ...]
    stopping_s: float | None = None
    last_spawn_s: float = -1e9

    def child(self, name: str) -> Child:
        return next(c for c in self.children if c.spec.name == name)

    @property
    def is_down(self) -> bool:
        """A full stop was asked for and nothing runs any more."""
        return self.stopping_s is not None and all(c.pid is None for c in self.children)

    @property
    def is_finished(self) -> bool:
        """Every child that can finish has finished (or was given up)."""
        ends = [c for c in self.children if c.spec.finishes]
        return bool(ends) and all(c.state in (State.FINISHED, State.FATAL, State.STOPPED) for c in ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    now_s: float
    jitter: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    name: str
    pid: int
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """The child is gone, or could not be started at all. code: exit status, negative for a signal."""

    name: str
    code: int
    now_s: float
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    name: str
    done: int
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """An operator's wish for one child."""

    verb: Literal["start", "stop", "restart", "retry"]
    name: str
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAll:
    now_s: float


Event = Tick | Spawned | Exited | Beat | Command | StopAll


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawn:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """what: "term" asks, "abort" wants a stack dump, "kill" ends."""

    name: str
    pid: int
    what: Literal["term", "abort", "kill"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A fact for the log; `event` is one of the committed names."""

    event: str
    name: str
    facts: tuple[tuple[str, str | int | float | None], ...] = ()


Effect = Spawn | Signal | Note
Step = tuple[Fleet, tuple[Effect, ...]]


def step(fleet: Fleet, event: Event) -> Step:
    match event:
        case Tick():
            return _tick(fleet, event)
        case Spawned():
            return _spawned(fleet, event)
        case Exited():
            return _exited(fleet, event)
        case Beat():
            return _beat(fleet, event), ()
        case Command():
            return _command(fleet, event)
        case StopAll():
            return _stop_all(fleet, event.now_s)
        case _:
            assert_never(event)


def next_wake_s(fleet: Fleet) -> float:
    """When something may change without an event from outside; infinity when nothing can."""
    times = [float("inf")]
    for c in fleet.children:
        if c.state is State.BACKOFF or (c.state is State.STOPPED and c.wanted and fleet.stopping_s is None):
            times.append(max(c.due_s, fleet.last_spawn_s + SPAWN_PACE_S))
        if c.pid is not None and c.state is State.RUNNING:
            times.append(c.progress_s + c.spec.hang_s if c.abort_s is None else c.abort_s + KILL_AFTER_ABORT_S)
        if c.pid is not None and c.state is State.STOPPING and c.term_s is not None:
            times.append(c.term_s + c.spec.grace_s)
        if c.pid is not None and c.state is State.RUNNING and fleet.stopping_s is not None:
            times.append(fleet.stopping_s + TRADER_WAITS_S)
    return min(times)


def _tick(fleet: Fleet, tick: Tick) -> Step:
    effects: list[Effect] = []
    for child in fleet.children:
        fleet, more = _tick_child(fleet, child, tick.now_s)
        effects += more
    if fleet.stopping_s is not None:
        fleet, more = _stop_trader_when_due(fleet, tick.now_s)
        effects += more
    return fleet, tuple(effects)


def _tick_child(fleet: Fleet, c: Child, now_s: float) -> tuple[Fleet, list[Effect]]:
    waiting = c.state is State.BACKOFF or (c.state is State.STOPPED and c.wanted)
    if waiting and fleet.stopping_s is None and now_s >= max(c.due_s, fleet.last_spawn_s + SPAWN_PACE_S):
        # RUNNING without a pid until the shell reports: a stop asked for in between is not lost
        started = replace(c, state=State.RUNNING, since_s=now_s, progress_s=now_s, done=-1, abort_s=None, term_s=None)
        return replace(_put(fleet, started), last_spawn_s=now_s), [Spawn(name=c.spec.name)]
    if c.pid is None:
        return fleet, []
    if c.state is State.RUNNING and c.abort_s is None and now_s >= c.progress_s + c.spec.hang_s:
        silent = round(now_s - c.progress_s, 1)
        return _put(fleet, replace(c, abort_s=now_s)), [
            Note(event="child.hung", name=c.spec.name, facts=(("child_pid", c.pid), ("silent_s", silent))),
            Signal(name=c.spec.name, pid=c.pid, what="abort"),
        ]
    overdue = c.abort_s is not None and now_s >= c.abort_s + KILL_AFTER_ABORT_S
    overdue |= c.state is State.STOPPING and c.term_s is not None and now_s >= c.term_s + c.spec.grace_s
    if overdue:
        again = replace(c, abort_s=None if c.abort_s is None else now_s, term_s=None if c.term_s is None else now_s)
        return _put(fleet, again), [Signal(name=c.spec.name, pid=c.pid, what="kill")]
    return fleet, []


def _spawned(fleet: Fleet, event: Spawned) -> Step:
    c = fleet.child(event.name)
    fleet = _put(fleet, replace(c, pid=event.pid, since_s=event.now_s, progress_s=event.now_s))
    note = Note(event="child.spawned", name=event.name, facts=(("child_pid", event.pid), ("failures", c.failures)))
    if not c.wanted or fleet.stopping_s is not None:
        fleet, effects = _terminate(fleet, event.name, event.now_s)
        return fleet, (note, *effects)
    return fleet, (note,)


def _beat(fleet: Fleet, event: Beat) -> Fleet:
    c = fleet.child(event.name)
    if event.done == c.done:  # alive, but nothing got done
        return fleet
    return _put(fleet, replace(c, done=event.done, progress_s=event.now_s))


def _exited(fleet: Fleet, event: Exited) -> Step:
    c = fleet.child(event.name)
    text = f"exit {event.code}" if event.code >= 0 else f"signal {-event.code}"
    gone = replace(c, pid=None, since_s=event.now_s, last_exit=text, abort_s=None, term_s=None, again=False)
    note = Note(event="child.exited", name=event.name, facts=(("code", event.code), ("failures", c.failures)))
    if c.state is State.STOPPING or fleet.stopping_s is not None or not c.wanted:
        state = State.STOPPED
        return _put(fleet, replace(gone, state=state, wanted=c.again, due_s=event.now_s)), (note,)
    if event.code == 0 and c.spec.finishes:
        finished = Note(event="child.finished", name=event.name)
        return _put(fleet, replace(gone, state=State.FINISHED)), (finished,)
    if event.code == EXIT_CONFIGURATION:
        why = Note(event="child.fatal", name=event.name, facts=(("code", event.code), ("reason", "configuration")))
        return _put(fleet, replace(gone, state=State.FATAL)), (note, why)
    return _restarted(fleet, gone, event, healthy_s=event.now_s - c.since_s, silent_s=event.now_s - c.progress_s)


def _restarted(fleet: Fleet, c: Child, event: Exited, *, healthy_s: float, silent_s: float) -> Step:
    """Back off, or give up when it restarts too often. Health, not starting, forgives earlier failures."""
    policy = fleet.policy
    forgiven = healthy_s >= policy.backoff_reset_s and silent_s < c.spec.hang_s and c.done >= 0
    failures = 1 if forgiven else c.failures + 1
    recent = tuple(t for t in c.restarts_s if t > event.now_s - policy.restart_window_s)
    if len(recent) >= policy.max_restarts:
        fatal = Note(event="child.fatal", name=c.spec.name, facts=(("code", event.code), ("reason", "restarts")))
        return _put(fleet, replace(c, state=State.FATAL, failures=failures)), (fatal,)
    delay_s = policy.delay_s(failures, event.jitter)
    waiting = replace(
        c, state=State.BACKOFF, failures=failures, due_s=event.now_s + delay_s, restarts_s=(*recent, event.now_s)
    )
    facts = (("code", event.code), ("failures", failures), ("next_start_s", round(delay_s, 2)))
    return _put(fleet, waiting), (Note(event="child.exited", name=c.spec.name, facts=facts),)


def _command(fleet: Fleet, event: Command) -> Step:
    c = fleet.child(event.name)
    if fleet.stopping_s is not None:
        return fleet, ()
    if event.verb == "stop":
        if c.pid is None:
            return _put(fleet, replace(c, wanted=False, state=State.STOPPED)), ()
        return _terminate(_put(fleet, replace(c, wanted=False)), event.name, event.now_s)
    fresh = replace(c, wanted=True, failures=0, restarts_s=(), due_s=event.now_s)
    if c.pid is None:
        return _put(fleet, replace(fresh, state=State.STOPPED)), ()
    if event.verb == "restart":
        return _terminate(_put(fleet, replace(fresh, again=True)), event.name, event.now_s)
    return _put(fleet, replace(c, failures=0, restarts_s=())), ()


def _stop_all(fleet: Fleet, now_s: float) -> Step:
    """Everyone but the trader at once, advisor first; the trader when they are gone (see `_tick`)."""
    fleet = replace(fleet, stopping_s=fleet.stopping_s if fleet.stopping_s is not None else now_s)
    order: dict[Kind, int] = {"advisor": 0, "worker": 1, "janitor": 2, "paper_trader": 3}
    effects: list[Effect] = []
    for child in sorted(fleet.children, key=lambda c: order[c.spec.kind]):
        if child.spec.kind != "paper_trader":
            fleet, more = _terminate(fleet, child.spec.name, now_s)
            effects += more
    fleet, last = _stop_trader_when_due(fleet, now_s)
    return fleet, (*effects, *last)


def _stop_trader_when_due(fleet: Fleet, now_s: float) -> tuple[Fleet, list[Effect]]:
    assert fleet.stopping_s is not None
    others_gone = all(c.pid is None for c in fleet.children if c.spec.kind != "paper_trader")
    effects: list[Effect] = []
    if others_gone or now_s >= fleet.stopping_s + TRADER_WAITS_S:
        for child in fleet.children:
            if child.spec.kind == "paper_trader":
                fleet, more = _terminate(fleet, child.spec.name, now_s)
                effects += more
    return fleet, effects


def _terminate(fleet: Fleet, name: str, now_s: float) -> tuple[Fleet, tuple[Effect, ...]]:
    c = fleet.child(name)
    if c.pid is None:
        state = State.STOPPED if c.state in (State.BACKOFF, State.STOPPED) else c.state
        return _put(fleet, replace(c, state=state)), ()
    if c.state is State.STOPPING:
        return fleet, ()
    return _put(fleet, replace(c, state=State.STOPPING, term_s=now_s)), (Signal(name=name, pid=c.pid, what="term"),)


def _put(fleet: Fleet, child: Child) -> Fleet:
    return replace(fleet, children=tuple(child if c.spec.name == child.spec.name else c for c in fleet.children))


def changed(before: Fleet, after: Fleet, of: Callable[[Child], object]) -> list[Child]:
    """Children for which `of` differs between two fleets."""
    return [b for a, b in zip(before.children, after.children, strict=True) if of(a) != of(b)]
