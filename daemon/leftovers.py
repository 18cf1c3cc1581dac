"""Who runs, written down, so that a successor can prove which processes a dead supervisor left behind, and end them.

A pid on disk proves nothing by itself: the number may belong to somebody else by now. Pid, start time and boot id
together name one process for ever. Leftovers are killed, never adopted: nobody hears their beats any more.
"""

import contextlib
import json
import os
import select
import signal
from collections.abc import Mapping
from pathlib import Path

from features.files import publish

WAIT_S = 5.0


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """Clock ticks from boot to the start of the process; None when it is gone, a zombie included."""
    try:
        # the name in parentheses may itself hold spaces and parentheses
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def remember(path: Path, pids: Mapping[str, int]) -> None:
    """Not synced: after a power cut the boot id is another one anyway."""
    children = {name: {"pid": pid, "started": start_ticks(pid)} for name, pid in pids.items()}
    publish(path, json.dumps({"boot_id": boot_id(), "children": children}).encode())


def kill_leftovers(path: Path) -> list[str]:
    """SIGKILL what is proven ours, with its whole process group, and wait for its end. Returns the names."""
    try:
        record = json.loads(path.read_bytes())
        if record["boot_id"] != boot_id():
            return []
        children = record["children"].items()
    except (OSError, ValueError, KeyError, AttributeError):  # none, or torn by a full disk: nothing can be proven
        return []
    return [name for name, child in children if _kill(child["pid"], child["started"])]


def _kill(pid: int, started: int | None) -> bool:
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            # the descriptor is opened first: from here on the number cannot come to mean another process unseen
            if started is None or start_ticks(pid) != started:
                return False
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], WAIT_S)
            return True
        finally:
            os.close(handle)
    return False
