"""Starting, hearing and ending child processes: the doing half of `daemon.lifecycle`."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from daemon.child import launch
from daemon.child.locks import FD_VARIABLE as LOCK_VARIABLE
from daemon.child.progress import FD_VARIABLE as PROGRESS_VARIABLE
from daemon.lifecycle import ChildSpec, Kind, What

LAST_OUTPUT_BYTES = 65_536
_SIGNALS = {"term": signal.SIGTERM, "abort": signal.SIGABRT, "kill": signal.SIGKILL}
_KEPT_FROM_CHILDREN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Large arrays lie in pages of 2 MB where the kernel leaves that to who asks (docs/decisions.md).
LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@dataclass(slots=True, kw_only=True)
class Process:
    """A running child. pidfd becomes readable when it dies; progress_fd carries its beats; lifeline ends it with us.

    output_fd reads the file its standard output and error go to; what it writes begins at output_from.
    """

    name: str
    popen: subprocess.Popen[bytes]
    pidfd: int
    progress_fd: int
    lifeline_fd: int
    output_fd: int
    output_from: int
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

    def rss_bytes(self) -> int:
        """Resident memory now; 0 for a process that is gone."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES
        return 0

    def last_output(self) -> bytes:
        """The end of what this process wrote to standard output and error, stack dumps included: its last words."""
        size = os.fstat(self.output_fd).st_size
        ours_from = self.output_from if self.output_from <= size else 0  # the janitor has emptied it since
        start = max(ours_from, size - LAST_OUTPUT_BYTES)
        return os.pread(self.output_fd, size - start, start)

    def reap(self) -> int:
        """Exit status, negative for a signal; closes the descriptors. The child must be dead or dying."""
        code = self.popen.wait()
        for handle in (self.pidfd, self.progress_fd, self.lifeline_fd, self.output_fd):
            os.close(handle)
        return code


def spawn(spec: ChildSpec, state_dir: Path) -> Process:
    """Start the child in its own session, leashed and limited (`daemon.child.launch`). Raises OSError.

    Its output goes straight to `logs/<name>.out`, so that it neither waits for the supervisor nor is lost with either;
    it inherits the lock `run/<name>.lock`. Must be called from the main thread, which PDEATHSIG is tied to.
    """
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as failed:
        lock = _lock(state_dir / "run" / f"{spec.name}.lock")
        theirs.callback(os.close, lock)
        progress_fd, their_progress = _pipe(theirs, failed, keep="read")
        lifeline_fd, their_lifeline = _pipe(theirs, failed, keep="write")
        os.set_blocking(progress_fd, False)
        output_fd = _output(state_dir / "logs" / f"{spec.name}.out")
        failed.callback(os.close, output_fd)
        output_from = os.fstat(output_fd).st_size
        leash = {**asdict(spec.limits), "parent": os.getpid(), "lifeline": their_lifeline}
        popen = subprocess.Popen(
            [sys.executable, "-I", "-S", launch.__file__, json.dumps(leash), *spec.command], stdin=subprocess.DEVNULL,
            stdout=output_fd, stderr=output_fd, pass_fds=(their_progress, their_lifeline, lock),
            start_new_session=True, env=_environment(spec.kind, their_progress, lock),
        )  # fmt: skip
        pidfd = os.pidfd_open(popen.pid)
        failed.pop_all()
    return Process(
        name=spec.name, popen=popen, pidfd=pidfd, progress_fd=progress_fd, lifeline_fd=lifeline_fd, output_fd=output_fd,
        output_from=output_from,
    )  # fmt: skip


def send(process: Process, what: What) -> None:
    """Signal the child's whole process group; "finish" concerns the child alone."""
    with contextlib.suppress(ProcessLookupError):
        if what == "finish":
            signal.pidfd_send_signal(process.pidfd, signal.SIGUSR1)
            return
        os.killpg(process.pid, _SIGNALS[what])
        if what != "kill":
            # CONT after TERM or ABRT: a stopped process cannot act on a pending signal
            os.killpg(process.pid, signal.SIGCONT)


def python_module(module: str, *arguments: str) -> tuple[str, ...]:
    """A child's command: -P keeps the working directory from shadowing the installed packages."""
    return (sys.executable, "-P", "-X", "faulthandler", "-m", module, *arguments)


def _pipe(theirs: contextlib.ExitStack, failed: contextlib.ExitStack, *, keep: str) -> tuple[int, int]:
    """(our end, the child's end): ours is closed only if the start fails, the child's in any case."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    ours, other = (read_fd, write_fd) if keep == "read" else (write_fd, read_fd)
    failed.callback(os.close, ours)
    theirs.callback(os.close, other)
    return ours, other


def _lock(path: Path) -> int:
    """The child's lock, taken for it. OSError when a process that should be gone still holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise OSError(error.errno, f"{path.name} is held by another process: never two of a name") from error
    return handle


def _output(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _environment(kind: Kind, progress_fd: int, lock_fd: int) -> Mapping[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in _KEPT_FROM_CHILDREN}
    if kind == "worker":
        kept = LARGE_PAGES | kept
    return {**kept, PROGRESS_VARIABLE: str(progress_fd), LOCK_VARIABLE: str(lock_fd), "PYTHONUNBUFFERED": "1"}
