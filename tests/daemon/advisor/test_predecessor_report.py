"""The predecessor's study, built to the figures it published: the corrected figures, and each contradiction stated."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from predecessor_study import CLAIMS, study

from daemon.advisor.analysis import Analysis, analyse
from daemon.advisor.claims import Contradiction
from daemon.advisor.document import markdown
from daemon.advisor.parameters import parameter_rows
from daemon.advisor.records import Bounds, Trial
from daemon.advisor.report import blocks
from features.errors import ConfigurationError


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(study(), np.random.default_rng(1), CLAIMS)


@pytest.fixture(scope="module")
def text(analysis: Analysis) -> str:
    return markdown(blocks(analysis, changes=(), previous_utc=None, drawings={}))


def found(said: Sequence[Contradiction], words: str) -> str:
    return next(c.found for c in said if words in c.says)


@pytest.mark.parametrize(("words", "stated", "corrected"), [
    ("Learning rate 0.000001", "-93.7", "-95.5"), ("Entropy coefficient", "-65", "-75.8"), ("KL target 0.0056", "-23.3", "-39.8"),
    ("Min cash reserve 0.050", "-29.8", "-32.4"), ("Volatility penalty", "-30.4", "-81.2"), ("Batch size 1 (", "-18", "-29.6"),
    ("Break step 86,667", "-16.8", "-18.2"), ("Clip range 0.367", "+13.2", "+19.5"),
    ("Concentration penalty 0.093", "+11.7", "+29.2"),
])  # fmt: skip
def test_every_percentage_is_recomputed_from_the_displayed_values(
    analysis: Analysis, words: str, stated: str, corrected: str
) -> None:
    said = found(analysis.contradictions, words)
    assert f"is {corrected} %, not {stated} %" in said
    assert "that is 3 trials; the best 343 against 3082" in said


@pytest.mark.parametrize(("words", "figures"), [
    ("7.37 % return", ("no return", "0.0737")),
    ("very tight clustering", ("SD of 0.29 does not go with", "0.33 is the most", "3.59 SD above the mean")),
    ("KL target, 23.3 %", ("not above 30 %",)),
    ("Batch size = 1", ("no trial had batch_size = 1", "1536, 2048, 3072, 4096", "1 is the index of 2048")),
    ("Use LR schedule = 1", ("1 is the index of False",)),
    ("Network size 1280", ("agreement of relatives", "1280")),
    ("PPO epochs do not matter", ("3 trials show no equivalence, 60 could",)),
    ("345 trials in 24 hours", ("4.17 min", "12.52 worker-minutes", "59.9%", "576 a day")),
    ("about 12 hours", ("5.2 h",)),
    ("500 focused trials", ("1.45 days",)),
    ("3,425 trials completed", ("774 (18.4%) never completed",)),
    ("58 analyses", ("none of the choices 1536, 2048, 3072, 4096 lies there",)),
    ("Lock in learning rates of 1e-6 to 2e-6 /", ("opposite values of learning_rate",)),
    ("Lock in batch size 1 /", ("opposite values of batch_size",)),
])  # fmt: skip
def test_each_contradiction_of_the_original_is_stated(analysis: Analysis, words: str, figures: tuple[str, ...]) -> None:
    said = found(analysis.contradictions, words)
    for figure in figures:
        assert figure in said


def test_what_was_right_is_left_alone(analysis: Analysis) -> None:
    assert not [c for c in analysis.contradictions if "4.5 days" in c.says]


def test_six_of_the_discoveries_sat_at_a_bound(analysis: Analysis) -> None:
    at_edge = {r.name for r in analysis.rows if r.edge}
    assert at_edge >= {
        "learning_rate", "entropy_coef", "min_cash_reserve", "volatility_penalty", "clip_range", "concentration_penalty",
    }  # fmt: skip


def test_the_agreement_of_the_best_three_is_descent(analysis: Analysis) -> None:
    """All eight that were called identical: random triples of relatives agree as well."""
    agreeing = {a.name: a for a in analysis.agreement}
    for name in (
        "learning_rate",
        "gamma",
        "batch_size",
        "net_dimension",
        "norm_cash_exp",
        "norm_stocks_exp",
        "norm_tech_exp",
        "use_lr_schedule",
    ):
        assert len(set(agreeing[name].values)) == 1
        assert agreeing[name].p_neighbours > 0.2


def test_the_report_prints_the_corrected_figures(text: str) -> None:
    for figure in (
        "best tenth (343)", "+0.0671 … +0.0737, mean +0.0702", "14.4 completed", "59.9 %", "12.5 min, idle time included",
        "4.58 days", "774 FAIL", "12.9 years", "It is not a return", "444 GB", "98% busy",
    ):  # fmt: skip
        assert figure in text, figure
    assert "7.37 %" not in text.replace("7.37 % return", "").replace(
        "Best 7.37 %", ""
    )  # but in the other report's words


def test_it_finds_nothing_where_there_is_nothing_and_recommends_no_exploiting(analysis: Analysis) -> None:
    """Every value owes nothing to its score, as fourteen of the predecessor's dead parameters did."""
    assert not analysis.findings
    assert not next(r for r in analysis.routes if r.name == "exploit").met


def test_batch_size_2048_is_never_called_1(text: str, tmp_path: Path) -> None:
    """Through a database, where a choice is stored as its index."""
    space = {"batch_size": CategoricalDistribution((1536, 2048, 3072, 4096)), "gamma": FloatDistribution(0.88, 0.99)}
    made = optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}", direction="maximize")
    made.add_trials([
        optuna.trial.create_trial(params={"batch_size": 2048, "gamma": 0.9 + i / 1000}, distributions=space, value=float(i))
        for i in range(45)
    ])  # fmt: skip
    stored = made._storage._backend if hasattr(made._storage, "_backend") else made._storage
    with stored.engine.connect() as connection:
        raw = connection.exec_driver_sql(
            "SELECT param_value FROM trial_params WHERE param_name = 'batch_size'"
        ).fetchall()
    assert {r[0] for r in raw} == {1.0}
    trials = [
        Trial(number=t.number, state=t.state.name, score=t.value, parameters=t.params, seconds=1.0, failure=None)
        for t in made.get_trials()
    ]
    bounds = {"batch_size": Bounds(choices=(1536, 2048, 3072, 4096)), "gamma": Bounds(low=0.88, high=0.99)}
    row = parameter_rows(trials, bounds, np.random.default_rng(0))[0]
    assert (row.kind, row.top, row.rest) == ("choice", 2048, 2048)
    line = next(x for x in text.splitlines() if x.startswith("| batch_size"))
    assert "2048 (n 343)" in line and "| 1 " not in line


@pytest.mark.parametrize(("claim", "named"), [
    ({"kind": "horoscope", "says": "x"}, "horoscope"), ({"kind": "value", "says": "x", "parameter": "p"}, "value"),
    ({"kind": "eta", "trials": 1, "per_hour": 1, "stated_hours": [1, 1]}, "says"),
])  # fmt: skip
def test_a_claim_that_cannot_be_read_is_refused_by_name(claim: dict, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        analyse(study(), np.random.default_rng(0), [claim])
