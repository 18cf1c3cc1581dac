"""An Optuna study of another system as plain records that `trials` and the advisor can read, and nobody can add to.

Categorical values are decoded through their stored distributions (the database holds an index). What makes such scores
untrustworthy is flagged, never mended: parameters that were connected to nothing, splits that vanished from a mean, and
scores that cannot be compared with each other.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from features.errors import ConfigurationError
from features.files import write_atomic

# what the predecessor searched and connected to nothing (docs/hyperparameters.md)
UNCONNECTED = frozenset({
    "worker_num", "clip_range", "entropy_coef", "value_loss_coef", "max_grad_norm", "gae_lambda", "ppo_epochs", "kl_target",
    "adam_epsilon", "use_lr_schedule", "lr_schedule_type", "lr_schedule_factor", "max_drawdown_penalty",
    "volatility_penalty",
})  # fmt: skip
BOT, HODL = "sharpe_list_bot", "sharpe_list_hodl"
SPREAD_PENALTY = 0.1  # the predecessor's score: mean(bot) - mean(hodl) - 0.1 std(bot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """trials: plain records, score larger is better; space: searched ranges; flags: study-wide, in words."""

    name: str
    trials: tuple[Mapping[str, Any], ...]
    space: Mapping[str, Mapping[str, Any]]
    flags: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        flagged = Counter(flag.split(":")[0] for t in self.trials for flag in t["flags"])
        return {
            "trials": len(self.trials), "complete": sum(t["state"] == "COMPLETE" for t in self.trials),
            "comparable": sum(t.get("score") is not None for t in self.trials), "flags": list(self.flags),
            "flagged_trials": dict(flagged),
        }  # fmt: skip

    def text(self, name: str) -> str:
        found = self.summary()
        lines = [f"{found['trials']} trials of {self.name!r} imported as {name!r}, {found['complete']} complete,"]
        lines.append(f"{found['comparable']} with scores that can be compared")
        lines += [f"- {flag}" for flag in self.flags]
        lines += [f"- {n} trials: {flag}" for flag, n in found["flagged_trials"].items()]
        lines.append(f"analyse them: cappuccinoctl advise --set study.name={name}")
        return "\n".join(lines)


def read_study(database: str, name: str) -> Imported:
    """ConfigurationError when there is no such study, or several and none was named."""
    storage = _storage(database)
    names = [s.study_name for s in optuna.get_all_study_summaries(storage, include_best_trial=False)]
    if name and name not in names:
        raise ConfigurationError(f"{database} has no study {name!r}", hint=f"it has: {', '.join(names)}")
    if not name and len(names) != 1:
        raise ConfigurationError(
            f"{database} has {len(names)} studies: {', '.join(names)}", hint="name one with --study"
        )
    study = optuna.load_study(study_name=name or names[0], storage=storage)
    if len(study.directions) != 1:
        raise ConfigurationError(f"study {study.study_name!r} has {len(study.directions)} objectives, one can be read")
    return imported(study.study_name, study.get_trials(), maximise=study.direction == StudyDirection.MAXIMIZE)


def imported(name: str, trials: Sequence[FrozenTrial], *, maximise: bool) -> Imported:
    """The records of `trials`; scores that cannot be compared with the others stay as `raw_value` only."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    splits = max((len(_numbers(t.user_attrs.get(BOT, ()))) for t in complete), default=0)
    timeframes = Counter(str(t.user_attrs.get("timeframe", "")) for t in complete)
    common = timeframes.most_common(1)[0][0] if timeframes else ""
    records = [_record(name, t, splits=splits, timeframe=common, maximise=maximise) for t in trials]
    space, flags = _space(complete)
    if splits:  # only the predecessor wrote these
        dead = sorted(UNCONNECTED & {p for t in trials for p in t.params})
        flags += [f"connected to nothing in the predecessor: {', '.join(dead)}"] if dead else []
    if len(timeframes) > 1:
        counted = ", ".join(f"{n} of {t or 'unknown'}" for t, n in timeframes.most_common())
        flags.append(f"several timeframes: {counted}; scores of {common or 'unknown'} are kept")
    if not maximise:
        flags.append("the study minimised: scores are its values times -1")
    return Imported(name=name, trials=tuple(records), space=space, flags=tuple(flags))


def write_study(state_dir: Path, name: str, study: Imported, *, at_utc: str) -> None:
    """trials/<name>/: a record per trial, the space, and the mark that makes workers and judges refuse it."""
    folder = state_dir / "trials" / name
    if not name or "/" in name or name.startswith("."):
        raise ConfigurationError(f"{name!r} cannot be the name of a study", hint="choose another with --name")
    if folder.exists():
        raise ConfigurationError(f"there is a study {name!r} already", hint="choose another name with --name")
    mark = {"study": study.name, "imported_utc": at_utc, **study.summary()}
    write_atomic(folder / "imported.json", json.dumps(mark, indent=1).encode())
    write_atomic(folder / "space.json", json.dumps(study.space, indent=1).encode())
    for record in study.trials:
        path = folder / str(record["number"]) / "trial.json"
        write_atomic(path, json.dumps({**record, "study": name}, sort_keys=True, indent=1).encode())
        path.chmod(0o444)


def _storage(database: str) -> optuna.storages.RDBStorage:
    """A file is opened for reading only: in a database that has no study Optuna would lay out tables for one."""
    try:
        return optuna.storages.RDBStorage(
            database if "://" in database else _readable(Path(database)), skip_compatibility_check=False
        )
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        raise ConfigurationError(
            f"{database} is not a study that this version of Optuna reads: {str(error).splitlines()[0]}",
            hint="of an older one make a copy, and upgrade that: optuna storage upgrade --storage sqlite:///COPY",
        ) from error


def _readable(path: Path) -> str:
    if not path.is_file():
        raise ConfigurationError(f"{path} is no file", hint="name the SQLite database, or a storage URL")
    name = f"file:{quote(str(path.resolve()))}"
    return URL.create("sqlite", database=name, query={"mode": "ro", "uri": "true"}).render_as_string()


def _record(name: str, trial: FrozenTrial, *, splits: int, timeframe: str, maximise: bool) -> dict[str, Any]:
    state = {TrialState.WAITING: "FAIL", TrialState.RUNNING: "FAIL"}.get(trial.state, trial.state)
    label = state if isinstance(state, str) else state.name
    failure = None if label == "COMPLETE" else "unfinished" if isinstance(state, str) else label.lower()
    record: dict[str, Any] = {
        "study": name, "number": trial.number, "state": label, "parameters": trial.params, "imported": True,
        "failure": failure, "seconds": None if trial.duration is None else trial.duration.total_seconds(), "flags": [],
    }  # fmt: skip
    if label != "COMPLETE":
        return record
    value = trial.value
    record["raw_value"] = value if value is not None and math.isfinite(value) else None
    record["flags"] = _flags(trial, splits=splits, timeframe=timeframe)
    if not record["flags"]:
        assert value is not None
        record["score"] = value if maximise else -value
    return record


def _flags(trial: FrozenTrial, *, splits: int, timeframe: str) -> list[str]:
    """Why a score cannot stand beside the others."""
    found = []
    if trial.value is None or not math.isfinite(trial.value):
        return ["score is not a number"]
    bot, hodl = (_numbers(trial.user_attrs.get(k, ())) for k in (BOT, HODL))
    if len(bot) < splits:
        found.append(f"dropped splits: {splits - len(bot)} of {splits}")
    if str(trial.user_attrs.get("timeframe", "")) != timeframe:
        found.append(f"other timeframe: {trial.user_attrs.get('timeframe', 'unknown')}")
    if bot and len(hodl) == len(bot):
        again = float(np.mean(bot) - np.mean(hodl) - SPREAD_PENALTY * np.std(bot))
        if not math.isclose(again, trial.value, rel_tol=1e-6, abs_tol=1e-9):
            found.append(f"score does not follow from its splits: {again:.6g} against {trial.value:.6g}")
    return found


def _numbers(values: Any) -> list[float]:
    """The finite numbers of a list; a split that gave NaN was dropped as much as one that is missing."""
    listed = values if isinstance(values, list | tuple) else []
    return [float(v) for v in listed if isinstance(v, int | float) and math.isfinite(v)]


def _space(trials: Sequence[FrozenTrial]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Ranges wide enough for every trial, of the parameters that every complete trial has."""
    space: dict[str, dict[str, Any]] = {}
    flags = []
    for name in sorted({p for t in trials for p in t.params}):
        seen = [t.distributions[name] for t in trials if name in t.params]
        if len(seen) < len(trials):
            flags.append(f"{name}: in {len(seen)} of {len(trials)} complete trials only, left out of the analysis")
            continue
        kinds = {type(d) for d in seen}
        if len(kinds) > 1:
            flags.append(f"{name}: changed its kind during the study, left out of the analysis")
            continue
        space[name] = _bounds(seen)
        if any(d != seen[0] for d in seen):
            flags.append(f"{name}: its range changed during the study, the widest is shown")
    return space, flags


def _bounds(seen: Sequence[BaseDistribution]) -> dict[str, Any]:
    first = seen[0]
    if isinstance(first, CategoricalDistribution):
        choices = dict.fromkeys(c for d in seen if isinstance(d, CategoricalDistribution) for c in d.choices)
        return {"choices": list(choices), "reason": "imported"}
    numeric = [d for d in seen if isinstance(d, FloatDistribution | IntDistribution)]
    return {
        "low": float(min(d.low for d in numeric)), "high": float(max(d.high for d in numeric)),
        "log": all(d.log for d in numeric), "integer": isinstance(first, IntDistribution), "reason": "imported",
    }  # fmt: skip
