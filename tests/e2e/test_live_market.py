"""A study and a trader on one live market: both read the store, and a study's bars stay what they were."""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from binance_like import BinanceLike
from desk import artifact, promote, trader
from rig import HOUR, START_S, TICKERS, truth_bars
from structlog.testing import capture_logs
from venue_clock import VenueClock

from daemon.child.clock import ManualClock
from daemon.child.config import Config, parse
from daemon.child.logs import get_logger
from daemon.child.market import Waiting, bar_source, candle_store
from features.bars import Bars
from features.errors import ContractMismatch
from features.store.fill import Filler
from paper_trader import shown
from paper_trader.journal import Journal
from trainer.dataset import Dataset, awaited_dataset, load_dataset

NOW = 2000


@pytest.fixture
def venue() -> Iterator[BinanceLike]:
    with BinanceLike(truth=truth_bars(2300), now_s=START_S + NOW * HOUR + 60.0) as running:
        yield running


def settings(venue: BinanceLike, study: str = "s") -> Config:
    return parse({
        "market": {
            "source": "ccxt", "exchange": "binance", "tickers": list(TICKERS), "history_bars": NOW,
            "api_url": venue.api_url,
        },
        "data": {"n_folds": 1, "embargo_bars": 24, "judge_start_utc": "2022-02-12T00:00:00Z"},
        "study": {"name": study},
    })  # fmt: skip


def revise(venue: BinanceLike, config: Config, state_dir: Path, clock: ManualClock) -> None:
    """The venue changes its mind about the first day, and somebody asks again."""
    volume = venue.truth.volume.copy()
    volume[5] += 1.0
    venue.truth = replace(venue.truth, volume=volume)
    source = bar_source(config, state_dir, Waiting(clock=clock))
    filler: Filler = source._filler
    for ticker in TICKERS:
        filler.ask_again(ticker, after_s=START_S, until_s=START_S + 24 * HOUR)


def test_a_study_keeps_its_bars_while_the_market_goes_on_and_is_revised(venue: BinanceLike, tmp_path: Path) -> None:
    config, clock = settings(venue), VenueClock(venue)
    begun = load_dataset(config, tmp_path, clock)
    venue.now_s += 100 * HOUR
    revise(venue, config, tmp_path, clock)
    again = load_dataset(config, tmp_path, clock)
    assert again.data_sha256 == begun.data_sha256
    assert again._everything.sha256() == begun._everything.sha256()
    other = load_dataset(settings(venue, "another"), tmp_path, clock)
    assert other._everything.sha256() == venue.truth.slice(100, NOW + 100).sha256()


def test_a_study_that_has_begun_needs_no_venue(venue: BinanceLike, tmp_path: Path) -> None:
    with BinanceLike(truth=venue.truth, now_s=venue.now_s) as gone:
        config, clock = settings(gone), VenueClock(gone)
        begun = load_dataset(config, tmp_path, clock)
    assert load_dataset(config, tmp_path, clock).data_sha256 == begun.data_sha256


def test_a_study_whose_bars_are_gone_is_refused(venue: BinanceLike, tmp_path: Path) -> None:
    config, clock = settings(venue), VenueClock(venue)
    load_dataset(config, tmp_path, clock)
    candle_store(tmp_path).shelf("binance", HOUR, "BTC-USDT").path.rename(tmp_path / "moved")
    with pytest.raises(ContractMismatch, match="not those that were pinned"):
        load_dataset(config, tmp_path, clock)


def test_a_worker_waits_for_the_market_and_hears_a_stop_meanwhile(venue: BinanceLike, tmp_path: Path) -> None:
    venue.instead[("ETH", START_S + 1500 * HOUR)] = [([10.0, 9.0, 8.0, 9.0], 1.0)]
    told = list[str]()

    def begun(should_stop: Callable[[], bool]) -> Dataset | None:
        return awaited_dataset(
            settings(venue), tmp_path, VenueClock(venue), log=get_logger(), tell=tell, should_stop=should_stop
        )

    def waited() -> int:
        return told.count("the market does not answer")

    def tell(note: str) -> None:
        told.append(note)
        if waited() > 30:
            venue.instead.clear()

    with capture_logs() as said:
        assert begun(lambda: waited() >= 5) is None
    assert [s["event"] for s in said if s["log_level"] == "warning"] == ["trainer.market_unavailable"]
    dataset = begun(lambda: False)
    assert dataset is not None and waited() >= 30
    bars = dataset._everything
    assert bars.sha256() == venue.truth.between(bars.first_close_s - HOUR, bars.last_close_s).sha256()


@pytest.fixture
def traded(venue: BinanceLike, tmp_path: Path) -> Config:
    """The settings of a trader that has taken six bars from the venue."""
    config, clock = settings(venue), VenueClock(venue)
    promote(
        tmp_path,
        artifact(parse({"market": {"source": "simulated", "tickers": list(TICKERS)}, "simulation": {"bars": 1400}})),
    )
    end_s = venue.now_s + 6 * HOUR
    trader(config, tmp_path, clock=clock, should_stop=lambda: venue.now_s >= end_s).run()
    return config


def journalled(state_dir: Path) -> Bars:
    with closing(Journal(state_dir / "paper" / "journal.db", read_only=True)) as journal:
        return journal.bars()


@pytest.mark.usefixtures("traded")
def test_the_trader_takes_every_bar_from_the_store_and_the_store_from_the_venue(
    venue: BinanceLike, tmp_path: Path
) -> None:
    bars = journalled(tmp_path)
    assert bars.last_close_s >= START_S + (NOW + 5) * HOUR
    assert bars.sha256() == venue.truth.between(bars.first_close_s - HOUR, bars.last_close_s).sha256()
    stored = candle_store(tmp_path).shelf("binance", HOUR, "BTC-USDT").candles(after_s=0, until_s=1 << 62)
    assert int(stored.close_time_s[-1]) == bars.last_close_s


def test_the_drift_report_asks_the_venue_what_its_bars_are_today(
    venue: BinanceLike, traded: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def revised_bars() -> object:
        assert shown.report(traded, argparse.Namespace(state_dir=tmp_path, drift=True, json=True)) == 0
        return json.loads(capsys.readouterr().out)["revised_bars"]

    assert revised_bars() == 0
    row = int(np.searchsorted(venue.truth.close_time_s, journalled(tmp_path).last_close_s)) - 2
    volume = venue.truth.volume.copy()
    volume[row] += 1.0
    venue.truth = replace(venue.truth, volume=volume)
    assert revised_bars() == 1
