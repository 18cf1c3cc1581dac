"""What a study's returns say about its search, for the advisor."""

from pathlib import Path

import numpy as np

from features.files import write_atomic
from trainer.arrays import npz
from trainer.baselines import FIXED_BASELINE
from trainer.trust import gather, save_compared


def test_a_study_is_never_shown_beside_what_was_compared_on_the_bars_of_another(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trials = [{"number": n, "score": float(n)} for n in range(9)]
    for study in ("judged", "young"):
        for trial in trials:
            path = tmp_path / "trials" / study / str(trial["number"]) / "returns.npz"
            write_atomic(path, npz(returns=0.01 * rng.normal(size=400)))
    runs = {"trial 8": 0.01 * rng.normal(size=400), FIXED_BASELINE: 0.01 * rng.normal(size=400)}
    save_compared(tmp_path / "trials" / "judged", runs, bounds=())
    judged, young = (gather(tmp_path, s, trials, timeframe_s=3600, rng=rng) for s in ("judged", "young"))
    assert judged is not None and judged["equity"]["candidate"] == "trial 8" and judged["pbo"] is not None
    assert young is not None and (young["equity"], young["pbo"], young["distinct_best"]) == ({}, None, [])
