"""Every way in which an order goes wrong, with deaths of the trader and of its successor: the whole table.

Real alpaca-py and real ccxt against the local venues, real SQLite. In-process a death is an exception that drops
everything but the files; a sample of the cells dies by SIGKILL, and one account lives through power cuts.
"""

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange_account import OrderFault
from kill_matrix import CELLS, CRASHES, SECONDS, Cell, play, played_seed
from mounts import mounted
from order_life import DURABLE, durable, plan
from order_world import OPENED_S, VENUES, World, lives, violations

pytestmark = pytest.mark.chaos
SEEDS = int(os.environ.get("CHAOS_SEEDS", "500"))
POWER_CUTS = int(os.environ.get("CHAOS_POWER_CUTS", "8"))
N_DECISIONS = 7
SAMPLE = tuple(
    Cell(fault=fault, crash=crash, second=second)
    for fault in (OrderFault.NONE, OrderFault.TAKEN_504, OrderFault.LOST_504, OrderFault.LATE_FIRST)
    for crash, second in (("after TX1", "none"), ("before POST", "after POST"), ("after POST", "before POST"))
)


def said(text: str) -> None:
    print(f"\n{text}", flush=True)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("venue", VENUES)
def test_in_every_cell_no_order_is_lost_none_doubled_and_the_ledger_is_the_venues(venue: str, tmp_path: Path) -> None:
    began_s, wrong, table = time.monotonic(), [], Counter[OrderFault]()
    for n, cell in enumerate(CELLS):
        place = tmp_path / str(n)
        place.mkdir()
        found = play(venue, cell, place)
        wrong += [f"{cell}: {text}" for text in found]
        table[cell.fault] += bool(found)
    took_s = time.monotonic() - began_s
    said(f"kill matrix, {venue}: {len(CELLS)} cells in {took_s:.0f} s, {sum(table.values())} with a violation")
    for fault in OrderFault:
        said(f"  {fault.value:<52} {len(CRASHES) * len(SECONDS)} cells, {table[fault]} violated")
    assert wrong == []


@pytest.mark.timeout(1800)
def test_random_lives_lose_and_double_nothing(tmp_path: Path) -> None:
    began_s, wrong = time.monotonic(), []
    for seed in range(1000, 1000 + SEEDS):
        place = tmp_path / str(seed)
        place.mkdir()
        wrong += played_seed(seed, place)
    said(f"{SEEDS} random lives in {time.monotonic() - began_s:.0f} s: {len(wrong)} violations")
    assert wrong == []


def life(venue: str, running: Any, state_dir: Path, point: tuple[str, int] | None, n: int) -> list[str]:
    name, passage = point or ("none", 1)
    program = Path(__file__).parents[1] / "paper_trader" / "order_life.py"
    return [
        sys.executable, str(program), venue, running.api_url, str(running.now_s), str(state_dir), name, str(passage),
        str(n),
    ]  # fmt: skip


def environment() -> dict[str, str]:
    tests = Path(__file__).parents[1]
    paths = [tests.parent, tests, tests / "venues", tests / "paper_trader"]
    return {**os.environ, "PYTHONPATH": ":".join(map(str, paths))}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("venue", VENUES)
def test_sigkill_of_the_real_process_in_a_sample_of_the_cells(venue: str, tmp_path: Path) -> None:
    kills = 0
    open_venue, open_broker = VENUES[venue]
    for n, cell in enumerate(SAMPLE):
        place = tmp_path / str(n)
        place.mkdir()
        with open_venue() as running:
            running.account.faults.extend([cell.fault, cell.fault])
            deaths = [CRASHES[cell.crash], SECONDS[cell.second], None]
            for point in [p for p in deaths[:2] if p is not None] + [None]:
                done = subprocess.run(
                    life(venue, running, place, point, 3), env=environment(), capture_output=True, check=False
                )
                assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
                kills += done.returncode == -signal.SIGKILL
                running.now_s += 5.0
            assert done.returncode == 0
            world = World(running, place, open_broker, plan=plan(3))
            assert violations(world) == [], cell
    said(f"real processes, {venue}: {len(SAMPLE)} cells, {kills} SIGKILLs, 0 violations")
    assert kills >= len(SAMPLE)


@contextlib.contextmanager
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted("ext4", tmp_path / "disk", size_mib=24) as place:
        yield place


def cut_power(place: Path) -> None:
    """EXT4_IOC_SHUTDOWN without flushing its log, then what a boot does: the file system is mounted again."""
    root = os.open(place, os.O_RDONLY)
    fcntl.ioctl(root, 0x8004587D, struct.pack("I", 2))
    os.close(root)


def boot(place: Path) -> None:
    subprocess.run(["umount", str(place)], check=True)
    subprocess.run(["mount", "-o", "loop", str(place.with_suffix(".img")), str(place)], check=True)


@pytest.mark.timeout(900)
def test_power_cuts_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """The trader runs on a file system of its own that is cut off in mid-write, again and again."""
    rng, cuts, lost, compared = np.random.default_rng(4), 0, 0, 0
    with disk(tmp_path) as place, VENUES["alpaca"][0]() as running:
        state_dir = place / "paper"
        state_dir.mkdir()
        os.sync()
        assert running.now_s == OPENED_S + 20.0
        faults = [OrderFault.TAKEN_504, OrderFault.NONE, OrderFault.LOST_504, OrderFault.LATE_FIRST]
        running.account.faults.extend(faults * 4)
        while cuts < POWER_CUTS:
            wanted_lines = int(rng.integers(1, 5))
            process = subprocess.Popen(
                life("alpaca", running, state_dir, None, N_DECISIONS), env=environment(), stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            lines = []
            for line in iter(process.stdout.readline, b""):
                lines.append(line.decode())
                if sum(x.startswith(DURABLE) for x in lines) >= wanted_lines:
                    time.sleep(float(rng.uniform(0.0, 0.03)))
                    break
            cut_power(place)
            process.kill()
            rest, _ = process.communicate()
            lines += rest.decode().splitlines(keepends=True)
            boot(place)
            cuts += 1
            whole = [x.removeprefix(DURABLE) for x in lines if x.startswith(DURABLE) and x.endswith("\n")]
            if whole:
                before, after = whole[-1].split(), durable(state_dir / "journal.db").split()
                lost += sum(int(a) < int(b) for a, b in zip(after, before, strict=True))
                compared += sum(map(int, before))
            running.now_s += 5.0
        world = World(running, state_dir, VENUES["alpaca"][1], plan=plan(N_DECISIONS))
        lives(world)
        found = violations(world)
    said(f"{cuts} power cuts: {lost} of {compared} acknowledged records lost, {len(found)} violations in the end")
    assert lost == 0 and found == []
