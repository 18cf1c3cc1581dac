"""The whole lifecycle against an observer over simulated days, every small history, and the mutants that both must catch."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import POLICY, Broken, Day, Step

from daemon.lifecycle import (
    Beat,
    Child,
    ChildSpec,
    Command,
    Drain,
    Event,
    Exited,
    Fleet,
    Pause,
    Policy,
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
from daemon.lifecycle import stopping as stopping_module

QUICK_DAYS = 150


def test_over_simulated_days_every_promise_holds() -> None:
    for seed in range(QUICK_DAYS):
        try:
            Day(seed).play()
        except Broken as broken:
            raise AssertionError(f"seed {seed}: {broken}") from broken


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_over_ten_thousand_simulated_days_every_promise_holds() -> None:
    steps = 0
    for seed in range(10_000):
        try:
            steps += Day(seed).play().steps
        except Broken as broken:
            raise AssertionError(f"seed {seed}: {broken}") from broken
    print(f"\n10000 simulated days, {steps} steps of the lifecycle, 0 broken promises")


# mutants: each must be caught within a few days -------------------------------------------------------------------


def caught(make: Callable[[int], Day], seeds: Iterable[int] = range(60)) -> str:
    """What the observer says of the mutant; empty if it notices nothing."""
    for seed in seeds:
        try:
            make(seed).play()
        except (Broken, OverflowError) as broken:
            return str(broken)
    return ""


def test_the_wall_clock_instead_of_the_monotonic_one_is_caught() -> None:
    assert caught(lambda seed: Day(seed, wall_clock=True))


def test_a_heartbeat_from_a_thread_is_caught() -> None:
    assert "nobody minds" in caught(lambda seed: Day(seed, threads_beat=True))


def test_forgiving_failures_on_start_instead_of_on_health_is_caught() -> None:
    def mutant(fleet: Fleet, event: Event):
        fleet, effects = step(fleet, event)
        if isinstance(event, Spawned):
            fleet = fleet.put(replace(fleet.child(event.name), failures=0))
        return fleet, effects

    assert "before half its delay" in caught(lambda seed: Day(seed, lifecycle=mutant))


def test_counting_restarts_from_the_last_start_only_is_caught() -> None:
    def mutant(fleet: Fleet, event: Event):
        fleet, effects = step(fleet, event)
        if isinstance(event, Spawned):
            fleet = fleet.put(replace(fleet.child(event.name), restarts_s=()))
        return fleet, effects

    assert "though it is restarts" in caught(lambda seed: Day(seed, lifecycle=mutant), seeds=range(160, 180))


def test_restarting_after_a_configuration_error_is_caught() -> None:
    def mutant(fleet: Fleet, event: Event):
        return step(fleet, replace(event, code=1) if isinstance(event, Exited) and event.code == 78 else event)

    assert "though it is configuration" in caught(lambda seed: Day(seed, lifecycle=mutant))


def test_taking_finished_for_crashed_is_caught() -> None:
    def mutant(fleet: Fleet, event: Event):
        return step(fleet, replace(event, code=1) if isinstance(event, Exited) and event.code == 0 else event)

    assert "though it is finished" in caught(lambda seed: Day(seed, lifecycle=mutant))


def test_stopping_the_trader_with_the_others_is_caught() -> None:
    policy = replace(POLICY, trader_waits_s=0.0)
    assert "the trader is stopped before" in caught(lambda seed: Day(seed, policy=policy))


def test_starting_everybody_at_once_is_caught() -> None:
    policy = replace(POLICY, spawn_pace_s=0.0)
    assert "after another" in caught(lambda seed: Day(seed, policy=policy))


def test_waiting_for_a_child_that_ignores_sigterm_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = stopping_module.terminate

    def mutant(fleet: Fleet, name: str, now_s: float):
        fleet, effects = real(fleet, name, now_s)
        return fleet.put(replace(fleet.child(name), term_s=None)) if fleet.has(name) else fleet, effects

    monkeypatch.setattr(stopping_module, "terminate", mutant)
    assert caught(Day)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclamped(Policy):
    """The predecessor's backoff: the exponent is not clamped before it is used."""

    def delay_s(self, failures: int, jitter: float) -> float:
        return min(self.backoff_first_s * 2.0 ** (failures - 1), self.backoff_max_s) * (0.5 + 0.5 * jitter)


def test_an_exponent_that_is_not_clamped_is_caught() -> None:
    given = {f: getattr(POLICY, f) for f in Policy.__dataclass_fields__}
    with pytest.raises(OverflowError):
        Unclamped(**given).delay_s(10**6, 0.5)
    assert POLICY.delay_s(10**6, 0.5) == 225.0


# every small history -----------------------------------------------------------------------------------------------

SPECS = (
    ChildSpec(name="paper_trader", kind="paper_trader", command=("x",), hang_s=30.0, grace_s=15.0, finishes=False),
    ChildSpec(name="worker-0", kind="worker", command=("x",), hang_s=120.0, grace_s=30.0, finishes=True),
)


def normal(fleet: Fleet, now_s: float) -> object:
    """What matters of a state: times relative to now, coarse; equal states have equal futures."""

    def ago(at_s: float | None) -> int | None:
        return None if at_s is None else max(-400, min(700, round(now_s - at_s)))

    return (
        fleet.paused, fleet.draining, ago(fleet.stopping_s), ago(fleet.last_spawn_s),
        tuple(
            (c.state, c.wanted, c.pid is not None, ago(c.due_s) if c.pid is None else 0, min(c.failures, 4),
             len(c.restarts_s), ago(c.progress_s) if c.pid else 0, c.done >= 0, ago(c.abort_s), ago(c.kill_s), ago(c.term_s))
            for c in fleet.children
        ),
    )  # fmt: skip


def explored(depth: int, lifecycle: Step = step) -> int:
    """Breadth first over every history of events up to `depth`; the number of different states."""
    begun = Fleet(policy=POLICY, children=tuple(Child(spec=s) for s in SPECS), last_spawn_s=-1.0)
    seen, level = {normal(begun, 0.0)}, [(begun, 0.0)]
    for _ in range(depth):
        following = []
        for fleet, now_s in level:
            for event, at_s in events_of(fleet, now_s):
                after = settled(*lifecycle(fleet, event), at_s, lifecycle)
                key = normal(after, at_s)
                if key not in seen:
                    seen.add(key)
                    following.append((after, at_s))
        level = following
    return len(seen)


def events_of(fleet: Fleet, now_s: float) -> list[tuple[Event, float]]:
    found: list[tuple[Event, float]] = []
    wake_s = next_wake_s(fleet)
    if wake_s < float("inf"):
        assert wake_s > now_s - 400.0
        found.append((Tick(now_s=max(now_s, wake_s)), max(now_s, wake_s)))
    for c in fleet.children:
        if c.pid is not None:
            found += [(Exited(name=c.spec.name, code=k, now_s=now_s, jitter=0.5), now_s) for k in (0, 1, 75, 78)]
            found.append((Beat(name=c.spec.name, done=c.done + 1, now_s=now_s), now_s))
    found += [(Command(verb=v, name="worker-0", now_s=now_s), now_s) for v in ("stop", "start", "restart")]
    found += [(Pause(on=True, now_s=now_s), now_s), (Pause(on=False, now_s=now_s), now_s), (Drain(now_s=now_s), now_s)]
    return [*found, (StopAll(now_s=now_s), now_s)]


def settled(fleet: Fleet, effects: tuple[object, ...], now_s: float, lifecycle: Step) -> Fleet:
    """Perform the effects as the shell would: a spawn is answered at once. What must always hold is checked here."""
    for effect in effects:
        if isinstance(effect, Spawn):
            c = fleet.child(effect.name)
            assert c.state is State.STARTING and c.pid is None, "two of a name"
            fleet, more = lifecycle(fleet, Spawned(name=effect.name, pid=next(PIDS), now_s=now_s))
            fleet = settled(fleet, more, now_s, lifecycle)
        elif isinstance(effect, Signal):
            assert fleet.child(effect.name).pid == effect.pid, "a signal to nobody"
    for c in fleet.children:
        alive = c.state in (State.RUNNING, State.DRAINING, State.HUNG, State.STOPPING, State.UNKILLABLE)
        assert alive == (c.pid is not None), (c.state, c.pid)
        assert c.state is not State.STARTING
        if c.state is State.HUNG:
            assert c.abort_s is not None
    return fleet


PIDS = itertools.count(1)


def test_no_short_history_of_events_leads_into_a_state_that_must_not_be() -> None:
    assert explored(6) > 2500


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_no_longer_history_of_events_leads_into_a_state_that_must_not_be() -> None:
    states = explored(10)
    print(f"\n{states} states of a trader and a worker, breadth first to depth 10: none that must not be")
    assert states > 150_000


names = st.sampled_from([s.name for s in SPECS])
moments = st.floats(0, 1e9)
any_event = st.one_of(
    st.builds(Tick, now_s=moments), st.builds(Beat, name=names, done=st.integers(0, 9), now_s=moments),
    st.builds(Exited, name=names, code=st.sampled_from([0, 1, 75, 78, -9]), now_s=moments, jitter=st.just(0.5)),
    st.builds(Usage, name=names, rss_bytes=st.integers(0, 10**12), now_s=moments),
    st.builds(Command, verb=st.sampled_from(["start", "stop", "restart", "retry"]), name=names, now_s=moments),
    st.builds(Pause, on=st.booleans(), now_s=moments), st.builds(Drain, now_s=moments), st.builds(StopAll, now_s=moments),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(history=st.lists(any_event, max_size=40), failing=st.sets(st.integers(0, 40)))
def test_any_history_even_one_whose_times_run_backwards_is_survived(history: list[Event], failing: set[int]) -> None:
    fleet = Fleet(policy=POLICY, children=tuple(Child(spec=s) for s in SPECS))
    spawns = itertools.count()
    for event in history:
        if isinstance(event, Exited | Beat | Usage) and fleet.child(event.name).pid is None:
            continue  # the shell has no process to hear it from
        queue: list[Event] = [event]
        while queue:
            fleet, effects = step(fleet, queue.pop(0))
            for effect in effects:
                if isinstance(effect, Spawn):
                    assert fleet.child(effect.name).pid is None
                    failed = next(spawns) in failing
                    at_s = event.now_s
                    queue.append(
                        SpawnFailed(name=effect.name, reason="x", now_s=at_s, jitter=0.5)
                        if failed
                        else Spawned(name=effect.name, pid=next(PIDS), now_s=at_s)
                    )
        assert sum(c.pid is not None for c in fleet.children if c.spec.kind == "paper_trader") <= 1
