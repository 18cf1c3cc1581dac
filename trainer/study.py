"""The Optuna study that several worker processes share: who runs which trial, and when it is over.

Ownership is a held file lock: a worker writes its name on the trial it asks for, and a trial whose owner's lock is
free has no living owner. That finds a killed worker's trial the moment its successor starts, with no timeout to wait
for and none to guess. A killed trial is retried once, with the same parameters, then failed with its reason.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from daemon.child.advice import Standing
from features.errors import ConfigurationError
from features.files import Lock, read_json, write_atomic
from trainer.pairs import ConfinedSampler, Pairing
from trainer.routes import Route
from trainer.space import Hyperparameters

CODE_SEMANTICS = 6  # bumped by hand when a score stops being comparable with earlier ones
LOCKED_AT_MOST_S = 60.0  # of study.db, before a worker fails over it; half of daemon.worker_hang_s
MAX_RETRIES = 1
STUDY_DB = "study.db"
SCREENED_STEP, PRUNED_STEP = 0, 1  # of the values that the sampler learns from without a score
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyIdentity:
    """What must be equal for two trials' scores to be comparable."""

    data_sha256: str
    fingerprint: str
    settings: str

    def differences(self, stored: dict[str, Any]) -> list[str]:
        mine = {**self.to_dict(), "code_semantics": CODE_SEMANTICS}
        return [f"{k}: stored {stored.get(k)}, now {v}" for k, v in mine.items() if stored.get(k) != v]

    def require(self, stored: dict[str, Any], name: str) -> None:
        """ConfigurationError names what differs from the study of that name."""
        if lines := self.differences(stored):
            raise ConfigurationError(
                f"study {name!r} was begun on other data or settings:\n  " + "\n  ".join(lines),
                hint="give study.name another value; trials of the old study keep counting in the ledger",
            )

    def to_dict(self) -> dict[str, str]:
        return {"data_sha256": self.data_sha256, "fingerprint": self.fingerprint, "settings": self.settings}


class SharedStudy:
    """One study as one worker sees it. Every method that counts or claims runs under the study's lock."""

    def __init__(
        self, *, state_dir: Path, name: str, worker: str, target_trials: int, startup_trials: int, seed: int,
        identity: StudyIdentity, route: Route, advice_share: float = 0.0, parent: str = "",
        recovered: Callable[[int, Mapping[str, Any]], None] = lambda *_: None,
    ) -> None:  # fmt: skip
        """advice_share: of its trials, what may be spent on the advisor's proposals. parent: the study that it narrows.

        `recovered` is called, perhaps more than once, with number and record of a trial that ended without its worker's
        having said so everywhere: handed back, killed, or killed while it said so.
        """
        self._recovered = recovered
        self._state_dir, self._name, self._worker, self._target = state_dir, name, worker, target_trials
        self._pairing = Pairing(
            state_dir=state_dir, study=name, route=route, share=advice_share, startup_trials=startup_trials, seed=seed
        )
        with self._locked():
            self.study = optuna.create_study(
                storage=_storage(state_dir), study_name=name, direction="maximize", load_if_exists=True
            )
            # seeded alike in every life of its worker, it would draw the first life's random trials again
            own_trials = sum(t.user_attrs.get("worker") == worker for t in self.study.get_trials(deepcopy=False))
            self._sampler = ConfinedSampler(startup_trials=startup_trials, seed=seed + own_trials)
            self.study.sampler = self._sampler
            stored = self.study.user_attrs
            if "begun" not in stored:  # or its first worker was killed over it
                for key, value in {**identity.to_dict(), "code_semantics": CODE_SEMANTICS}.items():
                    self.study.set_user_attr(key, value)
                if parent:
                    self.study.set_user_attr("parent", parent)
                if not self.study.get_trials(deepcopy=False):
                    self.study.enqueue_trial(route.first())
                self.study.set_user_attr("begun", True)
            else:
                identity.require(stored, name)

    def next_trial(self) -> optuna.Trial | None:
        """Claim a trial, or None when the target is reached or all that is missing is being run by others."""
        with self._locked():
            self._release_orphans()
            trials, standing = self.study.get_trials(deepcopy=False), Standing.read(self._state_dir, self._name)
            room = _room(trials, self._target_under(standing))
            if room <= 0:
                return None
            self._sampler.within = standing.ranges
            self._pairing.queue(self.study, standing, room=room)
            trial = self.study.ask()
            trial.set_user_attr("worker", self._worker)
            return trial

    def finish(self, trial: optuna.Trial, *, score: float | None, failure: str | None, seconds: float) -> None:
        """Tell the result: a finite score, or a failure category. A pruned trial has both: the score of its folds so far."""
        trial.set_user_attr("seconds", seconds)
        self._drop_checkpoints(self.study.get_trials(deepcopy=False)[trial.number])
        self._tell(trial, score=score, failure=failure)

    def screenings(self, trial: optuna.Trial, score: float) -> list[float]:
        """Put the trial's score on the short budget on record; those of the other trials, each configuration once.

        At step 0, below those given up by folds: TPE ranks pruned trials by step, then by score.
        """
        with self._locked():
            trials = self.study.get_trials(deepcopy=False)
            if SCREENED_STEP not in trials[trial.number].intermediate_values:  # or its worker was killed over it
                trial.report(score, step=SCREENED_STEP)
            found = {first_number(t): t.intermediate_values.get(SCREENED_STEP) for t in trials}
            own = first_number(trials[trial.number])
            return [s for number, s in found.items() if s is not None and number != own]

    def hand_back(self, trial: optuna.Trial, *, seconds: float) -> None:
        """A stop was asked for: the trial fails as `stopped` and its parameters wait for the next worker."""
        with self._locked():
            self._requeue(trial.number, "stopped", seconds=seconds)

    def retry_smaller(self, trial: optuna.Trial, chosen: Hyperparameters) -> bool:
        """Once: `chosen` waits for the next worker in place of what did not fit into memory. As a trial of its own,

        since a score belongs to the parameters that made it. False when this trial was such a retry already, or has one.
        """
        first = trial.user_attrs.get("first_number", trial.number)
        if trial.user_attrs.get("smaller_than") is not None or any(
            t.user_attrs.get("smaller_than") == first for t in self.study.get_trials(deepcopy=False)
        ):
            return False
        self.study.enqueue_trial(chosen.to_dict(), user_attrs={"smaller_than": first})
        return True

    def progress(self) -> dict[str, int]:
        """Number of trials by state, plus `finished` (what counts towards the target) and `target`."""
        trials = self.study.get_trials(deepcopy=False)
        counts = {state.name.lower(): sum(t.state == state for t in trials) for state in TrialState}
        target = self._target_under(Standing.read(self._state_dir, self._name))
        return {**counts, "finished": _finished(trials), "target": target}

    def judged(self, *, complete: bool = False) -> int:
        """How many trials were finished at the last judgement, or at the last one of a complete study; 0 before it.

        A milestone says less than the end does, and a study may be made to end where a milestone was judged.
        """
        path = self._judged_path
        record = json.loads(path.read_bytes()) if path.exists() else {}
        return int(record.get("complete" if complete else "finished", 0))

    def mark_judged(self, finished: int, *, complete: bool) -> None:
        record = {"finished": finished, "complete": finished if complete else self.judged(complete=True)}
        write_atomic(self._judged_path, json.dumps(record).encode())

    def _target_under(self, standing: Standing) -> int:
        return self._target if standing.target is None else min(self._target, standing.target)

    @property
    def _judged_path(self) -> Path:
        return self._state_dir / "trials" / self._name / "judged.json"

    def _tell(self, trial: optuna.Trial, *, score: float | None, failure: str | None) -> None:
        if failure is not None:
            trial.set_user_attr("failure", failure)
        if failure is None:
            assert score is not None
            self.study.tell(trial, score)
        elif failure == "pruned":
            assert score is not None
            trial.report(score, step=PRUNED_STEP)  # the sampler learns from it; it never counts as a score
            self.study.tell(trial, state=TrialState.PRUNED)
        elif failure == "screened":  # its score was reported when it was screened
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def _release_orphans(self) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            owner = trial.user_attrs.get("worker")
            if owner is not None and owner != self._worker and _is_alive(self._state_dir, owner):
                continue
            path = trial_dir(self._state_dir, self._name, trial.number) / "trial.json"
            record: dict[str, Any] = read_json(path) if path.exists() else {"state": "RUNNING"}
            if record["state"] == "RUNNING" or record.get("failure") in ("killed", "stopped"):
                self._requeue(trial.number, record.get("failure") or "killed", seconds=0.0)
            else:  # killed after its end was written down and before it was told
                self._recovered(trial.number, record)
                live = optuna.Trial(self.study, trial._trial_id)  # noqa: SLF001  no public way from number to a live trial
                live.set_user_attr("seconds", record["seconds"])
                self._drop_checkpoints(trial)
                self._tell(live, score=record.get("objective"), failure=record["failure"])

    def _requeue(self, number: int, failure: str, *, seconds: float) -> None:
        """In an order in which being killed at any point loses no parameters and tries none twice."""
        trials = self.study.get_trials(deepcopy=False)
        frozen = trials[number]
        # a stop is our own doing and costs the trial none of its retries
        retries = frozen.user_attrs.get("retries", 0) + (failure == "killed")
        again = retries <= MAX_RETRIES
        if again and not any(t.user_attrs.get("retry_of") == number for t in trials):
            marks = {k: v for k, v in frozen.user_attrs.items() if k == "smaller_than"} | paired(frozen)
            self.study.enqueue_trial(
                # killed before it had drawn all that waited for it, it still waits
                frozen.system_attrs.get("fixed_params", {}) | frozen.params,
                user_attrs={"retries": retries, "first_number": first_number(frozen), "retry_of": number, **marks},
            )
        mark_trial(self._state_dir, self._name, number, state="FAIL", failure=failure, requeued=again, **paired(frozen))
        self._recovered(number, {"failure": failure})
        live = optuna.Trial(self.study, frozen._trial_id)  # noqa: SLF001  no public way from number to a live trial
        for key, value in {"failure": failure, "seconds": seconds, "requeued": again}.items():
            live.set_user_attr(key, value)
        if not again:
            self._drop_checkpoints(frozen)
        self.study.tell(number, state=TrialState.FAIL)

    def _drop_checkpoints(self, trial: FrozenTrial) -> None:
        """Before the trial is told: of a told one nobody thinks again."""
        shutil.rmtree(checkpoints(self._state_dir, self._name, first_number(trial)), ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with Lock(self._state_dir / "run" / "study.lock", wait=True):
            yield


def require_same_study(state_dir: Path, name: str, identity: StudyIdentity) -> None:
    """ConfigurationError when there is a study of that name and it was begun on other data or settings."""
    if not (state_dir / STUDY_DB).exists():  # asking SQLite would make one
        return
    found = optuna.get_all_study_summaries(_storage(state_dir), include_best_trial=False)
    for stored in (s.user_attrs for s in found if s.study_name == name and "begun" in s.user_attrs):
        identity.require(stored, name)


def first_number(trial: FrozenTrial) -> int:
    """The number under which these parameters were first tried: retries keep its checkpoints."""
    return int(trial.user_attrs.get("first_number", trial.number))


def seed_number(trial: FrozenTrial) -> int:
    """What the trial's seeds are derived from: its first number, or what it shares with the other half of its pair."""
    return int(trial.user_attrs.get("seed_number", first_number(trial)))


def paired(trial: FrozenTrial) -> dict[str, int]:
    """Which half of which pair it is, if any; not on which side."""
    return {key: trial.user_attrs[key] for key in ("pair", "half", "seed_number") if key in trial.user_attrs}


def storage_url(state_dir: Path) -> str:
    return f"sqlite:///{state_dir / STUDY_DB}"


def _storage(state_dir: Path) -> optuna.storages.RDBStorage:
    """SQLite gives up after five seconds; a backup reads for as long, and a busy disk takes its time to sync a commit."""
    return optuna.storages.RDBStorage(
        storage_url(state_dir), engine_kwargs={"connect_args": {"timeout": LOCKED_AT_MOST_S}}
    )


def trial_dir(state_dir: Path, study: str, number: int) -> Path:
    return state_dir / "trials" / study / str(number)


def checkpoints(state_dir: Path, study: str, number: int) -> Path:
    """Where the trial first tried as `number` keeps its unfinished trainings; a retry goes on from them."""
    return trial_dir(state_dir, study, number) / "checkpoints"


def mark_trial(state_dir: Path, study: str, number: int, **facts: Any) -> None:
    """Merge `facts` into the trial's plain record, which the janitor and the advisor read without Optuna."""
    path = trial_dir(state_dir, study, number) / "trial.json"
    record = json.loads(path.read_bytes()) if path.exists() else {"study": study, "number": number}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(record | facts, sort_keys=True, indent=1).encode())


def _finished(trials: list[FrozenTrial]) -> int:
    return sum(t.state in FINISHED and not t.user_attrs.get("requeued", False) for t in trials)


def _room(trials: list[FrozenTrial], target: int) -> int:
    running = sum(t.state == TrialState.RUNNING for t in trials)
    return target - _finished(trials) - running


def _is_alive(state_dir: Path, worker: str) -> bool:
    return Lock(state_dir / "run" / f"{worker}.lock").is_held()
