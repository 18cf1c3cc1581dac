"""The advisor as the child that the supervisor starts: what it reads anew while it runs."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from daemon.child.config import parse
from features.files import append_jsonl, write_atomic

BEGAN = datetime(2021, 1, 1, tzinfo=UTC)


def ran(state_dir: Path, number: int) -> None:
    """One trial of ten seconds, an hour after the one before."""
    at_utc = (BEGAN + timedelta(hours=number)).isoformat()
    append_jsonl(state_dir / "ledger.jsonl", {"event": "started", "study": "s", "number": number, "at_utc": at_utc})
    record = {
        "study": "s",
        "number": number,
        "state": "COMPLETE",
        "score": float(number),
        "parameters": {},
        "seconds": 10.0,
    }
    write_atomic(state_dir / "trials" / "s" / str(number) / "trial.json", json.dumps(record).encode())


def in_force(state_dir: Path, *, workers: int) -> Path:
    """As the supervisor writes it at its start and at every `scale`."""
    path, advisor = state_dir / "config.json", {"every_trials": 1, "poll_s": 0.2, "daily_at": ""}
    study = {"name": "s", "workers": workers, "target_trials": 5}
    write_atomic(path, parse({"study": study, "advisor": advisor}).to_json().encode())
    return path


def test_the_notes_count_the_workers_that_there_are_after_a_scale(tmp_path: Path) -> None:
    def report(n_trials: int) -> dict[str, Any]:
        latest, deadline_s = tmp_path / "advice" / "latest.json", time.monotonic() + 60
        while time.monotonic() < deadline_s and child.poll() is None:
            if latest.exists() and (record := json.loads(latest.read_bytes()))["n_complete"] == n_trials:
                return dict(record)
            time.sleep(0.1)
        raise AssertionError(f"no report on {n_trials} trials")

    for number in range(5):
        ran(tmp_path, number)
    command = [sys.executable, "-P", "-m", "daemon.advisor", "--config", str(in_force(tmp_path, workers=2))]
    child = subprocess.Popen([*command, "--state-dir", str(tmp_path)])
    try:
        (before,) = report(5)["operations"]["notes"]
        assert "2 workers spent" in before
        in_force(tmp_path, workers=4)
        ran(tmp_path, 5)
        (after,) = report(6)["operations"]["notes"]
        assert "4 workers spent" in after
    finally:
        child.kill()
        child.wait()
