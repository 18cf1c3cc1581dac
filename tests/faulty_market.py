"""What markets do to candles: each fault takes a table of true candles and gives back what a reader would be handed.

Tables have the columns of `candles_from_bars`. Hours are counted from the first candle of the table.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from features.bars import PRICE_COLUMNS

HOUR_S = 3600
SPIKE = 0.43  # the largest hourly move in four years of seven coins (UNI)


def hours(candles: pd.DataFrame) -> np.ndarray:
    """(rows,) whole hours since the first candle."""
    since = candles["time"] - candles["time"].min()
    whole: np.ndarray = (since.dt.total_seconds() // HOUR_S).to_numpy(int)
    return whole


def rows_of(candles: pd.DataFrame, span: range, ticker: str | None = None) -> np.ndarray:
    """(rows,) True for the candles of `span`, of one ticker or of all."""
    chosen: np.ndarray = np.isin(hours(candles), span)
    return chosen if ticker is None else chosen & (candles["ticker"] == ticker).to_numpy()


def missing(candles: pd.DataFrame, *, span: range, ticker: str | None = None) -> pd.DataFrame:
    """An outage of the venue, or of one pair."""
    return candles[~rows_of(candles, span, ticker)]


def without_volume(candles: pd.DataFrame, *, span: range, ticker: str | None = None) -> pd.DataFrame:
    """Candles that the venue made of quotes alone: true ones, but nothing changed hands."""
    return candles.assign(volume=candles["volume"].where(~rows_of(candles, span, ticker), 0.0))


def delisted(candles: pd.DataFrame, *, after: int, ticker: str) -> pd.DataFrame:
    """The pair has no candles from hour `after` on."""
    return missing(candles, span=range(after, int(hours(candles).max()) + 1), ticker=ticker)


def spiked(candles: pd.DataFrame, *, at: int, ticker: str) -> pd.DataFrame:
    """The price jumps by SPIKE within one hour and is back in the next."""
    table = candles.copy()
    up, back = rows_of(table, range(at, at + 1), ticker), rows_of(table, range(at + 1, at + 2), ticker)
    top = float(table.loc[up, "open"].iloc[0]) * (1.0 + SPIKE)
    table.loc[up, ["high", "close"]] = top
    table.loc[back, ["open", "high"]] = top
    return table


def stale(candles: pd.DataFrame, *, span: range, ticker: str) -> pd.DataFrame:
    """The same quote hour after hour, volume and all: nothing says that it is old."""
    table = candles.copy()
    before = rows_of(table, range(span.start - 1, span.start), ticker)
    table.loc[rows_of(table, span, ticker), list(PRICE_COLUMNS)] = float(table.loc[before, "close"].iloc[0])
    return table


def late(candles: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """In the order of their arrival, which is none."""
    return candles.sample(frac=1.0, random_state=seed)


def duplicated(candles: pd.DataFrame, *, at: int, ticker: str, **revised: float) -> pd.DataFrame:
    """One candle comes a second time, `revised` or as it was."""
    return pd.concat([candles, candles[rows_of(candles, range(at, at + 1), ticker)].assign(**revised)])


# Faults that a market survives: hours 700 on, BTC ETH LTC, so that every window of the features is full before.
SURVIVED: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "an hour without any candle": lambda c: missing(c, span=range(700, 701)),
    "four hours without any candle": lambda c: missing(c, span=range(700, 704)),
    "ten days without one pair": lambda c: missing(c, span=range(700, 940), ticker="ETH"),
    "gaps here and there": lambda c: c[np.random.default_rng(1).random(len(c)) > 0.1],
    "ten days without volume": lambda c: without_volume(c, span=range(700, 940), ticker="ETH"),
    "an hour without volume anywhere": lambda c: without_volume(c, span=range(700, 701)),
    "a delisting": lambda c: delisted(c, after=700, ticker="LTC"),
    "a spike of 43 %": lambda c: spiked(c, at=700, ticker="LTC"),
    "ten days of one stale quote": lambda c: stale(c, span=range(700, 940), ticker="BTC"),
    "every candle late": lambda c: late(c, seed=1),
}
