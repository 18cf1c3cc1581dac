"""What there is: everything in the state directory that a plan may speak about, and the file systems it lies on."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from daemon.child.room import RESERVE, TRIAL_DIRECTORIES
from daemon.janitor.backup import BACKUPS, is_backup
from daemon.janitor.plan import Disk, Item, Kind

# every directory that a program writes; each may be a mount of its own
DIRECTORIES = (*TRIAL_DIRECTORIES, "logs", "paper", "market", "folds", "features", "reports", "advice", BACKUPS, "run")
CHECKPOINTS = "replicate-*.safetensors"  # in run/, of trainings on fresh seeds; a trial's own lie beside it
_TEMPORARY = re.compile(r"^\..+\.\d+$")  # what `write_atomic` leaves when it is killed: .name.pid
_ROTATED = re.compile(r"\.(jsonl|out)\.\d+$")


def inventory(state_dir: Path, *, now_s: float) -> list[Item]:
    """Every item; what vanishes while it is looked at is left out."""
    found: list[Item] = []
    for path in _entries(state_dir / "artifacts"):
        kind: Kind = "draft" if path.name.startswith(".") else "artifact"
        found += _item(state_dir, kind, path.relative_to(state_dir), [path], now_s)
    for path in _entries(state_dir / "logs"):
        if path.suffix in (".jsonl", ".out") and not path.name.startswith("."):
            found += _item(state_dir, "log", path.relative_to(state_dir), [path], now_s)
        elif _ROTATED.search(path.name):
            found += _item(state_dir, "rotated_log", path.relative_to(state_dir), [path], now_s)
    found += _documents(state_dir, "report", "reports", now_s)
    found += _documents(state_dir, "advice", "advice", now_s)
    for path in _entries(state_dir / BACKUPS):
        if path.is_dir():
            kind = "backup" if is_backup(path) else "draft"
            found += _item(state_dir, kind, path.relative_to(state_dir), [path], now_s)
    for path in sorted((state_dir / "folds").glob("*/*.safetensors")):
        found += _item(state_dir, "fold", path.relative_to(state_dir), [path], now_s)
    for path in sorted((state_dir / "run").glob(CHECKPOINTS)):
        found += _item(state_dir, "checkpoint", path.relative_to(state_dir), [path], now_s)
    for path in _temporaries(state_dir):
        found += _item(state_dir, "temporary", path.relative_to(state_dir), [path], now_s)
    return found


def disks(state_dir: Path, *, below: frozenset[str]) -> list[Disk]:
    """The file systems in use, the state directory's own first. below: names of those last seen below their floor."""
    found: dict[int, Disk] = {}
    for name in DIRECTORIES:
        path = state_dir / name
        with contextlib.suppress(FileNotFoundError):
            disk = path.stat().st_dev
            if disk in found:
                continue
            usage, reserve = shutil.disk_usage(path), path / RESERVE
            found[disk] = Disk(
                disk=disk, name=name, free_bytes=usage.free, total_bytes=usage.total, was_below=name in below,
                reserve_bytes=reserve.stat().st_size if reserve.exists() else 0, for_trials=name in TRIAL_DIRECTORIES,
            )  # fmt: skip
    return list(found.values())


def size_bytes(path: Path) -> int:
    """What deleting it would give back: blocks, not length."""
    if not path.is_dir():
        return path.lstat().st_blocks * 512
    return sum(size_bytes(Path(p) / f) for p, _, files in os.walk(path) for f in files)


def _item(state_dir: Path, kind: Kind, name: Path, paths: Sequence[Path], now_s: float) -> Iterator[Item]:
    with contextlib.suppress(FileNotFoundError):  # renamed meanwhile: the next pass sees what it became
        status = [p.stat() for p in paths]
        yield Item(
            kind=kind, name=str(name), files=tuple(str(p.relative_to(state_dir)) for p in paths),
            size_bytes=sum(size_bytes(p) for p in paths), age_s=now_s - max(s.st_mtime for s in status),
            disk=status[0].st_dev,
        )  # fmt: skip


def _documents(state_dir: Path, kind: Kind, folder: str, now_s: float) -> Iterator[Item]:
    """One item per document, whatever its forms (.md, .html, .txt, .json). `latest` is a pointer, not a document."""
    stems: dict[str, list[Path]] = {}
    for path in _entries(state_dir / folder):
        if path.suffix in (".md", ".html", ".txt", ".json") and path.stem != "latest" and not path.name.startswith("."):
            stems.setdefault(path.stem, []).append(path)
    for stem, paths in sorted(stems.items()):
        yield from _item(state_dir, kind, Path(folder) / stem, sorted(paths), now_s)


def _temporaries(state_dir: Path) -> Iterator[Path]:
    """Leftovers of interrupted replacements, anywhere but where whole directories are the items."""
    skipped = {state_dir / "artifacts", state_dir / BACKUPS}
    for folder, folders, files in os.walk(state_dir):
        here = Path(folder)
        folders[:] = [f for f in folders if here / f not in skipped]
        yield from (here / f for f in files if _TEMPORARY.match(f))


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
