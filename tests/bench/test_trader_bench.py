"""The paper trader as a process: how fast it decides and orders, how fast it is up again, what it holds in memory.

Promises: from a bar at hand to its orders acknowledged by the embedded broker in 50 ms for 99 of 100 decisions at 7
tickers; 200 MB resident, no torch; 3 s from start to ready on a store of 35,000 bars. All three are of the machine as
much as of the program: run it on a quiet one.
"""

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from binance_like import BinanceLike
from desk import artifact, command, promote

from daemon.child.clock import SystemClock
from daemon.child.config import Config, parse
from daemon.child.market import Waiting, bar_source
from features.sources.simulated import simulate

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]
TICKERS = ("AAVE", "AVAX", "BTC", "ETH", "LINK", "LTC", "UNI")
STORED_BARS, DECISIONS, STARTS, LIVE_BARS = 35_000, 400, 5, 2
MINUTE_S = 60
MOST_MB = 200.0
LOG = "foreground-run.jsonl"


class Life:
    """One process of the trader, watched from outside."""

    def __init__(self, config: Config, state_dir: Path) -> None:
        self._state_dir, self._log = state_dir, state_dir / "logs" / LOG
        self.began_s = time.monotonic()
        self.process = subprocess.Popen(command(config, state_dir), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def ready_s(self) -> float:
        """Seconds from the start until books and policy are loaded and the next bar would be traded."""
        while True:
            assert self.process.poll() is None, self.process.communicate()[1][-2000:]
            for event in map(json.loads, self._log.read_text().splitlines()) if self._log.exists() else ():
                if event["event"] == "trader.policy" and event["mono"] > self.began_s:
                    return float(event["mono"]) - self.began_s
            time.sleep(0.01)

    def memory(self) -> dict[str, float]:
        """Resident megabytes, and private ones: pages of libraries that other programs map too are resident in each."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        kilobytes = {line.split(":")[0]: line.split(":")[1].split()[0] for line in rollup.splitlines()[1:]}
        return {
            "rss": int(kilobytes["Rss"]) / 1000,
            "private": (int(kilobytes["Private_Clean"]) + int(kilobytes["Private_Dirty"])) / 1000,
        }

    def maps_torch(self) -> bool:
        return "torch" in Path(f"/proc/{self.process.pid}/maps").read_text()

    def status(self) -> dict[str, Any]:
        path = self._state_dir / "paper" / "status.json"
        found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {"decisions": 0}
        return found

    def watch(self, decisions: int) -> dict[str, float]:
        """Until so many were taken; the most memory seen on the way."""
        most = {"rss": 0.0, "private": 0.0}
        while self.process.poll() is None and self.status()["decisions"] < decisions:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                most = {k: max(most[k], v) for k, v in self.memory().items()}
            time.sleep(1.0)  # looking at its memory stops it for a moment
        return most

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        said = self.process.communicate(timeout=30)[1]
        assert self.process.returncode == 0, said[-2000:]


def test_a_decision_is_ordered_and_acknowledged_in_time(tmp_path: Path) -> None:
    config = parse({
        "market": {"source": "simulated", "tickers": list(TICKERS)},
        "simulation": {"world": "sv", "seed": 5, "bars": 1200 + DECISIONS + 200},
        "paper": {"clock": "replay", "replay_start_utc": "2021-02-20T00:00:00Z", "replay_bars_per_s": 15.0},
        "risk": {"daily_loss": 0.0, "max_drawdown": 0.99},
    })  # fmt: skip
    promote(tmp_path, artifact(config))
    life = Life(config, tmp_path)
    life.ready_s()
    most = life.watch(DECISIONS)
    torch, status = life.maps_torch(), life.status()
    life.stop()
    p50_s, p99_s = status["latency_p50_s"], status["latency_p99_s"]
    print(
        f"\nreplay, {len(TICKERS)} tickers, {status['decisions']} decisions, {status['fills']} fills: bar at hand to orders"
        f" acknowledged p50 {1e3 * p50_s:.1f} ms, p99 {1e3 * p99_s:.1f} ms; {most['rss']:.0f} MB resident,"
        f" {most['private']:.0f} MB of its own, torch {'loaded' if torch else 'not loaded'}; load {os.getloadavg()[0]:.1f}"
    )
    assert status["fills"] > DECISIONS and not torch and most["rss"] <= MOST_MB


@pytest.fixture
def venue() -> Iterator[BinanceLike]:
    """A venue whose clock is the machine's, with the stored minutes and the next ones."""
    start_s = (int(time.time()) // MINUTE_S - STORED_BARS) * MINUTE_S
    truth = simulate(
        world="null", seed=5, bars=STORED_BARS + 60, tickers=TICKERS, timeframe_s=MINUTE_S, start_s=start_s
    )
    ended = threading.Event()
    with BinanceLike(truth=truth, now_s=time.time()) as running:

        def tick() -> None:
            while not ended.wait(0.02):
                running.now_s = time.time()

        clock = threading.Thread(target=tick)
        clock.start()
        yield running
        ended.set()
        clock.join()


def test_a_trader_is_ready_on_years_of_stored_bars_and_trades_live_in_bounded_memory(
    venue: BinanceLike, tmp_path: Path
) -> None:
    config = parse({
        "market": {
            "source": "ccxt", "exchange": "binance", "quote": venue.quote, "tickers": list(TICKERS), "timeframe_s": MINUTE_S,
            "history_bars": STORED_BARS, "api_url": venue.api_url, "grace_s": 2.0,
        },
        "risk": {"daily_loss": 0.0, "max_drawdown": 0.99},
    })  # fmt: skip
    source = bar_source(config, tmp_path, Waiting(clock=SystemClock()))
    stored = source.bars(after_s=source.first_close_s() - MINUTE_S, until_s=source.last_close_s())
    simulated = parse({
        "market": {"source": "simulated", "tickers": list(TICKERS), "timeframe_s": MINUTE_S}, "simulation": {"bars": 1400}
    })  # fmt: skip
    promote(tmp_path, artifact(simulated))
    took_s = []
    for _ in range(STARTS + 1):  # the first begins the account
        life = Life(config, tmp_path)
        took_s.append(life.ready_s())
        life.stop()
    life = Life(config, tmp_path)
    life.ready_s()
    most = life.watch(life.status()["decisions"] + LIVE_BARS)
    torch, status = life.maps_torch(), life.status()
    life.stop()
    print(
        f"\nlive through ccxt, {len(TICKERS)} tickers, {stored.n_bars} bars stored: start to ready least"
        f" {min(took_s[1:]):.2f} s, median {np.median(took_s[1:]):.2f} s of {STARTS} (first of an account {took_s[0]:.2f} s);"
        f" {status['decisions']} live decisions, p50 {1e3 * status['latency_p50_s']:.1f} ms;"
        f" {most['rss']:.0f} MB resident, {most['private']:.0f} MB of its own, torch {'loaded' if torch else 'not loaded'};"
        f" load {os.getloadavg()[0]:.1f}"
    )
    assert stored.n_bars >= STORED_BARS - 2 and status["decisions"] >= LIVE_BARS
    assert not torch and most["rss"] <= MOST_MB
