"""Back to a backup: the present files move aside, nothing is overwritten, and no trial becomes untried."""

import contextlib
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from daemon.child.clock import Clock
from daemon.janitor.backup import LEDGERS, Backup, backup_folders, load, place, verify
from features.errors import CappuccinoError, DataError
from features.files import AlreadyRunning, Lock, read_jsonl

ASIDE = "aside"
HISTORY = "supervisor.db"
_BESIDE = ("", "-wal", "-shm", "-journal")  # what SQLite keeps beside a database belongs to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """placed: files that came from the backup; kept: ledgers that know more than it; aside: where the present ones are."""

    backup: str
    placed: tuple[str, ...]
    kept: tuple[str, ...]
    trials_aside: tuple[str, ...]
    aside: str


def restore(state_dir: Path, name: str, clock: Clock) -> Restored:
    """Put the backup back (the newest when `name` is empty) while nothing else runs on the state directory."""
    backup = _named(state_dir, name)
    with contextlib.ExitStack() as stack:
        _alone(state_dir, stack)
        verify(backup)
        aside = state_dir / ASIDE / f"{clock.now_utc():%Y%m%dT%H%M%SZ}"
        placed, kept = [], []
        for file in backup.files:
            if file in LEDGERS and _continues(state_dir / file, backup.folder / file):
                kept.append(file)
                continue
            for present in _with_what_belongs_to_it(file):
                _move_aside(state_dir, present, aside)
            place(backup, file, state_dir)
            placed.append(file)
        if HISTORY in placed:
            _end_its_run(state_dir / HISTORY, at_utc=clock.now_utc().isoformat())
        trials = _later_trials(state_dir, backup) if "study.db" in placed else []
        for trial in trials:
            _move_aside(state_dir, trial, aside)
    return Restored(
        backup=backup.name, placed=tuple(placed), kept=tuple(kept), trials_aside=tuple(trials), aside=str(aside)
    )


def _end_its_run(history: Path, *, at_utc: str) -> None:
    """The backup was made while the daemon ran, and that run has been stopped since: it did not crash.

    So what was paused or given up that night is not taken over.
    """
    with contextlib.closing(sqlite3.connect(history)) as db, db:
        db.execute("UPDATE runs SET ended_utc = ? WHERE ended_utc IS NULL", (at_utc,))


def _named(state_dir: Path, name: str) -> Backup:
    found = {folder.name: folder for folder in backup_folders(state_dir)}
    if not found:
        raise CappuccinoError(f"there is no backup in {state_dir}", hint="cappuccinoctl backup makes one")
    if name and name not in found:
        raise CappuccinoError(f"no backup is called {name!r}", hint=f"known: {', '.join(found)}")
    return load(found[name or max(found)])


def _alone(state_dir: Path, stack: contextlib.ExitStack) -> None:
    """Hold the lock of every program that writes; whoever starts meanwhile is refused by it."""
    names = {"supervisor", "paper_trader", "janitor", "judge", "housekeeping", "advice", "champion"}
    names |= {p.stem for p in (state_dir / "run").glob("*.lock") if "worker" in p.stem or "foreground" in p.stem}
    for name in sorted(names):
        try:
            stack.enter_context(Lock(state_dir / "run" / f"{name}.lock"))
        except AlreadyRunning as error:
            raise AlreadyRunning(f"{name} is running", hint="cappuccinoctl stop, then restore") from error


def _continues(present: Path, backed_up: Path) -> bool:
    """Whether the present ledger is whole and begins with what the backup holds.

    Then it stays: what was tried since has been tried, and every later verdict must go on paying for it.
    """
    try:
        return present.exists() and read_jsonl(present)[: len(old := read_jsonl(backed_up))] == old
    except DataError:
        return False


def _later_trials(state_dir: Path, backup: Backup) -> list[str]:
    """Records of trials that the restored study does not know: it would give their numbers to others."""
    paths = (p.parent for p in (state_dir / "trials").glob("*/*/trial.json"))
    later = [p for p in paths if int(p.name) not in backup.trials.get(p.parent.name, ())]
    return sorted(str(p.relative_to(state_dir)) for p in later)


def _with_what_belongs_to_it(file: str) -> tuple[str, ...]:
    """A database's side files; a ledger's head, which says how long the present one is and is written anew."""
    if file.endswith(".db"):
        return tuple(f"{file}{suffix}" for suffix in _BESIDE)
    return (file, str(Path(file).with_suffix(".head"))) if file in LEDGERS else (file,)


def _move_aside(state_dir: Path, name: str, aside: Path) -> None:
    present = state_dir / name
    if present.exists():
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(present, aside / name)
