"""The rules of supervision, in a simulated world: no process, no clock, any number of days."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.child.exits import EXIT_CONFIGURATION
from daemon.lifecycle import (
    Beat,
    Child,
    ChildSpec,
    Command,
    Drain,
    Event,
    Exited,
    Fleet,
    Limits,
    Pause,
    Policy,
    Reshape,
    Signal,
    Spawn,
    Spawned,
    State,
    StopAll,
    Tick,
    Usage,
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
            self.do(Tick(now_s=self.now_s))

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
    assert np.diff(times).min() >= 1.0 - 1e-9


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


def test_a_child_that_is_yet_to_be_started_has_not_finished() -> None:
    """`run --until-finished` stopped at once: before the first tick every child stands still."""
    assert not fleet("worker-0", "janitor").is_finished


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


def test_pause_holds_workers_back_without_forgetting_what_was_asked_of_each() -> None:
    world = running()
    world.do(Command(verb="stop", name="worker-1", now_s=world.now_s))
    world.dies("worker-1", 0)
    world.do(Pause(on=True, now_s=world.now_s))
    world.dies("worker-0", 0)
    world.advance(100.0)
    assert not any("worker" in n for n in world.alive.values())
    world.do(Pause(on=False, now_s=world.now_s))
    world.advance(2.0)
    assert [n for n in world.alive.values() if "worker" in n] == ["worker-0"]
    assert world.fleet.child("worker-0").failures == 0  # a pause is no failure


def test_draining_waits_for_the_workers_for_as_long_as_they_work_and_then_stops_everybody() -> None:
    world = running()
    world.signals.clear()
    world.do(Drain(now_s=world.now_s))
    assert {(n, w) for _, n, w in world.signals} == {("worker-0", "finish"), ("worker-1", "finish")}
    world.advance(3000.0)
    assert len(world.signals) == 2 and world.fleet.child("worker-0").state is State.DRAINING
    world.dies("worker-0", 0)
    world.dies("worker-1", -9)  # not started again: there is nothing left to finish
    world.advance(1.0)
    assert {n for _, n, w in world.signals if w == "term"} >= {"advisor", "janitor"}
    for name in ("advisor", "janitor", "paper_trader"):
        world.dies(name, 0)
        world.advance(1.0)
    assert world.fleet.is_down


def test_a_process_that_survives_sigkill_is_called_unkillable_and_never_doubled() -> None:
    world = running("paper_trader", "worker-0")
    world.do(Command(verb="restart", name="paper_trader", now_s=world.now_s))
    world.advance(10.0 + 5.0 + 0.2)  # its grace, then the bounded wait after SIGKILL
    assert world.fleet.child("paper_trader").state is State.UNKILLABLE
    world.advance(500.0)
    assert list(world.alive.values()).count("paper_trader") == 1  # World would have said "two of"
    world.do(StopAll(now_s=world.now_s))
    world.dies("worker-0", 0)
    world.advance(0.1)
    assert world.fleet.is_down  # the loop goes on, and ends
    again = running("paper_trader")
    again.do(Command(verb="restart", name="paper_trader", now_s=again.now_s))
    again.advance(20.0)
    again.dies("paper_trader", -9)  # at last
    again.advance(2.0)
    assert list(again.alive.values()) == ["paper_trader"]


def test_a_worker_may_be_silent_for_ten_of_its_own_long_steps() -> None:
    """Steps of 20 s, hang_s 30: the deadline grows to 200 s; the trader's stays what it is."""
    world = running("worker-0", "paper_trader")
    for n in range(40):
        world.now_s += 20.0
        for name in ("worker-0", "paper_trader"):
            world.do(Beat(name=name, done=n, now_s=world.now_s))
    policy = world.fleet.policy
    assert world.fleet.child("worker-0").deadline_s(policy) == pytest.approx(200.0)
    assert world.fleet.child("paper_trader").deadline_s(policy) == 30.0
    world.signals.clear()
    world.advance(199.0, beats=False)
    assert [n for _, n, w in world.signals if w == "abort"] == ["paper_trader"]
    world.advance(2.0, beats=False)
    assert [n for _, n, w in world.signals if w == "abort"] == ["paper_trader", "worker-0"]


def test_slow_deaths_that_never_become_fatal_are_shown_as_flapping() -> None:
    world = running("worker-0")
    for _ in range(3):
        assert not world.fleet.child("worker-0").is_flapping(world.now_s)
        world.dies("worker-0", 1)
        world.advance(700.0)
    assert world.fleet.child("worker-0").is_flapping(world.now_s)
    world.advance(3600.0)
    assert not world.fleet.child("worker-0").is_flapping(world.now_s)


def test_a_process_that_has_grown_old_is_recycled_and_one_that_is_old_at_once_has_failed() -> None:
    world = running("worker-0")
    world.advance(100.0)
    world.dies("worker-0", 75)
    world.advance(1.0)
    assert list(world.alive.values()) == ["worker-0"] and world.fleet.child("worker-0").failures == 0
    world.dies("worker-0", 75)
    assert world.fleet.child("worker-0").state is State.BACKOFF


def test_no_more_processes_of_a_kind_than_its_cap_whatever_is_asked() -> None:
    policy = replace(POLICY, caps=(("worker", 1), ("paper_trader", 1), ("janitor", 1), ("advisor", 1), ("notifier", 1)))
    world = World(replace(fleet(), policy=policy))
    world.advance(60.0)
    assert sorted(world.alive.values()) == ["advisor", "janitor", "paper_trader", "worker-0"]
    world.dies("worker-0", 0)
    world.advance(2.0)
    assert "worker-1" in world.alive.values()


def test_a_reshape_adds_retires_and_restarts_and_gives_the_given_up_another_chance() -> None:
    world = running()
    world.dies("advisor", 78)
    world.signals.clear()
    specs = {c.spec.name: c.spec for c in world.fleet.children}
    new = (
        specs["paper_trader"], replace(specs["worker-0"], hang_s=99.0), replace(specs["janitor"], reads="new"),
        replace(specs["advisor"], reads="new"), replace(specs["worker-0"], name="worker-2"),
    )  # fmt: skip
    world.do(Reshape(policy=POLICY, specs=new, now_s=world.now_s))
    assert {(n, w) for _, n, w in world.signals} == {("worker-1", "term"), ("janitor", "term")}
    world.dies("worker-1", 0)
    world.dies("janitor", 0)
    world.advance(5.0)
    assert sorted(world.alive.values()) == ["advisor", "janitor", "paper_trader", "worker-0", "worker-2"]
    assert world.fleet.child("worker-0").spec.hang_s == 99.0  # patience applies live


def test_too_much_memory_during_a_full_stop_does_not_bring_the_trader_forward() -> None:
    """Found by the simulation, seed 578."""
    world = running("paper_trader", "worker-0")
    limits = Limits(rss_bytes=100)
    for name in ("paper_trader", "worker-0"):
        c = world.fleet.child(name)
        world.fleet = world.fleet.put(replace(c, spec=replace(c.spec, limits=limits)))
    world.do(StopAll(now_s=world.now_s))
    world.do(Usage(name="paper_trader", rss_bytes=200, now_s=world.now_s))
    assert [n for _, n, _ in world.signals] == ["worker-0"]
