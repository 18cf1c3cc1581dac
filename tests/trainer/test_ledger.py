"""The records nobody can edit quietly: every trial ever started, and every look at the hold-out."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mounts import fill, mounted
from world import random_bars

from daemon.child.config import parse
from daemon.child.market import feature_spec
from features.errors import ConfigurationError, DataError
from trainer.dataset import Dataset
from trainer.holdout import HoldoutToken, holdout_ledger
from trainer.ledger import TrialLedger


def started(ledger: TrialLedger, number: int) -> None:
    ledger.started(study="s", number=number, data_sha256="d", parameters={"x": number}, at_utc="2026-01-01")


def ended(ledger: TrialLedger, number: int, sharpe: float, *, study: str = "s", timeframe_s: int = 3600) -> None:
    ledger.ended(study=study, number=number, score=1.0, sharpe=sharpe, timeframe_s=timeframe_s, failure=None)


def test_the_number_of_trials_counts_failed_and_repeated_ones_over_all_studies(tmp_path: Path) -> None:
    ledger = TrialLedger(tmp_path / "ledger.jsonl")
    for number in (0, 1, 1):
        started(ledger, number)
    ledger.started(study="another", number=0, data_sha256="d", parameters={}, at_utc="2026-01-01")
    ended(ledger, 0, 0.01)
    ledger.ended(study="s", number=1, score=None, sharpe=None, timeframe_s=3600, failure="diverged")
    assert ledger.count() == 4
    assert ledger.sharpes(timeframe_s=3600) == [0.01]


def test_sharpe_ratios_of_other_bars_and_a_crowd_of_like_trials_make_no_luck_cheaper(tmp_path: Path) -> None:
    ledger = TrialLedger(tmp_path / "ledger.jsonl")
    how: dict[str, Any] = {"study": "s", "timeframe_s": 3600}
    ended(ledger, 0, 0.03)
    assert ledger.sharpe_variance(**how) is None
    ended(ledger, 1, -0.03)
    own = ledger.sharpe_variance(**how)
    assert own == pytest.approx(0.0018)
    for number in range(20):  # the same ratios a year, of bars of a minute
        ended(ledger, number, 0.03 * (-1) ** number / math.sqrt(60), study="minutes", timeframe_s=60)
    assert ledger.sharpes(timeframe_s=3600, study="minutes") == pytest.approx([0.03, -0.03] * 10)
    for number in range(200):
        ended(ledger, number, 0.0, study="in cash")
    assert ledger.sharpe_variance(**how) == own
    ended(ledger, 0, 3.0, study="wild")
    assert ledger.sharpe_variance(**how) > 10 * own


@pytest.mark.parametrize("damage", ["altered", "removed", "reordered"])
def test_a_ledger_that_was_touched_names_the_first_bad_record(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = TrialLedger(path)
    for number in range(4):
        started(ledger, number)
    lines = path.read_text().splitlines(keepends=True)
    if damage == "altered":
        record = json.loads(lines[1])
        body = {k: v for k, v in record.items() if k != "crc"} | {"number": 99}
        from features.files import append_jsonl

        path.write_text(lines[0])
        append_jsonl(path, body)  # a valid line, but not the one that was linked
        with path.open("a") as out:
            out.writelines(lines[2:])
    elif damage == "removed":
        path.write_text("".join(lines[:1] + lines[2:]))
    else:
        path.write_text("".join([lines[0], lines[2], lines[1], lines[3]]))
    with pytest.raises(DataError, match="record 2 was altered, removed or reordered"):
        ledger.count()


@pytest.mark.parametrize("kept", [0, 3])
def test_a_ledger_cut_short_is_missed_so_that_no_trial_can_be_forgotten(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = TrialLedger(path)
    for number in range(4):
        started(ledger, number)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:kept]))
    with pytest.raises(DataError, match=f"record {kept + 1} is missing, 4 were written"):
        ledger.count()
    with pytest.raises(DataError, match="is missing"):
        started(ledger, 4)  # nor is anything chained to what is left


def test_a_crash_between_the_record_and_its_head_loses_nothing(tmp_path: Path) -> None:
    ledger = TrialLedger(tmp_path / "ledger.jsonl")
    started(ledger, 0)
    before = (tmp_path / "ledger.head").read_bytes()
    started(ledger, 1)
    (tmp_path / "ledger.head").write_bytes(before)  # as a kill after the append leaves it
    assert ledger.count() == 2
    started(ledger, 2)
    assert ledger.count() == 3


def test_several_processes_append_to_one_unbroken_chain(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from trainer.ledger import TrialLedger\n"
        "for i in range(25): TrialLedger(Path(sys.argv[1])).started("
        "study=sys.argv[2], number=i, data_sha256='d', parameters={}, at_utc='t')"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "ledger.jsonl"), name]) for name in ("a", "b", "c")
    ]
    assert [w.wait(60) for w in writers] == [0, 0, 0]
    assert TrialLedger(tmp_path / "ledger.jsonl").count() == 75


def test_the_holdout_is_read_only_against_a_ledgered_opening_and_never_twice_for_one_artifact(tmp_path: Path) -> None:
    config = parse(
        {
            "market": {"tickers": ["BTC", "ETH", "LTC"]},
            "data": {"embargo_bars": 10, "n_folds": 2, "holdout_share": 0.3, "judge_start_utc": "", "end_utc": ""},
        }
    )
    bars = random_bars(2, n_bars=3000)
    spec = feature_spec(config)
    dataset = Dataset(everything=bars, spec=spec, config=config, source_name="test")
    assert dataset.bars.n_bars == dataset.roles.development.stop < dataset.roles.holdout.start
    ledger = holdout_ledger(tmp_path)
    forged = HoldoutToken(opening=1, entry="f" * 64, ledger=ledger)
    with pytest.raises(DataError, match="not opened in the ledger"):
        dataset.with_holdout(forged)
    token = ledger.open(artifact="a" * 64, closes_s=dataset.holdout_closes_s, who="test", at_utc="t")
    everything, window = dataset.with_holdout(token)
    assert window == dataset.roles.holdout
    assert np.array_equal(everything.close, bars.close)
    with pytest.raises(DataError, match="already judged"):
        ledger.open(artifact="a" * 64, closes_s=dataset.holdout_closes_s, who="test", at_utc="t")
    assert (
        ledger.open(artifact="b" * 64, closes_s=dataset.holdout_closes_s, who="test", at_utc="t").opening == 2
    )  # and it is charged


def test_a_look_at_any_of_its_bars_is_charged_to_a_holdout_whichever_study_it_is_of(tmp_path: Path) -> None:
    ledger = holdout_ledger(tmp_path)
    openings = [
        ledger.open(artifact=name, closes_s=closes_s, who="test", at_utc="t").opening
        for name, closes_s in {"a": (100, 200), "b": (110, 210), "c": (211, 300), "d": (200, 211), "e": (0, 99)}.items()
    ]
    assert openings == [1, 2, 1, 4, 1]


def test_a_ledger_of_an_earlier_version_is_refused_by_file_and_line_before_anything_is_charged(tmp_path: Path) -> None:
    trials, looks = TrialLedger(tmp_path / "ledger.jsonl"), holdout_ledger(tmp_path)
    started(trials, 0)
    trials.append({"event": "ended", "study": "s", "number": 0, "score": 1.0, "sharpe": 0.01, "failure": None})
    looks.append({"event": "opened", "artifact": "a", "tickers": ["BTC"], "who": "test", "at_utc": "t"})
    with pytest.raises(ConfigurationError, match=r"ledger\.jsonl: line 2 .*timeframe_s .*new state directory"):
        trials.sharpe_variance(study="s", timeframe_s=3600)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"holdout\.jsonl: line 1 .*closes_s .*new state directory"):
            looks.open(artifact="b", closes_s=(100, 200), who="test", at_utc="t")
    assert len(looks.records()) == 1


def test_a_record_that_just_fitted_on_a_full_disk_is_down_once_and_nobody_is_told_to_write_it_again(
    tmp_path: Path,
) -> None:
    """The record goes into the rest of the file's last page; its head would need a new one."""
    with mounted("tmpfs", tmp_path / "disk", size_mib=1) as place:
        ledger = TrialLedger(place / "ledger.jsonl")
        started(ledger, 0)
        fill(place)
        started(ledger, 1)
        with pytest.raises(OSError, match="No space"):
            (place / "another").write_bytes(b"x")
        assert [r["number"] for r in ledger.records()] == [0, 1]
        assert json.loads((place / "ledger.head").read_bytes())["records"] == 1
    assert not (tmp_path / "disk" / "ledger.jsonl").exists(), "it was a file system of its own"
