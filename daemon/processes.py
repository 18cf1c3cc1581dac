"""Starting, watching and ending child processes: the doing half of `daemon.lifecycle`."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from daemon.child.progress import FD_VARIABLE
from daemon.child.stopping import PARENT_VARIABLE
from features.files import write_atomic

LAST_OUTPUT_BYTES = 65_536
_SIGNALS = {"term": signal.SIGTERM, "abort": signal.SIGABRT, "kill": signal.SIGKILL}


@dataclass(slots=True, kw_only=True)
class Process:
    """A running child. pidfd becomes readable when it dies; progress_fd carries its beats."""

    name: str
    popen: subprocess.Popen[bytes]
    pidfd: int
    progress_fd: int
    output: Path
    torn: bytes = field(default=b"")

    @property
    def pid(self) -> int:
        return self.popen.pid

    def beats(self) -> Iterator[dict[str, Any]]:
        """Whole lines waiting on the progress pipe; a line that is not JSON is skipped, as the child is then dying."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.progress_fd, 65_536):
                *lines, self.torn = (self.torn + data).split(b"\n")
                for line in lines:
                    with contextlib.suppress(ValueError):
                        yield json.loads(line)

    def at_end(self) -> bool:
        """Whether the child closed its end of the progress pipe. Call after `beats`."""
        try:
            return os.read(self.progress_fd, 1) == b""
        except BlockingIOError:
            return False

    def reap(self) -> int:
        """Exit status, negative for a signal; closes the descriptors. The child must be dead or dying."""
        code = self.popen.wait()
        os.close(self.pidfd)
        os.close(self.progress_fd)
        return code

    def last_output(self) -> str:
        """The end of what it wrote to standard output and error: its last words."""
        with contextlib.suppress(OSError), self.output.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_OUTPUT_BYTES))
            return file.read().decode(errors="replace")
        return ""


def spawn(name: str, command: tuple[str, ...], *, logs: Path) -> Process:
    """Start `command` in its own session, with a progress pipe; output goes to `logs/<name>.out`.

    Must be called from the main thread: PDEATHSIG fires when the spawning thread ends. Raises OSError.
    """
    logs.mkdir(parents=True, exist_ok=True)
    output = logs / f"{name}.out"
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read_fd, False)
    try:
        with output.open("ab") as file:
            popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, pass_fds=(write_fd,),
                start_new_session=True, env=_environment(write_fd),
            )  # fmt: skip
    except OSError:
        os.close(read_fd)
        raise
    finally:
        os.close(write_fd)
    return Process(name=name, popen=popen, pidfd=os.pidfd_open(popen.pid), progress_fd=read_fd, output=output)


def send(process: Process, what: Literal["term", "abort", "kill"]) -> None:
    """Signal the child's whole process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, _SIGNALS[what])
        if what == "term":
            # CONT after TERM: a stopped process cannot act on a pending signal
            os.killpg(process.pid, signal.SIGCONT)


def python_module(module: str, *arguments: str) -> tuple[str, ...]:
    """A child's command: -P keeps the working directory from shadowing the installed packages."""
    return (sys.executable, "-P", "-X", "faulthandler", "-m", module, *arguments)


def _environment(progress_fd: int) -> Mapping[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")}
    return {**kept, FD_VARIABLE: str(progress_fd), PARENT_VARIABLE: str(os.getpid()), "PYTHONUNBUFFERED": "1"}


def remember(path: Path, processes: Mapping[str, Process]) -> None:
    """Write down who runs, so that a successor can prove which leftovers are ours."""
    records = {}
    for name, process in processes.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            records[name] = {"pid": process.pid, "started": psutil.Process(process.pid).create_time()}
    write_atomic(path, json.dumps({"boot_id": _boot_id(), "children": records}).encode())


def kill_leftovers(path: Path) -> list[str]:
    """SIGKILL children of a dead supervisor: same boot, same pid, same start time. Returns their names."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return []
    killed = []
    if record["boot_id"] == _boot_id():
        for name, child in record["children"].items():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                process = psutil.Process(child["pid"])
                if abs(process.create_time() - child["started"]) < 0.05 and process.status() != psutil.STATUS_ZOMBIE:
                    os.killpg(child["pid"], signal.SIGKILL)
                    process.wait(timeout=5)
                    killed.append(name)
    return killed


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
