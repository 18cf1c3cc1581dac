"""Reading the graphics cards for everybody, and telling the workers which of them may begin a trial."""

import json
from dataclasses import asdict
from pathlib import Path

import psutil
from structlog.typing import FilteringBoundLogger

from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.child.holds import GPU, read_usages
from daemon.gpu import GpuReading, read_gpus
from daemon.janitor.admission import Admission, CardLimits, Users, step
from features.files import disk_full, write_atomic


class Cards:
    """Keeps run/gpu.json: the last reading of each card and how many workers it admits."""

    def __init__(self, *, config: Config, state_dir: Path, clock: Clock, log: FilteringBoundLogger) -> None:
        g = config.gpu
        self._limits = CardLimits(
            reserve_bytes=g.reserve_bytes, warn_c=g.warn_temperature_c, pause_c=g.pause_temperature_c,
            busy_utilisation=g.busy_utilisation,
        )  # fmt: skip
        self._state_dir, self._clock, self._log, self._study = state_dir, clock, log, config.study.name
        self._admission = Admission()

    def look(self) -> Admission:
        """Read, judge, publish. A machine without cards has no file."""
        readings = read_gpus()
        if not readings and not self._admission.cards:
            (self._state_dir / GPU).unlink(missing_ok=True)
            return self._admission
        before, self._admission = self._admission, step(self._admission, readings, self._users(readings), self._limits)
        for index, card in self._admission.cards.items():
            if before.cards.get(index) != card:
                self._log.info("janitor.gpu", card=index, workers=card.workers, paused=card.paused, why=card.why)
        record = {
            "schema": 1, "at_utc": self._clock.now_utc().isoformat(), "gpus": [asdict(r) for r in readings],
            "cards": [asdict(c) for _, c in sorted(self._admission.cards.items())],
        }  # fmt: skip
        try:
            write_atomic(self._state_dir / GPU, json.dumps(record).encode())
        except OSError as error:
            if not disk_full(error):  # the disk floor holds the workers back meanwhile
                raise
        return self._admission

    def _users(self, readings: tuple[GpuReading, ...]) -> dict[int, Users]:
        """Living workers by card, and the largest need that any worker of this study was ever measured to have."""
        if not readings:
            return {}
        order = sorted(r.index for r in readings)
        usages = list(read_usages(self._state_dir).values())
        ours = [u["vram_peak_bytes"] for u in usages if u.get("study") == self._study]
        peak = max(filter(None, ours), default=None)
        holding = dict.fromkeys(order, 0)
        for usage in usages:
            if usage["vram_bytes"] and _lives(usage["pid"], usage["started_s"]):
                holding[order[usage["worker"] % len(order)]] += 1
        return {index: Users(holding=n, peak_bytes=peak) for index, n in holding.items()}


def _lives(pid: int, started_s: float) -> bool:
    """Whether that very process still runs: a pid alone may be somebody else's by now."""
    try:
        return bool(psutil.Process(pid).create_time() == started_s)
    except psutil.NoSuchProcess:
        return False
