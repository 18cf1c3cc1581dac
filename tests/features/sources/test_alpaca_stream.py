"""The stream against a real websocket server: it hastens a bar, and whatever it does wrong only costs the haste."""

import logging
import threading
import time
from collections.abc import Callable, Iterator

import msgpack
import pytest
from alpaca_like import KEYS, AlpacaLike, AlpacaStreamLike, minute_bar
from rig import HOUR, START_S, TICKERS, live_source, truth_bars

from features.errors import ConfigurationError
from features.sources.alpaca_stream import AlpacaStream, MinuteBars, stream_url
from features.sources.keys import KeyPair

SYMBOLS = tuple(f"{ticker}/USD" for ticker in TICKERS)
CLOSE_S = START_S + 500 * HOUR
STALE_S = 0.6


def eventually(holds: Callable[[], bool], *, within_s: float = 15.0) -> None:
    until_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until_s, "it never came true"
        time.sleep(0.01)


@pytest.fixture
def server() -> Iterator[AlpacaStreamLike]:
    with AlpacaStreamLike() as running:
        yield running


@pytest.fixture
def opened(server) -> Iterator[Callable[..., AlpacaStream]]:
    streams: list[AlpacaStream] = []

    def start(*, stale_after_s: float = 60.0, keys: KeyPair = KEYS, url: str = "") -> AlpacaStream:
        stream = AlpacaStream(
            keys=keys, symbols=SYMBOLS, url=url or server.url, monotonic_s=time.monotonic, stale_after_s=stale_after_s
        )
        streams.append(stream)
        stream.start()
        return stream

    yield start
    for stream in streams:
        stream.stop()
        assert not stream._thread.is_alive()


def frame(close_s: int, price: float = 7.0) -> list[dict]:
    return [minute_bar(symbol, close_s=close_s, close=price) for symbol in SYMBOLS]


def test_it_subscribes_the_minute_bars_of_every_ticker_in_a_fragmented_message(server, opened):
    opened()
    eventually(lambda: len(server.subscriptions) == 1)
    assert sorted(server.subscriptions[0]["bars"]) == sorted(SYMBOLS)
    assert server.subscriptions[0]["action"] == "subscribe"
    assert server.fragments[0] >= 1


def test_the_last_minute_of_a_candle_at_its_very_price_confirms_it(server, opened):
    stream = opened()
    eventually(lambda: len(server.subscriptions) == 1)
    server.push(frame(CLOSE_S, 7.0))
    eventually(lambda: stream.minutes.confirms("BTC/USD", close_s=CLOSE_S, close=7.0))
    assert not stream.minutes.confirms("BTC/USD", close_s=CLOSE_S, close=7.5)
    assert not stream.minutes.confirms("BTC/USD", close_s=CLOSE_S + HOUR, close=7.0)
    assert not stream.minutes.confirms("DOGE/USD", close_s=CLOSE_S, close=7.0)


def test_a_streamed_minute_makes_a_bar_available_before_the_grace_and_rest_gives_its_numbers(server, opened):
    truth = truth_bars(700)
    stream = opened()
    eventually(lambda: len(server.subscriptions) == 1)
    with AlpacaLike(truth=truth, now_s=CLOSE_S + 1.0, forming=False) as venue:
        source = live_source("alpaca", venue, hints=stream.minutes)
        assert source.bars(after_s=CLOSE_S - HOUR, until_s=CLOSE_S).n_bars == 0
        last = [minute_bar(f"{t}/USD", close_s=CLOSE_S, close=truth.close[499, n]) for n, t in enumerate(TICKERS)]
        server.push(last[:2])
        eventually(lambda: stream.minutes.confirms("ETH/USD", close_s=CLOSE_S, close=truth.close[499, 1]))
        assert source.bars(after_s=CLOSE_S - HOUR, until_s=CLOSE_S).n_bars == 0  # the third is still missing
        server.push(last[2:])
        eventually(lambda: stream.minutes.confirms("LINK/USD", close_s=CLOSE_S, close=truth.close[499, 2]))
        assert source.bars(after_s=CLOSE_S - HOUR, until_s=CLOSE_S).sha256() == truth.slice(499, 500).sha256()


def test_an_hourly_candle_that_lacks_the_streamed_minute_waits_for_the_grace(server, opened):
    truth = truth_bars(700)
    stream = opened()
    eventually(lambda: len(server.subscriptions) == 1)
    server.push(frame(CLOSE_S, 123.456))  # not the price at which REST closes the hour
    eventually(lambda: stream.minutes.confirms("LINK/USD", close_s=CLOSE_S, close=123.456))
    with AlpacaLike(truth=truth, now_s=CLOSE_S + 1.0, forming=False) as venue:
        source = live_source("alpaca", venue, hints=stream.minutes)
        assert source.bars(after_s=CLOSE_S - HOUR, until_s=CLOSE_S).n_bars == 0
        venue.now_s = CLOSE_S + 20.0
        assert source.bars(after_s=CLOSE_S - HOUR, until_s=CLOSE_S).n_bars == 1


def test_an_odd_bar_does_not_take_the_rest_of_its_frame_along(server, opened):
    stream = opened()
    eventually(lambda: len(server.subscriptions) == 1)
    whole = minute_bar("ETH/USD", close_s=CLOSE_S, close=7.0)
    no_price = {k: v for k, v in minute_bar("BTC/USD", close_s=CLOSE_S, close=7.0).items() if k != "c"}
    no_time = {**minute_bar("LINK/USD", close_s=CLOSE_S, close=7.0), "t": "noon"}
    server.push([no_price, no_time, whole])
    eventually(lambda: stream.minutes.confirms("ETH/USD", close_s=CLOSE_S, close=7.0))
    assert not stream.minutes.confirms("BTC/USD", close_s=CLOSE_S, close=7.0)


def test_rubbish_is_survived(server, opened):
    stream = opened()
    eventually(lambda: len(server.subscriptions) == 1)
    for rubbish in (b"\xc1", b"", msgpack.packb(5), msgpack.packb([5]), msgpack.packb({"T": "b"}), b"\x00" * 70_000):
        server.push(rubbish)
    server.push(frame(CLOSE_S))
    eventually(lambda: stream.minutes.confirms("BTC/USD", close_s=CLOSE_S, close=7.0))


def test_a_closed_connection_is_opened_anew(server, opened):
    stream = opened()
    for n in (1, 2):
        eventually(lambda n=n: len(server.subscriptions) == n)
        server.push(frame(CLOSE_S + n * HOUR))
        eventually(lambda n=n: stream.minutes.confirms("BTC/USD", close_s=CLOSE_S + n * HOUR, close=7.0))
        server.push(None)


def test_a_mute_connection_is_torn_down_and_opened_anew(server, opened):
    opened(stale_after_s=STALE_S)
    eventually(lambda: len(server.subscriptions) >= 3)


def test_one_symbol_that_falls_silent_is_enough(server, opened):
    stream = opened(stale_after_s=1.5)
    eventually(lambda: len(server.subscriptions) == 1)
    ending = threading.Event()

    def chatter() -> None:
        while not ending.wait(0.1):
            server.push([minute_bar("BTC/USD", close_s=CLOSE_S, close=7.0)])

    talker = threading.Thread(target=chatter)
    talker.start()
    try:
        eventually(lambda: len(server.subscriptions) >= 2)
    finally:
        ending.set()
        talker.join()
    assert stream.connections >= 2


def test_rubbish_is_no_sign_of_life(server, opened):
    opened(stale_after_s=STALE_S)
    ending = threading.Event()

    def chatter() -> None:
        while not ending.wait(0.05):
            server.push(b"\xc1")

    talker = threading.Thread(target=chatter)
    talker.start()
    try:
        eventually(lambda: len(server.subscriptions) >= 2)
    finally:
        ending.set()
        talker.join()


def test_a_server_that_accepts_and_never_greets_is_left(server, opened):
    server.greet = False
    opened(stale_after_s=STALE_S)
    eventually(lambda: server.connections >= 2)
    server.greet = True
    eventually(lambda: len(server.subscriptions) >= 1)


@pytest.mark.parametrize("state", ["streaming", "mute", "never greeted", "refused keys", "nobody there"])
def test_stop_returns_promptly_whatever_the_connection_does(server, opened, state):
    server.greet = state != "never greeted"
    keys = KeyPair(key_id="PKWRONG", secret="wrong") if state == "refused keys" else KEYS
    stream = opened(keys=keys, url="ws://127.0.0.1:9/v1beta3/crypto/us" if state == "nobody there" else "")
    if state != "nobody there":
        eventually(lambda: server.connections >= 1)
    if state == "streaming":
        eventually(lambda: len(server.subscriptions) == 1)
        server.push(frame(CLOSE_S))
    began_s = time.monotonic()
    stream.stop()
    assert not stream._thread.is_alive()
    assert time.monotonic() - began_s < 4.0  # alpaca-py's own stop waits for the next frame, up to 5 s
    stream.stop()  # twice is once


def test_silence_is_judged_symbol_by_symbol_and_from_the_start_of_a_connection():
    minutes = MinuteBars(("A", "B"), now_s=100.0)
    minutes.note("A", close_s=60, close=1.0, now_s=150.0)
    assert minutes.silent(199.0, 100.0) == ()
    assert minutes.silent(200.0, 100.0) == ("B",)
    minutes.note("other", close_s=60, close=1.0, now_s=180.0)
    assert minutes.silent(260.0, 100.0) == ("A", "B")
    minutes.restarted(260.0)
    assert minutes.silent(300.0, 100.0) == ()


def test_an_older_minute_that_comes_late_takes_nothing_back():
    minutes = MinuteBars(("A",), now_s=0.0)
    minutes.note("A", close_s=7200, close=2.0, now_s=1.0)
    minutes.note("A", close_s=7140, close=3.0, now_s=2.0)
    assert minutes.confirms("A", close_s=7200, close=2.0)
    assert minutes.confirms("A", close_s=3600, close=9.9)  # a later minute has been seen


def test_the_stream_is_where_the_api_is():
    assert stream_url("") == "wss://stream.data.alpaca.markets/v1beta3/crypto/us"
    assert stream_url("https://proxy.example/") == "wss://proxy.example/v1beta3/crypto/us"
    assert stream_url("http://127.0.0.1:8080") == "ws://127.0.0.1:8080/v1beta3/crypto/us"
    with pytest.raises(ConfigurationError):
        stream_url("http://proxy.example")


def test_neither_keys_nor_frames_appear_in_any_log_of_the_stream(server, opened, caplog):
    logging.getLogger("websockets").setLevel(logging.NOTSET)
    caplog.set_level(logging.DEBUG)
    stream = opened()
    eventually(lambda: len(server.subscriptions) == 1)
    server.push(b"\xc1")
    server.push(frame(CLOSE_S))
    eventually(lambda: stream.minutes.confirms("BTC/USD", close_s=CLOSE_S, close=7.0))
    assert KEYS.secret not in caplog.text
    assert not [r for r in caplog.records if r.name.startswith("websockets") and "BINARY" in r.getMessage()]
