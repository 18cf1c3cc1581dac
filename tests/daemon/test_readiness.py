"""What the supervisor tells systemd, and when."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stage import Stage, close

BOTH = {"worker": ("work", ""), "paper_trader": ("work", "")}


def test_systemd_is_told_when_it_is_ready_alive_reloading_and_stopping(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20.0)
        stage = Stage(tmp_path, {"paper_trader": ("work", "")})
        try:
            stage.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="600000")
            said = hear(systemd, "READY=1")
            assert stage.all_beating
            assert any("WATCHDOG=1" in s for s in [*said, *hear(systemd, "WATCHDOG=1")])
            began_s = time.monotonic()
            for _ in range(5):
                hear(systemd, "WATCHDOG=1")
            assert time.monotonic() - began_s < 10.0
            assert stage.process is not None
            stage.process.send_signal(signal.SIGHUP)
            assert "MONOTONIC_USEC=" in hear(systemd, "RELOADING=1")[-1]
            hear(systemd, "READY=1")
            stage.process.send_signal(signal.SIGSTOP)
            time.sleep(0.3)
            systemd.setblocking(False)
            while True:
                try:
                    systemd.recv(4096)
                except BlockingIOError:
                    break
            systemd.settimeout(1.5)
            with pytest.raises(TimeoutError):  # a loop that stands still does not say that it is alive
                systemd.recv(4096)
            stage.process.send_signal(signal.SIGCONT)
            systemd.settimeout(20.0)
            stage.process.terminate()
            hear(systemd, "STOPPING=1")
            assert stage.process.wait(20) == 0
            environment = Path("/proc/self/environ").read_text()
            assert "NOTIFY_SOCKET" not in environment
        finally:
            close(stage)


@pytest.mark.slow
def test_starts_that_take_long_one_after_the_other_are_no_reason_for_systemd_to_give_up(tmp_path: Path) -> None:
    """Its patience is TimeoutStartSec=120; two children a minute apart would take a third of an hour for 20 of them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20.0)
        stage = Stage(tmp_path, BOTH, study={"workers": 1}, daemon={"spawn_pace_s": 90.0})
        try:
            began_s = time.monotonic()
            stage.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="6000000")
            while time.monotonic() < began_s + 60.0 and not any("READY=1" in s for s in hear(systemd, "=1")):
                pass
            assert 25.0 < time.monotonic() - began_s < 40.0 and list(stage.pids()) == ["paper_trader"]
        finally:
            close(stage)


def test_a_systemd_that_no_longer_reads_holds_up_nobody(tmp_path: Path) -> None:
    """Frozen after a crash of its own, say: the queue of its socket fills, and a full one makes a sender wait for ever."""
    code = (
        "import sys, time\nfrom daemon.notify import Notifier\nn, slow = Notifier(sys.argv[1]), 0\n"
        "while slow < 3:\n    began_s = time.monotonic()\n    n.send('WATCHDOG=1')\n"
        "    slow += time.monotonic() - began_s > 0.1\n"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as frozen:
        frozen.bind(str(tmp_path / "notify"))
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "notify")], timeout=20, check=False)
    assert done.returncode == 0


def hear(server: socket.socket, words: str) -> list[str]:
    """Messages up to the first that holds the words."""
    heard = []
    while not heard or words not in heard[-1]:
        heard.append(server.recv(4096).decode())
    return heard
