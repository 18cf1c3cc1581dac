"""A trader whose view of the market differs from training's in one small way halts before its first order, and says where."""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from desk import books, opened, trader

from features import indicators
from features.bars import Bars, utc_text
from features.expressions import BarField, Talib
from features.pipeline import FeatureRows, compute
from features.spec import FeatureSpec
from paper_trader import anchoring, loop
from paper_trader.champion import Holding

SERVING = "stack"  # what the trader asks AnchoredRows for; the proof asks for `span`


def halted(state_dir: Path) -> str:
    """Why the trader stands still; nothing may have been ordered."""
    status = json.loads((state_dir / "paper" / "status.json").read_bytes())
    assert status["state"] == "halted" and status["mismatches"] == 1
    return str(status["reason"])


def serve_with(monkeypatch: pytest.MonkeyPatch, changed: Callable[[Bars, FeatureSpec], FeatureRows]) -> None:
    """The trader's own features are `changed`; the training path stays as it is."""

    def stack(self: Any, close_time_s: int) -> list[FeatureRows]:
        bars = self._bars.slice(0, self._bars.index_of(close_time_s) + 1)
        rows, n = changed(bars, self._spec), self._spec.stack_bars
        return [rows.slice(k, k + 1) for k in range(rows.n_rows - n, rows.n_rows)]

    monkeypatch.setattr(anchoring.AnchoredRows, SERVING, stack)


def misordered(bars: Bars, spec: FeatureSpec) -> FeatureRows:
    rows = compute(bars, spec)
    order = np.arange(rows.asset.shape[2])
    order[[1, 2]] = [2, 1]
    return replace(rows, asset=rows.asset[:, :, order])


def other_constant(bars: Bars, spec: FeatureSpec) -> FeatureRows:
    """MACD's signal line over 10 bars instead of 9."""
    real = indicators.talib

    def talib(function: str, *fields: BarField, output: int = 0, **params: int) -> Talib:
        return real(function, *fields, output=output, **{n: v + (n == "signalperiod") for n, v in params.items()})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(indicators, "talib", talib)
        return compute(bars, spec)


@pytest.mark.parametrize("mutant", [misordered, other_constant])
def test_other_features_than_trainings_are_caught_at_the_first_decision(
    mutant: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = opened(tmp_path)
    serve_with(monkeypatch, mutant)
    trader(config, tmp_path).run()
    reason = halted(tmp_path)
    assert books(tmp_path)["counts"]["decisions"] == 0
    assert "2021-02-20T00:00:00" in reason and "features are not what the training path computes" in reason
    assert "the first BTC " in reason  # by name


def test_a_changed_scaler_in_memory_is_caught_at_the_first_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On disk it could not even be loaded: an artifact's name is the hash of its content."""
    config = opened(tmp_path)
    real = loop.load_holding

    def load(*given: Any) -> Holding | None:
        holding = real(*given)
        assert holding is not None
        scaler = holding.artifact.scaler
        wider = replace(
            scaler, asset_scale=(scaler.asset_scale[0], scaler.asset_scale[1] * 1.001, *scaler.asset_scale[2:])
        )
        return replace(holding, artifact=replace(holding.artifact, scaler=wider))

    monkeypatch.setattr(loop, "load_holding", load)
    trader(config, tmp_path).run()
    reason = halted(tmp_path)
    assert books(tmp_path)["counts"]["decisions"] == 0
    assert "2021-02-20T00:00:00" in reason and "features are not what the training path computes" in reason


def test_a_bar_that_was_revised_between_two_lives_is_caught_at_the_first_decision_and_named(tmp_path: Path) -> None:
    config = opened(tmp_path)
    settled = iter(range(10_000))
    trader(config, tmp_path, should_stop=lambda: next(settled) > 150).run()
    before = books(tmp_path)
    revised_s = before["decisions"][30].decision.close_time_s
    db = sqlite3.connect(tmp_path / "paper" / "journal.db")
    (data,) = db.execute("SELECT data FROM bars WHERE close_time_s = ?", (revised_s,)).fetchone()
    values = np.frombuffer(data, dtype="<f8").reshape(6, 3).copy()
    values[4, 0] *= 1 + 1e-12  # one volume, by its last bits
    with db:
        db.execute("UPDATE bars SET data = ? WHERE close_time_s = ?", (values.tobytes(), revised_s))
    db.close()
    trader(config, tmp_path).run()
    assert halted(tmp_path) == f"parity: {utc_text(revised_s)}: a bar up to here is not the one that was decided on"
    assert len(books(tmp_path)["orders"]) == len(before["orders"])
