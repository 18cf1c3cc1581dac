"""How fast this machine trains and decides: what `cappuccinoctl bench` prints.

The limit that a training is held against is its own matrix products, those of the rollout, of the forward and of the
backward passes, run by themselves in turn with its updates (`trainer.limit`). The share is the median of
time of the products / time of the update; what is missing from 1 is everything that is no product.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median

import numpy as np
import torch
from torch import Tensor

from daemon.child.clock import Clock
from daemon.child.config import Config
from daemon.child.market import costs, feature_spec, limits
from daemon.child.search import Network
from features.actor import build_actor
from features.sources.simulated import simulate
from features.venue_rules import VenueRules
from trainer.limit import products_of
from trainer.memory import resident_bytes
from trainer.policy import Agent
from trainer.ppo import Training
from trainer.replay import DIRECT, Replay
from trainer.space import Hyperparameters, defaults
from trainer.vector_env import Problem

BARS = 35_000  # four years of hours
ACCOUNTS = (128, 1024)
CASE_S = 3.0  # time a measurement may take beyond its least number of repeats
LEAST_REPEATS = 3
STEPS_AT_ONCE = 50
RECORDED_AFTER = 2  # rounds on a card
FIRST_CLOSE_S = 1_600_002_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network to train. rollout_bars is short for a wide one: it hardly changes the rate, and an update must end."""

    policy: Network
    width: int
    rollout_bars: int
    minibatch: int = Hyperparameters().minibatch


CASES = (
    Case(policy="per_asset", width=32, rollout_bars=128),
    Case(policy="mlp", width=64, rollout_bars=128),
    Case(policy="mlp", width=256, rollout_bars=64),
    Case(policy="mlp", width=1280, rollout_bars=16),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """End to end: rollout and updates. gemm_flop_per_s is what the same matrix products reach without the rest."""

    policy: Network
    width: int
    samples_per_s: float
    flop_per_sample: float
    gemm_flop_per_s: float
    limit_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Medians. env_steps_per_s by number of accounts; resident_bytes after training the configured network.

    trials_per_hour: all workers together, as many as have cores of their own, without pruning and judging.
    """

    device: str
    torch_threads: int
    cores: int
    load_1m: float
    tickers: int
    bars: int
    env_steps_per_s: dict[int, float]
    trained: tuple[Trained, ...]
    inference_us: float
    resident_bytes: int
    trials_per_hour: float

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    def text(self) -> str:
        lines = [
            f"{self.cores} cores, {self.torch_threads} torch threads, load {self.load_1m:.1f}, on {self.device}",
            "environment",
        ]
        lines += [f"  {n:>6} accounts{rate:>14,.0f} steps/s" for n, rate in self.env_steps_per_s.items()]
        lines.append("training, rollout and updates")
        lines += [
            f"  {t.policy:<10}{t.width:>5}{t.samples_per_s:>12,.0f} samples/s{t.limit_share:>8.0%} of the "
            f"{t.gemm_flop_per_s / 1e9:.0f} GFLOP/s that its matrix products reach alone"
            for t in self.trained
        ]
        lines.append(f"a decision          {self.inference_us:.0f} µs")
        lines.append(f"resident            {self.resident_bytes / 1e6:.0f} MB")
        lines.append(f"trials              {self.trials_per_hour:.1f} an hour, none pruned, judging apart")
        return "\n".join(lines)


def measure(
    config: Config, clock: Clock, *, say: Callable[[str], None], cases: Sequence[Case] = CASES, bars: int = BARS,
    case_s: float = CASE_S,
) -> Measured:  # fmt: skip
    """Everything, on a simulated market with the configured tickers, features, costs and accounts."""
    say(f"a market of {bars} bars")
    problem, accounts = market(config, bars), config.study.accounts
    steps = {}
    for n in ACCOUNTS:
        say(f"the environment with {n} accounts")
        steps[n] = environment_rate(problem, n, clock, case_s=case_s)
    usual = defaults(config.study.policy)
    trained, held = [], 0
    for case in sorted(cases, key=lambda c: (c.policy, c.width) != (usual.policy, usual.width)):
        say(f"training {case.policy} of width {case.width}")
        trained.append(training_rate(problem, case, accounts, clock, case_s=case_s))
        held = held or resident_bytes()  # the usual network's, which is first
    say("decisions")
    cores = len(os.sched_getaffinity(0))
    at_once = min(config.study.workers, max(1, cores // config.daemon.torch_threads))
    steps_per_trial = config.data.n_folds * config.study.seeds * config.study.train_steps * usual.train_share
    return Measured(
        device=config.study.device, torch_threads=torch.get_num_threads(), cores=cores, load_1m=os.getloadavg()[0],
        tickers=problem.layout.n_assets, bars=problem.market.n_bars, env_steps_per_s=steps, trained=tuple(trained),
        inference_us=1e6 * decision_s(problem, usual, clock), resident_bytes=held,
        trials_per_hour=3600.0 * at_once * trained[0].samples_per_s / steps_per_trial,
    )  # fmt: skip


def market(config: Config, bars: int) -> Problem:
    tickers = tuple(sorted(config.market.tickers))
    simulated = simulate(
        world="null", seed=1, tickers=tickers, timeframe_s=config.market.timeframe_s, start_s=FIRST_CLOSE_S, bars=bars
    )
    problem = Problem.of(
        simulated, feature_spec(config), costs=costs(config), limits=limits(config),
        rules=VenueRules.uniform("bench", tickers),
    )  # fmt: skip
    return replace(problem, market=problem.market.to(config.study.device))


def environment_rate(problem: Problem, accounts: int, clock: Clock, *, case_s: float) -> float:
    """Account-steps per second of observing and stepping, in groups as trained, with actions drawn beforehand."""
    per_group, device = Hyperparameters().accounts_per_group, problem.market.market.device
    env = problem.batched(groups=accounts // per_group, accounts_per_group=per_group, seed=1)
    raw = torch.randn(env.groups, per_group, problem.layout.action_size, generator=torch.Generator().manual_seed(1))
    raw, replay = raw.to(device), Replay(device, env.generators)

    def bars(_: object) -> dict[str, Tensor]:
        results = []
        for _ in range(STEPS_AT_ONCE):
            env.observe()
            results.append(env.step(raw))
        env.put_back()
        return {"reward": results[-1].reward}

    def play() -> None:
        replay("bars", bars, {})

    for _ in range(RECORDED_AFTER):
        play()
    (took_s,) = _medians_s((play,), clock, device, case_s=case_s)
    return STEPS_AT_ONCE * accounts / took_s


def training_rate(problem: Problem, case: Case, accounts: int, clock: Clock, *, case_s: float) -> Trained:
    """Samples per second of whole updates, every epoch run, beside their products alone."""
    h = replace(
        defaults(case.policy), width=case.width, rollout_bars=case.rollout_bars, minibatch=case.minibatch,
        kl_target=float("inf"),
    )  # fmt: skip
    training = training_of(problem, h, accounts)
    device = problem.market.market.device
    recording, training.replay = training.replay, DIRECT
    products = products_of(training.update)
    training.replay = recording
    for _ in range(RECORDED_AFTER if device.type == "cuda" else 0):
        training.update()
    alone = Replay(device, ())  # a limit of products that wait for their launches would be none

    def multiply() -> None:
        alone("products", lambda _: products.run(), {})

    for _ in range(RECORDED_AFTER):
        multiply()
    update_s, products_s = _medians_s((training.update, multiply), clock, device, case_s=2 * case_s)
    return Trained(
        policy=case.policy, width=case.width, samples_per_s=training.samples / update_s,
        flop_per_sample=products.flop / training.samples, gemm_flop_per_s=products.flop / products_s,
        limit_share=products_s / update_s,
    )  # fmt: skip


def training_of(problem: Problem, h: Hyperparameters, accounts: int) -> Training:
    """An endless training, on the problem's device."""
    per_group = min(accounts, h.accounts_per_group)
    env = problem.batched(groups=max(1, accounts // per_group), accounts_per_group=per_group, seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        agent = Agent.for_portfolio(problem.layout, h, stack_bars=problem.stack_bars)
    return Training(env, agent.to(problem.market.market.device), h, steps=10**9, seed=1)


def decision_s(problem: Problem, h: Hyperparameters, clock: Clock) -> float:
    """Of the numpy actor that trades."""
    policy = Agent.for_portfolio(problem.layout, h, stack_bars=problem.stack_bars).policy
    actor = build_actor(h.policy, problem.layout, h.width, policy.export())
    observation = np.zeros(problem.layout.size, np.float32)

    def decide() -> None:
        for _ in range(STEPS_AT_ONCE):
            actor.act(observation)

    decide()
    (took_s,) = _medians_s((decide,), clock, torch.device("cpu"), case_s=0.2)
    return took_s / STEPS_AT_ONCE


def _medians_s(
    works: Sequence[Callable[[], object]], clock: Clock, device: torch.device, *, case_s: float
) -> tuple[float, ...]:  # fmt: skip
    """Median duration of each of `works`, run in turn for `case_s` in all, at least LEAST_REPEATS times."""
    took: list[list[float]] = [[] for _ in works]
    while len(took[0]) < LEAST_REPEATS or sum(map(sum, took)) < case_s:
        for mine, work in zip(took, works, strict=True):
            began_s = clock.monotonic_s()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            mine.append(clock.monotonic_s() - began_s)
    return tuple(median(t) for t in took)
