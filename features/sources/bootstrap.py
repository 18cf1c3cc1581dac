"""The `bootstrap` world: recorded candles cut into blocks of about a week and put together in another order.

The stationary bootstrap of Politis and Romano (1994) on whole rows, so that all tickers keep their common hours. A
block begins at the hour of the week at which the block before it ended, so daily and weekly seasons survive; its length
is geometric with mean one week; and the record's whole weeks are a circle, so that each of their hours is drawn equally
often. What is resampled are the ratios of open, high, low and close to the close before, and the volume: prices are
chained from the ratios, without a jump where blocks meet. Filled bars stay filled.

For intervals and stress. The drift of the record is in it, and its few years come again and again: never the only
world to train on.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.bars import PRICE_COLUMNS, Bars
from features.errors import ConfigurationError
from features.sources.freqtrade import recorded_source
from features.sources.simulated import GENERATOR_VERSION, stream
from features.venue_rules import VenueRules

WEEK_S = 7 * 86_400
MEAN_BLOCK_S = WEEK_S
LEAST_WEEKS = 8  # of fewer, a year of bars is the same week ten times


def resample(record: Bars, *, seed: int, bars: int, start_s: int) -> Bars:
    """`bars` closed bars drawn from `record`; the first opens at `start_s` (UTC epoch seconds, on the grid).

    Prices start at the record's first close. The longer result begins with the shorter one. Raises ConfigurationError
    when the timeframe does not divide a week, the start is off the grid or the record is shorter than LEAST_WEEKS.
    """
    rows = drawn_rows(record, seed=seed, bars=bars, start_s=start_s)
    before, first = record.close[:-1], record.close[:1]
    close = np.cumprod(np.vstack([first, (record.close[1:] / before)[rows - 1]]), axis=0)
    prices = {name: (getattr(record, name)[1:] / before)[rows - 1] * close[:-1] for name in PRICE_COLUMNS}
    return Bars(
        tickers=record.tickers, timeframe_s=record.timeframe_s,
        close_time_s=start_s + record.timeframe_s * np.arange(1, bars + 1, dtype=np.int64),
        volume=record.volume[rows], filled=record.filled[rows], **prices,
    )  # fmt: skip


def drawn_rows(record: Bars, *, seed: int, bars: int, start_s: int) -> NDArray[np.int64]:
    """(bars,) the row of `record`, 1 or later, that each bar repeats.

    Within a block rows follow one another; the next block is the same hour of another week, uniform over the record's
    whole weeks. So the row is (hours since the start + weeks drawn) modulo whole weeks: the seam is only a new draw.
    """
    _require(record, bars, start_s)
    per_week = WEEK_S // record.timeframe_s
    weeks = (record.n_bars - 1) // per_week
    starts = stream(seed, "bootstrap.start").random(bars) < record.timeframe_s / MEAN_BLOCK_S
    starts[0] = True
    week = np.floor(stream(seed, "bootstrap.week").random(bars) * weeks).astype(np.int64)
    of_block = week[starts][np.cumsum(starts) - 1]
    # Row 1 opens when row 0 closes.
    offset = (start_s - record.first_close_s) // record.timeframe_s
    rows: NDArray[np.int64] = 1 + (offset + np.arange(bars) + per_week * of_block) % (per_week * weeks)
    return rows


def _require(record: Bars, bars: int, start_s: int) -> None:
    if bars < 2:
        raise ConfigurationError(f"cannot simulate {bars} bars", hint="set simulation.bars to 2 or more")
    if WEEK_S % record.timeframe_s:
        raise ConfigurationError(
            f"bars of {record.timeframe_s} s do not fill a week", hint="the world bootstrap keeps the hours of the week"
        )
    if (start_s - record.first_close_s) % record.timeframe_s:
        raise ConfigurationError(
            f"simulation.start_utc is off the grid of {record.timeframe_s} s",
            hint="start on a full hour for hourly bars",
        )
    weeks = (record.n_bars - 1) * record.timeframe_s / WEEK_S
    if weeks < LEAST_WEEKS:
        raise ConfigurationError(
            f"the record holds {weeks:.1f} weeks, the world bootstrap draws from {LEAST_WEEKS} or more",
            hint="name a longer one in market.recorded_path",
        )


class BootstrapSource:
    """The whole resampled history at once, drawn on first use; every call answers from memory.

    path, quote: as of `recorded_source`. Reading raises DataError when the record is missing or breaks a rule.
    """

    def __init__(
        self, *, path: Path, quote: str, seed: int, bars: int, tickers: tuple[str, ...], timeframe_s: int, start_s: int
    ) -> None:
        self.name = f"simulated:bootstrap:{path.name}:v{GENERATOR_VERSION}:seed{seed}"
        self._record = recorded_source(path=path, quote=quote, tickers=tickers, timeframe_s=timeframe_s)
        self._seed, self._n_bars, self._start_s = seed, bars, start_s
        self._tickers, self._timeframe_s = tickers, timeframe_s
        self._all: Bars | None = None

    def bars(self, *, after_s: int, until_s: int) -> Bars:
        if self._all is None:
            record = self._record.bars(after_s=0, until_s=self._record.last_close_s())
            self._all = resample(record, seed=self._seed, bars=self._n_bars, start_s=self._start_s)
        return self._all.between(after_s, until_s)

    def first_close_s(self) -> int:
        return self._start_s + self._timeframe_s

    def last_close_s(self) -> int:
        return self._start_s + self._n_bars * self._timeframe_s

    def venue_rules(self) -> VenueRules:
        return VenueRules.uniform("simulated", self._tickers)

    def clock_offset_s(self) -> float | None:
        return None
