"""The records of supervision: what to run, how patient to be with it, and how each child stands.

All times are seconds of the supervisor's monotonic clock; a step of the wall clock cannot reach them.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

MAX_DOUBLINGS = 30  # 2**30 s is far beyond any cap; the exponent is clamped before it is used
GAPS_KEPT = 64  # of the latest times between two beats: enough for a 95th percentile
HISTORY_S = 3600.0  # restarts older than this no longer count for anything
FLAPPING_RESTARTS = 3  # within HISTORY_S: slow deaths that never become FATAL must still be seen

Kind = Literal["worker", "paper_trader", "janitor", "advisor", "notifier"]
STOP_ORDER: tuple[Kind, ...] = ("advisor", "worker", "janitor", "notifier", "paper_trader")


class State(StrEnum):
    """STARTING: to be spawned, no pid yet. HUNG: silent, asked for a stack dump. UNKILLABLE: SIGKILL did not end it."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    HUNG = "hung"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    UNKILLABLE = "unkillable"
    FINISHED = "finished"
    FATAL = "fatal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How patient the supervisor is. caps: at most so many live processes of a kind, whatever is asked."""

    backoff_first_s: float
    backoff_max_s: float
    backoff_reset_s: float
    max_restarts: int
    restart_window_s: float
    spawn_pace_s: float = 1.0  # a crash of everything must not start everything at once
    abort_grace_s: float = 5.0  # time for the stack dump
    reap_s: float = 5.0  # between SIGKILL and giving up on it
    trader_waits_s: float = 29.0  # in a full stop the trader goes last: when the others are gone, or then
    step_factor: float = 10.0  # a worker may be silent for this many of its own 95th-percentile steps
    caps: tuple[tuple[Kind, int], ...] = (
        ("worker", 64), ("paper_trader", 1), ("janitor", 1), ("advisor", 1), ("notifier", 1),
    )  # fmt: skip

    def delay_s(self, failures: int, jitter: float) -> float:
        """Delay before restart number `failures` (from 1), in [d/2, d]; jitter in [0, 1)."""
        doubled = self.backoff_first_s * 2.0 ** min(max(failures, 1) - 1, MAX_DOUBLINGS)
        return min(doubled, self.backoff_max_s) * (0.5 + 0.5 * jitter)

    def cap(self, kind: Kind) -> int:
        return dict(self.caps)[kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a process may use; given to it before its program starts. cpus: empty for all. rss_bytes 0: no limit."""

    rss_bytes: int = 0
    nofile: int = 1024
    nice: int = 0
    oom_score_adj: int = 0
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to run, and how long it may be silent or slow to stop. A child that `finishes` may exit 0 for good.

    reads: hash of the configuration this child reads; another value means that it must start anew.
    """

    name: str
    kind: Kind
    command: tuple[str, ...]
    hang_s: float
    grace_s: float
    finishes: bool
    limits: Limits = Limits()
    reads: str = ""

    def needs_restart(self, new: "ChildSpec") -> bool:
        """Whether a running process of this spec differs from one of the new; patience and memory limit apply live."""
        live = {"hang_s": 0.0, "grace_s": 0.0}
        old_limits, new_limits = replace(self.limits, rss_bytes=0), replace(new.limits, rss_bytes=0)
        return replace(self, limits=old_limits, **live) != replace(new, limits=new_limits, **live)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One child now. `wanted`: what the operator asked for; `done`: its own progress counter, -1 before the first beat.

    term_s: since when it is being stopped; abort_s, kill_s: when SIGABRT and SIGKILL went out; reason: why it is where
    it is ("memory", "configuration", "restarts"); retiring: leaves the fleet when it is gone.
    """

    spec: ChildSpec
    state: State = State.STOPPED
    wanted: bool = True
    retiring: bool = False
    pid: int | None = None
    ready: bool = False
    since_s: float = 0.0
    due_s: float = 0.0
    failures: int = 0
    restarts_s: tuple[float, ...] = ()
    done: int = -1
    progress_s: float = 0.0
    gaps_s: tuple[float, ...] = ()
    rss_bytes: int = 0
    abort_s: float | None = None
    kill_s: float | None = None
    term_s: float | None = None
    reason: str = ""
    last_exit: str = ""

    def deadline_s(self, policy: Policy) -> float:
        """Longest silence that is still believed: the configured one, or ten of a worker's own long steps."""
        if self.spec.kind != "worker" or len(self.gaps_s) < GAPS_KEPT // 2:
            return self.spec.hang_s
        p95_s = sorted(self.gaps_s)[int(0.95 * (len(self.gaps_s) - 1))]
        return max(self.spec.hang_s, policy.step_factor * p95_s)

    def recent_restarts(self, now_s: float) -> int:
        """Within the last hour; older ones are forgotten only when another one is added."""
        return sum(t > now_s - HISTORY_S for t in self.restarts_s)

    def is_flapping(self, now_s: float) -> bool:
        """It keeps dying, if too slowly to be given up."""
        return self.recent_restarts(now_s) >= FLAPPING_RESTARTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Every child, and what holds for all: pause and drain concern workers, stop everybody."""

    policy: Policy
    children: tuple[Child, ...]
    paused: bool = False
    draining: bool = False
    stopping_s: float | None = None
    last_spawn_s: float = -1e9

    def child(self, name: str) -> Child:
        return next(c for c in self.children if c.spec.name == name)

    def has(self, name: str) -> bool:
        return any(c.spec.name == name for c in self.children)

    def alive(self, kind: Kind) -> int:
        """Processes of a kind that exist or are about to."""
        return sum(c.spec.kind == kind and (c.pid is not None or c.state is State.STARTING) for c in self.children)

    def put(self, child: Child) -> "Fleet":
        name = child.spec.name
        return replace(self, children=tuple(child if c.spec.name == name else c for c in self.children))

    def without(self, name: str) -> "Fleet":
        return replace(self, children=tuple(c for c in self.children if c.spec.name != name))

    @property
    def is_down(self) -> bool:
        """A full stop was asked for and nothing runs any more, or cannot be ended."""
        return self.stopping_s is not None and all(
            c.state is State.UNKILLABLE or (c.pid is None and c.state is not State.STARTING) for c in self.children
        )

    @property
    def is_finished(self) -> bool:
        """Every child that can finish has finished, was given up or is not wanted; one not yet started has not."""
        ends = [c for c in self.children if c.spec.finishes]
        over = (State.FINISHED, State.FATAL)
        return bool(ends) and all(c.state in over or (c.state is State.STOPPED and not c.wanted) for c in ends)
