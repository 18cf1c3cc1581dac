"""What may be deleted: a pure plan over an inventory. A referenced path cannot become a `Deletable`."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Space(StrEnum):
    """How much room the file system has."""

    OK = "ok"
    WARN = "warn"
    FLOOR = "floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something the state directory holds. name: the artifact's id, or the path relative to the state directory."""

    kind: Literal["artifact", "draft", "log"]
    name: str
    size_bytes: int
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    warn_free_bytes: int
    floor_free_bytes: int
    log_max_bytes: int
    min_age_s: float = 3600.0  # younger artifacts may belong to a trial that is about to name them


@dataclass(frozen=True, slots=True)
class Deletable:
    """A thing nothing references. Only `plan` makes one."""

    item: Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """delete: oldest first. rotate: logs over their size. free_reserve: give up the reserve file now."""

    space: Space
    delete: tuple[Deletable, ...]
    rotate: tuple[Item, ...]
    free_reserve: bool

    @property
    def freed_bytes(self) -> int:
        return sum(d.item.size_bytes for d in self.delete)


def plan(inventory: Sequence[Item], references: frozenset[str], free_bytes: int, limits: Thresholds) -> Plan:
    """Artifacts that nothing references and that are old enough go; logs over their size are rotated."""
    space = Space.OK
    if free_bytes < limits.warn_free_bytes:
        space = Space.WARN
    if free_bytes < limits.floor_free_bytes:
        space = Space.FLOOR
    unreferenced = [
        i
        for i in inventory
        if i.kind in ("artifact", "draft") and i.name not in references and i.age_s >= limits.min_age_s
    ]
    return Plan(
        space=space,
        delete=tuple(Deletable(i) for i in sorted(unreferenced, key=lambda i: (-i.age_s, i.name))),
        rotate=tuple(i for i in inventory if i.kind == "log" and i.size_bytes > limits.log_max_bytes),
        free_reserve=space is Space.FLOOR,
    )
