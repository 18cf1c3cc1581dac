"""Reads the log files of all programs as they grow: every line once, across rotation and across restarts of the reader."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import DataError
from features.files import disk_full, read_json, write_atomic

ROTATIONS = 9  # older generations that are searched for the file that was being read
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far a file was read. inode: of the file, whatever it is called by now."""

    inode: int
    offset: int


class LogFollower:
    """All `*.jsonl` in one folder, from where the predecessor stopped reading; else from the beginning."""

    def __init__(self, logs: Path, memory: Path) -> None:
        self._logs, self._memory = logs, memory
        self.is_first = not memory.exists()
        self.lost_place = False  # whether a file is read from its beginning again
        self._places = self._recalled()

    def new(self) -> Iterator[dict[str, Any]]:
        """Records that were written since the last call. A line that is not JSON is skipped."""
        for path in self._files():
            for generation in self._unread(path):
                yield from self._rest(path.name, generation)

    def remember(self) -> None:
        """Write down how far everything was read, for a successor. One that a full disk left without hears some twice."""
        record = {name: {"inode": p.inode, "offset": p.offset} for name, p in self._places.items()}
        try:
            write_atomic(self._memory, json.dumps(record).encode())
        except OSError as error:
            if not disk_full(error):
                raise

    def _files(self) -> list[Path]:
        return sorted(self._logs.glob("*.jsonl"))

    def _recalled(self) -> dict[str, Place]:
        try:
            return {n: Place(inode=p["inode"], offset=p["offset"]) for n, p in read_json(self._memory).items()}
        except (DataError, KeyError, TypeError, AttributeError):
            return {}

    def _unread(self, path: Path) -> Iterator[Path]:
        """The file that was being read, under its present name, and those that came after it; oldest first."""
        place = self._places.get(path.name)
        names = [path, *(path.with_name(f"{path.name}.{n}") for n in range(1, ROTATIONS + 1))]
        chain = []
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                inode = name.stat().st_ino
                chain.append(name)
                if place is None or inode == place.inode:
                    break
        else:
            chain = chain[:1]  # what was being read is gone: go on with the newest
        yield from reversed(chain if place is not None else chain[:1])

    def _rest(self, key: str, path: Path) -> Iterator[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            known = self._places.get(key)
            offset = known.offset if known is not None and known.inode == inode else 0
            if offset and os.pread(file.fileno(), 1, offset - 1) != b"\n":
                # A power cut took lines that had been read: the file ends before this place, or others stand there now.
                offset, self.lost_place = 0, True
            file.seek(offset)
            while data := file.read(CHUNK_BYTES):
                whole = data.rfind(b"\n") + 1
                if whole == 0:
                    break
                offset += whole
                for line in data[:whole].splitlines():
                    with contextlib.suppress(ValueError):
                        record = json.loads(line)
                        if isinstance(record, dict):
                            yield record
                file.seek(offset)
            self._places[key] = Place(inode=inode, offset=offset)
