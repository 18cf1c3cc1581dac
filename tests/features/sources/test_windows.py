"""Exchanges that answer one window of time at a time: what a window lacks says nothing about the next one."""

import pandas as pd
import pytest
from binance_like import BinanceLike
from bitget_like import BitgetLike
from coinbase_like import CoinbaseLike
from rig import HOUR, START_S, live_source, truth_bars, with_gap
from venue import Fault, Venue

from features.bars import Bars, bars_from_candles, candles_from_bars
from features.sources.live import LiveSource
from features.sources.simulated import simulate

WINDOWED: dict[str, type[Venue]] = {"ccxt:coinbase": CoinbaseLike, "ccxt:bitget": BitgetLike}
ONE = ("BTC",)
LONG = 2600


@pytest.fixture(scope="module")
def truth() -> Bars:
    return truth_bars(LONG).select(ONE)


def whole(source: LiveSource, truth: Bars) -> Bars:
    return source.bars(after_s=START_S, until_s=truth.last_close_s)


@pytest.mark.parametrize("client", WINDOWED)
@pytest.mark.parametrize("hole", [(1000, 1310), (350, 1000), (201, 2400)], ids=str)
def test_after_a_hole_wider_than_its_window_an_exchange_loses_no_candle(
    client: str, hole: tuple[int, int], truth: Bars
):
    truth = with_gap(truth, slice(None), *hole)
    with WINDOWED[client](truth=truth, now_s=truth.last_close_s + 60.0) as venue:
        assert whole(live_source(client, venue, tickers=ONE), truth).sha256() == truth.sha256()


@pytest.mark.parametrize("client", WINDOWED)
def test_a_window_as_wide_as_the_exchange_answers_is_asked_for_and_no_wider(client: str, truth: Bars):
    with WINDOWED[client](truth=truth, now_s=truth.last_close_s + 60.0) as venue:
        assert whole(live_source(client, venue, tickers=ONE), truth).sha256() == truth.sha256()
        assert len(venue.asked()) <= LONG // 200 + 2


@pytest.mark.parametrize("client", WINDOWED)
def test_years_before_a_listing_cost_a_few_requests_and_none_of_its_candles(client: str, truth: Bars):
    with WINDOWED[client](truth=truth, now_s=truth.last_close_s + 60.0) as venue:
        source = live_source(client, venue, tickers=ONE)
        table = source.candles("BTC", after_s=START_S - 5 * 8760 * HOUR, until_s=truth.last_close_s)
        assert len(table) == LONG
        assert len(venue.asked()) < 60  # 5 years in steps of a hundred days, two requests each, and the candles


@pytest.mark.parametrize("client", WINDOWED)
def test_minutes_are_found_after_weeks_without_any_by_way_of_days_and_hours(client: str):
    minute, start_s, weeks_s = 60, START_S + 13 * HOUR + 41 * 60, 20 * 7 * 86_400
    early, late = (
        simulate(world="null", seed=5, bars=90, tickers=ONE, timeframe_s=minute, start_s=at_s)
        for at_s in (start_s, start_s + weeks_s)
    )
    truth = bars_from_candles(
        pd.concat([candles_from_bars(early), candles_from_bars(late)]), tickers=ONE, timeframe_s=minute
    )
    with WINDOWED[client](truth=truth, now_s=truth.last_close_s + 60.0) as venue:
        source = live_source(client, venue, tickers=ONE, timeframe_s=minute)
        table = source.candles("BTC", after_s=start_s, until_s=truth.last_close_s)
        assert len(table) == 180
        assert len(venue.asked()) < 20


def test_an_empty_window_that_coarser_candles_deny_is_asked_for_again(truth: Bars):
    with CoinbaseLike(truth=truth, now_s=truth.last_close_s + 60.0) as venue:
        venue.inject(None, Fault(body=b'{"candles":[]}'))
        assert whole(live_source("ccxt:coinbase", venue, tickers=ONE), truth).sha256() == truth.sha256()


def test_an_exchange_that_answers_past_a_hole_is_asked_no_oftener_for_it(truth: Bars):
    truth = with_gap(truth, slice(None), 350, 2400)
    with BinanceLike(truth=truth, now_s=truth.last_close_s + 60.0) as venue:
        assert whole(live_source("ccxt:binance", venue, tickers=ONE), truth).sha256() == truth.sha256()
        assert len(venue.asked()) == 1
