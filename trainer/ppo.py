"""Proximal policy optimisation, in the order in which it happens.

Sources: Schulman et al. 2017 (PPO: clipped surrogate), Schulman et al. 2016 (GAE), Huang et al. 2022 ("The 37
implementation details of PPO": advantage normalisation per minibatch, Adam epsilon, gradient clipping, value clipping,
KL stop), Pardo et al. 2018 (a truncated episode is bootstrapped, a terminated one is not), van Hasselt et al. 2016
(value normalisation that moves no value). What an action was worth is in `rollout`, the networks are in `policy`, the
noise is in `heads`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from daemon.child.search import Network
from features.allocation import Limits
from features.errors import CappuccinoError
from trainer.checkpoint import pack, require_same, unpack
from trainer.policy import Agent
from trainer.replay import Replay
from trainer.rollout import Environment, RewardScale, Rollout, ValueScale, cells_of, collect
from trainer.space import Hyperparameters
from trainer.vector_env import Problem


class TrainingDiverged(CappuccinoError):
    """A loss or a weight is no longer finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStats:
    """After each update. `steps` account-steps so far; the rest describes the rollout or the passes over it.

    mean_reward_bps is what was earned, before any shaping; shaping_bps is what shaping took off it and
    shaping_size_bps the mean size of that. groups walk different bars. policy_kl and
    ratio_deviation (largest |ratio − 1|) are of the last pass; gradient_norm is before the clip, applied_norm after it,
    both averaged over `minibatches`.
    """

    steps: int
    mean_reward_bps: float
    shaping_bps: float
    shaping_size_bps: float
    groups: int
    turnover: float
    drawdown: float
    cash_share: float
    concentration: float
    volatility_bps: float
    episodes: float
    advantage_deviation: float
    target_deviation: float
    policy_kl: float
    ratio_deviation: float
    value_loss: float
    value_moved: float
    entropy: float
    epochs: int
    minibatches: int
    gradient_norm: float
    applied_norm: float
    learning_rate: float
    fee_share: float
    samples_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedPolicy:
    """weights as `features.actor.weight_shapes(kind, ...)`; steps actually taken; one record per update.

    limits: those it was trained under and has to trade under. scales: what the reward and value normalisers learned.
    """

    kind: Network
    width: int
    limits: Limits
    weights: dict[str, NDArray[np.float32]]
    steps: int
    scales: dict[str, float]
    history: tuple[UpdateStats, ...]


OnUpdate = Callable[[UpdateStats, Callable[[], bytes]], None]
"""(what happened, a function that packs the whole training as it stands): may raise to stop."""


def train_portfolio(
    problem: Problem, h: Hyperparameters, *, accounts: int, steps: int, seed: int, on_update: OnUpdate,
    monotonic_s: Callable[[], float], resume: bytes | None = None,
) -> TrainedPolicy:  # fmt: skip
    """Train one policy for `h.train_share` of `steps` account-steps.

    Same seed, machine and thread count → same weights, and a training that goes on from `resume` (what an earlier one
    with the same arguments packed) ends in the same weights as one that was never interrupted. Raises TrainingDiverged
    on a non-finite loss and DataError when `resume` belongs to another training.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        agent = Agent.for_portfolio(problem.layout, h, stack_bars=problem.stack_bars)
    agent.to(problem.market.market.device)
    problem = replace(problem, limits=problem.limits.with_extra_reserve(h.extra_cash_reserve))
    per_group = min(accounts, h.accounts_per_group)
    env = problem.batched(
        groups=max(1, accounts // per_group), accounts_per_group=per_group, seed=stream_seed(seed, 1)
    )  # fmt: skip
    training = Training(
        env, agent, h, steps=max(1, round(steps * h.train_share)), seed=seed, problem_sha256=problem.sha256()
    )  # fmt: skip
    if resume is not None:
        training.restore(resume)
    training.run(on_update, monotonic_s)
    return TrainedPolicy(
        kind=h.policy, width=h.width, limits=problem.limits, weights=agent.policy.export(),
        steps=training.updates * training.samples, scales=training.scales(), history=tuple(training.history),
    )  # fmt: skip


class Training:
    """One agent learning in one environment; everything the future depends on, between two updates."""

    def __init__(
        self, env: Environment, agent: Agent, h: Hyperparameters, *, steps: int, seed: int, problem_sha256: str = ""
    ) -> None:  # fmt: skip
        """problem_sha256: of what the environment was made from, where that is a portfolio's."""
        device = next(agent.parameters()).device
        self.env, self.agent, self.h, self.seed, self._problem_sha256 = env, agent, h, seed, problem_sha256
        self.generator = torch.Generator(device=device).manual_seed(stream_seed(seed, 2))
        self.replay = Replay(device, (self.generator, *env.generators))
        on_card = device.type == "cuda"  # there a recorded step reads the rate where it is in memory
        self.optimiser = torch.optim.Adam(
            agent.parameters(), lr=torch.tensor(h.learning_rate, device=device) if on_card else h.learning_rate,
            eps=h.adam_epsilon, fused=True, capturable=on_card,
        )  # fmt: skip
        self.rewards, self.values = RewardScale(), ValueScale()
        self.samples = h.rollout_bars * env.n_accounts
        self.updates, self.done = max(1, math.ceil(steps / self.samples)), 0
        self.history: list[UpdateStats] = []

    def run(self, on_update: OnUpdate, monotonic_s: Callable[[], float]) -> None:
        while self.done < self.updates:
            began_s = monotonic_s()
            facts = self.update()
            stats = UpdateStats(**facts, samples_per_s=self.samples / max(monotonic_s() - began_s, 1e-9))
            self.history.append(stats)
            on_update(stats, self.pack)

    def update(self) -> dict[str, Any]:
        """One rollout and the passes over it."""
        share = self.done / self.updates
        rate = self.h.learning_rate * schedule(self.h.lr_schedule, share, final=self.h.lr_final)
        for group in self.optimiser.param_groups:
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate
        self.env.fee_share = min(1.0, share / self.h.fee_ramp) if self.h.fee_ramp > 0 else 1.0
        rollout = collect(self.env, self.agent, self.h, self.rewards, self.values, self.generator, self.replay)
        self.values.follow(rollout.target, self.agent.critic.value_out)
        passes = improve(self.agent, self.optimiser, rollout, self.h, self.values, self.generator, self.replay)
        self.done += 1
        return {
            "steps": self.done * self.samples, "learning_rate": rate, "fee_share": self.env.fee_share, **rollout.facts,
            **passes,
        }  # fmt: skip

    def scales(self) -> dict[str, float]:
        return {
            "reward_count": self.rewards.count, "reward_square": self.rewards.square, "value_mean": self.values.mean,
            "value_deviation": self.values.deviation, "value_weight": self.values.weight,
        }  # fmt: skip

    def pack(self) -> bytes:
        """The training as it stands, to be continued by `restore`."""
        tensors = {f"agent.{n}": t for n, t in self.agent.state_dict().items()}
        for i, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{n}": t for n, t in moments.items()}
        tensors |= {f"env.{n}": t for n, t in self.env.state().items()}
        tensors["generator"] = self.generator.get_state()
        record = {
            "identity": self.identity(), "done": self.done, "scales": self.scales(),
            "history": [asdict(s) for s in self.history],
        }  # fmt: skip
        return pack(tensors, record)

    def restore(self, packed: bytes) -> None:
        tensors, record = unpack(packed)
        require_same(record["identity"], self.identity())
        self.agent.load_state_dict(_below("agent", tensors))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("adam", tensors).items():
            index, _, kind = name.partition(".")
            moments.setdefault(int(index), {})[kind] = tensor
        self.optimiser.load_state_dict({"state": moments, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.env.restore(_below("env", tensors))
        self.generator.set_state(tensors["generator"])
        scales = record["scales"]
        self.rewards.count, self.rewards.square = scales["reward_count"], scales["reward_square"]
        self.values.mean, self.values.deviation = scales["value_mean"], scales["value_deviation"]
        self.values.weight = scales["value_weight"]
        self.done, self.history = record["done"], [UpdateStats(**s) for s in record["history"]]

    def identity(self) -> dict[str, Any]:
        """What must agree for a continued training to be the same training."""
        return {
            "problem_sha256": self._problem_sha256, "hyperparameters": self.h.to_dict(), "seed": self.seed,
            "updates": self.updates, "samples": self.samples,
            "torch": torch.__version__, "numpy": np.__version__, "threads": torch.get_num_threads(),
            "device": self.generator.device.type,
        }  # fmt: skip


def stream_seed(seed: int, stream: int) -> int:
    """The seed of one of a training's generators: two trainings with neighbouring seeds share none."""
    return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(f"{prefix}."): t for n, t in tensors.items() if n.startswith(f"{prefix}.")}


def schedule(name: str, done: float, *, final: float) -> float:
    """Multiplier of the learning rate after the share `done` of training: from 1 to `final`."""
    if name == "exponential":
        return float(final**done)
    left = 1.0 - done if name == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return final + (1.0 - final) * left


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """total = policy + value_coef·value − entropy_coef·entropy. kl: the estimator (r − 1) − ln r, which is never < 0."""

    total: Tensor
    value: Tensor
    kl: Tensor
    ratio_deviation: Tensor


def ppo_loss(
    *, log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, value: Tensor, old_value: Tensor, target: Tensor,
    entropy: Tensor, h: Hyperparameters,
) -> Loss:  # fmt: skip
    """Of one minibatch. All (B,) but the scalar entropy; values and targets in normalised units."""
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    clipped = ratio.clamp(1 - h.clip_range, 1 + h.clip_range)
    policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    near = old_value + (value - old_value).clamp(-h.value_clip, h.value_clip)
    value_loss = 0.5 * torch.maximum((value - target).square(), (near - target).square()).mean()
    return Loss(
        total=policy_loss + h.value_coef * value_loss - h.entropy_coef * entropy, value=value_loss,
        kl=(ratio - 1 - log_ratio).mean(), ratio_deviation=(ratio - 1).abs().max(),
    )  # fmt: skip


def improve(
    agent: Agent, optimiser: torch.optim.Optimizer, rollout: Rollout, h: Hyperparameters, values: ValueScale,
    generator: torch.Generator, replay: Replay,
) -> dict[str, Any]:  # fmt: skip
    """Passes over the rollout until the epochs or the KL budget are used up; facts named as in `UpdateStats`.

    A minibatch is a set of (bar, group) cells with all their accounts, so the market layers run once per cell.
    """
    names = ("market", "account", "action", "log_prob", "advantage")
    flat = {n: getattr(rollout, n).flatten(0, 1) for n in names}
    flat |= {n: values.normalised(getattr(rollout, n)).flatten(0, 1) for n in ("value", "target")}
    n_cells, per_cell = flat["log_prob"].shape
    step = partial(descend, agent, optimiser, h)
    norms: list[Tensor] = []
    losses: list[Tensor] = []  # of the last pass
    epochs, kl = 0, 0.0
    for _ in range(h.epochs):
        order, losses = torch.randperm(n_cells, generator=generator, device=flat["market"].device), []
        for cells in torch.split(order, cells_of(h, per_cell)):
            done = replay("descend", step, {n: tensor[cells] for n, tensor in flat.items()})
            norms.append(done["norm"])
            losses.append(done["losses"])
        epochs += 1
        if not torch.isfinite(torch.stack(norms)).all():  # once a pass: a look at a card's memory waits for the card
            raise TrainingDiverged("the gradient is not finite", hint="lower learning_rate or max_grad_norm")
        kl = float(torch.stack(losses)[:, 0].mean())
        if kl > h.kl_target:
            break
    last, norm = torch.stack(losses), torch.stack(norms)
    return {
        "policy_kl": kl, "ratio_deviation": float(last[:, 1].max()), "value_loss": float(last[:, 2].mean()),
        "value_moved": float(last[:, 3].max()), "entropy": float(last[-1, 4]), "epochs": epochs,
        "minibatches": len(norms), "gradient_norm": float(norm.mean()),
        "applied_norm": float(norm.clamp(max=h.max_grad_norm).mean()),
    }  # fmt: skip


def descend(
    agent: Agent, optimiser: torch.optim.Optimizer, h: Hyperparameters, part: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """One step on one minibatch of (cells, ...) as `improve` names them.

    norm: the gradient's, before the clip; losses: (5,) KL, largest ratio deviation, value loss, largest move of a value
    and entropy. Nothing of it is looked at here.
    """
    mean = agent.policy(part["market"], part["account"])
    value, entropy = agent.critic(part["market"], part["account"]), agent.head.entropy(mean)
    loss = ppo_loss(
        log_prob=agent.head.log_prob(part["action"], mean), old_log_prob=part["log_prob"],
        advantage=part["advantage"], value=value, old_value=part["value"], target=part["target"], entropy=entropy, h=h,
    )  # fmt: skip
    parameters = optimiser.param_groups[0]["params"]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss.total, parameters), strict=True):
        parameter.grad = gradient
    norm = nn.utils.clip_grad_norm_(parameters, h.max_grad_norm)
    optimiser.step()
    moved = (value - part["value"]).abs().max()
    return {"norm": norm, "losses": torch.stack([loss.kl, loss.ratio_deviation, loss.value, moved, entropy]).detach()}
