"""Backups: tested by restoring them, taken while everybody writes, and never a way to forget what was tried."""

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from desk import books, opened, started, trader
from state_house import artifact, artifacts_left, house, janitor, pointer

from daemon.child.clock import ManualClock, SystemClock
from daemon.child.logs import get_logger
from daemon.history import History, read_events
from daemon.janitor.backup import backups, make_backup, verify
from daemon.janitor.restore import restore
from daemon.janitor.schedule import Nightly, first_wait_s
from features.errors import CappuccinoError, DataError
from features.files import AlreadyRunning, read_jsonl, write_atomic
from trainer.ledger import TrialLedger
from trainer.study import mark_trial, storage_url


def studied(state_dir: Path, n_trials: int) -> None:
    """A real study with so many more trials, each in the ledger and on record."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage_url(state_dir), study_name="s", load_if_exists=True, direction="maximize"
    )
    ledger = TrialLedger(state_dir / "ledger.jsonl")
    for _ in range(n_trials):
        trial = study.ask()
        number = trial.number
        ledger.started(study="s", number=number, data_sha256="0", parameters={}, at_utc="now")
        mark_trial(state_dir, "s", number, state="COMPLETE", score=trial.suggest_float("x", 0, 1))
        study.tell(trial, 1.0)
        ledger.ended(study="s", number=number, score=1.0, sharpe=0.1, timeframe_s=3600, failure=None)


def n_trials(state_dir: Path) -> int:
    return len(optuna.load_study(storage=storage_url(state_dir), study_name="s").trials)


def test_a_backup_holds_every_database_and_ledger_and_says_how_much_is_in_them(tmp_path: Path) -> None:
    studied(house(tmp_path), 3)
    made = make_backup(tmp_path, SystemClock())
    assert set(made.files) == {"study.db", "paper/journal.db", "ledger.jsonl", "holdout.jsonl", "champion.json"}
    assert made.files["study.db"]["rows"]["trials"] == 3
    assert made.files["ledger.jsonl"]["rows"] == {"records": 6}
    assert set(made.artifacts) == {"c", "p", "d"} and made.trials == {"s": [0, 1, 2]}
    assert [b.name for b in backups(tmp_path)] == [made.name]
    assert not list((tmp_path / "backups").glob(".*")) and not list(made.folder.glob(".*"))


@pytest.mark.parametrize("file", ["study.db", "paper/journal.db", "ledger.jsonl", "champion.json"])
def test_a_backup_with_one_changed_byte_does_not_pass_its_restore_test(tmp_path: Path, file: str) -> None:
    studied(house(tmp_path), 1)
    made = make_backup(tmp_path, SystemClock())
    data = bytearray((made.folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (made.folder / file).write_bytes(data)
    with pytest.raises(DataError, match=made.name):
        verify(made)
    before = (tmp_path / file).read_bytes()
    with pytest.raises(DataError, match=made.name):
        restore(tmp_path, made.name, SystemClock())
    assert (tmp_path / file).read_bytes() == before  # nothing moved for a backup that is worth nothing


def test_a_database_that_is_damaged_now_makes_no_backup_and_costs_none_of_the_old_ones(tmp_path: Path) -> None:
    clock = ManualClock()
    studied(tmp_path, 30)
    make_backup(tmp_path, clock)
    with (tmp_path / "study.db").open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 8192)
    clock.sleep(60)
    with pytest.raises(DataError, match=r"study\.db cannot be backed up: .* is malformed .*cappuccinoctl restore"):
        make_backup(tmp_path, clock)
    assert len(backups(tmp_path)) == 1 and not list((tmp_path / "backups").glob(".*"))


def test_an_account_restored_from_a_backup_made_while_it_traded_ends_like_one_that_was_never_interrupted(
    tmp_path: Path,
) -> None:
    """Both databases are copied while a real trader settles and decides hundreds of bars."""
    home, undisturbed, clock = tmp_path / "home", tmp_path / "undisturbed", ManualClock()
    config = opened(home)
    shutil.copytree(home, undisturbed)
    trader(config, undisturbed).run()
    process = started(config, home)
    made = []
    while process.poll() is None:
        if (home / "paper" / "journal.db").exists() and (home / "paper" / "broker.db").exists():
            try:
                made.append(make_backup(home, clock))
            except (DataError, sqlite3.OperationalError):  # its tables are just being made
                assert not made
        clock.sleep(60)
    process.communicate()
    assert process.returncode == 0 and len(made) >= 3
    bars = [b.files["paper/journal.db"]["rows"]["marks"] for b in made]
    assert bars == sorted(bars) and 0 < bars[0] < bars[-1]
    restore(home, made[len(made) // 2].name, clock)
    trader(config, home).run()
    assert books(home) == books(undisturbed)


def test_restoring_overwrites_nothing_and_no_trial_becomes_untried(tmp_path: Path) -> None:
    house(tmp_path)
    shutil.rmtree(tmp_path / "trials")
    studied(tmp_path, 2)
    clock = ManualClock()
    made = make_backup(tmp_path, clock)
    studied(tmp_path, 3)
    clock.sleep(60)
    before = {n: (tmp_path / n).read_bytes() for n in ("study.db", "paper/journal.db", "champion.json", "ledger.jsonl")}
    done = restore(tmp_path, "", clock)
    assert n_trials(tmp_path) == 2 and done.backup == made.name
    assert done.trials_aside == ("trials/s/2", "trials/s/3", "trials/s/4")  # their numbers will be given away again
    assert set(done.kept) == {"ledger.jsonl", "holdout.jsonl"}
    assert TrialLedger(tmp_path / "ledger.jsonl").count() == 5
    for name in done.placed:
        assert (Path(done.aside) / name).read_bytes() == before[name]
    assert (Path(done.aside) / "trials" / "s" / "4" / "trial.json").exists()


def test_a_ledger_that_was_damaged_or_shortened_comes_back_from_the_backup(tmp_path: Path) -> None:
    studied(tmp_path, 2)
    clock = ManualClock()
    make_backup(tmp_path, clock)
    whole = (tmp_path / "ledger.jsonl").read_bytes()
    for damaged in (whole[:-200], whole.replace(b'"number":0', b'"number":9'), b""):
        (tmp_path / "ledger.jsonl").write_bytes(damaged)
        clock.sleep(60)
        assert "ledger.jsonl" in restore(tmp_path, "", clock).placed
        assert (tmp_path / "ledger.jsonl").read_bytes() == whole
        assert TrialLedger(tmp_path / "ledger.jsonl").records()  # what remembered the lost tail went aside with it
    (tmp_path / "ledger.jsonl").unlink()
    restore(tmp_path, "", clock)
    assert len(read_jsonl(tmp_path / "ledger.jsonl")) == 4


@pytest.mark.parametrize("name", ["supervisor", "paper_trader", "worker-1", "foreground-train"])
def test_nothing_is_restored_under_a_running_program(tmp_path: Path, name: str) -> None:
    studied(tmp_path, 1)
    make_backup(tmp_path, SystemClock())
    code = (
        "import sys; from pathlib import Path; from features.files import Lock\n"
        "with Lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run" / f"{name}.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:  # fmt: skip
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunning, match=f"{name} is running"):
            restore(tmp_path, "", SystemClock())
        assert not (tmp_path / "aside").exists()


def test_the_two_verbs_do_it_from_the_command_line(tmp_path: Path) -> None:
    studied(tmp_path, 1)
    command, where = [sys.executable, "-m", "daemon"], ["--state-dir", str(tmp_path)]

    def run(*words: str) -> str:
        return subprocess.run([*command, *words, *where], capture_output=True, text=True, check=True).stdout

    assert "no backup yet" in run("backup", "--list")
    (made,) = json.loads(run("backup", "--json"))["backups"]
    assert made["name"] in run("backup", "--list")
    studied(tmp_path, 1)
    text = run("restore", made["name"])
    assert "restored study.db" in text and "kept ledger.jsonl" in text and n_trials(tmp_path) == 1
    refused = subprocess.run([*command, "restore", "yesterday", *where], capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and made["name"] in refused.stderr


def test_there_is_one_backup_a_night_whatever_the_wall_clock_does_and_a_week_of_them_stays(tmp_path: Path) -> None:
    house(tmp_path)
    clock = ManualClock()
    day_s = 86_400.0
    nightly = Nightly(every_s=day_s, state_dir=tmp_path, clock=clock, log=get_logger())
    made = 0
    assert not nightly.back_up_if_due()  # a service that has just begun has nothing to lose
    for _ in range(10 * 24):
        clock.sleep(3600.0)
        made += nightly.back_up_if_due()
    assert made == 10
    janitor(tmp_path, keep_backups=7).clean()
    assert len(backups(tmp_path)) == 7
    clock.sleep(3600.0)
    again = Nightly(every_s=day_s, state_dir=tmp_path, clock=clock, log=get_logger())
    assert again.back_up_if_due() is True  # the last one is a day old
    assert again.back_up_if_due() is False
    year_s = 365 * day_s
    waits = [first_wait_s(a, day_s) for a in (None, 0.0, 3600.0, -year_s, year_s)]
    assert waits == [600.0, day_s, day_s - 3600.0, day_s, 0.0]


def test_a_backup_that_fails_is_tried_again_in_an_hour_and_an_empty_state_directory_has_none(tmp_path: Path) -> None:
    clock = ManualClock()
    nightly = Nightly(every_s=86_400.0, state_dir=tmp_path, clock=clock, log=get_logger())
    clock.sleep(600.0)
    assert not nightly.back_up_if_due() and not backups(tmp_path)
    write_atomic(tmp_path / "champion.json", b"{ damaged")
    assert not nightly.back_up_if_due()
    write_atomic(tmp_path / "champion.json", b'{"champion": null, "holds": "p", "history": []}')
    assert not nightly.back_up_if_due()  # not at every look
    clock.sleep(3600.0)
    assert nightly.back_up_if_due() and len(backups(tmp_path)) == 1


def test_a_database_that_somebody_holds_costs_the_backup_of_this_hour_and_not_the_janitor(tmp_path: Path) -> None:
    house(tmp_path)
    studied(tmp_path, 1)
    clock = ManualClock()
    nightly = Nightly(every_s=86_400.0, state_dir=tmp_path, clock=clock, log=get_logger())
    clock.sleep(600.0)
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert not nightly.back_up_if_due()
        command = [sys.executable, "-m", "daemon", "backup", "--state-dir", str(tmp_path)]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    said = "study.db cannot be backed up: database is locked (another process holds it: try again)"
    assert refused.stderr == f"cappuccinoctl: {said}\n"
    clock.sleep(3600.0)
    assert nightly.back_up_if_due() and len(backups(tmp_path)) == 1


@pytest.mark.parametrize("manifest", ["{", "{}", "[]"])
def test_one_damaged_backup_hides_none_of_the_others(tmp_path: Path, manifest: str) -> None:
    clock = ManualClock()
    house(tmp_path)
    good = make_backup(tmp_path, clock)
    clock.sleep(60)
    bad = make_backup(tmp_path, clock)
    (bad.folder / "manifest.json").write_text(manifest)
    listed = ctl(tmp_path, "backup", "--list")
    assert listed.returncode == 1 and good.name in listed.stdout and f"move {bad.folder} away" in listed.stdout
    record = json.loads(ctl(tmp_path, "backup", "--list", "--json").stdout)
    assert [b["name"] for b in record["backups"]] == [good.name] and list(record["damaged"]) == [bad.name]
    with pytest.raises(DataError, match=f"move {bad.folder} away"):
        restore(tmp_path, "", clock)
    assert restore(tmp_path, good.name, clock).backup == good.name


def ctl(state_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "daemon", *words, "--state-dir", str(state_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_restored_history_is_that_of_a_run_that_was_stopped_and_not_of_a_crash(tmp_path: Path) -> None:
    """A backup is made while the daemon runs; what was paused that night is not paused for ever."""
    with History(tmp_path / "supervisor.db", now_utc=SystemClock().now_utc) as history:
        history.begin(boot_id="b", pid=1)
        history.remember({"paused": True})
        history.event("child.spawned", "janitor", {})
        make_backup(tmp_path, SystemClock())
        history.end()
    restore(tmp_path, "", SystemClock())
    with History(tmp_path / "supervisor.db", now_utc=SystemClock().now_utc) as successor:
        assert successor.begin(boot_id="b", pid=2) is None
    assert [e["event"] for e in read_events(tmp_path / "supervisor.db")] == ["child.spawned"]


@pytest.mark.parametrize("damaged", [False, True])
def test_what_a_restore_moved_aside_can_be_gone_back_to_with_its_policies(tmp_path: Path, *, damaged: bool) -> None:
    """Damaged files name nothing any more, and are no reason for the janitor to stop: they were the reason to restore."""
    clock = ManualClock()
    house(tmp_path)
    make_backup(tmp_path, clock)
    pointer(tmp_path, artifact(tmp_path, "q").name)
    with contextlib.closing(sqlite3.connect(tmp_path / "paper" / "journal.db")) as db, db:
        db.execute("INSERT INTO decisions VALUES (?)", (artifact(tmp_path, "v").name,))
    for name in ("paper/journal.db", "champion.json") if damaged else ():
        (tmp_path / name).write_bytes(b"{ damaged")
    clock.sleep(60)
    restore(tmp_path, "", clock)
    janitor(tmp_path).clean()
    assert artifacts_left(tmp_path) == ("bcdfhmnprz" if damaged else "bcdfhmnpqrvz")


def test_a_backup_nobody_made_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(CappuccinoError, match="no backup"):
        restore(tmp_path, "", SystemClock())


def test_what_a_kept_backup_names_stays_although_nothing_else_names_it_any_more(tmp_path: Path) -> None:
    house(tmp_path)
    make_backup(tmp_path, SystemClock())
    shutil.rmtree(tmp_path / "paper")  # the operator began a new account
    janitor(tmp_path).clean()
    assert (tmp_path / "artifacts" / "d").exists()
