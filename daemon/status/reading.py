"""Gathers the status from the supervisor's facts and the files the other programs leave in the state directory."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from daemon.status.alerts import alerts
from daemon.status.pace import Ended, pace
from daemon.status.record import SCHEMA, Advice, Best, Champion, Child, Daemon, Disk, Gpu, Paper, Status, Study, known
from features.files import read_only_uri

# whatever may lie on a file system of its own
USERS = (
    ".",
    "artifacts",
    "trials",
    "logs",
    "paper",
    "market",
    "folds",
    "features",
    "reports",
    "advice",
    "backups",
    "run",
)
INTERRUPTED = ("stopped", "killed")  # these trials are tried again and do not count
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """What is kept of the record of a trial that has ended; the record itself may be long."""

    number: int
    state: str
    score: float | None
    artifact: str
    failure: str | None
    seconds: float
    ended_at_s: float = 0.0

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        score = record.get("score")
        return cls(
            number=record["number"], state=record["state"], score=None if score is None else float(score),
            artifact=record.get("artifact") or "", failure=record.get("failure"),
            seconds=float(record.get("seconds") or 0.0),
        )  # fmt: skip

    @property
    def is_scored(self) -> bool:
        return self.state == "COMPLETE" and self.score is not None


class StatusReader:
    """One state directory under one configuration. Keeps what cannot change any more, so that asking again is cheap."""

    def __init__(self, state_dir: Path, config: Mapping[str, Any]) -> None:
        self._state_dir, self._config = state_dir, config
        self._files: dict[Path, tuple[tuple[int, int, int], Any]] = {}
        self._trials_stamp, self._ended, self._open = -1, dict[str, _Trial](), set[str]()
        self._running_since_s: dict[str, float] = {}
        self._decision: tuple[int, int | None] = (-1, None)
        self._odd: dict[str, None] = {}  # files of this look that could not be understood, in order

    def gather(self, children: Sequence[Mapping[str, Any]], **daemon: Any) -> dict[str, Any]:
        """The status v1 as JSON types. `daemon`: the fields of record.Daemon; `children`: those of record.Child."""
        now_s = datetime.fromisoformat(daemon["written_utc"]).timestamp()
        self._odd = {}
        fleet = tuple(Child(**known(Child, c)) for c in children)
        status = Status(
            schema=SCHEMA, daemon=Daemon(**daemon), children=fleet, study=self._study(fleet, now_s),
            champion=self._champion(), paper=self._paper(now_s), advice=self._advice(), disks=tuple(self._disks()),
            gpus=self._gpus(now_s), alerts=(), state_dir=str(self._state_dir),
        )  # fmt: skip
        gpu = self._config["gpu"]
        found = alerts(
            status, timeframe_s=self._config["market"]["timeframe_s"], gpu_warn_c=gpu["warn_temperature_c"],
            gpu_pause_c=gpu["pause_temperature_c"], odd_files=tuple(self._odd),
        )  # fmt: skip
        return asdict(replace(status, alerts=found))

    def _study(self, fleet: Sequence[Child], now_s: float) -> Study:
        name, target = self._config["study"]["name"], self._config["study"]["target_trials"]
        running = self._read_trials(self._state_dir / "trials" / name, now_s)
        ended = list(self._ended.values())
        scored = [t for t in ended if t.is_scored]
        back = sum(t.failure in INTERRUPTED for t in ended)
        given_up = sum(t.state == "PRUNED" for t in ended)
        complete, failed = len(scored), len(ended) - len(scored) - given_up - back
        workers = [c for c in fleet if c.kind == "worker" and c.state == "running"]
        rates = [c.facts["samples_per_s"] for c in workers if "samples_per_s" in c.facts]
        counted = [
            Ended(at_s=t.ended_at_s, took_s=t.seconds) for t in ended if t.failure not in INTERRUPTED and t.seconds
        ]
        return Study(
            name=name, target=target, complete=complete, running=len(running), given_up=given_up, failed=failed,
            handed_back=back, samples_per_s=sum(rates) if rates else None, best=self._best(name, scored),
            pace=pace(
                counted, running_for_s=running, remaining=max(0, target - complete - given_up - failed),
                workers=len(workers), now_s=now_s,
            ),
        )  # fmt: skip

    def _read_trials(self, folder: Path, now_s: float) -> list[float]:
        """Bring the trials up to date; for how long each running one has been seen. Ended ones are read once."""
        try:
            stamp = folder.stat().st_mtime_ns
        except OSError:
            stamp = -1
        if stamp != self._trials_stamp:
            names = {e.name for e in os.scandir(folder) if e.name.isdigit()} if stamp >= 0 else set[str]()
            self._ended = {n: t for n, t in self._ended.items() if n in names}
            self._open = names - set(self._ended)
            # a folder changed this very moment may change again within the grain of its time stamp
            self._trials_stamp = stamp if now_s - stamp / 1e9 > 1.0 else -1
        for name in sorted(self._open):
            path = folder / name / "trial.json"
            trial = self._understood(path, _Trial.of, keep=False)
            if trial is not None and trial.state != "RUNNING":
                self._ended[name] = replace(trial, ended_at_s=path.stat().st_mtime)
                self._open.discard(name)
                self._running_since_s.pop(name, None)
            elif trial is not None:
                self._running_since_s.setdefault(name, now_s)
        return [now_s - self._running_since_s[n] for n in sorted(self._open) if n in self._running_since_s]

    def _best(self, study: str, scored: Sequence[_Trial]) -> Best | None:
        """The best trial, with the deflated Sharpe ratio if it is the one that was judged last."""
        best = max(scored, key=lambda t: t.score or 0.0, default=None)
        if best is None or best.score is None:
            return None
        value, threshold = self._understood(
            self._state_dir / "champion.json", lambda r: _deflated(r, study=study, trial=best.number)
        ) or (None, "")
        return Best(number=best.number, score=best.score, artifact=best.artifact, dsr=value, dsr_threshold=threshold)

    def _champion(self) -> Champion | None:
        return self._understood(self._state_dir / "champion.json", _champion_of)

    def _paper(self, now_s: float) -> Paper | None:
        paper = self._understood(self._state_dir / "paper" / "status.json", lambda r: _paper_of(r, now_s=now_s))
        if paper is None:
            return None
        if paper.decisions != self._decision[0]:
            self._decision = (paper.decisions, _last_decision_s(self._state_dir / "paper" / "journal.db"))
        last_s = self._decision[1]
        if last_s is None:
            return paper
        live = self._config["paper"]["clock"] == "live"
        return replace(
            paper, last_decision_utc=datetime.fromtimestamp(last_s, UTC).isoformat(),
            decision_age_s=round(max(0.0, now_s - last_s), 1) if live else None,
        )  # fmt: skip

    def _advice(self) -> Advice | None:
        path = self._state_dir / "advice" / "latest.json"
        return self._understood(path, lambda r: Advice(summary=str(r["summary"]), created_utc=r["created_utc"]))

    def _disks(self) -> Iterator[Disk]:
        """Every file system that some part of the state directory lies on, once."""
        limits = self._config["janitor"]
        # Below the floor until there is room to spare, as the janitor says: by the first of what lies on each of them.
        below = (
            self._understood(
                self._state_dir / "run" / "disks.json",
                lambda r: {d["name"] for d in r["disks"] if d["space"] == "floor"},
            )
            or set[str]()
        )
        for path, users in file_systems(self._state_dir).items():
            usage = os.statvfs(path)
            free = usage.f_bavail * usage.f_frsize
            yield Disk(
                path=str(path), used_by=users, free_bytes=free, total_bytes=usage.f_blocks * usage.f_frsize,
                below_warning=free < limits["warn_free_bytes"],
                below_floor=free < limits["floor_free_bytes"] or not below.isdisjoint(users),
            )  # fmt: skip

    def _gpus(self, now_s: float) -> tuple[Gpu, ...]:
        """The last reading that a child wrote down: a wedged driver must not hold up the supervisor."""

        def of(record: Mapping[str, Any]) -> tuple[Gpu, ...]:
            age_s = round(now_s - datetime.fromisoformat(record["at_utc"]).timestamp(), 1)
            return tuple(Gpu(**{**known(Gpu, r), "age_s": age_s}) for r in record["gpus"])

        return self._understood(self._state_dir / "run" / "gpu.json", of) or ()

    def _understood(self, path: Path, make: Callable[[Any], _T], *, keep: bool = True) -> _T | None:
        """What `make` reads in another program's file. None where there is none, or none of a form that is known here.

        Whatever lies there, the supervisor shows what it can, says which file it could not read, and supervises on.
        """
        try:
            record = self._read(path, keep=keep)
            return None if record is None else make(record)
        except (AttributeError, KeyError, TypeError, ValueError):
            self._odd[str(path.relative_to(self._state_dir))] = None
            return None

    def _read(self, path: Path, *, keep: bool = True) -> Any:
        """A file another process replaces atomically: whole, or None where there is none. Parsed again only when it changed.

        Raises ValueError for what is not JSON.
        """
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if keep and (held := self._files.get(path)) is not None and held[0] == stamp:
                return held[1]
            record = json.loads(path.read_bytes())
        except OSError:
            return None
        if keep:
            self._files[path] = (stamp, record)
        return record


def _deflated(judged: Mapping[str, Any], *, study: str, trial: int) -> tuple[float | None, str]:
    """(deflated Sharpe ratio, its threshold) of the trial, if the last judgement was of that one."""
    dsr = next((g for g in judged.get("gates", ()) if g["gate"] == "G2"), None)
    if dsr is None or (judged["study"], judged["trial"]) != (study, trial):
        return None, ""
    return dsr["value"], dsr["threshold"]


def _champion_of(record: Mapping[str, Any]) -> Champion:
    failed = tuple(dict.fromkeys(g["gate"] for g in record["gates"] if not g["passed"]))
    return Champion(**{**known(Champion, record), "failed_gates": failed})


def _paper_of(record: Mapping[str, Any], *, now_s: float) -> Paper:
    paper = Paper(**known(Paper, record))
    if paper.drill_utc is None:
        return paper
    age_s = max(0.0, now_s - datetime.fromisoformat(paper.drill_utc).timestamp())
    return replace(paper, drill_age_s=round(age_s, 1))


def _last_decision_s(journal: Path) -> int | None:
    """Close time of the newest bar that was decided on; the journal is only read, never waited for."""
    try:
        with closing(sqlite3.connect(read_only_uri(journal), uri=True, timeout=0.0)) as db:
            found: int | None = db.execute("SELECT max(close_time_s) FROM decisions").fetchone()[0]
            return found
    except sqlite3.Error:
        return None


def file_systems(state_dir: Path) -> dict[Path, tuple[str, ...]]:
    """Mount points in use, the state directory's own first, and which of USERS lies on each."""
    by_device: dict[int, list[str]] = {}
    for user in USERS:
        path = state_dir / user
        if path.exists():
            by_device.setdefault(path.stat().st_dev, []).append(user)
    return {_mount_of(state_dir / users[0]): tuple(users) for users in by_device.values()}


def _mount_of(path: Path) -> Path:
    path = path.resolve()
    while not path.is_mount():
        path = path.parent
    return path
