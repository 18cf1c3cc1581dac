"""One door to every source of bars, opened without loading what is not needed."""

import subprocess
import sys

import pandas as pd
import pytest

from features.errors import ConfigurationError
from features.sources import open_source
from features.sources.ccxt_library import exchange_class

ARGUMENTS = {
    "source": "simulated", "exchange": "binance", "quote": "USDT", "tickers": ["BTC", "ETH"], "timeframe_s": 3600,
    "recorded_path": "", "grace_s": 20.0, "history_bars": 100, "world": "planted", "seed": 11, "bars": 100,
    "start_utc": "2021-01-01T00:00:00Z", "oracle_sharpe": 1.5, "clock_now_s": lambda: 0.0,
}  # fmt: skip


def test_each_source_opens_under_its_name(tmp_path):
    path = tmp_path / "c.parquet"
    pd.DataFrame({"time": []}).to_parquet(path)
    assert open_source(**ARGUMENTS).name == "simulated:planted:v2:seed11"
    assert open_source(**{**ARGUMENTS, "source": "recorded", "recorded_path": path}).name == "recorded:c.parquet"
    assert open_source(**{**ARGUMENTS, "source": "ccxt"}).name == "ccxt:binance"
    assert open_source(**{**ARGUMENTS, "source": "alpaca", "quote": "USD"}).name == "alpaca"


def test_an_unknown_source_world_or_empty_path_is_a_configuration_error():
    for change in ({"source": "alpaka"}, {"source": "recorded"}, {"world": "plantd"}):
        with pytest.raises(ConfigurationError):
            open_source(**{**ARGUMENTS, **change})


def test_a_simulated_market_loads_no_exchange_library():
    code = (
        "import sys\n"
        "from features.sources import open_source\n"
        "source = open_source(source='simulated', exchange='', quote='', tickers=['BTC', 'ETH'], timeframe_s=3600,\n"
        "    recorded_path='', grace_s=0.0, history_bars=0, world='null', seed=1, bars=10,\n"
        "    start_utc='2021-01-01T00:00:00Z', oracle_sharpe=0.0, clock_now_s=lambda: 0.0)\n"
        "assert source.bars(after_s=0, until_s=1 << 40).n_bars == 10\n"
        "import features.sources.errors\n"
        "print(sorted({'ccxt', 'alpaca', 'requests', 'tenacity', 'torch'} & set(sys.modules)))\n"
    )
    answer = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(("source", "other"), [("ccxt", "alpaca"), ("alpaca", "ccxt")])
def test_a_live_source_loads_its_own_client_alone(source, other):
    arguments = {**ARGUMENTS, "source": source}
    code = (
        "import sys\n"
        "from features.sources import open_source\n"
        f"arguments = { ({k: v for k, v in arguments.items() if k != 'clock_now_s'})!r}\n"
        "open_source(**arguments, clock_now_s=lambda: 0.0)\n"
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))\n"
    )
    answer = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert source in answer.stdout.split() and other not in answer.stdout.split()


def test_of_ccxt_one_exchange_is_read_and_whoever_imports_all_of_it_gets_the_same_classes():
    code = (
        "import sys\n"
        "from features.sources.ccxt_library import errors, exchange_class\n"
        "kraken = exchange_class('kraken')\n"
        "assert {'ccxt.kraken', 'ccxt.bybit'} & set(sys.modules) == {'ccxt.kraken'}\n"
        "import ccxt\n"
        "assert ccxt.kraken is kraken and ccxt.bybit and ccxt.NetworkError is errors.NetworkError\n"
        "assert exchange_class('bybit') is ccxt.bybit\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], timeout=60, check=True)


@pytest.mark.parametrize("name", ["base", "abstract", "pro", "prediction", "base.exchange", "no_such", ""])
def test_a_part_of_ccxt_that_is_no_exchange_is_not_taken_for_one(name):
    with pytest.raises(ConfigurationError, match="knows no exchange"):
        exchange_class(name)
