"""When the next backup is due. Wall time says how old the last one is, once; from then on monotonic time decides."""

from datetime import datetime
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from daemon.child.clock import Clock
from daemon.janitor.backup import backups, make_backup, needed_bytes
from features.errors import CappuccinoError

RETRY_S = 3600.0  # after a failed one
FIRST_S = 600.0  # after the start of a service that has none: by then there is something to lose


def first_wait_s(age_s: float | None, every_s: float) -> float:
    """Seconds until the first backup of this process, given the last one's age. A clock that was set postpones it by

    `every_s` at most.

    >>> first_wait_s(None, 1e5), first_wait_s(3e4, 1e5), first_wait_s(-1e9, 1e5), first_wait_s(1e9, 1e5)
    (600.0, 70000.0, 100000.0, 0.0)
    """
    return min(every_s, FIRST_S if age_s is None else max(0.0, every_s - age_s))


class Nightly:
    """Makes a backup whenever one is due; a failure is logged and tried again, the others stay."""

    def __init__(self, *, every_s: float, state_dir: Path, clock: Clock, log: FilteringBoundLogger) -> None:
        self._every_s, self._state_dir, self._clock, self._log = every_s, state_dir, clock, log
        made = backups(state_dir)
        age_s = (clock.now_utc() - datetime.fromisoformat(made[-1].made_utc)).total_seconds() if made else None
        self._due_s = clock.monotonic_s() + first_wait_s(age_s, every_s)

    def back_up_if_due(self) -> bool:
        """Whether one was made."""
        if self._clock.monotonic_s() < self._due_s or not needed_bytes(self._state_dir):
            return False
        began_s = self._clock.monotonic_s()
        try:
            made = make_backup(self._state_dir, self._clock)
        except (CappuccinoError, OSError) as error:
            self._log.error("janitor.backup_failed", reason=str(error))
            self._due_s = self._clock.monotonic_s() + RETRY_S
            return False
        self._due_s = began_s + self._every_s
        self._log.info(
            "janitor.backed_up", backup=made.name, files=len(made.files), bytes=made.size_bytes,
            seconds=round(self._clock.monotonic_s() - began_s, 2),
        )  # fmt: skip
        return True
