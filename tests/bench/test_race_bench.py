"""Who is there first? Wall time to a fixed out-of-sample score in the `planted` world, beside stable-baselines3.

Market, costs and account are test_learning's: seven coins, four years of hours to learn on, the year after to be judged on
by `run_policy`. The score is the annual Sharpe ratio over 1/N, the bar half of what the oracle has, which knows the signal
and pays the same costs. Both are judged every 98,304 account-steps, with their clocks stopped; there is who has the bar
and has it still at the next look. One torch thread each, in turn.

Ours: the default hyperparameters, 128 accounts, STEPS in all (the smallest of the totals tried that reached the bar on
seeds 1 and 2; the judged seeds are 11 to 15). Its rates fall and its fees grow by the share of the total that is done, so a
training that ends below the bar begins again from nothing with twice the steps, and its clock goes on.

Theirs: PPO with MlpPolicy on eight FinRlStyleEnv in a DummyVecEnv, which has our mechanics (held to them in
test_trainer_bench) and is the faster one for single accounts; gamma, lambda and clip range as ours; the reward divided by
their VecNormalize (observations are scaled already); a constant learning rate, which no total number of steps limits; a
first bias that begins with our slow trading, or most of the account goes into fees. Judged is the deterministic action. Of
the variants tried on seed 1 (see THEIRS) the best one races. It is stopped at five times our time.
"""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peers import FinRlStyleEnv
from planted_market import LearningMarket, sharpe_per_year

from features.actor import build_actor
from trainer import ppo
from trainer.checkpoint import unpack
from trainer.evaluate import Run
from trainer.policy import INITIAL_SPEED, Agent
from trainer.space import Hyperparameters

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
SEEDS = tuple(range(11, 16))
STEPS, TRIES = 1_250_000, 3
LOOK_EVERY = 98_304  # six updates of ours, six rollouts of theirs
CAP = 5.0  # times our time
# score on seed 1, in shares of the oracle's, after so many thousand steps: 0.11 (590); others, steps apart from batch_size and
# n_epochs 2048: learning_rate 2e-3 −0.16 (393); 1e-3, 256, 10 −0.33 (295); their defaults 64, 10 −0.24 (393); n_steps 256, 256,
# 10 −0.28 (688): each learns to trade before it learns what
THEIRS: dict[str, Any] = {"learning_rate": 3e-4, "batch_size": 1024, "n_epochs": 4, "n_steps": 2048}


class Over(Exception):
    """The bar was reached, or the time is up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    seconds: float
    steps: int
    score: float


class Race:
    """One runner on its way to the bar; `score` of a run. Its clock stands still while it is looked at."""

    def __init__(self, score: Callable[[Run], float], bar: float, *, cap_s: float = math.inf) -> None:
        self._score, self._bar, self._cap_s = score, bar, cap_s
        self.looks: list[Look] = []
        self._spent_s, self._began_s = 0.0, time.perf_counter()

    def look(self, steps: int, run: Callable[[], Run]) -> None:
        self._spent_s += time.perf_counter() - self._began_s
        self.looks.append(Look(seconds=self._spent_s, steps=steps, score=self._score(run())))
        if self.reached or self._spent_s >= self._cap_s:
            raise Over
        self._began_s = time.perf_counter()

    @property
    def reached(self) -> Look | None:
        """The first look at which the score was there, if the next one confirms it."""
        return next((a for a, b in pairwise(self.looks) if min(a.score, b.score) >= self._bar), None)

    def text(self) -> str:
        at, best = self.reached, max(look.score for look in self.looks)
        last = at or self.looks[-1]
        return f"{'' if at else '> '}{last.seconds:.1f} s, {last.steps:,} steps, best score {best:.2f}"


def ours(market: LearningMarket, race: Race, seed: int) -> None:
    h = Hyperparameters()

    def on_update(stats: ppo.UpdateStats, pack: Callable[[], bytes]) -> None:
        if stats.steps % LOOK_EVERY == 0:
            race.look(stats.steps, lambda: market.traded(h.policy, h.width, policy_of(market, h, pack())))

    for k in range(TRIES):
        ppo.train_portfolio(
            market.problem, h, accounts=128, steps=STEPS << k, seed=seed + 1000 * k, on_update=on_update,
            monotonic_s=time.perf_counter,
        )  # fmt: skip


def policy_of(market: LearningMarket, h: Hyperparameters, packed: bytes) -> dict[str, NDArray[np.float32]]:
    agent = Agent.for_portfolio(market.problem.layout, h)
    tensors = unpack(packed)[0]
    agent.load_state_dict({n.removeprefix("agent."): t for n, t in tensors.items() if n.startswith("agent.")})
    return agent.policy.export()


def theirs(market: LearningMarket, race: Race, seed: int) -> None:
    model = their_model(market, seed)
    while True:
        model.learn(LOOK_EVERY, reset_num_timesteps=False)
        race.look(model.num_timesteps, lambda: market.traded("mlp", *actor_of(model.policy)))


def their_model(market: LearningMarket, seed: int) -> Any:
    sb3 = pytest.importorskip("stable_baselines3", reason="the optional extra `compare` is not installed")
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    h = Hyperparameters()
    envs = DummyVecEnv([lambda: FinRlStyleEnv(market.problem)] * 8)
    model = sb3.PPO(
        "MlpPolicy", VecNormalize(envs, norm_obs=False, gamma=h.gamma), gamma=h.gamma, gae_lambda=h.gae_lambda,
        clip_range=h.clip_range, device="cpu", seed=seed, **THEIRS,
    )  # fmt: skip
    with torch.no_grad():
        model.policy.action_net.bias[-1] = INITIAL_SPEED
    return model


def actor_of(policy: Any) -> tuple[int, dict[str, NDArray[np.float32]]]:
    """(width, weights) of the deterministic policy under the names of `features.actor.weight_shapes`."""
    hidden = [layer for layer in policy.mlp_extractor.policy_net if isinstance(layer, torch.nn.Linear)]
    layers = {"hidden_1": hidden[0], "hidden_2": hidden[1], "out": policy.action_net}
    weights = {
        f"{n}.{part}": getattr(x, part).detach().numpy().copy()
        for n, x in layers.items()
        for part in ("weight", "bias")
    }
    return len(weights["hidden_1.bias"]), weights


@pytest.fixture(scope="module", autouse=True)
def _one_torch_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ratios() -> dict[int, float]:
    """Seed → their time over ours, as far as it was run; 0 where ours never had the bar."""
    return {}


def run(runner: Callable[[LearningMarket, Race, int], None], market: LearningMarket, race: Race, seed: int) -> Race:
    with contextlib.suppress(Over):
        runner(market, race, seed)
    return race


@pytest.mark.parametrize("seed", SEEDS)
def test_time_to_half_of_the_oracles_score(seed: int, ratios: dict[int, float]) -> None:
    market = LearningMarket.of("planted", seed)
    baseline, bar = market.baseline().returns, market.oracle_sharpe() / 2.0

    def score(judged: Run) -> float:
        return sharpe_per_year(judged.returns - baseline)

    first = run(ours, market, Race(score, bar), seed)
    if not first.reached:
        ratios[seed] = 0.0  # lost, however long they take
        print(f"\nseed {seed}, bar {bar:.2f}\n  ours                {first.text()}")
        return
    second = run(theirs, market, Race(score, bar, cap_s=CAP * first.reached.seconds), seed)
    ratios[seed] = second.reached.seconds / first.reached.seconds if second.reached else math.inf
    print(f"\nseed {seed}, bar {bar:.2f}\n  ours                {first.text()}\n  stable-baselines3   {second.text()}")


def test_the_median_of_the_seeds(ratios: dict[int, float]) -> None:
    middle = median(ratios.values())
    said = f"{middle:.1f}" if math.isfinite(middle) else f"more than {CAP:.0f}"
    print(f"\nseeds {sorted(ratios)}: ours is {said} times sooner (median)")
    assert middle >= CAP


def test_what_is_judged_of_theirs_is_their_deterministic_action() -> None:
    """Their own `predict` and the numpy network that `run_policy` trades, on the observations of an episode."""
    market = LearningMarket.of("planted", 1)
    model = their_model(market, 1)
    env = FinRlStyleEnv(market.problem)
    seen, _ = env.reset(seed=1)
    width, weights = actor_of(model.policy)
    actor = build_actor("mlp", market.problem.layout, width, weights)
    for _ in range(100):
        action, _ = model.predict(seen, deterministic=True)
        assert np.allclose(actor.act(seen), action, atol=1e-5)
        seen, *_ = env.step(action)
