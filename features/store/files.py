"""A month of candles as bytes: Parquet, with the hash of its own content inside.

Parquet's pages are compressed, not checked: a flipped bit can decode to another price. The hash is what notices.
"""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.bars import utc_text
from features.errors import DataError
from features.store.candles import VALUE_COLUMNS, Candles, month_span

SCHEMA = pa.schema([("close_time_s", pa.int64()), *((name, pa.float64()) for name in VALUE_COLUMNS)])
_HASH = b"candles_sha256"
REPAIR = "cappuccinoctl data repair"


class Damaged(DataError):
    """A file of the store that must not be read. Nothing else of the store is affected."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path} is damaged: {problem}", hint=f"`{REPAIR}` asks the venue again and keeps this file aside"
        )
        self.path, self.problem = path, problem


def month_bytes(candles: Candles) -> bytes:
    """The same candles always give the same bytes."""
    columns = [pa.array(candles.close_time_s), *(pa.array(np.ascontiguousarray(v)) for v in candles.ohlcv.T)]
    schema = SCHEMA.with_metadata({_HASH: candles.sha256().encode()})
    buffer = io.BytesIO()
    # a restart reads some thirty of these: lz4 without dictionaries decodes five times as fast as the defaults
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), buffer, compression="lz4", use_dictionary=False)
    return buffer.getvalue()


def read_month(path: Path, *, timeframe_s: int) -> Candles:
    """The candles of one month's file; Damaged when it is missing, torn, altered, or breaks a rule of candles."""
    try:
        return _decoded(path.read_bytes(), month=path.stem, timeframe_s=timeframe_s)
    except FileNotFoundError:
        raise Damaged(path, "it is missing, though the venue had answered for this month") from None
    except DataError as error:
        raise Damaged(path, str(error)) from error
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:  # whatever a torn file makes pyarrow say
        raise Damaged(path, str(error).split("\n")[0]) from error


def _decoded(data: bytes, *, month: str, timeframe_s: int) -> Candles:
    table = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)
    if not table.schema.equals(SCHEMA):
        raise DataError(f"it has the columns {', '.join(table.schema.names)}")
    candles = Candles(
        timeframe_s=timeframe_s, close_time_s=table.column("close_time_s").to_numpy(),
        ohlcv=np.column_stack([table.column(name).to_numpy() for name in VALUE_COLUMNS]),
    )  # fmt: skip
    if (table.schema.metadata or {}).get(_HASH) != candles.sha256().encode():
        raise DataError("its candles do not match their checksum")
    if len(candles.between(*month_span(month, timeframe_s=timeframe_s))) != len(candles):
        raise DataError(f"a candle closing at {utc_text(int(candles.close_time_s[0]))} does not belong here")
    return candles
