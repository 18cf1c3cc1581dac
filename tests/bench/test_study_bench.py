"""What a claim costs once a study has thousands of trials: asking, drawing every parameter, counting, looking for orphans."""

import contextlib
import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from daemon.child.search import Parameter
from trainer.routes import Route
from trainer.study import SharedStudy, StudyIdentity

pytestmark = pytest.mark.bench
ROUTE = Route.of("per_asset", 1, ())
N_TRIALS, ASKED = 5000, 12


def opened(state_dir: Path) -> SharedStudy:
    return SharedStudy(
        state_dir=state_dir, name="s", worker="worker-0", target_trials=10 * N_TRIALS, startup_trials=10, seed=1,
        identity=StudyIdentity(data_sha256="d" * 64, fingerprint="f" * 64, settings="{}"), route=ROUTE,
    )  # fmt: skip


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """Trials all over the space, one in ten of them failed and one in ten pruned; past Optuna, which takes minutes."""
    opened(tmp_path)
    rng = np.random.default_rng(3)
    kinds = [("FAIL", "PRUNED")[n % 10] if n % 10 < 2 else "COMPLETE" for n in range(N_TRIALS)]
    ids = range(2, N_TRIALS + 2)  # the first is the known good one, which waits
    scores = rng.normal(size=N_TRIALS)
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as db, db:
        db.executemany(
            "INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete) "
            "VALUES (?, ?, 1, ?, '2026-01-01', '2026-01-01')",
            [(i, i - 1, kind) for i, kind in zip(ids, kinds, strict=True)],
        )
        db.executemany(
            "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)",
            [(i, p.name, drawn(p, rng), distribution_to_json(distribution(p))) for i in ids for p in ROUTE.searched],
        )
        told = list(zip(ids, kinds, scores, strict=True))
        db.executemany(
            "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, 0, ?, 'FINITE')",
            [(i, score) for i, kind, score in told if kind == "COMPLETE"],
        )
        db.executemany(
            "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) "
            "VALUES (?, 1, ?, 'FINITE')",
            [(i, score) for i, kind, score in told if kind == "PRUNED"],
        )
        for key, value in (("worker", '"worker-1"'), ("seconds", "1.0")):
            db.executemany(
                "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)",
                [(i, key, value) for i in ids],
            )
    return tmp_path


def distribution(p: Parameter) -> BaseDistribution:
    if p.choices:
        return CategoricalDistribution(p.choices)
    if p.integer:
        return IntDistribution(int(p.low), int(p.high), log=p.log)
    return FloatDistribution(p.low, p.high, log=p.log)


def drawn(p: Parameter, rng: np.random.Generator) -> float:
    """As the database has it: a choice by its index."""
    if p.choices:
        return float(rng.integers(len(p.choices)))
    value = float(np.exp(rng.uniform(np.log(p.low), np.log(p.high))) if p.log else rng.uniform(p.low, p.high))
    return round(value) if p.integer else value


def milliseconds(work: Callable[[], Any]) -> float:
    began_s = time.perf_counter()
    work()
    return 1000.0 * (time.perf_counter() - began_s)


def test_asking_and_drawing_among_thousands_of_trials(state_dir: Path) -> None:
    study = opened(state_dir)
    first = milliseconds(study.progress)  # reads them all once
    asking, drawing, ending = [], [], []
    for n in range(ASKED + 1):
        began_s = time.perf_counter()
        trial = study.next_trial()
        asked_s = time.perf_counter()
        assert trial is not None
        ROUTE.suggest(trial)
        drawn_s = time.perf_counter()
        study.finish(trial, score=float(n), failure=None, seconds=1.0)
        if n:  # the first was waiting: a new study's known good one
            asking.append(1000.0 * (asked_s - began_s))
            drawing.append(1000.0 * (drawn_s - asked_s))
            ending.append(1000.0 * (time.perf_counter() - drawn_s))
    orphans = [milliseconds(study._release_orphans) for _ in range(5)]
    counting = [milliseconds(study.progress) for _ in range(5)]
    print(f"\n{N_TRIALS} trials on record; read at first: {first:.0f} ms")
    for name, found in {
        "ask": asking, "suggest": drawing, "ask + suggest": [a + d for a, d in zip(asking, drawing, strict=True)],
        "tell": ending, "orphans": orphans, "progress": counting,
    }.items():  # fmt: skip
        print(f"{name:<14}{statistics.median(found):>8.1f} ms median {max(found):>8.1f} ms worst of {len(found)}")
