"""The search space: every hyperparameter once, with its bounds and the reason for them."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import optuna

from features.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """One configuration of PPO. Defaults are the middle ground that learns on the planted world."""

    learning_rate: float = 2e-3
    lr_schedule: str = "linear"
    minibatch: int = 1024
    rollout_bars: int = 128
    epochs: int = 4
    gamma: float = 0.985
    gae_lambda: float = 0.97
    clip_range: float = 0.2
    entropy_coef: float = 1e-4
    value_coef: float = 0.5
    max_grad_norm: float = 0.5
    kl_target: float = 0.03
    adam_epsilon: float = 1e-5
    width: int = 32
    initial_log_std: float = -0.5
    reward_drawdown_penalty: float = 0.0
    reward_turnover_penalty: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """ConfigurationError names every parameter that is unknown, missing or outside the space."""
        known = {p.name: p for p in SPACE}
        problems = [f"{n}: unknown" for n in record if n not in known]
        problems += [f"{n}: missing" for n in known if n not in record]
        problems += [f"{n}: {why}" for n, p in known.items() if n in record and (why := p.refusal(record[n]))]
        if problems:
            raise ConfigurationError("not a configuration of this space:\n  " + "\n  ".join(problems))
        return cls(**{n: record[n] for n in known})


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A searched parameter: a numeric range (`log` searched on the log scale) or a list of choices."""

    name: str
    reason: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: optuna.Trial) -> Any:
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.integer:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def to_dict(self) -> dict[str, Any]:
        if self.choices:
            return {"choices": list(self.choices), "reason": self.reason}
        return {"low": self.low, "high": self.high, "log": self.log, "integer": self.integer, "reason": self.reason}

    def refusal(self, value: Any) -> str:
        """Why `value` is not allowed; empty when it is."""
        if self.choices:
            return "" if value in self.choices else f"{value!r} is none of {self.choices}"
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"{value!r} is not a finite number"
        if self.integer and value != int(value):
            return f"{value!r} is not a whole number"
        return "" if self.low <= value <= self.high else f"{value!r} is outside {self.low} … {self.high}"


SPACE = (
    Parameter(name="learning_rate", low=5e-4, high=5e-3, log=True, reason="below, 60 s of training move nothing"),
    Parameter(name="lr_schedule", choices=("constant", "linear", "cosine"), reason="decay is often decisive in PPO"),
    Parameter(name="minibatch", choices=(512, 1024, 2048, 4096), reason="smaller is noise, larger wastes the rollout"),
    Parameter(name="rollout_bars", choices=(64, 128, 256), reason="2.7 to 11 days of hourly bars per update"),
    Parameter(name="epochs", low=2, high=10, integer=True, reason="passes over one rollout before its data is stale"),
    Parameter(
        name="gamma",
        low=0.96,
        high=0.995,
        reason="horizons of 25 to 200 bars; a shorter one cannot earn back the costs",
    ),
    Parameter(name="gae_lambda", low=0.9, high=0.99, reason="Schulman 2016: bias against variance"),
    Parameter(name="clip_range", low=0.1, high=0.3, reason="Schulman 2017 uses 0.2"),
    Parameter(name="entropy_coef", low=1e-5, high=1e-3, log=True, reason="above, the weights stay random"),
    Parameter(name="value_coef", low=0.25, high=1.0, reason="separate critic: the scale of its gradient only"),
    Parameter(name="max_grad_norm", low=0.3, high=2.0, reason="clips the rare crash bar"),
    Parameter(name="kl_target", low=0.005, high=0.05, log=True, reason="stops epochs that move the policy too far"),
    Parameter(name="adam_epsilon", low=1e-8, high=1e-5, log=True, reason="the usual range of Adam in RL"),
    Parameter(name="width", choices=(16, 32, 64), reason="wider networks were not better on hourly data, only slower"),
    Parameter(name="initial_log_std", low=-1.5, high=0.0, reason="exploration of the logits at the start"),
    Parameter(name="reward_drawdown_penalty", low=0.0, high=0.1, reason="shaping only, never part of the score"),
    Parameter(name="reward_turnover_penalty", low=0.0, high=0.1, reason="shaping only, never part of the score"),
)


def suggest(trial: optuna.Trial) -> Hyperparameters:
    return Hyperparameters(**{p.name: p.suggest(trial) for p in SPACE})


assert {p.name for p in SPACE} == {f.name for f in fields(Hyperparameters)}
