"""supervisor.db when the disk refuses it: what is lost is counted, the rest is written as soon as there is room."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mounts import KINDS, fill, mounted

from daemon.child.clock import SystemClock
from daemon.history import History, read_events


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with mounted(request.param, tmp_path / "disk", size_mib=4) as place:
        yield place


def opened(place: Path) -> History:
    return History(place / "supervisor.db", now_utc=SystemClock().now_utc)


def test_a_run_whose_beginning_the_full_disk_refused_begins_with_the_first_record_that_fits(disk: Path) -> None:
    with opened(disk) as history:
        filler = fill(disk)
        history.begin(boot_id="b", pid=1)
        history.event("daemon.started", "", {})
        assert history.lost == 2
        filler.unlink()
        history.event("child.spawned", "janitor", {})
        history.crash(child="janitor", pid=2, code=1, up_s=1.0, output=b"")
        assert history.lost == 2
    assert [e["event"] for e in read_events(disk / "supervisor.db")] == ["child.spawned"]


def test_a_successor_is_told_what_the_full_disk_at_first_refused_to_remember(disk: Path) -> None:
    with opened(disk) as history:
        history.begin(boot_id="b", pid=1)
        filler = fill(disk)
        history.remember({"paused": True, "pad": "x" * 10_000})
        assert history.lost == 1
        filler.unlink()
        history.event("child.spawned", "janitor", {})
    with opened(disk) as successor:
        assert (successor.begin(boot_id="b", pid=2) or {})["paused"]


def test_a_start_that_fails_before_it_has_taken_over_forgets_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as history:
        history.begin(boot_id="b", pid=1)
        history.remember({"paused": True})
    for _ in range(3):
        with opened(tmp_path) as failing:
            assert failing.begin(boot_id="b", pid=2) == {"paused": True}
    with opened(tmp_path) as stopped:
        stopped.begin(boot_id="b", pid=3)
        stopped.end()
    for boot_id in ("b", "another"):
        with opened(tmp_path) as successor:
            assert successor.begin(boot_id=boot_id, pid=4) is None
            successor.end()


def test_a_database_that_is_damaged_in_use_costs_records_and_not_the_supervisor(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.db"
    with opened(tmp_path) as history, closing(sqlite3.connect(path)) as other:
        history.begin(boot_id="b", pid=1)
        for _ in range(300):
            history.event("child.spawned", "janitor", {"pad": "x" * 100})
        history.tidy()  # all of it is in the file now
        with other:  # a write by somebody else: what the supervisor has in memory is out of date
            other.execute("DELETE FROM events WHERE id = 300")
        with path.open("r+b") as file:
            file.write(b"\xff" * path.stat().st_size)
        history.event("child.spawned", "janitor", {})
        history.tidy()
        assert history.lost == 2
