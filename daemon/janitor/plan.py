"""What may be deleted: a pure plan over an inventory. What is referenced cannot become a `Deletable`.

Two kinds of deletion. *Useless* things go whenever they are found: unnamed artifacts, folds of closed studies, what a
crash left behind, copies beyond the configured number. *Expendable* things are history that somebody may like to read
(rotated logs, older advice, reports and backups): they go only on a file system below its floor, oldest first, until it
is back at `resume_free_bytes`, and no further.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Kind = Literal[
    "artifact", "draft", "fold", "checkpoint", "temporary", "log", "rotated_log", "advice", "report", "backup"
]

# kind → how many of the newest stay in an emergency; the order is the order in which they are given up
EXPENDABLE: Mapping[Kind, int] = {"rotated_log": 0, "advice": 1, "report": 1, "backup": 1}

# kind → why it goes as soon as it is no longer young, when nothing names it
_UNNAMED: Mapping[Kind, str] = {
    "artifact": "nothing names it", "draft": "left by a crash", "temporary": "left by a crash",
    "fold": "no open study trains on it", "checkpoint": "no training goes on from it",
}  # fmt: skip


class Space(StrEnum):
    """How much room a file system has."""

    OK = "ok"
    WARN = "warn"
    FLOOR = "floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something in the state directory. name: its path there, unique; files: the paths that make it up; disk: st_dev."""

    kind: Kind
    name: str
    files: tuple[str, ...]
    size_bytes: int
    age_s: float
    disk: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A file system that the state directory uses, by st_dev; name: the first of our directories on it.

    was_below: whether it was below the floor when last looked at. reserve_bytes: size of its reserve file, 0 when
    there is none. for_trials: whether a running trial writes there.
    """

    disk: int
    name: str
    free_bytes: int
    total_bytes: int
    was_below: bool
    reserve_bytes: int
    for_trials: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """warn > resume > floor, all free bytes. keep: newest of a kind that always stay; absent kinds have no limit."""

    warn_free_bytes: int
    floor_free_bytes: int
    resume_free_bytes: int
    reserve_bytes: int
    log_max_bytes: int
    keep: Mapping[Kind, int]
    min_age_s: float = 3600.0  # younger ones may belong to somebody who is about to name them


_SEAL = object()


@dataclass(frozen=True, slots=True)
class Deletable:
    """A thing nothing references, and why it goes. Only `plan` makes one."""

    item: Item
    reason: str
    seal: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise TypeError("only daemon.janitor.plan.plan decides what may be deleted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of one file system: give up its reserve file first of all, or make it anew last of all."""

    disk: Disk
    space: Space
    free_reserve: bool
    make_reserve: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """delete: in this order. rotate: logs over their size. hold_trials: no new trial may start. kept: name → by whom."""

    disks: tuple[Verdict, ...]
    delete: tuple[Deletable, ...]
    rotate: tuple[Item, ...]
    hold_trials: bool
    kept: Mapping[str, str]

    @property
    def space(self) -> Space:
        """The worst of all file systems."""
        return max((v.space for v in self.disks), key=list(Space).index, default=Space.OK)

    @property
    def freed_bytes(self) -> int:
        return sum(d.item.size_bytes for d in self.delete)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": 1, "space": self.space.value, "hold_trials": self.hold_trials, "freed_bytes": self.freed_bytes,
            "disks": [
                {"name": v.disk.name, "space": v.space.value, "free_bytes": v.disk.free_bytes,
                 "total_bytes": v.disk.total_bytes, "reserve_bytes": v.disk.reserve_bytes, "free_reserve": v.free_reserve,
                 "make_reserve": v.make_reserve, "for_trials": v.disk.for_trials} for v in self.disks
            ],
            "delete": [
                {"name": d.item.name, "kind": d.item.kind, "bytes": d.item.size_bytes, "age_s": round(d.item.age_s),
                 "reason": d.reason} for d in self.delete
            ],
            "rotate": [{"name": i.name, "bytes": i.size_bytes} for i in self.rotate],
            "kept": dict(self.kept),
        }  # fmt: skip


def plan(inventory: Sequence[Item], references: Mapping[str, str], disks: Sequence[Disk], limits: Limits) -> Plan:
    """references: name → who needs it. Whatever it names stays, also when the disk then remains too full."""
    verdicts = tuple(judge(d, limits) for d in disks)
    free = [i for i in inventory if i.name not in references and i.kind != "log"]
    rank = _ranks(inventory)
    useless = [Deletable(i, why, _SEAL) for i in free if (why := _useless(i, rank[i.name], limits))]
    useless.sort(key=lambda d: (-d.item.age_s, d.item.name))
    gone = {d.item.name for d in useless}
    rest = [i for i in free if i.name not in gone]
    forced = [d for v in verdicts if v.space is Space.FLOOR for d in _forced(v, rest, rank, useless, limits)]
    return Plan(
        disks=verdicts, delete=(*useless, *forced),
        rotate=tuple(i for i in inventory if i.kind == "log" and i.size_bytes > limits.log_max_bytes),
        hold_trials=any(v.space is Space.FLOOR and v.disk.for_trials for v in verdicts),
        kept={i.name: references[i.name] for i in inventory if i.name in references},
    )  # fmt: skip


def judge(disk: Disk, limits: Limits) -> Verdict:
    """Below the floor at once; above it again only at `resume_free_bytes`, or the gate would flap with every trial.

    The reserve is made anew when that leaves the disk above the point at which it would be given up again.
    """
    below = disk.free_bytes < limits.floor_free_bytes or (disk.was_below and disk.free_bytes < limits.resume_free_bytes)
    space = Space.FLOOR if below else (Space.WARN if disk.free_bytes < limits.warn_free_bytes else Space.OK)
    missing = limits.reserve_bytes - disk.reserve_bytes
    roomy = disk.free_bytes - missing >= limits.resume_free_bytes
    return Verdict(
        disk=disk, space=space, free_reserve=below and disk.reserve_bytes > 0,
        make_reserve=not below and missing > 0 and roomy,
    )  # fmt: skip


def _ranks(inventory: Sequence[Item]) -> dict[str, int]:
    """Name → number of newer things of its kind."""
    ranks: dict[str, int] = {}
    seen: dict[Kind, int] = {}
    for item in sorted(inventory, key=lambda i: (i.age_s, i.name)):
        ranks[item.name] = seen.get(item.kind, 0)
        seen[item.kind] = ranks[item.name] + 1
    return ranks


def _useless(item: Item, newer: int, limits: Limits) -> str:
    """Why it goes even when there is room; empty when it stays."""
    if item.kind in _UNNAMED:
        return _UNNAMED[item.kind] if item.age_s >= limits.min_age_s else ""
    keep = limits.keep.get(item.kind)
    return f"beyond the newest {keep}" if keep is not None and newer >= keep else ""


def _forced(
    verdict: Verdict, items: Sequence[Item], rank: Mapping[str, int], already: Sequence[Deletable], limits: Limits
) -> list[Deletable]:
    """Expendable things on this file system, until it would be back at `resume_free_bytes`."""
    disk = verdict.disk
    free_bytes = disk.free_bytes + disk.reserve_bytes
    free_bytes += sum(d.item.size_bytes for d in already if d.item.disk == disk.disk)
    taken: list[Deletable] = []
    for kind, keep in EXPENDABLE.items():
        here = [i for i in items if i.kind == kind and i.disk == disk.disk and rank[i.name] >= keep]
        for item in sorted(here, key=lambda i: (-i.age_s, i.name)):
            if free_bytes >= limits.resume_free_bytes:
                return taken
            taken.append(Deletable(item, f"{disk.name} is below its floor", _SEAL))
            free_bytes += item.size_bytes
    return taken
