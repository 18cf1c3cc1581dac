"""Bars from one file of candles on disk: Parquet or CSV, gaps filled forward and flagged."""

from pathlib import Path

import pandas as pd

from features.bars import PRICE_COLUMNS, Bars, bars_from_candles
from features.errors import DataError
from features.venue_rules import VenueRules

COLUMNS = ("time", "ticker", *PRICE_COLUMNS, "volume")
MOST_FILLED_SHARE = 0.5  # above this the timeframe is wrong: hourly candles on a 15-minute grid fill 75 %


class RecordedSource:
    """Candles of one file, loaded on first use.

    The file has the columns time (candle **open** time, tz-aware UTC; in CSV ISO-8601 with a zone), ticker, open, high,
    low, close, volume, in any order of rows. Raises DataError when it is missing, unreadable or breaks a rule.
    """

    def __init__(self, *, path: Path, tickers: tuple[str, ...], timeframe_s: int) -> None:
        self.name = f"recorded:{path.name}"
        self._path, self._tickers, self._timeframe_s = path, tickers, timeframe_s
        self._all: Bars | None = None

    def bars(self, *, after_s: int, until_s: int) -> Bars:
        return self._loaded().between(after_s, until_s)

    def first_close_s(self) -> int:
        return self._loaded().first_close_s

    def clock_offset_s(self) -> float | None:
        return None

    def venue_rules(self) -> VenueRules:
        """The same everywhere: a file of candles names no venue."""
        return VenueRules.uniform("recorded", self._tickers)

    def last_close_s(self) -> int:
        return self._loaded().last_close_s

    def _candles(self) -> pd.DataFrame:
        return read_candles(self._path)

    def _loaded(self) -> Bars:
        if self._all is None:
            bars = bars_from_candles(self._candles(), tickers=self._tickers, timeframe_s=self._timeframe_s)
            if bars.n_bars == 0:
                raise DataError(f"{self._path} holds no candles")
            if bars.filled.mean() > MOST_FILLED_SHARE:
                raise DataError(
                    f"{bars.filled.mean():.0%} of the {self._timeframe_s} s bars are missing in {self._path}",
                    hint="set market.timeframe_s to the timeframe of the file",
                )
            self._all = bars
        return self._all


def read_candles(path: Path) -> pd.DataFrame:
    """The candle table of a `.parquet` or `.csv` (also `.csv.gz`) file."""
    if not path.is_file():
        raise DataError(
            f"there is no file of recorded candles at {path}",
            hint="point market.recorded_path at a Parquet or CSV file or at a directory of pairs",
        )
    try:
        candles = _read(path)
    except (OSError, ValueError) as error:  # pyarrow's and pandas' parse errors are ValueErrors
        raise DataError(f"{path} cannot be read: {error}", hint="download the file again") from error
    absent = [column for column in COLUMNS if column not in candles.columns]
    if absent:
        raise DataError(f"{path} lacks the columns {', '.join(absent)}", hint=f"it needs {', '.join(COLUMNS)}")
    if not pd.api.types.is_datetime64_any_dtype(candles["time"]):
        raise DataError(f"the times in {path} are not times", hint="write them as 2024-01-31T05:00:00Z")
    return candles


def _read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if ".csv" in path.suffixes:
        return pd.read_csv(path, parse_dates=["time"])
    raise DataError(
        f"{path} is neither .parquet nor .csv", hint="for files of one pair each, name the directory they lie in"
    )
