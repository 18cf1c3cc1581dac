"""Looks at the machine: clock, packages, libraries, cards, the installed unit."""

import ctypes
import importlib.metadata
import importlib.util
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from daemon.doctor import judge
from daemon.doctor.finding import Finding, ok
from daemon.gpu import read_gpus
from daemon.install import SYSTEM, USER, Layout, current_files, differing

PACKAGES = ("daemon", "features", "paper_trader", "trainer")
_STA_UNSYNC = 0x40  # linux/timex.h
_CARDS = ("dev/nvidia0", "dev/kfd")


class _Timex(ctypes.Structure):
    """struct timex of 64-bit Linux, as far as it is read; the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("rest", ctypes.c_byte * 256),
    )  # fmt: skip


def machine(device: str) -> Iterator[Finding]:
    """device: study.device, where training is to run."""
    yield kernel_clock()
    yield judge.sqlite_version(sqlite3.sqlite_version_info)
    yield packages()
    yield talib()
    yield judge.gpu(
        [f"{g.name}, {g.memory_total_bytes / 2**30:.0f} GiB" for g in read_gpus()],
        driver_files=[f"/{name}" for name in _CARDS if Path("/", name).exists()], device=device,
    )  # fmt: skip
    yield from units()


def kernel_clock() -> Finding:
    """adjtimex(2) with modes 0 only reads; it needs no right and no time daemon's cooperation."""
    timex = _Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) < 0:
        return judge.clock_state(synchronised=None, max_error_s=0.0)
    return judge.clock_state(synchronised=not timex.status & _STA_UNSYNC, max_error_s=timex.maxerror / 1e6)


def packages() -> Finding:
    owners = importlib.metadata.packages_distributions()
    return judge.packages({name: owners.get(name, []) for name in PACKAGES}, {name: _parent(name) for name in PACKAGES})


def talib() -> Finding:
    try:
        import talib
    except ImportError as error:
        return Finding(
            check="ta-lib",
            level="fail",
            text=f"cannot be loaded: {error}",
            remedy="pip install -c constraints.txt ta-lib",
        )
    numbers = re.match(rb"(\d+)\.(\d+)", talib.__ta_version__)  # type: ignore[attr-defined]
    return judge.talib((int(numbers[1]), int(numbers[2])) if numbers else (0, 0))


def units(root: Path = Path("/")) -> Iterator[Finding]:
    """Whether what systemd runs is what this version ships, for each way in which it is installed."""
    home = Path(os.environ.get("HOME", "/root"))
    installed = False
    for kind in (SYSTEM, USER):
        layout = Layout(kind=kind, root=root, home=home)
        if not layout.unit.exists():
            continue
        installed = True
        changed = differing(current_files(layout))
        flag = "" if kind is SYSTEM else " --user"
        if changed:
            yield Finding(
                check="unit", level="warn", text=f"{', '.join(map(str, changed))} differs from what this version ships",
                remedy=f"cappuccinoctl install-service{flag} shows the difference and mends it",
            )  # fmt: skip
        else:
            yield ok("unit", f"{layout.unit} is up to date")
    if not installed:
        yield ok("unit", "not installed as a service (cappuccinoctl install-service)")


def _parent(name: str) -> str:
    spec = importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or []) if spec else []
    return str(Path(places[0]).parent) if places else ""
