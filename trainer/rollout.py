"""Playing the environment with the present policy, and what its actions were worth.

Sources: Schulman et al. 2016 (GAE), Pardo et al. 2018 (a truncated episode is bootstrapped, a terminated one is not),
Mao et al. 2019 (baselines that look at an input no action changes).
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainer.policy import Agent
from trainer.replay import Replay
from trainer.space import Hyperparameters
from trainer.steps import Kept, Observed, StepResult

HOLDINGS_KEPT = (1.0, 0.9, 0.7)  # per bar; holdings decay as the policy trades towards its aim
SHAPING_UNIT = 1e-2  # of the penalties' coefficients: reward per bar and unit of what is penalised
STEP_NUMBERS = (
    "reward", "log_return", "market_return", "turnover", "drawdown", "deepened", "cash_share", "concentration", "elapsed",
    "terminated", "truncated",
)  # fmt: skip
VALUE_MEMORY = 0.9  # per rollout; old returns are forgotten as the policy that earned them is


class Environment(Protocol):
    """What PPO learns in. `BatchedPortfolioEnv` is one; any vector environment can be wrapped as another."""

    fee_share: float

    @property
    def n_accounts(self) -> int: ...

    @property
    def generators(self) -> tuple[torch.Generator, ...]: ...

    def observe(self) -> Observed: ...

    def step(self, raw: Tensor) -> StepResult: ...

    def state(self) -> dict[str, Tensor]: ...

    def restore(self, state: dict[str, Tensor]) -> None: ...

    def put_back(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """T bars of G groups of A accounts; market is shared by a group. value and target in units of the scaled reward."""

    market: Tensor  # (T, G, M)
    account: Tensor  # (T, G, A, K)
    action: Tensor  # (T, G, A, actions)
    log_prob: Tensor  # (T, G, A)
    value: Tensor  # (T, G, A)
    advantage: Tensor  # (T, G, A)
    target: Tensor  # (T, G, A)
    facts: dict[str, float]  # means over the rollout, named as in `ppo.UpdateStats`


class RewardScale:
    """Running second moment of the reward: rewards are divided by its root, so that values are of order one."""

    def __init__(self) -> None:
        self.count, self.square = 1e-4, 1e-4 * 1e-6

    @property
    def root(self) -> float:
        return math.sqrt(self.square / self.count)

    def divide(self, reward: Tensor) -> Tensor:
        self.count += reward.numel()
        self.square += float(reward.square().sum())
        return reward / self.root


class ValueScale:
    """Mean and deviation of the value targets; the critic answers in deviations from that mean.

    When they move, the critic's last layer moves against them, so that no value changes (PopArt: van Hasselt et al.
    2016, "Learning values across many orders of magnitude").
    """

    def __init__(self) -> None:
        self.mean, self.deviation, self.weight = 0.0, 1.0, 0.0

    def values(self, normalised: Tensor) -> Tensor:
        return normalised * self.deviation + self.mean

    def normalised(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.deviation

    @torch.no_grad()
    def follow(self, target: Tensor, last: torch.nn.Linear) -> None:
        """Move to the moments that include `target`; `last` is the critic's last layer."""
        weight = VALUE_MEMORY * self.weight + (1.0 - VALUE_MEMORY)
        new = (1.0 - VALUE_MEMORY) / weight  # share of the newest rollout, 1 for the first
        mean = (1.0 - new) * self.mean + new * float(target.mean())
        square = (1.0 - new) * (self.deviation**2 + self.mean**2) + new * float(target.square().mean())
        deviation = math.sqrt(max(square - mean**2, 1e-8))
        last.bias.copy_((self.deviation * last.bias + self.mean - mean) / deviation)
        last.weight.mul_(self.deviation / deviation)
        self.mean, self.deviation, self.weight = mean, deviation, weight


@torch.inference_mode()
def collect(
    env: Environment, agent: Agent, h: Hyperparameters, rewards: RewardScale, values: ValueScale,
    generator: torch.Generator, replay: Replay,
) -> Rollout:  # fmt: skip
    """Play `h.rollout_bars` bars with the current policy."""
    played = replay("play", lambda _: play(env, agent, h, generator), {})
    value, terminated, reward = values.values(played["value"]), played["terminated"], played["reward"]
    ended = terminated | played["truncated"]
    shaped = shape(
        reward, h,
        **{n: played[n] for n in ("turnover", "deepened", "concentration", "log_return", "elapsed")},
    )  # fmt: skip
    before, following = value[:-1], value[1:].clone()
    over = ended.nonzero(as_tuple=True)  # what follows there is another account's first state
    following[over] = values.values(_critic_of_finals(agent, played["final_market"], played["final_account"], over))
    advantage = replay("gae", lambda x: {"advantage": gae(**x, gamma=h.gamma, lam=h.gae_lambda)}, {
        "reward": rewards.divide(shaped).float(), "value": before, "next_value": following, "terminated": terminated,
        "ended": ended,
    })["advantage"]  # fmt: skip
    target, raw_deviation = advantage + before, float(advantage.std())
    if "luck" in played:
        advantage = without_luck(advantage, played["luck"])
    facts = {
        "mean_reward_bps": 1e4 * float(reward.mean()),
        "shaping_bps": 1e4 * float((reward - shaped).mean()),
        "shaping_size_bps": 1e4 * float((reward - shaped).abs().mean()),
        "groups": before.shape[1],
        "advantage_deviation": raw_deviation,
        "target_deviation": float(target.std()),
        "episodes": float(ended.sum()),
        **{n: float(played[n].mean()) for n in ("turnover", "drawdown", "cash_share", "concentration")},
        "volatility_bps": 1e4 * float(played["log_return"].square().mean().sqrt()),
    }
    return Rollout(
        **{n: played[n] for n in ("market", "account", "action", "log_prob")}, value=before, advantage=advantage,
        target=target, facts=facts,
    )  # fmt: skip


@torch.inference_mode()
def play(env: Environment, agent: Agent, h: Hyperparameters, generator: torch.Generator) -> dict[str, Tensor]:
    """What was seen and done, and what came of it, by the names of `Rollout` and of `StepResult`; each (T, G, ...).

    value: normalised, and one more, of the state after the last bar. luck: of groups with several accounts.
    """
    seen, kept = Kept(h.rollout_bars + 1), Kept(h.rollout_bars)
    for bar in range(h.rollout_bars):
        observed = env.observe()
        mean = agent.policy(observed.market, observed.account)
        action = agent.head.sample(mean, generator)
        seen.put(bar, market=observed.market, account=observed.account)
        kept.put(bar, mean=mean, action=action, **env.step(action).tensors)
    observed = env.observe()
    seen.put(h.rollout_bars, market=observed.market, account=observed.account)
    whole, after = Observed(**seen.tensors), StepResult.of(kept.tensors)
    value = _critic_of(whole, agent, cells=cells_of(h, whole.account.shape[2]))
    env.put_back()
    played = {n: getattr(after, n) for n in STEP_NUMBERS}
    played |= {"market": whole.market[:-1], "account": whole.account[:-1], "action": kept.tensors["action"]}
    played |= {"final_market": after.final.market, "final_account": after.final.account, "value": value}
    played["log_prob"] = agent.head.log_prob(played["action"], kept.tensors["mean"])
    if played["account"].shape[2] > 1:
        played["luck"] = luck(
            weights=played["account"], market_return=played.pop("market_return").float(),
            ended=played["terminated"] | played["truncated"], discount=h.gamma * h.gae_lambda,
        )  # fmt: skip
    return played


def cells_of(h: Hyperparameters, per_group: int) -> int:
    """How many (bar, group) cells a minibatch has: all accounts of a cell are in it."""
    return max(1, h.minibatch // per_group)


def _critic_of(whole: Observed, agent: Agent, *, cells: int) -> Tensor:
    """Normalised values (T, G, A), so many cells at a time: nothing waits for them while the bars are played."""
    parts = zip(*(torch.split(x.flatten(0, 1), cells) for x in (whole.market, whole.account)), strict=True)
    return torch.cat([agent.critic(m, a) for m, a in parts]).reshape(whole.account.shape[:3])


def _critic_of_finals(agent: Agent, market: Tensor, account: Tensor, where: tuple[Tensor, ...]) -> Tensor:
    """Normalised values (E,) of E last states of episodes; where: their bars, groups and accounts."""
    bar, group, member = where
    value: Tensor = agent.critic(market[bar, group], account[bar, group, member][:, None])[:, 0]
    return value


def shape(
    reward: Tensor, h: Hyperparameters, *, turnover: Tensor, deepened: Tensor, concentration: Tensor,
    log_return: Tensor, elapsed: Tensor,
) -> Tensor:  # fmt: skip
    """The reward that PPO sees: `reward` as it is unless a shaping parameter of `h` says otherwise.

    The time decay falls linearly over the account's episode; the penalties are per bar. A drawdown is paid for as it
    deepens: its depth is mostly the doing of earlier bars, and a penalty on it moved nothing in a training.
    """
    decay = 1.0 - (1.0 - h.reward_time_decay_floor) * elapsed
    penalty = SHAPING_UNIT * (h.reward_concentration_penalty * concentration + h.reward_turnover_penalty * turnover)
    penalty = penalty + h.reward_drawdown_penalty * deepened
    return reward * decay - penalty - 0.5 * h.reward_volatility_penalty * log_return.square()


def gae(
    *, reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, ended: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage (T, ...): δ_t = r_t + γ·V(s'_t)·(1 − terminated) − V(s_t), summed while not `ended`.

    next_value is the value of the state the step led to, before any reset: a truncated step keeps its bootstrap and
    only cuts the sum; a terminated one has none.
    """
    delta = reward + gamma * next_value * (~terminated) - value
    return discounted(delta, gamma * lam * (~ended))


def discounted(x: Tensor, kept: Tensor) -> Tensor:
    """(T, ...) y_t = x_t + kept_t·y_{t+1}: a sum over the future that a `kept` of 0 cuts."""
    total, running = torch.empty_like(x), torch.zeros_like(x[0])
    for t in range(len(x) - 1, -1, -1):
        running = x[t] + kept[t] * running
        total[t] = running
    return total


def luck(*, weights: Tensor, market_return: Tensor, ended: Tensor, discount: float) -> Tensor:
    """(T, G, A, K): what the holdings at t go on to earn from the market alone, for K speeds of forgetting them.

    weights: (T, G, A, N or more) held before the action at t, tickers first; market_return: (T, G, N) over the bar
    that follows; ended: (T, G, A).
    """
    n = market_return.shape[-1]
    moves = market_return[:, :, None].expand(*ended.shape, n)
    columns = [
        (weights[..., :n] * discounted(moves, discount * kept * (~ended)[..., None])).sum(-1) for kept in HOLDINGS_KEPT
    ]
    return torch.stack(columns, dim=-1)


def without_luck(advantage: Tensor, lucky: Tensor) -> Tensor:
    """Advantage (T, G, A) less what its group and its earlier holdings explain of it.

    No action moves the market, so a baseline may look at the market's future (Mao et al. 2019, "Variance Reduction
    for Reinforcement Learning in Input-Driven Environments"): here the mean over the accounts on the same bars, and
    the part that is linear in `luck`, by least squares. What is left is what the action itself did.
    """
    y = advantage - advantage.mean(dim=2, keepdim=True)
    x = (lucky - lucky.mean(dim=2, keepdim=True)).flatten(0, 2)
    unit = x.std(dim=0) + 1e-12
    ridge = 1e-6 * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    coefficient = torch.linalg.solve((x / unit).T @ (x / unit) + ridge, (x / unit).T @ y.flatten())
    residual: Tensor = y - ((x / unit) @ coefficient).reshape(y.shape)
    return residual
