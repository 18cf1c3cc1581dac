"""With which bar the features of a bar begin: recursive ones remember it, so trader and proof must begin at the same.

An account's features begin with its journal's first bar, and every `every_bars` bars they begin anew so many bars later:
neither memory nor the time of a proof grows with the age of an account.
"""

from dataclasses import dataclass

import numpy as np

from features.bars import Bars
from features.pipeline import FeatureRows, compute
from features.spec import FeatureSpec

EVERY_BARS = 1000  # at an hour: six weeks; of a new account, what a journal was begun with counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """first_s: close of the journal's first bar; opened_s: of the bar at which the account was opened."""

    first_s: int
    opened_s: int
    timeframe_s: int
    every_bars: int

    def of(self, close_time_s: int) -> int:
        """Close of the bar with which the features of the bar that closes then begin."""
        return self.first_s + self._span(close_time_s) * self.every_bars * self.timeframe_s

    def until_s(self, close_time_s: int) -> int:
        """Close of the last bar with the same anchor."""
        return self.opened_s + ((self._span(close_time_s) + 1) * self.every_bars - 1) * self.timeframe_s

    def _span(self, close_time_s: int) -> int:
        return max(0, (close_time_s - self.opened_s) // (self.every_bars * self.timeframe_s))


class AnchoredRows:
    """Feature rows of stored bars, each from its own anchor on; one span of them is kept."""

    def __init__(self, bars: Bars, spec: FeatureSpec, anchors: Anchors) -> None:
        self._bars, self._spec, self._anchors = bars, spec, anchors
        self._begin_s = -1

    def span(self, close_time_s: int) -> FeatureRows:
        """Rows of every bar that has this bar's anchor, and of those before it since."""
        begin_s = self._anchors.of(close_time_s)
        if begin_s != self._begin_s:
            until_s = min(self._anchors.until_s(close_time_s), self._bars.last_close_s)
            start, stop = self._bars.index_of(begin_s), self._bars.index_of(until_s) + 1
            self._rows, self._begin_s = compute(self._bars.slice(start, stop), self._spec), begin_s
        return self._rows

    def stack(self, close_time_s: int) -> list[FeatureRows]:
        """The `stack_bars` rows up to this bar, one record each."""
        rows = self.span(close_time_s)
        last = int(np.searchsorted(rows.close_time_s, close_time_s))
        return [rows.slice(k, k + 1) for k in range(max(0, last + 1 - self._spec.stack_bars), last + 1)]
