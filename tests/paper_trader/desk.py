"""A paper account to try things on: a simulated market, a policy with random weights, the pointer that names it."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from daemon.child.clock import Clock, SystemClock
from daemon.child.config import Config, parse
from daemon.child.logs import get_logger
from daemon.child.market import Waiting, costs, feature_spec, limits, open_market
from daemon.child.progress import Progress
from features.actor import weight_shapes
from features.artifact import PolicyArtifact
from features.files import write_atomic
from features.observation import Layout
from features.pipeline import compute
from features.scaling import Scaler
from features.spec import FeatureSpec
from features.venue_rules import VenueRules
from paper_trader.account_record import ledger_record
from paper_trader.journal import Journal
from paper_trader.loop import Trader

TICKERS = ["BTC", "ETH", "LTC"]
BARS = 1400
START_UTC = "2021-02-20T00:00:00Z"  # bar 1200
WIDTH = 8
OFF = {"daily_loss": 0.0}  # a random policy may lose that much in a day


def settings(risk: Mapping[str, Any] = {}, **paper: Any) -> Config:
    return parse({
        "risk": {**OFF, **risk},
        "market": {"source": "simulated", "tickers": TICKERS},
        "simulation": {"world": "sv", "seed": 5, "bars": BARS},
        "paper": {"clock": "replay", "replay_start_utc": START_UTC, "replay_bars_per_s": 0.0, **paper},
    })  # fmt: skip


def artifact(config: Config, spec: FeatureSpec | None = None, *, seed: int = 1) -> PolicyArtifact:
    """A policy of random weights that trades on most bars."""
    spec = spec or feature_spec(config)
    source = open_market(config, Waiting(clock=SystemClock()))
    bars = source.bars(after_s=source.first_close_s() - 3600, until_s=source.last_close_s()).slice(0, 1000)
    if spec.tickers != bars.tickers:
        bars = bars.select([t for t in spec.tickers if t in bars.tickers])
    rng = np.random.default_rng(seed)
    shapes = weight_shapes("per_asset", Layout.of(spec), WIDTH)
    return PolicyArtifact(
        kind="per_asset", width=WIDTH, spec=spec, scaler=Scaler.fit(compute(bars, spec), spec), limits=limits(config),
        costs=costs(config), venue_rules=VenueRules.uniform("simulated", spec.tickers), training={"why": "test"},
        weights={n: rng.normal(0, 0.6, s).astype(np.float32) for n, s in shapes.items()},
    )  # fmt: skip


def promote(state_dir: Path, policy: PolicyArtifact) -> str:
    name = policy.save(state_dir / "artifacts").name
    pointer = {
        "champion": name, "holds": name, "study": "desk", "trial": 0, "decided_utc": "2021-02-20T00:00:00+00:00",
        "reason": "put there by a test", "gates": [], "history": [],
    }  # fmt: skip
    write_atomic(state_dir / "champion.json", json.dumps(pointer).encode())
    return name


def opened(state_dir: Path, **changes: Any) -> Config:
    config = settings(**changes)
    promote(state_dir, artifact(config))
    return config


def trader(
    config: Config, state_dir: Path, *, crash_point: Callable[[str], None] = lambda _: None, clock: Clock | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trader:  # fmt: skip
    return Trader(
        config=config, state_dir=state_dir, clock=clock or SystemClock(), progress=Progress(None), log=get_logger(),
        should_stop=should_stop, crash_point=crash_point,
    )  # fmt: skip


def command(config: Config, state_dir: Path, verb: str = "run") -> list[str]:
    given = state_dir / "config.json"
    write_atomic(given, config.to_json().encode())
    return [sys.executable, "-P", "-m", "paper_trader", verb, "--config", str(given), "--state-dir", str(state_dir)]


def started(config: Config, state_dir: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(config, state_dir), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def books(state_dir: Path) -> Mapping[str, Any]:
    """Everything an account is: decisions, fills, marks, and the order ids the broker accepted, in order."""
    journal = Journal(state_dir / "paper" / "journal.db", read_only=True)
    try:
        return {
            "decisions": journal.decisions(), "fills": journal.fills(),
            "marks": [(t, ledger_record(a), e) for t, a, e in journal.marks()],
            "orders": _broker_orders(state_dir), "counts": journal.counts(),
        }  # fmt: skip
    finally:
        journal.close()


def _broker_orders(state_dir: Path) -> list[tuple[Any, ...]]:
    import sqlite3

    db = sqlite3.connect(f"file:{state_dir / 'paper' / 'broker.db'}?mode=ro", uri=True)
    try:
        return db.execute("SELECT client_order_id, ticker, quantity, state FROM orders ORDER BY rowid").fetchall()
    finally:
        db.close()
