"""The rules of one child's life: when it starts, is believed hung, is restarted, forgiven or given up."""

from dataclasses import replace
from typing import assert_never

from daemon.child.exits import EXIT_CONFIGURATION, EXIT_RECYCLE
from daemon.lifecycle import stopping
from daemon.lifecycle.events import (
    Beat,
    Command,
    Drain,
    Effect,
    Event,
    Exited,
    Note,
    Pause,
    Reshape,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    StopAll,
    Tick,
    Usage,
)
from daemon.lifecycle.records import GAPS_KEPT, HISTORY_S, Child, Fleet, State

RECYCLE_AFTER_S = 60.0  # a process that is old before this is not recycled, it fails
Step = tuple[Fleet, tuple[Effect, ...]]

_WAITING = (State.STOPPED, State.BACKOFF)
_WORKING = (State.RUNNING, State.DRAINING)


def step(fleet: Fleet, event: Event) -> Step:  # noqa: PLR0911  one line per event
    match event:
        case Tick(now_s=now_s):
            return _tick(fleet, now_s)
        case Spawned():
            return _spawned(fleet, event)
        case SpawnFailed():
            return _spawn_failed(fleet, event)
        case Exited():
            return _exited(fleet, event)
        case Beat():
            return _beat(fleet, event), ()
        case Usage():
            return _usage(fleet, event)
        case Command():
            return _command(fleet, event)
        case Pause(on=on, now_s=now_s):
            return stopping.pause(fleet, on=on, now_s=now_s)
        case Drain(now_s=now_s):
            return stopping.drain(fleet, now_s)
        case Reshape():
            return _reshape(fleet, event)
        case StopAll(now_s=now_s):
            return stopping.stop_all(fleet, now_s)
        case _:
            assert_never(event)


def next_wake_s(fleet: Fleet) -> float:
    """When something may change without an event from outside; infinity when nothing can."""
    policy, times = fleet.policy, [float("inf")]
    for c in fleet.children:
        if may_start(fleet, c):
            times.append(max(c.due_s, fleet.last_spawn_s + policy.spawn_pace_s))
        if c.pid is None or c.state is State.UNKILLABLE:
            continue
        if c.kill_s is not None:
            times.append(c.kill_s + policy.reap_s)
        elif c.state is State.STOPPING and c.term_s is not None:
            times.append(c.term_s + c.spec.grace_s)
        elif c.state is State.HUNG and c.abort_s is not None:
            times.append(c.abort_s + policy.abort_grace_s)
        elif c.state in _WORKING:
            times.append(c.progress_s + c.deadline_s(policy))
            if c.failures and c.done >= 0:
                times.append(c.since_s + policy.backoff_reset_s)
            if fleet.stopping_s is not None:
                times.append(fleet.stopping_s + policy.trader_waits_s)
    return min(times)


def _tick(fleet: Fleet, now_s: float) -> Step:
    effects: list[Effect] = []
    for child in fleet.children:
        fleet, more = _watch(fleet, child, now_s)
        effects += more
    fleet, more = _start_next(fleet, now_s)
    effects += more
    if fleet.draining and fleet.stopping_s is None and _drained(fleet):
        fleet, more = stopping.stop_all(fleet, now_s)
        effects += more
    if fleet.stopping_s is not None:
        fleet, more = stopping.stop_trader_when_due(fleet, now_s)
        effects += more
    return fleet, tuple(effects)


def _drained(fleet: Fleet) -> bool:
    workers = [c for c in fleet.children if c.spec.kind == "worker" and c.state is not State.UNKILLABLE]
    return all(c.pid is None and c.state is not State.STARTING for c in workers)


def _watch(fleet: Fleet, c: Child, now_s: float) -> Step:
    """One child that has a process: is it silent, overdue, or healthy for long enough to be forgiven?"""
    policy, name = fleet.policy, c.spec.name
    dying = c.kill_s is not None and now_s < c.kill_s + policy.reap_s
    if c.pid is None or c.state is State.UNKILLABLE or dying:
        return fleet, ()
    if c.kill_s is not None:
        return fleet.put(replace(c, state=State.UNKILLABLE)), (
            Note(event="child.unkillable", name=name, facts=(("child_pid", c.pid),)),
        )
    if c.state in _WORKING and now_s >= c.progress_s + c.deadline_s(policy):
        silent = round(now_s - c.progress_s, 1)
        return fleet.put(replace(c, state=State.HUNG, abort_s=now_s)), (
            Note(event="child.hung", name=name, facts=(("child_pid", c.pid), ("silent_s", silent))),
            Signal(name=name, pid=c.pid, what="abort"),
        )
    overdue = c.state is State.HUNG and c.abort_s is not None and now_s >= c.abort_s + policy.abort_grace_s
    overdue |= c.state is State.STOPPING and c.term_s is not None and now_s >= c.term_s + c.spec.grace_s
    if overdue:
        return fleet.put(replace(c, kill_s=now_s)), (Signal(name=name, pid=c.pid, what="kill"),)
    if (well := _forgiven(fleet, c, now_s)) is not c:
        return fleet.put(well), (Note(event="child.forgiven", name=name),)
    return fleet, ()


def _forgiven(fleet: Fleet, c: Child, now_s: float) -> Child:
    """Without its earlier failures, if it has been healthy and getting things done for long enough."""
    well = c.state in _WORKING and c.done >= 0 and now_s >= c.since_s + fleet.policy.backoff_reset_s
    return replace(c, failures=0) if well and c.failures else c


def may_start(fleet: Fleet, c: Child) -> bool:
    """Whether nothing but time keeps this child from being started."""
    held_back = c.spec.kind == "worker" and (fleet.paused or fleet.draining)
    return (
        c.state in _WAITING and c.wanted and not held_back and fleet.stopping_s is None
        and fleet.alive(c.spec.kind) < fleet.policy.cap(c.spec.kind)
    )  # fmt: skip


def _start_next(fleet: Fleet, now_s: float) -> Step:
    """At most one start per pace, the one that has been due for longest: nobody starves."""
    due = [c for c in fleet.children if may_start(fleet, c) and now_s >= c.due_s]
    if not due or now_s < fleet.last_spawn_s + fleet.policy.spawn_pace_s:
        return fleet, ()
    c = min(due, key=lambda c: c.due_s)
    started = replace(
        c, state=State.STARTING, since_s=now_s, progress_s=now_s, done=-1, gaps_s=(), ready=False, rss_bytes=0,
        abort_s=None, kill_s=None, term_s=None, reason="",
    )  # fmt: skip
    return replace(fleet.put(started), last_spawn_s=now_s), (Spawn(name=c.spec.name),)


def _spawned(fleet: Fleet, event: Spawned) -> Step:
    c = fleet.child(event.name)
    born = replace(c, state=State.RUNNING, pid=event.pid, since_s=event.now_s, progress_s=event.now_s)
    note = Note(event="child.spawned", name=event.name, facts=(("child_pid", event.pid), ("failures", c.failures)))
    fleet = fleet.put(born)
    held_back = c.spec.kind == "worker" and (fleet.paused or fleet.draining)
    if not c.wanted or held_back or fleet.stopping_s is not None:  # asked for while it was being started
        fleet, effects = stopping.terminate(fleet, event.name, event.now_s)
        return fleet, (note, *effects)
    return fleet, (note,)


def _spawn_failed(fleet: Fleet, event: SpawnFailed) -> Step:
    c = fleet.child(event.name)
    note = Note(event="child.spawn_failed", name=event.name, facts=(("reason", event.reason),))
    gone = replace(c, pid=None, since_s=event.now_s, last_exit="not started")
    if fleet.stopping_s is not None or not c.wanted:
        return _stopped(fleet, gone, event.now_s), (note,)
    fleet, effects = _restarted(fleet, gone, now_s=event.now_s, jitter=event.jitter, facts=())
    return fleet, (note, *effects)


def _beat(fleet: Fleet, event: Beat) -> Fleet:
    c = fleet.child(event.name)
    if event.ready and not c.ready:
        c = replace(c, ready=True)
    if event.done is not None and event.done != c.done:  # the same count again: alive, but nothing got done
        gaps_s = (*c.gaps_s[1 - GAPS_KEPT :], event.now_s - c.progress_s)
        c = replace(c, done=event.done, progress_s=event.now_s, gaps_s=gaps_s)
    return fleet.put(c)


def _usage(fleet: Fleet, event: Usage) -> Step:
    """Too much memory: asked to stop while it still can, and restarted as after a crash. A full stop has its own order."""
    c = replace(_forgiven(fleet, fleet.child(event.name), event.now_s), rss_bytes=event.rss_bytes)
    limit = c.spec.limits.rss_bytes
    if not limit or event.rss_bytes <= limit or c.state not in _WORKING or fleet.stopping_s is not None:
        return fleet.put(c), ()
    facts = (("rss_bytes", event.rss_bytes), ("limit_bytes", limit))
    note = Note(event="child.over_memory", name=event.name, facts=facts)
    fleet, effects = stopping.terminate(fleet.put(replace(c, reason="memory")), event.name, event.now_s)
    return fleet, (note, *effects)


def _exited(fleet: Fleet, event: Exited) -> Step:
    c = _forgiven(fleet, fleet.child(event.name), event.now_s)
    text = f"exit {event.code}" if event.code >= 0 else f"signal {-event.code}"
    gone = replace(c, pid=None, since_s=event.now_s, last_exit=text, ready=False)
    facts = (("code", event.code), ("up_s", round(event.now_s - c.since_s, 1)), ("failures", c.failures))
    exited = Note(event="child.exited", name=event.name, facts=facts)
    asked = c.term_s is not None and c.reason != "memory"
    draining = fleet.draining and c.spec.kind == "worker"
    if asked or draining or fleet.stopping_s is not None or not c.wanted:
        return _stopped(fleet, gone, event.now_s), (exited,)
    if event.code == 0 and c.spec.finishes and c.state is State.RUNNING:
        finished = replace(gone, state=State.FINISHED, failures=0)
        return fleet.put(finished), (Note(event="child.finished", name=event.name),)
    if event.code == EXIT_RECYCLE and event.now_s >= c.since_s + RECYCLE_AFTER_S:
        return _stopped(fleet, gone, event.now_s), (exited,)
    if event.code == EXIT_CONFIGURATION:
        return _given_up(fleet, gone, "configuration", facts)
    return _restarted(fleet, gone, now_s=event.now_s, jitter=event.jitter, facts=facts)


def _stopped(fleet: Fleet, c: Child, now_s: float) -> Fleet:
    """It is gone as it was meant to be; started again at once if it is (still, or again) wanted."""
    if c.retiring:
        return fleet.without(c.spec.name)
    return fleet.put(replace(c, state=State.STOPPED, due_s=now_s))


Facts = tuple[tuple[str, str | int | float | None], ...]


def _restarted(fleet: Fleet, c: Child, *, now_s: float, jitter: float, facts: Facts) -> Step:
    """Back off, or give up when it restarts too often. Health, not starting, forgives earlier failures (`_watch`)."""
    policy, failures = fleet.policy, c.failures + 1
    kept = tuple(t for t in c.restarts_s if t > now_s - max(HISTORY_S, policy.restart_window_s))
    if sum(t > now_s - policy.restart_window_s for t in kept) >= policy.max_restarts:
        return _given_up(fleet, replace(c, failures=failures, restarts_s=kept), "restarts", facts)
    delay_s = policy.delay_s(failures, jitter)
    waiting = replace(c, state=State.BACKOFF, failures=failures, due_s=now_s + delay_s, restarts_s=(*kept, now_s))
    known = dict(facts) | {"failures": failures, "next_start_s": round(delay_s, 2)}
    return fleet.put(waiting), (Note(event="child.exited", name=c.spec.name, facts=tuple(known.items())),)


def _given_up(fleet: Fleet, c: Child, reason: str, facts: Facts) -> Step:
    note = Note(event="child.fatal", name=c.spec.name, facts=(*facts, ("reason", reason)))
    return fleet.put(replace(c, state=State.FATAL, reason=reason)), (note,)


def _command(fleet: Fleet, event: Command) -> Step:
    if fleet.stopping_s is not None:
        return fleet, ()
    c, now_s = fleet.child(event.name), event.now_s
    if event.verb == "stop":
        return stopping.terminate(fleet.put(replace(c, wanted=False)), event.name, now_s)
    fresh = replace(c, wanted=True, failures=0, restarts_s=())
    if c.pid is None and c.state is not State.STARTING:
        return fleet.put(replace(fresh, state=State.STOPPED, due_s=now_s)), ()
    if event.verb == "restart":
        return stopping.terminate(fleet.put(fresh), event.name, now_s)
    return fleet.put(fresh), ()


def _reshape(fleet: Fleet, event: Reshape) -> Step:
    """Take the new specs: add, retire, restart what reads something else now, leave the others alone."""
    if fleet.stopping_s is not None:
        return fleet, ()
    effects: list[Effect] = []
    names = [s.name for s in event.specs]
    known = {c.spec.name: c for c in fleet.children}
    children = [known.get(s.name) or Child(spec=s, since_s=event.now_s, due_s=event.now_s) for s in event.specs]
    leaving = [replace(c, retiring=True, wanted=False) for n, c in known.items() if n not in names]
    fleet = replace(fleet, policy=event.policy, children=(*children, *leaving))
    for c in leaving:
        if c.pid is None and c.state is not State.STARTING:
            fleet = fleet.without(c.spec.name)
            continue
        fleet, more = stopping.terminate(fleet, c.spec.name, event.now_s)
        effects += more
    for old, spec in zip(children, event.specs, strict=True):
        c = replace(old, spec=spec, wanted=old.wanted or old.retiring, retiring=False)
        if not old.spec.needs_restart(spec):
            fleet = fleet.put(c)
        elif c.pid is None and c.state is not State.STARTING:  # another configuration deserves another chance
            fleet = fleet.put(replace(c, state=State.STOPPED, failures=0, restarts_s=(), due_s=event.now_s))
        else:
            fleet, more = stopping.terminate(fleet.put(c), spec.name, event.now_s)
            effects += more
    return fleet, tuple(effects)
