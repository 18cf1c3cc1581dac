"""Who needs what: everything that names an artifact, a report or a backup, or still trains with a file, in words."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from daemon.janitor.backup import backups
from daemon.janitor.inventory import CHECKPOINTS
from daemon.janitor.restore import ASIDE
from features.errors import DataError
from features.files import read_json, read_jsonl, read_only_uri


def references(state_dir: Path, *, keep_top: int, study: str) -> dict[str, str]:
    """Name in the inventory → who needs it; study: the configured one. DataError when what names things is unreadable.

    Then nothing is deleted: a pointer that is damaged protects no less than one that is whole.
    """
    found: dict[str, str] = {}
    for artifact, why in (*_named(state_dir, keep_top), *_backed_up(state_dir), *_moved_aside(state_dir, keep_top)):
        if artifact:
            found.setdefault(f"artifacts/{artifact}", why)
    waiting = list(found)
    while waiting:  # members of members too
        owner = waiting.pop()
        for member in _members(state_dir / owner / "manifest.json"):
            if (name := f"artifacts/{member}") not in found:
                found[name] = f"member of {owner.removeprefix('artifacts/')[:12]}"
                waiting.append(name)
    return found | _folds(state_dir, study) | _checkpoints(state_dir, study)


def _named(state_dir: Path, keep_top: int) -> list[tuple[str | None, str]]:
    return [*_champions(state_dir), *_trials(state_dir, keep_top), *_opened(state_dir), *_traded(state_dir)]


def _moved_aside(state_dir: Path, keep_top: int) -> list[tuple[str | None, str]]:
    """What the files name that a `restore` moved away: without their policies nobody could go back to them.

    They may be damaged, which is a reason to restore: what cannot be read names nothing any more.
    """
    named: list[tuple[str | None, str]] = []
    for root in sorted((state_dir / ASIDE).glob("*")):
        for names in (_champions, lambda place: _trials(place, keep_top), _opened, _traded):
            with contextlib.suppress(DataError, KeyError, TypeError):
                named += [(artifact, f"{why}, moved to {ASIDE}/{root.name}") for artifact, why in names(root)]
    return named


def _champions(state_dir: Path) -> list[tuple[str | None, str]]:
    pointer = state_dir / "champion.json"
    if not pointer.exists():
        return []
    record = read_json(pointer)
    now = [(record["champion"], "champion"), (record["holds"], "held by the trader")]
    return now + [(entry[k], "champion's history") for entry in record["history"] for k in ("champion", "holds")]


def _trials(state_dir: Path, keep_top: int) -> list[tuple[str | None, str]]:
    """Of each study: trials that are running, the best `keep_top`, and what was trained to be judged; all their folds."""
    named: list[tuple[str | None, str]] = []
    for study in sorted(p for p in (state_dir / "trials").glob("*") if p.is_dir()):
        trials: list[dict[str, Any]] = [read_json(p) for p in study.glob("*/trial.json")]
        best = sorted((t for t in trials if t.get("score") is not None), key=lambda t: (-t["score"], t["number"]))
        for n, trial in enumerate(best[:keep_top], start=1):
            named += _of_trial(trial, f"{n} of the best {keep_top} of study {study.name}")
        named += [
            (read_json(p)["artifact"], f"evidence of study {study.name}") for p in study.glob("*/replicates/*.json")
        ]
        for trial in trials:
            if trial["state"] == "RUNNING":
                named += _of_trial(trial, f"running trial {trial['number']} of study {study.name}")
    return named


def _folds(state_dir: Path, study: str) -> dict[str, str]:
    """What an open study trains on: the configured one does between its trials too, any other while a trial runs.

    Deleting it would give nothing back: the workers that have it mapped would keep it, and the next would write it again.
    """

    def is_open(name: str) -> bool:
        trials = (state_dir / "trials" / name).glob("*/trial.json")
        return name == study or any(read_json(p)["state"] == "RUNNING" for p in trials)

    return {
        str(path.relative_to(state_dir)): f"study {folder.name} trains on it"
        for folder in (state_dir / "folds").glob("*")
        if is_open(folder.name)
        for path in folder.glob("*.safetensors")
    }


def _checkpoints(state_dir: Path, study: str) -> dict[str, str]:
    """Which training a checkpoint belongs to only the trainer can tell: all stay while one on a fresh seed is unfinished.

    One that was begun has left a lock where its result will be (`trainer.pieces`).
    """
    trials = state_dir / "trials" / study
    begun = [p for form in ("replicates", "crossed") for p in trials.glob(f"*/{form}/*.lock")]
    if all(any(p.with_suffix(form).exists() for form in (".json", ".npz")) for p in begun):
        return {}
    why = f"a training of study {study} may go on from it"
    return {str(p.relative_to(state_dir)): why for p in (state_dir / "run").glob(CHECKPOINTS)}


def _of_trial(trial: dict[str, Any], why: str) -> list[tuple[str | None, str]]:
    return [(a, why) for a in (trial.get("artifact"), *trial.get("fold_artifacts", ()))]


def _opened(state_dir: Path) -> list[tuple[str | None, str]]:
    """What was judged on the hold-out is evidence."""
    return [(r["artifact"], "judged on the hold-out") for r in read_jsonl(state_dir / "holdout.jsonl")]


def _traded(state_dir: Path) -> list[tuple[str | None, str]]:
    """Every decision in the journal can be derived again only with the policy that took it."""
    journal = state_dir / "paper" / "journal.db"
    if not journal.exists():
        return []
    try:
        with contextlib.closing(sqlite3.connect(read_only_uri(journal), uri=True)) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'decisions'").fetchone():
                return []  # the trader is just making it
            return [(row[0], "decided with") for row in db.execute("SELECT DISTINCT artifact FROM decisions")]
    except sqlite3.Error as error:
        raise DataError(f"{journal} cannot be read: {error}", hint="cappuccinoctl restore has a copy") from error


def _backed_up(state_dir: Path) -> list[tuple[str | None, str]]:
    return [(a, f"needed by backup {b.name}") for b in backups(state_dir) for a in b.artifacts]


def _members(manifest: Path) -> list[str]:
    return list(read_json(manifest)["training"].get("members", ())) if manifest.exists() else []
