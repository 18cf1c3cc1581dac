"""The file at the end of the log pipeline: one write() per record, safe to rename, honest about what did not fit.

Writers on the same file never mix their lines, because each record is one write() on a file opened for appending.
Rotation is a rename by somebody else: before each record the path is looked at, and another file there is opened.
A full disk loses records, never silently: they are counted, and the first record that fits again is preceded by
`log.dropped` with the number.
"""

import contextlib
import json
import logging
import os
import sys
from pathlib import Path


class RecordFile(logging.Handler):
    """Appends formatted records, one line each, to `path`."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._handle: int | None = None
        self._identity = (0, 0)  # device and inode of the open file
        self._torn = False  # whether the file ends in a part of a record of ours
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001  a record that cannot be rendered must not end the program that logs it
            self.handleError(record)
            return
        try:
            self._reopen_if_moved()
            if self.dropped:
                self._append(_dropped_notice(line, self.dropped))
                self.dropped = 0
            self._append(line)
        except OSError:  # no room, or the directory is gone: counted, and told with the next record that fits
            self.dropped += 1

    def close(self) -> None:
        with self.lock or contextlib.nullcontext():
            self._close_handle()
            if self.dropped:
                sys.stderr.write(f"{self.dropped} log records did not fit into {self._path}\n")
                self.dropped = 0
        super().close()

    def _append(self, line: str) -> None:
        """Raises OSError when the line is not in the file as a whole."""
        assert self._handle is not None
        data = (b"\n" if self._torn else b"") + line.encode("utf-8", "backslashreplace") + b"\n"
        taken = os.write(self._handle, data)
        self._torn = taken < len(data) and (taken > 0 or self._torn)
        if taken < len(data):
            raise OSError("the disk took only a part of the record")

    def _reopen_if_moved(self) -> None:
        if self._handle is not None:
            with contextlib.suppress(FileNotFoundError):
                there = self._path.stat()
                if (there.st_dev, there.st_ino) == self._identity:
                    return
            self._close_handle()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        opened = os.fstat(self._handle)
        self._identity, self._torn = (opened.st_dev, opened.st_ino), False

    def _close_handle(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _dropped_notice(next_line: str, dropped: int) -> str:
    """`log.dropped` with the labels of the record that follows it."""
    labels = json.loads(next_line)
    kept = {k: labels[k] for k in ("ts", "mono", "component", "child", "pid", "schema", "run_id") if k in labels}
    return json.dumps({**kept, "level": "warning", "event": "log.dropped", "dropped": dropped})
