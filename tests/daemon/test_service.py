"""The service with real processes and real signals: what dies comes back, what is stopped stops in order."""

import json
import os
import signal
import time
from pathlib import Path

import desk
import pytest
from service import Service, alive, running, settings

from daemon.child.config import parse


def test_a_worker_killed_with_sigkill_is_started_again_and_its_trial_retried(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        before = service.until(lambda: [c for c in [service.child("worker-0")] if "step" in c["note"]])[0]
        os.kill(before["pid"], signal.SIGKILL)
        dead = service.until(lambda: [c for c in [service.child("worker-0")] if c["restarts"] == 1])[0]
        assert dead["last_exit"] == "signal 9"
        service.until(lambda: service.child("worker-0")["pid"] not in (None, before["pid"]))
        service.until(lambda: "trial 1" in service.child("worker-0")["note"])
        killed = json.loads((tmp_path / "trials" / "t" / "0" / "trial.json").read_bytes())
        retried = json.loads((tmp_path / "trials" / "t" / "1" / "trial.json").read_bytes())
        assert killed["failure"] == "killed"
        assert retried["parameters"] == killed["parameters"]
        assert {e["event"] for e in service.log()} >= {"child.exited", "child.spawned", "daemon.started"}


def test_a_trader_killed_with_sigkill_goes_on_where_it_was(tmp_path: Path) -> None:
    desk.promote(tmp_path, desk.artifact(parse(settings())))
    with running(tmp_path) as service:
        seen = service.until(lambda: (service.status()["paper"] or {}).get("processed_bars", 0))
        pid = service.pids()["paper_trader"]
        os.kill(pid, signal.SIGKILL)
        service.until(lambda: service.pids().get("paper_trader") not in (None, pid))
        after = service.until(
            lambda: [p for p in [service.status()["paper"]] if p["processed_bars"] > seen + 5 and p["decisions"]]
        )[0]
        assert after["processed_bars"] - seen < 200  # it did not begin again
        assert after["mismatches"] == 0


def test_a_child_that_stops_working_is_found_by_its_silence_and_replaced(tmp_path: Path) -> None:
    with running(tmp_path, settings(daemon={"trader_hang_s": 8.0})) as service:
        pid = service.pids()["paper_trader"]
        os.kill(pid, signal.SIGSTOP)
        service.until(lambda: service.pids().get("paper_trader") not in (None, pid), within_s=30)
        assert not alive(pid)
        hung = [e for e in service.log() if e["event"] == "child.hung"]
        assert hung[0]["name"] == "paper_trader" and 8.0 <= hung[0]["silent_s"] < 10.0


def test_nothing_outlives_a_supervisor_killed_with_sigkill_and_its_successor_goes_on(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        pids = service.until(service.all_running)
        service.daemon.kill()  # type: ignore[union-attr]
        service.daemon.wait()  # type: ignore[union-attr]
        deadline_s = time.monotonic() + 5.0
        while any(alive(p) for p in pids.values()) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert not any(alive(p) for p in pids.values())
        down = service.ctl("status")
        assert down.returncode == 4
        assert "DOWN (last known state)" in down.stdout and "worker-0" in down.stdout
        service.start()
        again = service.until(service.all_running)
        assert set(again) == set(pids) and not set(again.values()) & set(pids.values())


def test_a_second_supervisor_on_the_same_state_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        second = service.ctl("run")
        assert second.returncode == 1
        assert "held by another process" in second.stderr
        assert service.all_running()


def test_sigterm_stops_everything_in_order_hands_the_trial_back_and_exits_0(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        service.until(lambda: "step" in service.child("worker-0")["note"])
        pids = service.pids()
        began_s = time.monotonic()
        service.daemon.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
        assert service.daemon.wait(50) == 0  # type: ignore[union-attr]
        assert time.monotonic() - began_s < 50
        assert not any(alive(p) for p in pids.values())
        ended = [e["name"] for e in service.log() if e["event"] == "child.exited"]
        assert ended[-1] == "paper_trader" and len(ended) == 4
        trial = json.loads((tmp_path / "trials" / "t" / "0" / "trial.json").read_bytes())
        assert trial["failure"] == "stopped" or trial["state"] == "COMPLETE"
        assert service.ctl("status").returncode == 4
        assert not (tmp_path / "run" / "control.sock").exists()


def test_an_operator_stops_starts_pauses_and_resumes(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        assert service.ctl("pause").returncode == 0
        service.until(lambda: service.child("worker-0")["pid"] is None)
        assert service.child("paper_trader")["pid"]
        assert service.child("worker-0")["state"] == "stopped"
        assert service.ctl("resume").returncode == 0
        service.until(lambda: service.child("worker-0")["pid"])
        pid = service.child("janitor")["pid"]
        assert service.ctl("restart", "janitor").returncode == 0
        service.until(lambda: service.child("janitor")["pid"] not in (None, pid))
        wrong = service.ctl("restart", "worker-9")
        assert wrong.returncode == 1
        assert "no child is called 'worker-9'" in wrong.stderr and "worker-0" in wrong.stderr
        assert service.ctl("stop").returncode == 0
        assert service.daemon.wait(50) == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[study]\nworker = 2\n", "unknown key study.worker"), ("[studdy]\n", "unknown section [studdy]"),
        ("[study]\nworkers = 'two'\n", "study.workers must be of type int"), ("[study\n", "is not valid"),
        ("[costs]\nfee_bps = -1.0\n", "costs.fee_bps must not be negative"),
        ("[allocation]\nmax_weight = 7.0\n", "allocation.max_weight must be between 0 and 1"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused_by_name_with_exit_78_and_starts_nothing(
    tmp_path: Path, text: str, words: str
) -> None:
    service = Service(tmp_path, settings())
    service.given = tmp_path / "wrong.toml"
    service.given.write_text(text)
    done = service.ctl("run")
    assert done.returncode == 78
    assert words in done.stderr
    assert not (tmp_path / "run").exists()


def test_what_is_asked_of_a_trader_that_waits_for_a_bar_shows_at_once(tmp_path: Path) -> None:
    """The simulated market has ended and the clock is live: no bar comes, and the account is there all the same."""
    service = Service(tmp_path, settings(paper={"clock": "live", "replay_start_utc": ""}, study={"workers": 0}))
    service.start()
    try:
        service.until(lambda: (service.status()["paper"] or {}).get("waiting"))
        assert "nothing is decided: no bar for" in service.ctl("status").stdout
        assert service.ctl("pause", "trading").returncode == 0
        service.until(lambda: service.status()["paper"]["state"] == "paused", within_s=10)
        assert service.ctl("resume", "trading").returncode == 0
        service.until(lambda: service.status()["paper"]["state"] != "paused", within_s=10)
    finally:
        service.daemon.terminate()  # type: ignore[union-attr]
        service.daemon.wait(50)  # type: ignore[union-attr]


def test_a_child_whose_configuration_is_wrong_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    """The file for the trader's market is missing a column: the trader is fatal, `status` is 2, the janitor runs."""
    broken = settings(paper={"replay_start_utc": "2020-01-01T00:00:00Z"})
    service = Service(tmp_path, broken)
    service.start()
    try:
        service.until(lambda: service.status()["children"] and service.child("paper_trader")["state"] == "fatal")
        done = service.ctl("status")
        assert done.returncode == 2
        service.until(
            lambda: service.child("janitor")["pid"]
        )  # children start one a second: it may come after the fall
        assert "choose a later paper.replay_start_utc" in (tmp_path / "logs" / "paper_trader.out").read_text()
        assert service.child("paper_trader")["restarts"] == 0
    finally:
        service.daemon.terminate()  # type: ignore[union-attr]
        service.daemon.wait(50)  # type: ignore[union-attr]


def test_status_and_logs_answer_without_heavy_imports() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from daemon.cli import main; main(['status', '--state-dir', '/nonexistent']);"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in "
        "('torch', 'pandas', 'optuna', 'numpy', 'gymnasium', 'structlog', 'ccxt', 'psutil')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
