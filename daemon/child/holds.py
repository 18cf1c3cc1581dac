"""What keeps a worker from beginning a trial. The janitor writes it down; a worker looks before each trial."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from features.files import read_json, write_atomic

DISK_FLOOR = Path("run") / "disk_floor"
GPU = Path("run") / "gpu.json"


def hold_reason(state_dir: Path, *, worker: int, on_gpu: bool) -> str:
    """Why worker number `worker` (from 0) must wait, in words; empty when it may begin.

    Workers take the cards in turn: the worker with number w is the (w // cards)th one on its card.
    """
    if (state_dir / DISK_FLOOR).exists():
        return "disk below the floor"
    if on_gpu and (state_dir / GPU).exists() and (cards := read_json(state_dir / GPU)["cards"]):
        card = cards[card_of(worker, len(cards))]
        if worker // len(cards) >= card["workers"]:
            return f"GPU {card['index']}: {card['why']}"
    return ""


def card_of(worker: int, cards: int) -> int:
    """On which of so many cards worker number `worker` trains."""
    return worker % cards


def worker_number(name: str) -> int:
    """Of `worker-3`, 3; 0 for what runs in the foreground."""
    last = name.rsplit("-", 1)[-1]
    return int(last) if last.isdigit() else 0


def write_usage(
    state_dir: Path, name: str, *, study: str, worker: int, vram_bytes: int, vram_peak_bytes: int
) -> None:  # fmt: skip
    """What this process holds on its card after a trial of the study, and held at most: what the janitor plans with."""
    record = {
        "study": study, "worker": worker, "pid": os.getpid(), "started_s": psutil.Process().create_time(),
        "vram_bytes": vram_bytes, "vram_peak_bytes": vram_peak_bytes,
    }  # fmt: skip
    write_atomic(state_dir / "run" / f"{name}.usage.json", json.dumps(record).encode())


def read_usages(state_dir: Path) -> Mapping[str, dict[str, Any]]:
    """Worker → its last record, of workers dead or alive."""
    return {p.name.removesuffix(".usage.json"): read_json(p) for p in (state_dir / "run").glob("*.usage.json")}
