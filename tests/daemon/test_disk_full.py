"""A disk that is full to the last byte: nothing half-written is taken for whole, nothing vanishes uncounted."""

import contextlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounts import KINDS, fill, mounted
from state_house import artifact, artifacts_left, house, janitor, pointer

from daemon.child.clock import SystemClock
from daemon.child.config import parse
from daemon.child.log_file import RecordFile
from daemon.janitor.backup import backups, make_backup
from daemon.janitor.shell import AUDIT
from daemon.status.reading import StatusReader
from features.errors import CappuccinoError
from features.files import append_jsonl, disk_full, read_jsonl, write_atomic
from paper_trader.database import open_database, transaction

TABLES = "CREATE TABLE t (x BLOB)"


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with mounted(request.param, tmp_path / "disk", size_mib=4) as place:
        yield place


def test_a_record_that_does_not_fit_leaves_the_file_as_it_was(disk: Path) -> None:
    """One write() on a nearly full disk takes a part and reports no error."""
    path = disk / "records.jsonl"
    fits = 0
    for n in range(400):
        if n % 40 == 0:
            fill(disk, leave_bytes=8192)
        with contextlib.suppress(OSError):
            append_jsonl(path, {"n": n, "pad": "x" * 700})
            fits += 1
        assert len(read_jsonl(path)) == fits  # all that were acknowledged, and no part of another
        assert path.read_bytes().endswith(b"\n")
    assert 5 < fits < 395


def test_a_replacement_that_does_not_fit_leaves_the_old_file_and_no_leftover(disk: Path) -> None:
    write_atomic(disk / "pointer.json", b"old")
    fill(disk)
    with pytest.raises(OSError, match="No space") as caught:
        write_atomic(disk / "pointer.json", b"n" * 20_000)
    assert disk_full(caught.value) and (disk / "pointer.json").read_bytes() == b"old"
    assert sorted(p.name for p in disk.iterdir() if p.name != "lost+found") == ["filler", "pointer.json"]


def test_a_transaction_that_does_not_fit_is_gone_as_a_whole_and_the_next_one_works(disk: Path) -> None:
    database = open_database(disk / "j.db", read_only=False, tables=TABLES, schema=1)
    filler = fill(disk, leave_bytes=300_000)
    kept = 0

    def write_on() -> None:
        nonlocal kept
        for _ in range(1000):
            with transaction(database) as db:
                db.executemany("INSERT INTO t VALUES (?)", [(b"x" * 3000,)] * 2)
            kept += 1

    with pytest.raises(sqlite3.OperationalError) as caught:
        write_on()
    assert disk_full(caught.value) and not database.in_transaction and kept > 2
    assert database.execute("SELECT COUNT(*) FROM t").fetchone() == (2 * kept,)
    filler.unlink()
    with transaction(database) as db:
        db.execute("INSERT INTO t VALUES (x'00')")
    database.close()
    again = open_database(disk / "j.db", read_only=False, tables=TABLES, schema=1)  # its integrity is checked
    assert again.execute("SELECT COUNT(*) FROM t").fetchone() == (2 * kept + 1,)
    again.close()


def test_a_log_loses_no_record_uncounted_and_mixes_none(disk: Path) -> None:
    handler, path = RecordFile(disk / "x.jsonl"), disk / "x.jsonl"
    for n in range(3000):
        if n % 500 == 250:
            fill(disk, leave_bytes=20_000)
        if n % 500 == 499:
            (disk / "filler").unlink()
        line = json.dumps({"event": "test.line", "n": n, "pad": "x" * 300, "child": "x"})
        handler.emit(logging.makeLogRecord({"msg": line}))
    assert handler.dropped == 0
    handler.close()
    whole, torn = [], 0
    for line in path.read_bytes().splitlines():
        try:
            whole.append(json.loads(line))
        except ValueError:
            torn += 1  # the part of a record that fitted, ended before the next one begins
    told = sum(r["dropped"] for r in whole if r["event"] == "log.dropped")
    numbers = [r["n"] for r in whole if r["event"] == "test.line"]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + told == 3000 and told > 100
    assert torn <= 6  # at most one at each filling


def test_the_janitor_frees_the_reserve_and_deletes_although_not_even_its_audit_can_be_written(disk: Path) -> None:
    pointer(disk, None)
    room = {"floor_free_bytes": 500_000, "resume_free_bytes": 1_000_000, "warn_free_bytes": 1_000_000}
    janitor(disk, reserve_bytes=300_000, **room).clean()
    assert (disk / "reserve").stat().st_size == 300_000
    artifact(disk, "x")
    filler = fill(disk)
    janitor(disk, reserve_bytes=300_000, **room).clean()
    assert not (disk / "reserve").exists() and artifacts_left(disk) == "" and (disk / "run" / "disk_floor").exists()
    fill(disk)  # and the room that gave is taken as well
    artifact_made = _artifact_of_no_size(disk, "y")
    janitor(disk, reserve_bytes=300_000, **room).clean()
    assert not artifact_made.exists()
    filler.unlink()
    keeper = janitor(disk, reserve_bytes=300_000, **room)
    assert keeper.changed()
    keeper.clean()
    assert (disk / "reserve").exists() and not (disk / "run" / "disk_floor").exists()
    told = {r.get("deleted") or r["freed"] for r in read_jsonl(disk / AUDIT)}
    assert {"./reserve", "artifacts/x"} <= told


def _artifact_of_no_size(disk: Path, name: str) -> Path:
    """A directory alone: what can still be made on a full disk (an ext4 directory needs a block of its own)."""
    path = disk / "artifacts" / name
    os.truncate(disk / "filler", (disk / "filler").stat().st_size - 8192)
    path.mkdir(parents=True)
    fill(disk)
    stamp = SystemClock().now_utc().timestamp() - 7200
    os.utime(path, (stamp, stamp))
    return path


def test_a_backup_for_which_there_is_no_room_leaves_nothing_and_costs_no_older_one(disk: Path) -> None:
    house(disk)
    make_backup(disk, SystemClock())
    (disk / "champion.json").write_text(
        json.dumps({"champion": None, "holds": "p", "history": [], "pad": "x" * 30_000})
    )
    filler = fill(disk, leave_bytes=16_384)
    with pytest.raises(CappuccinoError, match=r"full|space|restored") as caught:
        make_backup(disk, _Later())
    assert disk_full(caught.value)
    assert len(backups(disk)) == 1 and not list((disk / "backups").glob(".*"))
    filler.unlink()
    make_backup(disk, _Later())
    assert len(backups(disk)) == 2


class _Later(SystemClock):
    def now_utc(self):  # type: ignore[no-untyped-def]
        from datetime import timedelta

        return super().now_utc() + timedelta(days=1)


@pytest.mark.parametrize(
    "words", [("flatten",), ("rearm",), ("pause", "trading"), ("trials", "--set", "study.seeds=1")]
)
def test_what_a_full_disk_keeps_a_verb_from_is_said_in_one_line(disk: Path, words: tuple[str, ...]) -> None:
    write_atomic(disk / "config.json", parse({}).to_json().encode())
    fill(disk)
    command = [sys.executable, "-P", "-m", "daemon", *words, "--state-dir", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.endswith("(free space)\n"), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["paper", "artifacts"])
def test_only_the_disk_that_is_full_is_said_to_be_full_also_while_there_is_not_yet_room_to_spare(
    tmp_path: Path, name: str
) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    room = {"floor_free_bytes": 1_000_000, "resume_free_bytes": 3_000_000, "warn_free_bytes": 3_000_000}
    reader = StatusReader(state_dir, json.loads(parse({"janitor": room}).to_json()))
    with mounted("tmpfs", state_dir / name, size_mib=4) as mount:
        for free_bytes in (0, 2_000_000):
            filler = fill(mount)
            janitor(state_dir, reserve_bytes=0, **room).clean()
            with filler.open("r+b") as file:
                file.truncate(filler.stat().st_size - free_bytes)
            janitor(state_dir, reserve_bytes=0, **room).clean()
            status = reader.gather(
                [], state="running", pid=1, up_s=1.0, written_utc=SystemClock().now_utc().isoformat()
            )
            assert [(d["below_floor"], d["path"] == str(mount)) for d in status["disks"]] == [
                (False, False),
                (True, True),
            ]
            says = f"{mount} is nearly full" + (": no new trials" if name == "artifacts" else "")
            assert [a["text"] for a in status["alerts"]] == [says]
            filler.unlink()


def test_a_mount_below_the_state_directory_has_its_own_verdict_and_its_own_reserve(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    pointer(state_dir, None)
    room = {"floor_free_bytes": 500_000, "resume_free_bytes": 1_000_000, "warn_free_bytes": 1_000_000}
    with mounted("tmpfs", state_dir / "paper", size_mib=4):
        janitor(state_dir, reserve_bytes=100_000, **room).clean()
        assert (state_dir / "reserve").exists() and (state_dir / "paper" / "reserve").exists()
        fill(state_dir / "paper")
        made = janitor(state_dir, reserve_bytes=100_000, **room).clean()
        assert {v.disk.name: v.space.value for v in made.disks} == {".": "ok", "paper": "floor"}
        assert (state_dir / "reserve").exists() and not (state_dir / "paper" / "reserve").exists()
        assert not (state_dir / "run" / "disk_floor").exists()  # the workers write elsewhere
    artifacts = state_dir / "artifacts"
    with mounted("tmpfs", artifacts, size_mib=4):
        fill(artifacts)
        janitor(state_dir, reserve_bytes=100_000, **room).clean()
        assert (state_dir / "run" / "disk_floor").exists()
