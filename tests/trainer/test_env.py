"""The training environment: the same arithmetic as everywhere, behind Gymnasium's contract."""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from world import random_bars

from features.account import worth
from features.allocation import Limits, target_weights
from features.costs import Costs
from features.ledger import Ledger, plan_orders, simulate_fills
from features.observation import account_block
from features.spec import preset
from features.venue_rules import VenueRules
from trainer.env import ENV_ID
from trainer.vector_env import COST_SPREAD, BatchedPortfolioEnv, Problem

TICKERS = ("BTC", "ETH", "LTC")
COSTS = Costs(fee_bps=25.0, half_spread_bps=2.0, slippage_bps=3.0, max_volume_share=0.05)
LIMITS = Limits(min_cash_reserve=0.02, max_weight=0.6, no_trade_band=0.01)
RULES = VenueRules.uniform("here", TICKERS)


@pytest.fixture(scope="module")
def problem() -> Problem:
    spec = preset("stationary", tickers=TICKERS, timeframe_s=3600)
    return Problem.of(random_bars(4, n_bars=1800), spec, costs=COSTS, limits=LIMITS, rules=RULES)


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized:UserWarning")  # the action is the policy's raw output
def test_the_environment_passes_gymnasiums_own_checker(problem: Problem) -> None:
    check_env(gymnasium.make(ENV_ID, problem=problem).unwrapped, skip_render_check=True)


def test_one_seed_is_one_history_and_another_seed_another(problem: Problem) -> None:
    def played(seed: int) -> np.ndarray:
        env = gymnasium.make(ENV_ID, problem=problem).unwrapped
        seen = [env.reset(seed=seed)[0]]
        seen += [env.step(np.zeros(5, np.float32))[0] for _ in range(20)]
        return np.stack(seen)

    assert np.array_equal(played(7), played(7))
    assert not np.array_equal(played(7), played(8))


@pytest.mark.parametrize("make", [gymnasium.make, partial(gymnasium.make_vec, num_envs=2)])
def test_copies_that_nobody_seeded_play_episodes_of_their_own(make: Any, problem: Problem) -> None:
    one, other = make(ENV_ID, problem=problem), make(ENV_ID, problem=problem)
    assert not np.array_equal(one.reset()[0], other.reset()[0])
    one.reset(seed=3)
    other.reset(seed=3)
    assert np.array_equal(one.reset()[0], other.reset()[0])  # a seed is for this reset and the ones after it


def test_the_vector_face_gives_the_last_observation_of_a_finished_episode_and_goes_on(problem: Problem) -> None:
    envs = gymnasium.make_vec(ENV_ID, num_envs=4, problem=problem)
    observation, _ = envs.reset(seed=1)
    assert observation.shape == (4, problem.layout.size) == envs.observation_space.shape
    ended = np.zeros(4, dtype=bool)
    for _ in range(problem.max_episode_bars + 1):
        observation, reward, terminated, truncated, infos = envs.step(np.zeros((4, 5), np.float32))
        over = terminated | truncated
        assert reward.shape == (4,) and np.isfinite(reward).all()
        if over.any():
            assert (infos["_final_obs"] == over).all()
            first = int(np.flatnonzero(over)[0])
            assert not np.array_equal(infos["final_obs"][first], observation[first])
        ended |= over
    assert ended.all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_whatever_the_actions_no_account_goes_below_zero_and_costs_are_paid(seed: int) -> None:
    spec = preset("stationary", tickers=TICKERS, timeframe_s=3600)
    made = Problem.of(random_bars(seed % 50, n_bars=700), spec, costs=COSTS, limits=LIMITS, rules=RULES)
    env = made.batched(groups=3, accounts_per_group=4, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(60):
        raw = 3.0 * torch.randn((3, 4, 5), generator=generator)
        result = env.step(raw)
        assert (env.cash >= 0).all() and (env.quantity >= 0).all()
        assert torch.isfinite(result.reward).all()
        assert ((result.turnover >= 0) & (result.drawdown >= 0)).all()


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_raw_outputs_of_any_size_are_actions(problem: Problem, size: float) -> None:
    env = problem.batched(groups=2, accounts_per_group=4, seed=1)
    for sign in (1.0, -1.0, 1.0):
        raw = sign * size * torch.randn((2, 4, 5), generator=torch.Generator().manual_seed(1))
        assert torch.isfinite(env.step(raw).reward).all()


def test_an_account_of_the_environment_ends_where_the_exact_ledger_ends(problem: Problem) -> None:
    """The same raw outputs through the batched environment and through the ledger that evaluation and trading use."""
    env = problem.batched(groups=1, accounts_per_group=1, seed=3)
    env.fee[:], env.impact[:] = COSTS.fee, COSTS.price_impact
    bars = random_bars(4, n_bars=1800)
    bars = bars.slice(bars.n_bars - problem.market.n_bars, bars.n_bars)
    k = int(env.bar[0])
    ledger = Ledger.opened(TICKERS, 10_000.0)
    rng = np.random.default_rng(0)
    for step in range(100):
        raw = rng.normal(size=5)
        env.step(torch.as_tensor(raw).reshape(1, 1, -1))
        target = target_weights(raw, ledger.weights(bars.close[k + step]), LIMITS)
        orders = plan_orders(ledger, target, bars.close[k + step], RULES)
        fills = simulate_fills(ledger, orders, bars.slice(k + step + 1, k + step + 2), COSTS, RULES)
        ledger = ledger.book(fills).marked(bars.close[k + step + 1])
    price = bars.close[k + 100]
    grown = float(worth(cash=env.cash, quantity=env.quantity, price=price, peak=env.peak).equity[0, 0])
    assert grown == pytest.approx(float(ledger.equity(price)), rel=1e-9)
    assert grown < 10_000.0 * 1.5


def test_a_share_of_the_fee_scales_what_trading_costs(problem: Problem) -> None:
    def after(share: float) -> float:
        env = problem.batched(groups=1, accounts_per_group=1, seed=3)
        env.fee_share = share
        env.fee[:], env.impact[:] = COSTS.fee, 0.0
        for _ in range(30):
            env.step(torch.tensor([[[3.0, 0.0, -3.0, -5.0, 5.0]]]))
            env.step(torch.tensor([[[-3.0, 0.0, 3.0, -5.0, 5.0]]]))
        price = env.market.close.numpy()[env.bar][:, None]
        return float(worth(cash=env.cash, quantity=env.quantity, price=price, peak=env.peak).equity[0, 0])

    assert after(0.0) > after(0.5) > after(1.0) > 0


def test_ruin_terminates_and_the_end_of_an_episode_truncates(problem: Problem) -> None:
    env = problem.batched(groups=2, accounts_per_group=2, seed=3)
    env.cash[0, 0] = 1.0
    env.end[:] = env.bar[:, None] + 2
    first = env.step(torch.zeros((2, 2, 5)))
    assert first.terminated.tolist() == [[True, False], [False, False]]
    assert not first.truncated.any()
    assert float(env.cash[0, 0]) == 10_000.0  # another account has opened
    assert float(env.end[0, 0]) > float(env.bar[0]) + 1  # with an episode of its own
    second = env.step(torch.zeros((2, 2, 5)))
    assert second.truncated.tolist() == [[False, True], [True, True]]


def test_every_account_has_its_own_length_and_costs_and_opens_flat(problem: Problem) -> None:
    env = problem.batched(groups=16, accounts_per_group=8, seed=5)
    length = env.end - env.opened
    assert (length >= problem.min_episode_bars).all() and (length <= problem.max_episode_bars).all()
    assert len(set(length.flatten().tolist())) > 64
    assert (env.cash == problem.initial_cash).all() and (env.quantity == 0).all()
    for rate, middle in ((env.fee, COSTS.fee), (env.impact, COSTS.price_impact)):
        assert len(set(rate.flatten().tolist())) == 128
        assert (rate >= COST_SPREAD[0] * middle).all() and (rate <= COST_SPREAD[1] * middle).all()
        assert float(rate.mean()) == pytest.approx(middle, rel=0.1)


def test_accounts_without_company_start_at_bars_of_their_own_again_and_again(problem: Problem) -> None:
    """Random start and length per account: 32 accounts, their second episodes begin elsewhere too."""
    env = problem.batched(groups=32, accounts_per_group=1, seed=5)
    first = env.bar.copy()
    assert len(set(first.tolist())) > 24
    env.end[:] = env.bar[:, None] + 1
    env.step(torch.zeros((32, 1, 5)))
    assert len(set(env.bar.tolist())) > 24 and (env.bar != first + 1).sum() > 24
    assert (env.opened[:, 0] == env.bar).all()


def test_in_a_group_one_account_ends_and_another_opens_while_the_rest_go_on(problem: Problem) -> None:
    env = problem.batched(groups=1, accounts_per_group=4, seed=5)
    began = int(env.bar[0])
    first_end = int(env.end.min())
    opened = []
    for _ in range(first_end - began):
        result = env.step(torch.zeros((1, 4, 5)))
        opened.append(env.opened[0].tolist())
    assert result.truncated.sum() == 1 and int(env.bar[0]) == first_end
    assert sorted(opened[-1]) == [began, began, began, first_end]


def test_what_an_account_shows_is_what_features_make_of_its_state_also_after_a_new_start(problem: Problem) -> None:
    """The environment values an account once per bar and keeps it; here it is valued anew, by the code of a decision."""
    env, opened = problem.batched(groups=3, accounts_per_group=4, seed=6), 0
    rng = torch.Generator().manual_seed(2)
    for _ in range(900):
        result = env.step(3.0 * torch.randn((3, 4, 5), generator=rng))
        opened += int((result.terminated | result.truncated).sum())
        anew = account_block(
            cash=env.cash, quantity=env.quantity, price=env.market.close.numpy()[env.bar][:, None], peak=env.peak,
            bars_since_trade=env.since_trade,
        )  # fmt: skip
        assert np.array_equal(env.observe().account.numpy(), anew)
    assert opened > 12


def test_a_restored_environment_continues_the_same_history_bit_for_bit(problem: Problem) -> None:
    def history(env: BatchedPortfolioEnv, n: int) -> list[bytes]:
        seen = []
        for k in range(n):
            raw = torch.randn((4, 4, 5), generator=torch.Generator().manual_seed(k))
            seen.append(env.step(3.0 * raw).reward.numpy().tobytes() + env.observe().account.numpy().tobytes())
        return seen

    env = problem.batched(groups=4, accounts_per_group=4, seed=8)
    history(env, 100)
    stored = env.state()
    expected = history(env, 900)  # beyond the longest episode: new windows, lengths and costs are drawn
    other = problem.batched(groups=4, accounts_per_group=4, seed=9)
    other.restore(stored)
    assert history(other, 900) == expected


def test_an_episode_never_reads_past_the_last_bar() -> None:
    spec = preset("stationary", tickers=TICKERS, timeframe_s=3600)
    made = Problem.of(random_bars(6, n_bars=460), spec, costs=COSTS, limits=LIMITS, rules=RULES)
    env: BatchedPortfolioEnv = made.batched(groups=8, accounts_per_group=2, seed=0)
    for _ in range(400):
        env.step(torch.zeros((8, 2, 5)))
        assert (env.bar < made.market.n_bars).all() and (env.end < made.market.n_bars).all()
        assert (env.end > env.bar[:, None]).all()


def test_stable_baselines3_learns_in_the_gymnasium_face(problem: Problem) -> None:
    """Another library, another training loop, the same environment: its network moves and its policy can be asked."""
    sb3 = pytest.importorskip("stable_baselines3", reason="the optional extra `compare` is not installed")
    from stable_baselines3.common.env_util import make_vec_env

    envs = make_vec_env(lambda: gymnasium.make(ENV_ID, problem=problem), n_envs=2, seed=0)
    model = sb3.PPO("MlpPolicy", envs, n_steps=64, batch_size=64, n_epochs=2, seed=0, device="cpu")
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(256)
    after = list(model.policy.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    action, _ = model.predict(envs.reset(), deterministic=True)
    assert action.shape == (2, problem.layout.action_size) and np.isfinite(action).all()
