"""Markets whose best policy is known: episodes by hand, Cover's two assets, Kelly's bet, a drift, and fees too high.

Each is a market tensor made for the purpose, with PPO as a trial runs it; only sizes and a few hyperparameters differ.
Sources: Cover 1991 ("Universal Portfolios"), Kelly 1956 ("A New Interpretation of Information Rate").
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from features.actor import build_actor
from features.allocation import Limits
from features.bars import Bars
from features.costs import Costs
from features.observation import Layout
from trainer import ppo
from trainer.space import Hyperparameters
from trainer.vector_env import BatchedPortfolioEnv, MarketTensors, Problem

FREE = Costs(fee_bps=0.0, half_spread_bps=0.0, slippage_bps=0.0)
UNBOUND = Limits(min_cash_reserve=0.0, max_weight=1.0, no_trade_band=0.0)
QUICK = Hyperparameters(
    width=16, rollout_bars=32, minibatch=2048, epochs=6, gamma=0.96, gae_lambda=0.9, learning_rate=5e-3, fee_ramp=0.2
)
STILL = replace(QUICK, fee_ramp=0.0, learning_rate=1e-2, gamma=0.9, gae_lambda=0.5)
AT_ONCE = 30.0  # raw speed: the whole way now


def market(
    growth: NDArray[np.float64], seen: NDArray[np.float32], *, costs: Costs = FREE, min_notional: float = 0.0
) -> Problem:
    """growth (T, N): close over previous close, opens at the previous close; seen (T, F): one column set for all."""
    n_bars, n = growth.shape
    close = 100.0 * np.cumprod(growth, axis=0)
    opened = np.vstack([100.0 * np.ones((1, n)), close[:-1]])
    bars = Bars(
        tickers=tuple("ABCDEFG"[:n]), timeframe_s=3600, close_time_s=3600 * np.arange(1, n_bars + 1, dtype=np.int64),
        open=opened, close=close, high=np.maximum(opened, close), low=np.minimum(opened, close),
        volume=np.full(close.shape, 1e12), filled=np.zeros(close.shape, dtype=np.bool_),
    )  # fmt: skip
    per_asset = seen.reshape(n_bars, n, -1)
    return Problem(
        market=MarketTensors.of(seen, bars), limits=UNBOUND, costs=costs, lot=np.zeros(n),
        min_notional=np.full(n, min_notional),
        layout=Layout(n_assets=n, n_asset_features=per_asset.shape[2], n_shared_features=0),
        min_episode_bars=32, max_episode_bars=96,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Played:
    """One account under the deterministic policy, from flat. T decisions.

    wealth (T + 1,); staked (T, N) weights right after the trade; weights (T, N) a bar later.
    """

    wealth: NDArray[np.float64]
    staked: NDArray[np.float64]
    weights: NDArray[np.float64]
    turnover: float


def learned(problem: Problem, h: Hyperparameters, *, steps: int, seed: int = 1) -> Played:
    """Train with the numpy actor's policy as the result, then play it over `problem` from bar 0 at full costs."""
    made = ppo.train_portfolio(
        problem, h, accounts=256, steps=steps, seed=seed, on_update=lambda stats, pack: None,
        monotonic_s=iter(range(10_000)).__next__,
    )  # fmt: skip
    actor = build_actor(made.kind, problem.layout, made.width, made.weights)
    env = opened(problem)
    wealth, staked, weights, turnover = [problem.initial_cash], [], [], 0.0
    for _ in range(problem.market.n_bars - 1):
        seen = env.observe()
        raw = actor.act(torch.cat([seen.market[0], seen.account[0, 0]]).numpy())
        result = env.step(torch.as_tensor(raw).reshape(1, 1, -1))
        wealth.append(wealth[-1] * math.exp(float(result.log_return)))
        weights.append(result.final.account[0, 0, : problem.layout.n_assets].double().numpy())
        held = weights[-1] / (1.0 + result.market_return[0].numpy()) * math.exp(float(result.log_return))
        staked.append(held)  # at the price it was bought at
        turnover += float(result.turnover)
    return Played(wealth=np.array(wealth), staked=np.stack(staked), weights=np.stack(weights), turnover=turnover)


def opened(problem: Problem) -> BatchedPortfolioEnv:
    """One flat account at bar 0 with the problem's exact costs and the whole market ahead."""
    env = problem.batched(groups=1, accounts_per_group=1, seed=0)
    env.bar[:], env.opened[:] = 0, 0
    env.end[:] = env.until[:] = problem.market.n_bars - 1
    env.fee[:], env.impact[:] = problem.costs.fee, problem.costs.price_impact
    return env


def raw(weights: Sequence[float]) -> torch.Tensor:
    """The raw output that aims at asset weights (N,) at once."""
    logits = [math.log(max(w, 1e-13)) for w in (*weights, 1.0 - sum(weights))]
    return torch.tensor([[[*logits, AT_ONCE]]], dtype=torch.float64)


def test_an_episode_by_hand_without_costs() -> None:
    problem = market(np.array([[1.0], [2.0], [0.5], [1.1]]), np.zeros((4, 1), np.float32))
    env = opened(problem)
    first = env.step(raw([0.5]))  # 5,000 in cash, 50 units at 100, which close at 200: 15,000
    assert env.cash.item() == pytest.approx(5_000.0) and env.quantity.item() == pytest.approx(50.0)
    assert float(first.log_return) == pytest.approx(math.log(1.5))
    assert float(first.reward) == pytest.approx(math.log(1.5) - math.log(2.0))  # less the market's
    assert float(first.turnover) == pytest.approx(0.5)
    assert float(first.cash_share) == pytest.approx(1 / 3) and float(first.concentration) == pytest.approx(4 / 9)
    second = env.step(raw([0.5]))  # sells 12.5 at 200: 7,500 and 37.5 units, which close at 100: 11,250
    assert float(second.log_return) == pytest.approx(math.log(11_250 / 15_000))
    assert float(second.drawdown) == pytest.approx(0.25)
    assert float(second.turnover) == pytest.approx(2_500 / 15_000)
    third = env.step(raw([0.0]))  # sells all at 100
    assert float(third.log_return) == pytest.approx(0.0) and float(third.cash_share) == pytest.approx(1.0)
    assert bool(third.truncated) and not bool(third.terminated)


def test_an_episode_by_hand_with_fee_and_price_impact() -> None:
    """Fee 1 % in the coin received, impact 1 %: 5,000 of 10,000 plan 50 units at 100, which cost 5,050, and 49.5 arrive."""
    costs = Costs(fee_bps=100.0, half_spread_bps=60.0, slippage_bps=40.0, fee_in="received")
    env = opened(market(np.ones((4, 1)), np.zeros((4, 1), np.float32), costs=costs))
    first = env.step(raw([0.5]))  # 50 units are planned at 100 and filled at 101
    assert env.cash.item() == pytest.approx(10_000 - 50 * 101.0)
    assert env.quantity.item() == pytest.approx(50 * 0.99)
    assert float(first.log_return) == pytest.approx(math.log((4_950 + 4_950) / 10_000))
    second = env.step(raw([0.0]))  # 49.5 units at 99, less 1 %
    assert env.cash.item() == pytest.approx(4_950 + 49.5 * 99 * 0.99)
    assert float(second.drawdown) == pytest.approx(1 - (4_950 + 49.5 * 99 * 0.99) / 10_000)


def test_an_account_that_loses_all_but_a_twentieth_is_ruined_and_its_successor_opens_flat() -> None:
    env = opened(market(np.array([[1.0], [0.04], [1.0], [1.0]]), np.zeros((4, 1), np.float32)))
    result = env.step(raw([1.0]))
    assert bool(result.terminated) and not bool(result.truncated)
    assert env.cash.item() == 10_000.0 and env.quantity.item() == 0.0


def covers(n_bars: int = 400) -> Problem:
    """Cash and one asset that doubles and halves in turn; the phase is seen."""
    phase = np.arange(n_bars) % 2
    growth = np.where(phase == 1, 2.0, 0.5)[:, None]
    return market(growth, (1.0 - 2.0 * phase)[:, None].astype(np.float32))  # seen at the close before the move


def test_constant_rebalancing_in_covers_market_earns_what_cover_says() -> None:
    """Half in each gains 9/8 per two periods: 3.247321 after twenty; holding gains nothing."""
    env, wealth = opened(covers(22)), 1.0
    env.step(raw([0.0]))
    for _ in range(20):
        wealth *= math.exp(float(env.step(raw([0.5])).log_return))
    assert wealth == pytest.approx(3.247321, rel=1e-6)


@pytest.mark.parametrize("h", [QUICK, replace(QUICK, head="dirichlet"), replace(QUICK, policy="mlp", width=32)])
def test_who_sees_the_phase_of_covers_market_doubles_nearly_every_two_periods(h: Hyperparameters) -> None:
    played = learned(covers(), h, steps=300_000)
    per_two_periods = (played.wealth[-1] / played.wealth[1]) ** (2 / (len(played.wealth) - 2))
    assert 1.8 < per_two_periods <= 2.0 + 1e-9, per_two_periods


def test_a_binary_bet_is_sized_as_kelly_says() -> None:
    """±40 % with p = .6: f* = .2 / .4 = .5. A log-wealth learner that sees nothing approaches it."""
    rng = np.random.default_rng(0)
    n_bars = 6_000
    ups = np.zeros(n_bars, dtype=bool)
    ups[rng.permutation(n_bars)[: int(0.6 * n_bars)]] = True  # exactly p of the bars, in random order
    problem = market(np.where(ups, 1.4, 0.6)[:, None], np.zeros((n_bars, 1), np.float32))
    played = learned(problem, QUICK, steps=300_000)
    staked = float(np.median(played.staked))
    assert 0.4 < staked < 0.6, staked


def test_where_prices_only_drift_the_policy_buys_the_best_and_holds_it() -> None:
    """Drifts of +30, 0 and −30 bp a bar at 25 bp a trade: nearly all that holding the best from the start earns."""
    n_bars = 600
    growth = np.tile([1.003, 1.0, 0.997], (n_bars, 1))
    growth *= np.exp(np.random.default_rng(0).normal(0, 0.002, growth.shape))
    seen = np.tile(np.array([1.0, 0.0, -1.0], np.float32), (n_bars, 1))
    costs = Costs(fee_bps=25.0, half_spread_bps=0.0, slippage_bps=0.0)
    played = learned(market(growth, seen, costs=costs), QUICK, steps=300_000)
    best = float(np.log(np.prod(growth[1:, 0])))
    assert math.log(played.wealth[-1] / played.wealth[0]) > 0.9 * best
    assert played.weights[-1, 0] > 0.95 and played.turnover < 1.5


def test_where_a_trade_costs_more_than_any_move_the_policy_does_nothing() -> None:
    """5 % a trade against noise of 1 % a bar, no order below 10 of the 10,000: cash stays what it is."""
    rng = np.random.default_rng(1)
    growth = np.exp(rng.normal(0, 0.01, (600, 2)) - 0.5 * 0.01**2)
    seen = rng.normal(size=(600, 2)).astype(np.float32)
    costs = Costs(fee_bps=500.0, half_spread_bps=0.0, slippage_bps=0.0)
    played = learned(market(growth, seen, costs=costs, min_notional=10.0), STILL, steps=300_000)
    assert played.turnover < 0.05, played.turnover
    assert played.wealth[-1] > 0.99 * played.wealth[0]
