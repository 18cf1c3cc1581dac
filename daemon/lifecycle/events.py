"""What can happen to a fleet, and what shall be done about it. Frozen sum types, matched to the end."""

from dataclasses import dataclass
from typing import Literal

from daemon.lifecycle.records import ChildSpec, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed."""

    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    name: str
    pid: int
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnFailed:
    """No process came into being. jitter in [0, 1), as in Exited."""

    name: str
    reason: str
    now_s: float
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """The child is gone. code: exit status, negative for a signal. jitter: a fresh random number in [0, 1)."""

    name: str
    code: int
    now_s: float
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The child's own work loop reports how much it has done. ready: it has finished starting."""

    name: str
    done: int | None
    now_s: float
    ready: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Resident memory of the child."""

    name: str
    rss_bytes: int
    now_s: float


Verb = Literal["start", "stop", "restart", "retry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """An operator's wish for one child."""

    verb: Verb
    name: str
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Workers hand back their trials and wait, or (on=False) start again."""

    on: bool
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Workers finish the trial they are in; then everything stops."""

    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshape:
    """Other children, other patience: a new configuration, or another number of workers."""

    policy: Policy
    specs: tuple[ChildSpec, ...]
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAll:
    now_s: float


Event = Tick | Spawned | SpawnFailed | Exited | Beat | Usage | Command | Pause | Drain | Reshape | StopAll


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawn:
    name: str


What = Literal["term", "finish", "abort", "kill"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """what: "term" asks to stop, "finish" to end after the present piece of work, "abort" for a stack dump, "kill" ends."""

    name: str
    pid: int
    what: What


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A fact for the log and the history; `event` is one of the committed names."""

    event: str
    name: str
    facts: tuple[tuple[str, str | int | float | None], ...] = ()


Effect = Spawn | Signal | Note
