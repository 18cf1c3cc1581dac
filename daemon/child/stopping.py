"""How a child learns that it shall stop, and how it dies when its supervisor does."""

import ctypes
import os
import signal
import threading
from types import FrameType

_PR_SET_PDEATHSIG = 1
PARENT_VARIABLE = "CAPPUCCINO_SUPERVISOR_PID"


class StopRequest:
    """SIGTERM or SIGINT asks for a stop; a second one ends the process at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        die_with_parent()

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Sleep up to `timeout_s`; True as soon as a stop is asked for."""
        return self._event.wait(timeout_s)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self._event.is_set():
            os._exit(128 + number)
        self._event.set()


def die_with_parent() -> None:
    """SIGKILL this process when the supervisor that started it dies; nothing to do without one."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None:
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):  # it died before the request took effect
        os._exit(1)
