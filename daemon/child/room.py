"""Room on the disk: the error that says there is none, and the file that is given up for some."""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from features.errors import CappuccinoError
from features.files import disk_full

TRIAL_DIRECTORIES = (".", "artifacts", "trials")  # where a running trial writes; each may be a mount of its own
RESERVE = "reserve"  # the janitor keeps one on every file system in use


class NoRoom(CappuccinoError):
    """The disk is full. What could not be written is as it was."""


@contextlib.contextmanager
def needs_room(folder: Path) -> Iterator[None]:
    """Whatever fails inside because the disk of `folder` is full is a NoRoom."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        # SQLite does not say why it could not make the files beside a database
        if disk_full(error) or (isinstance(error, sqlite3.Error) and not shutil.disk_usage(folder).free):
            raise NoRoom(f"the disk of {folder} is full", hint="free space") from error
        raise
