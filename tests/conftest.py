"""Fixtures that every test may use."""

import hypothesis
import pandas as pd
import pytest
from world import REAL, REAL_TICKERS

from features.bars import Bars, bars_from_candles

# Of itself hypothesis fails an example that takes 200 ms, which on a busy machine is none of its own doing.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def real_bars() -> Bars:
    """Four years of hourly candles of seven tickers; never part of the project."""
    if not REAL.exists():
        pytest.skip("the real candles are not beside this checkout")
    return bars_from_candles(pd.read_parquet(REAL), tickers=REAL_TICKERS, timeframe_s=3600)
