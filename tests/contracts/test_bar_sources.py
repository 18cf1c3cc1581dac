"""Every source of bars keeps the contract: simulated, recorded, and each live client against its local venue."""

from collections.abc import Iterator

import pandas as pd
import pytest
from contracts.bar_source_suite import BarSourceSuite
from rig import CLIENTS, HOUR, START_S, TICKERS, live_source, truth_bars, with_gap
from venue import Venue

from features.bars import Bars, candles_from_bars
from features.errors import ConfigurationError
from features.sources import BarSource
from features.sources.bootstrap import BootstrapSource, resample
from features.sources.freqtrade import FreqtradeSource
from features.sources.recorded import RecordedSource
from features.sources.simulated import SimulatedSource, simulate

N_BARS = 690  # what kraken can give, with a few to spare


def gappy() -> Bars:
    return with_gap(with_gap(truth_bars(N_BARS), slice(None), 300, 304), 1, 410, 411)


class TestSimulated(BarSourceSuite):
    def opened_for(self, tickers: tuple[str, ...]) -> SimulatedSource:
        return SimulatedSource(
            world="null", seed=5, bars=200, tickers=tickers, timeframe_s=HOUR, start_s=START_S, oracle_sharpe=0.0
        )

    @pytest.fixture
    def given(self) -> tuple[BarSource, Bars]:
        truth = simulate(world="null", seed=5, bars=200, tickers=TICKERS, timeframe_s=HOUR, start_s=START_S)
        return self.opened_for(TICKERS), truth

    def test_a_ticker_that_is_not_there_is_an_error_that_names_it(self):
        """A simulated market has whatever ticker one asks for."""
        assert self.opened_for(("BTC", "DOGE")).bars(after_s=0, until_s=1 << 40).tickers == ("BTC", "DOGE")


class TestRecorded(BarSourceSuite):
    @pytest.fixture
    def given(self, tmp_path) -> tuple[BarSource, Bars]:
        self.path = tmp_path / "candles.parquet"
        candles_from_bars(gappy()).to_parquet(self.path)
        return self.opened_for(TICKERS), gappy()

    def opened_for(self, tickers: tuple[str, ...]) -> RecordedSource:
        return RecordedSource(path=self.path, tickers=tickers, timeframe_s=HOUR)

    def test_times_of_a_file_may_be_in_any_unit(self, given):
        source, truth = given
        table = pd.read_parquet(self.path)
        table.assign(time=table["time"].dt.as_unit("ms")).to_parquet(self.path)
        assert self.everything(source, truth).sha256() == truth.sha256()


class TestFreqtrade(BarSourceSuite):
    @pytest.fixture
    def given(self, tmp_path) -> tuple[BarSource, Bars]:
        self.path = tmp_path
        for ticker, table in candles_from_bars(gappy()).groupby("ticker"):
            pair = table.rename(columns={"time": "date"}).drop(columns="ticker").reset_index(drop=True)
            pair.to_feather(tmp_path / f"{ticker}_USDT-1h.feather")
        return self.opened_for(TICKERS), gappy()

    def opened_for(self, tickers: tuple[str, ...]) -> FreqtradeSource:
        return FreqtradeSource(path=self.path, quote="USDT", tickers=tickers, timeframe_s=HOUR)


class TestBootstrap(BarSourceSuite):
    @pytest.fixture
    def given(self, tmp_path) -> tuple[BarSource, Bars]:
        self.path, record = tmp_path / "candles.parquet", with_gap(truth_bars(2000), slice(None), 300, 304)
        candles_from_bars(record).to_parquet(self.path)
        return self.opened_for(TICKERS), resample(record, seed=5, bars=N_BARS, start_s=START_S)

    def opened_for(self, tickers: tuple[str, ...]) -> BootstrapSource:
        return BootstrapSource(
            path=self.path, quote="USDT", seed=5, bars=N_BARS, tickers=tickers, timeframe_s=HOUR, start_s=START_S
        )


class LiveSuite(BarSourceSuite):
    client: str

    @pytest.fixture
    def given(self) -> Iterator[tuple[BarSource, Bars]]:
        truth = gappy()
        with CLIENTS[self.client](truth=truth, now_s=truth.last_close_s + 60.0) as venue:
            self.venue: Venue = venue
            yield live_source(self.client, venue, history_bars=N_BARS), truth

    def opened_for(self, tickers: tuple[str, ...]) -> BarSource:
        return live_source(self.client, self.venue, tickers=tickers)

    def test_no_key_is_sent_where_none_is_needed(self, given):
        source, truth = given
        self.everything(source, truth)
        sent = {path for (path, _), names in zip(self.venue.requests, self.venue.headers, strict=True)
                if "apca-api-secret-key" in names}  # fmt: skip
        assert sent <= self.with_keys

    with_keys: frozenset[str] = frozenset()


class TestCcxtBinance(LiveSuite):
    client = "ccxt:binance"


class TestCcxtKraken(LiveSuite):
    client = "ccxt:kraken"


class TestCcxtAlpaca(LiveSuite):
    client = "ccxt:alpaca"
    with_keys = frozenset({"/v2/assets"})

    def test_without_keys_it_says_which_to_supply_and_what_works_without(self, given):
        with pytest.raises(ConfigurationError, match=r"alpaca_key_id.*market.source = alpaca"):
            live_source(self.client, self.venue, keys=None)


class TestAlpaca(LiveSuite):
    client = "alpaca"
    with_keys = frozenset({"/v1beta3/crypto/us/bars"})

    def test_candles_need_no_keys_and_rules_do(self, given):
        _, truth = given
        keyless = live_source(self.client, self.venue, keys=None)
        assert self.everything(keyless, truth).sha256() == truth.sha256()
        assert keyless.clock_offset_s() is not None
        with pytest.raises(ConfigurationError, match="alpaca_key_id"):
            keyless.venue_rules()
