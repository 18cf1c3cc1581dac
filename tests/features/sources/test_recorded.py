"""Recorded candles: the file as it is, gaps flagged, and errors that say what to change."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.bars import epoch_s
from features.errors import DataError
from features.sources.recorded import RecordedSource
from features.sources.simulated import simulate

REAL = Path(__file__).parents[4] / "shared" / "data" / "crypto_1h_7_2020-10_2024-09.parquet"
TICKERS = ("BTC", "ETH")
START_S = 1_609_459_200
HOUR = 3600


def truth():
    return simulate(world="null", seed=1, bars=200, tickers=TICKERS, timeframe_s=HOUR, start_s=START_S)


def candles() -> pd.DataFrame:
    bars = truth()
    tables = [
        pd.DataFrame({
            "time": pd.to_datetime(bars.close_time_s - HOUR, unit="s", utc=True), "ticker": ticker,
            **{name: getattr(bars, name)[:, n] for name in ("open", "high", "low", "close", "volume")},
        })
        for n, ticker in enumerate(TICKERS)
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def source(path: Path, *, tickers: tuple[str, ...] = TICKERS, timeframe_s: int = HOUR) -> RecordedSource:
    return RecordedSource(path=path, tickers=tickers, timeframe_s=timeframe_s)


def everything(recorded: RecordedSource):
    return recorded.bars(after_s=0, until_s=1 << 40)


def test_parquet_and_csv_give_back_the_same_bars_bit_for_bit(tmp_path):
    shuffled = candles().sample(frac=1.0, random_state=1)
    shuffled.to_parquet(tmp_path / "c.parquet")
    shuffled.to_csv(tmp_path / "c.csv", index=False)
    shuffled.to_csv(tmp_path / "c.csv.gz", index=False)
    for name in ("c.parquet", "c.csv", "c.csv.gz"):
        recorded = source(tmp_path / name)
        assert everything(recorded).sha256() == truth().sha256()
        assert (recorded.first_close_s(), recorded.last_close_s()) == (truth().first_close_s, truth().last_close_s)


def test_tickers_come_in_the_order_asked_for(tmp_path):
    candles().to_parquet(tmp_path / "c.parquet")
    got = everything(source(tmp_path / "c.parquet", tickers=("ETH", "BTC")))
    assert got.sha256() == truth().select(("ETH", "BTC")).sha256()


def test_a_missing_hour_is_filled_forward_and_flagged(tmp_path):
    table = candles()
    lost = pd.to_datetime(truth().close_time_s[50] - HOUR, unit="s", utc=True)
    table[(table["time"] != lost) | (table["ticker"] != "ETH")].to_parquet(tmp_path / "c.parquet")
    got = everything(source(tmp_path / "c.parquet"))
    assert np.argwhere(got.filled).tolist() == [[50, 1]]
    assert got.open[50, 1] == got.close[50, 1] == truth().close[49, 1]
    assert got.volume[50, 1] == 0.0


def test_a_missing_file_says_which_setting_to_change(tmp_path):
    with pytest.raises(DataError, match=r"recorded_path"):
        source(tmp_path / "absent.parquet").last_close_s()


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "c.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="cannot be read"):
        source(tmp_path / "c.parquet").last_close_s()
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(DataError, match=r"neither .parquet nor .csv"):
        source(tmp_path / "c.json").last_close_s()


def test_wrong_columns_times_tickers_and_duplicates_are_named(tmp_path):
    path = tmp_path / "c.parquet"
    cases = (
        (candles().drop(columns="volume"), TICKERS, "volume"),
        (candles().assign(time=candles()["time"].dt.tz_localize(None)), TICKERS, "time zone"),
        (candles().assign(time="yesterday"), TICKERS, "not times"),
        (candles(), ("BTC", "DOGE"), "DOGE"),
        (pd.concat([candles(), candles().iloc[[7]]]), TICKERS, "two candles for BTC"),
        (candles().iloc[:0], TICKERS, "no candles"),
    )
    for table, tickers, complaint in cases:
        table.to_parquet(path)
        with pytest.raises(DataError, match=complaint):
            source(path, tickers=tickers).last_close_s()


def test_hourly_candles_are_not_silently_a_mostly_filled_quarter_hour(tmp_path):
    candles().to_parquet(tmp_path / "c.parquet")
    with pytest.raises(DataError, match="timeframe_s"):
        source(tmp_path / "c.parquet", timeframe_s=900).last_close_s()


@pytest.mark.skipif(not REAL.exists(), reason="the real candles are not beside this checkout")
def test_the_real_file_loads_with_its_twenty_outage_hours_flagged_for_every_ticker():
    tickers = ("AAVE", "AVAX", "BTC", "ETH", "LINK", "LTC", "UNI")
    bars = everything(source(REAL, tickers=tickers))
    assert bars.first_close_s == epoch_s("2020-10-15T04:00:00Z")
    assert bars.last_close_s == epoch_s("2024-09-06T03:00:00Z")
    assert bars.filled.sum(axis=0).tolist() == [20] * 7
    outage = bars.between(epoch_s("2020-12-21T14:00:00Z"), epoch_s("2020-12-21T18:00:00Z"))
    assert outage.filled.all() and outage.n_bars == 4
    assert bars.filled[bars.index_of(epoch_s("2023-03-24T14:00:00Z"))].all()
