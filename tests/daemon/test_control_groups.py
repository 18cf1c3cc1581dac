"""What the kernel takes away when memory or processes run out: a worker, never the trader, and never the supervisor's wits."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import Stage, close

MEMORY, PIDS = ("memory", "memory.limit_in_bytes"), ("pids", "pids.max")


@contextlib.contextmanager
def confined(stage: Stage, limit: tuple[str, str], amount: int) -> Iterator[Path]:
    """The started stage in a control group (version 1) of its own; skipped where none can be made. Root is needed."""
    controller, name = limit
    group = Path("/sys/fs/cgroup") / controller / f"cappuccino-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(amount))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group of our own for {controller}: {error}")
    try:
        stage.start()
        assert stage.process is not None
        (group / "cgroup.procs").write_text(str(stage.process.pid))  # before it has any child
        yield group
    finally:
        close(stage)
        stage.until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_when_memory_runs_out_the_kernel_takes_the_worker_although_the_trader_holds_more(tmp_path: Path) -> None:
    parts = {"paper_trader": ("hog", "320000000"), "worker": ("hog", "2000000000"), "janitor": ("work", "")}
    stage = Stage(tmp_path, parts, study={"workers": 1}, daemon={"spawn_pace_s": 2.0})
    with confined(stage, MEMORY, 600_000_000):
        crashes = stage.until(
            lambda: stage.children() and len(stage.crashes("worker-0")) >= 2 and stage.crashes("worker-0")
        )
        assert {code for code, _ in crashes} == {-signal.SIGKILL}
        others = {n: c for n, c in stage.children().items() if n != "worker-0"}
        assert all(c["state"] == "running" and c["restarts"] == 0 for c in others.values()) and len(others) == 2
        assert others["paper_trader"]["rss_bytes"] > 320_000_000


def test_a_fork_bomb_leaves_the_supervisor_able_to_end_it(tmp_path: Path) -> None:
    parts = {"paper_trader": ("work", ""), "janitor": ("work", ""), "worker": ("fork-bomb", "")}
    stage = Stage(tmp_path, parts, study={"workers": 1}, daemon={"max_restarts": 1000})
    with confined(stage, PIDS, 60) as group:
        stage.until(lambda: (group / "pids.current").read_text().strip() == "60")
        os.kill(stage.pids()["janitor"], signal.SIGKILL)
        stage.until(lambda: stage.log("child.spawn_failed"))
        began_s = time.monotonic()
        assert stage.children()["paper_trader"]["restarts"] == 0 and time.monotonic() - began_s < 1.0
        assert stage.ctl("stop", "worker-0", "--wait").returncode == 0
        stage.until(lambda: "janitor" in stage.pids())
        assert (group / "cgroup.procs").read_text().count("\n") == 3  # supervisor, trader, janitor
        assert stage.children()["paper_trader"]["restarts"] == 0
