"""The janitor's hands: look at the disks, read what exists and what needs it, do what the plan says, on record."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.child.holds import DISK_FLOOR
from daemon.child.room import RESERVE
from daemon.janitor.inventory import disks, inventory
from daemon.janitor.plan import Deletable, Disk, Limits, Plan, Space, judge, plan
from daemon.janitor.references import references
from features.files import Lock, append_jsonl, disk_full, read_json, write_atomic

KEPT_ROTATIONS = 3
AUDIT = "janitor-audit.jsonl"  # beside the ledgers: like them it is only ever appended to
DISKS = Path("run") / "disks.json"


class Janitor:
    """One pass at a time over one state directory. `beat` is called as the work advances."""

    def __init__(
        self, *, config: Config, state_dir: Path, clock: Clock, log: FilteringBoundLogger,
        beat: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._config, self._state_dir, self._clock, self._log, self._beat = config.janitor, state_dir, clock, log, beat
        self._study = config.study.name
        self._unwritten: list[dict[str, Any]] = []  # audit records that wait for room
        known = read_json(state_dir / DISKS)["disks"] if (state_dir / DISKS).exists() else []
        self._spaces = {d["name"]: Space(d["space"]) for d in known}

    def changed(self) -> bool:
        """A cheap look: whether some file system crossed a threshold since the last one."""
        found = {d.name: judge(d, self._limits()) for d in self._disks()}
        spaces = {name: v.space for name, v in found.items()}
        crossed = spaces != self._spaces
        for name, space in spaces.items():
            if space is not self._spaces.get(name, Space.OK):
                self._log.warning("janitor.disk", disk=name, space=space.value, free_bytes=found[name].disk.free_bytes)
        self._spaces = spaces
        return crossed

    def planned(self) -> Plan:
        """What a pass would do now. References are read after the inventory: a new one is then never missed."""
        items = inventory(self._state_dir, now_s=self._clock.now_utc().timestamp())
        needed = references(self._state_dir, keep_top=self._config.keep_top, study=self._study)
        return plan(items, needed, self._disks(), self._limits())

    def clean(self) -> Plan:
        """Do it, the reserve files first and last. Two passes never run at once."""
        with Lock(self._state_dir / "run" / "housekeeping.lock", wait=True):
            limits = self._limits()
            for verdict in (judge(d, limits) for d in self._disks()):
                if verdict.free_reserve:  # before anything else is even read: everybody may be waiting for room
                    self._free_reserve(verdict.disk)
            todo = self.planned()
            for deletable in todo.delete:
                self._delete(deletable)
                self._beat()
            for item in todo.rotate:
                path = self._state_dir / item.name
                if path.suffix == ".out":
                    rotate_output(path, keep=KEPT_ROTATIONS, most_bytes=limits.log_max_bytes)
                else:
                    rotate(path, keep=KEPT_ROTATIONS)
            self._flush_audit()
            self._settle(limits)
        if todo.delete or todo.rotate:
            self._log.info(
                "janitor.freed", space=todo.space.value, deleted=len(todo.delete), freed_bytes=todo.freed_bytes,
                rotated=len(todo.rotate),
            )  # fmt: skip
        return todo

    def _settle(self, limits: Limits) -> None:
        """Tell the workers and the readers how things stand now, and put the reserves back where there is room."""
        verdicts = [judge(d, limits) for d in self._disks()]
        self._spaces = {v.disk.name: v.space for v in verdicts}
        floor = self._state_dir / DISK_FLOOR
        floor.parent.mkdir(parents=True, exist_ok=True)
        if any(v.space is Space.FLOOR and v.disk.for_trials for v in verdicts):
            floor.touch()
        else:
            floor.unlink(missing_ok=True)
        try:
            for verdict in verdicts:
                if verdict.make_reserve:
                    write_atomic(self._state_dir / verdict.disk.name / RESERVE, os.urandom(limits.reserve_bytes))
            shown = [
                {"name": v.disk.name, "space": v.space.value, "free_bytes": v.disk.free_bytes,
                 "total_bytes": v.disk.total_bytes} for v in verdicts
            ]  # fmt: skip
            write_atomic(self._state_dir / DISKS, json.dumps({"schema": 1, "disks": shown}).encode())
        except OSError as error:
            if not disk_full(error):
                raise

    def _free_reserve(self, disk: Disk) -> None:
        (self._state_dir / disk.name / RESERVE).unlink(missing_ok=True)
        self._audit({"freed": f"{disk.name}/{RESERVE}", "bytes": disk.reserve_bytes, "reason": "below the floor"})

    def _delete(self, deletable: Deletable) -> None:
        item = deletable.item
        paths = [self._state_dir / f for f in item.files]
        young = self._clock.now_utc().timestamp() - self._limits().min_age_s
        if item.kind == "artifact" and paths[0].stat().st_mtime > young:
            return  # saved again since it was listed: somebody is about to name it
        self._audit(
            {"deleted": item.name, "kind": item.kind, "bytes": item.size_bytes, "age_s": round(item.age_s),
             "reason": deletable.reason}
        )  # fmt: skip
        for path in paths:
            if path.is_dir():
                gone = path.with_name(f".{path.name}.{os.getpid()}")
                path.rename(gone)  # in one step: a half-deleted artifact must not look like one
                shutil.rmtree(gone)
            else:
                path.unlink(missing_ok=True)
        self._flush_audit()

    def _audit(self, record: dict[str, Any]) -> None:
        """Before the deed; on a full disk after it, as soon as there is room: without deeds there never would be."""
        self._unwritten.append({"at_utc": self._clock.now_utc().isoformat(), **record})
        self._flush_audit()

    def _flush_audit(self) -> None:
        try:
            while self._unwritten:
                append_jsonl(self._state_dir / AUDIT, self._unwritten[0])
                del self._unwritten[0]
        except OSError as error:
            if not disk_full(error):
                raise

    def _disks(self) -> list[Disk]:
        return disks(self._state_dir, below=frozenset(n for n, space in self._spaces.items() if space is Space.FLOOR))

    def _limits(self) -> Limits:
        c = self._config
        return Limits(
            warn_free_bytes=c.warn_free_bytes, floor_free_bytes=c.floor_free_bytes,
            resume_free_bytes=c.resume_free_bytes, reserve_bytes=c.reserve_bytes, log_max_bytes=c.log_max_bytes,
            keep={"report": c.keep_reports, "advice": c.keep_advice, "backup": c.keep_backups},
        )  # fmt: skip


def rotate(path: Path, *, keep: int) -> None:
    """Rename to .1, .1 to .2 and so on, `keep` of them. A writer notices before its next record and opens anew."""
    path.replace(_made_free(path, keep))


def rotate_output(path: Path, *, keep: int, most_bytes: int) -> None:
    """The same for the file of a child's standard output, which the child keeps open: the end is copied, then it is emptied.

    The child appends, so it goes on at the beginning. What it says between copying and emptying is lost.
    """
    newest = _made_free(path, keep)
    try:
        with path.open("rb") as output, newest.open("wb") as copy:
            output.seek(max(0, path.stat().st_size - most_bytes))
            shutil.copyfileobj(output, copy)
    except OSError as error:
        if not disk_full(error):
            raise
        newest.unlink(missing_ok=True)  # old output is the first thing that goes when there is no room
    os.truncate(path, 0)


def _made_free(path: Path, keep: int) -> Path:
    """The name of the newest rotation, after the others have moved up by one."""
    for n in range(keep - 1, 0, -1):
        older = path.with_name(f"{path.name}.{n}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{n + 1}"))
    return path.with_name(f"{path.name}.1")
