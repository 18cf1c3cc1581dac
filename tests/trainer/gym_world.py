"""Any continuous-control Gymnasium environment as something our PPO learns in, and the policy for it.

An observation is a group's market block, the account is empty and every group has one member: the `mlp` policy, the
Gaussian head, the rollout and the update are those of a trial.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from trainer.heads import GaussianHead
from trainer.policy import Agent, MlpPolicy, MlpValue
from trainer.space import Hyperparameters
from trainer.steps import Observed, StepResult


class GymWorld:
    """`n_envs` copies of an environment in lockstep; raw actions are squashed by tanh into the action space."""

    fee_share = 1.0
    generators: tuple[torch.Generator, ...] = ()

    def __init__(self, name: str, *, n_envs: int, seed: int) -> None:
        self._envs = gymnasium.make_vec(
            name, num_envs=n_envs, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
        )
        space = self._envs.single_action_space
        self._low, self._high = torch.as_tensor(space.low), torch.as_tensor(space.high)
        self.observation_size = int(np.prod(self._envs.single_observation_space.shape))
        self.action_size = int(np.prod(space.shape))
        self.n_accounts = n_envs
        self._seen, _ = self._envs.reset(seed=seed)

    def observe(self) -> Observed:
        return self._observed(self._seen)

    def squashed(self, raw: Tensor) -> Tensor:
        return self._low + (self._high - self._low) * (torch.tanh(raw) + 1) / 2

    def step(self, raw: Tensor) -> StepResult:
        self._seen, reward, terminated, truncated, infos = self._envs.step(self.squashed(raw[:, 0]).numpy())
        final = self._seen.copy()
        for i in np.flatnonzero(infos.get("_final_obs", ())):
            final[i] = infos["final_obs"][i]
        zero = torch.zeros((self.n_accounts, 1), dtype=torch.float64)
        none: dict[str, Any] = dict.fromkeys(
            ("log_return", "market_return", "traded", "drawdown_before", "drawdown", "cash_share", "elapsed"), zero
        )
        return StepResult(
            reward=torch.as_tensor(reward)[:, None], equity_before=zero + 1.0, weights=zero[..., None],
            final=self._observed(final),
            terminated=torch.as_tensor(terminated)[:, None], truncated=torch.as_tensor(truncated)[:, None], **none,
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        raise NotImplementedError("Gymnasium environments cannot be stored")

    def restore(self, state: dict[str, Tensor]) -> None:
        raise NotImplementedError("Gymnasium environments cannot be stored")

    def put_back(self) -> None:
        """No recording begins anywhere: Gymnasium runs on the processor."""

    def agent(self, h: Hyperparameters) -> Agent:
        columns = list(range(self.observation_size))
        return Agent(
            policy=MlpPolicy(columns, 0, h.width, market_size=self.observation_size, actions=self.action_size),
            head=GaussianHead(self.action_size, h.initial_log_std), critic=MlpValue(columns, 0, h.width),
        )  # fmt: skip

    @staticmethod
    def _observed(seen: np.ndarray) -> Observed:
        flat = torch.as_tensor(seen.reshape(len(seen), -1), dtype=torch.float32)
        return Observed(market=flat, account=torch.zeros((len(flat), 1, 0)))


def mean_return(agent: Agent, name: str, *, episodes: int, seed: int) -> float:
    """Mean undiscounted return of `episodes` deterministic episodes."""
    world = GymWorld(name, n_envs=episodes, seed=seed)
    total, running = np.zeros(episodes), np.ones(episodes, dtype=bool)
    while running.any():
        seen = world.observe()
        with torch.no_grad():
            result = world.step(agent.policy(seen.market, seen.account))
        total += running * result.reward[:, 0].numpy()
        running &= ~(result.terminated | result.truncated)[:, 0].numpy()
    return float(total.mean())
