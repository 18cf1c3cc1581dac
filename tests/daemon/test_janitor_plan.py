"""The plan: what anything references stays, whatever the inventory; a file system below its floor gets what can be given."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from daemon.janitor.plan import EXPENDABLE, Deletable, Disk, Item, Kind, Limits, Plan, Space, judge, plan

KINDS: tuple[Kind, ...] = (
    "artifact",
    "draft",
    "checkpoint",
    "temporary",
    "log",
    "rotated_log",
    "advice",
    "report",
    "backup",
)
LIMITS = Limits(
    warn_free_bytes=5000, resume_free_bytes=2000, floor_free_bytes=1000, reserve_bytes=64, log_max_bytes=150,
    keep={"report": 4, "advice": 3, "backup": 2},
)  # fmt: skip
DISK = Disk(disk=0, name=".", free_bytes=10_000, total_bytes=20_000, was_below=False, reserve_bytes=64, for_trials=True)

Case = tuple[list[Item], dict[str, str], list[Disk]]


def cases(n: int, seed: int) -> Iterator[Case]:
    """Random inventories over one to three file systems, with random references into them and beyond."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        n_disks, n_items = int(rng.integers(1, 4)), int(rng.integers(0, 25))
        kinds, on = rng.integers(0, len(KINDS), n_items), rng.integers(0, n_disks, n_items)
        sizes, ages = rng.integers(0, 400, n_items), rng.choice([-5.0, 0.0, 3599.9, 3600.0, 9e5, 3e7], n_items)
        items = [
            Item(
                kind=KINDS[kinds[i]], name=f"n{i}", files=(f"n{i}",), size_bytes=int(sizes[i]), age_s=float(ages[i]),
                disk=int(on[i]),
            )
            for i in range(n_items)
        ]  # fmt: skip
        named = {f"n{i}": "somebody" for i in range(n_items + 3) if rng.random() < 0.3}
        disks = [
            Disk(
                disk=k, name=f"d{k}", free_bytes=int(rng.integers(0, 3500)), total_bytes=4000,
                was_below=bool(rng.random() < 0.5), reserve_bytes=int(rng.choice([0, 64])), for_trials=k == 0,
            )
            for k in range(n_disks)
        ]  # fmt: skip
        yield items, named, disks


def useless(item: Item, items: list[Item]) -> bool:
    """The rule of hygiene, written a second time: by counting, not by ranking."""
    if item.kind in ("artifact", "draft", "checkpoint", "temporary"):
        return item.age_s >= 3600.0
    newer = sum(i.kind == item.kind and (i.age_s, i.name) < (item.age_s, item.name) for i in items)
    return item.kind in LIMITS.keep and newer >= LIMITS.keep[item.kind]


def expendable(item: Item, items: list[Item]) -> bool:
    newer = sum(i.kind == item.kind and (i.age_s, i.name) < (item.age_s, item.name) for i in items)
    return item.kind in EXPENDABLE and newer >= EXPENDABLE[item.kind]


def check(case: Case, made: Plan) -> None:
    items, named, disks = case
    gone = {d.item.name for d in made.delete}
    assert len(gone) == len(made.delete)
    assert not gone & set(named)  # never what is referenced
    assert not {i.name for i in items if i.kind == "log"} & gone
    assert {i.name for i in items if i.name not in named and i.kind != "log" and useless(i, items)} <= gone
    for disk, verdict in zip(disks, made.disks, strict=True):
        here = [i for i in items if i.disk == disk.disk]
        forced = [d.item for d in made.delete if d.item.disk == disk.disk and not useless(d.item, items)]
        free = disk.free_bytes + sum(i.size_bytes for i in here if i.name in gone)
        free += disk.reserve_bytes if verdict.free_reserve else 0
        if verdict.space is not Space.FLOOR:
            assert not forced and not verdict.free_reserve  # with room, history stays
            continue
        assert verdict.free_reserve == (disk.reserve_bytes > 0)
        if free < LIMITS.resume_free_bytes:  # below budget: then nothing that could be given is left
            assert not [i for i in here if i.name not in gone and i.name not in named and expendable(i, items)]
        elif forced:  # within budget, and not a file more than that takes
            assert free - forced[-1].size_bytes < LIMITS.resume_free_bytes
        assert all(expendable(i, items) for i in forced)
    assert made.hold_trials == (made.disks[0].space is Space.FLOOR)


@pytest.mark.parametrize(("n", "seed"), [(5_000, 1), pytest.param(100_000, 2, marks=pytest.mark.chaos)])
def test_never_a_referenced_file_and_always_within_budget_when_that_is_possible(n: int, seed: int) -> None:
    floors = rescued = 0
    for case in cases(n, seed):
        made = plan(case[0], case[1], case[2], LIMITS)
        check(case, made)
        floors += made.space is Space.FLOOR
        rescued += any(d.reason.endswith("floor") for d in made.delete)
    assert floors > n / 4 and rescued > n / 20  # the cases that matter were among them


@pytest.mark.parametrize("mutant", ["references ignored", "greed", "surrender"])
def test_the_property_catches_a_plan_that_breaks_it(mutant: str) -> None:
    def broken(case: Case) -> Plan:
        items, named, disks = case
        if mutant == "references ignored":
            return plan(items, {}, disks, LIMITS)
        if mutant == "greed":
            return plan(items, named, disks, replace(LIMITS, resume_free_bytes=10**6))
        return plan(items, named, disks, replace(LIMITS, resume_free_bytes=LIMITS.floor_free_bytes))

    def hunt() -> None:
        for case in cases(2_000, 3):
            check(case, broken(case))

    with pytest.raises(AssertionError):
        hunt()


@pytest.mark.parametrize(
    ("free", "was_below", "space"),
    [
        (5000, False, Space.OK), (4999, False, Space.WARN), (1000, False, Space.WARN), (999, False, Space.FLOOR),
        (1000, True, Space.FLOOR), (1999, True, Space.FLOOR), (2000, True, Space.WARN), (5000, True, Space.OK),
    ],
)  # fmt: skip
def test_a_disk_below_its_floor_stays_below_until_there_is_room_to_spare(
    free: int, was_below: bool, space: Space  # noqa: FBT001
) -> None:  # fmt: skip
    assert judge(replace(DISK, free_bytes=free, was_below=was_below), LIMITS).space is space


def test_making_the_reserve_anew_never_takes_the_disk_back_below_its_floor() -> None:
    for free in range(900, 2200):
        verdict = judge(replace(DISK, free_bytes=free, was_below=True, reserve_bytes=0), LIMITS)
        if verdict.make_reserve:
            after = replace(DISK, free_bytes=free - LIMITS.reserve_bytes, was_below=False)
            assert judge(after, LIMITS).space is not Space.FLOOR
        assert verdict.make_reserve == (free >= LIMITS.resume_free_bytes + LIMITS.reserve_bytes)


def test_a_full_disk_of_the_trader_alone_does_not_hold_back_the_workers() -> None:
    paper = replace(DISK, disk=1, name="paper", free_bytes=10, for_trials=False)
    made = plan([], {}, [DISK, paper], LIMITS)
    assert made.space is Space.FLOOR and not made.hold_trials
    assert [(v.disk.name, v.free_reserve) for v in made.disks] == [(".", False), ("paper", True)]


def test_nobody_but_the_plan_can_name_a_thing_deletable() -> None:
    item = Item(kind="artifact", name="a", files=("a",), size_bytes=1, age_s=1e9, disk=0)
    with pytest.raises(TypeError, match="only"):
        Deletable(item, "because", object())
