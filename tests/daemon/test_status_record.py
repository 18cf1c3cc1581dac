"""The record and its drawing: what is shown is what is known, on a phone, in order of urgency."""

import json
import re
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.status.alerts import alerts
from daemon.status.pace import Ended, pace
from daemon.status.record import (
    Advice,
    Alert,
    Best,
    Champion,
    Child,
    Daemon,
    Disk,
    Gpu,
    OtherSchema,
    Pace,
    Paper,
    Status,
    Study,
    last_known,
    parse,
)  # fmt: skip
from daemon.status.render import exit_code, render, rough, span

LIMITS: Any = {"timeframe_s": 3600, "gpu_warn_c": 80.0, "gpu_pause_c": 85.0}
FULL = Status(
    schema=1, daemon=Daemon(state="running", pid=4242, up_s=8000.0, written_utc="2026-01-01T00:00:00+00:00"),
    children=(
        Child(name="paper_trader", kind="paper_trader", state="running", pid=1, for_s=8000, note="bar 17:00 equity 10000"),
        Child(name="worker-0", kind="worker", state="running", pid=2, for_s=61, restarts=2, note="trial 41 " + "fold " * 40),
        Child(name="worker-1", kind="worker", state="backoff", failures=3, next_start_s=3.2, last_exit="signal 9"),
        Child(name="advisor", kind="advisor", state="fatal", failures=1, last_exit="exit 78"),
    ),
    study=Study(
        name="default", target=200, complete=60, running=2, given_up=4, failed=3, handed_back=1, samples_per_s=52_000.0,
        best=Best(number=41, score=3.21, artifact="ab" * 32, dsr=0.41, dsr_threshold="≥ 0.95"),
        pace=Pace(median_s=288.0, per_hour=24.1, busy=0.97, eta_s=20_000.0, eta_low_s=18_000.0, eta_high_s=22_000.0),
    ),
    champion=Champion(
        champion=None, holds="cd" * 32, study="default", trial=41, decided_utc="2026-01-01T00:00:00+00:00",
        reason="No champion: G2", failed_gates=("G2", "G3"),
    ),
    paper=Paper(
        state="trading", artifact="cd" * 32, last_close_utc="2026-01-01T17:00:00Z", equity=10_123.45, cash=5000.0,
        weights={"BTC": 0.3, "ETH": 0.2, "LTC": 0.0}, drawdown=0.023, return_since_start=0.0123, decisions=120, fills=45,
        last_decision_utc="2026-01-01T17:00:00+00:00", decision_age_s=1380.0,
    ),
    advice=Advice(summary="60 trials analysed: learning_rate matters; gamma range too narrow", created_utc="2026-01-01"),
    disks=(Disk(path="/", used_by=(".",), free_bytes=10**9, total_bytes=250 * 10**9, below_warning=True, below_floor=True),),
    gpus=(Gpu(index=0, name="NVIDIA H100 80GB HBM3", memory_total_bytes=85 * 10**9, memory_used_bytes=12 * 10**9,
              utilisation=0.87, temperature_c=83.0),),
    alerts=(), state_dir="/var/lib/cappuccino",
)  # fmt: skip
FULL = replace(FULL, alerts=alerts(FULL, **LIMITS))


def test_a_status_survives_its_json_form_unchanged() -> None:
    assert parse(json.loads(json.dumps(asdict(FULL)))) == FULL
    empty = replace(FULL, champion=None, paper=None, advice=None, children=(), gpus=(), alerts=())
    assert parse(json.loads(json.dumps(asdict(empty)))) == empty


def test_a_key_added_within_the_schema_is_read_past_and_another_schema_is_refused_by_number() -> None:
    record = json.loads(json.dumps(asdict(FULL)))
    record["tomorrow"] = record["daemon"]["tomorrow"] = record["children"][0]["tomorrow"] = 1
    assert parse(record) == FULL
    with pytest.raises(OtherSchema, match=r"schema 2.*reads 1.*restart the daemon"):
        parse({**record, "schema": 2})


@pytest.mark.parametrize(("width", "colour"), list(product((48, 60, 100), (False, True))))
def test_no_line_is_wider_than_the_screen(width: int, *, colour: bool) -> None:
    drawn = re.sub(r"\033\[\d+m", "", render(replace(FULL, state_dir="/s"), width=width, colour=colour))
    assert max(map(len, drawn.splitlines())) <= width, drawn


def test_colour_adds_escape_codes_and_changes_nothing_else() -> None:
    plain, coloured = render(FULL), render(FULL, colour=True)
    assert "\033" not in plain and "\033[31m" in coloured
    assert re.sub(r"\033\[\d+m", "", coloured) == plain


def test_everything_an_operator_asks_for_is_on_the_screen() -> None:
    drawn = render(FULL)
    for words in (
        "running  up 2 h 13 min", "worker-1     backoff    starts in 3 s", "last signal 9, failures in a row: 3", "2 restarts",
        "67 of 200", "60 complete, 2 running, 3 failed, 4 given up, 1 tried", "24.1 trials/h, median 4 min 48 s, workers",
        "workers 97 % busy", "52,000 account-steps/s", "done in 5.6 h (5.0 h to 6.1 h, 90 %)",
        "best: trial 41, score +3.21 (t over 1/N)", "its deflated Sharpe: 0.41 (must be ≥ 0.95)",
        "none; the trader holds cdcdcdcdcdcd (failed G2, G3)", "equity 10,123.45  +1.23 % net", "drawdown 2.3 %",
        "last decision 23 min 0 s ago", "holds BTC 30 %, ETH 20 %", "120 decisions (all as trained), 45 fills",
        "/  1.0 GB free of 250 GB  BELOW FLOOR", "11.2 of 79 GiB, 87 % busy, 83 °C", "learning_rate matters",
        "✖ advisor was given up (exit 78)", "→ cappuccinoctl logs advisor; mend it; cappuccinoctl retry", "▲ GPU 0 is at 83 °C",
    ):  # fmt: skip
        assert words in drawn, f"{words!r} is missing from\n{drawn}"
    assert drawn.index("✖ advisor was given up") < drawn.index("▲ GPU 0") < drawn.index("children")


def test_without_a_judgement_of_the_best_trial_no_deflated_sharpe_is_claimed() -> None:
    best = Best(number=1, score=1.0, artifact="a")
    assert "not judged yet" in render(replace(FULL, study=replace(FULL.study, best=best)))


def test_a_healthy_service_has_no_alert_and_exit_code_0() -> None:
    fine = replace(
        FULL, gpus=(), children=FULL.children[:2],
        disks=(replace(FULL.disks[0], below_floor=False, below_warning=False),),
    )  # fmt: skip
    assert alerts(fine, **LIMITS) == ()
    assert exit_code(fine) == 0


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({"paper": replace(FULL.paper, state="halted", reason="drawdown 0.4")}, "fail", "halted: drawdown 0.4"),  # type: ignore[type-var]
        ({"paper": replace(FULL.paper, mismatches=1)}, "fail", "1 decisions differ"),  # type: ignore[type-var]
        ({"paper": replace(FULL.paper, decision_age_s=9001.0)}, "warn", "no decision for more than two bars"),  # type: ignore[type-var]
        ({"gpus": (replace(FULL.gpus[0], temperature_c=85.0),)}, "fail", "85 °C"),
        ({"gpus": (replace(FULL.gpus[0], temperature_c=80.0),)}, "warn", "80 °C"),
        ({"children": (replace(FULL.children[0], flapping=True),)}, "warn", "flapping"),
        ({"children": (replace(FULL.children[0], state="unkillable"),)}, "fail", "does not die"),
    ],
)
def test_what_is_wrong_is_said_with_its_remedy(change: dict[str, object], level: str, words: str) -> None:
    found = [a for a in alerts(replace(FULL, **change), **LIMITS) if words in a.text]  # type: ignore[arg-type]
    assert found and found[0].level == level and found[0].remedy


def test_alerts_come_worst_first() -> None:
    levels = [a.level for a in FULL.alerts]
    assert levels == sorted(levels, key=("fail", "warn", "info").index) and len(set(levels)) == 2
    assert isinstance(FULL.alerts[0], Alert)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (replace(FULL, children=FULL.children[:2]), 0), (replace(FULL, children=FULL.children[:3]), 2), (FULL, 2),
        (last_known(FULL, down=False, age_s=40.0), 3), (last_known(FULL, down=True, age_s=40.0), 4),
    ],
)  # fmt: skip
def test_the_exit_code_says_ok_degraded_fatal_or_down(status: Status, code: int) -> None:
    assert exit_code(status) == code


def test_a_daemon_that_is_down_shows_its_last_state_as_such_and_no_child_alive() -> None:
    down = last_known(FULL, down=True, age_s=125.0)
    assert "DOWN (last known state)  2 min 5 s old" in render(down)
    assert all(c.state == "down" and c.pid is None for c in down.children)
    assert "DOES NOT ANSWER" in render(last_known(FULL, down=False, age_s=31.0))


@given(st.floats(0, 1e9))
def test_durations_are_never_longer_than_two_units(seconds: float) -> None:
    assert re.fullmatch(r"\d+ (d|h|min) \d+ (h|min|s)|\d+ s", span(seconds))
    assert re.fullmatch(r"\d+(\.\d)? (d|h|min|s)", rough(seconds))


def test_the_90_percent_interval_of_the_eta_holds_the_truth_about_as_often_as_it_says() -> None:
    """400 planted studies: log-normal durations, 30 seen, 100 to go on 3 workers; the true end is simulated."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(400):
        took = rng.lognormal(5.0, 0.5, 130)
        seen, coming, free_at = took[:30], took[30:], np.zeros(3)
        for t in coming:
            free_at[np.argmin(free_at)] += t
        said = pace(
            [Ended(at_s=t, took_s=t) for t in seen], running_for_s=[0, 0, 0], remaining=100, workers=3, now_s=1e4
        )
        assert said.eta_low_s is not None and said.eta_high_s is not None
        held += said.eta_low_s <= free_at.max() <= said.eta_high_s
    assert 0.84 <= held / 400 <= 0.96, held


@given(st.integers(0, 50), st.integers(0, 4), st.lists(st.floats(1, 1e5), max_size=20))
def test_an_eta_is_an_ordered_interval_or_nothing_at_all(remaining: int, workers: int, took: list[float]) -> None:
    running = [10.0] * min(workers, remaining)
    said = pace(
        [Ended(at_s=1e6, took_s=t) for t in took],
        running_for_s=running,
        remaining=remaining,
        workers=workers,
        now_s=1e6,
    )
    if remaining and workers and len(took) >= 2:
        assert said.eta_low_s is not None and said.eta_s is not None and said.eta_high_s is not None
        assert 0 <= said.eta_low_s <= said.eta_s <= said.eta_high_s < 1e9
    else:
        assert said.eta_s is said.eta_low_s is said.eta_high_s is None
    assert said.busy is None or 0 <= said.busy <= 1


def test_duration_arrival_and_utilisation_are_three_numbers() -> None:
    """Two workers, six trials of 600 s end within the last hour: 6 per hour, but the workers were half idle."""
    now_s = 10_000.0
    ended = [Ended(at_s=now_s - 3000 + 500 * k, took_s=600.0) for k in range(6)]
    said = pace(ended, running_for_s=[], remaining=10, workers=2, now_s=now_s)
    assert said.median_s == 600.0
    assert said.per_hour == pytest.approx(6.0, rel=0.05)
    assert said.busy == pytest.approx(6 * 600 / (2 * 3600), rel=0.05)
