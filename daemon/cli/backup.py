"""`cappuccinoctl backup|restore`: copies of what cannot be computed again, and the way back to one of them."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from daemon.child.clock import SystemClock
from daemon.cli import parser
from daemon.cli.common import configuration, require_begun
from daemon.janitor.backup import Backup, backup_folders, load, make_backup, verify
from daemon.janitor.restore import restore
from features.errors import DataError
from features.files import Lock


def main(verb: str, argv: list[str]) -> int:
    options = parser(verb, __doc__)
    if verb == "backup":
        options.add_argument("--list", action="store_true", dest="listing", help="those there are, each tested again")
    else:
        options.add_argument(
            "name", nargs="?", default="", help="as `backup --list` shows it; the newest when left out"
        )
    arguments = options.parse_args(argv)
    state_dir = arguments.state_dir or configuration(arguments)[1]
    require_begun(state_dir)
    return _restore(state_dir, arguments) if verb == "restore" else _backup(state_dir, arguments)


def _backup(state_dir: Path, arguments: argparse.Namespace) -> int:
    found, damaged = [], {}
    if arguments.listing:
        for folder in backup_folders(state_dir):
            try:
                verify(backup := load(folder))
                found.append(backup)
            except DataError as error:
                damaged[folder.name] = str(error)
    else:
        with Lock(state_dir / "run" / "housekeeping.lock", wait=True):
            found = [make_backup(state_dir, SystemClock())]
    if arguments.json:
        print(json.dumps({"backups": [_record(b) for b in found], "damaged": damaged}))
    else:
        print("\n".join([*(_line(b) for b in found), *damaged.values()]) or "no backup yet")
    return 1 if damaged else 0


def _restore(state_dir: Path, arguments: argparse.Namespace) -> int:
    done = restore(state_dir, arguments.name, SystemClock())
    if arguments.json:
        print(json.dumps(asdict(done)))
        return 0
    print(f"restored {', '.join(done.placed)} of backup {done.backup}")
    if done.kept:
        print(f"kept {', '.join(done.kept)}: what was tried since has been tried")
    if done.trials_aside:
        print(f"{len(done.trials_aside)} later trials moved aside with what was there before")
    print(f"what was there before: {done.aside}")
    return 0


def _record(backup: Backup) -> dict[str, object]:
    return {**asdict(backup), "folder": str(backup.folder), "size_bytes": backup.size_bytes}


def _line(backup: Backup) -> str:
    rows = sum(sum(f["rows"].values()) for f in backup.files.values())
    names = ", ".join(backup.files)
    return f"{backup.name}  {backup.size_bytes / 1e6:.2f} MB, {rows} rows, restored on trial: {names}"
