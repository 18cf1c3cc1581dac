"""The rules of supervision, in a simulated world: no process, no clock, any number of days."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.lifecycle import (
    EXIT_CONFIGURATION,
    Beat,
    Child,
    ChildSpec,
    Command,
    Event,
    Exited,
    Fleet,
    Policy,
    Signal,
    Spawn,
    Spawned,
    State,
    StopAll,
    Tick,
    next_wake_s,
    step,
)  # fmt: skip

POLICY = Policy(backoff_first_s=1.0, backoff_max_s=300.0, backoff_reset_s=600.0, max_restarts=5, restart_window_s=600.0)
KINDS = {
    "worker-0": "worker",
    "worker-1": "worker",
    "paper_trader": "paper_trader",
    "janitor": "janitor",
    "advisor": "advisor",
}


def fleet(*names: str) -> Fleet:
    specs = [
        ChildSpec(
            name=n,
            kind=KINDS[n],
            command=("x",),
            hang_s=30.0,
            grace_s=10.0,
            finishes=n.startswith("worker"),  # type: ignore[arg-type]
        )
        for n in names or KINDS
    ]
    return Fleet(policy=POLICY, children=tuple(Child(spec=s) for s in specs))


class World:
    """Performs the effects as the shell would and keeps what really runs."""

    def __init__(self, start: Fleet, now_s: float = 0.0) -> None:
        self.fleet, self.now_s, self.alive, self.next_pid = start, now_s, {}, 100
        self.spawns: list[tuple[float, str]] = []
        self.signals: list[tuple[float, str, str]] = []

    def do(self, event: Event) -> None:
        self.fleet, effects = step(self.fleet, event)
        for effect in effects:
            if isinstance(effect, Spawn):
                assert effect.name not in self.alive.values(), f"two of {effect.name}"
                self.next_pid += 1
                self.alive[self.next_pid] = effect.name
                self.spawns.append((self.now_s, effect.name))
                self.do(Spawned(name=effect.name, pid=self.next_pid, now_s=self.now_s))
            elif isinstance(effect, Signal):
                assert self.alive.get(effect.pid) == effect.name, "a signal to a process that is not this child"
                self.signals.append((self.now_s, effect.name, effect.what))

    def advance(self, seconds: float, *, beats: bool = True) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(end_s, max(self.now_s + 0.01, min(next_wake_s(self.fleet), self.now_s + 5.0)))
            if beats:
                for name in list(self.alive.values()):
                    self.do(Beat(name=name, done=int(self.now_s * 1000), now_s=self.now_s))
            self.do(Tick(now_s=self.now_s, jitter=0.5))

    def dies(self, name: str, code: int, jitter: float = 0.5) -> None:
        pid = next(p for p, n in self.alive.items() if n == name)
        del self.alive[pid]
        self.do(Exited(name=name, code=code, now_s=self.now_s, jitter=jitter))


def running(*names: str) -> World:
    world = World(fleet(*names))
    world.advance(5.0)
    assert len(world.alive) == len(world.fleet.children)
    return world


def test_children_are_started_one_after_another_not_all_at_once() -> None:
    world = running()
    times = [t for t, _ in world.spawns]
    assert np.diff(times).min() >= 0.2 - 1e-9


@settings(max_examples=100, deadline=None)
@given(failures=st.integers(0, 10**9), jitter=st.floats(0, 1, exclude_max=True))
def test_a_delay_doubles_from_the_first_to_the_last_and_its_jitter_only_shortens_it(
    failures: int, jitter: float
) -> None:
    delay_s = POLICY.delay_s(failures, jitter)
    nominal = min(300.0, 2.0 ** min(max(failures, 1) - 1, 20))
    assert nominal / 2 <= delay_s <= nominal


def test_a_child_that_keeps_crashing_waits_longer_each_time_and_is_then_given_up_alone() -> None:
    world = running()
    waited = []
    while world.fleet.child("worker-0").state is not State.FATAL:
        world.dies("worker-0", -9)
        before = len(world.spawns)
        began = world.now_s
        for _ in range(1000):
            if len(world.spawns) > before or world.fleet.child("worker-0").state is State.FATAL:
                break
            world.advance(0.1)
        waited.append(world.now_s - began)
    assert len(waited) == 6  # five restarts, then no more
    assert all(b > a for a, b in itertools.pairwise(waited[:5]))
    assert sorted(world.alive.values()) == ["advisor", "janitor", "paper_trader", "worker-1"]


def test_a_long_healthy_life_forgives_and_a_short_or_silent_one_does_not() -> None:
    world = running("worker-0")
    world.dies("worker-0", 1)
    world.advance(5.0)
    world.dies("worker-0", 1)
    assert world.fleet.child("worker-0").failures == 2
    world.advance(700.0)
    world.dies("worker-0", 1)
    assert world.fleet.child("worker-0").failures == 1  # healthy for over 600 s, and progressing
    spec = replace(world.fleet.child("worker-0").spec, hang_s=10_000.0)
    world = World(replace(world.fleet, children=(replace(Child(spec=spec), failures=3),)), now_s=world.now_s)
    world.advance(705.0, beats=False)
    world.dies("worker-0", 1)
    assert world.fleet.child("worker-0").failures == 4  # it never got anything done


def test_a_configuration_error_is_final_at_once_and_concerns_that_child_alone() -> None:
    world = running()
    world.dies("paper_trader", EXIT_CONFIGURATION)
    world.advance(1000.0)
    assert world.fleet.child("paper_trader").state is State.FATAL
    assert [n for _, n in world.spawns].count("paper_trader") == 1
    assert len(world.alive) == 4


def test_finished_is_not_crashed() -> None:
    world = running("worker-0", "janitor")
    world.dies("worker-0", 0)
    world.advance(1000.0)
    assert world.fleet.child("worker-0").state is State.FINISHED
    assert world.fleet.is_finished
    world.dies("janitor", 0)  # a child that does not finish must not end
    world.advance(10.0)
    assert [n for _, n in world.spawns].count("janitor") == 2


def test_a_silent_child_is_asked_for_a_stack_dump_then_killed_then_restarted() -> None:
    world = running("worker-0")
    world.signals.clear()
    began = world.now_s
    world.advance(40.0, beats=False)
    assert [(n, w) for _, n, w in world.signals[:2]] == [("worker-0", "abort"), ("worker-0", "kill")]
    assert world.signals[0][0] - began == pytest.approx(30.0, abs=0.1)
    assert world.signals[1][0] - world.signals[0][0] == pytest.approx(5.0, abs=0.1)
    world.dies("worker-0", -9)
    world.advance(3.0)
    assert list(world.alive.values()) == ["worker-0"]


def test_a_beat_that_does_not_advance_is_no_sign_of_life() -> None:
    world = running("worker-0")
    stuck = world.fleet.child("worker-0").done
    for _ in range(100):
        world.now_s += 0.5
        world.do(Beat(name="worker-0", done=stuck, now_s=world.now_s))
        world.do(Tick(now_s=world.now_s))
    assert "abort" in [w for _, _, w in world.signals]


def test_a_full_stop_goes_advisor_workers_janitor_and_the_trader_last() -> None:
    world = running()
    world.signals.clear()
    world.do(StopAll(now_s=world.now_s))
    assert [n for _, n, _ in world.signals] == ["advisor", "worker-0", "worker-1", "janitor"]
    for name in ("worker-0", "advisor", "janitor", "worker-1"):
        world.dies(name, 0)
        world.do(Tick(now_s=world.now_s))
    assert [n for _, n, _ in world.signals][-1] == "paper_trader"
    world.dies("paper_trader", 0)
    assert world.fleet.is_down
    world.advance(1000.0)
    assert len(world.spawns) == 5  # nothing is started again


def test_a_full_stop_is_over_within_fifty_seconds_even_if_every_child_ignores_sigterm() -> None:
    world = running()
    began = world.now_s
    world.do(StopAll(now_s=world.now_s))
    killed_at: dict[str, float] = {}
    while not world.fleet.is_down:
        world.advance(0.05)
        for at, name, what in world.signals:
            if what == "kill" and name in world.alive.values():
                killed_at[name] = at
                world.dies(name, -9)
        assert world.now_s - began < 50.0
    assert max(killed_at, key=killed_at.__getitem__) == "paper_trader"


def test_what_an_operator_stopped_stays_stopped_and_restart_means_now() -> None:
    world = running("worker-0", "worker-1")
    world.do(Command(verb="stop", name="worker-0", now_s=world.now_s))
    world.dies("worker-0", -15)
    world.advance(500.0)
    assert list(world.alive.values()) == ["worker-1"]
    world.do(Command(verb="start", name="worker-0", now_s=world.now_s))
    world.advance(1.0)
    assert sorted(world.alive.values()) == ["worker-0", "worker-1"]
    world.do(Command(verb="restart", name="worker-1", now_s=world.now_s))
    world.dies("worker-1", 0)
    world.advance(1.0)
    assert sorted(world.alive.values()) == ["worker-0", "worker-1"]
    assert world.fleet.child("worker-1").failures == 0


def test_retry_forgets_failures_and_starts_a_child_that_was_given_up() -> None:
    world = running("worker-0")
    while world.fleet.child("worker-0").state is not State.FATAL:
        world.dies("worker-0", -9)
        world.advance(40.0)
        if not world.alive and world.fleet.child("worker-0").state is not State.FATAL:
            world.advance(40.0)
    world.do(Command(verb="retry", name="worker-0", now_s=world.now_s))
    world.advance(1.0)
    assert list(world.alive.values()) == ["worker-0"]


def test_a_stop_that_comes_while_a_child_is_being_started_is_not_lost() -> None:
    start = fleet("worker-0")
    started, effects = step(start, Tick(now_s=1.0))
    assert effects == (Spawn(name="worker-0"),)
    asked, _ = step(started, Command(verb="stop", name="worker-0", now_s=1.0))
    born, effects = step(asked, Spawned(name="worker-0", pid=7, now_s=1.1))
    assert any(isinstance(e, Signal) and e.what == "term" for e in effects)
    ended, _ = step(born, Exited(name="worker-0", code=-15, now_s=1.2, jitter=0.5))
    assert ended.child("worker-0").state is State.STOPPED


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_over_random_days_there_is_never_a_second_child_of_a_name_and_nobody_is_forgotten(seed: int) -> None:
    """Crashes, hangs, exits, operators, from any starting time: `World` asserts; at the end every child is accounted for."""
    rng = np.random.default_rng(seed)
    world = World(fleet(), now_s=float(rng.choice([0.0, 1e6, 3.2e7])))
    world.advance(3.0)
    for _ in range(60):
        world.advance(float(rng.exponential(20.0)), beats=bool(rng.random() < 0.9))
        if world.alive and rng.random() < 0.6:
            name = str(rng.choice(sorted(world.alive.values())))
            world.dies(name, int(rng.choice([0, 1, -9, -6, 78])), float(rng.random()))
        if rng.random() < 0.2:
            verb = str(rng.choice(["start", "stop", "restart", "retry"]))
            world.do(Command(verb=verb, name=str(rng.choice(list(KINDS))), now_s=world.now_s))  # type: ignore[arg-type]
        for child in world.fleet.children:
            assert (child.pid is not None) == (child.spec.name in world.alive.values())
    world.advance(400.0)
    for child in world.fleet.children:
        if child.pid is None and child.wanted:
            assert child.state in (State.FATAL, State.FINISHED, State.BACKOFF)
    world.do(StopAll(now_s=world.now_s))
    for _ in range(2000):
        if world.fleet.is_down:
            break
        for at, name, what in list(world.signals):
            if what in ("term", "kill") and name in world.alive.values() and at >= world.now_s - 1.0:
                world.dies(name, 0)
        world.advance(0.1)
    assert world.fleet.is_down
