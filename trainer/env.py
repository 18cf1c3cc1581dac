"""The Gymnasium faces of the training environment, for whoever wants to bring another learner.

    import gymnasium, trainer.env
    from trainer.vector_env import Problem
    problem = Problem.of(bars, spec, costs=costs, limits=limits, rules=rules)
    one = gymnasium.make("cappuccino/Portfolio-v0", problem=problem)
    many = gymnasium.make_vec("cappuccino/Portfolio-v0", num_envs=64, problem=problem)

Both are `vector_env.BatchedPortfolioEnv`, which PPO drives directly on tensors. An observation is that of
`features.observation` (float32), an action the raw output of `features.allocation.target_weights`: a logit per ticker,
one for cash, the speed. Gymnasium 1.4; the vector face resets in the same step and gives the last observation of a
finished episode as `final_obs`.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from features.scaling import CLIP
from trainer.steps import Observed, StepResult
from trainer.vector_env import BatchedPortfolioEnv, Problem

ENV_ID = "cappuccino/Portfolio-v0"
RAW_BOUND = 10.0  # of the declared action space: a softmax over ±10 reaches any portfolio; values beyond are accepted
F32 = NDArray[np.float32]


def observation_space(problem: Problem) -> Space[F32]:
    return Box(-CLIP, CLIP, (problem.layout.size,), np.float32)


def action_space(problem: Problem) -> Space[F32]:
    return Box(-RAW_BOUND, RAW_BOUND, (problem.layout.action_size,), np.float32)


class PortfolioEnv(gymnasium.Env[F32, F32]):
    """One account. reward: log-wealth change of the bar net of costs, less the equal-weight market's."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  as the base class declares it

    def __init__(self, problem: Problem) -> None:
        self.observation_space = observation_space(problem)
        self.action_space = action_space(problem)
        self._env = problem.batched(groups=1, accounts_per_group=1, seed=0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[F32, dict[str, Any]]:
        unseeded = seed is None and self._np_random is None
        super().reset(seed=seed, options=options)
        _restart(self._env, int(self.np_random.integers(2**63)) if unseeded else seed)
        return _flat(self._env.observe())[0], {}

    def step(self, action: F32) -> tuple[F32, float, bool, bool, dict[str, Any]]:
        result = self._env.step(torch.as_tensor(action).reshape(1, 1, -1))
        return (
            _flat(result.final)[0], float(result.reward), bool(result.terminated), bool(result.truncated),
            {"turnover": float(result.turnover), "drawdown": float(result.drawdown)},
        )  # fmt: skip


class PortfolioVectorEnv(VectorEnv[F32, F32, NDArray[Any]]):
    """`num_envs` accounts, each on bars of its own, in lockstep on one resident market."""

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, problem: Problem) -> None:
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = observation_space(problem), action_space(problem)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._env = problem.batched(groups=num_envs, accounts_per_group=1, seed=0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[F32, dict[str, Any]]:
        """One generator drives all accounts, so `seed` is one number."""
        unseeded = seed is None and self._np_random is None
        super().reset(seed=seed, options=options)
        _restart(self._env, int(self.np_random.integers(2**63)) if unseeded else seed)
        return _flat(self._env.observe()), {}

    def step(self, actions: F32) -> tuple[F32, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        result = self._env.step(torch.as_tensor(actions).unsqueeze(1))
        terminated, truncated = result.terminated[:, 0].cpu().numpy(), result.truncated[:, 0].cpu().numpy()
        infos = _infos(result)
        ended = terminated | truncated
        if ended.any():
            last, final = _flat(result.final), np.empty(self.num_envs, dtype=object)
            for i in np.flatnonzero(ended):
                final[i] = last[i]
            infos |= {"final_obs": final, "_final_obs": ended}
        return _flat(self._env.observe()), result.reward[:, 0].cpu().numpy(), terminated, truncated, infos


def _restart(env: BatchedPortfolioEnv, seed: int | None) -> None:
    """Begin episodes. None goes on with the generator that is there; copies that nobody seeded differ, as Gymnasium's do."""
    if seed is not None:
        env.generator.manual_seed(seed)
    env.restart()


def _flat(seen: Observed) -> F32:
    """(D, size) observations of environments with one account a group."""
    observation: F32 = torch.cat([seen.market, seen.account[:, 0]], dim=-1).cpu().numpy()
    return observation


def _infos(result: StepResult) -> dict[str, Any]:
    return {name: getattr(result, name)[:, 0].cpu().numpy() for name in ("turnover", "drawdown")}


gymnasium.register(
    id=ENV_ID, entry_point="trainer.env:PortfolioEnv", vector_entry_point="trainer.env:PortfolioVectorEnv"
)
