import subprocess
import sys

import pytest

from features.errors import ConfigurationError, ContractMismatch
from features.spec import FeatureDef, FeatureSpec, preset

TICKERS = ("BTC", "ETH", "LTC")


def test_the_fingerprint_survives_a_round_trip_and_another_process() -> None:
    spec = preset("stationary", tickers=TICKERS, timeframe_s=3600)
    assert FeatureSpec.from_dict(spec.to_dict()).fingerprint == spec.fingerprint
    code = f"from features.spec import preset as p; print(p('stationary', tickers={TICKERS!r}, timeframe_s=3600).fingerprint)"
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == spec.fingerprint


@pytest.mark.parametrize(
    "other",
    [
        preset("stationary", tickers=("ETH", "BTC", "LTC"), timeframe_s=3600),
        preset("stationary", tickers=("BTC", "ETH", "BCH"), timeframe_s=3600),
        preset("stationary", tickers=TICKERS, timeframe_s=900),
        preset("stationary", tickers=TICKERS, timeframe_s=3600, stack_bars=2),
        preset("classic", tickers=TICKERS, timeframe_s=3600),
    ],
    ids=["order", "ticker", "timeframe", "stack", "preset"],
)
def test_any_difference_changes_the_fingerprint_and_is_named(other: FeatureSpec) -> None:
    spec = preset("stationary", tickers=TICKERS, timeframe_s=3600)
    assert spec.fingerprint != other.fingerprint
    assert spec.differences(other)
    with pytest.raises(ContractMismatch) as caught:
        spec.require(other, mine="the artifact", theirs="the pipeline")
    assert caught.value.exit_code == 78


def test_twenty_two_columns_against_eleven_lists_what_differs() -> None:
    eleven = preset("classic", tickers=("BTC",), timeframe_s=3600)
    twenty_two = preset("classic", tickers=("BTC", "ETH"), timeframe_s=3600)
    with pytest.raises(ContractMismatch, match=r"22 columns.*11[\s\S]*ticker ETH: only in the first"):
        twenty_two.require(eleven, mine="the artifact", theirs="the pipeline")


def test_a_stored_spec_whose_columns_are_not_what_the_code_computes_is_refused() -> None:
    record = preset("classic", tickers=("BTC",), timeframe_s=3600).to_dict()
    record["columns"] = record["columns"][:-1]
    with pytest.raises(ContractMismatch, match="BTC:dx"):
        FeatureSpec.from_dict(record)


def test_unknown_features_parameters_and_presets_are_named() -> None:
    with pytest.raises(ConfigurationError, match="unknown feature 'rsy'"):
        FeatureDef.of("rsy")
    with pytest.raises(ConfigurationError, match="no parameter span"):
        FeatureDef.of("rank", span=3)
    with pytest.raises(ConfigurationError, match="stationary or classic"):
        preset("modern", tickers=TICKERS, timeframe_s=3600)
