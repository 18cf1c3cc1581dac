"""A child that behaves as it is told: `puppet.py BEHAVIOUR [ARGUMENT] STATE_DIR NAME`. Speaks through the real channels."""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from daemon.child.locks import sole
from daemon.child.progress import Progress
from daemon.child.stopping import StopRequest


def main() -> int:
    behaviour, argument, state_dir, name = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    progress = Progress.from_environment()
    with sole(state_dir / "run" / f"{name}.lock"):
        Puppet(progress, StopRequest(), state_dir, name).play(behaviour, argument)
    return 0


class Puppet:
    def __init__(self, progress: Progress, stop: StopRequest, state_dir: Path, name: str) -> None:
        self.progress, self.stop, self.state_dir, self.name, self.done = progress, stop, state_dir, name, 0

    def play(self, behaviour: str, argument: str) -> None:
        if behaviour != "die":  # which is how a program ends that does not get as far as that
            self.progress.ready()
        getattr(self, behaviour.replace("-", "_"))(argument)

    def work(self, every_s: str) -> None:
        """Healthy: beats until told to stop."""
        self.beat()
        while not self.stop.wait(float(every_s or 0.1)):
            self.beat()

    def burn(self, _: str) -> None:
        """Trains: a core for itself, a beat now and then."""
        while not self.stop.requested:
            until_s = time.monotonic() + 0.2
            while time.monotonic() < until_s:
                sum(range(1000))
            self.beat()

    def die(self, code: str) -> None:
        """Ends by itself after its first beat."""
        self.beat()
        print(f"{self.name} ends with {code}", file=sys.stderr, flush=True)
        os._exit(int(code))

    def deadlock(self, _: str) -> None:
        """The work stands still beside a thread that is very much alive."""
        self.beat()
        threading.Thread(target=lambda: [time.sleep(0.05) for _ in range(10**6)], daemon=True).start()
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()

    def hold_gil(self, _: str) -> None:
        """A C call that never gives the interpreter back: no Python code, no handler runs any more."""
        self.beat()
        ctypes.PyDLL(None).sleep(100_000)

    def stubborn(self, _: str) -> None:
        """Works, and ignores SIGTERM."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            self.beat()
            time.sleep(0.1)

    def parent(self, _: str) -> None:
        """Has two children of its own, which ignore SIGTERM; one of them closed every descriptor it inherited."""
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(10000)"
        grandchildren = [subprocess.Popen([sys.executable, "-c", code], close_fds=c) for c in (True, False)]
        (self.state_dir / f"{self.name}.grandchildren").write_text(json.dumps([g.pid for g in grandchildren]))
        self.work("")

    def burst(self, lines: str) -> None:
        """Writes numbered lines as fast as it can; after each, the number into a file that outlives it."""
        counter = os.open(self.state_dir / f"{self.name}.written", os.O_RDWR | os.O_CREAT)
        for n in range(int(lines)):
            os.write(2, b"%s line %07d %s\n" % (self.name.encode(), n, b"x" * 40))
            os.pwrite(counter, b"%07d" % (n + 1), 0)
            if n % 500 == 0:
                self.beat()
        self.work("")

    def hog(self, size: str) -> None:
        """Grows to `size` bytes, then goes on working."""
        kept = bytearray(int(size))
        self.work("")
        assert len(kept) == int(size)

    def fork_bomb(self, _: str) -> None:
        """Makes processes that hear no SIGTERM for as long as the kernel lets it, and never stops trying."""
        while not self.stop.requested:
            try:
                if os.fork() == 0:
                    while True:
                        signal.pause()
            except BlockingIOError:
                self.beat()
                time.sleep(0.005)

    def limits(self, _: str) -> None:
        """Writes down under which limits it runs."""
        record = {
            "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[0], "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
            "nice": os.getpriority(os.PRIO_PROCESS, 0), "cpus": sorted(os.sched_getaffinity(0)),
            "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
        }  # fmt: skip
        (self.state_dir / f"{self.name}.limits").write_text(json.dumps(record))
        self.work("")

    def trials(self, seconds: str) -> None:
        """Trials of a fixed length, each written down when it is complete; stopped in the middle it hands back."""
        log = self.state_dir / "trials.jsonl"
        for n in range(10_000):
            began_s = time.monotonic()
            append(log, {"worker": self.name, "trial": n, "what": "started"})
            while time.monotonic() < began_s + float(seconds):
                self.beat()
                if self.stop.wait(0.05):
                    append(log, {"worker": self.name, "trial": n, "what": "handed back"})
                    return
            append(log, {"worker": self.name, "trial": n, "what": "complete"})
            if self.stop.finish_requested:
                return

    def beat(self) -> None:
        self.done += 1
        self.progress.beat(done=self.done, unit="beats", note=f"beat {self.done}")


def append(path: Path, record: dict[str, object]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    os.write(handle, json.dumps(record).encode() + b"\n")
    os.close(handle)


if __name__ == "__main__":
    sys.exit(main())
