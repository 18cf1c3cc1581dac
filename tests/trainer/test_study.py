"""The study that workers share, with real storage, real locks and real deaths."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from optuna.trial import TrialState

from features.errors import ConfigurationError
from features.files import Lock
from trainer.routes import Route
from trainer.space import suggest
from trainer.study import SharedStudy, StudyIdentity, first_number, trial_dir

ROUTE = Route.of("per_asset", 1, ())
IDENTITY = StudyIdentity(data_sha256="d" * 64, fingerprint="f" * 64, settings="{}")


def opened(
    state_dir: Path, worker: str = "worker-0", *, target: int = 3, identity: StudyIdentity = IDENTITY, startup: int = 2
) -> SharedStudy:
    return SharedStudy(
        state_dir=state_dir,
        name="s",
        worker=worker,
        target_trials=target,
        startup_trials=startup,
        seed=1,
        identity=identity,
        route=ROUTE,
    )


def test_exactly_the_target_is_run_whoever_asks(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path, "worker-1")
    with Lock(tmp_path / "run" / "worker-0.lock"), Lock(tmp_path / "run" / "worker-1.lock"):
        asked = [one.next_trial(), two.next_trial()]
        for study, trial in zip((one, two), asked, strict=True):
            assert trial is not None
            ROUTE.suggest(trial)
            study.finish(trial, score=1.0, failure=None, seconds=1.0)
        last = one.next_trial()
        assert last is not None
        assert two.next_trial() is None  # the third and last is running
        ROUTE.suggest(last)
        one.finish(last, score=None, failure="diverged", seconds=1.0)
        assert one.next_trial() is None
    assert one.progress()["finished"] == 3


def test_a_trial_whose_worker_was_killed_is_retried_once_with_the_same_parameters_then_failed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, {here!r});"
        "from test_study import ROUTE, opened; from features.files import Lock; "
        "d = Path({state!r}); lock = Lock(d / 'run' / 'worker-0.lock'); lock.__enter__();"
        "t = opened(d).next_trial(); ROUTE.suggest(t); print(t.number, flush=True); sys.stdin.read()"
    ).format(here=str(Path(__file__).parent), state=str(tmp_path))
    parameters = []
    for expected in (0, 1):
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert int(child.stdout.readline()) == expected
            os.kill(child.pid, signal.SIGKILL)
    study = opened(tmp_path, "worker-1")
    fresh = study.next_trial()
    assert fresh is not None and fresh.number == 2
    trials = study.study.get_trials(deepcopy=False)
    assert [t.state for t in trials] == [TrialState.FAIL, TrialState.FAIL, TrialState.RUNNING]
    assert [t.user_attrs.get("failure") for t in trials[:2]] == ["killed", "killed"]
    parameters = [t.params for t in trials[:2]]
    assert parameters[0] == parameters[1]
    assert first_number(trials[1]) == 0  # same seeds as the first attempt
    assert study.progress()["finished"] == 1  # the retried attempt does not count twice
    assert json.loads((trial_dir(tmp_path, "s", 1) / "trial.json").read_bytes())["failure"] == "killed"


def test_a_stopped_trial_is_handed_back_and_costs_no_retry(tmp_path: Path) -> None:
    study = opened(tmp_path)
    with Lock(tmp_path / "run" / "worker-0.lock"):
        for _ in range(4):
            trial = study.next_trial()
            assert trial is not None
            given = ROUTE.suggest(trial)
            study.hand_back(trial, seconds=0.1)
        trial = study.next_trial()
        assert trial is not None
        assert ROUTE.suggest(trial) == given
    assert study.progress()["finished"] == 0


def test_a_study_begun_on_other_data_refuses_to_go_on(tmp_path: Path) -> None:
    opened(tmp_path)
    other = StudyIdentity(data_sha256="e" * 64, fingerprint="f" * 64, settings="{}")
    with pytest.raises(ConfigurationError, match="data_sha256") as caught:
        opened(tmp_path, identity=other)
    assert caught.value.exit_code == 78


def test_a_worker_that_starts_again_draws_other_random_trials_than_in_its_life_before(tmp_path: Path) -> None:
    drawn = []
    for _ in range(3):
        study = opened(tmp_path, target=9, startup=9)
        for _ in range(3):
            trial = study.next_trial()
            assert trial is not None
            drawn.append(ROUTE.suggest(trial))
            study.finish(trial, score=1.0, failure=None, seconds=1.0)
    assert len(set(drawn)) == len(drawn)


def test_how_far_the_study_was_judged_outlives_the_process(tmp_path: Path) -> None:
    assert opened(tmp_path).judged() == 0
    opened(tmp_path).mark_judged(2, complete=False)
    assert opened(tmp_path, "worker-1").judged() == 2
    assert opened(tmp_path).judged(complete=True) == 0
    opened(tmp_path).mark_judged(3, complete=True)
    opened(tmp_path).mark_judged(4, complete=False)
    assert (opened(tmp_path).judged(), opened(tmp_path).judged(complete=True)) == (4, 3)


def test_a_trial_killed_while_it_drew_still_has_what_waited_for_it(tmp_path: Path) -> None:
    """A study's first trial is the known good one, also when its worker dies over the third parameter."""
    asked = opened(tmp_path).next_trial()
    assert asked is not None
    for parameter in ROUTE.searched[:3]:
        suggest(parameter, asked)
    again = opened(tmp_path, "worker-1").next_trial()  # nobody holds the first one's lock
    assert again is not None and first_number(again.study.get_trials()[again.number]) == 0
    ROUTE.suggest(again)
    assert again.params == ROUTE.first()


def test_a_study_that_another_program_holds_for_longer_than_sqlite_waits_is_waited_for(tmp_path: Path) -> None:
    """A backup reads it all in one transaction, and meanwhile nobody commits."""
    study = opened(tmp_path)
    held = sqlite3.connect(tmp_path / "study.db", isolation_level=None, check_same_thread=False)
    held.execute("BEGIN")
    held.execute("SELECT COUNT(*) FROM studies").fetchone()
    release = threading.Timer(6.5, held.rollback)
    release.start()
    with Lock(tmp_path / "run" / "worker-0.lock"):
        trial = study.next_trial()
        assert trial is not None and trial.number == 0
    release.join()
    held.close()
