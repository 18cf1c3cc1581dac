"""Real ccxt against a local venue: what comes back is the truth, or an error that says what to do."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
from binance_like import BinanceLike
from rig import HOUR, START_S, TICKERS, Waits, live_source, truth_bars, with_gap
from venue import Fault, html_page, rate_limited, refused, server_error, truncated_json

from features.bars import Bars
from features.errors import ConfigurationError
from features.sources.ccxt_client import open_client, urls_for
from features.sources.ccxt_source import CcxtVenue
from features.sources.errors import MarketUnavailable
from features.sources.live import LiveSource


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def venue() -> Iterator[BinanceLike]:
    truth = truth_bars()
    with BinanceLike(truth=truth, now_s=truth.last_close_s + 60.0) as running:
        yield running


def source_of(venue: BinanceLike, waits: Waits, **changes) -> LiveSource:
    return live_source("ccxt:binance", venue, waits=waits, **changes)


def assert_same(got: Bars, expected: Bars) -> None:
    assert got.tickers == expected.tickers
    np.testing.assert_array_equal(got.close_time_s, expected.close_time_s)
    assert got.sha256() == expected.sha256()


def test_several_pages_join_to_the_truth_without_seam_or_duplicate(venue, waits):
    got = source_of(venue, waits).bars(after_s=START_S, until_s=venue.truth.last_close_s)
    assert_same(got, venue.truth)
    assert len(venue.asked()) == 3 * len(TICKERS)  # 168 lead + 2300 bars in pages of 1000
    assert waits == []


def test_only_the_bars_asked_for_come_back(venue, waits):
    after_s, until_s = START_S + 100 * HOUR, START_S + 110 * HOUR
    assert_same(source_of(venue, waits).bars(after_s=after_s, until_s=until_s), venue.truth.slice(100, 110))


def test_a_forming_bar_is_never_a_bar(venue, waits):
    venue.now_s = START_S + 500 * HOUR + 1800.0  # bar 500 is half done and the venue serves it
    source = source_of(venue, waits)
    got = source.bars(after_s=START_S, until_s=START_S + 600 * HOUR)
    assert_same(got, venue.truth.slice(0, 500))
    assert source.last_close_s() == START_S + 500 * HOUR


def test_a_bar_is_taken_as_soon_as_the_venue_shows_a_later_one(venue, waits):
    close_s = START_S + 500 * HOUR
    venue.now_s = close_s - 1.0
    assert source_of(venue, waits).bars(after_s=close_s - HOUR, until_s=close_s).n_bars == 0
    venue.now_s = float(close_s)
    assert_same(source_of(venue, waits).bars(after_s=close_s - HOUR, until_s=close_s), venue.truth.slice(499, 500))


def test_a_bar_that_nothing_follows_is_taken_after_the_grace_and_not_before(venue, waits):
    close_s = START_S + 500 * HOUR
    venue.forming = False
    venue.now_s = close_s + 19.0
    assert source_of(venue, waits).bars(after_s=close_s - HOUR, until_s=close_s).n_bars == 0
    venue.now_s = close_s + 20.0
    assert_same(source_of(venue, waits).bars(after_s=close_s - HOUR, until_s=close_s), venue.truth.slice(499, 500))


def test_while_the_first_ticker_lacks_the_bar_the_others_are_not_asked(venue, waits):
    close_s = START_S + 500 * HOUR
    venue.forming, venue.now_s = False, close_s + 5.0
    source_of(venue, waits).bars(after_s=close_s - HOUR, until_s=close_s)
    assert {query["symbol"] for query in venue.asked()} == {"BTCUSDT"}


def test_a_venue_that_names_no_time_is_taken_at_our_word(venue, waits):
    venue.dated, venue.now_s = False, START_S + 500 * HOUR + 1800.0
    got = source_of(venue, waits).bars(after_s=START_S + 490 * HOUR, until_s=START_S + 502 * HOUR)
    assert_same(got, venue.truth.slice(490, 500))


def test_our_clock_running_fast_lets_no_forming_bar_through(venue, waits):
    venue.now_s = START_S + 500 * HOUR + 1800.0
    fast = source_of(venue, waits, clock_now_s=lambda: venue.now_s + 2 * HOUR)
    got = fast.bars(after_s=START_S + 490 * HOUR, until_s=START_S + 502 * HOUR)
    assert_same(got, venue.truth.slice(490, 500))


def test_a_slow_clock_here_is_set_by_the_first_answer_and_delays_nothing(venue, waits):
    close_s = START_S + 500 * HOUR
    venue.now_s = close_s + 1.0
    slow = source_of(venue, waits, clock_now_s=lambda: venue.now_s - 900.0)
    assert slow.last_close_s() == close_s - HOUR
    slow.bars(after_s=close_s - 2 * HOUR, until_s=close_s - HOUR)
    assert slow.last_close_s() == close_s
    assert_same(slow.bars(after_s=close_s - HOUR, until_s=close_s), venue.truth.slice(499, 500))


def test_a_late_candle_is_awaited_and_not_filled(venue, waits):
    venue.now_s = START_S + 500 * HOUR + 30.0
    venue.late = {"ETH"}
    source = source_of(venue, waits)
    got = source.bars(after_s=START_S + 490 * HOUR, until_s=START_S + 500 * HOUR)
    assert_same(got, venue.truth.slice(490, 499))
    venue.late = set()
    assert_same(source.bars(after_s=got.last_close_s, until_s=START_S + 500 * HOUR), venue.truth.slice(499, 500))


def test_an_outage_is_filled_forward_and_flagged_even_at_the_start_of_the_range(waits):
    truth = with_gap(truth_bars(600), slice(None), 300, 304)
    with BinanceLike(truth=truth, now_s=truth.last_close_s + 60.0) as venue:
        source = source_of(venue, waits)
        whole = source.bars(after_s=START_S, until_s=truth.last_close_s)
        assert_same(whole, truth)
        assert whole.filled.sum() == 4 * len(TICKERS)
        from_within = source.bars(after_s=START_S + 302 * HOUR, until_s=START_S + 310 * HOUR)
        assert_same(from_within, truth.slice(302, 310))


def test_nothing_new_is_an_empty_answer_and_costs_no_request(venue, waits):
    source = source_of(venue, waits)
    got = source.bars(after_s=venue.truth.last_close_s, until_s=venue.truth.last_close_s + HOUR)
    assert got.n_bars == 0
    assert got.tickers == TICKERS
    assert venue.requests == []


@pytest.mark.parametrize(
    "fault", [server_error(500), server_error(503), html_page(), truncated_json()], ids=["500", "503", "html", "torn"]
)
def test_a_passing_fault_costs_a_short_wait_and_no_data(venue, waits, fault: Fault):
    venue.inject(fault, fault)
    got = source_of(venue, waits).bars(after_s=START_S, until_s=START_S + 50 * HOUR)
    assert_same(got, venue.truth.slice(0, 50))
    assert len(waits) == 2
    assert 0.0 <= waits[0] <= 0.5 and 0.0 <= waits[1] <= 1.0  # ceilings 0.5 · 2^0 and 0.5 · 2^1


def test_a_rate_limit_waits_as_long_as_the_venue_asks(venue, waits):
    venue.inject(rate_limited(retry_after_s=7))
    got = source_of(venue, waits).bars(after_s=START_S, until_s=START_S + 5 * HOUR)
    assert_same(got, venue.truth.slice(0, 5))
    assert waits == [7.0]


def test_a_rate_limit_that_names_no_time_waits_a_minute_once_and_then_gives_up(venue, waits):
    venue.inject(rate_limited(retry_after_s=None), rate_limited(retry_after_s=None))
    with pytest.raises(MarketUnavailable) as caught:
        source_of(venue, waits).bars(after_s=START_S, until_s=START_S + 5 * HOUR)
    assert waits == [60.0]
    assert caught.value.retry_after_s == 60.0


def test_a_ban_longer_than_our_patience_is_handed_to_the_caller_at_once(venue, waits):
    venue.inject(rate_limited(retry_after_s=600))
    with pytest.raises(MarketUnavailable) as caught:
        source_of(venue, waits).bars(after_s=START_S, until_s=START_S + 5 * HOUR)
    assert waits == []
    assert caught.value.retry_after_s == 600.0


def test_a_venue_that_stays_down_is_given_up_after_a_minute_of_waiting(venue, waits):
    venue.inject(*[server_error()] * 200)
    with pytest.raises(MarketUnavailable, match="candles of BTC/USDT"):
        source_of(venue, waits).bars(after_s=START_S, until_s=START_S + 5 * HOUR)
    assert sum(waits[:-1]) < 60.0 <= sum(waits)
    assert max(waits) <= 30.0


def test_a_refusal_is_not_repeated(venue, waits):
    venue.inject(refused(451))
    with pytest.raises(MarketUnavailable):
        source_of(venue, waits).bars(after_s=START_S, until_s=START_S + 5 * HOUR)
    assert waits == []
    assert len(venue.asked()) == 1


def test_every_answer_and_every_wait_is_a_beat(venue, waits):
    beats: list[int] = []
    venue.inject(server_error())
    source_of(venue, waits, beat=lambda: beats.append(1)).bars(after_s=START_S, until_s=START_S + 5 * HOUR)
    assert len(beats) == 1 + 3 + 1  # markets, three tickers, one wait


def test_an_unknown_pair_is_a_configuration_error(venue, waits):
    with pytest.raises(ConfigurationError, match="DOGE/USDT"):
        source_of(venue, waits, tickers=("BTC", "DOGE")).bars(after_s=START_S, until_s=START_S + 5 * HOUR)


def test_an_unknown_exchange_or_timeframe_is_a_configuration_error(venue, waits):
    def opened(exchange: str, timeframe_s: int) -> CcxtVenue:
        return CcxtVenue(None, exchange=exchange, quote="USDT", tickers=TICKERS, timeframe_s=timeframe_s)

    with pytest.raises(ConfigurationError, match="binanse"):
        opened("binanse", HOUR)
    with pytest.raises(ConfigurationError, match="5400 s"):
        opened("binance", 5400)


def test_venue_rules_are_the_filters_of_the_venue_as_plain_texts(venue, waits):
    rules = source_of(venue, waits).venue_rules()
    assert rules.venue == "binance"
    rule = rules.rule("LINK")
    assert (rule.lot, rule.tick, rule.min_notional) == ("0.00001", "0.01", "5")


def test_a_clock_that_was_put_back_by_an_hour_delays_no_request(venue):
    client = open_client("binance", urls=urls_for("binance", venue.api_url))
    client.publicGetTime()
    client.lastRestRequestTimestamp += 3_600_000  # what a clock leaves behind that then goes back
    began_s = time.monotonic()
    client.publicGetTime()
    client.session.close()
    assert time.monotonic() - began_s < 10.0
