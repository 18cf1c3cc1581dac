"""When a child runs, waits, is given up or is stopped: `step(fleet, event) -> (fleet, effects)`, pure.

Time is the supervisor's monotonic clock and arrives in events; so does the one random number a delay needs. The shell
performs the effects and reports back what happened as further events.
"""

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
    Verb,
    What,
)
from daemon.lifecycle.records import STOP_ORDER, Child, ChildSpec, Fleet, Kind, Limits, Policy, State
from daemon.lifecycle.step import may_start, next_wake_s, step

__all__ = [
    "STOP_ORDER", "Beat", "Child", "ChildSpec", "Command", "Drain", "Effect", "Event", "Exited",
    "Fleet", "Kind", "Limits", "Note", "Pause", "Policy", "Reshape", "Signal", "Spawn", "SpawnFailed", "Spawned", "State",
    "StopAll", "Tick", "Usage", "Verb", "What", "may_start", "next_wake_s", "step",
]  # fmt: skip
