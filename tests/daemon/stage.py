"""The real supervisor, as a process, over puppets instead of the real programs: what is being tested is supervision.

Run as a program (`stage.py STATE_DIR`) it is that supervisor; `Stage` starts and watches it from a test.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from daemon import control
from daemon.child.clock import SystemClock
from daemon.child.config import Config, load_config, parse
from daemon.fleet import specs_of
from daemon.lifecycle import ChildSpec
from daemon.supervisor import Doors, Supervisor, log_to
from features.files import write_atomic

HERE = Path(__file__).parent
Part = tuple[str, str]  # behaviour, argument
FAST = {"spawn_pace_s": 0.02, "backoff_first_s": 0.1}


def specs(config: Config, state_dir: Path) -> tuple[ChildSpec, ...]:
    """The configured children, each played by a puppet; whoever has no part does not appear."""
    parts: Mapping[str, Part] = json.loads((state_dir / "parts.json").read_text())
    cast = []
    for spec in specs_of(config, state_dir):
        part = parts.get(spec.name) or (parts.get("worker") if spec.kind == "worker" else None)
        if part is not None:
            command = (sys.executable, "-X", "faulthandler", str(HERE / "puppet.py"), *part, str(state_dir), spec.name)
            cast.append(replace(spec, command=command))
    return tuple(cast)


def supervise(state_dir: Path) -> int:
    config = load_config(state_dir / "given.json")
    log_to(state_dir)
    doors = Doors(
        clock=SystemClock(), jitter=lambda: 0.5, load=lambda: load_config(state_dir / "given.json"), specs=specs
    )
    return Supervisor(config=config, state_dir=state_dir, doors=doors).run()


class Stage:
    """One state directory, its supervisor, and what a test wants to know of them."""

    def __init__(self, state_dir: Path, parts: Mapping[str, Part], **sections: dict[str, Any]) -> None:
        self.state_dir = state_dir
        self.configure(**sections)
        (state_dir / "parts.json").write_text(json.dumps(parts))
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, **sections: dict[str, Any]) -> None:
        """Write the configuration that the next start, or a reload, will read."""
        given = {"run": {"state_dir": str(self.state_dir)}, **sections}
        given["daemon"] = {**FAST, **sections.get("daemon", {})}
        self.given = given
        write_atomic(self.state_dir / "given.json", json.dumps(asdict(parse(given))).encode())

    def start(self, **environment: str) -> None:
        with (self.state_dir / "daemon.out").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "stage.py"), str(self.state_dir)], stdout=output, stderr=output,
                env={**os.environ, **environment},
            )  # fmt: skip

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        return control.ask(self.state_dir, verb, **arguments)

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "daemon", *words, "--state-dir", str(self.state_dir)]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    def children(self) -> dict[str, dict[str, Any]]:
        try:
            return {c["name"]: c for c in self.ask("status")["status"]["children"]}
        except control.DaemonDown:
            return {}

    def pids(self) -> dict[str, int]:
        return {n: c["pid"] for n, c in self.children().items() if c["pid"]}

    def until(self, what: Callable[[], Any], *, within_s: float = 30.0) -> Any:
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            if value := what():
                return value
            time.sleep(0.02)
        raise AssertionError(
            f"not within {within_s} s; {self.children()}\n{(self.state_dir / 'daemon.out').read_text()[-3000:]}"
        )

    def all_beating(self) -> dict[str, int] | None:
        children = self.children()
        up = bool(children) and all(c["pid"] and c["note"] for c in children.values())
        return {n: c["pid"] for n, c in children.items()} if up else None

    def log(self, event: str) -> list[dict[str, Any]]:
        lines = (self.state_dir / "logs" / "supervisor.jsonl").read_text().splitlines()
        return [r for line in lines if (r := json.loads(line))["event"] == event]

    def crashes(self, name: str) -> list[tuple[int, str]]:
        """(code, last output) of each crash on record."""
        with closing(sqlite3.connect(f"file:{self.state_dir / 'supervisor.db'}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT code, output FROM crashes WHERE child = ? ORDER BY id", (name,)).fetchall()
        return [(code, output.decode(errors="replace")) for code, output in rows]


@contextmanager
def staged(state_dir: Path, parts: Mapping[str, Part], **sections: dict[str, Any]) -> Iterator[Stage]:
    """A running stage whose children all work; nothing of it outlives the block."""
    stage = Stage(state_dir, parts, **sections)
    stage.start()
    try:
        stage.until(stage.all_beating)
        yield stage
    finally:
        close(stage)


def close(stage: Stage) -> None:
    """End the supervisor and, should it leave any, its children."""
    pids = stage.pids().values() if stage.process and stage.process.poll() is None else ()
    if stage.process is not None:
        stage.kill()
    for pid in pids:
        if gone_within(pid, 5.0) is None:
            os.kill(pid, signal.SIGKILL)


def state_of(pid: int) -> str:
    """The state letter of a process; "" when there is none, or only its entry is left."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
    return "" if letter in "ZX" else letter


def gone_within(pid: int, seconds: float) -> float | None:
    """Seconds until the process was gone; None if it was not."""
    began_s = time.monotonic()
    while time.monotonic() < began_s + seconds:
        if not state_of(pid):
            return time.monotonic() - began_s
        time.sleep(0.002)
    return None


if __name__ == "__main__":
    sys.exit(supervise(Path(sys.argv[1])))
