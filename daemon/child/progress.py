"""A child's progress channel: one JSON line per beat on a pipe inherited from the supervisor.

A beat comes from the loop that does the work, never from a helper thread: a thread goes on ticking when the work hangs.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, Self

FD_VARIABLE = "CAPPUCCINO_PROGRESS_FD"
MAX_LINE_BYTES = 4000  # below PIPE_BUF, so a line is written whole or not at all


class Progress:
    """Writes beats; without a supervisor it is silent."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_blocking(fd, False)
            os.set_inheritable(fd, False)

    @classmethod
    def from_environment(cls) -> Self:
        text = os.environ.pop(FD_VARIABLE, "")
        return cls(int(text) if text else None)

    def ready(self) -> None:
        """The child has finished starting."""
        self._send({"ready": True})

    def beat(
        self, *, done: int, total: int | None = None, unit: str = "", note: str = "",
        facts: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """`done` counts units of finished work and must advance while the child is healthy."""
        self._send({"done": done, "total": total, "unit": unit, "note": note, "facts": dict(facts or {})})

    def _send(self, record: Mapping[str, Any]) -> None:
        if self._fd is None:
            return
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        if len(line) > MAX_LINE_BYTES:
            line = json.dumps({k: v for k, v in record.items() if k != "facts"}, separators=(",", ":")).encode() + b"\n"
        try:
            os.write(self._fd, line)
        except BlockingIOError:  # a full pipe means a slow reader; the next beat says the same
            return
        except BrokenPipeError:
            self._fd = None
