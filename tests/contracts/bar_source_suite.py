"""What every source of bars promises, whatever it stands on: an adapter's tests inherit this suite."""

import numpy as np
import pytest

from features.bars import Bars
from features.errors import ConfigurationError, DataError
from features.sources import BarSource


class BarSourceSuite:
    """`given` is a source and the `Bars` it must give back, all that it has.

    `opened_for` opens the same source for other tickers; it is called after `given`, before anything is read.
    """

    @pytest.fixture
    def given(self) -> tuple[BarSource, Bars]:
        raise NotImplementedError

    def opened_for(self, tickers: tuple[str, ...]) -> BarSource:
        raise NotImplementedError

    def everything(self, source: BarSource, truth: Bars) -> Bars:
        return source.bars(after_s=truth.first_close_s - truth.timeframe_s, until_s=source.last_close_s())

    def test_the_bars_are_the_truth_bit_for_bit(self, given):
        source, truth = given
        got = self.everything(source, truth)
        assert got.tickers == truth.tickers
        assert got.sha256() == truth.sha256()

    def test_close_times_rise_by_exactly_one_timeframe(self, given):
        source, truth = given
        got = self.everything(source, truth)
        assert (np.diff(got.close_time_s) == truth.timeframe_s).all()
        assert (got.close_time_s % truth.timeframe_s == 0).all()

    def test_reading_twice_gives_the_same(self, given):
        source, truth = given
        middle_s = int(truth.close_time_s[truth.n_bars // 2])
        ranges = [(middle_s - 40 * truth.timeframe_s, middle_s), (middle_s, middle_s + 7 * truth.timeframe_s)] * 2
        first, second, third, fourth = (source.bars(after_s=a, until_s=b).sha256() for a, b in ranges)
        assert (first, second) == (third, fourth)

    def test_a_range_leaves_out_its_start_and_holds_its_end(self, given):
        source, truth = given
        k = truth.n_bars // 2
        after_s, until_s = int(truth.close_time_s[k]), int(truth.close_time_s[k + 9])
        assert source.bars(after_s=after_s, until_s=until_s).sha256() == truth.slice(k + 1, k + 10).sha256()

    def test_two_ranges_join_to_one(self, given):
        source, truth = given
        start_s = truth.first_close_s - truth.timeframe_s
        middle_s, end_s = int(truth.close_time_s[truth.n_bars // 3]), truth.last_close_s
        joined = source.bars(after_s=start_s, until_s=middle_s).concat(source.bars(after_s=middle_s, until_s=end_s))
        assert joined.sha256() == truth.sha256()

    def test_an_empty_range_is_no_bars_of_the_right_tickers(self, given):
        source, truth = given
        middle_s = int(truth.close_time_s[truth.n_bars // 2])
        for after_s, until_s in ((middle_s, middle_s), (middle_s, middle_s - truth.timeframe_s)):
            got = source.bars(after_s=after_s, until_s=until_s)
            assert (got.n_bars, got.tickers, got.timeframe_s) == (0, truth.tickers, truth.timeframe_s)

    def test_nothing_comes_from_the_future(self, given):
        source, truth = given
        last_s = source.last_close_s()
        got = source.bars(after_s=truth.last_close_s - truth.timeframe_s, until_s=last_s + 1000 * truth.timeframe_s)
        assert got.last_close_s == truth.last_close_s <= last_s

    def test_first_and_last_are_close_times_of_bars_that_can_be_had(self, given):
        source, truth = given
        first_s, last_s = source.first_close_s(), source.last_close_s()
        assert first_s >= truth.first_close_s
        assert source.bars(after_s=first_s - truth.timeframe_s, until_s=first_s).close_time_s.tolist() == [first_s]
        assert last_s == truth.last_close_s

    def test_rules_are_stated_for_every_ticker_by_name(self, given):
        source, truth = given
        rules = source.venue_rules()
        assert sorted(ticker for ticker, _ in rules.rules) == sorted(truth.tickers)
        for ticker in truth.tickers:
            assert rules.rule(ticker).lot_decimal > 0

    def test_a_ticker_that_is_not_there_is_an_error_that_names_it(self, given):
        _, truth = given
        other = self.opened_for((truth.tickers[0], "DOGE"))
        with pytest.raises((ConfigurationError, DataError), match="DOGE"):
            self.everything(other, truth)

    def test_the_clock_offset_is_a_number_of_seconds_or_none(self, given):
        source, _ = given
        offset_s = source.clock_offset_s()
        assert offset_s is None or abs(offset_s) <= 1.0
