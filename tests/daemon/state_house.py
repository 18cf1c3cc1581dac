"""A state directory to tidy: every kind of thing the janitor may meet, with the ages it would have."""

import json
import os
import sqlite3
from pathlib import Path

from daemon.child.clock import Clock, SystemClock
from daemon.child.config import parse
from daemon.child.logs import get_logger
from daemon.janitor.shell import Janitor
from features.files import write_atomic

OLD_S = 7200.0


def aged(path: Path, age_s: float = OLD_S) -> Path:
    stamp = SystemClock().now_utc().timestamp() - age_s
    os.utime(path, (stamp, stamp))
    return path


def artifact(state_dir: Path, name: str, *, age_s: float = OLD_S, members: tuple[str, ...] = ()) -> Path:
    folder = state_dir / "artifacts" / name
    write_atomic(folder / "manifest.json", json.dumps({"training": {"members": list(members)}}).encode())
    write_atomic(folder / "weights.safetensors", b"w" * 100)
    return aged(folder, age_s)


def trial(state_dir: Path, number: int, **facts: object) -> None:
    record = {"number": number, "study": "s", **facts}
    write_atomic(state_dir / "trials" / "s" / str(number) / "trial.json", json.dumps(record).encode())


def pointer(state_dir: Path, champion: str | None, *history: str) -> None:
    entries = [{"champion": None, "holds": h} for h in history]
    record = {"champion": champion, "holds": champion, "history": entries}
    write_atomic(state_dir / "champion.json", json.dumps(record).encode())


def journal(state_dir: Path, *decided_with: str) -> None:
    path = state_dir / "paper" / "journal.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path)
    with db:
        db.execute("CREATE TABLE decisions (artifact TEXT)")
        db.executemany("INSERT INTO decisions VALUES (?)", [(a,) for a in decided_with])
    db.close()


def house(state_dir: Path) -> Path:
    """Champion c (an ensemble of m, itself of n), previous champion p, best trial b with fold f, running r, judged on

    the hold-out h, decided with d; poor x and loose y are needed by nobody, z is young.
    """
    for name in "mnpbfrhdxy":
        artifact(state_dir, name, members=("n",) if name == "m" else ())
    artifact(state_dir, "c", members=("m",))
    artifact(state_dir, "z", age_s=10.0)
    pointer(state_dir, "c", "p")
    trial(state_dir, 0, state="COMPLETE", score=3.0, artifact="b", fold_artifacts=["f", "b"])
    trial(state_dir, 1, state="RUNNING", fold_artifacts=["r"])
    trial(state_dir, 2, state="COMPLETE", score=-3.0, artifact="x", fold_artifacts=["x"])
    journal(state_dir, "d")
    from trainer.holdout import HoldoutLedger

    HoldoutLedger(state_dir / "holdout.jsonl").open(artifact="h", closes_s=(0, 1), who="a test", at_utc="now")
    return state_dir


def janitor(state_dir: Path, *, clock: Clock | None = None, **changes: object) -> Janitor:
    """With thresholds that any disk keeps."""
    config = parse({"janitor": {
        "warn_free_bytes": 2, "resume_free_bytes": 1, "floor_free_bytes": 1, "keep_top": 1, "reserve_bytes": 100, **changes,
    }})  # fmt: skip
    return Janitor(config=config, state_dir=state_dir, clock=clock or SystemClock(), log=get_logger())


def artifacts_left(state_dir: Path) -> str:
    return "".join(sorted(p.name for p in (state_dir / "artifacts").iterdir()))
