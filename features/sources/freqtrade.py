"""A directory of candles as freqtrade downloads them: one file per pair and timeframe, `BTC_USDT-1h.feather`.

Columns date (candle **open** time, UTC), open, high, low, close, volume (base asset). `.feather` and `.parquet` hold
them as a table, `.json` and `.json.gz` as rows `[milliseconds, open, high, low, close, volume]` without a header.
Source: freqtrade's documentation, "Data downloading", and its data handlers (spot candles; futures lie elsewhere).
"""

import gzip
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pandas as pd

from features.bars import PRICE_COLUMNS
from features.errors import DataError
from features.sources.recorded import RecordedSource

COLUMNS = ("date", *PRICE_COLUMNS, "volume")
SUFFIXES = (".feather", ".parquet", ".json", ".json.gz")
UNIT_S = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
FILE_NAME = re.compile(
    r"(?P<pair>[^-]+)-(?P<count>\d+)(?P<unit>[mhdw])(?:\.feather|\.parquet|\.json|\.json\.gz)", re.ASCII
)


class FreqtradeSource(RecordedSource):
    """The pairs TICKER_QUOTE of one directory, loaded on first use; DataError names the file that is wrong or missing."""

    def __init__(self, *, path: Path, quote: str, tickers: tuple[str, ...], timeframe_s: int) -> None:
        super().__init__(path=path, tickers=tickers, timeframe_s=timeframe_s)
        self._quote = quote

    def _candles(self) -> pd.DataFrame:
        return pd.concat(
            [
                read_pair(file_of(self._path, pair=f"{ticker}_{self._quote}", timeframe_s=self._timeframe_s)).assign(
                    ticker=ticker
                )
                for ticker in self._tickers
            ],
            ignore_index=True,
        )


def recorded_source(*, path: Path, quote: str, tickers: tuple[str, ...], timeframe_s: int) -> RecordedSource:
    """Whatever market.recorded_path names: one file with all tickers, or a directory with a file per pair."""
    if path.is_dir():
        return FreqtradeSource(path=path, quote=quote, tickers=tickers, timeframe_s=timeframe_s)
    return RecordedSource(path=path, tickers=tickers, timeframe_s=timeframe_s)


def file_of(directory: Path, *, pair: str, timeframe_s: int) -> Path:
    """The one file of `pair` (BTC_USDT) at the timeframe; DataError when there is none, or one in each of two formats."""
    of_pair = {
        file: int(name["count"]) * UNIT_S[name["unit"]]
        for file in sorted(directory.iterdir())
        if (name := FILE_NAME.fullmatch(file.name)) and name["pair"] == pair
    }
    found = [file for file, seconds in of_pair.items() if seconds == timeframe_s]
    if len(found) > 1:
        raise DataError(
            f"{directory} holds {pair} twice: {', '.join(file.name for file in found)}", hint="keep the newer one"
        )
    if not found and of_pair:
        others = ", ".join(f"{file.name} ({seconds} s)" for file, seconds in of_pair.items())
        raise DataError(
            f"no candles of {timeframe_s} s for {pair} in {directory}, only {others}",
            hint="set market.timeframe_s to the timeframe in the files' names",
        )
    if not found:
        raise DataError(
            f"no candles for {pair} in {directory}",
            hint=f"put {pair}-1h.feather there (or {', '.join(SUFFIXES[1:])}); check market.quote and market.tickers",
        )
    return found[0]


def read_pair(file: Path) -> pd.DataFrame:
    """Columns time (tz-aware UTC), open, high, low, close, volume of one pair's file."""
    try:
        table = _read(file)
    except (OSError, ValueError, EOFError, zlib.error) as error:  # what pyarrow, json and gzip say of a broken file
        raise DataError(f"{file} cannot be read: {error}", hint="download the file again") from error
    absent = [column for column in COLUMNS if column not in table.columns]
    if absent:
        raise DataError(f"{file} lacks the columns {', '.join(absent)}", hint=f"it needs {', '.join(COLUMNS)}")
    if table.empty:
        raise DataError(f"{file} holds no candles", hint="download the pair again, or leave it out of market.tickers")
    try:
        time = pd.to_datetime(table["date"], unit="ms", utc=True)
        values = table[[*PRICE_COLUMNS, "volume"]].astype(float)
    except (TypeError, ValueError) as error:
        raise DataError(f"{file} holds something other than candles: {error}", hint="download it again") from error
    return values.assign(time=time)


def _read(file: Path) -> pd.DataFrame:
    if file.suffix == ".feather":
        return pd.read_feather(file)
    if file.suffix == ".parquet":
        return pd.read_parquet(file)
    data = file.read_bytes()
    rows: list[list[Any]] = json.loads(gzip.decompress(data) if file.suffix == ".gz" else data)
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(COLUMNS) for row in rows):
        raise ValueError(f"a row is not [{', '.join(COLUMNS)}]")
    return pd.DataFrame(rows, columns=list(COLUMNS))
