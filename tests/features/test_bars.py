from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from world import random_bars

from features.bars import Bars, bars_from_candles, epoch_s
from features.errors import ContractMismatch, DataError


def candles(bars: Bars) -> pd.DataFrame:
    frames = [
        pd.DataFrame(
            {
                "time": pd.to_datetime(bars.close_time_s - bars.timeframe_s, unit="s", utc=True),
                "ticker": ticker,
                **{c: getattr(bars, c)[:, n] for c in ("open", "high", "low", "close", "volume")},
            }
        )
        for n, ticker in enumerate(bars.tickers)
    ]
    return pd.concat(frames)


def test_a_missing_hour_is_filled_forward_flagged_and_carries_no_volume() -> None:
    bars = random_bars(1, n_bars=50)
    table = candles(bars)
    gap = pd.Timestamp(int(bars.close_time_s[20]) - 3600, unit="s", tz="UTC")
    back = bars_from_candles(table[table["time"] != gap], tickers=bars.tickers, timeframe_s=3600)
    assert back.filled[20].all() and not back.filled[19].any()
    np.testing.assert_array_equal(back.open[20], bars.close[19])
    np.testing.assert_array_equal(back.close[20], bars.close[19])
    assert (back.volume[20] == 0).all()


def test_a_ticker_missing_when_the_last_one_begins_is_filled_from_its_own_earlier_close() -> None:
    bars = random_bars(1, n_bars=50)
    table = candles(bars)
    opened = bars.close_time_s - 3600
    start = pd.Timestamp(int(opened[10]), unit="s", tz="UTC")
    late = (table["ticker"] == bars.tickers[0]) & (table["time"] < start)
    hole = (table["ticker"] == bars.tickers[1]) & (table["time"] == start)
    back = bars_from_candles(table[~late & ~hole], tickers=bars.tickers, timeframe_s=3600)
    assert back.first_close_s == int(bars.close_time_s[10])
    assert back.filled[0].tolist() == [False, True, False] and back.close[0, 1] == bars.close[9, 1]


def test_shuffled_rows_and_another_ticker_order_give_the_same_bars() -> None:
    bars = random_bars(2, n_bars=40)
    table = candles(bars).sample(frac=1.0, random_state=3)
    back = bars_from_candles(table, tickers=tuple(reversed(bars.tickers)), timeframe_s=3600)
    assert back.select(bars.tickers).close.tobytes() == bars.close.tobytes()


def test_two_candles_for_one_hour_are_refused_by_name() -> None:
    table = candles(random_bars(3, n_bars=10))
    with pytest.raises(DataError, match="two candles for"):
        bars_from_candles(pd.concat([table, table.tail(1)]), tickers=("BTC", "ETH", "LTC"), timeframe_s=3600)


@pytest.mark.parametrize(("text", "says"), [("yesterday", "is no time"), ("2024-01-01T00:00:00", "has no time zone")])
def test_what_is_no_time_in_utc_is_refused_with_the_form_that_is(text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        epoch_s(text)
    assert epoch_s("2024-01-01T00:00:00Z") == 1_704_067_200


def test_naive_times_and_unknown_tickers_are_refused() -> None:
    table = candles(random_bars(3, n_bars=10))
    with pytest.raises(DataError, match="no time zone"):
        bars_from_candles(table.assign(time=table["time"].dt.tz_localize(None)), tickers=("BTC",), timeframe_s=3600)
    with pytest.raises(DataError, match="no candles for DOGE"):
        bars_from_candles(table, tickers=("BTC", "DOGE"), timeframe_s=3600)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("close", np.nan, "not finite"),
        ("high", 0.01, "high is below"),
        ("low", 1e9, "low is above"),
        ("volume", -1.0, "negative"),
    ],
)
def test_a_bar_that_breaks_a_rule_is_named(field: str, value: float, says: str) -> None:
    bars = random_bars(4, n_bars=5)
    broken = getattr(bars, field).copy()
    broken[3, 1] = value
    with pytest.raises(DataError, match=says) as caught:
        Bars(**{f.name: getattr(bars, f.name) for f in fields(bars)} | {field: broken})
    assert "ETH" in str(caught.value)


def test_selecting_an_absent_ticker_names_it() -> None:
    with pytest.raises(ContractMismatch, match="missing DOGE"):
        random_bars(5, n_bars=5).select(("BTC", "DOGE"))


def test_the_hash_depends_on_every_number_and_on_ticker_order_only() -> None:
    bars = random_bars(6, n_bars=30)
    assert bars.slice(0, 30).sha256() == bars.sha256()
    assert bars.select(("ETH", "BTC", "LTC")).sha256() != bars.sha256()
    volume = bars.volume.copy()
    volume[7, 2] += 1e-9 * volume[7, 2] + 1e-9
    assert Bars(**{f.name: getattr(bars, f.name) for f in fields(bars)} | {"volume": volume}).sha256() != bars.sha256()


def test_the_twenty_outage_hours_of_the_real_candles_are_filled(real_bars: Bars) -> None:
    assert int(real_bars.filled.all(axis=1).sum()) == 20
    assert real_bars.n_bars == 34_128
