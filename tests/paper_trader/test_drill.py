"""The fire drill: it passes where the kill switch works, and fails where it does not."""

import json
from pathlib import Path

import pytest
from desk import opened, settings, trader

from daemon.child.clock import ManualClock
from daemon.child.market import costs
from paper_trader import drill, risk


@pytest.mark.parametrize("limit", [0.05, 0.35, 0.9])
def test_a_working_kill_switch_passes_at_its_own_limit(limit: float, tmp_path: Path) -> None:
    done = drill.kill_switch(risk.Limits(max_drawdown=limit), costs(settings()), tmp_path)
    assert done.passed, done.text
    assert limit <= done.drawdown < limit + 0.06
    assert list(tmp_path.iterdir()) == []  # nothing of the shadow account is left


def test_a_limit_that_is_off_is_no_kill_switch(tmp_path: Path) -> None:
    assert not drill.kill_switch(risk.Limits(), costs(settings()), tmp_path).passed


@pytest.mark.parametrize("broken", ["never", "late", "forgets"])
def test_a_kill_switch_that_does_not_work_fails(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three ways to be broken: silent, late, and not latched over a restart."""
    real = risk.alarm
    match broken:
        case "never":
            monkeypatch.setattr(risk, "alarm", lambda *_: None)
        case "late":
            loose = risk.Limits(max_drawdown=0.6)
            monkeypatch.setattr(risk, "alarm", lambda _, state, view: real(loose, state, view))
        case "forgets":
            monkeypatch.setattr(drill.Journal, "halt", lambda *_: None)
    assert not drill.kill_switch(risk.Limits(max_drawdown=0.35), costs(settings()), tmp_path).passed


def test_the_trader_drills_when_it_starts_and_again_after_a_week(tmp_path: Path) -> None:
    config = opened(tmp_path)
    trader(config, tmp_path).run()
    (first,) = drill.read_jsonl(tmp_path / "paper" / "drills.jsonl")
    assert first["passed"]
    assert json.loads((tmp_path / "paper" / "status.json").read_bytes())["drill_passed"] is True
    clock = ManualClock(drill.datetime.fromisoformat(first["at_utc"]))
    clock.sleep(7 * 86_400.0 - 1)
    assert not drill.is_due(first, clock)
    clock.sleep(1)
    assert drill.is_due(first, clock)


def test_a_failed_drill_halts_the_trader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = opened(tmp_path)
    monkeypatch.setattr(drill, "_fall", lambda *_: (0.0, 0.9))
    trader(config, tmp_path).run()
    status = json.loads((tmp_path / "paper" / "status.json").read_bytes())
    assert status["state"] == "halted" and "drill failed" in status["reason"] and status["decisions"] == 0
