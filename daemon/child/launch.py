"""The last step before a child's program: limits, and the two leashes that end it with its supervisor.

Run by path as `python -I -S launch.py JSON COMMAND…` between fork and exec, so that the supervisor needs no code of its
own between the two (which a thread's lock could hang) and every program is held alike, whatever it imports.

* PDEATHSIG: SIGKILL for this process when the thread that spawned it ends. It survives exec.
* The lifeline: a pipe whose only writer is the supervisor. When that end closes, the kernel itself sends SIGKILL to the
  whole process group (fcntl(2): F_SETOWN with a group, F_SETSIG, O_ASYNC), grandchildren included.
"""

import ctypes
import fcntl
import json
import os
import resource
import signal
import sys
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
EXIT_CONFIGURATION = 78  # that of daemon.child.exits, which `-I -S` keeps out of reach
EXIT_NOT_FOUND = 127


def main(argv: list[str]) -> NoReturn:
    """argv: the leash and limits as JSON (`parent`, `lifeline`, `nofile`, `nice`, `oom_score_adj`, `cpus`), the command."""
    given, command = json.loads(argv[0]), argv[1:]
    _leash(given["parent"], given["lifeline"])
    try:
        _limit(given)
    except (OSError, ValueError) as error:
        _end(f"cannot apply the limits {argv[0]}: {error}", EXIT_CONFIGURATION)
    try:
        os.execv(command[0], command)  # noqa: S606  no shell is wanted
    except OSError as error:
        _end(f"cannot run {command[0]}: {error}", EXIT_NOT_FOUND)


def _leash(parent: int, lifeline: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, int(signal.SIGKILL))
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if os.getppid() != parent:  # it died before either leash was on
        os._exit(1)


def _limit(given: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = given["nofile"] if hard == resource.RLIM_INFINITY else min(given["nofile"], hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if given["nice"]:
        os.nice(given["nice"])
    if given["oom_score_adj"]:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123  pathlib would double the start-up time
            file.write(str(given["oom_score_adj"]))
    if given["cpus"]:
        os.sched_setaffinity(0, given["cpus"])


def _end(text: str, code: int) -> NoReturn:
    sys.stderr.write(f"launch: {text}\n")
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
