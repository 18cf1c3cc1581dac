"""One process per child name: the lock is taken by the supervisor and inherited, or taken here when there is none.

The lock lives in the open file that both share, so it is held exactly as long as the child, or anything the child
started, lives: a successor can never start a second one beside a survivor.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from features.files import AlreadyRunning, Lock

FD_VARIABLE = "CAPPUCCINO_LOCK_FD"


@contextlib.contextmanager
def sole(path: Path) -> Iterator[None]:
    """Hold the lock at `path` inside the block. Raises AlreadyRunning when another process does."""
    text = os.environ.pop(FD_VARIABLE, "")
    if not text:
        with Lock(path):
            yield
        return
    handle = int(text)
    given, wanted = os.fstat(handle), path.stat()
    if (given.st_dev, given.st_ino) != (wanted.st_dev, wanted.st_ino):
        raise AlreadyRunning(f"the lock this process inherited is not {path}", hint="restart the daemon")
    yield  # the descriptor stays open until the process ends: nothing after this block may run beside a successor
