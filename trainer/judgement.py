"""The verdict on one study as a record, and as the text a person reads."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.files import read_json, write_atomic
from trainer.gates import Gate, verdict_text
from trainer.report import Report
from trainer.rungs import CrossValidated, cross_text
from trainer.score import Score, table

EVERY_GATE = frozenset({"G1", "G2", "G3", "G4", "G5", "G6", "G7"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One candidate before the gates. trials: those it is made of; artifact: what would be traded."""

    candidate: str
    trials: tuple[int, ...]
    artifact: str
    gates: tuple[Gate, ...]
    validation: tuple[Score, ...]
    report: Report

    @property
    def failed(self) -> tuple[Gate, ...]:
        return tuple(g for g in self.gates if not g.passed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The verdict on one study. The first of `verdicts` decided; trial: its first trial; artifact: what it would trade.

    holds: what the trader shall hold; champion: the same, or None when it holds a baseline. cross_validation: best first;
    none before the study is complete.
    """

    study: str
    trial: int | None
    artifact: str | None
    champion: str | None
    holds: str
    reason: str
    verdicts: tuple[Verdict, ...] = ()
    holdout: tuple[Score, ...] = ()
    cross_validation: tuple[CrossValidated, ...] = ()

    @property
    def gates(self) -> tuple[Gate, ...]:
        return self.verdicts[0].gates if self.verdicts else ()

    def text(self) -> str:
        parts = [cross_text(self.cross_validation)] if self.cross_validation else []
        for verdict in self.verdicts:
            title = f"validation, {verdict.candidate} of {self.study!r} beside the baselines"
            parts += [table(verdict.validation, title=title), verdict.report.text(), verdict_text(verdict.gates)]
        if self.holdout:
            parts.append(table(self.holdout, title="hold-out (opened once for this artifact, ledgered)"))
        parts.append(self.reason)
        return "\n\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "gates": [g.to_dict() for g in self.gates]}


def write_report(state_dir: Path, judgement: Judgement, *, at_utc: str) -> None:
    """reports/judgement-NNNN.json and .txt."""
    folder = state_dir / "reports"
    numbers = [int(p.stem.rpartition("-")[2]) for p in folder.glob("judgement-*.json")]
    stem = folder / f"judgement-{max(numbers, default=0) + 1:04d}"
    record = {**judgement.to_dict(), "judged_utc": at_utc}
    write_atomic(stem.with_suffix(".txt"), (judgement.text() + "\n").encode())
    write_atomic(stem.with_suffix(".json"), json.dumps(record, indent=1).encode())


def verdicts_on_record(state_dir: Path) -> list[dict[str, Any]]:
    """Every candidate ever judged, newest first, as its verdict's record with `study`, `report` and `passed`.

    passed: every gate was measured and none failed.
    """
    found = []
    for path in sorted((state_dir / "reports").glob("judgement-*.json"), reverse=True):
        record = read_json(path)
        for verdict in record["verdicts"]:
            gates = verdict["gates"]
            passed = {g["gate"] for g in gates} >= EVERY_GATE and all(g["passed"] for g in gates)
            found.append({**verdict, "study": record["study"], "report": path.name, "passed": passed})
    return found


def shown(gates: Sequence[Gate]) -> str:
    """What failed, in one line."""
    return "; ".join(
        f"{g.gate} {g.what}: " + ("not estimable" if g.value is None else f"{g.value:.3g}, required {g.threshold}")
        for g in gates
    )
