"""A configuration of PPO: one value for every parameter of the search space (`daemon.child.search`).

Penalties and the time decay shape the reward that PPO sees; no score is computed from a shaped reward.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import optuna

from daemon.child.search import NETWORKS, Head, Network, Parameter, search_space
from features.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """One configuration of PPO. Defaults are the middle ground that learns on the planted world."""

    policy: Network = "per_asset"
    lookback: int = 1
    head: Head = "gaussian"
    width: int = 32
    learning_rate: float = 2e-3
    lr_schedule: str = "linear"
    lr_final: float = 0.01
    train_share: float = 1.0
    accounts_per_group: int = 8
    rollout_bars: int = 128
    minibatch: int = 1024
    epochs: int = 4
    gamma: float = 0.985
    gae_lambda: float = 0.97
    clip_range: float = 0.2
    value_clip: float = 10.0
    entropy_coef: float = 1e-4
    value_coef: float = 0.5
    max_grad_norm: float = 0.5
    kl_target: float = 0.03
    adam_epsilon: float = 1e-5
    initial_log_std: float = 0.0
    fee_ramp: float = 1.0
    extra_cash_reserve: float = 0.0
    reward_time_decay_floor: float = 1.0
    reward_concentration_penalty: float = 0.0
    reward_drawdown_penalty: float = 0.0
    reward_turnover_penalty: float = 0.0
    reward_volatility_penalty: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], *, stack_bars: int = 1) -> Self:
        """ConfigurationError names every parameter that is unknown, missing or outside the space."""
        names = {f.name for f in fields(cls)}
        problems = [f"{n}: unknown" for n in record if n not in names]
        problems += [f"{n}: missing" for n in names if n not in record]
        network: Any = record.get("policy")
        if network not in NETWORKS:
            problems += [f"policy: {network!r} is none of {tuple(NETWORKS)}"] if "policy" in record else []
        else:
            known = {p.name: p for p in search_space(network, stack_bars)}
            problems += [f"{n}: {why}" for n, p in known.items() if n in record and (why := p.refusal(record[n]))]
        if problems:
            raise ConfigurationError("not a configuration of this space:\n  " + "\n  ".join(sorted(problems)))
        return cls(**record)


def suggest(parameter: Parameter, trial: optuna.Trial) -> Any:
    """The trial's value of it, drawn by the study's sampler."""
    if parameter.choices:
        return trial.suggest_categorical(parameter.name, parameter.choices)
    if parameter.integer:
        return trial.suggest_int(parameter.name, int(parameter.low), int(parameter.high), log=parameter.log)
    return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)


def defaults(network: Network) -> Hyperparameters:
    """What a search has to improve on."""
    if network == "per_asset":
        return Hyperparameters()
    return replace(Hyperparameters(), policy="mlp", width=256, learning_rate=3e-4)


assert {p.name for p in search_space("mlp", 2)} | {"policy"} == {f.name for f in fields(Hyperparameters)}
