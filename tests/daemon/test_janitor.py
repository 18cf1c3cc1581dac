"""The janitor at work on real files: what is needed stays, what goes is on record, and a pass undoes its own emergency."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from state_house import aged, artifact, artifacts_left, house, janitor, journal, pointer

from daemon.child.clock import ManualClock
from daemon.janitor.references import references
from daemon.janitor.shell import AUDIT
from features.files import read_jsonl, write_atomic
from trainer.pieces import Piece, work_off


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return house(tmp_path)


def test_only_what_nothing_references_goes_and_each_deletion_is_on_record_with_its_reason(state_dir: Path) -> None:
    """The predecessor's janitor deleted the best weights."""
    janitor(state_dir).clean()
    assert artifacts_left(state_dir) == "bcdfhmnprz"
    audit = read_jsonl(state_dir / AUDIT)
    assert [(r["deleted"], r["reason"]) for r in audit] == [
        ("artifacts/x", "nothing names it"), ("artifacts/y", "nothing names it"),
    ]  # fmt: skip
    assert all(r["bytes"] > 0 and r["at_utc"] for r in audit)


def test_every_reference_says_who_holds_it(state_dir: Path) -> None:
    why = {n.removeprefix("artifacts/"): w for n, w in references(state_dir, keep_top=1, study="s").items()}
    assert why == {
        "c": "champion", "p": "champion's history", "b": "1 of the best 1 of study s", "f": "1 of the best 1 of study s",
        "r": "running trial 1 of study s", "h": "judged on the hold-out", "d": "decided with", "m": "member of c",
        "n": "member of m",
    }  # fmt: skip


def test_a_dry_run_touches_nothing_and_says_what_and_why(state_dir: Path) -> None:
    before = sorted(str(p) for p in state_dir.rglob("*"))
    config = state_dir.parent / "janitor.json"
    config.write_text(json.dumps({"janitor": {"keep_top": 1, "floor_free_bytes": 1, "resume_free_bytes": 1}}))
    command = [sys.executable, "-m", "daemon.janitor", "--dry-run", "--config", config, "--state-dir", state_dir]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "would delete 2 things" in text and "artifacts/x" in text and "nothing names it" in text
    assert "artifacts/h: judged on the hold-out" in text
    record = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert {d["name"] for d in record["delete"]} == {"artifacts/x", "artifacts/y"} and record["schema"] == 1
    after = {str(p) for p in state_dir.rglob("*")} - set(before)
    assert {Path(p).name for p in after} <= {"logs", "janitor.jsonl"}


@pytest.mark.parametrize("damaged", ["champion.json", "trials/s/0/trial.json", "holdout.jsonl", "paper/journal.db"])
def test_whatever_names_things_and_cannot_be_read_stops_the_janitor_instead_of_freeing_everything(
    state_dir: Path, damaged: str
) -> None:
    (state_dir / damaged).write_text("{\n")
    with pytest.raises(Exception, match=Path(damaged).stem):
        janitor(state_dir).clean()
    assert artifacts_left(state_dir) == "bcdfhmnprxyz"


def test_a_policy_saved_again_is_young_again(tmp_path: Path) -> None:
    """A repeated trial gives the same content: its directory is old, and is named only a moment later."""
    from desk import artifact as policy
    from desk import settings

    made = policy(settings())
    path = aged(made.save(tmp_path / "artifacts"))
    pointer(tmp_path, None)
    assert [d.item.name for d in janitor(tmp_path).planned().delete] == [f"artifacts/{path.name}"]
    assert made.save(tmp_path / "artifacts") == path
    janitor(tmp_path).clean()
    assert path.exists()


def test_leftovers_of_crashes_go_and_the_market_store_stays(tmp_path: Path) -> None:
    for name in ("market/BTC.parquet", "market/.BTC.parquet.4711", "trials/s/0/.trial.json.12", "paper/journal.db-wal"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        aged(_written(tmp_path / name))
    _written(tmp_path / "market" / ".ETH.parquet.4712")  # somebody is writing it now
    artifact(tmp_path, ".half.4713")
    janitor(tmp_path).clean()
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert {"market/BTC.parquet", "market/.ETH.parquet.4712", "paper/journal.db-wal"} <= left
    assert not {"market/.BTC.parquet.4711", "trials/s/0/.trial.json.12"} & left
    assert artifacts_left(tmp_path) == ""


def test_the_folds_of_an_open_study_stay_and_those_of_a_closed_one_go(state_dir: Path) -> None:
    """s has a running trial, default is the configured study, old is neither."""
    for study in ("s", "default", "old"):
        aged(_written(state_dir / "folds" / study / "1.safetensors"))
    young = _written(state_dir / "folds" / "old" / "2.safetensors")
    janitor(state_dir).clean()
    assert {str(p.relative_to(state_dir / "folds")) for p in (state_dir / "folds").glob("*/*")} == {
        "s/1.safetensors", "default/1.safetensors", "old/2.safetensors",
    }  # fmt: skip
    audit = [r for r in read_jsonl(state_dir / AUDIT) if r["kind"] == "fold"]
    assert [(r["deleted"], r["reason"]) for r in audit] == [("folds/old/1.safetensors", "no open study trains on it")]
    assert young.exists()


@pytest.mark.parametrize("name", ["replicates/seed-0-fold-1.json", "crossed/split-0-seed-1.npz"])
def test_the_checkpoint_of_a_killed_training_stays_until_its_work_is_done_and_then_goes(
    tmp_path: Path, name: str
) -> None:
    def killed() -> bytes:
        raise SystemExit

    pointer(tmp_path, None)
    run = tmp_path / "run"
    left, young = aged(_written(run / "replicate-7.safetensors")), _written(run / "replicate-8.safetensors")
    piece = Piece(path=tmp_path / "trials" / "default" / "3" / name, make=killed)
    with pytest.raises(SystemExit):
        work_off([piece])
    janitor(tmp_path).clean()
    assert left.exists()  # the next worker that takes the piece goes on from it
    assert work_off([replace(piece, make=lambda: b'{"artifact": "a"}')])
    janitor(tmp_path).clean()
    assert not left.exists() and young.exists()
    (gone,) = read_jsonl(tmp_path / AUDIT)
    assert (gone["deleted"], gone["reason"]) == ("run/replicate-7.safetensors", "no training goes on from it")


def test_reports_and_advice_are_kept_by_number_and_the_newest_always(tmp_path: Path) -> None:
    for n in range(6):
        for form in ("json", "txt"):
            aged(_written(tmp_path / "reports" / f"judgement-{n:04d}.{form}"), 600.0 - n)
        aged(_written(tmp_path / "advice" / f"2026-n{n}.md"), 600.0 - n)
    _written(tmp_path / "advice" / "latest.json")
    janitor(tmp_path, keep_reports=2, keep_advice=1).clean()
    assert sorted(p.name for p in (tmp_path / "reports").iterdir()) == [
        "judgement-0004.json", "judgement-0004.txt", "judgement-0005.json", "judgement-0005.txt",
    ]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "advice").iterdir()) == ["2026-n5.md", "latest.json"]


def test_below_the_floor_the_reserve_goes_first_history_next_and_trials_wait_until_there_is_room(
    state_dir: Path,
) -> None:
    old_log = aged(_written(state_dir / "logs" / "worker-0.jsonl.1"))
    janitor(state_dir).clean()
    assert (state_dir / "reserve").stat().st_size == 100 and old_log.exists()
    flooded = {"warn_free_bytes": 2**62, "resume_free_bytes": 2**62, "floor_free_bytes": 2**62}
    janitor(state_dir, **flooded).clean()
    assert not (state_dir / "reserve").exists() and not old_log.exists()
    assert (state_dir / "run" / "disk_floor").exists()
    first, *_, last = [r for r in read_jsonl(state_dir / AUDIT) if r.get("freed") or "log" in r.get("deleted", "")]
    assert (first["freed"], last["deleted"]) == ("./reserve", "logs/worker-0.jsonl.1")
    assert artifacts_left(state_dir) == "bcdfhmnprz"  # an emergency is no reason to break a reference
    janitor(state_dir).clean()
    assert (state_dir / "reserve").exists() and not (state_dir / "run" / "disk_floor").exists()


def test_a_look_notices_a_threshold_crossed_and_only_that(state_dir: Path) -> None:
    keeper = janitor(state_dir)
    keeper.clean()
    assert not keeper.changed()
    flooded = janitor(state_dir, warn_free_bytes=2**62, resume_free_bytes=2**62, floor_free_bytes=2**62)
    assert flooded.changed() and not flooded.changed()
    flooded.clean()
    assert not janitor(state_dir, warn_free_bytes=2**62, resume_free_bytes=2**62, floor_free_bytes=2**62).changed()


def test_a_clock_set_back_a_year_makes_nothing_old(tmp_path: Path) -> None:
    pointer(tmp_path, None)
    artifact(tmp_path, "a", age_s=10.0)
    janitor(tmp_path, clock=ManualClock()).clean()  # 2020: everything lies in its future
    assert artifacts_left(tmp_path) == "a"


def test_a_log_over_its_size_is_rotated_and_three_old_ones_stay(tmp_path: Path) -> None:
    for n in range(6):
        _written(tmp_path / "logs" / "worker-0.jsonl", f"{n}" * 3000)
        janitor(tmp_path, log_max_bytes=2000).clean()
    kept = {p.name: p.read_text()[0] for p in (tmp_path / "logs").glob("worker-0.jsonl*")}
    assert kept == {"worker-0.jsonl.1": "5", "worker-0.jsonl.2": "4", "worker-0.jsonl.3": "3"}


def test_a_journal_just_being_made_is_no_reason_to_stop(tmp_path: Path) -> None:
    import sqlite3

    pointer(tmp_path, None)
    (tmp_path / "paper").mkdir()
    sqlite3.connect(tmp_path / "paper" / "journal.db").close()
    assert references(tmp_path, keep_top=1, study="s") == {}
    (tmp_path / "paper" / "journal.db").unlink()
    journal(tmp_path)
    assert references(tmp_path, keep_top=1, study="s") == {}


def _written(path: Path, text: str = "x") -> Path:
    write_atomic(path, text.encode())
    return path
