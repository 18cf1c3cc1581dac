"""What every feature means, in numbers: changing one without bumping SEMANTICS would trade old policies on new inputs.

`python tests/features/test_meaning.py` writes the file anew, after SEMANTICS was bumped or a feature added.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.bars import Bars
from features.indicators import REGISTRY
from features.pipeline import compute
from features.spec import PRESETS, SEMANTICS, FeatureDef, FeatureSpec, preset

RECORD = Path(__file__).with_name("meaning.json")
FINGERPRINTS = {
    "stationary": "c235b05b64efd6b40867e3e9c0d62f990ade91318320a105f71990e263ccb4e7",
    "classic": "66bfb719175762ca58ea4a7bbf7e18f2e79a729bcf211230253d66b04ced02ac",
}


def portable_bars(n_bars: int = 420, n_tickers: int = 3) -> Bars:
    """Candles from a linear congruential generator: the same on every machine and with every numpy."""
    state, draws = 12345, []
    for _ in range(4 * n_bars * n_tickers):
        state = (1103515245 * state + 12345) % 2**31
        draws.append(state / 2**31 - 0.5)
    move, up, down, traded = np.array(draws).reshape(4, n_bars, n_tickers)
    close = 100.0 + np.cumsum(move, axis=0) * np.arange(1, n_tickers + 1)
    opened = np.vstack([close[:1], close[:-1]])
    return Bars(
        tickers=("BTC", "ETH", "LTC"), timeframe_s=3600,
        close_time_s=1_600_002_000 + 3600 * np.arange(n_bars, dtype=np.int64), open=opened, close=close,
        high=np.maximum(opened, close) + up + 0.5, low=np.minimum(opened, close) - down - 0.5,
        volume=10.0 + 8.0 * traded, filled=np.zeros(close.shape, dtype=np.bool_),
    )  # fmt: skip


def last_row(name: str) -> list[float]:
    definition, bars = FeatureDef.of(name), portable_bars()
    rows = compute(bars, FeatureSpec(tickers=bars.tickers, timeframe_s=3600, features=(definition,), scaling="robust"))
    values: list[float] = np.concatenate([rows.asset[-1].ravel(), rows.shared[-1]]).tolist()
    return values


@pytest.mark.parametrize("name", PRESETS)
def test_the_fingerprint_of_a_preset_is_the_same_on_every_machine(name: str) -> None:
    spec = replace(preset(name, tickers=("BTC", "ETH"), timeframe_s=3600), talib_version="0.8.2", semantics=1)
    assert spec.fingerprint == FINGERPRINTS[name]


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_feature_means_what_its_semantics_number_says(name: str) -> None:
    record = json.loads(RECORD.read_text())
    assert record["semantics"] == SEMANTICS, "SEMANTICS was bumped: write meaning.json anew"
    assert name in record["last_row"], f"{name} is new: write meaning.json anew"
    np.testing.assert_allclose(
        last_row(name), record["last_row"][name], rtol=1e-9, err_msg="it changed: bump features.spec.SEMANTICS"
    )


if __name__ == "__main__":
    rows = {name: last_row(name) for name in sorted(REGISTRY)}
    RECORD.write_text(json.dumps({"semantics": SEMANTICS, "last_row": rows}, indent=1) + "\n")
