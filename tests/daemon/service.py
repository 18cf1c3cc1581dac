"""The real service on a small simulated market, started and watched as an operator would."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from daemon.child.config import parse
from features.files import write_atomic

SMALL = {
    "market": {"source": "simulated", "tickers": ["BTC", "ETH", "LTC"]},
    "simulation": {"world": "sv", "seed": 5, "bars": 9000},
    "data": {"n_folds": 2, "embargo_bars": 24, "end_utc": "2021-04-20T00:00:00Z"},
    "study": {"name": "t", "workers": 1, "target_trials": 500, "train_steps": 60_000, "accounts": 32},
    "promotion": {"cross_validated": 0},
    "paper": {"clock": "replay", "replay_start_utc": "2021-04-20T00:00:00Z", "replay_bars_per_s": 10.0},
    "janitor": {"warn_free_bytes": 1000, "floor_free_bytes": 500, "every_s": 5.0},
    "advisor": {"every_trials": 2, "poll_s": 1.0},
}


def settings(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {s: {**SMALL.get(s, {}), **changes.get(s, {})} for s in {*SMALL, *changes}}


class Service:
    """One state directory and the daemon on it."""

    def __init__(self, state_dir: Path, config: dict[str, dict[str, Any]]) -> None:
        self.state_dir = state_dir
        self.given = state_dir / "given.json"
        write_atomic(self.given, parse(config).to_json().encode())
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        output = (self.state_dir / "daemon.out").open("ab")
        with output:
            self.daemon = subprocess.Popen(
                [sys.executable, "-P", "-m", "daemon", "run", *options, *self._common()], stdout=output, stderr=output
            )

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`cappuccinoctl WORDS` as a process of its own."""
        command = [sys.executable, "-P", "-m", "daemon", *words, *self._common()]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def status(self) -> dict[str, Any]:
        done = self.ctl("status", "--json")
        if done.returncode == 4 and not done.stdout:  # never started so far
            return {"daemon": {"down": True}, "children": [], "paper": None}
        assert done.returncode in (0, 2, 3, 4), done.stderr
        record: dict[str, Any] = json.loads(done.stdout)
        return record

    def child(self, name: str) -> dict[str, Any]:
        return next(c for c in self.status()["children"] if c["name"] == name)

    def pids(self) -> dict[str, int]:
        return {c["name"]: c["pid"] for c in self.status()["children"] if c["pid"]}

    def until(self, what: Callable[[], Any], *, within_s: float = 60.0) -> Any:
        """The first true value of `what`; the daemon's output when it never comes."""
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            if value := what():
                return value
            time.sleep(0.1)
        raise AssertionError(f"not within {within_s} s; the daemon said:\n{self.said()}")

    def said(self) -> str:
        parts = [(self.state_dir / "daemon.out").read_text()[-3000:]]
        parts += [f"{p.name}: {p.read_text()[-1500:]}" for p in sorted((self.state_dir / "logs").glob("*.out"))]
        return "\n".join(parts)

    def log(self, child: str = "supervisor") -> list[dict[str, Any]]:
        path = self.state_dir / "logs" / f"{child}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def all_running(self) -> dict[str, int] | None:
        status = self.status()
        children = status["children"]
        if status["daemon"].get("down") or not children or any(c["pid"] is None or not c["note"] for c in children):
            return None
        return {c["name"]: c["pid"] for c in children}

    def _common(self) -> list[str]:
        return ["--config", str(self.given), "--state-dir", str(self.state_dir)]


@contextmanager
def running(state_dir: Path, config: dict[str, dict[str, Any]] | None = None) -> Iterator[Service]:
    """A started service whose children all work; whatever happens, nothing of it survives the block."""
    service = Service(state_dir, config or settings())
    service.start()
    ours: dict[str, int] = {}
    try:
        ours = service.until(service.all_running)
        yield service
    finally:
        assert service.daemon is not None
        if service.daemon.poll() is None:
            ours |= service.pids()
            service.daemon.kill()
        service.daemon.wait()
        for pid in ours.values():
            end(pid)


def end(pid: int) -> None:
    """SIGKILL a child of a daemon of ours, if it still is one."""
    try:
        if "cappuccino" in " ".join(psutil.Process(pid).cmdline()) or "--state-dir" in psutil.Process(pid).cmdline():
            os.kill(pid, signal.SIGKILL)
    except (psutil.NoSuchProcess, ProcessLookupError):
        pass


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
