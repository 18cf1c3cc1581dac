"""Each real client against its local venue: every fault, in any order, costs time and never a number."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from alpaca_like import KEYS, AlpacaLike
from binance_like import BinanceLike
from kraken_like import KrakenLike
from rig import CLIENTS, HOUR, QUICK_S, START_S, TICKERS, Waits, live_source, truth_bars, with_gap
from venue import PASSING_FAULTS, Fault, Venue, cut_connection, hung, rate_limited, refused, reset, server_error

from features.bars import Bars
from features.errors import ConfigurationError
from features.sources.ccxt_client import urls_for
from features.sources.errors import HistoryTooShort, MarketUnavailable
from features.sources.keys import KeyPair
from features.sources.live import LiveSource

PAGE = 150


@pytest.fixture(params=list(CLIENTS))
def client(request) -> str:
    return cast("str", request.param)


@pytest.fixture
def venue(client: str) -> Iterator[Venue]:
    truth = with_gap(truth_bars(700), slice(None), 300, 304)
    with CLIENTS[client](truth=truth, now_s=truth.last_close_s + 60.0) as running:
        if isinstance(running, BinanceLike):
            running.most_candles = PAGE
        if isinstance(running, AlpacaLike):
            running.page_rows = PAGE
        yield running


def patiently(source: LiveSource, after_s: int, until_s: int, *, most: int = 60) -> Bars:
    """What a caller does: an outage loses nothing, so the same read is repeated."""
    for _ in range(most):
        try:
            return source.bars(after_s=after_s, until_s=until_s)
        except MarketUnavailable:
            continue
    raise AssertionError("the market never came back")


@pytest.mark.parametrize("seed", range(3))
def test_a_download_through_a_random_schedule_of_all_faults_ends_identical_to_the_truth(client, venue, seed):
    rng = np.random.default_rng([seed, len(client)])
    schedule: list[Fault | None] = [*PASSING_FAULTS, *[None] * (2 * len(PASSING_FAULTS))]
    venue.inject(*(schedule[i] for i in rng.permutation(len(schedule))))
    got = patiently(live_source(client, venue, timeout_s=QUICK_S), START_S, venue.truth.last_close_s)
    while venue.faults:  # kraken's 3 requests do not meet them all in one download
        got = patiently(live_source(client, venue, timeout_s=QUICK_S), START_S, venue.truth.last_close_s)
    assert got.sha256() == venue.truth.sha256()


def test_a_download_of_real_candles_through_faults_ends_identical_to_them(client, real_bars):
    truth = real_bars.select(TICKERS).slice(20_000, 20_700)
    with CLIENTS[client](truth=truth, now_s=truth.last_close_s + 60.0) as venue:
        venue.inject(*PASSING_FAULTS)
        got = patiently(live_source(client, venue, timeout_s=QUICK_S), truth.first_close_s - HOUR, truth.last_close_s)
    assert got.sha256() == truth.sha256()


@pytest.mark.parametrize(
    "row",
    [
        '[1640995200000,"1","2","1",null,"5",1640998799999,"0",1,"0","0","0"]',
        '[1640995200000,"1"]',
    ],
)
def test_a_row_that_lacks_a_number_is_asked_for_again_and_never_a_gap(row):
    truth = truth_bars(300)
    with BinanceLike(truth=truth, now_s=truth.last_close_s + 60.0) as venue:
        venue.inject(Fault(body=f"[{row}]".encode()))
        got = live_source("ccxt:binance", venue).bars(after_s=START_S, until_s=START_S + 20 * HOUR)
        assert got.sha256() == truth.slice(0, 20).sha256()


@pytest.mark.parametrize("body", [b"[]", b'["nothing like a candle"]'])
def test_an_empty_page_between_others_is_not_believed_at_once(body):
    truth = truth_bars(2600)
    with BinanceLike(truth=truth, now_s=truth.last_close_s + 60.0) as venue:
        venue.inject(None, Fault(body=body))
        got = live_source("ccxt:binance", venue).bars(after_s=START_S, until_s=truth.last_close_s)
        assert got.sha256() == truth.sha256()


@pytest.mark.parametrize("fault", PASSING_FAULTS, ids=str)
def test_each_fault_alone_is_waited_out_within_one_read(client, venue, fault):
    waits = Waits()
    venue.inject(fault)
    source = live_source(client, venue, waits=waits, timeout_s=QUICK_S)
    got = source.bars(after_s=START_S, until_s=START_S + 50 * HOUR)
    assert got.sha256() == venue.truth.slice(0, 50).sha256()
    assert len(waits) == 1
    if fault.status == 429:
        assert waits == [float(dict(fault.headers).get("Retry-After", 60.0))]
    else:
        assert 0.0 <= waits[0] <= 0.5


def test_a_socket_that_accepts_and_never_answers_is_left_after_the_timeout(client, venue):
    waits = Waits()
    venue.inject(*[hung()] * 2)
    live_source(client, venue, waits=waits, timeout_s=QUICK_S).bars(after_s=START_S, until_s=START_S + 5 * HOUR)
    assert len(waits) == 2


def test_a_venue_that_stays_down_is_given_up_after_a_minute_of_waiting(client, venue):
    waits = Waits()
    venue.inject(*[server_error(502), reset(), cut_connection()] * 40)
    with pytest.raises(MarketUnavailable, match="candles of BTC"):
        live_source(client, venue, waits=waits).bars(after_s=START_S, until_s=START_S + 5 * HOUR)
    assert sum(waits[:-1]) < 60.0 <= sum(waits)
    assert max(waits) <= 30.0


def test_a_refusal_is_not_repeated(client, venue):
    waits = Waits()
    venue.inject(refused(451))
    with pytest.raises(MarketUnavailable):
        live_source(client, venue, waits=waits).bars(after_s=START_S, until_s=START_S + 5 * HOUR)
    assert waits == []
    assert len(venue.asked()) == 1


def test_a_rate_limit_may_name_the_second_at_which_it_ends(client, venue):
    waits = Waits()
    ends = (("X-RateLimit-Reset", str(int(venue.now_s) + 9)),)
    venue.inject(replace(rate_limited(retry_after_s=None), headers=ends))
    live_source(client, venue, waits=waits).bars(after_s=START_S, until_s=START_S + 5 * HOUR)
    assert waits == [9.0]


def test_a_forming_bar_is_never_a_bar_wherever_the_clock_stands(client, venue):
    for into_s in (0.0, 3599.0):
        venue.now_s = START_S + 500 * HOUR + into_s
        for off_s in (-7200.0, 0.0, 7200.0):
            source = live_source(client, venue, clock_now_s=lambda off_s=off_s: venue.now_s + off_s)
            source.clock_offset_s()
            got = source.bars(after_s=START_S + 490 * HOUR, until_s=START_S + 600 * HOUR)
            assert got.sha256() == venue.truth.slice(490, 500).sha256()


def test_a_late_candle_is_awaited_and_not_filled(client, venue):
    venue.now_s = START_S + 500 * HOUR + 30.0
    venue.late = {"ETH"}
    source = live_source(client, venue)
    got = source.bars(after_s=START_S + 490 * HOUR, until_s=source.last_close_s())
    assert got.sha256() == venue.truth.slice(490, 499).sha256()
    venue.late = set()
    rest = source.bars(after_s=got.last_close_s, until_s=source.last_close_s())
    assert rest.sha256() == venue.truth.slice(499, 500).sha256()


def test_a_read_gives_the_newest_word_of_a_venue_that_revises(client, venue):
    source = live_source(client, venue)
    range_s = {"after_s": START_S + 600 * HOUR, "until_s": START_S + 610 * HOUR}
    before = source.bars(**range_s)
    high = venue.truth.high.copy()
    high[605] *= 1.01
    venue.truth = replace(venue.truth, high=high)
    after = source.bars(**range_s)
    assert before.sha256() != after.sha256() == venue.truth.slice(600, 610).sha256()


def test_the_clock_offset_is_ours_minus_the_venues(client, venue):
    for off_s in (-40.0, 0.0, 12.5):
        venue.now_s = venue.truth.last_close_s + 60.25
        source = live_source(client, venue, clock_now_s=lambda off_s=off_s: venue.now_s + off_s)
        exact = client != "ccxt:kraken"  # whose clock tells whole seconds
        assert source.clock_offset_s() == pytest.approx(off_s, abs=0.002 if exact else 0.5)


def test_a_date_header_tells_the_offset_within_half_a_second(client, venue):
    venue.now_s = venue.truth.last_close_s + 60.9
    source = live_source(client, venue, clock_now_s=lambda: venue.now_s + 33.0)
    source.bars(after_s=START_S + 690 * HOUR, until_s=START_S + 692 * HOUR)
    assert source._venue.offset_s == pytest.approx(33.0, abs=0.5)


def test_only_true_candles_of_the_range_come_as_candles(client, venue):
    table = live_source(client, venue).candles("ETH", after_s=START_S + 297 * HOUR, until_s=START_S + 310 * HOUR)
    opened_s = table["time"].dt.as_unit("s").astype("int64")
    expected = [START_S + k * HOUR for k in range(297, 310) if not 300 <= k < 304]
    assert opened_s.tolist() == expected
    assert set(table["ticker"]) == {"ETH"}


def test_kraken_names_its_last_720_candles_and_a_way_out_instead_of_leaving_a_gap():
    truth = truth_bars(1000)
    with KrakenLike(truth=truth, now_s=truth.last_close_s + 60.0) as venue:
        source = live_source("ccxt:kraken", venue, history_bars=17_520)
        with pytest.raises(HistoryTooShort, match=r"720 candles.*17520.*history_bars to 709 or less"):
            source.first_close_s()
        with pytest.raises(HistoryTooShort, match=r"720 candles.*recorded") as caught:
            source.bars(after_s=START_S, until_s=truth.last_close_s)
        oldest_s = caught.value.oldest_close_s
        got = source.bars(after_s=oldest_s - HOUR, until_s=truth.last_close_s)
        assert got.sha256() == truth.slice(1000 - 719, 1000).sha256()
        with pytest.raises(HistoryTooShort):
            source.candles("BTC", after_s=oldest_s - 2 * HOUR, until_s=truth.last_close_s)
        shorter = live_source("ccxt:kraken", venue, history_bars=709)
        assert shorter.bars(after_s=shorter.first_close_s() - HOUR, until_s=truth.last_close_s).n_bars == 709


def test_refused_keys_are_a_configuration_error_that_is_not_repeated():
    truth = truth_bars(300)
    wrong = KeyPair(key_id="PKWRONG", secret="wrong-secret")
    with AlpacaLike(truth=truth, now_s=truth.last_close_s + 60.0) as venue:
        for client in ("alpaca", "ccxt:alpaca"):
            waits = Waits()
            with pytest.raises(ConfigurationError, match="credentials") as caught:
                live_source(client, venue, keys=wrong, waits=waits).venue_rules()
            assert waits == []
            assert "wrong-secret" not in str(caught.value)


def test_alpacas_rules_are_its_own_decimals_as_texts():
    truth = truth_bars(300)
    with AlpacaLike(truth=truth, now_s=truth.last_close_s + 60.0) as venue:
        rules = live_source("alpaca", venue).venue_rules()
        rule = rules.rule("LINK")
        assert (rules.venue, rule.lot, rule.tick, rule.min_notional) == ("alpaca", "0.000000001", "0.01", "10")


def test_no_key_is_ever_logged_even_at_debug_and_through_every_fault(client, venue, caplog):
    for name in ("ccxt", "urllib3", "requests"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    caplog.set_level(logging.DEBUG)
    source = live_source(client, venue, timeout_s=QUICK_S)
    venue.inject(*PASSING_FAULTS)
    patiently(source, START_S, START_S + 20 * HOUR)
    if client != "ccxt:kraken":
        source.venue_rules()
        source.clock_offset_s()
    sent = [names.get("apca-api-secret-key") for names in venue.headers]
    assert (KEYS.secret in sent) == ("alpaca" in client)
    assert KEYS.secret not in caplog.text
    assert KEYS.key_id not in caplog.text


@pytest.mark.parametrize("exchange", ["binance", "kraken", "alpaca", "coinbase", "bybit", "okx"])
def test_every_endpoint_moves_to_the_host_that_is_asked_for(exchange):
    def leaves(tree) -> list[str]:
        return [leaf for inner in tree.values() for leaf in leaves(inner)] if isinstance(tree, dict) else [tree]

    moved = leaves(urls_for(exchange, "https://mirror.example/"))
    assert moved
    assert all(url == "https://mirror.example" or url.startswith("https://mirror.example/") for url in moved)
    assert urls_for(exchange, "") == {}


@pytest.mark.parametrize(
    "api_url", ["mirror.example", "http://mirror.example", "ftp://127.0.0.1", "https://", "https://h/?q=1"]
)
def test_another_host_must_be_https_or_this_machine(api_url):
    with pytest.raises(ConfigurationError, match=r"market\.api_url"):
        urls_for("binance", api_url)


def test_tickers_are_never_confused_by_their_order(client, venue):
    backwards = tuple(reversed(TICKERS))
    got = live_source(client, venue, tickers=backwards).bars(after_s=START_S, until_s=START_S + 30 * HOUR)
    assert got.sha256() == venue.truth.slice(0, 30).select(backwards).sha256()
