"""`cappuccinoctl data` as an operator runs it: real processes, a real client, a local venue."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from binance_like import BinanceLike
from rig import HOUR, START_S, TICKERS, truth_bars, with_gap

from features.bars import Bars, candles_from_bars, utc_text
from features.sources.simulated import simulate
from features.store.candles import Candles
from features.store.store import CandleStore

PROGRAM = Path(sys.executable).with_name("cappuccinoctl")
SHORT = 1500


class Operator:
    """Runs the program on one state directory and one venue."""

    def __init__(self, state_dir: Path, venue: BinanceLike) -> None:
        self.state_dir, self.venue = state_dir, venue

    def command(self, *words: str) -> list[str]:
        settings = {
            "market.source": "ccxt", "market.exchange": "binance", "market.tickers": json.dumps(TICKERS),
            "market.api_url": self.venue.api_url,
        }  # fmt: skip
        given = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        return [str(PROGRAM), "data", *words, "--state-dir", str(self.state_dir), *given]

    def run(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code in (0, 1) and done.stdout else done.stderr

    def told(self, *words: str, code: int = 0) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.run(*words, "--json", code=code))
        return record

    def stored(self, ticker: str) -> Candles:
        shelf = CandleStore(self.state_dir / "market").shelf("binance", HOUR, f"{ticker}-USDT")
        return shelf.candles(after_s=0, until_s=1 << 62)

    def files(self) -> dict[str, bytes]:
        root = self.state_dir / "market"
        return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    def month(self, ticker: str, name: str) -> Path:
        return self.state_dir / "market" / "binance" / "1h" / f"{ticker}-USDT" / f"{name}.parquet"


def market(n_bars: int) -> Bars:
    """A gap of one ticker, one of all, and a ticker that is listed late."""
    truth = with_gap(with_gap(truth_bars(n_bars), 1, 100, 110), slice(None), 300, 304)
    filled = truth.filled.copy()
    filled[:200, 2] = True
    return replace(truth, filled=filled)


def true_candles(truth: Bars, ticker: str) -> Candles:
    table = candles_from_bars(truth)
    return Candles.of_source(table[table["ticker"] == ticker], timeframe_s=HOUR)


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    truth = market(SHORT + 100)
    with BinanceLike(truth=truth, now_s=START_S + SHORT * HOUR + 60.0) as venue:
        yield Operator(tmp_path, venue)


SINCE, UNTIL = ("--since", utc_text(START_S)), ("--until", utc_text(START_S + SHORT * HOUR))


def test_a_download_is_the_venues_truth_and_tells_counts_gaps_and_hash(operator: Operator) -> None:
    told = operator.told("download", *SINCE, *UNTIL)
    truth = operator.venue.truth.slice(0, SHORT)
    for ticker, row in zip(TICKERS, told["pairs"], strict=True):
        expected = true_candles(truth, ticker)
        assert (row["candles"], row["added"], row["sha256"]) == (len(expected), len(expected), expected.sha256())
        assert operator.stored(ticker).sha256() == expected.sha256()
    assert [(g["bars"], g["first_close_utc"]) for g in told["pairs"][1]["gaps"]] == [
        (10, utc_text(START_S + 101 * HOUR)), (4, utc_text(START_S + 301 * HOUR)),
    ]  # fmt: skip
    assert told["sha256"] == operator.told("hash")["sha256"]
    before = len(operator.venue.asked())
    assert [row["added"] for row in operator.told("download", *SINCE, *UNTIL)["pairs"]] == [0, 0, 0]
    assert len(operator.venue.asked()) == before
    assert "clean" not in operator.run("verify") and "14 bars the venue has not" in operator.run("verify")


def test_an_update_adds_what_has_closed_and_reports_what_the_venue_says_otherwise(operator: Operator) -> None:
    operator.run("download", *SINCE, *UNTIL)
    truth = operator.venue.truth
    volume = truth.volume.copy()
    volume[SHORT - 20, 0] += 1.0
    operator.venue.truth = replace(truth, volume=volume)
    operator.venue.now_s += 5 * HOUR
    told = operator.told("update")
    assert [row["added"] for row in told["pairs"]] == [5, 5, 5]
    (revision,) = told["pairs"][0]["revised"]
    assert revision["new"][4] == revision["old"][4] + 1.0
    assert operator.told("show")["pairs"][0]["revisions"] == 1
    assert "BTC-USDT: 1 late revisions" in operator.run("verify")


def test_what_is_damaged_is_named_by_verify_and_healed_by_repair_and_the_damaged_file_is_kept(
    operator: Operator,
) -> None:
    operator.run("download", *SINCE, *UNTIL)
    whole = operator.files()
    torn, lost = operator.month("BTC", "2022-01"), operator.month("ETH", "2022-02")
    torn.write_bytes(torn.read_bytes()[:-50])
    lost.unlink()
    answered = operator.month("LINK", "x").with_name("answered.json")
    answered.write_text("{")
    found = operator.told("verify", code=1)["findings"]
    assert {f["path"] for f in found} == {str(torn), str(lost), str(answered)}
    assert {f["remedy"] for f in found} == {"cappuccinoctl data repair"}
    assert "is damaged" in operator.run("show", code=1)
    healed = operator.told("repair")["pairs"]
    assert healed["BTC-USDT"]["replaced"]["2022-01"] and healed["ETH-USDT"]["replaced"] == {"2022-02": None}
    assert (
        Path(healed["BTC-USDT"]["replaced"]["2022-01"]).read_bytes()
        == whole["binance/1h/BTC-USDT/2022-01.parquet"][:-50]
    )
    now, refilled = operator.files(), "binance/1h/LINK-USDT/answered.json"  # its ranges now begin with the month
    assert {name: now[name] for name in whole if name != refilled} == {n: b for n, b in whole.items() if n != refilled}
    assert operator.stored("LINK").sha256() == true_candles(operator.venue.truth.slice(0, SHORT), "LINK").sha256()
    assert operator.told("verify")["findings"] == []


def test_a_repair_asks_for_gaps_again_and_says_what_the_venue_has_not(operator: Operator) -> None:
    truth = operator.venue.truth
    operator.run("download", *SINCE, *UNTIL)
    filled = truth.filled.copy()
    filled[300:304, 0] = False
    operator.venue.truth = replace(truth, filled=filled)
    healed = operator.told("repair")["pairs"]
    assert (healed["BTC-USDT"]["filled"], healed["BTC-USDT"]["missing"]) == (4, 0)
    assert (healed["ETH-USDT"]["filled"], healed["ETH-USDT"]["missing"]) == (0, 14)


def test_a_damaged_month_stays_until_the_venue_answers(operator: Operator) -> None:
    operator.run("download", *SINCE, *UNTIL)
    torn = operator.month("BTC", "2022-01")
    torn.write_bytes(broken := torn.read_bytes()[:-50])
    filled = np.ones_like(operator.venue.truth.filled)
    operator.venue.truth = replace(operator.venue.truth, filled=filled)  # a venue that has forgotten it all
    assert operator.told("repair", code=1)["pairs"]["BTC-USDT"]["failed"]
    assert torn.read_bytes() == broken


def test_show_tells_coverage_rules_and_the_clock_and_needs_no_venue(operator: Operator) -> None:
    operator.run("download", *SINCE, *UNTIL)
    operator.venue.now_s = time.time()
    told = operator.told("show")
    assert told["pairs"][1]["missing_bars"] == 14 and 0 < told["pairs"][1]["filled_share"] < 0.01
    assert told["rules"]["rules"]["LINK"] == {"lot": "0.00001", "tick": "0.01", "min_notional": "5"}
    assert abs(told["clock_offset_s"]) < 30
    coarse = operator.told("show", "--resample", "4h")
    assert coarse["timeframe"] == "4h" and coarse["pairs"][0]["candles"] == SHORT // 4 - 1
    assert operator.told("hash", "--resample", "4h")["pairs"]["BTC-USDT"] == coarse["pairs"][0]["sha256"]
    operator.venue.__exit__(None, None, None)
    alone = operator.told("show")
    assert alone["clock_offset_s"] is None and alone["clock_problem"]
    assert alone["pairs"] == told["pairs"]


@pytest.mark.parametrize("kills", [4, pytest.param(32, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_download_killed_at_random_moments_ends_with_the_same_bytes_as_one_left_alone(
    tmp_path: Path, kills: int
) -> None:
    """SIGKILL, again and again, somewhere in a page: asked, half written, or just committed."""
    truth, rng = market(1000 * 2 * (kills + 4) // 3), np.random.default_rng(kills)
    span = (*SINCE, "--until", utc_text(truth.last_close_s))
    with BinanceLike(truth=truth, now_s=truth.last_close_s + 60.0) as venue:
        disturbed, alone = Operator(tmp_path / "disturbed", venue), Operator(tmp_path / "alone", venue)
        killed = 0
        while killed < kills:
            before, pages = len(venue.asked()), int(rng.integers(1, 3))
            process = subprocess.Popen(
                disturbed.command("download", *span), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while len(venue.asked()) < before + pages and process.poll() is None:
                time.sleep(0.002)
            time.sleep(float(rng.uniform(0.0, 0.12)))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, "the download was over before it could be killed"
            killed += 1
        told = disturbed.told("download", *span)
        alone.run("download", *span)
        for ticker in TICKERS:
            assert disturbed.stored(ticker).sha256() == true_candles(truth, ticker).sha256()
        assert disturbed.files() == alone.files()
        assert told["sha256"] == alone.told("hash")["sha256"]


def test_recorded_and_simulated_markets_can_be_copied_into_the_store(tmp_path: Path) -> None:
    settings = (
        "--set",
        "market.source=simulated",
        "--set",
        "simulation.bars=500",
        "--set",
        'market.tickers=["BTC","ETH"]',
    )
    command = [str(PROGRAM), "data", "download", "--json", "--state-dir", str(tmp_path), *settings]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert told["venue"].startswith("simulated-planted-seed11-")
    assert [row["candles"] for row in told["pairs"]] == [500, 500]


def test_two_records_of_one_name_are_two_markets_of_the_store(tmp_path: Path) -> None:
    hashes = {}
    for place, seed in (("one", 1), ("other", 2)):
        bars = simulate(world="sv", seed=seed, bars=300, tickers=("BTC",), timeframe_s=HOUR, start_s=START_S)
        record = tmp_path / place / "candles.parquet"
        record.parent.mkdir()
        candles_from_bars(bars).to_parquet(record)
        settings = ["market.source=recorded", 'market.tickers=["BTC"]', f"market.recorded_path={record}"]
        overrides = [word for setting in settings for word in ("--set", setting)]
        command = [str(PROGRAM), "data", "download", "--json", "--state-dir", str(tmp_path / "state"), *overrides]
        told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        (row,) = told["pairs"]
        assert (row["candles"], row["added"], row["revised"]) == (300, 300, [])
        hashes[told["venue"]] = told["sha256"]
    assert len(set(hashes)) == len(set(hashes.values())) == 2


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("download", "--resample", "4h"), 64, "--resample goes with show and hash"),
        (("hash", "--since", "yesterday"), 1, "is no time"),
        (("hash", "--since", "2022-01-02T00:00:00Z", "--until", "2022-01-01T00:00:00Z"), 78, "no bar lies between"),
        (("show", "--timeframe", "hour"), 1, "is no timeframe"),
        (("update",), 78, "cappuccinoctl data download"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_the_remedy(
    operator: Operator, words: tuple[str, ...], code: int, says: str
) -> None:
    assert says in operator.run(*words, code=code)


def test_the_progress_of_a_download_is_on_stderr_and_its_result_alone_on_stdout(operator: Operator) -> None:
    command = operator.command("download", "--json", *SINCE, *UNTIL)
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "100"})
    assert json.loads(done.stdout)["pairs"] and f"{SHORT * 3}/{SHORT * 3}" in done.stderr
