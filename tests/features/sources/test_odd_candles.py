"""Each real client against a venue whose candles contradict one another, or cannot be: no such number goes any further."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from rig import CLIENTS, HOUR, START_S, TICKERS, Waits, live_source, truth_bars
from venue import Venue

from features.sources.errors import BadCandle, MarketUnavailable
from features.sources.live import LiveSource
from features.sources.stored import StoredSource
from features.store.check import repair
from features.store.store import CandleStore

ODD = 640
RANGE = {"after_s": START_S + 600 * HOUR, "until_s": START_S + 660 * HOUR}
IMPOSSIBLE = {
    "high is below open or close": ([10.0, 9.0, 8.0, 9.0], 1.0),
    "low is above open or close": ([10.0, 12.0, 11.0, 11.0], 1.0),
    "volume is negative": ([10.0, 11.0, 9.0, 10.0], -1.0),
    "a price is not positive": ([10.0, 11.0, 0.0, 10.0], 1.0),
}
NAN = ([10.0, 11.0, 9.0, float("nan")], 1.0)


@pytest.fixture(params=list(CLIENTS))
def client(request: pytest.FixtureRequest) -> str:
    return cast("str", request.param)


@pytest.fixture
def venue(client: str) -> Iterator[Venue]:
    truth = truth_bars(700)
    with CLIENTS[client](truth=truth, now_s=truth.last_close_s + 60.0) as running:
        yield running


def stored(live: LiveSource, root: Path) -> StoredSource:
    return StoredSource(
        CandleStore(root), live, venue="here", tickers=TICKERS, timeframe_s=HOUR, clock_now_s=lambda: 0.0,
        pause=lambda: pytest.fail("nobody else writes"),
    )  # fmt: skip


def candle(venue: Venue, row: int, *, volume: float = 0.0) -> tuple[list[float], float]:
    """ETH's, with that much more volume."""
    n = TICKERS.index("ETH")
    prices = [float(getattr(venue.truth, name)[row, n]) for name in ("open", "high", "low", "close")]
    return prices, float(venue.truth.volume[row, n]) + volume


@pytest.mark.parametrize("earlier", [0.0, 5.0], ids=["the same", "another"])
def test_of_two_candles_for_one_time_the_later_is_taken_and_no_other_is_lost(
    client: str, venue: Venue, tmp_path: Path, earlier: float
) -> None:
    for row in (ODD, ODD + 1):
        venue.instead[("ETH", START_S + row * HOUR)] = [candle(venue, row, volume=earlier), candle(venue, row)]
    source, truth = live_source(client, venue), venue.truth.slice(600, 660)
    assert source.bars(**RANGE).sha256() == truth.sha256()
    assert source.candles("ETH", **RANGE)["time"].is_unique
    assert stored(source, tmp_path).bars(**RANGE).sha256() == truth.sha256()


@pytest.mark.parametrize("rule", IMPOSSIBLE)
def test_a_candle_that_cannot_be_is_no_answer_for_now_and_named_with_its_pair_and_time(
    client: str, venue: Venue, tmp_path: Path, rule: str
) -> None:
    waits, root = Waits(), tmp_path / "store"
    source = live_source(client, venue, waits=waits)
    kept = stored(source, root)
    kept.bars(after_s=RANGE["after_s"], until_s=START_S + 630 * HOUR)
    venue.instead[("ETH", START_S + ODD * HOUR)] = [IMPOSSIBLE[rule]]
    pair = source.pair("ETH")
    for read in (source.bars, kept.bars):
        with pytest.raises(
            BadCandle, match=rf"{client} gave .*{pair} closing at 2022-01-27T17:00:00Z: {rule}"
        ) as caught:
            read(**RANGE)
        assert isinstance(caught.value, MarketUnavailable) and "market.history_bars" in caught.value.hint
    assert waits == []
    venue.instead.clear()
    assert kept.bars(**RANGE).sha256() == venue.truth.slice(600, 660).sha256()


def test_a_value_that_is_no_number_never_comes_through(client: str, venue: Venue) -> None:
    venue.instead[("ETH", START_S + ODD * HOUR)] = [NAN]
    with pytest.raises(MarketUnavailable, match="ETH"):
        live_source(client, venue).bars(**RANGE)


def test_what_a_forming_candle_says_holds_nothing_up(client: str, venue: Venue) -> None:
    venue.now_s = START_S + ODD * HOUR + 1800.0
    venue.instead[("ETH", START_S + ODD * HOUR)] = [IMPOSSIBLE["volume is negative"]]
    got = live_source(client, venue).bars(**RANGE)
    assert got.sha256() == venue.truth.slice(600, ODD).sha256()


def test_a_repair_notes_a_candle_that_cannot_be_and_mends_the_rest(client: str, venue: Venue, tmp_path: Path) -> None:
    whole, gappy = venue.truth, venue.truth.filled.copy()
    gappy[[610, ODD], TICKERS.index("ETH")] = True
    venue.truth = replace(whole, filled=gappy)
    source = stored(live_source(client, venue), tmp_path)
    source.bars(**RANGE)
    venue.truth, venue.instead = whole, {("ETH", START_S + 610 * HOUR): [IMPOSSIBLE["volume is negative"]]}
    done = repair(source._filler, "ETH")
    assert (done.filled, done.missing) == (0, 2) and "volume is negative" in done.failed[0]
    venue.instead.clear()
    assert repair(source._filler, "ETH").filled == 2
    np.testing.assert_array_equal(source.bars(**RANGE).filled, False)
