"""The doctor: each check finds what it is for, on real files, sockets, servers and the real kernel."""

import json
import os
import socket
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from binance_like import BinanceLike
from world import random_bars

from daemon.child.clock import ManualClock, SystemClock
from daemon.child.config import Config, parse
from daemon.doctor import judge
from daemon.doctor.finding import Finding
from daemon.doctor.machine import kernel_clock, packages, talib
from daemon.doctor.service import backups, daemon, disks, secrets, state, venue
from daemon.janitor.backup import make_backup
from features.files import Lock, write_atomic


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ((3, 6, 23), "fail"), ((3, 7, 0), "warn"), ((3, 40, 1), "warn"), ((3, 44, 5), "warn"), ((3, 44, 6), "ok"),
        ((3, 45, 0), "warn"), ((3, 50, 6), "warn"), ((3, 50, 7), "ok"), ((3, 51, 2), "warn"), ((3, 51, 3), "ok"),
        ((3, 52, 0), "ok"),
    ],
)  # fmt: skip
def test_the_sqlite_versions_with_the_race_are_known_with_their_backports(version: Any, level: str) -> None:
    assert judge.sqlite_version(version).level == level


@pytest.mark.parametrize(
    ("offset_s", "level"),
    [(0.0, "ok"), (-1.9, "ok"), (2.0, "warn"), (-19.0, "warn"), (20.0, "fail"), (-4000.0, "fail")],
)
def test_a_clock_that_is_off_by_more_than_the_grace_fails(offset_s: float, level: str) -> None:
    assert judge.clock_offset(offset_s, grace_s=20.0).level == level


def test_the_kernel_is_asked_about_its_clock_and_answers() -> None:
    finding = kernel_clock()
    assert finding.check == "clock" and "does not say" not in finding.text
    assert judge.clock_state(synchronised=True, max_error_s=0.004).text == "synchronised, within 4 ms"


def test_our_own_installation_passes_and_a_stranger_or_a_second_copy_does_not() -> None:
    assert packages().level == "ok" and talib().level == "ok"
    names = ("daemon", "features", "paper_trader", "trainer")
    ours = {name: ["cappuccino"] for name in names}
    home = dict.fromkeys(names, "/site")
    assert "features belongs to other too" in judge.packages({**ours, "features": ["cappuccino", "other"]}, home).text
    assert "different places" in judge.packages(ours, {**home, "trainer": "/elsewhere"}).text
    assert "trainer cannot be imported" in judge.packages(ours, {**home, "trainer": ""}).text
    assert judge.talib((0, 6)).level == "fail"


@pytest.mark.parametrize(("runs", "answers"), list(product((False, True), repeat=2)))
def test_only_a_supervisor_that_runs_and_says_nothing_is_a_fault(*, runs: bool, answers: bool) -> None:
    finding = judge.locks(supervisor_runs=runs, socket_exists=True, answers=answers)
    assert (finding.level == "fail") == (runs and not answers)


def test_a_card_whose_driver_does_not_answer_is_noticed() -> None:
    assert judge.gpu([], driver_files=["/dev/nvidia0"], device="cpu").level == "warn"
    assert judge.gpu([], driver_files=[], device="cpu").level == "ok"
    assert judge.gpu(["H100"], driver_files=["/dev/nvidia0"], device="cuda").level == "ok"
    missing = judge.gpu([], driver_files=[], device="cuda")
    assert missing.level == "fail" and "study.device" in missing.remedy


def test_only_a_failure_makes_the_exit_code_1() -> None:
    warn, fail = (Finding(check="x", level=level, text="", remedy="y") for level in ("warn", "fail"))  # type: ignore[arg-type]
    assert [judge.exit_code(f) for f in ([], [warn], [warn, fail])] == [0, 0, 1]
    with pytest.raises(AssertionError, match="helps nobody"):
        Finding(check="x", level="warn", text="")


def config(tmp_path: Path, **sections: dict[str, Any]) -> Config:
    run = {"credentials_dir": str(tmp_path / "secrets")}
    return parse({"run": run, "market": {"tickers": ["BTC", "ETH"]}, **sections})


@pytest.mark.parametrize(("mode", "level"), [(0o700, "ok"), (0o750, "warn"), (0o770, "fail"), (0o777, "fail")])
def test_a_state_directory_open_to_others_is_told_with_the_command_that_closes_it(
    tmp_path: Path, mode: int, level: str
) -> None:
    tmp_path.chmod(mode)
    found = list(state(tmp_path))
    assert found[0].level == level and (level == "ok" or found[0].remedy == f"chmod 700 {tmp_path}")


def test_a_disk_is_judged_by_the_configured_thresholds_before_the_state_directory_exists(tmp_path: Path) -> None:
    absent = tmp_path / "not" / "yet"
    limits = {"warn_free_bytes": 10**18, "resume_free_bytes": 10**17, "floor_free_bytes": 0}
    assert [f.level for f in disks(config(tmp_path, janitor=limits), absent)] == ["warn"]
    limits = {"warn_free_bytes": 2, "resume_free_bytes": 1, "floor_free_bytes": 1}
    assert [f.level for f in disks(config(tmp_path, janitor=limits), absent)] == ["ok"]
    full = judge.disk("/", free_bytes=1, total_bytes=10, free_inodes=-1, warn_bytes=9, floor_bytes=5)
    few = judge.disk("/", free_bytes=10, total_bytes=10, free_inodes=5, warn_bytes=9, floor_bytes=5)
    assert (full.level, few.level) == ("fail", "warn") and "inodes" in few.text


def test_the_secrets_that_the_configuration_needs_are_looked_for_and_their_modes_judged(tmp_path: Path) -> None:
    wanting = config(tmp_path, notify={"enabled": True})
    assert [(f.check, f.level) for f in secrets(config(tmp_path))] == [("credentials", "ok")]
    missing = next(iter(secrets(wanting)))
    assert missing.level == "fail" and "notify_urls or ping_url" in missing.text
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "ping_url").write_text("https://hc-ping.example/1234")
    (folder / "ping_url").chmod(0o600)
    assert [f.level for f in secrets(wanting)] == ["ok"]
    (folder / "old").write_text("x")
    (folder / "old").chmod(0o644)
    (folder / "ping_url").chmod(0o640)
    found = [f for f in secrets(wanting) if f.level == "fail"]
    assert {f.check for f in found} == {"secrets"} and len(found) >= 2
    assert "1234" not in " ".join(f.text for f in found)


def test_backups_that_are_no_longer_made_are_noticed(tmp_path: Path) -> None:
    clock = ManualClock()

    def found() -> tuple[str, str]:
        (finding,) = backups(config(tmp_path), tmp_path, clock)
        return finding.level, finding.text

    assert found() == ("ok", "none yet")
    write_atomic(tmp_path / "champion.json", b'{"champion": null, "holds": "p", "history": []}')
    made = make_backup(tmp_path, clock)
    for days, level in ((0, "ok"), (1.9, "ok"), (0.2, "warn")):
        clock.sleep(days * 86_400)
        assert found()[0] == level
    assert "2.1 days old" in found()[1]
    (made.folder / "manifest.json").write_text("{")
    assert found()[0] == "fail" and made.name in found()[1]


def test_a_held_lock_without_an_answer_is_a_stuck_supervisor(tmp_path: Path) -> None:
    assert daemon(tmp_path).text == "does not run"
    (tmp_path / "run").mkdir()
    with Lock(tmp_path / "run" / "supervisor.lock"):
        assert daemon(tmp_path).level == "fail"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "run" / "control.sock"))
    assert daemon(tmp_path).level == "ok" and "left its socket" in daemon(tmp_path).text


def market_at(tmp_path: Path, api_url: str) -> Config:
    """Binance's API at a server of ours, as an operator would name a mirror."""
    return config(tmp_path, market={"tickers": ["BTC", "ETH"], "api_url": api_url})


def test_a_venue_that_answers_is_asked_through_the_services_own_client(tmp_path: Path) -> None:
    bars = random_bars(1, tickers=("BTC", "ETH"))
    with BinanceLike(truth=bars, now_s=float(bars.last_close_s)) as server:
        (found, *_) = venue(market_at(tmp_path, server.api_url), SystemClock())
    assert found.level == "ok" and "ccxt:binance answers; rules of 2 tickers" in found.text


def test_a_venue_that_is_not_there_is_given_up_within_seconds(tmp_path: Path) -> None:
    began_s = SystemClock().monotonic_s()
    (found,) = venue(market_at(tmp_path, "http://127.0.0.1:9"), SystemClock())
    assert found.level == "fail" and found.remedy
    assert SystemClock().monotonic_s() - began_s < 25


@pytest.mark.parametrize("source", ["recorded", "simulated"])
def test_candles_that_are_not_there_are_a_finding(tmp_path: Path, source: str) -> None:
    market = {"source": source, "recorded_path": str(tmp_path / "absent.parquet"), "tickers": ["BTC", "ETH"]}
    (found,) = venue(config(tmp_path, market=market, simulation={"world": "bootstrap"}), SystemClock())
    assert found.level == "fail" and "absent.parquet" in found.text and found.remedy


def test_a_link_among_the_secrets_that_leads_nowhere_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "old").symlink_to(tmp_path / "nowhere")
    assert [f.level for f in secrets(config(tmp_path))] == ["ok"]


def test_a_source_that_tells_its_clock_has_ours_compared_with_it(tmp_path: Path) -> None:
    class Told:
        name = "told"

        def venue_rules(self) -> Any:
            return type("Rules", (), {"rules": (1, 2)})()

        def clock_offset_s(self) -> float:
            return 31.0

    found = list(venue(config(tmp_path), SystemClock(), open_=lambda *_, **__: Told()))  # type: ignore[arg-type,return-value]
    assert [(f.check, f.level) for f in found] == [("venue", "ok"), ("clock offset", "fail")]


def ctl(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "daemon", "doctor", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, "HOME": str(cwd)}
    )


def test_doctor_as_a_person_and_as_a_script_calls_it(tmp_path: Path) -> None:
    given = tmp_path / "given.toml"
    given.write_text(
        "[market]\nsource = 'simulated'\n[janitor]\nwarn_free_bytes = 2\nresume_free_bytes = 1\nfloor_free_bytes = 1\n"
    )
    words = ("--config", str(given), "--state-dir", str(tmp_path / "state"))
    done = ctl(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✔ configuration" in done.stdout and "✔ venue" in done.stdout and "✔ ta-lib" in done.stdout
    record = json.loads(ctl(*words, "--json", "--offline", cwd=tmp_path).stdout)
    assert record["schema"] == 1
    assert {f["check"] for f in record["findings"]} >= {
        "configuration", "clock", "sqlite", "packages", "ta-lib", "gpu", "unit", "state", "disk", "credentials",
        "backups", "daemon",
    }  # fmt: skip
    assert all(f["remedy"] for f in record["findings"] if f["level"] != "ok")


@pytest.mark.parametrize("setting", ["study.workers=99", "daemon.worker_cpus=x", "daemon.stop_grace_trader_s=60.0"])
def test_what_the_daemon_would_refuse_is_a_finding(tmp_path: Path, setting: str) -> None:
    done = ctl("--offline", "--set", setting, "--state-dir", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 1 and "✖ configuration" in done.stdout and setting.partition("=")[0] in done.stdout


def test_a_broken_configuration_is_a_finding_and_the_machine_is_looked_at_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "given.toml").write_text("[study]\nworker = 2\n")
    done = ctl("--config", str(tmp_path / "given.toml"), cwd=tmp_path)
    assert done.returncode == 1
    assert "✖ configuration unknown key study.worker\n  → did you mean workers?" in done.stdout
    assert "sqlite" in done.stdout
