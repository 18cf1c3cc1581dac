"""The numbers of docs/promises.md for supervision, measured on real processes (make chaos). Each test prints its line."""

import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from stage import Stage, close, gone_within, staged, state_of

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

KILLS = 200
CORES = len(os.sched_getaffinity(0))
LINES = 100_000
SOAK_S = 600.0
FOUR = {
    "worker": ("work", "0.5"),
    "paper_trader": ("work", "0.5"),
    "janitor": ("work", "0.5"),
    "advisor": ("work", "0.5"),
}
BUSY = {**FOUR, "worker": ("burn", "")}  # as in service: the cores are busy with training
PATIENT = {"worker_hang_s": 900.0, "trader_hang_s": 900.0, "service_hang_s": 900.0, "max_restarts": 1000}


def said(text: str) -> None:
    """Into the output of `make chaos`, with how busy the machine was."""
    print(f"\n{text}  (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)", flush=True)


def percentiles(values_s: list[float]) -> str:
    p50, p99 = np.percentile(values_s, [50, 99]) * 1000
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {max(values_s) * 1000:.1f} ms of {len(values_s)}"


def test_200_crashes_on_cores_busy_with_training(tmp_path: Path) -> None:
    with (
        staged(tmp_path, BUSY, study={"workers": CORES}, daemon={**PATIENT, "backoff_max_s": 0.1}) as stage,
    ):
        killed: dict[int, float] = {}
        kernel_s: list[float] = []
        while len(killed) < KILLS:
            for name, pid in stage.until(stage.all_beating).items():
                handle = os.pidfd_open(pid)
                killed[pid] = time.monotonic()
                os.kill(pid, signal.SIGKILL)
                select.select([handle], [], [], 10.0)
                kernel_s.append(time.monotonic() - killed[pid])
                os.close(handle)
                stage.until(
                    lambda name=name, pid=pid: (c := stage.children()[name])["pid"] not in (None, pid) and c["note"]
                )
        spawned = {e["child_pid"]: e["name"] for e in stage.log("child.spawned")}
        exits = {name: [e["mono"] for e in stage.log("child.exited") if e["name"] == name] for name in spawned.values()}
        took_s = [min(m for m in exits[spawned[pid]] if m >= at_s) - at_s for pid, at_s in killed.items()]
    said(f"crash detected: {percentiles(took_s)}; a process that only waits for the death: {percentiles(kernel_s)}")
    assert np.percentile(took_s, 99) <= 0.050 + np.percentile(kernel_s, 99)


def test_hangs_of_every_kind_on_cores_busy_with_training(tmp_path: Path) -> None:
    parts = {
        "worker-0": ("deadlock", ""),
        "worker-1": ("hold-gil", ""),
        "worker-2": ("work", ""),
        "paper_trader": ("work", ""),
    }
    hang_s, rounds = 4.0, 5
    daemon = {"worker_hang_s": hang_s, "trader_hang_s": 900.0, "max_restarts": 1000, "backoff_max_s": 0.1}
    with staged(tmp_path, parts, study={"workers": 3 + CORES}, daemon=daemon) as stage:
        for n in range(rounds):
            os.kill(stage.until(lambda: stage.pids().get("worker-2")), signal.SIGSTOP)
            stage.until(lambda n=n: len([e for e in stage.log("child.hung") if e["name"] == "worker-2"]) > n)
            stage.until(lambda n=n: (c := stage.children()["worker-2"])["restarts"] > n and c["pid"] and c["note"])
        hung = stage.log("child.hung")
        over_s = [e["silent_s"] - hang_s for e in hung]
        kinds = {k: len([e for e in hung if e["name"] == k]) for k in ("worker-0", "worker-1", "worker-2")}
        dumps = {(k, n, code): o for k in kinds for n, (code, o) in enumerate(stage.crashes(k))}
    said(f"hang detected {max(over_s):.1f} s after the deadline at worst; deadlock, held GIL, SIGSTOP: {kinds}")
    assert max(over_s) <= 2.0 and min(kinds.values()) >= 3
    assert not {k: o for k, o in dumps.items() if "Fatal Python error: Aborted" not in o}


def test_the_socket_while_every_child_hangs(tmp_path: Path) -> None:
    with staged(tmp_path, BUSY, study={"workers": CORES}, daemon=PATIENT) as stage:
        for pid in stage.pids().values():
            os.kill(pid, signal.SIGSTOP)
        took_s, echo_s = [], []
        with echo(tmp_path / "echo") as ask_echo:
            for _ in range(1000):
                for times, ask in ((took_s, partial(stage.ask, "status")), (echo_s, ask_echo)):
                    began_s = time.perf_counter()
                    ask()
                    times.append(time.perf_counter() - began_s)
    said(f"status from the socket, every child stopped: {percentiles(took_s)}; a bare echo: {percentiles(echo_s)}")
    assert np.percentile(took_s, 99) < 0.050 + np.percentile(echo_s, 99)


@contextmanager
def echo(path: Path) -> Iterator[Callable[[], None]]:
    """A server that does nothing but answer: what the machine itself takes at the moment."""
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
        "while True:\n c, _ = s.accept(); c.sendall(c.recv(100)); c.close()"
    )
    server = subprocess.Popen([sys.executable, "-c", code, str(path)])

    def ask() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"x")
            client.recv(100)

    try:
        while not path.exists():
            time.sleep(0.01)
        time.sleep(0.3)
        yield ask
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("case", ["willing", "deaf", "frozen", "asleep on SIGTERM and frozen trader"])
def test_a_full_stop_takes_less_than_fifty_seconds_with_the_shipped_patience(tmp_path: Path, case: str) -> None:
    deaf = dict.fromkeys(FOUR, ("stubborn", ""))
    with staged(tmp_path, deaf if "willing" not in case and case != "frozen" else FOUR, study={"workers": 2}) as stage:
        pids = stage.pids()
        if case == "frozen":
            for pid in pids.values():
                os.kill(pid, signal.SIGSTOP)
        if "trader" in case:
            os.kill(pids["paper_trader"], signal.SIGSTOP)
        assert stage.process is not None
        began_s = time.monotonic()
        stage.process.terminate()
        stage.process.wait(60)
        took_s = time.monotonic() - began_s
        order = [e["name"] for e in stage.log("child.exited")]
        assert stage.process.returncode == 0
    said(f"full stop, children {case}: {took_s:.1f} s, last {order[-1]}")
    assert took_s < 50.0 and order[-1] == "paper_trader"
    assert not any(state_of(p) for p in pids.values())


def test_200_kills_of_the_supervisor_leave_nobody(tmp_path: Path) -> None:
    parts = {**FOUR, "paper_trader": ("parent", ""), "worker": ("parent", "")}
    stage = Stage(tmp_path, parts, study={"workers": 2})
    children_s, grand_s, survivors = [], [], 0
    rng = np.random.default_rng(5)
    try:
        for n in range(KILLS):
            stage.start()
            if n % 4:  # wherever it is: between two starts as well
                stage.until((tmp_path / "run" / "control.sock").exists)
                time.sleep(float(rng.uniform(0.0, 0.5)))
                pids = list(stage.pids().values())
                grandchildren = []
            else:
                pids = list(stage.until(stage.all_beating).values())
                grandchildren = [p for f in tmp_path.glob("*.grandchildren") for p in json.loads(f.read_text())]
            stage.kill()
            for bucket, group in ((children_s, pids), (grand_s, grandchildren)):
                for pid in group:
                    took_s = gone_within(pid, 5.0)
                    survivors += took_s is None
                    bucket.append(5.0 if took_s is None else took_s)
            everyone = f"{tmp_path}"
            survivors += len([p for p in processes_with(everyone) if gone_within(p, 5.0) is None])
    finally:
        close(stage)
    said(
        f"{KILLS} SIGKILLs of the supervisor: {survivors} survivors; children {percentiles(children_s)}, "
        f"grandchildren {percentiles(grand_s)}"
    )
    assert survivors == 0 and len(children_s) > KILLS


def processes_with(text: str) -> list[int]:
    """Pids of living processes, other than pytest's own, whose command line holds the text."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if text in (entry / "cmdline").read_bytes().decode(errors="replace") and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_of_a_hundred_thousand_lines_of_killed_children_none_is_lost(tmp_path: Path) -> None:
    kept = 0
    stage = Stage(tmp_path, {"worker": ("burst", str(LINES))}, study={"workers": 4}, daemon={"max_restarts": 1000})
    lives: dict[str, list[int]] = {f"worker-{i}": [] for i in range(4)}
    try:
        stage.start()
        for turn in itertools.count():
            if kept >= LINES:
                break
            for name, pid in stage.until(lambda: stage.pids() if len(stage.pids()) == 4 else None).items():
                stage.until(lambda name=name, pid=pid: written(tmp_path, name) > 2500 and stage.pids().get(name) == pid)
                os.kill(pid, signal.SIGKILL)
                assert gone_within(pid, 5.0) is not None
                acknowledged = written(tmp_path, name)
                (tmp_path / f"{name}.written").unlink()
                lives[name].append(acknowledged)
                kept += acknowledged
            stage.until(lambda turn=turn: all(c["restarts"] > turn for c in stage.children().values()))
    finally:
        close(stage)
    lost = 0
    for name, counts in lives.items():
        found = [int(line.split()[2]) for line in (tmp_path / "logs" / f"{name}.out").read_bytes().splitlines()]
        starts = [k for k, n in enumerate(found) if n == 0] + [len(found)]
        for acknowledged, (a, b) in zip(counts, itertools.pairwise(starts), strict=False):
            life = found[a:b]
            assert life == list(range(len(life)))
            lost += max(0, acknowledged - len(life))
    said(
        f"lines of children killed in the middle of writing: {lost} of {kept} lost, {sum(map(len, lives.values()))} kills"
    )
    assert lost == 0


def written(state_dir: Path, name: str) -> int:
    path = state_dir / f"{name}.written"
    return int(path.read_bytes() or b"0") if path.exists() else 0


def test_the_supervisor_is_light(tmp_path: Path) -> None:
    """Ten minutes with four children that beat twice a second, and somebody asking for the status every two."""
    with staged(tmp_path, FOUR, study={"workers": 1}, daemon={"spawn_pace_s": 1.0}) as stage:
        assert stage.process is not None
        pid = stage.process.pid
        time.sleep(5.0)
        began_s, cpu_s, top = time.monotonic(), cpu_seconds(pid), 0
        while time.monotonic() < began_s + SOAK_S:
            time.sleep(2.0)
            stage.ask("status")
            top = max(top, rss_bytes(pid))
        share = (cpu_seconds(pid) - cpu_s) / (time.monotonic() - began_s)
    said(
        f"supervisor over {SOAK_S:.0f} s with 4 children: {100 * share:.2f} % of a core, resident {top / 1e6:.1f} MB at most"
    )
    assert share < 0.005 and top <= 60e6


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
