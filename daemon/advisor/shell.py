"""The advisor's hands: read the trials' plain records, analyse, write the report. On APScheduler's calendar."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from structlog.typing import FilteringBoundLogger

from daemon.advisor.analysis import Analysis, Bounds, Trial, analyse
from daemon.advisor.report import markdown, summary
from daemon.child.clock import Clock
from daemon.child.config import Config
from features.files import read_json, write_atomic


class Advisor:
    """Analyses one study whenever enough new trials have completed."""

    def __init__(self, *, config: Config, state_dir: Path, clock: Clock, log: FilteringBoundLogger) -> None:
        self._config, self._state_dir, self._clock, self._log = config, state_dir, clock, log

    def advise_if_due(self) -> bool:
        """Write a report if `advisor.every_trials` more trials have completed since the last one."""
        latest = self._state_dir / "advice" / "latest.json"
        analysed = read_json(latest)["n_complete"] if latest.exists() else 0
        complete = sum(t.score is not None for t in self.trials())
        if complete == 0 or complete - analysed < self._config.advisor.every_trials:
            return False
        self.advise()
        return True

    def advise(self) -> tuple[Analysis, Path]:
        """Analyse now and write advice/<time>-n<trials>.md and .json, and latest.json."""
        trials = self.trials()
        analysis = analyse(trials, self._bounds(), np.random.default_rng(self._config.run.seed + len(trials)))
        now = self._clock.now_utc()
        folder = self._state_dir / "advice"
        stem = folder / f"{now:%Y%m%dT%H%M%SZ}-n{analysis.n_complete}"
        text = markdown(analysis, study=self._config.study.name, at_utc=f"{now:%Y-%m-%d %H:%M} UTC")
        record = {
            **asdict(analysis),
            "created_utc": now.isoformat(),
            "summary": summary(analysis),
            "study": self._config.study.name,
        }
        write_atomic(stem.with_suffix(".md"), text.encode())
        write_atomic(stem.with_suffix(".json"), json.dumps(record).encode())
        write_atomic(folder / "latest.json", json.dumps(record).encode())
        self._log.info("advisor.analysed", trials=analysis.n_complete, summary=record["summary"])
        return analysis, stem.with_suffix(".md")

    def trials(self) -> list[Trial]:
        """Every ended trial of the configured study, in order of number."""
        records = [read_json(p) for p in (self._state_dir / "trials" / self._config.study.name).glob("*/trial.json")]
        return sorted((_trial(r) for r in records if r["state"] != "RUNNING"), key=lambda t: t.number)

    def _bounds(self) -> dict[str, Bounds]:
        """The searched ranges, as the trainer wrote them beside the trials."""
        path = self._state_dir / "trials" / self._config.study.name / "space.json"
        if not path.exists():
            return {}
        space: dict[str, dict[str, Any]] = read_json(path)
        return {
            name: Bounds(
                low=p.get("low"), high=p.get("high"), log=p.get("log", False), choices=tuple(p.get("choices", ()))
            )
            for name, p in space.items()
        }


def _trial(record: dict[str, Any]) -> Trial:
    return Trial(
        number=record["number"], state=record["state"], score=record.get("score"),
        parameters=record.get("parameters", {}), seconds=record.get("seconds"), failure=record.get("failure"),
    )  # fmt: skip
