"""Proximal policy optimisation on the batched environment, in the order in which it happens.

Sources: Schulman et al. 2017 (PPO: clipped surrogate), Schulman et al. 2016 (GAE), Huang et al. 2022 ("The 37
implementation details of PPO": advantage normalisation per minibatch, Adam epsilon, gradient clipping, KL stop),
Pardo et al. 2018 (a truncated episode is bootstrapped, a terminated one is not).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from features.allocation import Limits
from features.costs import Costs
from features.errors import CappuccinoError
from features.observation import ACCOUNT_FIELDS, Layout
from trainer.policy import Actor, Critic
from trainer.space import Hyperparameters
from trainer.vector_env import BatchedPortfolioEnv, MarketTensors

ACCOUNTS_PER_GROUP = 8
INITIAL_CASH = 10_000.0
HOLDINGS_KEPT = (1.0, 0.9, 0.7)  # per bar; holdings decay as the policy trades towards its aim
FEE_RAMP = 0.5  # the fee grows from 0 over this share of training: else the first thing learnt is to stand still
EPISODE_BARS = (168, 720)  # a week to a month
LOG_2PI = math.log(2 * math.pi)


class TrainingDiverged(CappuccinoError):
    """A loss or a weight is no longer finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStats:
    """After each update: `steps` account-steps so far; the rest describes the rollout or the last epoch."""

    steps: int
    mean_reward_bps: float
    shaping_bps: float
    turnover: float
    policy_kl: float
    value_loss: float
    entropy: float
    samples_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedPolicy:
    """weights as `features.actor.weight_shapes("per_asset", ...)`; steps actually taken; one record per update."""

    weights: dict[str, NDArray[np.float32]]
    width: int
    steps: int
    history: tuple[UpdateStats, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """T bars of G groups of A accounts; market is shared by a group. value and advantage in scaled-reward units."""

    market: Tensor  # (T, G, M)
    account: Tensor  # (T, G, A, N + 3)
    action: Tensor  # (T, G, A, N + 2)
    log_prob: Tensor  # (T, G, A)
    advantage: Tensor  # (T, G, A)
    target: Tensor  # (T, G, A)
    mean_reward: float
    mean_shaping: float
    mean_turnover: float


def train(
    *, market: MarketTensors, layout: Layout, limits: Limits, costs: Costs, lot: NDArray[np.float64],
    min_notional: NDArray[np.float64], hyperparameters: Hyperparameters, accounts: int, steps: int, seed: int,
    on_update: Callable[[UpdateStats], None], monotonic_s: Callable[[], float],
) -> TrainedPolicy:  # fmt: skip
    """Train one policy for `steps` account-steps. Same seed, machine and thread count → same weights.

    `on_update` may raise to stop the training. Raises TrainingDiverged on a non-finite loss.
    """
    h, device = hyperparameters, str(market.market.device)
    generator = torch.Generator(device=device).manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        actor = Actor(layout, h.width, h.initial_log_std).to(device)
        critic = Critic(layout, h.width).to(device)
    env = BatchedPortfolioEnv(
        market=market, limits=limits, costs=costs, lot=lot, min_notional=min_notional,
        groups=max(1, accounts // ACCOUNTS_PER_GROUP), accounts_per_group=min(accounts, ACCOUNTS_PER_GROUP),
        initial_cash=INITIAL_CASH, min_episode_bars=EPISODE_BARS[0], max_episode_bars=EPISODE_BARS[1],
        generator=generator,
    )  # fmt: skip
    optimiser = torch.optim.Adam(
        [*actor.parameters(), *critic.parameters()], lr=h.learning_rate, eps=h.adam_epsilon, fused=True
    )
    scale, history = RewardScale(), []
    samples = h.rollout_bars * env.n_accounts
    n_updates = max(1, math.ceil(steps / samples))
    for update in range(n_updates):
        began_s = monotonic_s()
        for group in optimiser.param_groups:
            group["lr"] = h.learning_rate * schedule(h.lr_schedule, update / n_updates)
        env.fee_share = min(1.0, update / (FEE_RAMP * n_updates))
        rollout = collect(env, actor, critic, h, scale, generator)
        kl, value_loss, entropy = improve(actor, critic, optimiser, rollout, h, generator)
        stats = UpdateStats(
            steps=(update + 1) * samples, mean_reward_bps=1e4 * rollout.mean_reward,
            shaping_bps=1e4 * rollout.mean_shaping, turnover=rollout.mean_turnover, policy_kl=kl,
            value_loss=value_loss, entropy=entropy, samples_per_s=samples / max(monotonic_s() - began_s, 1e-9),
        )  # fmt: skip
        history.append(stats)
        on_update(stats)
    return TrainedPolicy(weights=actor.export(), width=h.width, steps=n_updates * samples, history=tuple(history))


def schedule(name: str, done: float) -> float:
    """Multiplier of the learning rate after the share `done` of training; linear and cosine end at 0."""
    if name == "linear":
        return 1.0 - done
    if name == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0


class RewardScale:
    """Running second moment of the reward: rewards are divided by its root, so the value function sees order one."""

    def __init__(self) -> None:
        self._count, self._square = 1e-4, 1e-4 * 1e-6

    def divide(self, reward: Tensor) -> Tensor:
        self._count += reward.numel()
        self._square += float(reward.square().sum())
        return reward / math.sqrt(self._square / self._count)


@torch.no_grad()
def collect(
    env: BatchedPortfolioEnv,
    actor: Actor,
    critic: Critic,
    h: Hyperparameters,
    scale: RewardScale,
    generator: torch.Generator,
) -> Rollout:
    """Play `h.rollout_bars` bars with the current policy."""
    markets, accounts, actions, log_probs, values, finals = [], [], [], [], [], []
    rewards, ends, deaths, shapings, turnovers, moves, cuts = [], [], [], [], [], [], []
    for _ in range(h.rollout_bars):
        seen = env.observe()
        mean = actor(seen.market, seen.account)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        action = mean + noise * actor.log_std.exp()
        result = env.step(action)
        shaping = (
            h.reward_drawdown_penalty * result.drawdown * 1e-3 + h.reward_turnover_penalty * result.turnover * 1e-2
        )
        markets.append(seen.market)
        accounts.append(seen.account)
        actions.append(action)
        log_probs.append(log_density(action, mean, actor.log_std))
        values.append(critic(seen.market, seen.account))
        finals.append(critic(result.final.market, result.final.account))
        rewards.append(result.reward)
        shapings.append(shaping)
        turnovers.append(result.turnover.mean())
        deaths.append(result.terminated)
        moves.append(result.market_return)
        cuts.append(result.truncated)
        ends.append(result.terminated | result.truncated[:, None])
    reward, shaping = torch.stack(rewards), torch.stack(shapings)
    value, final = torch.stack(values), torch.stack(finals)
    advantage = gae(
        reward=scale.divide(reward - shaping).float(), value=value, next_value=final, terminated=torch.stack(deaths),
        ended=torch.stack(ends), gamma=h.gamma, lam=h.gae_lambda,
    )  # fmt: skip
    account = torch.stack(accounts)
    lucky = luck(
        weights=account[..., :-len(ACCOUNT_FIELDS)], market_return=torch.stack(moves).float(), truncated=torch.stack(cuts),
        discount=h.gamma * h.gae_lambda,
    )  # fmt: skip
    return Rollout(
        market=torch.stack(markets), account=account, action=torch.stack(actions), log_prob=torch.stack(log_probs),
        advantage=without_luck(advantage, lucky), target=advantage + value,
        mean_reward=float(reward.mean()), mean_shaping=float(shaping.mean()),
        mean_turnover=float(torch.stack(turnovers).mean()),
    )  # fmt: skip


def gae(
    *, reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, ended: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage (T, ...): δ_t = r_t + γ·V(s'_t)·(1 − terminated) − V(s_t), summed while not `ended`.

    next_value is the value of the state the step led to, before any reset: a truncated step keeps its bootstrap and
    only cuts the sum; a terminated one has none.
    """
    delta = reward + gamma * next_value * (~terminated) - value
    advantage, running = torch.zeros_like(delta), torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        running = delta[t] + gamma * lam * running * (~ended[t])
        advantage[t] = running
    return advantage


def luck(*, weights: Tensor, market_return: Tensor, truncated: Tensor, discount: float) -> Tensor:
    """(T, G, A, K): what the holdings at t go on to earn from the market alone, for K speeds of forgetting them.

    weights: (T, G, A, N) held before the action at t; market_return: (T, G, N) over the bar that follows.
    """
    columns = []
    for kept in HOLDINGS_KEPT:
        future, running = torch.zeros_like(market_return), torch.zeros_like(market_return[0])
        for t in range(len(market_return) - 1, -1, -1):
            running = market_return[t] + discount * kept * running * (~truncated[t])[:, None]
            future[t] = running
        columns.append((weights * future[:, :, None]).sum(-1))
    return torch.stack(columns, dim=-1)


def without_luck(advantage: Tensor, lucky: Tensor) -> Tensor:
    """Advantage (T, G, A) less what its group and its earlier holdings explain of it.

    No action moves the market, so a baseline may look at the market's future (Mao et al. 2019, "Variance Reduction
    for Reinforcement Learning in Input-Driven Environments"): here the mean over the accounts on the same bars, and
    the part that is linear in `luck`, by least squares. What is left is what the action itself did.
    """
    if advantage.shape[2] == 1:
        return advantage
    y = advantage - advantage.mean(dim=2, keepdim=True)
    x = (lucky - lucky.mean(dim=2, keepdim=True)).flatten(0, 2)
    unit = x.std(dim=0) + 1e-12
    ridge = 1e-6 * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    coefficient = torch.linalg.solve((x / unit).T @ (x / unit) + ridge, (x / unit).T @ y.flatten())
    residual: Tensor = y - ((x / unit) @ coefficient).reshape(y.shape)
    return residual


def log_density(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log density of a diagonal Gaussian, summed over the last axis."""
    z = (action - mean) * torch.exp(-log_std)
    return (-0.5 * z.square() - log_std - 0.5 * LOG_2PI).sum(-1)


def improve(
    actor: Actor, critic: Critic, optimiser: torch.optim.Optimizer, rollout: Rollout, h: Hyperparameters,
    generator: torch.Generator,
) -> tuple[float, float, float]:  # fmt: skip
    """Passes over the rollout until the epochs or the KL budget are used up → (KL, value loss, entropy).

    A minibatch is a set of (bar, group) cells with all their accounts, so the market layers run once per cell.
    """
    flat = {
        n: getattr(rollout, n).flatten(0, 1) for n in ("market", "account", "action", "log_prob", "advantage", "target")
    }
    n_cells, per_cell = len(flat["market"]), rollout.account.shape[2]
    size = max(1, h.minibatch // per_cell)
    parameters = [*actor.parameters(), *critic.parameters()]
    kl = value_loss_shown = entropy_shown = 0.0
    for _ in range(h.epochs):
        order = torch.randperm(n_cells, generator=generator, device=flat["market"].device)
        divergences = []
        for cells in torch.split(order, size):
            part = {n: tensor[cells] for n, tensor in flat.items()}
            log_prob = log_density(part["action"], actor(part["market"], part["account"]), actor.log_std)
            log_ratio = log_prob - part["log_prob"]
            ratio = log_ratio.exp()
            advantage = part["advantage"]
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            clipped = ratio.clamp(1 - h.clip_range, 1 + h.clip_range)
            policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
            value_loss = 0.5 * (critic(part["market"], part["account"]) - part["target"]).square().mean()
            entropy = (actor.log_std + 0.5 * (1 + LOG_2PI)).sum()
            loss = policy_loss + h.value_coef * value_loss - h.entropy_coef * entropy
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(parameters, h.max_grad_norm)
            if not torch.isfinite(norm):
                raise TrainingDiverged("the gradient is not finite", hint="lower learning_rate or max_grad_norm")
            optimiser.step()
            divergences.append(((ratio - 1) - log_ratio).mean().detach())
            value_loss_shown, entropy_shown = float(value_loss.detach()), float(entropy.detach())
        kl = float(torch.stack(divergences).mean())
        if kl > h.kl_target:
            break
    return kl, value_loss_shown, entropy_shown
