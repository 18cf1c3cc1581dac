"""Two workers of one study that are killed again and again; run as a program by test_worker_kills.py.

They are forked from a process that has imported everything, so that a life costs tenths of a second. A life ends at its
n-th durable step: just before a file is opened for writing, replaced, removed, or a transaction committed, which names
the stage; or at some instant of a clock. `deaths.jsonl` says how each one died.
"""

import itertools
import json
import math
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy
import torch

from trainer import training
from trainer.__main__ import main as trainer

LONGEST_LIFE_STEPS = 150
LONGEST_LIFE_S = 3.0
WRITES = os.O_WRONLY | os.O_RDWR
EVENTS = {"open": "open", "os.rename": "replace", "os.remove": "remove", "os.mkdir": "mkdir", "shutil.rmtree": "clear"}
Doomed = Callable[[str], bool]
"""Whether the life ends before this step, whose name is the argument; called once a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """How a life ends: at a step, after a time, or not at all."""

    doomed: Doomed | None = None
    lasts_s: float = math.inf


def lives(state_dir: Path, workers: Sequence[str], fates: Iterator[Fate]) -> int:
    """Workers until the study is complete. A life takes the next of the fates; when there are none it goes on for ever."""
    running: dict[int, tuple[str, float]] = {}
    idle = list(workers)
    while idle or running:
        for name in idle:
            fate = next(fates, Fate())
            running[_begun(state_dir, name, fate.doomed)] = (name, time.monotonic() + fate.lasts_s)
        idle = []
        time.sleep(0.01)
        for pid, (name, until_s) in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended and time.monotonic() > until_s:
                os.kill(pid, signal.SIGKILL)
                ended, status = os.waitpid(pid, 0)
                if os.WIFSIGNALED(status):
                    died(state_dir, name, "at some instant")
            if ended:
                del running[pid]
                if os.WIFSIGNALED(status):
                    idle.append(name)
                elif code := os.waitstatus_to_exitcode(status):
                    return code
    return 0


def random_fates(n: int, seed: int) -> Iterator[Fate]:
    rng = np.random.default_rng(seed)
    for i in range(n):
        steps = int(rng.integers(1, LONGEST_LIFE_STEPS))
        lasts_s = float(rng.uniform(0.2, LONGEST_LIFE_S))
        yield Fate(doomed=_before_step(steps)) if i % 3 else Fate(lasts_s=lasts_s)


def named_fates(stages: Sequence[str]) -> Iterator[Fate]:
    """A life for each stage: "A > B" dies at the first B after an A."""
    return (Fate(doomed=_at_stage(s.split(" > "))) for s in stages)


def _before_step(n: int) -> Doomed:
    count = itertools.count(1)
    return lambda _: next(count) == n


def _at_stage(ahead: list[str]) -> Doomed:
    def doomed(stage: str) -> bool:
        if re.search(ahead[0], stage):
            ahead.pop(0)
        return not ahead

    return doomed


def _begun(state_dir: Path, name: str, doomed: Doomed | None) -> int:
    """The pid of a worker's life."""
    if pid := os.fork():
        return pid
    code = 70
    try:
        if doomed is not None:
            _watch(state_dir, name, doomed)
        arguments = ["--config", str(state_dir / "config.json"), "--state-dir", str(state_dir), "--name", name]
        code = trainer(["work", *arguments])
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


def _watch(state_dir: Path, name: str, doomed: Doomed) -> None:
    dying, statement = False, ""

    def step(stage: str) -> None:
        nonlocal dying
        if not dying and doomed(stage):
            dying = True  # what is written now is no step of the worker's
            died(state_dir, name, stage)
            os.kill(os.getpid(), signal.SIGKILL)

    def audited(event: str, arguments: tuple[Any, ...]) -> None:
        path = _place(state_dir, arguments[1 if event == "os.rename" else 0]) if event in EVENTS else None
        if path and (event != "open" or (arguments[2] or 0) & WRITES) and not path.startswith("logs/"):
            step(f"{EVENTS[event]} {path}")

    def remembered(_c: Any, _k: Any, text: str, parameters: Any, *_: Any) -> None:
        nonlocal statement
        if found := re.match(r"(INSERT INTO|UPDATE|DELETE FROM) (\w+)", text):
            key = parameters[1] if found[2] == "trial_user_attributes" and found[1] == "INSERT INTO" else ""
            statement = f"{found[1].split()[0].lower()} {found[2]} {key}".strip()

    sys.addaudithook(audited)
    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", remembered)
    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", lambda _: step(f"commit {statement}"))


def _place(state_dir: Path, path: Any) -> str | None:
    """The path below the state directory, with numbers, hashes and pids as N and ID."""
    text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
    if not text.startswith(f"{state_dir}/"):
        return None
    inner = re.sub(r"[0-9a-f]{64}", "ID", text.removeprefix(f"{state_dir}/"))
    return re.sub(r"\d+", "N", inner)


def died(state_dir: Path, name: str, stage: str) -> None:
    line = json.dumps({"worker": name, "stage": stage}) + "\n"
    handle = os.open(state_dir / "deaths.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, line.encode())
    os.close(handle)


def deaths(state_dir: Path) -> list[str]:
    """The stages at which workers died, in order."""
    path = state_dir / "deaths.jsonl"
    return [json.loads(line)["stage"] for line in path.read_text().splitlines()] if path.exists() else []


def main() -> int:
    """mortals.py STATE named STAGE..., or mortals.py STATE random KILLS SEED."""
    training.CHECKPOINT_EVERY_S = 0.0  # after every update: the trainings here take less than a second
    torch.set_num_threads(1)
    state_dir, kind, *rest = Path(sys.argv[1]), *sys.argv[2:]
    if kind == "named":
        return lives(state_dir, ["worker-0"], named_fates(rest))
    kills, seed = map(int, rest)
    return lives(state_dir, ["worker-0", "worker-1"], random_fates(kills, seed))


if __name__ == "__main__":
    sys.exit(main())
