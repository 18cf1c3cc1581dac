"""A real systemd to run the service under: Debian 12 in a container, made once, booted in seconds, thrown away after.

Nothing is installed on the host: debootstrap and systemd-nspawn are unpacked from their packages. The root is kept in
CACHE (some 400 MB); each run works on a copy. Third-party packages are those of the environment the tests run in,
bound read-only into the container; cappuccino itself is installed from a wheel that is built here.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("CAPPUCCINO_SYSTEMD_CACHE", "/var/tmp/cappuccino-systemd"))
RELEASE, INCLUDED = "bookworm", "systemd,systemd-sysv,dbus,procps,python3"
CGROUPS = Path("/sys/fs/cgroup")


class Impossible(Exception):
    """No container can be booted here; the text says why."""


class Machine:
    """A booted container. `run` is a root shell in it; pids are the host's."""

    def __init__(self, root: Path, name: str, leader: int) -> None:
        self.root, self.name, self.leader = root, name, leader

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", "-t", str(self.leader), "-m", "-p", "-u", "-i", "-n", "-C", "env", "-i"]
        inside += ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root"]
        done = subprocess.run([*inside, *command], capture_output=True, text=True, check=False, timeout=200, cwd="/")
        assert done.returncode == 0 or not check, (
            f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.said()}"
        )
        return done

    def show(self, *properties: str, unit: str = "cappuccino") -> dict[str, str]:
        """What systemd knows of the unit."""
        done = self.run("systemctl", "show", unit, *(f"--property={p}" for p in properties))
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    def said(self) -> str:
        """The journal of the unit, for a failing test."""
        command = [
            "nsenter",
            "-t",
            str(self.leader),
            "-m",
            "-p",
            "-u",
            "-i",
            "-n",
            "-C",
            "journalctl",
            "-u",
            "cappuccino",
            "-n",
            "40",
        ]
        return subprocess.run([*command, "--no-pager"], capture_output=True, text=True, check=False, cwd="/").stdout

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        done = self.run("journalctl", "-o", "json", "--no-pager", *matches)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def status(self) -> dict[str, Any]:
        done = self.run(
            "/opt/cappuccino/bin/cappuccinoctl", "status", "--json", "--state-dir", "/var/lib/cappuccino", check=False
        )
        record: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"children": [], "daemon": {"down": True}}
        return record

    def pids(self) -> dict[int, str]:
        """Living processes of the service by the host's pid, from its control group, and their command lines."""
        found = {}
        for group in (
            *CGROUPS.glob(f"*/{self.name}/**/cappuccino.service"),
            *CGROUPS.glob(f"{self.name}/**/cappuccino.service"),
        ):
            for listing in (group / "cgroup.procs", *group.glob("**/cgroup.procs")):
                with contextlib.suppress(OSError):
                    found |= {int(p): command(int(p)) for p in listing.read_text().split() if lives(int(p))}
        return found

    def supervisor(self) -> int:
        """The host's pid of the unit's main process."""
        (pid,) = [p for p, line in self.pids().items() if " run --config /etc/cappuccino/config.toml" in line]
        return pid

    def until(self, what: Callable[[], Any], *, within_s: float) -> Any:
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            if value := what():
                return value
            time.sleep(0.1)
        raise AssertionError(
            f"not within {within_s} s\n{self.show('ActiveState', 'SubState', 'Result', 'NRestarts')}\n{self.said()}"
        )


@contextmanager
def booted(config: str) -> Iterator[Machine]:
    """A running container with cappuccino installed by its own install-service. Raises Impossible."""
    _require()
    base = _base()
    name = f"cappuccino-{os.getpid()}"
    root = CACHE / name
    try:
        subprocess.run(["cp", "-a", base, root], check=True)
        wheel = _wheel(root)
        (root / "opt" / "third_party").mkdir(parents=True)
        (root / "etc" / "cappuccino").mkdir()
        (root / "etc" / "cappuccino" / "config.toml").write_text(config)
        nspawn = _start(root, name)
        try:
            machine = Machine(root, name, _leader(nspawn))
            machine.until(
                lambda: "running" in machine.run("systemctl", "is-system-running", check=False).stdout, within_s=60
            )
            machine.run("python3", "-m", "venv", "--without-pip", "/opt/cappuccino")
            (root / "opt/cappuccino/lib/python3.11/site-packages/third_party.pth").write_text("/opt/third_party\n")
            machine.run(
                "/opt/cappuccino/bin/python",
                "-m",
                "pip",
                "install",
                "-qq",
                "--no-index",
                "--no-deps",
                "--root-user-action=ignore",
                wheel,
            )
            machine.run("/opt/cappuccino/bin/cappuccinoctl", "install-service")
            yield machine
        finally:
            _end(nspawn)
            _remove_groups(name)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _require() -> None:
    if os.geteuid() != 0:
        raise Impossible("a container is booted by root")
    if sys.version_info[:2] != (3, 11):
        raise Impossible("the container's Python is 3.11; its packages come from this environment, which has another")
    for tool in ("nsenter", "dpkg-deb", "apt-get", "chroot"):
        if shutil.which(tool) is None:
            raise Impossible(f"{tool} is not installed")
    if not CGROUPS.is_dir() or not os.access(CGROUPS, os.W_OK):
        raise Impossible("control groups cannot be made here")


def _base() -> Path:
    """The container's root, made by debootstrap once."""
    root, tools = CACHE / "root-12", _tools()
    if not root.exists():
        draft = CACHE / f"root-12.{os.getpid()}"
        command = [tools / "usr/sbin/debootstrap", "--variant=minbase", f"--include={INCLUDED}", RELEASE, draft]
        _do(command, "debootstrap", {"DEBOOTSTRAP_DIR": str(tools / "usr/share/debootstrap")})
        draft.rename(root)
    return root


def _tools() -> Path:
    """systemd-nspawn and debootstrap, unpacked from their packages beside the root."""
    tools = CACHE / "tools" / "root"
    if not tools.exists():
        packages = CACHE / "tools" / "packages"
        packages.mkdir(parents=True, exist_ok=True)
        _do(["apt-get", "-qq", "download", "systemd-container", "debootstrap"], "apt-get download", {}, cwd=packages)
        for package in packages.glob("*.deb"):
            _do(["dpkg-deb", "-x", package, tools], "dpkg-deb", {})
    return tools


def _do(command: list[str | Path], what: str, environment: Mapping[str, str], *, cwd: Path | None = None) -> None:
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False, env={**os.environ, **environment}, cwd=cwd
    )  # fmt: skip
    if done.returncode != 0:
        raise Impossible(f"{what} failed: {(done.stderr or done.stdout).strip()[-300:]}")


def _wheel(root: Path) -> str:
    """Build the wheel of this checkout into the container; its path in there."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", root / "opt", ROOT]
    subprocess.run([str(c) for c in command], check=True, capture_output=True, cwd=root)
    (wheel,) = (root / "opt").glob("*.whl")
    return f"/opt/{wheel.name}"


def _start(root: Path, name: str) -> subprocess.Popen[bytes]:
    """systemd-nspawn in control groups of its own, in every hierarchy: its systemd makes further ones below."""
    nspawn = [
        _tools() / "usr/bin/systemd-nspawn", "-D", root, "-M", name, "-b", "--register=no", "--keep-unit", "--private-network",
        "--console=pipe", "--kill-signal=SIGRTMIN+3", f"--bind-ro={sysconfig.get_path('purelib')}:/opt/third_party",
    ]  # fmt: skip
    enter = "".join(f'echo $$ >"{group}/cgroup.procs"; ' for group in _make_groups(name))
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        ["sh", "-ec", enter + 'exec "$@"', "sh", *map(str, nspawn)], stdin=quiet, stdout=quiet, stderr=quiet
    )  # fmt: skip


def _make_groups(name: str) -> list[Path]:
    hierarchies = (
        [CGROUPS]
        if (CGROUPS / "cgroup.procs").exists()
        else sorted(p for p in CGROUPS.iterdir() if (p / "cgroup.procs").exists())
    )
    groups = []
    for hierarchy in hierarchies:
        group = hierarchy / name
        group.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):  # a version 1 cpuset holds nobody before it has both
            if (hierarchy / file).exists() and (group / file).exists() and not (group / file).read_text().strip():
                (group / file).write_text((hierarchy / file).read_text())
        groups.append(group)
    return groups


def _remove_groups(name: str) -> None:
    for top in (*CGROUPS.glob(f"*/{name}"), *CGROUPS.glob(name)):
        for group in sorted((p for p in top.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)):
            with contextlib.suppress(OSError):
                group.rmdir()
        with contextlib.suppress(OSError):
            top.rmdir()


def _leader(nspawn: subprocess.Popen[bytes]) -> int:
    """The host's pid of the container's init."""
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        if nspawn.poll() is not None:
            raise Impossible(f"systemd-nspawn ended with exit {nspawn.returncode}")
        for child in Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split():
            if "systemd" in command(int(child)):
                return int(child)
        time.sleep(0.1)
    raise Impossible("the container has no init after 30 s")


def _end(nspawn: subprocess.Popen[bytes]) -> None:
    """SIGTERM has nspawn shut the container down in order; SIGKILL of its init ends whatever does not."""
    nspawn.send_signal(signal.SIGTERM)
    try:
        nspawn.wait(90)
    except subprocess.TimeoutExpired:
        for child in Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        nspawn.kill()
        nspawn.wait()


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def lives(pid: int) -> bool:
    """Whether the process is there and more than a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
