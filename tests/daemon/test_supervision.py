"""Supervision of real processes by the real supervisor: deaths, hangs, leashes, limits, last words. Puppets play."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mounts import fill, mounted
from stage import Stage, close, gone_within, staged, state_of
from state_house import janitor

from daemon import leftovers
from features.files import write_atomic

ALL = {"worker": ("work", ""), "paper_trader": ("work", ""), "janitor": ("work", ""), "advisor": ("work", "")}


def test_a_death_is_seen_at_once_and_the_child_started_again(tmp_path: Path) -> None:
    with staged(tmp_path, ALL, study={"workers": 4}) as stage:
        for name, pid in stage.pids().items():
            began_s = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            seen = stage.until(lambda name=name: [e for e in stage.log("child.exited") if e["name"] == name])[0]
            assert seen["code"] == -9 and 0 <= seen["mono"] - began_s < 1.0
        stage.until(stage.all_beating)
        assert all(c["restarts"] == 1 and c["last_exit"] == "signal 9" for c in stage.children().values())


def test_whatever_way_the_work_stands_still_it_is_found_dumped_and_replaced(tmp_path: Path) -> None:
    """A deadlock beside a live thread, a C call that holds the interpreter, and a stopped process."""
    parts = {"worker-0": ("deadlock", ""), "worker-1": ("hold-gil", ""), "worker-2": ("work", "")}
    with staged(tmp_path, parts, study={"workers": 3}, daemon={"worker_hang_s": 4.0}) as stage:
        os.kill(stage.pids()["worker-2"], signal.SIGSTOP)
        for name in parts:
            hung = stage.until(lambda name=name: [e for e in stage.log("child.hung") if e["name"] == name])[0]
            assert 4.0 <= hung["silent_s"] < 6.0, name  # the deadline, and at most two seconds
            assert hung["level"] == "warning"
            code, dump = stage.until(lambda name=name: stage.crashes(name))[0]
            assert code == -signal.SIGABRT
            assert "Fatal Python error: Aborted" in dump and "puppet.py" in dump, name
        stage.until(lambda: stage.children()["worker-2"]["restarts"])
        assert "in deadlock" in stage.crashes("worker-0")[0][1]
        assert "in hold_gil" in stage.crashes("worker-1")[0][1]


def test_a_supervisor_that_was_itself_stopped_for_a_while_blames_nobody(tmp_path: Path) -> None:
    with staged(tmp_path, ALL, daemon={"worker_hang_s": 4.0, "trader_hang_s": 4.0}) as stage:
        assert stage.process is not None
        pids = stage.pids()
        stage.process.send_signal(signal.SIGSTOP)
        time.sleep(5.0)
        stage.process.send_signal(signal.SIGCONT)
        time.sleep(0.5)
        assert stage.pids() == pids and not stage.log("child.hung")


def test_nothing_outlives_a_killed_supervisor_not_even_grandchildren_that_closed_everything(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {**ALL, "paper_trader": ("parent", ""), "worker": ("parent", "")}, study={"workers": 2})
    try:
        for _ in range(4):
            stage.start()
            pids = [*stage.until(stage.all_beating).values()]
            pids += [p for f in tmp_path.glob("*.grandchildren") for p in json.loads(f.read_text())]
            assert len(pids) == 5 + 6
            stage.kill()
            assert all(gone_within(p, 5.0) is not None for p in pids)
    finally:
        close(stage)


def test_what_a_dead_child_left_behind_in_its_group_dies_with_it(tmp_path: Path) -> None:
    with staged(tmp_path, {"paper_trader": ("parent", "")}) as stage:
        grandchildren = json.loads((tmp_path / "paper_trader.grandchildren").read_text())
        os.kill(stage.pids()["paper_trader"], signal.SIGKILL)
        assert all(gone_within(p, 5.0) is not None for p in grandchildren)
        stage.until(stage.all_beating)


def test_a_leftover_is_killed_only_if_it_is_proven_ours(tmp_path: Path) -> None:
    """Same pid but another start time, or another boot: somebody else's process, which is left alone."""
    for started, boot, killed in ((0, "", True), (-7, "", False), (0, "another boot", False)):
        with subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        ) as sleeper:
            path = tmp_path / "children.json"
            leftovers.remember(path, {"paper_trader": sleeper.pid})
            record = json.loads(path.read_text())
            record["children"]["paper_trader"]["started"] += started
            path.write_text(json.dumps({**record, "boot_id": boot or record["boot_id"]}))
            assert leftovers.kill_leftovers(path) == (["paper_trader"] if killed else [])
            assert bool(state_of(sleeper.pid)) is not killed
            sleeper.kill()
        assert leftovers.kill_leftovers(path) == []  # it is gone, whatever the file says


def test_a_new_supervisor_kills_the_survivor_and_starts_its_own(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"paper_trader": ("work", "")})
    lock = tmp_path / "run" / "paper_trader.lock"
    lock.parent.mkdir()
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print(1, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, start_new_session=True
    ) as survivor:
        try:
            assert survivor.stdout is not None and survivor.stdout.readline()
            leftovers.remember(tmp_path / "run" / "children.json", {"paper_trader": survivor.pid})
            stage.start()
            stage.until(stage.all_beating)
            assert not state_of(survivor.pid)
            assert [e["name"] for e in stage.log("child.leftover_killed")] == ["paper_trader"]
        finally:
            survivor.kill()
            close(stage)


def test_never_two_traders_while_anybody_holds_the_traders_lock(tmp_path: Path) -> None:
    """A survivor that cannot be proven ours is not killed, and nobody is started beside it."""
    stage = Stage(tmp_path, {"paper_trader": ("work", "")}, daemon={"backoff_first_s": 0.3})
    lock = tmp_path / "run" / "paper_trader.lock"
    lock.parent.mkdir()
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as stranger:
        try:
            assert stranger.stdout is not None and stranger.stdout.readline()
            stage.start()
            stage.until(lambda: (tmp_path / "logs" / "supervisor.jsonl").exists() and stage.log("child.spawn_failed"))
            assert not stage.pids()
            assert "never two of a name" in stage.log("child.spawn_failed")[0]["reason"]
            stranger.kill()
            stranger.wait()
            stage.until(stage.all_beating)
        finally:
            stranger.kill()
            close(stage)


def test_the_lock_is_held_by_whatever_the_child_leaves_alive(tmp_path: Path) -> None:
    """The descriptor is inherited, so the kernel frees it with the last process that has it."""
    from features.files import Lock

    with staged(tmp_path, {"paper_trader": ("work", "")}) as stage:
        assert Lock(tmp_path / "run" / "paper_trader.lock").is_held()
        stage.ctl("stop", "paper_trader", "--wait")
        assert not Lock(tmp_path / "run" / "paper_trader.lock").is_held()


def test_every_child_runs_under_the_limits_of_its_kind(tmp_path: Path) -> None:
    daemon = {"max_open_files": 200, "worker_nice": 7, "worker_oom_score_adj": 650, "worker_cpus": "0"}
    ours = int(Path("/proc/self/oom_score_adj").read_text())
    parts = {"worker": ("limits", ""), "paper_trader": ("limits", "")}
    with staged(tmp_path, parts, study={"workers": 1}, daemon=daemon):
        worker = json.loads((tmp_path / "worker-0.limits").read_text())
        trader = json.loads((tmp_path / "paper_trader.limits").read_text())
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    assert worker == {"nofile": 200, "core": 0, "nice": min(19, nice + 7), "cpus": [0], "oom_score_adj": 650}
    assert trader == {
        "nofile": 200, "core": 0, "nice": nice, "cpus": sorted(os.sched_getaffinity(0)), "oom_score_adj": ours,
    }  # fmt: skip


@pytest.mark.parametrize("full", [False, True])
def test_a_child_whose_output_is_rotated_goes_on_in_the_same_file_and_its_last_words_are_kept(
    tmp_path: Path, *, full: bool
) -> None:
    with mounted("tmpfs", tmp_path / "disk", size_mib=4) as disk:
        output = disk / "logs" / "worker-0.out"
        write_atomic(output, b"an earlier run\n" * 40_000)
        with staged(disk, {"worker-0": ("burst", "3000")}, study={"workers": 1}) as stage:
            stage.until(lambda: (disk / "worker-0.written").read_text() == "0003000")
            if full:
                fill(disk)
            said = output.read_bytes()
            janitor(disk, log_max_bytes=300_000, reserve_bytes=0).clean()
            assert output.stat().st_size == 0
            rotated = disk / "logs" / "worker-0.out.1"
            assert not rotated.exists() if full else rotated.read_bytes() == said[-300_000:]
            os.kill(stage.pids()["worker-0"], signal.SIGABRT)
            code, dump = stage.until(lambda: stage.crashes("worker-0"))[0]
            assert code == -signal.SIGABRT and dump.startswith("Fatal Python error: Aborted")
            assert output.read_bytes().startswith(b"Fatal Python error: Aborted")


def test_a_limit_that_cannot_be_applied_is_a_configuration_error_and_final(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"worker": ("work", "")}, study={"workers": 1}, daemon={"worker_oom_score_adj": 5000})
    try:
        stage.start()
        stage.until(lambda: stage.children().get("worker-0", {}).get("state") == "fatal")
        assert stage.children()["worker-0"]["reason"] == "configuration"
        assert "cannot apply the limits" in stage.crashes("worker-0")[0][1]
    finally:
        close(stage)


def test_a_child_that_grows_too_large_is_asked_to_stop_and_started_anew(tmp_path: Path) -> None:
    parts = {"worker": ("hog", "200000000"), "paper_trader": ("work", "")}
    with staged(tmp_path, parts, study={"workers": 1}, daemon={"worker_rss_bytes": 150_000_000}) as stage:
        over = stage.until(lambda: stage.log("child.over_memory"), within_s=30)[0]
        assert over["name"] == "worker-0" and over["rss_bytes"] > 200_000_000
        again = stage.until(lambda: [c for c in [stage.children()["worker-0"]] if c["restarts"] == 1])[0]
        assert again["last_exit"] == "exit 0"  # it was asked, and could say good-bye
        assert stage.children()["paper_trader"]["restarts"] == 0


def test_no_line_of_a_killed_child_is_lost_and_its_last_words_are_on_record(tmp_path: Path) -> None:
    with staged(tmp_path, {"worker": ("burst", "1000000")}, study={"workers": 2}) as stage:
        stage.until(lambda: min(written(tmp_path, n) for n in ("worker-0", "worker-1")) > 3000)
        for name, pid in stage.pids().items():
            os.kill(pid, signal.SIGKILL)
            output = stage.until(lambda name=name: stage.crashes(name))[0][1]
            lines = numbers(tmp_path / "logs" / f"{name}.out")
            first_life = lines[: lines.index(0, 1)] if 0 in lines[1:] else lines
            assert first_life == list(range(len(first_life))) and len(first_life) > 3000
            assert 60_000 < len(output) <= 65_536
            assert output.rstrip().splitlines()[-1].split()[2] == f"{len(first_life) - 1:07d}"


def written(state_dir: Path, name: str) -> int:
    """How many lines the puppet has finished writing."""
    path = state_dir / f"{name}.written"
    return int(path.read_bytes() or b"0") if path.exists() else 0


def numbers(path: Path) -> list[int]:
    return [int(line.split()[2]) for line in path.read_bytes().splitlines() if len(line.split()) == 4]


def test_a_child_that_always_dies_is_given_up_alone_and_every_death_is_on_record(tmp_path: Path) -> None:
    parts = {"worker-0": ("die", "3"), "worker-1": ("die", "78"), "paper_trader": ("work", "")}
    stage = Stage(tmp_path, parts, study={"workers": 2}, daemon={"backoff_first_s": 0.02})
    try:
        stage.start()
        stage.until(lambda: {c["state"] for n, c in stage.children().items() if "worker" in n} == {"fatal"})
        crashing, misconfigured = stage.children()["worker-0"], stage.children()["worker-1"]
        assert (crashing["reason"], crashing["restarts"]) == ("restarts", 5)
        assert (misconfigured["reason"], misconfigured["restarts"]) == ("configuration", 0)
        assert [code for code, _ in stage.crashes("worker-0")] == [3] * 6
        assert "worker-0 ends with 3" in stage.crashes("worker-0")[0][1]
        assert stage.children()["paper_trader"]["restarts"] == 0
        assert {e["level"] for e in stage.log("child.fatal")} == {"error"}  # for journalctl -p err
        assert {e["level"] for e in stage.log("child.spawned")} == {"info"}
        shown = stage.ctl("events", "worker-0", "--crash")
        assert shown.returncode == 0 and "worker-0 ends with 3" in shown.stdout
    finally:
        close(stage)


def test_a_full_stop_goes_in_order_and_ends_even_what_ignores_it(tmp_path: Path) -> None:
    parts = {"worker": ("stubborn", ""), "advisor": ("work", ""), "janitor": ("work", ""), "paper_trader": ("work", "")}
    with staged(tmp_path, parts, study={"workers": 2}, daemon={"stop_grace_worker_s": 1.5}) as stage:
        assert stage.process is not None
        os.kill(stage.pids()["janitor"], signal.SIGSTOP)  # TERM, then CONT: a stopped child acts on it too
        began_s = time.monotonic()
        stage.process.terminate()
        assert stage.process.wait(20) == 0
        assert time.monotonic() - began_s < 8.0
        ended = {e["name"]: (k, e["code"]) for k, e in enumerate(stage.log("child.exited"))}
        assert ended["paper_trader"] == (4, 0)
        assert {ended[n][1] for n in ("worker-0", "worker-1")} == {-9}
        assert {ended[n][1] for n in ("advisor", "janitor")} == {0}


def test_a_scale_that_the_limit_no_longer_allows_does_not_keep_a_crashed_supervisor_from_starting(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path, ALL, study={"workers": 1})
    try:
        stage.start()
        stage.until(stage.all_beating)
        stage.ask("scale", workers=3)
        stage.ask("stop-child", child="janitor")
        stage.until(lambda: "worker-2" in stage.pids() and "janitor" not in stage.pids())
        stage.kill()
        stage.configure(study={"workers": 1}, daemon={"max_workers": 2})
        stage.start()
        stage.until(lambda: set(stage.pids()) == {"worker-0", "paper_trader", "advisor"})
        assert stage.children()["janitor"]["state"] == "stopped"  # the rest is remembered
    finally:
        close(stage)


def test_a_crashed_supervisor_forgets_nothing_and_an_operators_stop_forgives(tmp_path: Path) -> None:
    parts = {"worker-0": ("die", "78"), "worker-1": ("work", ""), "paper_trader": ("work", ""), "janitor": ("work", "")}
    stage = Stage(tmp_path, parts, study={"workers": 2})
    try:
        stage.start()
        stage.until(lambda: stage.children().get("worker-0", {}).get("state") == "fatal")
        stage.ask("stop-child", child="janitor")
        stage.ask("scale", workers=3)
        stage.ask("pause")
        stage.kill()
        stage.start()
        stage.until(lambda: stage.children().get("paper_trader", {}).get("pid"))
        time.sleep(0.5)
        states = {n: c["state"] for n, c in stage.children().items()}
        assert states == {
            "worker-0": "fatal", "worker-1": "stopped", "janitor": "stopped", "paper_trader": "running",
        }  # fmt: skip
        assert stage.ask("status")["status"]["daemon"]["state"] == "paused"
        assert stage.ctl("stop", "--wait").returncode == 0
        assert stage.process is not None and stage.process.wait(10) == 0
        stage.start()
        stage.until(lambda: {"worker-1", "janitor", "paper_trader"} <= set(stage.pids()))
        stage.until(lambda: len(stage.log("child.fatal")) == 2)  # it was tried again
    finally:
        close(stage)
