"""The janitor's hands: read what exists and what references it, then do what the plan says, written down first."""

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from structlog.typing import FilteringBoundLogger

from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.janitor.plan import Item, Plan, Space, Thresholds, plan
from features.files import append_jsonl, read_json, write_atomic

KEPT_ROTATIONS = 3


class Janitor:
    """One pass at a time over one state directory."""

    def __init__(self, *, config: Config, state_dir: Path, clock: Clock, log: FilteringBoundLogger) -> None:
        self._config, self._state_dir, self._clock, self._log = config.janitor, state_dir, clock, log

    def planned(self) -> Plan:
        """What a pass would do now. References are read after the inventory: a new one is then never missed."""
        inventory = list(self._inventory())
        limits = Thresholds(
            warn_free_bytes=self._config.warn_free_bytes, floor_free_bytes=self._config.floor_free_bytes,
            log_max_bytes=self._config.log_max_bytes,
        )  # fmt: skip
        free_bytes = shutil.disk_usage(self._state_dir).free
        return plan(inventory, references(self._state_dir, keep_top=self._config.keep_top), free_bytes, limits)

    def clean(self) -> Plan:
        """Do it: each deletion is in the audit log before it happens."""
        todo = self.planned()
        reserve, floor = self._state_dir / "reserve", self._state_dir / "run" / "disk_floor"
        if todo.free_reserve:
            reserve.unlink(missing_ok=True)
            floor.parent.mkdir(parents=True, exist_ok=True)
            floor.touch()
        for deletable in todo.delete:
            self._delete(deletable.item)
        for item in todo.rotate:
            self._rotate(self._state_dir / item.name)
        if todo.space is not Space.FLOOR:
            floor.unlink(missing_ok=True)
            if not reserve.exists():
                write_atomic(reserve, b"\0" * self._config.reserve_bytes)
        self._log.info(
            "janitor.freed", space=str(todo.space), deleted=len(todo.delete), freed_bytes=todo.freed_bytes,
            rotated=len(todo.rotate),
        )  # fmt: skip
        return todo

    def _inventory(self) -> Iterator[Item]:
        for path in (self._state_dir / "artifacts").glob("*"):
            yield from self._item("draft" if path.name.startswith(".") else "artifact", path, path.name)
        for pattern in ("*.jsonl", "*.out"):
            for path in (self._state_dir / "logs").glob(pattern):
                yield from self._item("log", path, str(path.relative_to(self._state_dir)))

    def _item(self, kind: Literal["artifact", "draft", "log"], path: Path, name: str) -> Iterator[Item]:
        with contextlib.suppress(FileNotFoundError):  # a draft was renamed meanwhile: the next pass sees what it became
            files = [path] if kind == "log" else list(path.iterdir())
            size = sum(f.stat().st_size for f in files)
            age_s = self._clock.now_utc().timestamp() - path.stat().st_mtime
            yield Item(kind=kind, name=name, size_bytes=size, age_s=age_s)

    def _delete(self, item: Item) -> None:
        append_jsonl(
            self._state_dir / "logs" / "janitor-audit.jsonl",
            {
                "at_utc": self._clock.now_utc().isoformat(), "deleted": item.name, "kind": item.kind,
                "bytes": item.size_bytes,
            },
        )  # fmt: skip
        shutil.rmtree(self._state_dir / "artifacts" / item.name)

    def _rotate(self, path: Path) -> None:
        """Rename; the writer's handler notices and opens a new file, so no line is lost."""
        for n in range(KEPT_ROTATIONS - 1, 0, -1):
            older = path.with_name(f"{path.name}.{n}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{n + 1}"))
        path.replace(path.with_name(f"{path.name}.1"))


def references(state_dir: Path, *, keep_top: int) -> frozenset[str]:
    """Artifact ids that anything still needs: champion and history, running and best trials, the paper journal."""
    found: set[str | None] = set()
    pointer = state_dir / "champion.json"
    if pointer.exists():
        record = read_json(pointer)
        for entry in (record, *record["history"]):
            found |= {entry["champion"], entry["holds"]}
    for study in (state_dir / "trials").glob("*"):
        trials: list[dict[str, Any]] = [read_json(p) for p in study.glob("*/trial.json")]
        scored = sorted((t for t in trials if t.get("score") is not None), key=lambda t: -t["score"])
        for trial in (*scored[:keep_top], *(t for t in trials if t["state"] == "RUNNING")):
            found |= {trial.get("artifact"), *trial.get("fold_artifacts", ())}
    journal = state_dir / "paper" / "journal.db"
    if journal.exists():
        with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
            found |= {row[0] for row in db.execute("SELECT DISTINCT artifact FROM decisions")}
    for artifact in [a for a in found if a]:
        manifest = state_dir / "artifacts" / artifact / "manifest.json"
        if manifest.exists():
            found |= set(json.loads(manifest.read_bytes())["training"].get("members", ()))
    return frozenset(a for a in found if a)
