"""Candles as freqtrade lays them on disk: a file per pair, four formats, and errors that name the file."""

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from features.bars import Bars, candles_from_bars
from features.errors import DataError
from features.sources import open_source
from features.sources.freqtrade import FreqtradeSource, recorded_source
from features.sources.recorded import RecordedSource
from features.sources.simulated import simulate

TICKERS = ("BTC", "ETH")
HOUR_S = 3600
FORMATS = ("feather", "parquet", "json", "json.gz")
TRUTH = simulate(world="null", seed=1, bars=200, tickers=TICKERS, timeframe_s=HOUR_S, start_s=1_609_459_200)


def table_of(ticker: str) -> pd.DataFrame:
    candles = candles_from_bars(TRUTH.select((ticker,)))
    return candles.rename(columns={"time": "date"}).drop(columns="ticker")


def write(directory: Path, name: str, table: pd.DataFrame) -> Path:
    """As freqtrade's handlers do, save that its JSON rounds to ten decimals and ours keeps every digit."""
    path = directory / name
    if name.endswith(".feather"):
        table.to_feather(path, compression_level=9, compression="lz4")
    elif name.endswith(".parquet"):
        table.to_parquet(path)
    else:
        table = table.assign(date=table["date"].dt.as_unit("ms").astype("int64"))
        text = json.dumps(table.astype(object).to_numpy().tolist()).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def pairs(directory: Path, suffix: str) -> Path:
    for ticker in TICKERS:
        write(directory, f"{ticker}_USDT-1h.{suffix}", table_of(ticker))
    return directory


def bars_of(directory: Path, *, tickers: tuple[str, ...] = TICKERS, timeframe_s: int = HOUR_S) -> Bars:
    source = FreqtradeSource(path=directory, quote="USDT", tickers=tickers, timeframe_s=timeframe_s)
    return source.bars(after_s=0, until_s=1 << 40)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_back_the_same_bars_bit_for_bit_in_the_order_asked_for(suffix: str, tmp_path: Path) -> None:
    pairs(tmp_path, suffix)
    assert bars_of(tmp_path).sha256() == TRUTH.sha256()
    assert bars_of(tmp_path, tickers=("ETH", "BTC")).sha256() == TRUTH.select(("ETH", "BTC")).sha256()


def test_json_as_pandas_rounds_it_for_freqtrade_is_read_as_well(tmp_path: Path) -> None:
    for ticker in TICKERS:
        table = table_of(ticker)
        table["date"] = table["date"].dt.as_unit("ms").astype("int64")
        table.to_json(tmp_path / f"{ticker}_USDT-1h.json.gz", orient="values", compression="gzip")
    got = bars_of(tmp_path)
    assert got.close_time_s.tolist() == TRUTH.close_time_s.tolist()
    assert got.close == pytest.approx(TRUTH.close, abs=1e-9)


def test_other_pairs_timeframes_trades_and_strangers_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    pairs(tmp_path, "feather")
    write(tmp_path, "ETH_BTC-1h.feather", table_of("BTC"))
    write(tmp_path, "BTC_USDT-4h.feather", table_of("ETH"))
    (tmp_path / "BTC_USDT-trades.feather").write_bytes(b"no candles")
    (tmp_path / "BTC_USDT-1h.feather.tmp").write_bytes(b"half")
    (tmp_path / "BTC_USDT_USDT-1h-futures.feather").write_bytes(b"elsewhere")
    (tmp_path / "futures").mkdir()
    assert bars_of(tmp_path).sha256() == TRUTH.sha256()


def test_one_setting_names_a_file_or_a_directory(tmp_path: Path) -> None:
    directory, file = pairs(tmp_path, "feather"), tmp_path / "all.parquet"
    candles_from_bars(TRUTH).to_parquet(file)
    for path in (directory, file):
        source = open_source(
            source="recorded", exchange="", quote="USDT", tickers=TICKERS, timeframe_s=HOUR_S, recorded_path=path,
            grace_s=0.0, history_bars=0, world="null", seed=1, bars=10, start_utc="2021-01-01T00:00:00Z",
            oracle_sharpe=0.0, clock_now_s=lambda: 0.0,
        )  # fmt: skip
        assert source.bars(after_s=0, until_s=1 << 40).sha256() == TRUTH.sha256()
    assert type(recorded_source(path=file, quote="USDT", tickers=TICKERS, timeframe_s=HOUR_S)) is RecordedSource


def test_a_timeframe_or_pair_that_is_not_there_is_named_with_what_is(tmp_path: Path) -> None:
    pairs(tmp_path, "feather")
    with pytest.raises(DataError, match=r"14400 s for BTC_USDT .*BTC_USDT-1h\.feather \(3600 s\).*timeframe_s"):
        bars_of(tmp_path, timeframe_s=4 * HOUR_S)
    with pytest.raises(DataError, match=r"no candles for LTC_USDT in .*LTC_USDT-1h\.feather.*market\.tickers"):
        bars_of(tmp_path, tickers=("BTC", "LTC"))
    with pytest.raises(DataError, match=r"BTC_EUR.*market\.quote"):
        FreqtradeSource(path=tmp_path, quote="EUR", tickers=("BTC",), timeframe_s=HOUR_S).last_close_s()


def test_one_pair_in_two_formats_is_refused(tmp_path: Path) -> None:
    pairs(pairs(tmp_path, "feather"), "json")
    with pytest.raises(DataError, match=r"BTC_USDT twice: BTC_USDT-1h\.feather, BTC_USDT-1h\.json"):
        bars_of(tmp_path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_is_cut_short_is_refused_by_name(suffix: str, tmp_path: Path) -> None:
    path = pairs(tmp_path, suffix) / f"ETH_USDT-1h.{suffix}"
    whole = path.read_bytes()
    for kept in (len(whole) // 2, len(whole) - 1, 0):
        path.write_bytes(whole[:kept])
        with pytest.raises(DataError, match=rf"ETH_USDT-1h\.{suffix} cannot be read"):
            bars_of(tmp_path)


def test_a_file_of_something_else_is_refused_by_name(tmp_path: Path) -> None:
    table = table_of("ETH")
    for content, complaint in (
        (table.drop(columns="volume"), "lacks the columns volume"), (table.iloc[:0], "holds no candles"),
        (table.assign(open="high"), "holds something other"), (table.assign(date="soon"), "holds something other"),
    ):  # fmt: skip
        write(pairs(tmp_path, "feather"), "ETH_USDT-1h.feather", content)
        with pytest.raises(DataError, match=rf"ETH_USDT-1h\.feather {complaint}"):
            bars_of(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    for text in ('{"code": 429}', "[[1609459200000, 1, 2]]", "[1, 2]", "null"):
        (pairs(tmp_path, "json") / "ETH_USDT-1h.json").write_text(text)
        with pytest.raises(DataError, match=r"ETH_USDT-1h\.json cannot be read"):
            bars_of(tmp_path)
    (tmp_path / "ETH_USDT-1h.json").write_text("[]")
    with pytest.raises(DataError, match=r"ETH_USDT-1h\.json holds no candles"):
        bars_of(tmp_path)


def test_a_pair_file_alone_is_refused_with_the_directory_as_remedy(tmp_path: Path) -> None:
    path = pairs(tmp_path, "feather") / "BTC_USDT-1h.feather"
    with pytest.raises(DataError, match="directory"):
        recorded_source(path=path, quote="USDT", tickers=("BTC",), timeframe_s=HOUR_S).last_close_s()
