"""The environment and PPO beside other people's, in one run on the same market with the same mechanics.

Environment: ours against FinRL's style of writing one (peers.py, held to ours here) on seven coins, and on one coin
against gym-trading-env, which keeps an account with fees of that coin, and gym-anytrading, which keeps none. PPO: whole
updates (rollout and passes) against stable-baselines3 on the FinRL-style environment, the fastest for a single account
of several coins: 16,384 samples an update, 4 epochs, minibatch 2,048. It trains its own network, policy and critic of
two hidden tanh layers apart, and, but for the widest, our `per_asset` one. Everything takes its turn in every round, on
one torch thread; printed are medians and the median of the ratios within a round. (`make bench` installs the peers.)
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import pytest
import torch
from peers import FinRlStyleEnv

from daemon.child.clock import SystemClock
from daemon.child.config import parse
from daemon.child.search import Network
from trainer import policy as networks
from trainer.bench import Case, market, training_of, training_rate
from trainer.space import defaults
from trainer.vector_env import Problem

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]
ACCOUNTS, ROLLOUT, EPOCHS, MINIBATCH, PEER_ENVS = 1024, 16_384, 4, 2048, 8
WIDEST = 1280


@pytest.fixture(scope="module", autouse=True)
def _one_torch_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return market(parse({}), 35_000)


def rates(works: Mapping[str, tuple[Callable[[], object], int]], *, rounds: int) -> dict[str, list[float]]:
    """Units per second of every (work, units it does), each once a round."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, (work, units) in works.items():
            began_s = time.perf_counter()
            work()
            found[name].append(units / (time.perf_counter() - began_s))
    return found


def report(title: str, found: Mapping[str, list[float]], *, unit: str) -> None:
    """The ratios are of the first row to the others: how many times as fast it is."""
    first = next(iter(found.values()))
    print(f"\n{title}\n  {'':<48}{unit:>12}{'least':>12}{'most':>12}{'ours ×':>9}")
    for name, each in found.items():
        ratio = median(a / b for a, b in zip(first, each, strict=True))
        print(f"  {name:<48}{median(each):>12,.0f}{min(each):>12,.0f}{max(each):>12,.0f}{ratio:>9.1f}")


def test_the_peer_environment_has_our_mechanics(problem: Problem) -> None:
    """A comparison with something easier would be worth nothing."""
    ours, theirs = problem.batched(groups=1, accounts_per_group=1, seed=1), FinRlStyleEnv(problem)
    seen, _ = theirs.reset(seed=1)
    ours.bar[:] = theirs.bar
    ours.end[:] = ours.until[:] = theirs.end
    ours.opened[:] = theirs.bar
    ours.fee[:], ours.impact[:] = theirs.fee, theirs.impact
    rng = np.random.default_rng(0)
    for _ in range(150):
        looked = ours.observe()
        assert np.allclose(seen, torch.cat([looked.market[0], looked.account[0, 0]]).numpy(), atol=1e-6)
        raw = 2.0 * rng.normal(size=problem.layout.action_size)
        result = ours.step(torch.as_tensor(raw).reshape(1, 1, -1))
        seen, reward, *_ = theirs.step(raw)
        assert reward == pytest.approx(float(result.reward), abs=1e-9)


def test_stepping_the_environment_beside_others(problem: Problem) -> None:
    works = {
        "ours, 1,024 accounts of 7 coins": our_steps(problem, accounts=ACCOUNTS),
        "FinRL's style, one account of 7 coins": finrl_steps(problem),
    }
    report("environment, observations included, lookback 1", rates(works, rounds=40), unit="steps/s")


@pytest.mark.parametrize("accounts", [ACCOUNTS, 8 * ACCOUNTS])
def test_stepping_the_environment_beside_those_of_one_coin(accounts: int) -> None:
    config = parse({})
    coin = market(replace(config, market=replace(config.market, tickers=config.market.tickers[:1])), 35_000)
    works = {
        f"ours, {accounts:,} accounts": our_steps(coin, accounts=accounts),
        "gym-trading-env, one account": gym_trading_steps(coin),
        "gym-anytrading, no account": anytrading_steps(coin),
    }
    report("environment of one coin, observations included, lookback 1", rates(works, rounds=20), unit="steps/s")


def our_steps(problem: Problem, *, accounts: int) -> tuple[Callable[[], None], int]:
    env = problem.batched(groups=accounts // 8, accounts_per_group=8, seed=1)
    raw = torch.randn((env.groups, 8, problem.layout.action_size), generator=torch.Generator().manual_seed(1))

    def steps() -> None:
        for _ in range(50):
            env.observe()
            env.step(raw)

    return steps, 50 * accounts


def peer_steps(env: gymnasium.Env[Any, Any], actions: Sequence[Any]) -> tuple[Callable[[], None], int]:
    env.reset(seed=1)

    def steps() -> None:
        for action in actions:
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return steps, len(actions)


def finrl_steps(problem: Problem) -> tuple[Callable[[], None], int]:
    raw = np.random.default_rng(1).normal(size=(1_000, problem.layout.action_size)).astype(np.float32)
    return peer_steps(FinRlStyleEnv(problem), list(raw))


def gym_trading_steps(problem: Problem) -> tuple[Callable[[], None], int]:
    """On the coin's candles with our features, fees and longest episode; flat, half or all in."""
    with warnings.catch_warnings():  # on import it makes every warning of the process an error
        envs = pytest.importorskip("gym_trading_env.environments", reason="make bench installs the peers")
    tensors = problem.market
    open_, close, volume = (tensors.bars[:, k].numpy() for k in (1, 0, 2))
    prices = {"open": open_, "high": np.maximum(open_, close), "low": np.minimum(open_, close), "close": close}
    features = {f"feature_{k}": column for k, column in enumerate(tensors.market.T.numpy())}
    candles = pd.DataFrame(
        prices | {"volume": volume} | features, index=pd.date_range("2022-01-01", periods=tensors.n_bars, freq="h")
    )
    env = envs.TradingEnv(
        df=candles, positions=[0, 0.5, 1], trading_fees=problem.costs.fee, verbose=0,
        max_episode_duration=problem.max_episode_bars,
    )  # fmt: skip
    return peer_steps(env, np.random.default_rng(1).integers(0, 3, 2_000).tolist())


def anytrading_steps(problem: Problem) -> tuple[Callable[[], None], int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a peer's deprecations are its own affair
        envs = pytest.importorskip("gym_anytrading.envs", reason="make bench installs the peers")
    close = problem.market.close[:, 0].numpy()
    env = envs.StocksEnv(df=pd.DataFrame({"Close": close}), window_size=1, frame_bound=(1, len(close)))
    return peer_steps(env, np.random.default_rng(1).integers(0, 2, 10_000).tolist())


def sb3_update(
    problem: Problem, width: int, *, subprocesses: bool = False, our_network: bool = False
) -> tuple[Callable[[], object], Callable[[], None]]:
    """(one rollout and its passes, what closes it) of stable-baselines3 at our sizes."""
    sb3 = pytest.importorskip("stable_baselines3", reason="the optional extra `compare` is not installed")
    from sb3_policy import PerAssetInSb3
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    make = [lambda: FinRlStyleEnv(problem)] * PEER_ENVS
    envs = SubprocVecEnv(make, start_method="fork") if subprocesses else DummyVecEnv(make)
    own = {"net_arch": {"pi": [width, width], "vf": [width, width]}, "activation_fn": torch.nn.Tanh}
    model = sb3.PPO(
        PerAssetInSb3 if our_network else "MlpPolicy", envs, n_steps=ROLLOUT // PEER_ENVS, batch_size=MINIBATCH,
        n_epochs=EPOCHS, device="cpu", seed=1,
        policy_kwargs={"layout": problem.layout, "width": width} if our_network else own,
    )  # fmt: skip
    return lambda: model.learn(ROLLOUT, reset_num_timesteps=False), envs.close


def our_update(
    problem: Problem, policy: Network, width: int, *, accounts: int = 128, per_group: int = 8
) -> Callable[[], object]:
    h = replace(
        defaults(policy), width=width, rollout_bars=ROLLOUT // accounts, epochs=EPOCHS, minibatch=MINIBATCH,
        accounts_per_group=per_group, kl_target=float("inf"),
    )  # fmt: skip
    return training_of(problem, h, accounts).update


@pytest.mark.parametrize("width", [64, 256, WIDEST])
def test_ppo_end_to_end_beside_stable_baselines3(problem: Problem, width: int) -> None:
    peers = {
        "stable-baselines3, DummyVecEnv": sb3_update(problem, width),
        "stable-baselines3, SubprocVecEnv": sb3_update(problem, width, subprocesses=True),
        "stable-baselines3, our per_asset network": sb3_update(problem, width, our_network=True),
    }
    ours = {
        "per_asset, 512 accounts walk the same bars": our_update(
            problem, "per_asset", width, accounts=512, per_group=512
        ),
        "per_asset, 64 of 512 walk the same bars": our_update(problem, "per_asset", width, accounts=512, per_group=64),
        "per_asset, 8 of 128, as is the default": our_update(problem, "per_asset", width),
        "mlp, 8 of 128": our_update(problem, "mlp", width),
    }
    works = {**ours, **{name: update for name, (update, _) in peers.items()}}
    for work in ours.values():
        work()
    found = rates({n: (w, ROLLOUT) for n, w in works.items()}, rounds=2 if width == WIDEST else 5)
    for _, close in peers.values():
        close()
    print(f"\nPPO end to end, width {width}, samples/s (times each peer)")
    for name in ours:
        times = [median(a / b for a, b in zip(found[name], found[p], strict=True)) for p in peers]
        print(f"  {name:<48}{median(found[name]):>10,.0f}   " + "".join(f"{t:>9.1f}" for t in times))
    for name in peers:
        print(f"  {name:<48}{median(found[name]):>10,.0f}")


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_the_plain_network_beside_its_own_matrix_products(
    problem: Problem, products: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = products == "bfloat16"
    if native and not networks.multiplies_bf16("cpu"):
        pytest.skip("this processor does not multiply bfloat16 by itself")
    monkeypatch.setattr(networks, "multiplies_bf16", lambda _: native)
    t = training_rate(problem, Case(policy="mlp", width=WIDEST, rollout_bars=16), 128, SystemClock(), case_s=20.0)
    print(
        f"\nmlp of width {WIDEST}, {products} products: {t.samples_per_s:,.0f} samples/s, "
        f"{t.limit_share:.0%} of what its own matrix products allow alone ({t.gemm_flop_per_s / 1e9:.0f} GFLOP/s, "
        f"{t.flop_per_sample / 1e6:.1f} MFLOP a sample)"
    )
