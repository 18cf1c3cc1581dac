"""The advisor's hands: read what the trials left, ask the trainer for its evidence, analyse, write the dated report."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from structlog.typing import FilteringBoundLogger

from daemon.advisor.analysis import Analysis, analyse
from daemon.advisor.changes import changes
from daemon.advisor.desk import Desk
from daemon.advisor.document import html, markdown
from daemon.advisor.plots import figures
from daemon.advisor.proposer import proposals
from daemon.advisor.records import Bounds, Machine, Material, Trial
from daemon.advisor.report import blocks, summary
from daemon.child.advice import on_trial
from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.child.credentials import credential
from features.errors import CappuccinoError
from features.files import read_json, read_jsonl, write_atomic

EVIDENCE_TIMEOUT_S = 300.0
WEIGHED = 20  # newest trials whose files are measured
Evidence = Mapping[str, Any] | None


class EvidenceFailed(CappuccinoError):
    """The trainer could not say what the returns show; its own words are in the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advised:
    """record: as stored; path: of the Markdown."""

    analysis: Analysis
    material: Material
    record: Mapping[str, Any]
    path: Path


def ask_trainer(config: Path, state_dir: Path) -> Evidence:
    """`python -m trainer evidence`: programs meet through argv and output, and one implementation judges."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "trainer",
        "evidence",
        "--config",
        str(config),
        "--state-dir",
        str(state_dir),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=EVIDENCE_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise EvidenceFailed(f"the trainer gave no evidence within {EVIDENCE_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise EvidenceFailed(f"the trainer gave no evidence: {done.stderr.strip()[-500:]}")
    found: Evidence = json.loads(done.stdout)
    return found


class Advisor:
    """Analyses one study whenever enough new trials have completed.

    evidence: asks the trainer, once per analysis. workers: how many there are now; `scale` changes that while this runs.
    """

    def __init__(
        self, *, config: Config, state_dir: Path, clock: Clock, log: FilteringBoundLogger,
        evidence: Callable[[], Evidence], workers: Callable[[], int], should_stop: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._config, self._state_dir, self._clock, self._log = config, state_dir, clock, log
        self._evidence, self._workers = evidence, workers
        self._folder = state_dir / "advice"
        self._trials_dir = state_dir / "trials" / config.study.name
        self._ended: dict[str, dict[str, Any]] = {}
        self._should_stop = should_stop
        self.desk = Desk(
            state_dir=state_dir, study=config.study.name, clock=clock, log=log, target=config.study.target_trials,
            share=config.advisor.trial_share,
        )  # fmt: skip

    def advise_if_due(self) -> bool:
        """Settle what pairs have ended; a report if `advisor.every_trials` more trials completed since the last one."""
        self.desk.settle(self._records())
        complete = sum(r.get("score") is not None for r in self._records())
        if complete == 0 or complete - self._analysed() < self._config.advisor.every_trials:
            return False
        self._advise_and_act()
        return True

    def advise_if_new(self) -> bool:
        """Write the day's report, unless no trial has ended since the last one."""
        previous = self._previous()
        ended = len(self._records())
        if ended == 0 or (previous is not None and previous["operations"]["ended"] == ended):
            return False
        self._advise_and_act()
        return True

    def _advise_and_act(self) -> None:
        """A report, then what it and the model would try; not on a study that cannot be run here, nor without a share."""
        made = self.advise()
        if self._config.advisor.trial_share == 0.0 or (self._trials_dir / "imported.json").exists():
            return
        bounds, trials = made.material.bounds, made.material.trials
        self.desk.propose(proposals(made.analysis, trials, bounds, self.desk.book()), bounds, trials)
        if self._config.llm.enabled:
            self.consult(made)

    def consult(self, made: Advised) -> None:
        """Ask the language model what it would try."""
        from daemon.advisor.llm import CREDENTIAL, consult  # with it comes the network client: not where it is off

        consult(
            self.desk, self._config.llm, made.record, made.material.bounds, made.material.trials,
            key=credential(CREDENTIAL, Path(self._config.run.credentials_dir)), should_stop=self._should_stop,
        )  # fmt: skip

    def advise(self, claims: Sequence[Mapping[str, Any]] = ()) -> Advised:
        """Analyse now; write advice/<time>-n<trials>.md, .html and .json, and latest.json."""
        now = self._clock.now_utc()
        material = self._material(now)
        analysis = analyse(material, np.random.default_rng(self._config.run.seed + len(material.trials)), claims)
        previous = self._previous()
        book = self.desk.book()
        record = {
            **asdict(analysis), "created_utc": now.isoformat(), "summary": summary(analysis), **book.to_dict(),
            "space": {name: asdict(b) for name, b in material.bounds.items()},
        }  # fmt: skip
        report = blocks(
            analysis, changes=[] if previous is None else changes(previous, record),
            previous_utc=None if previous is None else previous["at_utc"], drawings=figures(analysis, material),
            book=book,
        )  # fmt: skip
        stem = self._folder / f"{now:%Y%m%dT%H%M%SZ}-n{analysis.n_complete}"
        stored = json.dumps(record, allow_nan=False).encode()
        write_atomic(stem.with_suffix(".md"), markdown(report).encode())
        write_atomic(stem.with_suffix(".html"), html(report, title=f"{analysis.study}, {analysis.at_utc}").encode())
        write_atomic(stem.with_suffix(".json"), stored)
        write_atomic(self._folder / "latest.json", stored)
        self._log.info("advisor.analysed", trials=analysis.n_complete, summary=record["summary"])
        return Advised(analysis=analysis, material=material, record=record, path=stem.with_suffix(".md"))

    def _material(self, now: datetime) -> Material:
        config, step_s = self._config, self._config.market.timeframe_s
        records = self._records()
        began = self._began_s()
        advised = on_trial(self._state_dir, config.study.name)
        judged = self._state_dir / "champion.json"
        judgement = read_json(judged) if judged.exists() else None
        unit = "hourly" if step_s == 3600 else f"{step_s} s"
        return Material(
            study=config.study.name, at_utc=f"{now:%Y-%m-%d %H:%M} UTC",
            score_name=f"t-statistic of the {unit} log return in excess of 1/N daily, net of costs",
            sampling_sd=1.0,
            trials=tuple(_trial(r, began, advised) for r in records), bounds=self._bounds(), machine=self._machine(now, records),
            evidence=self._evidence(),
            judgement=judgement if judgement is not None and judgement["study"] == config.study.name else None,
        )  # fmt: skip

    def _records(self) -> list[dict[str, Any]]:
        """Every ended trial's record in order of number; an ended one is read once."""
        for path in self._trials_dir.glob("*/trial.json"):
            if path.parent.name not in self._ended and (record := read_json(path))["state"] != "RUNNING":
                self._ended[path.parent.name] = record
        return sorted(self._ended.values(), key=lambda r: int(r["number"]))

    def _began_s(self) -> dict[int, float]:
        """When each trial was started, as the ledger has it."""
        path = self._state_dir / "ledger.jsonl"
        study = self._config.study.name
        return {
            r["number"]: datetime.fromisoformat(r["at_utc"]).timestamp()
            for r in (read_jsonl(path) if path.exists() else [])
            if r["event"] == "started" and r["study"] == study
        }

    def _bounds(self) -> dict[str, Bounds]:
        """The searched ranges, as the trainer wrote them beside the trials."""
        path = self._trials_dir / "space.json"
        space: dict[str, dict[str, Any]] = read_json(path) if path.exists() else {}
        return {
            name: Bounds(
                low=p.get("low"),
                high=p.get("high"),
                log=p.get("log", False),
                integer=p.get("integer", False),
                choices=tuple(p.get("choices", ())),
            )
            for name, p in space.items()
        }

    def _machine(self, now: datetime, records: Sequence[Mapping[str, Any]]) -> Machine:
        cards = self._state_dir / "run" / "gpu.json"
        recent = [r for r in records if r.get("score") is not None][-WEIGHED:]
        held = [self._trials_dir / str(r["number"]) for r in recent]
        held += [self._state_dir / "artifacts" / a for r in recent for a in r.get("fold_artifacts", ())]
        size = sum(f.stat().st_size for folder in held for f in folder.glob("*"))
        return Machine(
            workers=self._workers(), target=self._config.study.target_trials, now_s=now.timestamp(),
            free_bytes=shutil.disk_usage(self._state_dir).free, floor_bytes=self._config.janitor.floor_free_bytes,
            bytes_per_trial=size / len(recent) if recent else None,
            gpus=tuple(read_json(cards)["gpus"]) if cards.exists() else (),
        )  # fmt: skip

    def _previous(self) -> dict[str, Any] | None:
        latest = self._folder / "latest.json"
        return read_json(latest) if latest.exists() else None

    def _analysed(self) -> int:
        previous = self._previous()
        return 0 if previous is None or previous["study"] != self._config.study.name else int(previous["n_complete"])


def newest(state_dir: Path) -> Path | None:
    """The last report's Markdown, if one was ever written."""
    return max((state_dir / "advice").glob("*.md"), default=None)


def _trial(record: Mapping[str, Any], began_s: Mapping[int, float], advised: Container[Any]) -> Trial:
    return Trial(
        number=record["number"], state=record["state"], score=record.get("score"),
        parameters=record.get("parameters", {}), seconds=record.get("seconds"), failure=record.get("failure"),
        began_s=began_s.get(record["number"]), advised=(record.get("pair"), record.get("half")) in advised,
    )  # fmt: skip
