"""The stored source on a real client and a local venue: nothing is asked twice, and what was pinned stays."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from binance_like import BinanceLike
from rig import HOUR, START_S, TICKERS, live_source, truth_bars, with_gap

from features.bars import Bars
from features.errors import ContractMismatch
from features.sources.errors import MarketUnavailable
from features.sources.stored import REREAD_BARS, Pin, StoredSource
from features.store import shelf
from features.store.candles import Candles
from features.store.check import damaged_months
from features.store.files import read_month
from features.store.store import CandleStore

SHORT = 600


@pytest.fixture
def venue() -> Iterator[BinanceLike]:
    truth = with_gap(with_gap(truth_bars(2300), 1, 100, 110), slice(None), 300, 304)
    with BinanceLike(truth=truth, now_s=START_S + SHORT * HOUR + 60.0) as running:
        yield running


def stored(venue: BinanceLike, root: Path, **changes) -> StoredSource:
    live = live_source("ccxt:binance", venue, history_bars=SHORT, **changes)
    return StoredSource(
        CandleStore(root), live, venue="binance", tickers=TICKERS, timeframe_s=HOUR, clock_now_s=lambda: venue.now_s,
        pause=lambda: pytest.fail("nobody else writes"),
    )  # fmt: skip


def revised(truth: Bars, row: int) -> Bars:
    volume = truth.volume.copy()
    volume[row] += 1.0
    return replace(truth, volume=volume)


def history(venue: BinanceLike) -> dict[str, int]:
    return {"after_s": START_S, "until_s": int(venue.now_s)}


def asked(venue: BinanceLike) -> int:
    return sum(path.endswith("/klines") for path, *_ in venue.requests)


def test_what_comes_through_the_store_is_what_the_venue_has(venue, tmp_path):
    got = stored(venue, tmp_path).bars(**history(venue))
    assert got.sha256() == venue.truth.slice(0, SHORT).sha256()


def test_a_restart_asks_for_nothing_that_is_stored_even_where_the_venue_had_gaps(venue, tmp_path):
    first = stored(venue, tmp_path).bars(**history(venue))
    before = len(venue.requests)
    assert stored(venue, tmp_path).bars(**history(venue)).sha256() == first.sha256()
    assert len(venue.requests) == before


def test_a_venue_that_is_down_is_not_needed_for_what_is_stored(venue, tmp_path):
    with BinanceLike(truth=venue.truth, now_s=venue.now_s) as gone:
        first = stored(gone, tmp_path).bars(**history(venue))
    source = stored(gone, tmp_path)
    assert source.bars(**history(venue)).sha256() == first.sha256()
    gone.now_s += HOUR
    with pytest.raises(MarketUnavailable):
        source.bars(after_s=START_S, until_s=int(gone.now_s))


def test_every_new_bar_comes_once_and_equals_the_truth(venue, tmp_path):
    source = stored(venue, tmp_path)
    got = source.bars(**history(venue))
    for _ in range(30):
        venue.now_s += HOUR
        got = got.concat(source.bars(after_s=got.last_close_s, until_s=source.last_close_s()))
    assert got.sha256() == venue.truth.slice(0, SHORT + 30).sha256()


def test_a_late_candle_is_awaited_and_not_stored_as_missing(venue, tmp_path):
    source, end_s = stored(venue, tmp_path), START_S + SHORT * HOUR
    venue.late = {"ETH"}
    got = source.bars(**history(venue))
    assert got.last_close_s == end_s - HOUR
    venue.late = set()
    assert source.bars(after_s=got.last_close_s, until_s=end_s).sha256() == venue.truth.slice(SHORT - 1, SHORT).sha256()


def test_a_bar_the_venue_corrects_within_the_reread_bars_is_corrected_and_written_down(venue, tmp_path):
    source = stored(venue, tmp_path)
    source.bars(**history(venue))
    venue.truth = revised(venue.truth, SHORT - REREAD_BARS)
    venue.now_s += HOUR
    got = source.bars(after_s=START_S, until_s=int(venue.now_s))
    assert got.sha256() == venue.truth.slice(0, SHORT + 1).sha256()
    for ticker in TICKERS:
        (revision,) = CandleStore(tmp_path).shelf("binance", HOUR, f"{ticker}-USDT").revisions()
        assert revision.close_time_s == START_S + (SHORT - REREAD_BARS + 1) * HOUR


def test_an_older_range_asked_for_later_joins_what_is_stored(venue, tmp_path):
    source = stored(venue, tmp_path)
    source.bars(after_s=START_S + 400 * HOUR, until_s=START_S + 500 * HOUR)
    assert source.bars(**history(venue)).sha256() == venue.truth.slice(0, SHORT).sha256()


# pins ------------------------------------------------------------------------------------------------------------


def test_pinned_bars_stay_the_same_while_the_store_grows_and_is_revised(venue, tmp_path):
    """Scores are comparable only on the same bars."""
    source = stored(venue, tmp_path)
    pin = source.pin()
    expected = source.pinned(pin).sha256()
    assert expected == venue.truth.slice(0, SHORT).sha256()
    venue.truth = revised(venue.truth, SHORT - 1)
    venue.now_s += 5 * HOUR
    source.bars(after_s=START_S, until_s=int(venue.now_s))
    source._filler.ask_again("ETH", after_s=START_S, until_s=START_S + 50 * HOUR)
    assert source.bars(after_s=START_S, until_s=pin.last_close_s).sha256() != expected
    again = stored(venue, tmp_path)
    assert again.pinned(Pin.from_dict(pin.to_dict())).sha256() == expected
    later = again.pin()
    assert later.last_close_s == pin.last_close_s + 5 * HOUR and set(later.revisions.values()) == {1}


@pytest.mark.parametrize("moment", ["before a month is read", "after it was read"])
def test_a_revision_that_arrives_while_bars_are_pinned_does_not_alter_them(venue, tmp_path, monkeypatch, moment):
    source, another = stored(venue, tmp_path), stored(venue, tmp_path)
    source.bars(**history(venue))
    expected = venue.truth.slice(0, SHORT).sha256()
    venue.truth = revised(venue.truth, 40)
    revisions = iter([lambda: another._filler.ask_again("ETH", after_s=START_S, until_s=START_S + 50 * HOUR)])

    def read_beside_a_writer(path: Path, *, timeframe_s: int) -> Candles:
        early = moment == "after it was read"
        month = read_month(path, timeframe_s=timeframe_s) if early else None
        next(revisions, lambda: None)()
        return month if month is not None else read_month(path, timeframe_s=timeframe_s)

    monkeypatch.setattr(shelf, "read_month", read_beside_a_writer)
    pin = source.pin()
    assert pin.sha256 == expected and set(pin.revisions.values()) == {0}
    assert next(revisions, None) is None and len(source._filler.shelf("ETH").revisions()) == 1
    assert source.pinned(pin).sha256() == expected


def test_a_store_that_cannot_give_the_pinned_bars_again_says_so(venue, tmp_path):
    source = stored(venue, tmp_path)
    pin = source.pin()
    with pytest.raises(ContractMismatch, match="not those that were pinned"):
        source.pinned(replace(pin, sha256="0" * 64))
    with pytest.raises(ContractMismatch, match="other tickers"):
        source.pinned(replace(pin, revisions={"BTC": 0}))


def test_a_listing_in_the_middle_of_the_range_begins_the_bars_and_is_asked_once(tmp_path):
    """The empty months before it are the venue's, as its first candle proves."""
    truth = truth_bars(2300)
    filled = truth.filled.copy()
    filled[:1500, 2] = True
    with BinanceLike(truth=replace(truth, filled=filled), now_s=truth.last_close_s + 60.0) as venue:
        live = live_source("ccxt:binance", venue, history_bars=2300)
        source = StoredSource(
            CandleStore(tmp_path), live, venue="binance", tickers=TICKERS, timeframe_s=HOUR,
            clock_now_s=lambda: venue.now_s, pause=lambda: None,
        )  # fmt: skip
        got = source.bars(**history(venue))
        assert got.sha256() == truth.slice(1500, 2300).sha256()
        before = len(venue.requests)
        assert source.bars(**history(venue)).sha256() == got.sha256() and len(venue.requests) == before
    assert not damaged_months(CandleStore(tmp_path).shelf("binance", HOUR, "LINK-USDT"))
    assert np.isfinite(got.close).all()
