"""How a child learns that it shall stop: now (SIGTERM, SIGINT), or after the present piece of work (SIGUSR1)."""

import os
import select
import signal
from types import FrameType


class StopRequest:
    """SIGTERM or SIGINT asks for a stop; a second one ends the process at once. SIGUSR1 asks it to finish.

    Plain flags and a pipe: a handler that took a lock could wait for the very code it has interrupted.
    """

    def __init__(self) -> None:
        self._stop = self._finish = False
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        signal.signal(signal.SIGUSR1, self._ask_to_finish)

    @property
    def requested(self) -> bool:
        return self._stop

    @property
    def finish_requested(self) -> bool:
        """The present piece of work is to be the last one. True as well once a stop is asked for."""
        return self._finish or self._stop

    def wait(self, timeout_s: float) -> bool:
        """Sleep up to `timeout_s`; True as soon as a stop is asked for."""
        if not self._stop:
            select.select([self._woken], [], [], timeout_s)
        return self._stop

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self._stop:
            os._exit(128 + number)
        self._stop = True
        os.write(self._wake, b"x")

    def _ask_to_finish(self, _number: int, _frame: FrameType | None) -> None:
        self._finish = True
