"""What the trader sits out: it waits, alive, asks no faster than it may, and goes on where it was."""

import json
from pathlib import Path
from typing import Any

import pytest
from binance_like import BinanceLike
from desk import trader
from mounts import fill, mounted
from rig import HOUR, START_S, TICKERS, truth_bars
from structlog.testing import capture_logs
from venue_clock import VenueClock

from daemon.child.clock import ManualClock
from daemon.child.config import Config, parse
from daemon.child.logs import get_logger
from paper_trader import operator
from paper_trader.journal import Journal
from paper_trader.outages import Outages
from paper_trader.session import Command

NOW = 1400


def settings(api_url: str) -> Config:
    return parse({
        "market": {
            "source": "ccxt", "exchange": "binance", "tickers": list(TICKERS), "history_bars": NOW, "api_url": api_url,
        },
    })  # fmt: skip


def settled_bars(state_dir: Path) -> int:
    journal = Journal(state_dir / "paper" / "journal.db", read_only=True)
    try:
        return journal.counts()["marks"] - 1
    finally:
        journal.close()


def test_a_venue_that_is_down_at_the_very_first_start_is_waited_for(tmp_path: Path) -> None:
    with BinanceLike(truth=truth_bars(NOW + 20), now_s=START_S + NOW * HOUR + 60.0) as venue:
        gone = settings(venue.api_url)
    clock, until_s = VenueClock(venue), venue.now_s + 4 * HOUR
    with capture_logs() as said:
        trader(gone, tmp_path, clock=clock, should_stop=lambda: venue.now_s >= until_s).run()
    assert {"trader.market_unavailable"} <= {s["event"] for s in said}
    with BinanceLike(truth=venue.truth, now_s=venue.now_s) as back:
        clock, until_s = VenueClock(back), back.now_s + 2 * HOUR
        config = settings(back.api_url)
        trader(config, tmp_path, clock=clock, should_stop=lambda: back.now_s >= until_s).run()
    assert settled_bars(tmp_path) >= 1


def test_a_candle_that_cannot_be_is_sat_out_until_the_venue_corrects_it(tmp_path: Path) -> None:
    with BinanceLike(truth=truth_bars(NOW + 40), now_s=START_S + NOW * HOUR + 60.0) as venue:
        config, clock = settings(venue.api_url), VenueClock(venue)

        def hours(count: int) -> int:
            until_s = venue.now_s + count * HOUR
            trader(config, tmp_path, clock=clock, should_stop=lambda: venue.now_s >= until_s).run()
            return settled_bars(tmp_path)

        before = hours(2)
        venue.instead[("ETH", int(venue.now_s // HOUR) * HOUR)] = [([10.0, 9.0, 8.0, 9.0], 1.0)]
        with capture_logs() as said:
            during = hours(4)
        told = [s["error"] for s in said if s["event"] == "trader.market_unavailable"]
        assert told and all("ETH-USDT" in text and "high is below open or close" in text for text in told)
        venue.instead.clear()
        assert before <= during <= before + 1 < during + 4 <= hours(2)


def test_a_full_file_system_of_the_markets_own_is_waited_out_without_pestering_the_venue(tmp_path: Path) -> None:
    with (
        mounted("tmpfs", tmp_path / "market", size_mib=6) as market,
        BinanceLike(truth=truth_bars(NOW + 40), now_s=START_S + NOW * HOUR + 60.0) as venue,
    ):
        config, clock = settings(venue.api_url), VenueClock(venue)
        until_s = venue.now_s + HOUR
        trader(config, tmp_path, clock=clock, should_stop=lambda: venue.now_s >= until_s).run()
        before = settled_bars(tmp_path)
        filler = fill(market)
        venue.now_s += HOUR
        asked, began_s = len(venue.requests), clock.monotonic_s()
        with capture_logs() as said:
            trader(config, tmp_path, clock=clock, should_stop=lambda: clock.monotonic_s() >= began_s + 300.0).run()
        attempts = sum(s["event"] == "trader.disk_full" for s in said)
        assert 1 <= attempts <= 2 and len(venue.requests) - asked < 40
        assert settled_bars(tmp_path) == before
        filler.unlink()
        until_s = venue.now_s + HOUR
        trader(config, tmp_path, clock=clock, should_stop=lambda: venue.now_s >= until_s).run()
        assert settled_bars(tmp_path) > before


def test_an_operator_is_heard_while_the_market_does_not_answer(tmp_path: Path) -> None:
    with BinanceLike(truth=truth_bars(NOW + 20), now_s=START_S + NOW * HOUR + 60.0) as venue:
        config, clock, answers, until_s = (
            settings(venue.api_url),
            VenueClock(venue),
            venue.answer,
            venue.now_s + 6 * HOUR,
        )
        down = False

        def answer(path: str, query: dict[str, str], headers: dict[str, str]) -> tuple[int, Any]:
            if not down:
                return answers(path, query, headers)
            if not (tmp_path / "paper" / "operator.jsonl").exists():
                operator.ask(tmp_path, Command.PAUSE, clock)
            return 503, {"code": -1000, "msg": "down"}

        def goes_down(point: str) -> None:
            nonlocal down
            down = down or point == "bar settled"

        venue.answer = answer  # type: ignore[method-assign]
        trader(config, tmp_path, clock=clock, should_stop=lambda: venue.now_s >= until_s, crash_point=goes_down).run()
    assert settled_bars(tmp_path) == 1
    assert json.loads((tmp_path / "paper" / "status.json").read_bytes())["state"] == "paused"


@pytest.mark.parametrize("free_again", [True, False])
def test_a_quota_that_is_full_where_the_disk_is_not_is_tried_less_and_less_often(
    tmp_path: Path, *, free_again: bool
) -> None:
    clock = ManualClock()
    (tmp_path / "paper").mkdir()
    outages = Outages(state_dir=tmp_path, clock=clock, log=get_logger(), should_stop=lambda: False)
    pauses, told = [], set[str]()
    for _ in range(9):
        began_s = clock.monotonic_s()
        assert outages.sit_out(OSError(122, "Disk quota exceeded"), told.add)
        pauses.append(clock.monotonic_s() - began_s)
        if free_again:
            outages.over()
    assert pauses == ([1.0] * 9 if free_again else [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0])
    assert told == {"no orders: the disk is full"}
    with pytest.raises(OSError, match="broken"):
        outages.sit_out(OSError(5, "broken"), lambda _: None)
