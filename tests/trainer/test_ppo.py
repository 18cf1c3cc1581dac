"""PPO: its sums against sums written out, its policy against the one that trades, its gradients against luck."""

import numpy as np
import pytest
import torch
from test_env import COSTS, LIMITS, RULES, TICKERS
from world import random_bars

from features.actor import build_actor
from features.observation import Layout
from features.spec import preset
from trainer import ppo
from trainer.env import Problem
from trainer.policy import Actor, Critic
from trainer.space import SPACE, Hyperparameters

LAYOUT = Layout.of(preset("stationary", tickers=TICKERS, timeframe_s=3600))


def test_the_torch_policy_and_the_numpy_policy_that_trades_say_the_same() -> None:
    torch.manual_seed(0)
    actor = Actor(LAYOUT, 16, -0.5)
    with torch.no_grad():
        for p in actor.parameters():
            p.add_(0.3 * torch.randn_like(p))
    trading = build_actor("per_asset", LAYOUT, 16, actor.export())
    rng = np.random.default_rng(0)
    for _ in range(200):
        observation = rng.normal(size=LAYOUT.size).astype(np.float32)
        market, account = observation[: LAYOUT.market_size], observation[LAYOUT.market_size :]
        with torch.no_grad():
            ours = actor(torch.tensor(market)[None], torch.tensor(account)[None, None])[0, 0].numpy()
        assert np.abs(ours - trading.act(observation)).max() <= 1e-5


def test_the_policy_does_not_care_in_which_order_the_tickers_come() -> None:
    torch.manual_seed(0)
    actor, critic = Actor(LAYOUT, 16, -0.5), Critic(LAYOUT, 16)
    n, f = LAYOUT.n_assets, LAYOUT.n_asset_features
    market, account = torch.randn(1, LAYOUT.market_size), torch.rand(1, 1, n + 3)
    order = torch.tensor([2, 0, 1])
    shuffled = market.clone()
    shuffled[:, : n * f] = market[:, : n * f].reshape(1, n, f)[:, order].reshape(1, -1)
    moved = account.clone()
    moved[..., :n] = account[..., :n][..., order]
    with torch.no_grad():
        plain, permuted = actor(market, account), actor(shuffled, moved)
        assert torch.allclose(plain[..., :n][..., order], permuted[..., :n], atol=1e-5)
        assert torch.allclose(plain[..., n:], permuted[..., n:], atol=1e-5)
        assert torch.allclose(critic(market, account), critic(shuffled, moved), atol=1e-5)


def test_the_generalised_advantage_is_the_sum_written_out() -> None:
    generator = torch.Generator().manual_seed(1)
    t, gamma, lam = 12, 0.9, 0.8
    reward, value, following = (torch.rand(t, generator=generator) for _ in range(3))
    terminated = torch.zeros(t, dtype=torch.bool)
    truncated = torch.zeros(t, dtype=torch.bool)
    terminated[4], truncated[8] = True, True
    ended = terminated | truncated
    found = ppo.gae(
        reward=reward, value=value, next_value=following, terminated=terminated, ended=ended, gamma=gamma, lam=lam
    )
    for start in range(t):
        total, weight = 0.0, 1.0
        for k in range(start, t):
            bootstrap = 0.0 if terminated[k] else gamma * float(following[k])
            total += weight * (float(reward[k]) + bootstrap - float(value[k]))
            weight *= gamma * lam
            if ended[k]:
                break
        assert float(found[start]) == pytest.approx(total, abs=1e-5)


def test_market_luck_is_taken_out_and_what_an_action_did_stays() -> None:
    """Advantages that are all luck of the holdings vanish; an independent effect of the action survives."""
    generator = torch.Generator().manual_seed(2)
    t, g, a, n = 64, 4, 8, 3
    weights = torch.rand((t, g, a, n), generator=generator)
    moves = 0.01 * torch.randn((t, g, n), generator=generator)
    cut = torch.zeros((t, g), dtype=torch.bool)
    lucky = ppo.luck(weights=weights, market_return=moves, truncated=cut, discount=0.95)
    effect = 0.001 * torch.randn((t, g, a), generator=generator)
    blended = 3.0 * lucky[..., 0] - 0.5 * lucky[..., 2] + torch.randn((t, g, 1), generator=generator)
    left = ppo.without_luck(blended + effect, lucky)
    kept = torch.corrcoef(torch.stack([left.flatten(), effect.flatten()]))[0, 1]
    assert float(kept) > 0.9
    assert float(left.std()) < 0.1 * float(blended.std())


def test_luck_looks_at_the_market_up_to_the_cut_and_no_further() -> None:
    weights, moves = torch.ones((3, 1, 1, 1)), torch.tensor([1.0, 10.0, 100.0]).reshape(3, 1, 1)
    cut = torch.tensor([[False], [True], [False]])
    found = ppo.luck(weights=weights, market_return=moves, truncated=cut, discount=0.5)
    assert found[..., 0].flatten().tolist() == [1.0 + 0.5 * 10.0, 10.0, 100.0]


def test_the_log_density_is_that_of_torchs_normal() -> None:
    mean, log_std = torch.randn(5, 4), torch.randn(4)
    action = torch.randn(5, 4)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(action).sum(-1)
    assert torch.allclose(ppo.log_density(action, mean, log_std), expected, atol=1e-5)


def trained(hyperparameters: Hyperparameters, *, seed: int = 1, steps: int = 6000) -> ppo.TrainedPolicy:
    spec = preset("stationary", tickers=TICKERS, timeframe_s=3600)
    made = Problem.of(random_bars(4, n_bars=1200), spec, costs=COSTS, limits=LIMITS, rules=RULES)
    lot, least = RULES.arrays(TICKERS)
    return ppo.train(
        market=made.market, layout=made.layout, limits=LIMITS, costs=COSTS, lot=lot, min_notional=least,
        hyperparameters=hyperparameters, accounts=16, steps=steps, seed=seed, on_update=lambda s: None,
        monotonic_s=iter(range(10_000)).__next__,
    )  # fmt: skip


def test_the_same_seed_trains_the_same_weights_and_another_seed_others() -> None:
    one, again, other = trained(Hyperparameters()), trained(Hyperparameters()), trained(Hyperparameters(), seed=2)
    assert all(np.array_equal(one.weights[n], again.weights[n]) for n in one.weights)
    assert any(not np.array_equal(one.weights[n], other.weights[n]) for n in one.weights)
    assert one.steps >= 6000 and len(one.history) == one.steps // (128 * 16)


CHANGED = {
    "learning_rate": 1e-3, "lr_schedule": "constant", "minibatch": 512, "rollout_bars": 64, "epochs": 2,
    "gamma": 0.97, "gae_lambda": 0.92, "clip_range": 0.1, "entropy_coef": 1e-3, "value_coef": 1.0,
    "max_grad_norm": 0.3, "kl_target": 0.005, "adam_epsilon": 1e-8, "width": 16, "initial_log_std": -1.0,
    "reward_drawdown_penalty": 0.1, "reward_turnover_penalty": 0.1,
}  # fmt: skip


def test_the_table_of_changes_covers_the_whole_space() -> None:
    assert set(CHANGED) == {p.name for p in SPACE}


@pytest.mark.parametrize("name", list(CHANGED))
def test_every_searched_parameter_changes_training(name: str) -> None:
    """Lessons: a parameter that changes nothing makes a search a lottery."""
    plain = trained(Hyperparameters(minibatch=1024, clip_range=0.2, kl_target=0.01), steps=12_000)
    given = {"minibatch": 1024, "clip_range": 0.2, "kl_target": 0.01} | {name: CHANGED[name]}
    changed = trained(Hyperparameters(**given), steps=12_000)
    assert plain.width != changed.width or any(
        not np.array_equal(plain.weights[n], changed.weights[n]) for n in plain.weights
    )


def test_a_loss_that_is_no_longer_finite_ends_the_training_by_name() -> None:
    with pytest.raises(ppo.TrainingDiverged, match="not finite") as caught:
        trained(Hyperparameters(learning_rate=float("inf")), steps=20_000)
    assert "learning_rate" in str(caught.value.hint)


def test_a_callback_that_raises_stops_the_training_at_once() -> None:
    spec = preset("stationary", tickers=TICKERS, timeframe_s=3600)
    made = Problem.of(random_bars(4, n_bars=1200), spec, costs=COSTS, limits=LIMITS, rules=RULES)
    lot, least = RULES.arrays(TICKERS)
    seen: list[ppo.UpdateStats] = []

    def stop(stats: ppo.UpdateStats) -> None:
        seen.append(stats)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ppo.train(
            market=made.market, layout=made.layout, limits=LIMITS, costs=COSTS, lot=lot, min_notional=least,
            hyperparameters=Hyperparameters(), accounts=16, steps=10**9, seed=1, on_update=stop,
            monotonic_s=iter(range(10)).__next__,
        )  # fmt: skip
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("name", "done", "expected"), [("linear", 0.25, 0.75), ("cosine", 0.5, 0.5), ("constant", 0.9, 1.0)]
)
def test_the_learning_rate_follows_its_schedule(name: str, done: float, expected: float) -> None:
    assert ppo.schedule(name, done) == pytest.approx(expected)
