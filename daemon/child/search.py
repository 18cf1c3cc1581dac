"""The search space as plain data: every hyperparameter once, with its bounds and the reason for them.

What a search may be narrowed to (`study.ranges`) is refused before anything is started, by programs that know nothing of
training; `trainer.space` makes configurations of it. `docs/hyperparameters.md` maps the predecessor's names to these.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from daemon.child import advice
from features.errors import ConfigurationError

Network = Literal["per_asset", "mlp"]
Head = Literal["gaussian", "dirichlet"]


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

    def to_dict(self) -> dict[str, Any]:
        if self.choices:
            return {"choices": list(self.choices), "reason": self.reason}
        return {"low": self.low, "high": self.high, "log": self.log, "integer": self.integer, "reason": self.reason}

    def refusal(self, value: Any) -> str:
        """Why `value` is not allowed; empty when it is."""
        found = advice.refusal(value, self.span, integer=self.integer)
        return "" if found is None else found[1]

    @property
    def span(self) -> advice.Span:
        return advice.Span(low=self.low, high=self.high, choices=self.choices)


def _range(name: str, low: float, high: float, reason: str) -> Parameter:
    return Parameter(name=name, low=low, high=high, reason=reason)


def _log(name: str, low: float, high: float, reason: str) -> Parameter:
    return Parameter(name=name, low=low, high=high, log=True, reason=reason)


def _whole(name: str, low: int, high: int, reason: str) -> Parameter:
    return Parameter(name=name, low=low, high=high, integer=True, reason=reason)


def _choice(name: str, choices: tuple[Any, ...], reason: str) -> Parameter:
    return Parameter(name=name, choices=choices, reason=reason)


NETWORKS: dict[Network, tuple[Parameter, ...]] = {
    "per_asset": (
        _choice("width", (16, 32, 64), "wider shared encoders were not better on hourly data, only slower"),
        _log("learning_rate", 5e-4, 5e-3, "below, a minute of training moves nothing; above, the policy collapses"),
    ),
    "mlp": (
        _choice("width", (64, 128, 256, 512, 1024, 1280, 1536, 2048), "net_dimension; the predecessor went to 2048"),
        _log("learning_rate", 1e-5, 1e-3, "wider networks move further per step; the predecessor's 1e-6 moved nothing"),
    ),
}

COMMON = (
    _choice("head", get_args(Head), "noise on the logits, or on the simplex itself: which explores better is open"),
    _choice("lr_schedule", ("linear", "cosine", "exponential"), "the shape of the decay; how far is lr_final"),
    _log("lr_final", 0.01, 1.0, "share of the learning rate left at the end; 1 is no schedule at all"),
    _range("train_share", 0.6, 1.0, "share of study.train_steps used: stopping early is a regulariser"),
    _choice("accounts_per_group", (4, 8, 16), "more share their bars: less luck in an advantage, fewer distinct markets"),
    _choice("rollout_bars", (64, 128, 256), "2.7 to 11 days of hourly bars per update"),
    _choice("minibatch", (512, 1024, 2048, 4096), "smaller is noise, larger wastes the rollout"),
    _whole("epochs", 2, 10, "passes over one rollout before its data is stale"),
    _range("gamma", 0.96, 0.995, "horizons of 25 to 200 bars; a shorter one cannot earn back the costs"),
    _range("gae_lambda", 0.9, 0.99, "Schulman 2016: bias against variance"),
    _range("clip_range", 0.1, 0.3, "Schulman 2017 uses 0.2"),
    _log("value_clip", 0.2, 10.0, "standard deviations a value may move per update; 10 is no clip"),
    _log("entropy_coef", 1e-5, 1e-3, "above, the weights stay random"),
    _range("value_coef", 0.25, 1.0, "the critic's share of the jointly clipped gradient"),
    _range("max_grad_norm", 0.3, 2.0, "clips the rare crash bar"),
    _log("kl_target", 0.005, 0.05, "stops epochs that move the policy too far"),
    _log("adam_epsilon", 1e-9, 1e-5, "the predecessor's range; larger damps parameters with small gradients"),
    _range("initial_log_std", -1.0, 0.5, "of the logits: less noise hides what a change is worth, more never settles"),
    _range("fee_ramp", 0.2, 1.0, "share of training over which the fee grows from 0; 0 learns to stand still first"),
    _range("extra_cash_reserve", 0.0, 0.1, "kept beyond allocation.min_cash_reserve; the predecessor liked .04 to .08"),
    _range("reward_time_decay_floor", 0.5, 1.0, "shaping: what the last bar of an episode counts, the first being 1"),
    _range("reward_concentration_penalty", 0.0, 0.03, "shaping: at .03 holding one coin for seven costs 2.6 bp a bar"),
    _range("reward_drawdown_penalty", 0.0, 0.3, "shaping: at .3 a loss below the peak weighs 30 % more"),
    _range("reward_turnover_penalty", 0.0, 0.1, "shaping: at .1 trading costs another 10 bp"),
    _range("reward_volatility_penalty", 0.0, 4.0, "shaping: risk aversion beyond the 1 of log wealth"),
)  # fmt: skip


def search_space(network: Network, stack_bars: int = 1) -> tuple[Parameter, ...]:
    """What is searched for this network. With more than one stacked bar, how many of them the policy reads, too."""
    lookback = _whole("lookback", 1, stack_bars, "newest of the stacked bars that the policy reads")
    return (*NETWORKS[network], *COMMON, *((lookback,) if stack_bars > 1 else ()))


def narrowed(space: Sequence[Parameter], ranges: Sequence[str]) -> tuple[tuple[Parameter, ...], dict[str, Any]]:
    """(what is searched, what is locked) of the space under `study.ranges`.

    "width=32" locks a parameter, "head=gaussian|dirichlet" and "gamma=0.97..0.99" narrow it. ConfigurationError names
    every one that is not inside the space.
    """
    left = {p.name: p for p in space}
    locked: dict[str, Any] = {}
    problems = []
    for text in ranges:
        name, _, rest = (part.strip() for part in text.partition("="))
        if name not in left:
            problems.append(f"{text}: {name!r} is not searched here" if name not in locked else f"{text}: twice")
            continue
        try:
            part = _narrowed(left[name], rest)
        except ValueError as error:
            problems.append(f"{text}: {error}")
            continue
        if isinstance(part, Parameter):
            left[name] = part
        else:
            locked[name] = part.value
            del left[name]
    if problems:
        raise ConfigurationError(
            "study.ranges does not fit the space:\n  " + "\n  ".join(problems),
            hint='write "width=32", "head=gaussian|dirichlet" or "gamma=0.97..0.99"',
        )
    return tuple(left.values()), locked


@dataclass(frozen=True, slots=True)
class _Locked:
    value: Any


def _narrowed(parameter: Parameter, text: str) -> Parameter | _Locked:
    """ValueError says why not."""
    if parameter.choices:
        wanted = [part.strip() for part in text.split("|")]
        unknown = [w for w in wanted if w not in map(str, parameter.choices)]
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is none of {parameter.choices}")
        kept = tuple(c for c in parameter.choices if str(c) in wanted)
        return _Locked(kept[0]) if len(kept) == 1 else replace(parameter, choices=kept)
    low, dots, high = text.partition("..")
    ends = [_number(parameter, end) for end in ((low, high) if dots else (low,))]
    if why := next((why for end in ends if (why := parameter.refusal(end))), ""):
        raise ValueError(why)
    if ends[0] > ends[-1]:
        raise ValueError("its low end is above its high end")
    return _Locked(ends[0]) if ends[0] == ends[-1] else replace(parameter, low=ends[0], high=ends[-1])


def _number(parameter: Parameter, text: str) -> float:
    value = float(text)
    return int(value) if parameter.integer and value.is_integer() else value
