"""`cappuccinoctl features` as a person or a script runs it: a real process on real artifacts."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from world import random_bars

from features.actor import constant_raw
from features.allocation import Limits
from features.artifact import PolicyArtifact
from features.costs import Costs
from features.indicators import REGISTRY
from features.pipeline import compute
from features.scaling import Scaler
from features.spec import preset
from features.venue_rules import VenueRules

PROGRAM = Path(sys.executable).with_name("cappuccinoctl")


def features(*arguments: str | Path, code: int = 0) -> str:
    command = [str(PROGRAM), "features", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code in (0, 1) else done.stderr


def test_every_registered_feature_is_listed_with_its_doc_parameters_and_lookback() -> None:
    listed = {row["name"]: row for row in json.loads(features("list", "--json"))["features"]}
    assert listed.keys() == REGISTRY.keys()
    assert listed["rank"]["parameters"] == {"bars": 24}
    assert listed["rank"]["lookback_bars"] == 24
    assert all(row["doc"] for row in listed.values())
    assert "Rank of the `bars` return" in features("list")


def test_show_names_the_columns_and_the_fingerprint_of_the_configuration() -> None:
    tickers = ("--set", 'market.tickers=["BTC","ETH"]')
    spec = preset("stationary", tickers=("BTC", "ETH"), timeframe_s=3600)
    shown = json.loads(features("show", "--json", *tickers))
    assert shown["fingerprint"] == spec.fingerprint
    assert shown["spec"]["columns"] == list(spec.columns)
    text = features("show", *tickers)
    assert spec.fingerprint in text
    assert all(column in text for column in (*spec.asset_columns, *spec.shared_columns))


def test_diff_says_nothing_and_ends_with_0_where_two_see_the_same_and_1_where_they_do_not() -> None:
    assert "see the same" in features("diff", "classic", "classic")
    lines = json.loads(features("diff", "classic", "stationary", "--json", code=1))["differences"]
    assert "asset column macd: only in the first" in lines
    assert "asset column rank_72: only in the second" in lines


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("show", "0badcafe"), 78, "names no artifacts"),
        (("diff", "classic"), 64, "takes 2 subjects"),
        (("eat",), 64, "invalid choice"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_the_remedy(arguments: tuple[str, ...], code: int, says: str) -> None:
    assert says in features(*arguments, code=code)


def test_two_artifacts_of_one_spec_differ_in_their_scalers_and_that_is_said_by_column(tmp_path: Path) -> None:
    bars = random_bars(5)
    spec = preset("stationary", tickers=bars.tickers, timeframe_s=3600)
    rows = compute(bars, spec)
    one = PolicyArtifact(
        kind="constant", width=16, spec=spec, scaler=Scaler.fit(rows, spec),
        limits=Limits(min_cash_reserve=0.02, max_weight=0.5, no_trade_band=0.02),
        costs=Costs(fee_bps=25.0, half_spread_bps=2.0, slippage_bps=3.0, max_volume_share=0.05),
        venue_rules=VenueRules.uniform("simulated", bars.tickers),
        weights={"raw": constant_raw(np.array([0.2, 0.3, 0.1]))}, training={},
    )  # fmt: skip
    two = replace(one, scaler=Scaler.fit(rows.slice(0, 100), spec))
    first, second = one.save(tmp_path / "artifacts"), two.save(tmp_path / "artifacts")
    assert "scaled as" in features("show", first.name[:10], "--state-dir", tmp_path)
    told = features("diff", first, second, "--state-dir", tmp_path, code=1)
    assert "scaler of log_return_1: centre" in told
    assert "asset column" not in told
