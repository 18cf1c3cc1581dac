"""A focused study searches a part of the space, and nothing it tries lies outside it."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.child.config import parse
from daemon.child.search import search_space
from features.errors import ConfigurationError
from trainer.__main__ import main
from trainer.dataset import settings_text
from trainer.routes import Route, around_the_best, overlay, the_same_again
from trainer.space import Hyperparameters, defaults

SPACE = search_space("per_asset")


def drawn(route: Route, seed: int) -> Hyperparameters:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return route.suggest(study.ask())


def test_without_ranges_the_whole_space_is_searched_and_the_first_trial_is_the_default() -> None:
    route = Route.of("per_asset", 1, ())
    assert route.searched == SPACE and not route.locked
    assert all(getattr(Hyperparameters(), name) == value for name, value in route.first().items())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_what_is_locked_keeps_its_value_and_what_is_narrowed_stays_inside(seed: int) -> None:
    route = Route.of("per_asset", 1, ("width=64", "gamma=0.98..0.99", "minibatch=2048|4096", "epochs=3..3"))
    chosen = drawn(route, seed)
    assert chosen.width == 64 and chosen.epochs == 3
    assert 0.98 <= chosen.gamma <= 0.99 and chosen.minibatch in (2048, 4096)
    assert route.allows(chosen)
    assert "width" not in route.first() and route.first()["minibatch"] == 2048  # the default, 1024, is not there


@pytest.mark.parametrize(("text", "why"), [
    ("widht=64", "'widht' is not searched here"), ("width=65", "65 is none of"), ("gamma=0.5..0.99", "0.5 is outside"),
    ("gamma=0.99..0.98", "low end is above"), ("epochs=2.5", "not a whole number"), ("gamma=much", "could not convert"),
])  # fmt: skip
def test_a_range_that_is_not_inside_the_space_is_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        Route.of("per_asset", 1, (text,))


def trials(n: int) -> list[dict[str, Any]]:
    """Best first: the higher the learning rate, the better."""
    route = Route.of("per_asset", 1, ())
    chosen = sorted((drawn(route, seed) for seed in range(n)), key=lambda h: -h.learning_rate)
    return [{"parameters": h.to_dict()} for h in chosen]


def test_the_overlay_around_the_best_is_configuration_that_narrows_what_mattered() -> None:
    found = trials(100)
    text = overlay(
        name="s-focused", parent="s", policy="per_asset", ranges=around_the_best(found, SPACE), replicate=False
    )  # fmt: skip
    config = parse(tomllib.loads(text))
    assert (config.study.name, config.study.parent) == ("s-focused", "s")
    route = Route.of("per_asset", 1, config.study.ranges)
    rates = next(p for p in route.searched if p.name == "learning_rate")
    top = [t["parameters"]["learning_rate"] for t in found[:10]]
    assert rates.low == pytest.approx(np.quantile(top, 0.05), rel=1e-5) and rates.low > 2e-3
    assert settings_text(config) != settings_text(parse({}))  # its scores are a study of their own
    with pytest.raises(ConfigurationError, match="39 trials have a score"):
        around_the_best(found[:39], SPACE)


def test_a_replicate_locks_every_parameter_to_the_trials_own_value() -> None:
    (first, *_) = trials(3)
    again = the_same_again(first["parameters"], SPACE)
    text = overlay(name="s-0-again", parent="s", policy="per_asset", ranges=again, replicate=True)
    config = parse(tomllib.loads(text))
    route = Route.of("per_asset", 1, config.study.ranges)
    assert not route.searched and drawn(route, 1).to_dict() == first["parameters"]
    assert (config.study.seeds, config.study.target_trials) == (10, 1)


def test_the_overlay_of_another_studys_trial_brings_that_studys_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its ranges are of that network's space, and a configuration of another one would refuse them."""
    parameters = defaults("mlp").to_dict()
    trial = {"number": 3, "study": "wide", "state": "COMPLETE", "score": 1.0, "parameters": parameters}
    place = tmp_path / "trials" / "wide" / "3"
    place.mkdir(parents=True)
    (place / "trial.json").write_text(json.dumps(trial))
    (tmp_path / "config.json").write_text(parse({}).to_json())
    given = ["--config", str(tmp_path / "config.json"), "--state-dir", str(tmp_path)]
    assert main(["focus", *given, "--study", "wide", "--trial", "3"]) == 0
    config = parse(tomllib.loads(capsys.readouterr().out))
    route = Route.of(config.study.policy, 1, config.study.ranges)
    assert not route.searched and drawn(route, 1).to_dict() == parameters
