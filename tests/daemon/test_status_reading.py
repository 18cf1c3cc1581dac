"""What the reader makes of a state directory that other programs write to."""

import json
import os
import pty
import select
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from daemon.child.config import parse as parse_config
from daemon.gpu import GpuReading
from daemon.status.reading import StatusReader
from daemon.status.record import Status, parse
from features.files import write_atomic

NOW = "2026-01-01T12:00:00+00:00"
NOW_S = 1_767_268_800
CHILDREN = [
    {"name": "worker-0", "kind": "worker", "state": "running", "pid": 5, "facts": {"samples_per_s": 20_000}, "new": 1},
    {"name": "worker-1", "kind": "worker", "state": "running", "pid": 6, "facts": {"samples_per_s": 22_000}},
]


def reader(state_dir: Path, **sections: dict[str, Any]) -> StatusReader:
    config = parse_config({"study": {"name": "t", "target_trials": 10}, **sections})
    return StatusReader(state_dir, json.loads(config.to_json()))


def read(of: StatusReader, written_utc: str = NOW) -> Status:
    return parse(of.gather(CHILDREN, state="running", pid=1, up_s=1.0, written_utc=written_utc))


def trial(state_dir: Path, number: int, *, ended_ago_s: float = 0.0, **facts: Any) -> None:
    path = state_dir / "trials" / "t" / str(number) / "trial.json"
    write_atomic(path, json.dumps({"study": "t", "number": number, **facts}).encode())
    os.utime(path, (NOW_S - ended_ago_s, NOW_S - ended_ago_s))


def complete(state_dir: Path, number: int, score: float, *, ended_ago_s: float) -> None:
    trial(
        state_dir, number, state="COMPLETE", score=score, seconds=600.0, artifact=f"a{number}", ended_ago_s=ended_ago_s
    )


def judged(state_dir: Path, number: int, dsr: float | None) -> None:
    gate = {"gate": "G2", "what": "deflated Sharpe", "value": dsr, "unit": "p", "threshold": "≥ 0.95", "passed": False}
    record = {"champion": None, "holds": "cash", "study": "t", "trial": number, "decided_utc": NOW, "reason": "no",
              "gates": [gate], "history": []}  # fmt: skip
    write_atomic(state_dir / "champion.json", json.dumps(record).encode())


def test_an_empty_state_directory_is_a_status_too(tmp_path: Path) -> None:
    status = read(reader(tmp_path))
    assert (status.study.complete, status.study.best, status.champion, status.paper) == (0, None, None, None)
    assert [d.used_by for d in status.disks] == [(".",)]


def test_every_trial_is_counted_once_and_interrupted_ones_apart(tmp_path: Path) -> None:
    complete(tmp_path, 0, 1.5, ended_ago_s=1800)
    complete(tmp_path, 1, 2.5, ended_ago_s=900)
    trial(tmp_path, 2, state="FAIL", failure="diverged", seconds=60.0, ended_ago_s=800)
    trial(tmp_path, 3, state="FAIL", failure="killed", ended_ago_s=700)
    trial(tmp_path, 4, state="RUNNING")
    trial(tmp_path, 5, state="PRUNED", failure="screened", ended_ago_s=600)
    study = read(reader(tmp_path)).study
    assert (study.complete, study.given_up, study.failed, study.handed_back, study.running) == (2, 1, 1, 1, 1)
    assert study.finished == 4
    assert study.best is not None and (study.best.number, study.best.dsr) == (1, None)
    assert study.samples_per_s == 42_000
    assert study.pace.per_hour == 3.0 / ((NOW_S - (NOW_S - 2400)) / 3600)  # the study began 2400 s ago
    assert study.pace.eta_s is not None


def test_a_running_trial_is_followed_to_its_end_and_ended_ones_are_read_once(tmp_path: Path) -> None:
    trial(tmp_path, 0, state="RUNNING")
    of = reader(tmp_path)
    assert read(of).study.running == 1
    complete(tmp_path, 0, 1.0, ended_ago_s=0)
    trial(tmp_path, 1, state="RUNNING")
    later = read(of, "2026-01-01T12:10:00+00:00").study
    assert (later.running, later.complete) == (1, 1)
    (tmp_path / "trials" / "t" / "0" / "trial.json").write_text("now damaged")
    assert read(of).study.complete == 1  # what has ended cannot change


def test_the_deflated_sharpe_is_shown_only_for_the_trial_that_was_judged(tmp_path: Path) -> None:
    complete(tmp_path, 0, 1.0, ended_ago_s=100)
    judged(tmp_path, 0, 0.41)
    of = reader(tmp_path)
    best = read(of).study.best
    assert best is not None and (best.dsr, best.dsr_threshold) == (0.41, "≥ 0.95")
    complete(tmp_path, 1, 2.0, ended_ago_s=50)
    best = read(of).study.best
    assert best is not None and (best.number, best.dsr) == (1, None)


@pytest.mark.parametrize(("clock", "age_s"), [("live", 1800.0), ("replay", None)])
def test_the_age_of_the_last_decision_comes_from_the_journal_while_the_trader_writes_it(
    tmp_path: Path, clock: str, age_s: float | None
) -> None:
    paper = {"state": "trading", "equity": 1.0, "decisions": 2, "fills": 0, "drawdown": 0.0, "schema": 1}
    write_atomic(tmp_path / "paper" / "status.json", json.dumps(paper).encode())
    with closing(sqlite3.connect(tmp_path / "paper" / "journal.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE decisions (close_time_s INTEGER PRIMARY KEY)")
        db.execute("INSERT INTO decisions VALUES (?), (?)", (NOW_S - 5400, NOW_S - 1800))
        db.execute("BEGIN IMMEDIATE")  # the trader is in the middle of a transaction
        db.execute("INSERT INTO decisions VALUES (?)", (NOW_S,))
        status = read(reader(tmp_path, paper={"clock": clock, "replay_start_utc": NOW}))
    assert status.paper is not None and status.paper.decision_age_s == age_s
    assert status.paper.last_decision_utc == "2026-01-01T11:30:00+00:00"


def test_every_file_system_in_use_is_watched_and_named_once(tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    if not shm.is_mount() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    elsewhere = shm / f"cappuccino-test-{os.getpid()}"
    elsewhere.mkdir()
    try:
        (tmp_path / "paper").mkdir()
        (tmp_path / "artifacts").symlink_to(elsewhere)
        disks = read(reader(tmp_path, janitor={"warn_free_bytes": 10**18})).disks
    finally:
        elsewhere.rmdir()
    assert [d.used_by for d in disks] == [(".", "paper"), ("artifacts",)]
    assert disks[1].path == str(shm) and all(d.below_warning and not d.below_floor for d in disks)


def test_gpu_readings_are_shown_with_their_age(tmp_path: Path) -> None:
    reading = GpuReading(
        index=0, name="card", memory_total_bytes=2, memory_used_bytes=1, utilisation=0.5, temperature_c=90.0
    )
    written = {"at_utc": "2026-01-01T11:59:30+00:00", "gpus": [asdict(reading)]}
    write_atomic(tmp_path / "run" / "gpu.json", json.dumps(written).encode())
    status = read(reader(tmp_path))
    assert (status.gpus[0].age_s, status.gpus[0].temperature_c) == (30.0, 90.0)
    assert "90 °C" in status.alerts[0].text


@pytest.mark.parametrize("text", ['{"half": ', "{}", "[]", "3", '{"state": "COMPLETE", "score": "high"}'])
def test_half_written_and_foreign_files_do_not_break_the_status_and_are_named(tmp_path: Path, text: str) -> None:
    names = ["trials/t/0/trial.json", "champion.json", "paper/status.json", "advice/latest.json", "run/gpu.json"]
    complete(tmp_path, 1, 2.5, ended_ago_s=900)
    for name in names:
        write_atomic(tmp_path / name, text.encode())
    (tmp_path / "trials" / "t" / "space.json").write_text("{}")
    status = read(reader(tmp_path))
    assert status.study.complete == 1 and status.study.best is not None and status.study.best.dsr is None
    named = [a.text.partition(" ")[0] for a in status.alerts if "is not shown" in a.text]
    assert named == [
        n for n in names if "state" not in text or n != "paper/status.json"
    ]  # which needs no more than that


def test_a_file_that_is_mended_is_shown_again(tmp_path: Path) -> None:
    of = reader(tmp_path)
    write_atomic(tmp_path / "champion.json", b"{}")
    assert [a.level for a in read(of).alerts] == ["warn"]
    judged(tmp_path, 0, 0.41)
    status = read(of)
    assert status.champion is not None and not status.alerts


def _stopped(state_dir: Path) -> None:
    """A status.json as a daemon leaves it."""
    record = reader(state_dir).gather(CHILDREN, state="stopped", pid=1, up_s=60.0, written_utc=NOW)
    write_atomic(state_dir / "status.json", json.dumps(record).encode())


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_a_terminal_gets_colours_and_a_pipe_or_no_color_does_not(
    tmp_path: Path, environment: dict[str, str], *, coloured: bool
) -> None:
    _stopped(tmp_path)
    code, said = _on_a_terminal(["status", "--state-dir", str(tmp_path)], environment)
    assert code == 4 and ("\033[" in said) == coloured, said
    command = [sys.executable, "-P", "-m", "daemon", "status", "--state-dir", str(tmp_path)]
    assert "\033[" not in subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("ending", ["q", "ctrl-C"])
def test_watch_draws_on_the_other_screen_and_gives_the_first_one_back(tmp_path: Path, ending: str) -> None:
    _stopped(tmp_path)
    code, said = _on_a_terminal(["status", "--watch", "--state-dir", str(tmp_path)], {}, ending=ending)
    assert said.startswith("\033[?1049h") and said.rstrip().endswith("\033[?1049l")
    assert "DOWN (last known state)" in said
    assert code == 4


def _on_a_terminal(words: list[str], environment: dict[str, str], *, ending: str = "") -> tuple[int, str]:
    """Run cappuccinoctl on a pseudo-terminal of its own; with `ending`, press it once something was drawn."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # who runs the tests in the background ignores it
        kept = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
        command = [sys.executable, "-P", "-m", "daemon", *words]
        os.execve(sys.executable, command, {**kept, "TERM": "xterm", **environment})
    said, deadline_s = b"", time.monotonic() + 30
    while time.monotonic() < deadline_s:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                part = os.read(terminal, 65_536)
            except OSError:  # the other end is closed
                break
            said += part
            if not part:
                break
        if ending and b"state in" in said:
            os.write(terminal, b"q" if ending == "q" else b"\x03")
            ending = ""
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.decode()
