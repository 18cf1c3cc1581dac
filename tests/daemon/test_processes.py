"""One process at a time: how it is started, heard, signalled and reaped; and the mutant that kills only the process."""

import json
import os
import select
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from stage import gone_within, state_of

from daemon import processes
from daemon.child.locks import FD_VARIABLE, sole
from daemon.child.stopping import StopRequest
from daemon.lifecycle import ChildSpec, Limits
from features.errors import CappuccinoError

PUPPET = Path(__file__).with_name("puppet.py")


def spec(state_dir: Path, behaviour: str, argument: str = "", command: tuple[str, ...] = ()) -> ChildSpec:
    played = (sys.executable, "-X", "faulthandler", str(PUPPET), behaviour, argument, str(state_dir), "paper_trader")
    return ChildSpec(
        name="paper_trader", kind="paper_trader", command=command or played, hang_s=9.0, grace_s=9.0, finishes=False,
        limits=Limits(),
    )  # fmt: skip


def first_beat(process: processes.Process) -> None:
    heard: list[dict[str, object]] = []
    while not any("done" in b for b in heard):
        assert select.select([process.progress_fd], [], [], 20.0)[0], process.last_output()
        heard += process.beats()


def end(process: processes.Process) -> int:
    processes.send(process, "kill")
    assert select.select([process.pidfd], [], [], 10.0)[0]
    return process.reap()


def grandchildren(state_dir: Path) -> list[int]:
    pids: list[int] = json.loads((state_dir / "paper_trader.grandchildren").read_text())
    return pids


def test_a_kill_takes_the_whole_group(tmp_path: Path) -> None:
    process = processes.spawn(spec(tmp_path, "parent"), tmp_path)
    first_beat(process)
    pids = grandchildren(tmp_path)
    assert all(state_of(p) for p in pids)
    processes.send(process, "kill")
    assert all(gone_within(p, 5.0) is not None for p in (process.pid, *pids))
    assert process.reap() == -9


def test_the_mutant_that_kills_the_process_alone_leaves_grandchildren_and_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What KillMode=process would be in a unit: the same check as above must see the survivors."""
    monkeypatch.setattr(processes.os, "killpg", os.kill)
    process = processes.spawn(spec(tmp_path, "parent"), tmp_path)
    first_beat(process)
    pids = grandchildren(tmp_path)
    processes.send(process, "kill")
    assert select.select([process.pidfd], [], [], 10.0)[0]
    try:
        assert all(gone_within(p, 0.5) is None for p in pids)
    finally:
        process.reap()
        for p in pids:
            os.kill(p, signal.SIGKILL)


def test_the_lifeline_takes_what_is_left_when_the_process_itself_is_already_dead(tmp_path: Path) -> None:
    """A grandchild that still has the read end keeps the leash on its whole group."""
    process = processes.spawn(spec(tmp_path, "parent"), tmp_path)
    first_beat(process)
    pids = grandchildren(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    assert select.select([process.pidfd], [], [], 10.0)[0]
    assert state_of(pids[1])
    process.reap()  # closes the lifeline
    assert gone_within(pids[1], 5.0) is not None
    for p in pids:
        if state_of(p):
            os.kill(p, signal.SIGKILL)


def test_a_program_that_is_not_there_ends_with_127_and_says_so(tmp_path: Path) -> None:
    process = processes.spawn(spec(tmp_path, "", command=("/nonexistent/program",)), tmp_path)
    assert select.select([process.pidfd], [], [], 20.0)[0]
    assert b"cannot run /nonexistent/program" in process.last_output()
    assert process.reap() == 127


def test_a_start_that_fails_leaves_no_descriptor_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name for p in Path("/proc/self/fd").iterdir()}
    monkeypatch.setattr(processes.sys, "executable", "/nonexistent/python")
    for _ in range(5):
        with pytest.raises(FileNotFoundError):
            processes.spawn(spec(tmp_path, "work"), tmp_path)
    assert {p.name for p in Path("/proc/self/fd").iterdir()} == before


def test_last_words_are_those_of_this_process_not_of_its_predecessor(tmp_path: Path) -> None:
    for code in ("11", "12"):
        process = processes.spawn(spec(tmp_path, "die", code), tmp_path)
        assert select.select([process.pidfd], [], [], 20.0)[0]
        assert process.last_output() == f"paper_trader ends with {code}\n".encode()
        assert process.reap() == int(code)
    assert (tmp_path / "logs" / "paper_trader.out").read_text().count("ends with") == 2


def test_a_rotated_output_file_is_still_where_the_last_words_are_found(tmp_path: Path) -> None:
    process = processes.spawn(spec(tmp_path, "stubborn"), tmp_path)
    first_beat(process)
    path = tmp_path / "logs" / "paper_trader.out"
    path.rename(path.with_name("paper_trader.out.1"))
    processes.send(process, "abort")
    assert select.select([process.pidfd], [], [], 10.0)[0]
    assert b"Fatal Python error: Aborted" in process.last_output()
    assert process.reap() == -6


def test_a_stopped_process_acts_on_abort_and_on_term(tmp_path: Path) -> None:
    for what, code in (("abort", -6), ("term", 0)):
        process = processes.spawn(spec(tmp_path, "work"), tmp_path)
        first_beat(process)
        os.kill(process.pid, signal.SIGSTOP)
        processes.send(process, what)  # type: ignore[arg-type]
        assert select.select([process.pidfd], [], [], 10.0)[0]
        assert process.reap() == code


def test_memory_is_read_and_a_process_that_is_gone_has_none(tmp_path: Path) -> None:
    process = processes.spawn(spec(tmp_path, "hog", "60000000"), tmp_path)
    first_beat(process)
    assert process.rss_bytes() > 60_000_000
    end(process)
    assert process.rss_bytes() == 0


@pytest.mark.parametrize("given", ["", "glibc.malloc.check=1"])
def test_a_worker_asks_for_large_pages_unless_somebody_has_tuned_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if given:
        monkeypatch.setenv("GLIBC_TUNABLES", given)
    for kind, wanted in (("worker", given or "glibc.malloc.hugetlb=1"), ("paper_trader", given)):
        process = processes.spawn(replace(spec(tmp_path, "work"), kind=kind), tmp_path)  # type: ignore[arg-type]
        first_beat(process)
        found = dict(entry.split("=", 1) for entry in Path(f"/proc/{process.pid}/environ").read_text().split("\0")[:-1])
        end(process)
        assert found.get("GLIBC_TUNABLES", "") == wanted


def test_a_lock_that_was_inherited_for_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    handle = os.open(tmp_path / "a", os.O_RDWR)
    monkeypatch.setenv(FD_VARIABLE, str(handle))
    with pytest.raises(CappuccinoError, match=r"is not .*b"), sole(tmp_path / "b"):
        pass
    os.close(handle)


def test_a_stop_is_seen_at_once_by_a_child_that_sleeps() -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        stop = StopRequest()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.finish_requested and not stop.requested
        began_s = time.monotonic()
        assert not stop.wait(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(30.0) and stop.requested
        assert time.monotonic() - began_s < 20.0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
