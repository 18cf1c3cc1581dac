"""The folder of one pair in the candle store, for reading."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from features.errors import DataError
from features.files import read_jsonl
from features.store.candles import Candles, Revision, Spans, month_span, months_of
from features.store.files import Damaged, read_month

ANSWERED, REVISIONS, ASIDE = "answered.json", "revisions.jsonl", "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """One pair at one timeframe. Every method raises Damaged, naming the file that must not be trusted."""

    path: Path
    timeframe_s: int

    @property
    def pair(self) -> str:
        return self.path.name

    def answered(self) -> Spans:
        """The ranges the venue has answered; none for a pair that was never asked for."""
        path = self.path / ANSWERED
        try:
            record = json.loads(path.read_bytes())
            return Spans(tuple((int(after_s), int(until_s)) for after_s, until_s in record["answered"]))
        except FileNotFoundError:
            return Spans()
        except (OSError, ValueError, KeyError, TypeError, DataError) as error:
            raise Damaged(path, str(error)) from error

    def revisions(self) -> tuple[Revision, ...]:
        """Oldest first."""
        path = self.path / REVISIONS
        try:
            return tuple(Revision.from_dict(record) for record in read_jsonl(path))
        except (OSError, KeyError, TypeError, ValueError, DataError) as error:
            raise Damaged(path, str(error)) from error

    def candles(self, *, after_s: int, until_s: int, as_of: int | None = None) -> Candles:
        """True candles with `after_s < close_time_s <= until_s`, where answered.

        as_of: how many revisions count; None for all.
        """
        answered = self.answered()  # before the months: what it covers is already in them
        wanted = [m for m in self._months(answered) if not self._apart(m, after_s, until_s)]
        parts = [read_month(self.month_path(m), timeframe_s=self.timeframe_s) for m in wanted]
        revisions = self.revisions()  # after the months: what they say anew was written here before
        whole = Candles.joined(parts, timeframe_s=self.timeframe_s)
        seen = whole.overlaid(revisions, as_of=len(revisions) if as_of is None else as_of).between(after_s, until_s)
        return seen.take(answered.mask(seen.close_time_s))

    def newest(self, *, until_s: int, as_of: int | None = None) -> Candles:
        """The last candle that closes at or before the time, or none: what a gap is filled from."""
        found = self._first_found(reversed(self.months()), after_s=0, until_s=until_s, as_of=as_of)
        return found.take(slice(-1, None))

    def oldest(self, *, after_s: int, as_of: int | None = None) -> Candles:
        """The first candle that closes after the time, or none: what proves that a gap has ended."""
        end_s = max((stop_s for _, stop_s in self.answered().spans), default=after_s)
        found = self._first_found(self.months(), after_s=after_s, until_s=end_s, as_of=as_of)
        return found.take(slice(0, 1))

    def months(self) -> tuple[str, ...]:
        """Months that are stored, or should be because the venue has answered for them; in order."""
        return self._months(self.answered())

    def stored_months(self) -> frozenset[str]:
        return frozenset(path.stem for path in self.path.glob("[0-9][0-9][0-9][0-9]-[01][0-9].parquet"))

    def month_path(self, month: str) -> Path:
        return self.path / f"{month}.parquet"

    def _months(self, answered: Spans) -> tuple[str, ...]:
        expected = {m for a, b in answered.spans for m in months_of(a, b, timeframe_s=self.timeframe_s)}
        return tuple(sorted(expected | self.stored_months()))

    def _apart(self, month: str, after_s: int, until_s: int) -> bool:
        start_s, stop_s = month_span(month, timeframe_s=self.timeframe_s)
        return max(start_s, after_s) >= min(stop_s, until_s)

    def _first_found(self, months: Iterable[str], *, after_s: int, until_s: int, as_of: int | None) -> Candles:
        for month in months:
            if not self._apart(month, after_s, until_s):
                start_s, stop_s = month_span(month, timeframe_s=self.timeframe_s)
                near = self.candles(after_s=max(start_s, after_s), until_s=min(stop_s, until_s), as_of=as_of)
                if len(near):
                    return near
        return Candles.empty(self.timeframe_s)
