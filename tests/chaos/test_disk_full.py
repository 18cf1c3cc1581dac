"""Real programs on a disk that fills up under them: they halt, wait, and go on by themselves when there is room."""

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from desk import books, opened, started, trader
from mounts import KINDS, fill, mounted
from service import running
from service import settings as service_settings
from test_worker import records
from test_worker import settings as study_settings

from features.errors import DataError
from features.files import read_jsonl, write_atomic
from paper_trader.journal import Journal
from trainer.ledger import TrialLedger

pytestmark = pytest.mark.chaos


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with mounted(request.param, tmp_path / "disk", size_mib=24) as place:
        yield place


def until(what: Callable[[], Any], *, within_s: float = 60.0) -> Any:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if value := what():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {within_s} s")


@contextlib.contextmanager
def ours(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Whatever happens, it does not outlive its disk."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def marks(state_dir: Path) -> int:
    try:
        journal = Journal(state_dir / "paper" / "journal.db", read_only=True)
    except DataError:  # there is none yet, or it is just being made
        return 0
    try:
        return journal.counts()["marks"]
    except sqlite3.OperationalError:  # its tables are just being made
        return 0
    finally:
        journal.close()


def test_a_trader_on_a_full_disk_sends_nothing_stays_alive_and_ends_like_one_that_never_was(
    disk: Path, tmp_path: Path
) -> None:
    undisturbed = tmp_path / "undisturbed"
    config = opened(undisturbed, replay_bars_per_s=40.0)
    shutil.copytree(undisturbed, disk, dirs_exist_ok=True)
    with ours(started(config, disk)) as process:
        for at_bar in (20, 60, 61, 120):
            until(lambda at=at_bar: marks(disk) > at)
            filler = fill(disk)
            time.sleep(2.5)
            stopped_at, orders = marks(disk), len(books(disk)["orders"])
            time.sleep(2.0)
            assert process.poll() is None  # it halts, it does not crash
            assert marks(disk) == stopped_at and len(books(disk)["orders"]) == orders
            filler.unlink()
            until(lambda at=stopped_at: marks(disk) > at)
        process.wait(timeout=60)
    assert process.returncode == 0
    trader(config, undisturbed).run()
    assert books(disk) == books(undisturbed)
    (log,) = (disk / "logs").glob("*.jsonl")
    text = log.read_text()  # the file may hold parts of records that did not fit
    assert '"event": "log.dropped"' in text or '"event": "trader.disk_full"' in text


def test_a_trader_told_to_stop_on_a_full_disk_stops(disk: Path) -> None:
    config = opened(disk, replay_bars_per_s=40.0)
    with ours(started(config, disk)) as process:
        until(lambda: marks(disk) > 20)
        fill(disk)
        time.sleep(2.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0


def test_a_worker_on_a_full_disk_waits_and_loses_neither_a_trial_nor_a_line_of_the_ledger(disk: Path) -> None:
    config = study_settings(target_trials=4, train_steps=4000)
    write_atomic(disk / "config.json", config.to_json().encode())
    command = [
        sys.executable,
        "-P",
        "-m",
        "trainer",
        "work",
        "--config",
        str(disk / "config.json"),
        "--name",
        "worker-0",
    ]
    with ours(subprocess.Popen([*command, "--state-dir", str(disk)], stderr=subprocess.PIPE)) as process:
        for ended in (0, 1, 2):
            until(lambda n=ended: len(records(disk)) > n, within_s=120.0)
            filler = fill(disk)
            time.sleep(6.0)
            assert process.poll() is None
            filler.unlink()
        assert process.wait(timeout=240) == 0
    assert [r["state"] for r in records(disk)] == ["COMPLETE"] * 4
    ledger = TrialLedger(disk / "ledger.jsonl").records()  # hashes and order are checked
    assert [r["event"] for r in ledger] == ["started", "ended"] * 4
    text = (disk / "logs" / "worker-0.jsonl").read_text()
    assert '"event": "log.dropped"' in text or '"event": "worker.disk_full"' in text  # it did try to write meanwhile


def test_the_janitor_sees_the_disk_fill_up_gives_the_reserve_back_and_makes_it_anew_by_itself(disk: Path) -> None:
    room = {"poll_s": 0.2, "every_s": 600.0, "reserve_bytes": 1_000_000, "floor_free_bytes": 3_000_000}
    room |= {"resume_free_bytes": 5_000_000, "warn_free_bytes": 6_000_000, "backup_every_s": 1e6}
    write_atomic(disk / "config.json", json.dumps({"janitor": room}).encode())
    write_atomic(disk / "logs" / "worker-0.jsonl.1", b"x" * 500_000)
    command = [
        sys.executable,
        "-P",
        "-m",
        "daemon.janitor",
        "--config",
        str(disk / "config.json"),
        "--state-dir",
        str(disk),
    ]
    reserve, floor = disk / "reserve", disk / "run" / "disk_floor"
    with ours(subprocess.Popen(command, stderr=subprocess.PIPE)) as process:
        until(reserve.exists)
        for _ in range(3):
            filler = fill(disk)
            until(lambda: floor.exists() and not reserve.exists(), within_s=5.0)
            fill(disk)  # whoever filled it takes that as well
            time.sleep(2.0)
            assert process.poll() is None
            filler.unlink()
            until(lambda: reserve.exists() and not floor.exists(), within_s=10.0)
        assert not (disk / "logs" / "worker-0.jsonl.1").exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    audit = [r.get("freed") or r["deleted"] for r in read_jsonl(disk / "janitor-audit.jsonl")]
    assert audit.count("./reserve") == 3 and audit.count("logs/worker-0.jsonl.1") == 1


def test_the_whole_service_survives_a_full_disk_without_a_hand(disk: Path) -> None:
    """Supervisor, workers, trader, janitor and advisor on one small disk: full for 25 s, then not."""
    janitor = {"poll_s": 0.5, "every_s": 5.0, "reserve_bytes": 500_000, "backup_every_s": 1e6}
    janitor |= {"floor_free_bytes": 2_000_000, "resume_free_bytes": 3_000_000, "warn_free_bytes": 3_500_000}
    with running(disk, service_settings(janitor=janitor, paper={"replay_bars_per_s": 2.0})) as service:
        before = service.all_running()
        filler = fill(disk)
        time.sleep(25.0)
        status = service.status()
        assert not {c["name"]: c["state"] for c in status["children"] if c["state"] in ("fatal", "backoff")}
        assert service.daemon is not None and service.daemon.poll() is None
        filler.unlink()
        stopped_at = marks(disk)
        service.until(lambda: marks(disk) > stopped_at and not (disk / "run" / "disk_floor").exists())
        assert service.until(service.all_running) == before  # nobody had to be started anew
        assert service.ctl("stop").returncode == 0
        assert service.daemon.wait(timeout=50) == 0
    verified = service.ctl("verify")
    assert verified.returncode == 0 and "0 mismatches" in verified.stdout
