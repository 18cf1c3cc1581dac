"""The supervisor: one loop that waits for something to happen, asks `lifecycle.step`, and does what it says."""

import contextlib
import json
import os
import selectors
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon import control, processes
from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.child.logs import configure_logging, get_logger
from daemon.lifecycle import (
    Beat,
    Child,
    ChildSpec,
    Command,
    Effect,
    Event,
    Exited,
    Fleet,
    Note,
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
from daemon.notify import Notifier
from daemon.processes import Process, python_module
from daemon.status.reading import StatusReader
from features.errors import CappuccinoError
from features.files import Lock, write_atomic

MAX_SLEEP_S = 1.0  # status.json and the watchdog ping are never older than this allows
STATUS_EVERY_S = 1.0


def fleet_of(config: Config, state_dir: Path) -> Fleet:
    """The children this configuration asks for."""
    d = config.daemon
    common = ("--config", str(state_dir / "config.json"), "--state-dir", str(state_dir), "--name")
    trader = ChildSpec(
        name="paper_trader", kind="paper_trader", command=python_module("paper_trader", "run", *common, "paper_trader"),
        hang_s=d.trader_hang_s, grace_s=d.stop_grace_trader_s, finishes=config.paper.clock == "replay",
    )  # fmt: skip
    workers = [
        ChildSpec(
            name=name, kind="worker", command=python_module("trainer", "work", *common, name), hang_s=d.worker_hang_s,
            grace_s=d.stop_grace_worker_s, finishes=True,
        )
        for name in (f"worker-{i}" for i in range(config.study.workers))
    ]  # fmt: skip
    services = [
        ChildSpec(
            name="janitor", kind="janitor", command=python_module("daemon.janitor", *common, "janitor"),
            hang_s=max(d.service_hang_s, 2 * config.janitor.every_s), grace_s=d.stop_grace_s, finishes=False,
        ),
        ChildSpec(
            name="advisor", kind="advisor", command=python_module("daemon.advisor", *common, "advisor"),
            hang_s=max(d.service_hang_s, 2 * config.advisor.poll_s), grace_s=d.stop_grace_s, finishes=False,
        ),
    ]  # fmt: skip
    policy = Policy(
        backoff_first_s=d.backoff_first_s, backoff_max_s=d.backoff_max_s, backoff_reset_s=d.backoff_reset_s,
        max_restarts=d.max_restarts, restart_window_s=d.restart_window_s,
    )  # fmt: skip
    return Fleet(policy=policy, children=tuple(Child(spec=s) for s in (trader, *workers, *services)))


class Supervisor:
    """Owns the children, the control socket and status.json of one state directory."""

    def __init__(
        self, *, config: Config, state_dir: Path, fleet: Fleet, clock: Clock, jitter: Callable[[], float],
        until_finished: bool,
    ) -> None:  # fmt: skip
        self._config, self._state_dir, self._fleet, self._clock, self._jitter = config, state_dir, fleet, clock, jitter
        self._until_finished = until_finished
        self._status_reader = StatusReader(state_dir, json.loads(config.to_json()))
        self._processes: dict[str, Process] = {}
        self._notes: dict[str, dict[str, Any]] = {}
        self._selector = selectors.DefaultSelector()
        self._notifier = Notifier.from_environment()
        self._log = get_logger()
        self._began_s = clock.monotonic_s()
        self._status_due_s = 0.0

    def run(self) -> int:
        """Until a stop is asked for and everything is down; the exit status."""
        with Lock(self._state_dir / "run" / "supervisor.lock"), contextlib.ExitStack() as stack:
            for name in processes.kill_leftovers(self._children_file):
                self._log.warning("child.leftover_killed", name=name)
            write_atomic(self._state_dir / "config.json", self._config.to_json().encode())
            server = control.listen(control.socket_path(self._state_dir))
            stack.callback(control.socket_path(self._state_dir).unlink, missing_ok=True)
            stack.enter_context(server)
            self._selector.register(server, selectors.EVENT_READ, lambda: control.serve_one(server, self._answer))
            self._watch_signals(stack)
            self._log.info("daemon.started", pid=os.getpid(), children=len(self._fleet.children))
            self._loop()
            self._write_status("stopped")
            self._log.info("daemon.stopped")
        return 0

    def _loop(self) -> None:
        ready = False
        while not self._fleet.is_down:
            self._do(Tick(now_s=self._now_s(), jitter=self._jitter()))
            wait_s = min(MAX_SLEEP_S, max(0.0, next_wake_s(self._fleet) - self._now_s()))
            for key, _ in self._selector.select(wait_s):
                key.data()
            if not ready and all(c.pid is not None or c.state is State.FATAL for c in self._fleet.children):
                ready = True
                self._notifier.send("READY=1")
            if self._until_finished and self._fleet.is_finished and self._fleet.stopping_s is None:
                self._do(StopAll(now_s=self._now_s()))
            if self._now_s() >= self._status_due_s:
                self._write_status("stopping" if self._fleet.stopping_s is not None else "running")
                self._notifier.send("WATCHDOG=1\nSTATUS=" + self._one_line())

    def _do(self, event: Event) -> None:
        """One event in, its effects out, until nothing more follows."""
        events = [event]
        while events:
            self._fleet, effects = step(self._fleet, events.pop(0))
            for effect in effects:
                if (outcome := self._perform(effect)) is not None:
                    events.append(outcome)
            if any(not isinstance(e, Note) for e in effects):
                self._status_due_s = 0.0

    def _perform(self, effect: Effect) -> Event | None:
        match effect:
            case Spawn(name=name):
                return self._spawn(name)
            case Signal(name=name, what=what):
                processes.send(self._processes[name], what)
            case Note(event=event, name=name, facts=facts):
                self._log.info(event, name=name, **dict(facts))
        return None

    def _spawn(self, name: str) -> Event:
        try:
            process = processes.spawn(name, self._fleet.child(name).spec.command, logs=self._state_dir / "logs")
        except OSError as error:
            self._log.error("child.spawn_failed", name=name, reason=str(error))
            return Exited(name=name, code=127, now_s=self._now_s(), jitter=self._jitter())
        self._processes[name] = process
        self._selector.register(process.pidfd, selectors.EVENT_READ, lambda: self._reap(process))
        self._selector.register(process.progress_fd, selectors.EVENT_READ, lambda: self._listen(process))
        processes.remember(self._children_file, self._processes)
        return Spawned(name=name, pid=process.pid, now_s=self._now_s())

    def _listen(self, process: Process) -> None:
        for beat in process.beats():
            if "done" in beat:
                self._notes[process.name] = beat
                self._do(Beat(name=process.name, done=int(beat["done"]), now_s=self._now_s()))
        if process.at_end():
            with contextlib.suppress(KeyError):
                self._selector.unregister(process.progress_fd)

    def _reap(self, process: Process) -> None:
        if self._processes.get(process.name) is not process:
            return
        self._listen(process)
        self._selector.unregister(process.pidfd)
        with contextlib.suppress(KeyError):
            self._selector.unregister(process.progress_fd)
        processes.send(process, "kill")  # what it left behind in its own process group
        code = process.reap()
        del self._processes[process.name]
        processes.remember(self._children_file, self._processes)
        stopping = self._fleet.child(process.name).state is State.STOPPING
        if code != 0 and not stopping:
            self._log.warning("child.last_output", name=process.name, code=code, output=process.last_output()[-4000:])
        self._do(Exited(name=process.name, code=code, now_s=self._now_s(), jitter=self._jitter()))

    def _watch_signals(self, stack: contextlib.ExitStack) -> None:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        stack.enter_context(theirs)
        for end in (ours, theirs):
            end.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        stack.callback(signal.set_wakeup_fd, -1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

        def stop() -> None:
            with contextlib.suppress(BlockingIOError):
                ours.recv(64)
            self._stop()

        self._selector.register(ours, selectors.EVENT_READ, stop)

    def _stop(self) -> None:
        if self._fleet.stopping_s is None:
            self._log.info("daemon.stopping")
            self._notifier.send("STOPPING=1")
        self._do(StopAll(now_s=self._now_s()))

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        verb, name = request["verb"], request.get("child", "")
        if verb == "status":
            return {"status": self._status("stopping" if self._fleet.stopping_s is not None else "running")}
        if verb == "stop":
            self._stop()
            return {"done": "stopping"}
        if verb in ("pause", "resume"):
            names = [c.spec.name for c in self._fleet.children if c.spec.kind == "worker"]
            for worker in names:
                self._do(Command(verb="stop" if verb == "pause" else "start", name=worker, now_s=self._now_s()))
            return {"done": f"{verb}d {', '.join(names)}"}
        verbs = {"start": "start", "restart": "restart", "retry": "retry", "stop-child": "stop"}
        known = [c.spec.name for c in self._fleet.children]
        if verb not in verbs:
            raise CappuccinoError(f"unknown verb {verb!r}", hint=f"known: {', '.join(control.VERBS)}")
        if name not in known:
            raise CappuccinoError(f"no child is called {name!r}", hint=f"known: {', '.join(known)}")
        self._do(Command(verb=verbs[verb], name=name, now_s=self._now_s()))  # type: ignore[arg-type]
        return {"done": f"{verb} {name}"}

    def _status(self, state: str) -> dict[str, Any]:
        return self._status_reader.gather(
            [self._child_record(c) for c in self._fleet.children], state=state, pid=os.getpid(),
            up_s=round(self._now_s() - self._began_s, 1), written_utc=self._clock.now_utc().isoformat(),
            finished=self._fleet.is_finished,
        )  # fmt: skip

    def _child_record(self, c: Child) -> dict[str, Any]:
        beat, now_s = self._notes.get(c.spec.name, {}), self._now_s()
        return {
            "name": c.spec.name, "kind": c.spec.kind, "state": c.state.value, "pid": c.pid,
            "for_s": round(now_s - c.since_s, 1), "failures": c.failures, "restarts": len(c.restarts_s),
            "next_start_s": round(max(0.0, c.due_s - now_s), 1), "silent_s": round(now_s - c.progress_s, 1),
            "last_exit": c.last_exit, "note": beat.get("note", ""), "facts": beat.get("facts", {}),
        }  # fmt: skip

    def _write_status(self, state: str) -> None:
        self._status_due_s = self._now_s() + STATUS_EVERY_S
        write_atomic(self._state_dir / "status.json", json.dumps(self._status(state)).encode())

    def _one_line(self) -> str:
        running = sum(c.pid is not None for c in self._fleet.children)
        return f"{running} of {len(self._fleet.children)} children running"

    @property
    def _children_file(self) -> Path:
        return self._state_dir / "run" / "children.json"

    def _now_s(self) -> float:
        return self._clock.monotonic_s()


def log_to(state_dir: Path) -> None:
    configure_logging(component="daemon", child="supervisor", path=state_dir / "logs" / "supervisor.jsonl")
