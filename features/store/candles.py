"""Candles of one pair as the store keeps them, and every rule about them that needs no file.

A stored candle is true: an exchange said it. Missing ones are not stored, they are filled when bars are made.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.bars import PRICE_COLUMNS, Float, broken_rules, utc_text
from features.errors import DataError

VALUE_COLUMNS = (*PRICE_COLUMNS, "volume")
_UNITS = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def timeframe_text(timeframe_s: int) -> str:
    """`1m`, `4h`, `1d`: the largest unit that divides it."""
    unit_s, letter = next((s, letter) for s, letter in _UNITS if timeframe_s % s == 0)
    return f"{timeframe_s // unit_s}{letter}"


def timeframe_of(text: str) -> int:
    """Seconds of `1m`, `4h`, `1d` or `90s`; DataError for anything else."""
    unit_s = next((s for s, letter in _UNITS if text.endswith(letter)), 0)
    if not unit_s or not text[:-1].isdecimal() or int(text[:-1]) < 1:
        raise DataError(f"{text!r} is no timeframe", hint="write 1m, 15m, 1h, 4h or 1d")
    return int(text[:-1]) * unit_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A change of a range that had been answered before. old: None where there was no candle; values in column order."""

    close_time_s: int
    old: tuple[float, ...] | None
    new: tuple[float, ...]
    seen_s: int

    def to_dict(self) -> dict[str, Any]:
        return {"close_time_s": self.close_time_s, "old": self.old, "new": self.new, "seen_s": self.seen_s}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        old = record["old"]
        return cls(
            close_time_s=int(record["close_time_s"]), old=None if old is None else tuple(map(float, old)),
            new=tuple(map(float, record["new"])), seen_s=int(record["seen_s"]),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Candles:
    """T true candles, oldest first, each time once.

    close_time_s: (T,) int64, UTC epoch seconds on the timeframe's grid. ohlcv: (T, 5) float64 in the order of
    VALUE_COLUMNS. Raises DataError naming the time of the first candle that breaks a rule; NaN never passes.
    """

    timeframe_s: int
    close_time_s: NDArray[np.int64]
    ohlcv: Float

    def __post_init__(self) -> None:
        if self.ohlcv.shape != (len(self.close_time_s), len(VALUE_COLUMNS)):
            raise DataError(f"ohlcv has shape {self.ohlcv.shape} for {len(self.close_time_s)} candles")
        step = np.diff(self.close_time_s, prepend=self.close_time_s[:1] - 1)
        rules = (
            (step == 0, "there are two candles for one time"),
            (step < 0, "times are not in order"),
            (self.close_time_s % self.timeframe_s != 0, f"the time is off the {timeframe_text(self.timeframe_s)} grid"),
            *broken_rules(*self.ohlcv.T),
        )
        for broken, rule in rules:
            if broken.any():
                raise DataError(f"candle closing at {utc_text(int(self.close_time_s[np.argmax(broken)]))}: {rule}")

    def __len__(self) -> int:
        return len(self.close_time_s)

    @classmethod
    def empty(cls, timeframe_s: int) -> Self:
        return cls(timeframe_s=timeframe_s, close_time_s=np.empty(0, np.int64), ohlcv=np.empty((0, 5)))

    @classmethod
    def of_source(cls, table: pd.DataFrame, *, timeframe_s: int) -> Self:
        """From a source's columns: time (tz-aware **open** time) and VALUE_COLUMNS, in any order of rows."""
        if table.empty:
            return cls.empty(timeframe_s)
        opened_s = table["time"].dt.tz_convert("UTC").dt.as_unit("s").astype("int64").to_numpy()
        order = np.argsort(opened_s, kind="stable")
        values = table[list(VALUE_COLUMNS)].to_numpy(np.float64)[order]
        return cls(timeframe_s=timeframe_s, close_time_s=opened_s[order] + timeframe_s, ohlcv=values)

    @classmethod
    def joined(cls, parts: Sequence[Self], *, timeframe_s: int) -> Self:
        """Parts that follow one another in time."""
        if not parts:
            return cls.empty(timeframe_s)
        times = np.concatenate([p.close_time_s for p in parts])
        return cls(timeframe_s=timeframe_s, close_time_s=times, ohlcv=np.concatenate([p.ohlcv for p in parts]))

    def source_frame(self, ticker: str) -> pd.DataFrame:
        """As a source gives them and `bars_from_candles` takes them."""
        opened = pd.to_datetime(self.close_time_s - self.timeframe_s, unit="s", utc=True)
        values = dict(zip(VALUE_COLUMNS, self.ohlcv.T, strict=True))
        return pd.DataFrame({"time": opened, "ticker": ticker, **values})

    def between(self, after_s: int, until_s: int) -> Self:
        """Candles with `after_s < close_time_s <= until_s`."""
        start, stop = np.searchsorted(self.close_time_s, [after_s, until_s], side="right")
        return self.take(slice(int(start), int(stop)))

    def take(self, which: slice | NDArray[Any]) -> Self:
        return type(self)(timeframe_s=self.timeframe_s, close_time_s=self.close_time_s[which], ohlcv=self.ohlcv[which])

    def sha256(self) -> str:
        """Hash of timeframe, times and values; the same however the candles are cut into files."""
        digest = hashlib.sha256(f"{self.timeframe_s}|".encode())
        digest.update(np.ascontiguousarray(self.close_time_s, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(self.ohlcv, dtype="<f8").tobytes())
        return digest.hexdigest()

    def gaps(self) -> tuple[tuple[int, int], ...]:
        """(first, last) missing close time of each hole between the first and the last candle."""
        holes = np.flatnonzero(np.diff(self.close_time_s) > self.timeframe_s)
        return tuple(
            (int(self.close_time_s[k]) + self.timeframe_s, int(self.close_time_s[k + 1]) - self.timeframe_s)
            for k in holes
        )

    def merged(self, fresh: Self, *, seen_s: int) -> tuple[Self, tuple[Revision, ...]]:
        """Both, the fresh word winning; and one Revision for each candle that is new (old None) or differs."""
        places = np.searchsorted(self.close_time_s, fresh.close_time_s)
        changes = []
        for k, (place, time_s) in enumerate(zip(places.tolist(), fresh.close_time_s.tolist(), strict=True)):
            known = place < len(self) and int(self.close_time_s[place]) == time_s
            if known and np.array_equal(self.ohlcv[place], fresh.ohlcv[k]):
                continue
            old = tuple(self.ohlcv[place].tolist()) if known else None
            changes.append(Revision(close_time_s=time_s, old=old, new=tuple(fresh.ohlcv[k].tolist()), seen_s=seen_s))
        return self.overlaid(tuple(changes), as_of=len(changes)), tuple(changes)

    def overlaid(self, revisions: Sequence[Revision], *, as_of: int) -> Self:
        """These candles as they were when `as_of` of the revisions had been seen, whichever are already in them."""
        settled: dict[int, tuple[float, ...] | None] = {}
        for number, revision in enumerate(revisions):
            if number < as_of:
                settled[revision.close_time_s] = revision.new
            else:
                settled.setdefault(revision.close_time_s, revision.old)
        if not settled:
            return self
        kept = ~np.isin(self.close_time_s, list(settled))
        there = {time_s: values for time_s, values in settled.items() if values is not None}
        times = np.concatenate([self.close_time_s[kept], np.array(list(there), np.int64)])
        values = np.concatenate([self.ohlcv[kept], np.array(list(there.values()), np.float64).reshape(-1, 5)])
        order = np.argsort(times, kind="stable")
        return type(self)(timeframe_s=self.timeframe_s, close_time_s=times[order], ohlcv=values[order])


@dataclass(frozen=True, slots=True)
class Spans:
    """Ranges `after_s < close_time_s <= until_s` that a venue has answered: disjoint, in order, never touching."""

    spans: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        edges = [edge for span in self.spans for edge in span]
        if any(later <= earlier for earlier, later in pairwise(edges)):
            raise DataError("ranges overlap or are not in order")

    def including(self, after_s: int, until_s: int) -> "Spans":
        """With one range more; ranges that meet become one."""
        if until_s <= after_s:
            return self
        apart = [s for s in self.spans if s[1] < after_s or s[0] > until_s]
        meeting = [s for s in self.spans if not (s[1] < after_s or s[0] > until_s)]
        whole = (min([after_s, *(s[0] for s in meeting)]), max([until_s, *(s[1] for s in meeting)]))
        return Spans(tuple(sorted([*apart, whole])))

    def missing(self, after_s: int, until_s: int) -> tuple[tuple[int, int], ...]:
        """The parts of the range that no span covers."""
        holes, at = [], after_s
        for start, stop in self.spans:
            if stop <= at or start >= until_s:
                continue
            if start > at:
                holes.append((at, start))
            at = stop
        return tuple(holes) if at >= until_s else (*holes, (at, until_s))

    def known_until(self, until_s: int) -> int | None:
        """The newest time up to `until_s` at which it is known whether there was a candle; None when there is none."""
        return max((min(stop, until_s) for start, stop in self.spans if start < until_s), default=None)

    def has(self, close_time_s: int) -> bool:
        return any(after_s < close_time_s <= until_s for after_s, until_s in self.spans)

    def mask(self, close_time_s: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(T,) which of the times lie in a span."""
        inside = np.zeros(len(close_time_s), np.bool_)
        for start, stop in self.spans:
            inside |= (close_time_s > start) & (close_time_s <= stop)
        return inside


def months_of(after_s: int, until_s: int, *, timeframe_s: int) -> tuple[str, ...]:
    """The UTC months, `2024-01`, in which a candle with `after_s < close_time_s <= until_s` may close."""
    if until_s <= after_s:
        return ()
    first, last = (np.datetime64(edge, "s").astype("datetime64[M]") for edge in (after_s + timeframe_s, until_s))
    return tuple(str(month) for month in np.arange(first, last + 1))


@lru_cache(maxsize=4096)
def month_span(month: str, *, timeframe_s: int) -> tuple[int, int]:
    """(after_s, until_s) of the candles that close in the month, on the timeframe's grid."""
    start = np.datetime64(month, "M")
    edges = [int(edge.astype("datetime64[s]").astype(np.int64)) for edge in (start, start + 1)]
    after_s, until_s = (-(-edge // timeframe_s) * timeframe_s - timeframe_s for edge in edges)
    return after_s, until_s


def candles_sha256(parts: Mapping[str, Candles]) -> str:
    """Hash of several pairs' candles by name, in the order of the names."""
    lines = "".join(f"{pair} {parts[pair].sha256()}\n" for pair in sorted(parts))
    return hashlib.sha256(lines.encode()).hexdigest()
