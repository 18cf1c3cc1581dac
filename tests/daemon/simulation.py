"""Days in the life of a fleet on a simulated clock, watched by an observer that keeps its own books.

`Day(seed).play()` draws everything from the seed: processes that work, crash, hang, finish, grow old, ignore SIGTERM or
even SIGKILL for a while, starts that fail, storms in which everybody dies, operators, new configurations, and jumps of
the wall clock by a year. The observer knows the truth and raises Broken as soon as a promise does not hold.
"""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from daemon.lifecycle import (
    Beat,
    Child,
    ChildSpec,
    Command,
    Drain,
    Effect,
    Event,
    Exited,
    Fleet,
    Kind,
    Note,
    Pause,
    Policy,
    Reshape,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    State,
    StopAll,
    Tick,
    Usage,
    next_wake_s,
    step,
)

DAY_S = 86_400.0
YEAR_S = 365.25 * DAY_S
Step = Callable[[Fleet, Event], tuple[Fleet, tuple[Effect, ...]]]
POLICY = Policy(backoff_first_s=1.0, backoff_max_s=300.0, backoff_reset_s=600.0, max_restarts=5, restart_window_s=600.0)


class Broken(AssertionError):
    """A promise of safety.md, section 1, does not hold."""


@dataclass(slots=True, kw_only=True)
class Proc:
    """A process and what it is going to do. progress_s: when it last truly got something done."""

    name: str
    pid: int
    born_s: float
    beat_every_s: float
    silent_from_s: float = float("inf")
    dies_s: float = float("inf")
    code: int = 0
    term_after_s: float | None = 0.1  # None: ignores SIGTERM
    abort_after_s: float | None = 0.1
    kill_after_s: float = 0.05
    done: int = 0
    progress_s: float = 0.0
    told: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Book:
    """What the observer expects of one child name."""

    failures: int = 0
    restarts_s: list[float] = field(default_factory=list)
    over_until_asked: str = ""  # why it must not be started again
    earliest_s: float = 0.0
    latest_s: float = float("inf")


class Day:
    """One fleet from its start to its full stop. `lifecycle` and `clock` are replaced by the mutants."""

    def __init__(
        self, seed: int, *, lifecycle: Step = step, wall_clock: bool = False, threads_beat: bool = False,
        policy: Policy = POLICY, length_s: float = DAY_S,
    ) -> None:  # fmt: skip
        self.rng = np.random.default_rng(seed)
        self.step, self.wall_clock, self.threads_beat, self.length_s = lifecycle, wall_clock, threads_beat, length_s
        self.now_s = self.began_s = float(self.rng.choice([0.0, 1e3, 3.2e7]))
        self.wall_offset_s = 1.7e9
        self.specs = tuple(self._spec(n) for n in ("paper_trader", "worker-0", "worker-1", "janitor", "advisor"))
        self.fleet = Fleet(policy=policy, children=tuple(Child(spec=s, due_s=self._told_s()) for s in self.specs),
                           last_spawn_s=self._told_s() - 1.0)  # fmt: skip
        self.procs: dict[int, Proc] = {}
        self.books = {s.name: Book(latest_s=self.now_s + 30.0) for s in self.specs}
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.order, self.pids = itertools.count(), itertools.count(100)
        self.spawned_s = -1e9
        self.stopping_s: float | None = None
        self.steps = 0

    # the world -------------------------------------------------------------------------------------------------

    def play(self) -> "Day":
        self._plan_the_day()
        end_s = self.began_s + self.length_s
        self._run_until(end_s)
        self.stopping_s = self.stopping_s if self.stopping_s is not None else self.now_s
        self._do(StopAll(now_s=self._told_s()))
        self._run_until(self.stopping_s + 50.0, stop_when_down=True)
        if not self.fleet.is_down:
            raise Broken(f"not down 50 s after the stop: {[(c.spec.name, c.state) for c in self.fleet.children]}")
        return self

    def _plan_the_day(self) -> None:
        rng = self.rng
        for at_s in np.sort(rng.uniform(0, self.length_s, rng.poisson(3))):
            self._at(self.began_s + at_s, self._jump)
        for at_s in rng.uniform(0, self.length_s, rng.poisson(0.5)):
            self._at(self.began_s + at_s, self._storm)
        for at_s in rng.uniform(0, self.length_s, rng.poisson(6)):
            self._at(self.began_s + at_s, self._operator)
        if rng.random() < 0.1:
            self._at(self.began_s + rng.uniform(0, self.length_s), self._drain)

    def _run_until(self, end_s: float, *, stop_when_down: bool = False) -> None:
        while self.now_s < end_s and not (stop_when_down and self.fleet.is_down):
            wake_s = next_wake_s(self.fleet)
            due_s = wake_s - (self._told_s() - self.now_s)  # in the world's own time
            event_s = self.queue[0][0] if self.queue else float("inf")
            # the shell turns at least once a second while something is timed, which a mutant's wrong clock needs too
            self.now_s = max(self.now_s, min(end_s, event_s, max(due_s, self.now_s + 1e-3)))
            while self.queue and self.queue[0][0] <= self.now_s:
                heapq.heappop(self.queue)[2]()
            self._do(Tick(now_s=self._told_s()))
            self._check()

    def _told_s(self) -> float:
        return self.now_s + (self.wall_offset_s if self.wall_clock else 0.0)

    def _at(self, at_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (float(at_s), next(self.order), what))

    def _do(self, event: Event) -> None:
        self.steps += 1
        self.fleet, effects = self.step(self.fleet, event)
        for effect in effects:
            match effect:
                case Spawn(name=name):
                    self._spawn(name)
                case Signal():
                    self._signal(effect)
                case Note(event="child.fatal", name=name):
                    self.books[name].over_until_asked = self.books[name].over_until_asked or "fatal"

    def _spawn(self, name: str) -> None:
        self._may_be_spawned(name)
        rng, book = self.rng, self.books[name]
        if rng.random() < 0.02:
            self._failed(name)
            self._do(SpawnFailed(name=name, reason="no memory", now_s=self._told_s(), jitter=float(rng.random())))
            self._after_death(name)
            return
        spec = self.fleet.child(name).spec
        p = Proc(
            name=name, pid=next(self.pids), born_s=self.now_s, progress_s=self.now_s,
            beat_every_s=spec.hang_s * float(rng.uniform(0.2, 0.9)),
        )  # fmt: skip
        kind = rng.choice(["well", "crash", "hang", "config", "end", "old"], p=[0.5, 0.26, 0.12, 0.01, 0.06, 0.05])
        if kind == "crash":
            p.dies_s, p.code = self.now_s + float(rng.choice([0.0, 0.3, 5.0, 700.0, 9000.0]) * rng.random()), -9
        elif kind == "hang":
            p.silent_from_s = self.now_s + float(rng.exponential(2000.0))
        elif kind == "config":
            p.dies_s, p.code = self.now_s + 0.5, 78
        elif kind == "end":
            p.dies_s, p.code = self.now_s + float(rng.exponential(4000.0)), 0
        elif kind == "old":
            p.dies_s, p.code = self.now_s + 61.0 + float(rng.exponential(9000.0)), 75
        p.term_after_s = None if rng.random() < 0.15 else float(rng.uniform(0.01, spec.grace_s * 0.95))
        p.abort_after_s = None if rng.random() < 0.3 else 0.2
        p.kill_after_s = float(rng.choice([0.02, 0.02, 0.02, 0.02, 3.0, 12.0]))
        self.procs[p.pid], book.latest_s, self.spawned_s = p, float("inf"), self.now_s
        self._at(p.dies_s, lambda: self._dies(p, p.code)) if p.dies_s < float("inf") else None
        self._at(self.now_s + float(rng.uniform(0.1, 0.9)) * p.beat_every_s, lambda: self._beats(p))
        self._do(Spawned(name=name, pid=p.pid, now_s=self._told_s()))

    def _beats(self, p: Proc) -> None:
        if p.pid not in self.procs:
            return
        if self.now_s < p.silent_from_s or p.done == 0:  # the first beat is progress: it got as far as its work loop
            p.done, p.progress_s = p.done + 1, self.now_s
            self._do(Beat(name=p.name, done=p.done, now_s=self._told_s(), ready=True))
            if self.rng.random() < 0.05:
                self._do(Usage(name=p.name, rss_bytes=int(self.rng.choice([5, 50, 500])), now_s=self._told_s()))
        elif self.threads_beat:  # the mutant: a thread that says "alive" whatever the work does
            p.done += 1
            self._do(Beat(name=p.name, done=p.done, now_s=self._told_s()))
        else:
            self._do(Beat(name=p.name, done=p.done, now_s=self._told_s()))  # alive, but nothing got done
        self._at(self.now_s + p.beat_every_s, lambda: self._beats(p))

    def _signal(self, s: Signal) -> None:
        p = self.procs.get(s.pid)
        if p is None or p.name != s.name:
            raise Broken(f"{s.what} to {s.pid}, which is not {s.name}")
        self._may_be_signalled(p, s.what)
        p.told.setdefault(s.what, self.now_s)
        after_s = {"term": p.term_after_s, "abort": p.abort_after_s, "kill": p.kill_after_s, "finish": 400.0}[s.what]
        if after_s is not None:
            code = {"term": 0, "abort": -6, "kill": -9, "finish": 0}[s.what]
            self._at(self.now_s + after_s, lambda: self._dies(p, code))

    def _dies(self, p: Proc, code: int) -> None:
        if self.procs.pop(p.pid, None) is None:
            return
        c, book = self.fleet.child(p.name), self.books[p.name]
        over_memory = c.reason == "memory"
        drained = self.fleet.draining and c.spec.kind == "worker"
        asked = ("term" in p.told and not over_memory) or drained or self.stopping_s is not None or not c.wanted
        worked_until_s = min([self.now_s, *p.told.values()])
        if worked_until_s >= p.born_s + 600.0 and p.done:
            book.failures = 0
        if asked:
            book.over_until_asked = book.over_until_asked if c.wanted else "unwanted"
            book.earliest_s = self.now_s
        elif code == 0 and c.spec.finishes and c.state is State.RUNNING:
            book.over_until_asked = "finished"
        elif code == 75 and self.now_s >= p.born_s + 60.0:
            book.earliest_s = self.now_s
        elif code == 78:
            book.over_until_asked = "configuration"
        else:
            self._failed(p.name)
        self._do(Exited(name=p.name, code=code, now_s=self._told_s(), jitter=float(self.rng.random())))
        if self.fleet.has(p.name):
            self._after_death(p.name)

    def _jump(self) -> None:
        self.wall_offset_s += float(self.rng.choice([-1, 1])) * YEAR_S

    def _storm(self) -> None:
        for p in list(self.procs.values()):
            self._dies(p, -9)

    def _drain(self) -> None:
        self._do(Drain(now_s=self._told_s()))

    def _operator(self) -> None:
        verb = str(self.rng.choice(["start", "stop", "restart", "retry", "pause", "resume", "reshape"]))
        if verb in ("pause", "resume"):
            self._do(Pause(on=verb == "pause", now_s=self._told_s()))
        elif verb == "reshape":
            self._reshape()
        else:
            name = str(self.rng.choice([c.spec.name for c in self.fleet.children]))
            self._asked(name, wanted=verb != "stop")
            self._do(Command(verb=verb, name=name, now_s=self._told_s()))  # type: ignore[arg-type]
            self._after_death(name)

    def _reshape(self) -> None:
        """Another number of workers, one of the specs changed."""
        if self.fleet.stopping_s is not None:
            return
        workers = int(self.rng.integers(0, 5))
        kept = [s for s in self.specs if s.kind != "worker"]
        changed = int(self.rng.integers(0, len(kept)))
        kept[changed] = replace(kept[changed], reads=str(self.rng.integers(0, 3)))
        specs = (*kept, *(self._spec(f"worker-{i}") for i in range(workers)))
        before = {c.spec.name: c for c in self.fleet.children}
        for s in specs:
            old = before.get(s.name)
            self.books.setdefault(s.name, Book())
            if old is None:
                self.books[s.name] = Book()
            elif old.spec.needs_restart(s) and old.pid is None:
                self._asked(s.name, wanted=old.wanted)
            elif old.retiring:
                self._asked(s.name, wanted=True, fresh=False)
        self.specs = tuple(sorted(specs, key=lambda s: s.name))
        self._do(Reshape(policy=self.fleet.policy, specs=specs, now_s=self._told_s()))
        for s in specs:
            self._after_death(s.name)

    def _spec(self, name: str) -> ChildSpec:
        kind: Kind = "worker" if name.startswith("worker") else name  # type: ignore[assignment]
        hang_s = {"worker": 2400.0, "paper_trader": 900.0, "janitor": 3600.0, "advisor": 3600.0}[kind]
        grace_s = {"worker": 30.0, "paper_trader": 15.0, "janitor": 20.0, "advisor": 20.0}[kind]
        spec = ChildSpec(
            name=name, kind=kind, command=("x",), hang_s=hang_s, grace_s=grace_s, finishes=kind == "worker"
        )
        return replace(spec, limits=replace(spec.limits, rss_bytes=200))

    # the observer ----------------------------------------------------------------------------------------------

    def _asked(self, name: str, *, wanted: bool, fresh: bool = True) -> None:
        book = self.books[name]
        book.over_until_asked = "" if wanted else "unwanted"
        book.earliest_s = self.now_s
        if wanted and fresh:
            book.failures, book.restarts_s = 0, []

    def _failed(self, name: str) -> None:
        """A failure by the book: when it may be started again, or that it may not."""
        book = self.books[name]
        c = self.fleet.child(name)
        if not c.wanted or self.stopping_s is not None:
            return
        book.failures += 1
        book.restarts_s = [t for t in book.restarts_s if t > self.now_s - 600.0]
        if len(book.restarts_s) >= 5:
            book.over_until_asked = "restarts"
            return
        book.restarts_s.append(self.now_s)
        nominal_s = min(300.0, 2.0 ** min(book.failures - 1, 20))
        book.earliest_s = self.now_s + nominal_s / 2

    def _after_death(self, name: str) -> None:
        """From now on it is owed a start, unless something holds it back."""
        book, c = self.books[name], self.fleet.child(name)
        nominal_s = min(300.0, 2.0 ** min(max(book.failures, 1) - 1, 20))
        owed = c.pid is None and not book.over_until_asked and c.wanted and self.stopping_s is None
        book.latest_s = self.now_s + nominal_s + 2.0 * len(self.fleet.children) + 1.0 if owed else float("inf")

    def _may_be_spawned(self, name: str) -> None:
        book = self.books[name]
        if any(p.name == name for p in self.procs.values()):
            raise Broken(f"two of {name}")
        if self.stopping_s is not None or self.fleet.stopping_s is not None:
            raise Broken(f"{name} started during a stop")
        if book.over_until_asked:
            raise Broken(f"{name} started though it is {book.over_until_asked}")
        if self.now_s < self.spawned_s + 1.0 - 1e-6:
            raise Broken(f"{name} started {self.now_s - self.spawned_s:.3f} s after another")
        if self.now_s < book.earliest_s - 1e-6:
            raise Broken(f"{name} started {book.earliest_s - self.now_s:.2f} s before half its delay")
        if name.startswith("worker") and (self.fleet.paused or self.fleet.draining):
            raise Broken(f"{name} started while paused or draining")

    def _may_be_signalled(self, p: Proc, what: str) -> None:
        c = self.fleet.child(p.name)
        silent_s = self.now_s - p.progress_s
        if what == "abort" and silent_s < c.spec.hang_s - 1e-6:
            raise Broken(f"{p.name} aborted after {silent_s:.1f} s of silence")
        if what == "kill":
            since = {"abort": 5.0, "term": c.spec.grace_s}
            if not any(w in p.told and self.now_s >= p.told[w] + s - 1e-6 for w, s in since.items()):
                raise Broken(f"{p.name} killed before its grace was over")
        if what == "term" and p.name == "paper_trader" and self.stopping_s is not None:
            others = [q.name for q in self.procs.values() if q.name != "paper_trader"]
            if others and self.now_s < self.stopping_s + 29.0 - 1e-6:
                raise Broken(f"the trader is stopped before {others}")

    def _check(self) -> None:
        for p in self.procs.values():
            if not self.fleet.has(p.name):
                raise Broken(f"{p.name} runs and is not in the fleet")
            c = self.fleet.child(p.name)
            if c.pid != p.pid:
                raise Broken(f"{p.name} runs as {p.pid}, the fleet says {c.pid}")
            deadline_s = max(c.spec.hang_s, c.deadline_s(self.fleet.policy)) + 2.0
            if not p.told and self.now_s - p.progress_s > deadline_s:
                raise Broken(f"{p.name} has been silent for {self.now_s - p.progress_s:.0f} s and nobody minds")
        for c in self.fleet.children:
            book = self.books[c.spec.name]
            if c.pid is not None and c.pid not in self.procs:
                raise Broken(f"the fleet says that {c.spec.name} runs")
            held = c.spec.kind == "worker" and (self.fleet.paused or self.fleet.draining)
            if held or self.fleet.stopping_s is not None:
                book.latest_s = float("inf")
            elif c.pid is None and not book.over_until_asked and c.wanted and book.latest_s == float("inf"):
                self._after_death(c.spec.name)
            if c.pid is None and self.now_s > book.latest_s:
                raise Broken(f"{c.spec.name} is forgotten: {c.state}, due at {c.due_s}")
            alive = c.pid is not None and c.state is State.RUNNING and self.procs[c.pid]
            if alive and c.failures and self.now_s > alive.born_s + 602.0 and alive.progress_s > alive.born_s:
                raise Broken(f"{c.spec.name} has been well for long and is not forgiven")
