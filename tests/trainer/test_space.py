"""No dead knob: every searched parameter changes the weights, and what it names moves the way it should.

Each case is two short trainings that differ in one parameter alone. Penalties are given far beyond their searched range,
so that a few updates show their direction; all other values lie within it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_env import RULES, TICKERS
from world import random_bars

from daemon.child.search import search_space
from features.allocation import Limits
from features.costs import Costs
from features.errors import ConfigurationError
from features.spec import preset
from trainer import ppo
from trainer.policy import Agent
from trainer.space import Hyperparameters, defaults
from trainer.vector_env import Problem

STACK_BARS = 2
SHORT = Hyperparameters(
    rollout_bars=32, minibatch=128, accounts_per_group=4, learning_rate=3e-3, width=16, kl_target=0.05, fee_ramp=0.5
)
UPDATES = 2


@cache
def problem() -> Problem:
    spec = preset("stationary", tickers=TICKERS, timeframe_s=3600, stack_bars=STACK_BARS)
    return Problem.of(
        random_bars(4, n_bars=700), spec, costs=Costs(fee_bps=25.0, half_spread_bps=2.0, slippage_bps=3.0),
        limits=Limits(min_cash_reserve=0.2, max_weight=1.0, no_trade_band=0.0), rules=RULES,
    )  # fmt: skip


@cache
def trained(h: Hyperparameters, updates: int) -> ppo.TrainedPolicy:
    return ppo.train_portfolio(
        problem(), h, accounts=16, steps=updates * 16 * SHORT.rollout_bars, seed=3, on_update=lambda stats, pack: None,
        monotonic_s=iter(range(10_000)).__next__,
    )  # fmt: skip


def first(name: str) -> Callable[[ppo.TrainedPolicy], float]:
    return lambda made: float(getattr(made.history[0], name))


def middle(name: str) -> Callable[[ppo.TrainedPolicy], float]:
    return lambda made: float(getattr(made.history[len(made.history) // 2], name))


def last(name: str) -> Callable[[ppo.TrainedPolicy], float]:
    return lambda made: float(getattr(made.history[-1], name))


def moved(made: ppo.TrainedPolicy) -> float:
    """How far the largest matrix went from where it began."""
    untrained = ppo.train_portfolio(
        problem(), replace(SHORT, learning_rate=1e-30), accounts=16, steps=1, seed=3, on_update=lambda *_: None,
        monotonic_s=iter(range(10)).__next__,
    )  # fmt: skip
    return float(np.abs(made.weights["market_encoder.weight"] - untrained.weights["market_encoder.weight"]).mean())


def inputs_read(made: ppo.TrainedPolicy) -> float:
    return float(np.any(made.weights["asset_encoder.weight"] != 0, axis=0).sum())


def parameters(made: ppo.TrainedPolicy) -> float:
    return float(sum(w.size for w in made.weights.values()))


@dataclass(frozen=True, kw_only=True)
class Case:
    """`low` and `high` are ordered by what is `seen`: it must be larger under `high`."""

    low: Any
    high: Any
    seen: Callable[[ppo.TrainedPolicy], float]
    updates: int = UPDATES
    given: dict[str, Any] = field(default_factory=dict)


def penalised(seen: str, size: float) -> Case:
    """With the penalty there is less of what it penalises."""
    return Case(low=size, high=0.0, seen=last(seen), updates=16, given={"fee_ramp": 0.8})


CASES = {
    "width": Case(low=16, high=32, seen=parameters),
    "learning_rate": Case(low=5e-4, high=5e-3, seen=moved),
    "lookback": Case(low=1, high=2, seen=inputs_read),
    "head": Case(low="dirichlet", high="gaussian", seen=first("entropy")),  # the simplex has less room than the logits
    "lr_schedule": Case(low="exponential", high="linear", seen=middle("learning_rate"), updates=4),
    "lr_final": Case(low=0.01, high=1.0, seen=last("learning_rate")),
    "train_share": Case(low=0.6, high=1.0, seen=last("steps"), updates=6),
    "accounts_per_group": Case(low=8, high=4, seen=first("groups")),
    "rollout_bars": Case(low=32, high=64, seen=first("steps")),
    "minibatch": Case(low=256, high=128, seen=first("minibatches")),
    "epochs": Case(low=2, high=4, seen=first("epochs")),
    "gamma": Case(low=0.96, high=0.995, seen=first("target_deviation")),
    "gae_lambda": Case(low=0.9, high=0.99, seen=first("advantage_deviation")),
    "clip_range": Case(low=0.1, high=0.3, seen=first("ratio_deviation"), given={"learning_rate": 5e-3, "epochs": 10}),
    "value_clip": Case(low=0.2, high=10.0, seen=first("value_moved"), given={"learning_rate": 5e-3, "epochs": 10}),
    "entropy_coef": Case(low=1e-5, high=1e-2, seen=last("entropy"), updates=6),
    "value_coef": Case(low=0.25, high=1.0, seen=first("gradient_norm")),
    "max_grad_norm": Case(low=0.3, high=2.0, seen=first("applied_norm")),
    "kl_target": Case(low=0.005, high=0.05, seen=first("epochs"), given={"learning_rate": 5e-3, "epochs": 10}),
    "adam_epsilon": Case(low=1e-5, high=1e-9, seen=moved, updates=1),
    "initial_log_std": Case(low=-1.0, high=0.5, seen=first("turnover")),
    "fee_ramp": Case(low=0.8, high=0.2, seen=middle("fee_share"), updates=4),
    "extra_cash_reserve": Case(low=0.0, high=0.1, seen=last("cash_share")),
    "reward_time_decay_floor": Case(low=1.0, high=0.5, seen=first("shaping_size_bps")),
    "reward_concentration_penalty": penalised("concentration", 5.0),
    "reward_drawdown_penalty": penalised("drawdown", 20.0),
    "reward_turnover_penalty": penalised("turnover", 50.0),
    "reward_volatility_penalty": penalised("volatility_bps", 2000.0),
}


def test_the_table_of_cases_covers_the_whole_space() -> None:
    assert set(CASES) == {p.name for p in search_space("per_asset", STACK_BARS)}


@pytest.mark.parametrize("name", list(CASES))
def test_a_searched_parameter_changes_the_weights_and_what_it_names_moves_the_right_way(name: str) -> None:
    """Lessons: a parameter that changes nothing makes a search a lottery."""
    case = CASES[name]
    low, high = (
        trained(replace(SHORT, **case.given, **{name: value}), case.updates) for value in (case.low, case.high)
    )
    assert any(
        low.weights[n].shape != high.weights[n].shape or not np.array_equal(low.weights[n], high.weights[n])
        for n in low.weights
    )
    assert case.seen(low) < case.seen(high)


@pytest.mark.parametrize("network", ["per_asset", "mlp"])
def test_the_defaults_lie_within_the_space_and_every_bound_has_its_reason(network: Any) -> None:
    known = defaults(network)
    assert Hyperparameters.from_dict(known.to_dict()) == known
    for parameter in search_space(network, 3):
        assert len(parameter.reason) > 15
        assert not parameter.refusal(getattr(known, parameter.name)), parameter.name
        for bound in parameter.choices or (parameter.low, parameter.high):
            assert not parameter.refusal(bound)


def test_the_widest_network_is_as_wide_as_the_predecessors() -> None:
    width = next(p for p in search_space("mlp") if p.name == "width")
    assert max(width.choices) == 2048
    made = Agent.for_portfolio(problem().layout, replace(defaults("mlp"), width=2048), stack_bars=STACK_BARS)
    assert made.policy.export()["hidden_2.weight"].shape == (2048, 2048)


def test_how_many_stacked_bars_are_read_is_searched_only_where_bars_are_stacked() -> None:
    assert "lookback" not in {p.name for p in search_space("per_asset", 1)}
    stacked = {p.name: p for p in search_space("per_asset", 5)}
    assert (stacked["lookback"].low, stacked["lookback"].high) == (1, 5)


def test_a_record_that_is_no_configuration_is_refused_with_every_problem_named() -> None:
    record = Hyperparameters().to_dict() | {"gamma": 1.5, "clip": 0.2, "width": 48, "epochs": math.nan}
    del record["head"]
    with pytest.raises(ConfigurationError) as caught:
        Hyperparameters.from_dict(record)
    text = str(caught.value)
    for part in ("gamma: 1.5 is outside", "clip: unknown", "width: 48 is none of", "epochs: nan", "head: missing"):
        assert part in text
    with pytest.raises(ConfigurationError, match="policy: 'cnn' is none of"):
        Hyperparameters.from_dict(Hyperparameters().to_dict() | {"policy": "cnn"})


def test_no_score_is_computed_from_a_shaped_reward() -> None:
    """Shaping is a matter of training alone: the modules that score know no hyperparameter."""
    from trainer import baselines, evaluate, gates, score

    names = {f.name for f in fields(Hyperparameters) if f.name.startswith("reward_")}
    assert len(names) == 5
    for module in (score, evaluate, gates, baselines):
        text = Path(module.__file__).read_text()
        assert "trainer.space" not in text and "trainer.rollout" not in text
        assert not {n for n in names if n in text}
