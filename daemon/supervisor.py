"""The supervisor: one loop that waits for something to happen, asks `lifecycle.step`, and does what it says."""

import contextlib
import logging
import os
import selectors
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from daemon import control, leftovers, processes
from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.child.logs import configure_logging, get_logger
from daemon.child.room import RESERVE, NoRoom, needs_room
from daemon.control_server import ControlServer, Peer
from daemon.fleet import fleet_of, memory_of, policy_of, recalled, specs_of
from daemon.history import History
from daemon.journal import tell_journal
from daemon.lifecycle import (
    Beat,
    ChildSpec,
    Effect,
    Event,
    Exited,
    Fleet,
    Note,
    Reshape,
    Signal,
    Spawn,
    Spawned,
    SpawnFailed,
    State,
    StopAll,
    Tick,
    Usage,
    may_start,
    next_wake_s,
    step,
)  # fmt: skip
from daemon.notify import Notifier
from daemon.picture import Picture
from daemon.processes import Process
from daemon.requests import Refused, events_for
from features.errors import CappuccinoError, ConfigurationError
from features.files import Lock, write_atomic

MAX_SLEEP_S = 1.0  # the loop turns at least this often, whatever the fleet expects
USAGE_EVERY_S = 5.0
QUIET_S = 20.0  # without an event, before the history is folded together
READY_AT_LATEST_S = 30.0  # a market that is waited for, or many starts in turn: systemd has 120 s of patience
_PLACE = "run/children.json"
# What is logged as more than information: `journalctl -p warning` has to show it.
_LEVELS = dict.fromkeys(("child.fatal", "child.unkillable"), logging.ERROR) | dict.fromkeys(
    ("child.hung", "child.leftover_killed", "child.over_memory", "child.spawn_failed", "config.refused", "daemon.recalled"),
    logging.WARNING,
)  # fmt: skip
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """How the supervisor meets the world. jitter: a random number in [0, 1); load: reads the configuration again."""

    clock: Clock
    jitter: Callable[[], float]
    load: Callable[[], Config]
    specs: Callable[[Config, Path], tuple[ChildSpec, ...]] = specs_of


class Supervisor:
    """Owns the children, the control socket and status.json of one state directory."""

    def __init__(self, *, config: Config, state_dir: Path, doors: Doors, until_finished: bool = False) -> None:
        self._config, self._configured, self._state_dir, self._doors = config, config, state_dir, doors
        self._until_finished = until_finished
        self._processes: dict[str, Process] = {}
        self._selector = selectors.DefaultSelector()
        self._notifier = Notifier.from_environment()
        self._log = get_logger()
        self._began_s = self._now_s()
        self._usage_due_s = self._ping_due_s = 0.0
        self._quiet_since_s = self._began_s
        self._ready, self._lost_told = False, 0
        self._remembered: dict[str, Any] = {}

    def run(self) -> int:
        """Until a stop is asked for and everything is down; the exit status."""
        self._fleet = self._fleet_for(self._config)  # refuses a bad configuration before anything is touched
        with contextlib.ExitStack() as stack:
            with needs_room(self._state_dir):
                self._begin(stack)
            self._loop()
            self._picture.publish(self._fleet, state="stopped", now_s=self._now_s())
            self._history.end()
            self._note("daemon.stopped", "")
        return 0

    def _begin(self, stack: contextlib.ExitStack) -> None:
        """Alone in the state directory, with all open that the loop needs. Raises NoRoom."""
        stack.enter_context(Lock(self._state_dir / "run" / "supervisor.lock"))
        path = self._state_dir / "supervisor.db"
        history = self._or_without_reserve(lambda: History(path, now_utc=self._doors.clock.now_utc))
        self._history = stack.enter_context(history)
        self._recall()
        for name in leftovers.kill_leftovers(self._state_dir / _PLACE):
            self._note("child.leftover_killed", name)
        self._or_without_reserve(lambda: self._write_config(self._config))
        self._picture = Picture(self._state_dir, self._config, self._doors.clock)
        self._server = ControlServer(
            control.socket_path(self._state_dir), selector=self._selector, answer=self._answer, now_s=self._now_s
        )
        stack.callback(self._server.close)
        self._watch_signals(stack)
        self._note("daemon.started", "", pid=os.getpid(), children=len(self._fleet.children))

    def _or_without_reserve(self, do: Callable[[], _T]) -> _T:
        """Do it, on a full disk again without the reserve: the janitor that would give it up does not run yet."""
        try:
            return do()
        except NoRoom:
            reserve = self._state_dir / RESERVE
            if not reserve.exists():
                raise
            reserve.unlink()
            self._log.warning("daemon.reserve_given_up")
        return do()

    def _loop(self) -> None:
        while not self._fleet.is_down:
            wait_s = min(MAX_SLEEP_S, max(0.0, next_wake_s(self._fleet) - self._now_s()))
            self._selector.select(wait_s)
            # The time comes before the last look at the pipes: a beat that was written by now is heard before anyone
            # is called silent, also when this process has itself been stopped or starved for a while.
            now_s = self._now_s()
            for key, _ in self._selector.select(0):
                key.data()
            if now_s >= self._usage_due_s:
                self._usage_due_s = now_s + USAGE_EVERY_S
                for process in list(self._processes.values()):
                    self._do(Usage(name=process.name, rss_bytes=process.rss_bytes(), now_s=now_s))
            if self._until_finished and self._fleet.is_finished and self._fleet.stopping_s is None:
                self._do(StopAll(now_s=now_s))
            self._do(Tick(now_s=now_s))
            self._server.expire()
            self._tell(now_s)
            if now_s >= self._quiet_since_s + QUIET_S:
                self._history.tidy()

    def _do(self, event: Event) -> None:
        """One event in, its effects out, until nothing more follows."""
        events = [event]
        while events:
            before = self._fleet
            self._fleet, effects = step(self._fleet, events.pop(0))
            for effect in effects:
                if (outcome := self._perform(effect)) is not None:
                    events.append(outcome)
            if effects or before.paused != self._fleet.paused:
                self._remember()

    def _perform(self, effect: Effect) -> Event | None:
        match effect:
            case Spawn(name=name):
                return self._spawn(name)
            case Signal(name=name, what=what):
                processes.send(self._processes[name], what)
            case Note(event=event, name=name, facts=facts):
                self._note(event, name, **dict(facts))
        return None

    def _spawn(self, name: str) -> Event:
        try:
            process = processes.spawn(self._fleet.child(name).spec, self._state_dir)
        except OSError as error:
            reason = error.strerror or str(error)
            return SpawnFailed(name=name, reason=reason, now_s=self._now_s(), jitter=self._doors.jitter())
        self._processes[name] = process
        self._picture.forget(name)
        self._selector.register(process.pidfd, selectors.EVENT_READ, lambda: self._reap(process))
        self._selector.register(process.progress_fd, selectors.EVENT_READ, lambda: self._listen(process))
        self._write_place()
        return Spawned(name=name, pid=process.pid, now_s=self._now_s())

    def _listen(self, process: Process) -> None:
        if self._processes.get(process.name) is not process:  # reaped in this same turn of the loop
            return
        for beat in process.beats():
            done = int(beat["done"]) if "done" in beat else None
            if done is not None:
                self._picture.heard(process.name, beat)
            self._do(Beat(name=process.name, done=done, ready="ready" in beat, now_s=self._now_s()))
        if process.at_end():
            with contextlib.suppress(KeyError):
                self._selector.unregister(process.progress_fd)

    def _reap(self, process: Process) -> None:
        now_s = self._now_s()
        self._listen(process)
        self._selector.unregister(process.pidfd)
        with contextlib.suppress(KeyError):
            self._selector.unregister(process.progress_fd)
        processes.send(process, "kill")  # what it left behind in its own process group
        output, c = process.last_output(), self._fleet.child(process.name)
        code = process.reap()
        del self._processes[process.name]
        self._do(Exited(name=process.name, code=code, now_s=now_s, jitter=self._doors.jitter()))
        if c.state is not State.STOPPING and code != 0:
            self._history.crash(
                child=process.name, pid=process.pid, code=code, up_s=round(now_s - c.since_s, 3), output=output
            )
            self._log.warning(
                "child.last_output", name=process.name, code=code, output=output[-4000:].decode(errors="replace")
            )
        self._write_place()

    def _tell(self, now_s: float) -> None:
        """status.json, readiness and the watchdog: only from here, after every child has been looked at."""
        self._picture.publish_if_due(self._fleet, state=self._state(), now_s=now_s)
        if not self._ready and self._is_ready(now_s):
            self._ready = True
            self._notifier.send("READY=1")
        if self._history.lost != self._lost_told:
            self._lost_told = self._history.lost
            self._log.warning("history.lost", lost=self._history.lost)
        if now_s >= self._ping_due_s:
            self._ping_due_s = now_s + self._notifier.ping_every_s
            running = sum(c.pid is not None for c in self._fleet.children)
            self._notifier.send(
                f"WATCHDOG=1\nSTATUS={self._state()}: {running} of {len(self._fleet.children)} children run"
            )

    def _is_ready(self, now_s: float) -> bool:
        """Everyone has been started, and the trader has reconciled with its broker or been given up; or it takes too long."""
        if now_s >= self._began_s + READY_AT_LATEST_S:
            return True
        if any(c.state is State.STARTING or may_start(self._fleet, c) for c in self._fleet.children if not c.last_exit):
            return False
        return all(c.ready for c in self._fleet.children if c.spec.kind == "paper_trader" and c.pid is not None)

    # requests --------------------------------------------------------------------------------------------------

    def _answer(self, request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        verb = request["verb"]
        if verb == "status":
            return {"status": self._picture.record(self._fleet, state=self._state(), now_s=self._now_s())}
        asked = {k: v for k in ("child", "workers") if isinstance(v := request.get(k), str | int)}
        self._note("control.request", "", verb=verb, by_uid=peer.uid, by_pid=peer.pid, **asked)
        if verb == "reload":
            return self._reload()
        if verb == "scale":
            return self._scale(request.get("workers"))
        events, done = events_for(self._fleet, request, now_s=self._now_s())
        if verb == "stop":
            self._stop()
        for event in events:
            self._do(event)
        return {"done": done}

    def _reload(self) -> dict[str, Any]:
        """Read the configuration again; nothing changes unless all of it is good."""
        self._notifier.reloading(self._now_s())
        try:
            config = self._doors.load()
            if config.run.state_dir != self._configured.run.state_dir:
                raise Refused("run.state_dir cannot change while the daemon runs", hint="stop it and start it anew")
            changed = self._reshape(config)
        except CappuccinoError as error:
            self._note("config.refused", "", reason=str(error))
            raise
        finally:
            self._notifier.send("READY=1")
        self._configured = config
        self._note("config.reloaded", "", **{k: ", ".join(v) for k, v in changed.items()})
        said = "; ".join(f"{k} {', '.join(v)}" for k, v in changed.items() if v)
        return {"done": f"reloaded: {said or 'no child is concerned'}", **changed}

    def _scale(self, workers: Any) -> dict[str, Any]:
        if type(workers) is not int or workers < 0:
            raise Refused(f"cannot scale to {workers!r} workers", hint="give a number, 0 or more")
        changed = self._reshape(replace(self._config, study=replace(self._config.study, workers=workers)))
        said = "; ".join(f"{k} {', '.join(v)}" for k, v in changed.items() if v)
        return {"done": f"{workers} worker{'s' * (workers != 1)}: {said or 'as before'}", **changed}

    def _reshape(self, config: Config) -> dict[str, list[str]]:
        """Take another configuration. {"restarted", "added", "removed"}: names. Raises CappuccinoError, changing nothing."""
        specs = self._doors.specs(config, self._state_dir)
        if self._fleet.stopping_s is not None:
            raise Refused("too late: the daemon is stopping")
        if self._fleet.draining:
            raise Refused("too late: the workers finish their trials, then all stops")
        old = {c.spec.name: c.spec for c in self._fleet.children if not c.retiring}
        new = {s.name: s for s in specs}
        self._write_config(config)  # before a child reads it
        self._config = config
        self._picture.configure(config)
        self._do(Reshape(policy=policy_of(config), specs=specs, now_s=self._now_s()))
        self._remember()
        return {
            "restarted": [n for n, s in new.items() if n in old and old[n].needs_restart(s)],
            "added": [n for n in new if n not in old], "removed": [n for n in old if n not in new],
        }  # fmt: skip

    def _write_config(self, config: Config) -> None:
        """What the children read. Raises NoRoom; the old one is then still there."""
        with needs_room(self._state_dir):
            write_atomic(self._state_dir / "config.json", config.to_json().encode())

    # signals ---------------------------------------------------------------------------------------------------

    def _watch_signals(self, stack: contextlib.ExitStack) -> None:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        stack.enter_context(theirs)
        for end in (ours, theirs):
            end.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        stack.callback(signal.set_wakeup_fd, -1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)

        def act() -> None:
            with contextlib.suppress(BlockingIOError):
                numbers = set(ours.recv(64))
                if numbers & {signal.SIGTERM, signal.SIGINT}:
                    self._stop()
                elif signal.SIGHUP in numbers:
                    with contextlib.suppress(CappuccinoError):  # refused and noted: the old one stays
                        self._reload()

        self._selector.register(ours, selectors.EVENT_READ, act)

    def _stop(self) -> None:
        if self._fleet.stopping_s is None:
            self._note("daemon.stopping", "")
            self._notifier.send("STOPPING=1")
        self._do(StopAll(now_s=self._now_s()))

    # memory ----------------------------------------------------------------------------------------------------

    def _fleet_for(self, config: Config) -> Fleet:
        fleet = fleet_of(config, self._doors.specs(config, self._state_dir))
        return replace(fleet, last_spawn_s=self._now_s() - fleet.policy.spawn_pace_s)

    def _recall(self) -> None:
        """Take over from a supervisor that crashed: what was given up, stopped, paused or scaled stays so."""
        memory = self._history.begin(boot_id=leftovers.boot_id(), pid=os.getpid())
        if not memory:
            return
        if memory["configured_workers"] == self._config.study.workers != memory["workers"]:
            scaled = replace(self._config, study=replace(self._config.study, workers=memory["workers"]))
            with contextlib.suppress(ConfigurationError):  # daemon.max_workers may have become fewer
                self._fleet, self._config = self._fleet_for(scaled), scaled
        self._fleet = recalled(self._fleet, memory)
        self._note("daemon.recalled", "", fatal=sum(c.state is State.FATAL for c in self._fleet.children))

    def _remember(self) -> None:
        memory = {
            **memory_of(self._fleet), "workers": self._config.study.workers,
            "configured_workers": self._configured.study.workers,
        }  # fmt: skip
        if memory != self._remembered:
            self._remembered = memory
            self._history.remember(memory)

    def _note(self, event: str, name: str, **facts: Any) -> None:
        """One fact, once: to the log and to the history."""
        self._quiet_since_s = self._now_s()
        self._log.log(_LEVELS.get(event, logging.INFO), event, name=name, **facts)
        self._history.event(event, name, facts)

    def _write_place(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: the leashes hold the children without it
            leftovers.remember(self._state_dir / _PLACE, {n: p.pid for n, p in self._processes.items()})

    def _state(self) -> str:
        if self._fleet.stopping_s is not None:
            return "stopping"
        return "draining" if self._fleet.draining else ("paused" if self._fleet.paused else "running")

    def _now_s(self) -> float:
        return self._doors.clock.monotonic_s()


def log_to(state_dir: Path) -> None:
    configure_logging(component="daemon", child="supervisor", path=state_dir / "logs" / "supervisor.jsonl")
    tell_journal()
