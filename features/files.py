"""Files that survive a crash: replaced as one step, append-only records with a checksum, and locks."""

import contextlib
import errno
import fcntl
import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from features.errors import CappuccinoError, DataError

# what SQLite says when it cannot write its file, or cannot grow the shared memory beside its write-ahead log
_SQLITE_FULL = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"})


class AlreadyRunning(CappuccinoError):
    """Another process holds the lock."""


def write_atomic(path: Path, data: bytes, *, crash_point: Callable[[str], None] = lambda _: None) -> None:
    """Replace `path` as one step: a reader sees the old bytes or the new ones, also after a power cut.

    `crash_point` is called after every step that reaches the disk; tests die there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            crash_point("draft written")
            os.fsync(file.fileno())
            crash_point("draft synced")
        draft.replace(path)
        crash_point("draft renamed")
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def publish(path: Path, data: bytes) -> None:
    """Replace a small file that others read now: as one step, not forced to disk, so that no loop waits for one.

    A reader sees the old bytes or the new; a power cut may lose the newest. The draft has one name, for a file has one
    writer: what a killed one leaves, its successor takes. Raises OSError, on a full disk too.
    """
    draft = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Make creations, renames and removals in the directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """The parsed file; DataError naming it when it is missing or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def append_jsonl(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record with its checksum, durably. A torn tail left by a crash is cut off first.

    Callers that share a file across processes hold a lock around this.
    """
    body = json.dumps(record, sort_keys=True, separators=(",", ":"))
    line = json.dumps({**record, "crc": zlib.crc32(body.encode())}, sort_keys=True, separators=(",", ":")) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        size = os.lseek(handle, 0, os.SEEK_END)
        os.ftruncate(handle, whole := _whole_length(handle, size))
        try:
            _write_all(handle, line.encode(), whole)
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, whole)  # a full disk may have taken the first half of the line
            raise
    finally:
        os.close(handle)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Every record, checksums checked and removed. A torn last line is ignored; any other bad line is a DataError."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline was never finished
        try:
            record = json.loads(line)
            crc = record.pop("crc")
        except (ValueError, KeyError, AttributeError) as error:
            raise DataError(f"{path}: line {number} is damaged") from error
        if crc != zlib.crc32(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()):
            raise DataError(f"{path}: line {number} does not match its checksum")
        records.append(record)
    return records


def read_only_uri(database: Path) -> str:
    """For `sqlite3.connect(…, uri=True)`: the database is opened and never written to, whatever its path is spelt with."""
    return f"{database.absolute().as_uri()}?mode=ro"


def disk_full(error: BaseException | None) -> bool:
    """Whether the error, or what caused it, says that the disk is full or a quota used up."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "") in _SQLITE_FULL:
            return True
        error = error.__cause__
    return False


def _write_all(handle: int, data: bytes, offset: int) -> None:
    """Write everything at `offset`: on a nearly full disk one call takes a part and reports no error."""
    while data:
        taken = os.pwrite(handle, data, offset)
        data, offset = data[taken:], offset + taken


def _whole_length(handle: int, size: int) -> int:
    """Length up to and including the last newline."""
    end, step = size, 65_536
    while end > 0:
        start = max(0, end - step)
        found = os.pread(handle, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


@contextlib.contextmanager
def held(path: Path, *, pause: Callable[[], None]) -> Iterator[None]:
    """Hold the lock, calling `pause` again and again while another process does: a waiting child is seen alive."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(Lock(path))
                break
            except AlreadyRunning:
                pause()
        yield


class Lock:
    """An advisory lock held by an open file: the kernel frees it when the holder dies, however it dies.

    `wait=False` raises AlreadyRunning at once; `wait=True` blocks.
    """

    def __init__(self, path: Path, *, wait: bool = False) -> None:
        self._path, self._wait = path, wait
        self._handle: int | None = None

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if self._wait else fcntl.LOCK_NB))
        except OSError as error:
            os.close(handle)
            raise AlreadyRunning(
                f"{self._path.name} is held by another process", hint="cappuccinoctl status shows what runs"
            ) from error
        self._handle = handle
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def is_held(self) -> bool:
        """Whether some process holds it now."""
        if not self._path.exists():
            return False
        handle = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
            return True
        finally:
            os.close(handle)
