"""The user unit under a real user manager of systemd, in a mount namespace of its own: nothing of this machine's is touched."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.systemd
CONFIG = """
[market]
source = "simulated"
[study]
workers = 0
[paper]
clock = "replay"
replay_start_utc = "2021-06-01T00:00:00Z"
replay_bars_per_s = 5.0
[janitor]
warn_free_bytes = 3000
resume_free_bytes = 2000
floor_free_bytes = 1000
"""
SCRIPT = r"""
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system /run/xdg && chmod 700 /run/xdg || exit 77
export XDG_RUNTIME_DIR=/run/xdg
"$1" --user & manager=$!
trap 'systemctl --user stop cappuccino; kill $manager; wait $manager' EXIT
for _ in $(seq 100); do systemctl --user list-units > /dev/null 2>&1 && break; sleep 0.1; done
systemctl --user list-units > /dev/null 2>&1 || exit 77
state() { systemctl --user show cappuccino -p ActiveState,NRestarts --value | tr '\n' ' '; }
set -e
"$2" -P -m daemon install-service --user --config "$3" > /dev/null
systemctl --user daemon-reload
systemctl --user start cappuccino
"$2" -P -m daemon stop --wait > /dev/null
sleep 4
echo "asked: $(state)"
systemctl --user start cappuccino
kill -9 $(systemctl --user show cappuccino -p MainPID --value)
sleep 4
echo "killed: $(state)"
"""


def test_a_daemon_that_was_asked_to_stop_stays_stopped_and_one_that_was_killed_comes_back(tmp_path: Path) -> None:
    manager = shutil.which("systemd", path="/usr/lib/systemd:/lib/systemd")
    if os.geteuid() != 0 or manager is None or shutil.which("unshare") is None:
        pytest.skip("root, systemd and unshare are needed")
    (tmp_path / "given.toml").write_text(CONFIG)
    (tmp_path / "try.sh").write_text(SCRIPT)
    words = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "bash",
        str(tmp_path / "try.sh"),
        manager,
        sys.executable,
    ]
    done = subprocess.run(
        [*words, str(tmp_path / "given.toml")], capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")},
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(f"no user manager can be started here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ") for line in done.stdout.splitlines() if ": " in line)
    assert said["asked"].split() == ["0", "inactive"], done.stdout
    assert said["killed"].split() in (["1", "active"], ["1", "activating"]), done.stdout
