"""paper/status.json: a picture of the trader for others, drawn a few times a second at most."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from daemon.child.clock import Clock
from features.files import disk_full, publish

EVERY_S = 0.2


class Picture:
    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock, self._due_s = path, clock, 0.0

    def write(self, record: Callable[[], Mapping[str, Any]], *, force: bool = False) -> None:
        now_s = self._clock.monotonic_s()
        if not force and now_s < self._due_s:
            return
        self._due_s = now_s + EVERY_S
        try:
            publish(self._path, json.dumps(record()).encode())
        except OSError as error:  # the journal is what counts, and it is asked next
            if not disk_full(error):
                raise
