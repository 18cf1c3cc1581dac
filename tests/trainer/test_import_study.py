"""Another system's study is read as it is: decoded, flagged, and never added to. A real database by Optuna itself."""

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from daemon.child.config import parse
from features.errors import ConfigurationError
from features.files import read_json, write_atomic
from trainer.__main__ import main
from trainer.import_study import read_study, write_study

PROGRAM = Path(sys.executable).with_name("cappuccinoctl")
SPACE = {
    "net_dimension": CategoricalDistribution((64, 128, 1280)),
    "learning_rate": FloatDistribution(1e-6, 1e-2, log=True),
    "clip_range": FloatDistribution(0.1, 0.3),
}


def trial(i: int, *, splits: int = 6, timeframe: str = "1h", value: float | None = None) -> FrozenTrial:
    rng = np.random.default_rng(i)
    bot, hodl = rng.normal(0.1, 0.05, splits), rng.normal(0.0, 0.05, splits)
    score = float(bot.mean() - hodl.mean() - 0.1 * bot.std())
    parameters = {"net_dimension": 1280 if i % 2 else 64, "learning_rate": 10 ** rng.uniform(-6, -2), "clip_range": 0.2}
    return create_trial(
        state=TrialState.COMPLETE, value=score if value is None else value, params=parameters, distributions=SPACE,
        user_attrs={"timeframe": timeframe, "sharpe_list_bot": bot.tolist(), "sharpe_list_hodl": hodl.tolist()},
    )  # fmt: skip


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("earlier") / "earlier.db"
    study = optuna.create_study(storage=f"sqlite:///{path}", study_name="earlier", direction="maximize")
    study.add_trials([trial(i) for i in range(44)])
    study.add_trial(trial(44, splits=4))  # two splits were dropped from its mean
    study.add_trial(trial(45, timeframe="5m"))
    study.add_trial(trial(46, value=99.0))  # no mean of these splits
    study.add_trial(create_trial(state=TrialState.FAIL, params={}, distributions={}))
    return path


def test_categoricals_are_decoded_and_scores_that_cannot_be_compared_are_set_aside_with_the_reason(
    database: Path,
) -> None:
    found = read_study(str(database), "")
    assert [t["parameters"]["net_dimension"] for t in found.trials[:4]] == [64, 1280, 64, 1280]  # stored: 0 and 2
    assert [t["flags"][0].split(":")[0] for t in found.trials[44:47]] == [
        "dropped splits", "other timeframe", "score does not follow from its splits",
    ]  # fmt: skip
    assert all("score" not in t and t["raw_value"] is not None for t in found.trials[44:47])
    assert found.trials[47]["state"] == "FAIL" and "score" not in found.trials[47]
    assert any("connected to nothing in the predecessor: clip_range" in f for f in found.flags)
    assert found.space["learning_rate"]["log"] and found.space["net_dimension"]["choices"] == [64, 128, 1280]
    assert found.summary()["comparable"] == 44


def test_a_study_that_minimised_is_turned_round_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "loss.db"
    study = optuna.create_study(storage=f"sqlite:///{path}", study_name="loss", direction="minimize")
    study.add_trial(create_trial(value=2.0, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)}))
    found = read_study(str(path), "loss")
    assert found.trials[0]["score"] == -2.0 and any("minimised" in f for f in found.flags)


def test_what_cannot_be_read_or_would_be_overwritten_is_refused_by_name(database: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no file"):
        read_study(str(tmp_path / "none.db"), "")
    with pytest.raises(ConfigurationError, match="it has: earlier"):
        read_study(str(database), "later")
    found = read_study(str(database), "earlier")
    write_study(tmp_path, "theirs", found, at_utc="now")
    with pytest.raises(ConfigurationError, match="there is a study 'theirs' already"):
        write_study(tmp_path, "theirs", found, at_utc="now")
    with pytest.raises(ConfigurationError, match="cannot be the name"):
        write_study(tmp_path, "../theirs", found, at_utc="now")


def test_a_file_that_holds_no_study_is_refused_and_left_as_it_is(database: Path, tmp_path: Path) -> None:
    prose, other, named = tmp_path / "notes.txt", tmp_path / "other.db", tmp_path / "a b?#%.db"
    prose.write_text("not a database")
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE prices (close REAL)")
    for path in (prose, other):
        before = path.read_bytes()
        with pytest.raises(ConfigurationError, match="is not a study"):
            read_study(str(path), "")
        assert path.read_bytes() == before
    with pytest.raises(ConfigurationError, match="is not a study"):
        read_study("nosuchbase://host/name", "")
    shutil.copy(database, named)
    assert len(read_study(str(named), "").trials) == 48


def test_an_imported_study_can_be_listed_and_analysed_but_neither_judged_nor_worked_on(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(PROGRAM), "import-study", "--state-dir", str(tmp_path), "--json", str(database), "--name", "theirs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["comparable"] == 44
    advised = subprocess.run(
        [str(PROGRAM), "advise", "--state-dir", str(tmp_path), "--set", "study.name=theirs"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert advised.returncode == 0, advised.stderr
    assert read_json(tmp_path / "advice" / "latest.json")["summary"].startswith("44 trials analysed")
    given = tmp_path / "given.json"
    write_atomic(given, parse({"study": {"name": "theirs"}}).to_json().encode())
    options = ["--config", str(given), "--state-dir", str(tmp_path)]
    assert main(["trials", *options, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["trials"]) == 20
    for verb in (["judge"], ["work"], ["focus"], ["focus", "--trial", "3"]):
        assert main([*verb, *options]) == 78
        assert "was imported: it can be read, not run or judged" in capsys.readouterr().err
