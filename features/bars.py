"""Closed candles of several tickers on one regular clock: the only form in which market data travels.

A bar is labelled by its **close** time. A missing bar is filled forward (open = high = low = close = previous
close, volume 0) and flagged in `filled`; nobody trades on a filled bar.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.errors import ContractMismatch, DataError

Float = NDArray[np.float64]
PRICE_COLUMNS = ("open", "high", "low", "close")


def utc_text(epoch_s: int) -> str:
    """`2024-01-31T05:00:00Z` for a UTC epoch second."""
    return datetime.fromtimestamp(epoch_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def epoch_s(text: str) -> int:
    """UTC epoch second of an ISO-8601 time; a naive time, or none at all, raises DataError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(f"{text!r} is no time", hint="write it as 2024-01-01T00:00:00Z") from error
    if moment.tzinfo is None:
        raise DataError(f"time {text!r} has no time zone", hint="write it in UTC with a trailing Z")
    return int(moment.timestamp())


def broken_rules(o: Float, h: Float, l: Float, c: Float, volume: Float) -> tuple[tuple[NDArray[np.bool_], str], ...]:
    """Every rule that a candle keeps by itself, and where one does not; arrays of one shape. NaN never passes."""
    finite = np.isfinite(o) & np.isfinite(h) & np.isfinite(l) & np.isfinite(c) & np.isfinite(volume)
    return (
        (~finite, "a value is not finite"),
        ((o <= 0) | (l <= 0) | (c <= 0), "a price is not positive"),
        (h < np.maximum(o, c), "high is below open or close"),
        (l > np.minimum(o, c), "low is above open or close"),
        (volume < 0, "volume is negative"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """T closed bars of N tickers.

    close_time_s: (T,) int64, UTC epoch seconds, spaced by exactly `timeframe_s`.
    open, high, low, close: (T, N) float64, quote currency per unit. volume: (T, N) float64, base units.
    filled: (T, N) bool. Raises DataError when a bar breaks a rule; NaN never passes.
    """

    tickers: tuple[str, ...]
    timeframe_s: int
    close_time_s: NDArray[np.int64]
    open: Float
    high: Float
    low: Float
    close: Float
    volume: Float
    filled: NDArray[np.bool_]

    def __post_init__(self) -> None:
        shape = (len(self.close_time_s), len(self.tickers))
        if len(set(self.tickers)) != len(self.tickers):
            raise DataError(f"a ticker is listed twice: {', '.join(self.tickers)}")
        for name in (*PRICE_COLUMNS, "volume", "filled"):
            if getattr(self, name).shape != shape:
                raise DataError(f"{name} has shape {getattr(self, name).shape}, expected {shape} (bars, tickers)")
        if shape[0] > 1 and (np.diff(self.close_time_s) != self.timeframe_s).any():
            raise DataError(f"close times are not spaced by {self.timeframe_s} s")
        for broken, rule in broken_rules(self.open, self.high, self.low, self.close, self.volume):
            if broken.any():
                t, n = np.argwhere(broken)[0]
                raise DataError(f"{self.tickers[n]} at {utc_text(int(self.close_time_s[t]))}: {rule}")

    @property
    def n_bars(self) -> int:
        return len(self.close_time_s)

    @property
    def n_tickers(self) -> int:
        return len(self.tickers)

    @property
    def first_close_s(self) -> int:
        return int(self.close_time_s[0])

    @property
    def last_close_s(self) -> int:
        return int(self.close_time_s[-1])

    def slice(self, start: int, stop: int) -> Self:
        """Bars `start` (included) to `stop` (excluded), as views."""
        parts = {f.name: getattr(self, f.name)[start:stop] for f in fields(self) if f.name not in _SCALARS}
        return type(self)(tickers=self.tickers, timeframe_s=self.timeframe_s, **parts)

    def between(self, after_s: int, until_s: int) -> Self:
        """Bars with `after_s < close_time_s <= until_s`."""
        start, stop = np.searchsorted(self.close_time_s, [after_s, until_s], side="right")
        return self.slice(int(start), int(stop))

    def index_of(self, close_time_s: int) -> int:
        """Position of the bar that closes at `close_time_s`; DataError when there is none."""
        position = int(np.searchsorted(self.close_time_s, close_time_s))
        if position == self.n_bars or self.close_time_s[position] != close_time_s:
            raise DataError(f"no bar closes at {utc_text(close_time_s)}")
        return position

    def select(self, tickers: Sequence[str]) -> Self:
        """The same bars for `tickers`, in that order; ContractMismatch names any that are missing."""
        missing = [t for t in tickers if t not in self.tickers]
        if missing:
            raise ContractMismatch("bars lack tickers", differences=[f"missing {t}" for t in missing])
        columns = [self.tickers.index(t) for t in tickers]
        parts = {n: getattr(self, n)[:, columns] for n in (*PRICE_COLUMNS, "volume", "filled")}
        return type(self)(tickers=tuple(tickers), timeframe_s=self.timeframe_s, close_time_s=self.close_time_s, **parts)

    def concat(self, later: Self) -> Self:
        """These bars followed by `later`, which must start exactly one timeframe after the last."""
        if later.tickers != self.tickers or later.timeframe_s != self.timeframe_s:
            raise DataError("cannot join bars of other tickers or another timeframe")
        parts = {
            f.name: np.concatenate([getattr(self, f.name), getattr(later, f.name)])
            for f in fields(self)
            if f.name not in _SCALARS
        }
        return type(self)(tickers=self.tickers, timeframe_s=self.timeframe_s, **parts)

    def sha256(self) -> str:
        """Hash of tickers, timeframe and every number, independent of memory layout."""
        digest = hashlib.sha256(f"{','.join(self.tickers)}|{self.timeframe_s}|".encode())
        for f in fields(self):
            if f.name not in _SCALARS:
                array = getattr(self, f.name)
                digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()


_SCALARS = ("tickers", "timeframe_s")


def empty_bars(tickers: Sequence[str], timeframe_s: int) -> Bars:
    """No bars at all: what a source answers when nothing new has closed."""
    nothing = np.empty((0, len(tickers)))
    return Bars(
        tickers=tuple(tickers), timeframe_s=timeframe_s, close_time_s=np.empty(0, dtype=np.int64),
        open=nothing, high=nothing, low=nothing, close=nothing, volume=nothing,
        filled=np.empty((0, len(tickers)), dtype=np.bool_),
    )  # fmt: skip


def bars_from_candles(candles: pd.DataFrame, *, tickers: Sequence[str], timeframe_s: int) -> Bars:
    """Put candles on the regular grid, filling gaps forward.

    candles: columns time (tz-aware UTC candle **open** time), ticker, open, high, low, close, volume, in any order
    of rows. The grid starts at the first bar that every ticker has. Raises DataError on duplicates, off-grid times,
    missing tickers or naive times.
    """
    if candles.empty:
        return empty_bars(tickers, timeframe_s)
    if getattr(candles["time"].dt, "tz", None) is None:
        raise DataError("candle times have no time zone", hint="localise them to UTC before loading")
    chosen = candles[candles["ticker"].isin(list(tickers))]
    absent = sorted(set(tickers) - set(chosen["ticker"].unique()))
    if absent:
        raise DataError(f"no candles for {', '.join(absent)}", hint="check market.tickers against the source")
    opened_s = (chosen["time"].dt.tz_convert("UTC").dt.as_unit("s").astype("int64")).to_numpy()
    if (opened_s % timeframe_s).any():
        raise DataError(f"a candle opens off the {timeframe_s} s grid", hint="check market.timeframe_s")
    values = chosen[[*PRICE_COLUMNS, "volume"]].to_numpy(float)
    of = [np.flatnonzero(chosen["ticker"].to_numpy() == ticker) for ticker in tickers]
    parts = [(opened_s[rows] + timeframe_s, values[rows]) for rows in of]
    return bars_on_grid(parts, tickers=tickers, timeframe_s=timeframe_s)


def bars_on_grid(
    parts: Sequence[tuple[NDArray[np.int64], Float]], *, tickers: Sequence[str], timeframe_s: int
) -> Bars:  # fmt: skip
    """As `bars_from_candles`, from what each ticker has: its close times on the grid and (T, 5) open … volume."""
    first, last = min(int(times.min()) for times, _ in parts), max(int(times.max()) for times, _ in parts)
    grid = np.arange(first, last + 1, timeframe_s, dtype=np.int64)
    raw = np.full((len(PRICE_COLUMNS) + 1, len(grid), len(parts)), np.nan)
    for i, (times, values) in enumerate(parts):
        rows = (times - first) // timeframe_s
        if (twice := np.bincount(rows) > 1).any():
            raise DataError(f"two candles for {tickers[i]} closing at {utc_text(int(grid[np.argmax(twice)]))}")
        raw[:, rows, i] = values.T
    start = max(int(times.min()) for times, _ in parts)
    named = dict(zip((*PRICE_COLUMNS, "volume"), raw, strict=True))
    return _filled_forward(named, grid, tuple(tickers), timeframe_s, skip=(start - first) // timeframe_s)


def candles_from_bars(bars: Bars) -> pd.DataFrame:
    """The true candles of `bars`, without the filled ones: what `bars_from_candles` reads back."""
    true_rows = ~bars.filled
    k, i = np.nonzero(true_rows)
    table: dict[str, object] = {
        "time": pd.to_datetime(bars.close_time_s[k] - bars.timeframe_s, unit="s", utc=True),
        "ticker": np.array(bars.tickers)[i],
    }
    table |= {name: getattr(bars, name)[true_rows] for name in (*PRICE_COLUMNS, "volume")}
    return pd.DataFrame(table)


def _filled_forward(
    raw: dict[str, Float], grid: NDArray[np.int64], tickers: tuple[str, ...], timeframe_s: int, *, skip: int
) -> Bars:
    """skip: bars before which some ticker had none yet; the others may be filled from a close among them."""
    filled = np.isnan(raw["close"])
    close = pd.DataFrame(raw["close"]).ffill().to_numpy()
    prices = {name: np.where(filled, close, raw[name])[skip:] for name in PRICE_COLUMNS}
    return Bars(
        tickers=tickers, timeframe_s=timeframe_s, close_time_s=grid[skip:],
        volume=np.where(filled, 0.0, raw["volume"])[skip:], filled=filled[skip:], **prices,
    )  # fmt: skip
