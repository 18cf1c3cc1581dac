"""The janitor: what anything references stays, whatever the inventory; what it deletes is written down first."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.child.clock import SystemClock
from daemon.child.config import parse
from daemon.child.logs import get_logger
from daemon.janitor.plan import Item, Space, Thresholds, plan
from daemon.janitor.shell import Janitor, references
from features.files import read_jsonl, write_atomic

LIMITS = Thresholds(warn_free_bytes=1000, floor_free_bytes=100, log_max_bytes=50)

items = st.lists(
    st.builds(
        Item, kind=st.sampled_from(["artifact", "draft", "log"]), name=st.text("abcdef", min_size=1, max_size=3),
        size_bytes=st.integers(0, 200), age_s=st.floats(0, 1e6),
    ),
    max_size=30, unique_by=lambda i: i.name,
)  # fmt: skip


@settings(max_examples=2000, deadline=None)
@given(inventory=items, kept=st.sets(st.text("abcdef", min_size=1, max_size=3)), free=st.integers(0, 2000))
def test_no_plan_deletes_what_is_referenced_young_or_a_log(inventory: list[Item], kept: set[str], free: int) -> None:
    made = plan(inventory, frozenset(kept), free, LIMITS)
    for deletable in made.delete:
        assert deletable.item.name not in kept
        assert deletable.item.age_s >= LIMITS.min_age_s
        assert deletable.item.kind != "log"
    spared = {i.name for i in inventory} - {d.item.name for d in made.delete}
    assert {i.name for i in inventory if i.name in kept} <= spared
    deleted = {d.item.name for d in made.delete}
    for item in inventory:  # and what nothing needs does go
        if item.kind != "log" and item.name not in kept and item.age_s >= LIMITS.min_age_s:
            assert item.name in deleted
    assert all(i.size_bytes > LIMITS.log_max_bytes for i in made.rotate)


@pytest.mark.parametrize(
    ("free", "space", "reserve"),
    [(1000, Space.OK, False), (999, Space.WARN, False), (100, Space.WARN, False), (99, Space.FLOOR, True)],
)
def test_the_thresholds_are_what_they_say(free: int, space: Space, reserve: bool) -> None:  # noqa: FBT001
    made = plan([], frozenset(), free, LIMITS)
    assert (made.space, made.free_reserve) == (space, reserve)


def artifact(state_dir: Path, name: str, *, age_s: float = 7200.0, members: tuple[str, ...] = ()) -> Path:
    folder = state_dir / "artifacts" / name
    write_atomic(folder / "manifest.json", json.dumps({"training": {"members": list(members)}}).encode())
    write_atomic(folder / "weights.safetensors", b"w" * 100)
    stamp = SystemClock().now_utc().timestamp() - age_s
    os.utime(folder, (stamp, stamp))
    return folder


def janitor(state_dir: Path, **changes: object) -> Janitor:
    config = parse(
        {"janitor": {"warn_free_bytes": 2, "floor_free_bytes": 1, "keep_top": 1, "reserve_bytes": 100, **changes}}
    )
    return Janitor(config=config, state_dir=state_dir, clock=SystemClock(), log=get_logger())


def trial(state_dir: Path, number: int, **facts: object) -> None:
    record = {"number": number, "study": "s", **facts}
    write_atomic(state_dir / "trials" / "s" / str(number) / "trial.json", json.dumps(record).encode())


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """champion c (ensemble of m), previous champion p, best trial b with fold f, running r, poor x, loose y, young z."""
    for name in "cmpbfrxy":
        artifact(tmp_path, name, members=("m",) if name == "c" else ())
    artifact(tmp_path, "z", age_s=10.0)
    pointer = {"champion": "c", "holds": "c", "history": [{"champion": None, "holds": "p"}]}
    write_atomic(tmp_path / "champion.json", json.dumps(pointer).encode())
    trial(tmp_path, 0, state="COMPLETE", score=3.0, artifact="b", fold_artifacts=["f", "b"])
    trial(tmp_path, 1, state="RUNNING", fold_artifacts=["r"])
    trial(tmp_path, 2, state="COMPLETE", score=-3.0, artifact="x", fold_artifacts=["x"])
    return tmp_path


def left(state_dir: Path) -> str:
    return "".join(sorted(p.name for p in (state_dir / "artifacts").iterdir()))


def test_only_what_nothing_references_goes_and_each_deletion_is_on_record(house: Path) -> None:
    """The predecessor's janitor deleted the best weights."""
    assert references(house, keep_top=1) == frozenset("cmpbfr")
    janitor(house).clean()
    assert left(house) == "bcfmprz"
    audit = read_jsonl(house / "logs" / "janitor-audit.jsonl")
    assert sorted(r["deleted"] for r in audit) == ["x", "y"]


def test_a_plan_alone_touches_nothing(house: Path) -> None:
    made = janitor(house).planned()
    assert {d.item.name for d in made.delete} == {"x", "y"}
    assert left(house) == "bcfmprxyz"


def test_a_pointer_that_cannot_be_read_stops_the_janitor_instead_of_freeing_everything(house: Path) -> None:
    (house / "champion.json").write_text("{")
    with pytest.raises(Exception, match=r"champion\.json"):
        janitor(house).clean()
    assert left(house) == "bcfmprxyz"


def test_what_the_paper_journal_decided_with_stays(house: Path) -> None:
    import sqlite3

    (house / "paper").mkdir()
    db = sqlite3.connect(house / "paper" / "journal.db")
    with db:
        db.execute("CREATE TABLE decisions (artifact TEXT)")
        db.execute("INSERT INTO decisions VALUES ('x')")
    db.close()
    janitor(house).clean()
    assert "x" in left(house) and "y" not in left(house)


def test_below_the_floor_the_reserve_goes_first_and_new_trials_wait_until_there_is_room(house: Path) -> None:
    janitor(house).clean()
    assert (house / "reserve").stat().st_size == 100
    flooded = janitor(house, warn_free_bytes=2**62, floor_free_bytes=2**62)
    flooded.clean()
    assert not (house / "reserve").exists()
    assert (house / "run" / "disk_floor").exists()
    janitor(house).clean()
    assert (house / "reserve").exists() and not (house / "run" / "disk_floor").exists()


def test_a_log_over_its_size_is_rotated_and_its_writer_loses_no_line(tmp_path: Path) -> None:
    import logging

    from daemon.child.logs import configure_logging

    path = tmp_path / "logs" / "worker-0.jsonl"
    configure_logging(component="test", child="worker-0", path=path)
    try:
        log, keeper = get_logger(), janitor(tmp_path, log_max_bytes=2000)
        for n in range(100):
            log.info("line", n=n)
            if n % 10 == 9:
                keeper.clean()
        kept = [json.loads(x) for p in (tmp_path / "logs").glob("worker-0.jsonl*") for x in p.read_text().splitlines()]
        numbers = sorted(r["n"] for r in kept if r["event"] == "line")
        assert numbers == list(range(numbers[0], 100)) and len(numbers) >= 20
        assert len(list((tmp_path / "logs").glob("worker-0.jsonl.*"))) <= 3
    finally:
        for handler in list(logging.getLogger().handlers):
            if isinstance(handler, logging.FileHandler):
                logging.getLogger().removeHandler(handler)
                handler.close()
    assert np.diff(numbers).max() == 1
