"""What an operator's request means for the fleet: pure, from the request to lifecycle events."""

from collections.abc import Mapping
from typing import Any

from daemon.lifecycle import Command, Drain, Event, Fleet, Pause, StopAll, Verb
from features.errors import CappuccinoError

CHILD_VERBS: dict[str, Verb] = {"start": "start", "restart": "restart", "retry": "retry", "stop-child": "stop"}
VERBS = ("status", "stop", "drain", "pause", "resume", "scale", "reload", *CHILD_VERBS)


class Refused(CappuccinoError):
    """The request cannot be granted; nothing has changed."""


def events_for(fleet: Fleet, request: Mapping[str, Any], *, now_s: float) -> tuple[tuple[Event, ...], str]:
    """The events to perform, and what to tell the operator. Raises Refused."""
    verb, name = request["verb"], request.get("child", "")
    workers = [c.spec.name for c in fleet.children if c.spec.kind == "worker"]
    if verb == "stop":
        return (StopAll(now_s=now_s),), "stopping: the trader goes last"
    if fleet.stopping_s is not None:
        raise Refused(f"{verb} comes too late: the daemon is stopping")
    if verb == "drain":
        return (
            Drain(now_s=now_s),
        ), f"draining: {', '.join(workers) or 'no workers'} finish their trials, then all stops"
    if verb in ("pause", "resume"):
        return (Pause(on=verb == "pause", now_s=now_s),), f"{verb}d {', '.join(workers) or 'training; no workers'}"
    if verb not in CHILD_VERBS:
        raise Refused(f"unknown verb {verb!r}", hint=f"known: {', '.join(VERBS)}")
    if not isinstance(name, str) or not fleet.has(name):
        raise Refused(f"no child is called {name!r}", hint=f"known: {', '.join(c.spec.name for c in fleet.children)}")
    if fleet.draining and verb != "stop-child" and fleet.child(name).spec.kind == "worker":
        raise Refused(f"{verb} {name} comes too late: the daemon is draining")
    waits = fleet.paused and fleet.child(name).spec.kind == "worker" and verb != "stop-child"
    said = f"{CHILD_VERBS[verb]} {name}" + ("; training is paused: it begins with resume" if waits else "")
    return (Command(verb=CHILD_VERBS[verb], name=name, now_s=now_s),), said
