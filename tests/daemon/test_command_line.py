"""`cappuccinoctl` as it is typed: help, wrong words, and what goes to which stream."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from service import settings

from daemon.child.clock import SystemClock
from daemon.child.config import parse
from daemon.cli import VERBS
from daemon.history import History
from features.files import write_atomic


def ctl(*words: str, state_dir: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "daemon", *words, "--state-dir", str(state_dir)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd or state_dir, timeout=120,
        env={**os.environ, "HOME": str(state_dir)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("staus",), "'staus' is no verb (did you mean status?)"), (("--version",), "the verb comes first"),
        (("logs", "--state-dir", "{file}"), "is no directory"), (("trials", "--state-dir", "{file}"), "is no directory"),
    ],
)  # fmt: skip
def test_what_is_no_verb_and_what_is_no_directory_is_wrong_usage(
    words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-P", "-m", "daemon", *(w.format(file=tmp_path / "file") for w in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (64, "")
    assert says in done.stderr


@pytest.mark.parametrize(
    "verb", ["trials", "show", "report", "advise", "janitor", "validate", "events", "backup", "restore"]
)
def test_looking_at_what_is_not_there_makes_nothing(verb: str, tmp_path: Path) -> None:
    done = ctl(verb, *(["0"] if verb == "show" else []), state_dir=tmp_path / "typo", cwd=tmp_path)
    assert done.returncode == 78 and "there is nothing at" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["start", "restart", "retry"])
def test_a_verb_for_one_child_without_its_name_is_wrong_usage(verb: str, tmp_path: Path) -> None:
    done = ctl(verb, state_dir=tmp_path)
    assert (done.returncode, done.stdout) == (64, "") and "which CHILD?" in done.stderr


@pytest.mark.parametrize("verb", ["status", "logs", "events", "doctor", "trials", "stop", "backup", "janitor"])
def test_what_is_closed_to_this_user_is_said_in_one_line_with_the_way_out(verb: str, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    write_atomic(state_dir / "config.json", parse(settings()).to_json().encode())
    write_atomic(state_dir / "logs" / "supervisor.jsonl", b"{}\n")
    state_dir.chmod(0)
    without = "--bounding-set=-dac_override,-dac_read_search"  # what lets root look into everything
    as_anybody = ["setpriv", without, without.replace("bounding-set", "inh-caps")] if os.geteuid() == 0 else []
    options = ["--offline"] if verb == "doctor" else []
    command = [*as_anybody, sys.executable, "-P", "-m", "daemon", verb, *options, "--state-dir", str(state_dir)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    finally:
        state_dir.chmod(0o700)
    assert done.returncode == 1 and done.stderr.endswith("or as root)\n"), done.stderr
    assert done.stderr.count("\n") == 1 and str(state_dir) in done.stderr


def test_a_damaged_history_is_said_with_its_remedy(tmp_path: Path) -> None:
    for content in (b"no database at all, whatever its name", b""):
        (tmp_path / "supervisor.db").write_bytes(content)
        for words in ((), ("--crash",)):
            done = ctl("events", *words, state_dir=tmp_path)
            assert done.returncode == 3 and done.stdout == ""
            assert "supervisor.db cannot be read" in done.stderr and "move it away" in done.stderr


def test_what_is_no_directory_cannot_hold_a_state(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file", "file/state"):
        command = [sys.executable, "-P", "-m", "daemon", "run", "--set", f"run.state_dir={tmp_path}/{place}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr.count("\n")) == (78, 1) and "is no directory" in done.stderr, done.stderr


def test_nothing_is_no_backup(tmp_path: Path) -> None:
    done = ctl("backup", state_dir=tmp_path)
    assert (done.returncode, done.stdout) == (1, "") and "there is nothing to back up" in done.stderr
    assert not (tmp_path / "backups").exists() or not list((tmp_path / "backups").iterdir())


def test_a_log_that_was_just_rotated_is_shown_with_what_stood_before(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "worker-0.jsonl"
    write_atomic(log.with_name("worker-0.jsonl.1"), b'{"event": "one"}\n{"event": "two"}\n3\n\xff\n')
    assert [line.split()[0] for line in ctl("logs", "worker-0", state_dir=tmp_path).stdout.splitlines()][:2] == [
        "one",
        "two",
    ]
    write_atomic(log, b'{"event": "three"}\n')
    said = ctl("logs", "worker-0", "-n", "4", "--json", state_dir=tmp_path).stdout.splitlines()
    assert said[0] == '{"event": "two"}' and said[-1] == '{"event": "three"}' and len(said) == 4
    assert ctl("logs", "worker-0", "-n", "1", "--json", state_dir=tmp_path).stdout == '{"event": "three"}\n'


def test_a_state_directory_may_be_spelt_with_the_signs_of_an_address(tmp_path: Path) -> None:
    state_dir = tmp_path / "50%20of#1?x=y"
    with History(state_dir / "supervisor.db", now_utc=SystemClock().now_utc) as history:
        history.begin(boot_id="b", pid=1)
        history.event("child.spawned", "janitor", {})
    assert "child.spawned" in ctl("events", state_dir=state_dir, cwd=tmp_path).stdout
    assert "supervisor.db" in ctl("backup", state_dir=state_dir, cwd=tmp_path).stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_verb_reaches_the_program_that_performs_it(number: signal.Signals, tmp_path: Path) -> None:
    """A worker in the foreground hands its trial back, also when the terminal sends its whole group a SIGINT."""
    config = parse(settings(study={"train_steps": 3_000_000}))
    write_atomic(tmp_path / "config.json", config.to_json().encode())
    command = [sys.executable, "-P", "-m", "daemon", "train", "--state-dir", str(tmp_path)]
    with (tmp_path / "train.out").open("wb") as out:
        train = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        trial, deadline_s = tmp_path / "trials" / "t" / "0" / "trial.json", time.monotonic() + 60
        while not trial.exists() and time.monotonic() < deadline_s:
            time.sleep(0.1)
        (os.killpg if number == signal.SIGINT else os.kill)(train.pid, number)
        assert train.wait(60) == 0, (tmp_path / "train.out").read_text()
        record = json.loads(trial.read_bytes())
        assert (record["state"], record["failure"]) == ("FAIL", "stopped")
        assert not psutil.pid_exists(train.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(train.pid, signal.SIGKILL)


@pytest.mark.parametrize("verb", VERBS)
def test_an_option_that_no_verb_has_is_wrong_usage_and_named_in_one_line(verb: str, tmp_path: Path) -> None:
    words = {"start": ["worker-0"], "scale": ["2"], "data": ["show"], "features": ["list"], "drill": ["kill-switch"]}
    words |= {v: ["0"] for v in ("show", "export", "backtest", "promote", "import-study", "restore")}
    done = ctl(verb, *words.get(verb, []), "--zap", state_dir=tmp_path)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"cappuccinoctl {verb}: ") and "--zap" in done.stderr


@pytest.mark.parametrize(
    ("verb", "own"),
    [
        ("trials", "--top"), ("show", "trial"), ("backtest", "--fee-bps"), ("orders", "--last"), ("verify", "--since"),
        ("advise", "--claims"), ("janitor", "--dry-run"), ("notify", "--test"), ("doctor", "--offline"),
    ],
)  # fmt: skip
def test_the_help_of_a_verb_names_its_own_options_and_the_common_ones(verb: str, own: str, tmp_path: Path) -> None:
    done = ctl(verb, "--help", state_dir=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: cappuccinoctl {verb} ")
    assert own in done.stdout and "--state-dir" in done.stdout and "--json" in done.stdout
    assert "--name" not in done.stdout  # of the children alone
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("show", "999"), "no study has a trial 999"), (("focus",), "at least 40 are needed"),
        (("promote", "nope"), "no verdict on nope"), (("orders",), "no paper journal"), (("paper",), "no paper account"),
        (("advice", "list"), "there is no study 't'"), (("restore", "nope"), "there is no backup"),
        (("logs", "nope"), "no log of 'nope'"), (("logs", "../config"), "no log of"),
        (("trials", "--study", "nope"), "there is no study 'nope'"),
        (("data", "verify"), "nothing of simulated"), (("data", "hash"), "nothing of simulated"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_said_on_stderr_alone_under_the_name_of_the_verb(
    words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    write_atomic(tmp_path / "config.json", parse(settings()).to_json().encode())
    done = ctl(*words, "--json", state_dir=tmp_path)
    assert done.returncode in (1, 78) and done.stdout == ""
    assert says in done.stderr and done.stderr.startswith("cappuccinoctl") and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", [("trials", "--top", "0"), ("orders", "--last", "-1"), ("logs", "-n", "0"), ("events", "--lines", "-3")]
)
def test_how_many_to_show_is_at_least_one(words: tuple[str, ...], tmp_path: Path) -> None:
    done = ctl(*words, state_dir=tmp_path)
    assert done.returncode == 64 and f"must be 1 or more, got {words[-1]}" in done.stderr


@pytest.mark.parametrize(("name", "says"), [("typo/curves.html", "there is no folder {}/typo"), ("", "{} is a folder")])
def test_a_page_is_written_into_a_folder_that_is_there_and_none_is_made_for_it(
    name: str, says: str, tmp_path: Path
) -> None:
    write_atomic(tmp_path / "config.json", parse(settings()).to_json().encode())
    done = ctl("report", "--html", str(tmp_path / name), state_dir=tmp_path)
    assert (done.returncode, done.stdout) == (64, "")
    assert says.format(tmp_path) in done.stderr and not (tmp_path / "typo").exists()


def test_a_state_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    given = tmp_path / "given.json"
    write_atomic(given, parse(settings()).to_json().encode())
    for words in (("notify", "--test"), ("data", "download")):
        made = tmp_path / words[0]
        ctl(*words, "--config", str(given), state_dir=made, cwd=tmp_path)
        assert stat.S_IMODE(made.stat().st_mode) == 0o700, words
    made = tmp_path / "run"
    with (tmp_path / "daemon.out").open("wb") as out:
        command = [sys.executable, "-P", "-m", "daemon", "run", "--config", str(given), "--state-dir", str(made)]
        daemon = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        deadline_s = time.monotonic() + 60
        while not (made / "status.json").exists() and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    finally:
        daemon.terminate()
        assert daemon.wait(50) == 0


def test_a_demo_that_is_ended_ends_its_daemon(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "daemon", "demo", "--state-dir", str(tmp_path / "state")]
    with (tmp_path / "demo.out").open("wb") as out:
        demo = subprocess.Popen(command, stdout=out, stderr=out)
    pids = tmp_path / "state" / "status.json"
    deadline_s = time.monotonic() + 60
    while not pids.exists() and time.monotonic() < deadline_s:
        time.sleep(0.1)
    supervisor = psutil.Process(json.loads(pids.read_bytes())["daemon"]["pid"])
    demo.terminate()
    assert demo.wait(60) == 128 + signal.SIGTERM
    assert not supervisor.is_running()


def test_verbs_take_the_configuration_that_the_daemon_last_ran_with_unless_one_is_named(tmp_path: Path) -> None:
    write_atomic(tmp_path / "config.json", parse(settings()).to_json().encode())

    def venue(*words: str) -> str:
        return str(json.loads(ctl("data", "show", "--json", *words, state_dir=tmp_path).stdout)["venue"])

    tickers = "BTC, ETH, LTC"
    assert tickers in ctl("features", "show", "config", state_dir=tmp_path).stdout
    asked = ctl("doctor", state_dir=tmp_path)
    assert "asking simulated" in asked.stderr and "simulated:sv" in asked.stdout
    assert venue().startswith("simulated")
    assert not venue("--set", "market.source=recorded", "--set", "market.recorded_path=x").startswith("simulated")


def test_the_findings_of_a_doctor_whose_venue_is_away_are_all_that_a_script_reads(tmp_path: Path) -> None:
    done = ctl("doctor", "--json", "--set", "market.api_url=http://127.0.0.1:9", state_dir=tmp_path)
    findings = {f["check"]: f for f in json.loads(done.stdout)["findings"]}
    assert findings["venue"]["level"] == "fail" and findings["venue"]["remedy"]
    assert "market_data.retry" not in done.stderr
