"""The notifier as a real process against a real web server: what arrives, what does not, and what never leaks."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mounts import fill, mounted
from service import Service, settings
from webhook import webhook

from daemon.child.config import parse
from daemon.notifier.follow import LogFollower
from daemon.notifier.messages import TOLD, message_of
from features.files import write_atomic

SECRET, PING_SECRET = "hunter2-very-secret-token", "hunter3-ping-uuid"


def set_up(state_dir: Path, urls: str, *, ping: str = "", **notify: Any) -> Path:
    secrets = state_dir / "secrets"
    secrets.mkdir()
    for name, text in (("notify_urls", urls), ("ping_url", ping)):
        if text:
            (secrets / name).write_text(text)
            (secrets / name).chmod(0o600)
    config = parse({"run": {"credentials_dir": str(secrets)}, "notify": {"enabled": True, **notify}})
    write_atomic(state_dir / "config.json", config.to_json().encode())
    (state_dir / "logs").mkdir(exist_ok=True)
    return state_dir / "config.json"


@contextmanager
def notifier(state_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-P", "-m", "daemon.notifier", "--config", str(state_dir / "config.json")]
    with (state_dir / "notifier.out").open("ab") as out:
        child = subprocess.Popen([*command, "--state-dir", str(state_dir)], stdout=out, stderr=out)
    try:
        until(lambda: (state_dir / "run" / "notified.json").exists() or child.poll() is not None)
        yield child
    finally:
        child.kill()
        child.wait()


def until(what: Callable[[], Any], *, within_s: float = 30.0) -> Any:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if value := what():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {within_s} s")


def write(state_dir: Path, event: str, *, log: str = "supervisor", **facts: Any) -> None:
    with (state_dir / "logs" / f"{log}.jsonl").open("a") as file:
        file.write(json.dumps({"event": event, "level": "info", **facts}) + "\n")


def alive(state_dir: Path, *, age_s: float = 0.0) -> None:
    written = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    write_atomic(state_dir / "status.json", json.dumps({"schema": 1, "daemon": {"written_utc": written}}).encode())


def everything_written(state_dir: Path) -> str:
    files = [p for p in state_dir.rglob("*") if p.is_file() and "secrets" not in p.parts]
    return "\n".join(p.read_text(errors="replace") for p in files)


def test_a_child_given_up_is_told_within_seconds_and_yesterday_is_not(tmp_path: Path) -> None:
    with webhook() as hook:
        set_up(tmp_path, hook.url(SECRET))
        yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
        write(tmp_path, "child.fatal", name="yesterday", reason="restarts", ts=yesterday)
        with notifier(tmp_path):
            began_s = time.monotonic()
            write(tmp_path, "child.fatal", name="worker-0", reason="restarts")
            until(lambda: hook.posts)
            took_s = time.monotonic() - began_s
            write(tmp_path, "trader.halted", log="paper_trader", reason="drawdown 0.4")
            until(lambda: len(hook.posts) == 2)
            write(tmp_path, "trader.losing", log="paper_trader", against="equal_weight", false_alarm=0.01)
            until(lambda: len(hook.posts) == 3)
    assert took_s < 10
    first, second, third = hook.posts
    assert "worker-0 was given up (restarts)" in first["title"] and first["type"] == "failure"
    assert first["path"] == f"/{SECRET}"
    assert "halted: drawdown 0.4" in second["title"] and "rearm" in second["message"]
    assert "loses against 1/N beyond chance" in third["title"] and third["type"] == "warning"


def test_what_happened_while_the_notifier_was_dead_is_told_when_it_is_back_and_once(tmp_path: Path) -> None:
    with webhook() as hook:
        set_up(tmp_path, hook.url(SECRET))
        with notifier(tmp_path):
            write(tmp_path, "child.fatal", name="one")
            until(lambda: hook.posts)
        write(tmp_path, "child.fatal", name="two")
        (tmp_path / "logs" / "supervisor.jsonl").rename(tmp_path / "logs" / "supervisor.jsonl.1")
        write(tmp_path, "child.fatal", name="three")
        with notifier(tmp_path):
            until(lambda: len(hook.posts) >= 2)
            time.sleep(2.5)
    told = " ".join(p["title"] + p["message"] for p in hook.posts)
    assert [told.count(f"{name} was given up") for name in ("one", "two", "three")] == [1, 1, 1], told


def test_what_is_logged_after_a_power_cut_is_told_although_lines_before_it_are_gone(tmp_path: Path) -> None:
    """How far the log was read is on the disk, its last lines are not: it ends before the place that is remembered."""

    def ago(hours: float) -> str:
        return (datetime.now(UTC) - timedelta(hours=hours)).isoformat()

    with webhook() as hook:
        set_up(tmp_path, hook.url(SECRET), at_least="fail")
        log = tmp_path / "logs" / "supervisor.jsonl"
        with notifier(tmp_path):
            write(tmp_path, "daemon.started", ts=ago(30), pad="x" * 1000)
            kept = log.stat().st_size
            for n in range(20):
                write(tmp_path, "child.forgiven", ts=ago(29), n=n)
            write(tmp_path, "child.fatal", name="one", ts=ago(0))
            until(lambda: hook.posts)
        for appended in (("two",), tuple(f"three-{n}" for n in range(40))):  # shorter than before, then longer again
            os.truncate(log, kept)
            for name in appended:
                write(tmp_path, "child.fatal", name=name, ts=ago(0))
            with notifier(tmp_path):
                until(
                    lambda name=appended[0]: any(
                        f"{name} was given up" in p["title"] + p["message"] for p in hook.posts
                    )
                )
    told = " ".join(p["title"] + p["message"] for p in hook.posts)
    assert "service started" not in told  # of yesterday


def test_that_the_disk_is_full_is_told_although_the_notifier_cannot_write_either(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "disk", size_mib=4) as disk, webhook() as hook:
        set_up(disk, hook.url(SECRET))
        with notifier(disk) as process:
            write(disk, "child.fatal", name="one")
            until(lambda: hook.posts)
            filler = fill(disk)
            write(disk, "child.fatal", name="two")  # fits into the page that the first one began
            until(lambda: len(hook.posts) == 2 or process.poll() is not None)
            assert process.poll() is None
            filler.unlink()
            write(disk, "child.fatal", name="three")
            until(lambda: len(hook.posts) == 3)
        with notifier(disk):  # which has been told how far everything was read
            time.sleep(2.5)
    told = " ".join(p["title"] for p in hook.posts)
    assert [told.count(f"{name} was given up") for name in ("one", "two", "three")] == [1, 1, 1], told


def test_a_storm_of_500_is_a_handful_of_messages_that_say_how_many(tmp_path: Path) -> None:
    with webhook() as hook:
        set_up(tmp_path, hook.url(SECRET), burst=2)
        with notifier(tmp_path):
            with (tmp_path / "logs" / "supervisor.jsonl").open("a") as file:
                file.write('{"event": "child.hung", "name": "worker-0", "silent_s": 120}\n' * 500)
            until(lambda: hook.posts)
            time.sleep(3)
    assert len(hook.posts) <= 2
    assert "500 events" in hook.posts[0]["title"] and "400 more" in hook.posts[0]["message"]


def test_a_service_that_fails_is_tried_again_and_no_secret_is_written_anywhere(tmp_path: Path) -> None:
    with webhook() as hook:
        hook.status = 500
        set_up(tmp_path, hook.url(SECRET), ping=hook.ping_url(PING_SECRET), ping_every_s=1.0)
        alive(tmp_path)
        with notifier(tmp_path) as child:
            write(tmp_path, "trader.halted", reason="drawdown")
            until(lambda: "notify.failed" in everything_written(tmp_path))
            until(lambda: "notify.ping_failed" in everything_written(tmp_path))
            assert child.poll() is None
        written = everything_written(tmp_path)
        assert SECRET not in written and PING_SECRET not in written, written
        assert '"services": "json"' in written and "HTTP 500" in written


def test_a_service_that_hangs_holds_up_nobody_but_the_notifier(tmp_path: Path) -> None:
    """The supervisor's side of it: nothing here waits for the notifier, which reads files and is asked for nothing."""
    with webhook() as hook:
        hook.delay_s = 3.0
        set_up(tmp_path, hook.url(SECRET))
        with notifier(tmp_path):
            for k in range(50):
                began_s = time.monotonic()
                write(tmp_path, "child.fatal", name=f"worker-{k}")
                assert time.monotonic() - began_s < 1.0
            until(lambda: hook.posts)


def test_the_ping_stops_when_the_supervisor_has_nothing_new_to_say(tmp_path: Path) -> None:
    with webhook() as hook:
        set_up(tmp_path, hook.url(SECRET), ping=hook.ping_url(PING_SECRET), ping_every_s=1.0)
        alive(tmp_path)
        with notifier(tmp_path):
            until(lambda: len(hook.pings) >= 2)
            alive(tmp_path, age_s=40.0)
            time.sleep(1.5)
            before = len(hook.pings)
            time.sleep(3.0)
            assert len(hook.pings) == before
            alive(tmp_path)
            until(lambda: len(hook.pings) > before)
    assert {path for _, path in hook.pings} == {f"/{PING_SECRET}"}


def test_it_stops_at_once_when_asked(tmp_path: Path) -> None:
    with webhook() as hook:
        set_up(tmp_path, hook.url(SECRET))
        with notifier(tmp_path) as child:
            child.send_signal(signal.SIGTERM)
            assert child.wait(10) == 0


def ctl(state_dir: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "daemon", *words, "--config", str(state_dir / "config.json")]
    return subprocess.run(
        [*command, "--state-dir", str(state_dir)], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )  # fmt: skip


def test_notify_test_tells_everybody_now_and_says_who_refused(tmp_path: Path) -> None:
    with webhook() as hook:
        set_up(tmp_path, f"{hook.url(SECRET)},json://127.0.0.1:9/{SECRET}?cto=1", ping=hook.ping_url(PING_SECRET))
        done = ctl(tmp_path, "notify", "--test")
        assert done.returncode == 1 and "1 of 2 services told; refused by json" in done.stdout, done.stderr
        assert "ping: ok" in done.stdout and SECRET not in done.stdout + done.stderr
        assert "this is a test" in hook.posts[0]["title"]
        (tmp_path / "secrets" / "notify_urls").write_text(hook.url(SECRET))
        assert json.loads(ctl(tmp_path, "notify", "--json").stdout) == {"services": 1, "refused": [], "ping": "ok"}


def test_a_credential_from_systemd_comes_before_the_file(tmp_path: Path) -> None:
    with webhook() as hook:
        set_up(tmp_path, "json://127.0.0.1:9/wrong?cto=1")
        (tmp_path / "given").mkdir()
        (tmp_path / "given" / "notify_urls").write_text(hook.url(SECRET))
        done = ctl(tmp_path, "notify", CREDENTIALS_DIRECTORY=str(tmp_path / "given"))
        assert done.returncode == 0 and hook.posts, done.stderr


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        ("", "there is no credential notify_urls"),
        (f"bogus://{SECRET}", "address 1 in notify_urls is not understood (scheme bogus)"),
        (f"json://127.0.0.1:1,{SECRET}", "address 2 in notify_urls is not understood (scheme none)"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_exit_78_and_is_not_repeated(tmp_path: Path, urls: str, words: str) -> None:
    set_up(tmp_path, urls)
    done = ctl(tmp_path, "notify")
    assert done.returncode == 78 and words in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    set_up(tmp_path, "json://127.0.0.1:1")
    (tmp_path / "secrets" / "notify_urls").chmod(0o644)
    done = ctl(tmp_path, "notify")
    assert done.returncode == 78 and "chmod 600" in done.stderr


def test_every_line_is_read_once_across_rotations_and_torn_lines_wait(tmp_path: Path) -> None:
    logs, seen, number = tmp_path / "logs", list[int](), 0
    logs.mkdir()
    path = logs / "a.jsonl"
    follower = LogFollower(logs, tmp_path / "memory.json")
    for turn in range(60):
        with path.open("a") as file:
            for _ in range(turn % 7):
                file.write(json.dumps({"n": number}) + "\n")
                number += 1
            if turn % 5 == 0:
                file.write('{"n": ')  # the rest of the line is not there yet
        if turn % 3 == 0:
            seen += [r["n"] for r in follower.new()]
        if turn % 5 == 0:
            with path.open("a") as file:
                file.write(f"{number}" + "}\n")
                number += 1
        if turn % 4 == 0:
            if (logs / "a.jsonl.1").exists():
                (logs / "a.jsonl.1").rename(logs / "a.jsonl.2")
            path.rename(logs / "a.jsonl.1")
        if turn % 11 == 0:
            follower.remember()
            follower = LogFollower(logs, tmp_path / "memory.json")
        if turn % 2 == 0:
            seen += [r["n"] for r in follower.new()]
    seen += [r["n"] for r in follower.new()]
    assert seen == list(range(number))


@pytest.mark.parametrize(("disk", "held"), [(".", True), ("artifacts", True), ("trials", True), ("paper", False)])
def test_only_a_full_disk_that_trials_write_to_is_said_to_hold_them_back(disk: str, *, held: bool) -> None:
    told = message_of({"event": "janitor.disk", "space": "floor", "disk": disk, "free_bytes": 10**8})
    assert told is not None and told.level == "fail" and ("no new trials" in told.title) is held


def test_every_event_that_is_told_is_an_event_that_exists() -> None:
    listed = Path(__file__).resolve().parents[2] / "docs" / "events.md"
    if not listed.exists():
        pytest.skip("the list of events is not there yet")
    names = {line.split("`")[1] for line in listed.read_text().splitlines() if line.startswith("| `")}
    assert not TOLD - names


def test_the_supervisor_runs_the_notifier_when_asked_to_and_it_tells_of_a_child_given_up(tmp_path: Path) -> None:
    """The whole way: a trader whose configuration is wrong is given up, and the web server of ours hears of it."""
    with webhook() as hook:
        set_up(tmp_path, hook.url(SECRET))
        broken = settings(
            paper={"replay_start_utc": "2020-01-01T00:00:00Z"}, study={"workers": 0}, notify={"enabled": True},
            run={"credentials_dir": str(tmp_path / "secrets")},
        )  # fmt: skip
        service = Service(tmp_path, broken)
        service.start()
        assert service.daemon is not None
        try:
            service.until(lambda: any("paper_trader was given up" in p["title"] + p["message"] for p in hook.posts))
            assert service.child("notifier")["state"] == "running"
        finally:
            service.daemon.terminate()
            assert service.daemon.wait(50) == 0
