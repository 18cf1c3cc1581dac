"""PPO: its sums against sums written out, its loss against loops, its gradients against luck, its runs against themselves."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_env import COSTS, LIMITS, RULES, TICKERS
from world import random_bars

from features.spec import preset
from trainer import ppo, rollout
from trainer.checkpoint import CheckpointRefused
from trainer.space import Hyperparameters
from trainer.vector_env import Problem


def test_the_generalised_advantage_is_the_sum_written_out() -> None:
    generator = torch.Generator().manual_seed(1)
    t, gamma, lam = 12, 0.9, 0.8
    reward, value, following = (torch.rand(t, generator=generator) for _ in range(3))
    terminated = torch.zeros(t, dtype=torch.bool)
    truncated = torch.zeros(t, dtype=torch.bool)
    terminated[4], truncated[8] = True, True
    ended = terminated | truncated
    found = rollout.gae(
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
    cut = torch.zeros((t, g, a), dtype=torch.bool)
    lucky = rollout.luck(weights=weights, market_return=moves, ended=cut, discount=0.95)
    effect = 0.001 * torch.randn((t, g, a), generator=generator)
    blended = 3.0 * lucky[..., 0] - 0.5 * lucky[..., 2] + torch.randn((t, g, 1), generator=generator)
    left = rollout.without_luck(blended + effect, lucky)
    kept = torch.corrcoef(torch.stack([left.flatten(), effect.flatten()]))[0, 1]
    assert float(kept) > 0.9
    assert float(left.std()) < 0.1 * float(blended.std())


def test_luck_looks_at_the_market_up_to_the_end_of_the_accounts_own_episode_and_no_further() -> None:
    weights, moves = torch.ones((3, 1, 2, 1)), torch.tensor([1.0, 10.0, 100.0]).reshape(3, 1, 1)
    ended = torch.tensor([[[False, False]], [[True, False]], [[False, False]]])
    found = rollout.luck(weights=weights, market_return=moves, ended=ended, discount=0.5)
    assert found[:, 0, 0, 0].tolist() == [1.0 + 0.5 * 10.0, 10.0, 100.0]
    assert found[:, 0, 1, 0].tolist() == [1.0 + 0.5 * (10.0 + 0.5 * 100.0), 10.0 + 0.5 * 100.0, 100.0]


def reference_loss(x: dict[str, list[float]], entropy: float, h: Hyperparameters) -> tuple[float, float, float]:
    """(total, value loss, KL) with plain loops, straight from the papers."""
    n = len(x["log_prob"])
    mean = sum(x["advantage"]) / n
    deviation = math.sqrt(sum((a - mean) ** 2 for a in x["advantage"]) / (n - 1))
    surrogate = value = kl = 0.0
    for i in range(n):
        ratio = math.exp(x["log_prob"][i] - x["old_log_prob"][i])
        a = (x["advantage"][i] - mean) / (deviation + 1e-8)
        clipped = min(max(ratio, 1 - h.clip_range), 1 + h.clip_range)
        surrogate += min(ratio * a, clipped * a) / n
        moved = min(max(x["value"][i] - x["old_value"][i], -h.value_clip), h.value_clip)
        near = x["old_value"][i] + moved
        value += 0.5 * max((x["value"][i] - x["target"][i]) ** 2, (near - x["target"][i]) ** 2) / n
        kl += (ratio - 1 - math.log(ratio)) / n
    return -surrogate + h.value_coef * value - h.entropy_coef * entropy, value, kl


def test_the_loss_is_the_one_of_the_papers_written_with_loops() -> None:
    h = replace(Hyperparameters(), clip_range=0.15, value_clip=0.3, value_coef=0.7, entropy_coef=0.01)
    generator = torch.Generator().manual_seed(4)
    names = ("log_prob", "old_log_prob", "advantage", "value", "old_value", "target")
    x = {n: 0.5 * torch.randn(64, generator=generator, dtype=torch.float64) for n in names}
    found = ppo.ppo_loss(**x, entropy=torch.tensor(1.3), h=h)
    total, value, kl = reference_loss({n: t.tolist() for n, t in x.items()}, 1.3, h)
    assert (float(found.total), float(found.value), float(found.kl)) == pytest.approx((total, value, kl), rel=1e-6)
    ratio = (x["log_prob"] - x["old_log_prob"]).exp()
    assert float(found.ratio_deviation) == pytest.approx(max(abs(float(r) - 1) for r in ratio))


def test_the_gradient_of_the_surrogate_vanishes_where_the_ratio_is_beyond_the_clip_on_the_good_side() -> None:
    h = replace(Hyperparameters(), clip_range=0.2, entropy_coef=0.0)
    log_prob = torch.tensor([0.5, 0.5, -0.5, -0.5], requires_grad=True)  # ratios 1.65 and 0.61
    zero = torch.zeros(4)
    ppo.ppo_loss(
        log_prob=log_prob, old_log_prob=zero, advantage=torch.tensor([1.0, -1.0, 1.0, -1.0]), value=zero,
        old_value=zero, target=zero, entropy=torch.tensor(0.0), h=h,
    ).total.backward()  # fmt: skip
    assert log_prob.grad is not None
    assert (log_prob.grad != 0).tolist() == [False, True, True, False]


def test_value_normalisation_moves_no_value_when_its_moments_move() -> None:
    scale, last = rollout.ValueScale(), torch.nn.Linear(8, 1, dtype=torch.float64)
    x = torch.randn((32, 8), dtype=torch.float64)
    for shift, spread in ((5.0, 3.0), (-20.0, 0.1), (400.0, 90.0)):
        before = scale.values(last(x)).detach()
        scale.follow(shift + spread * torch.randn(1000), last)
        assert torch.allclose(scale.values(last(x)), before, rtol=1e-9)
        assert torch.allclose(scale.values(scale.normalised(before)), before, rtol=1e-9)


def test_the_first_rollout_alone_sets_the_value_moments_and_later_ones_are_averaged_in() -> None:
    scale, last = rollout.ValueScale(), torch.nn.Linear(2, 1)
    scale.follow(torch.tensor([1.0, 3.0]), last)
    assert (scale.mean, scale.deviation) == pytest.approx((2.0, 1.0))
    scale.follow(torch.tensor([12.0, 12.0]), last)
    assert 2.0 < scale.mean < 12.0 and scale.deviation > 1.0


def test_the_reward_scale_is_the_root_mean_square_of_all_rewards_so_far() -> None:
    scale = rollout.RewardScale()
    scale.divide(torch.full((50,), 3.0))
    assert scale.divide(torch.full((50,), 4.0))[0] == pytest.approx(4.0 / math.sqrt((9 + 16) / 2), rel=1e-4)


def test_shaping_takes_off_what_its_parameters_say_and_nothing_by_default() -> None:
    reward, h = torch.tensor([0.01]), Hyperparameters()
    facts = {"turnover": 0.2, "deepened": 0.003, "concentration": 0.5, "log_return": 0.02, "elapsed": 0.5}
    seen = {n: torch.tensor([v]) for n, v in facts.items()}
    assert rollout.shape(reward, h, **seen).equal(reward)
    for name, value, off in (
        ("reward_turnover_penalty", 0.1, 0.1 * 0.01 * 0.2), ("reward_drawdown_penalty", 0.2, 0.2 * 0.003),
        ("reward_concentration_penalty", 0.03, 0.03 * 0.01 * 0.5), ("reward_volatility_penalty", 2.0, 0.02**2),
        ("reward_time_decay_floor", 0.5, 0.25 * 0.01),
    ):  # fmt: skip
        shaped = rollout.shape(reward, replace(h, **{name: value}), **seen)
        assert float(reward - shaped) == pytest.approx(off, rel=1e-5), name


def problem() -> Problem:
    spec = preset("stationary", tickers=TICKERS, timeframe_s=3600)
    return Problem.of(random_bars(4, n_bars=1200), spec, costs=COSTS, limits=LIMITS, rules=RULES)


def trained(
    h: Hyperparameters, *, seed: int = 1, steps: int = 6000, resume: bytes | None = None,
    on_update: ppo.OnUpdate = lambda stats, pack: None, on: Problem | None = None,
) -> ppo.TrainedPolicy:  # fmt: skip
    return ppo.train_portfolio(
        on or problem(), h, accounts=16, steps=steps, seed=seed, on_update=on_update, resume=resume,
        monotonic_s=iter(range(10_000)).__next__,
    )  # fmt: skip


def same_weights(a: ppo.TrainedPolicy, b: ppo.TrainedPolicy) -> bool:
    return all(np.array_equal(a.weights[n], b.weights[n]) for n in a.weights)


@pytest.mark.parametrize("head", ["gaussian", "dirichlet"])
def test_the_same_seed_trains_the_same_weights_and_another_seed_others(head: str) -> None:
    h = replace(Hyperparameters(), head=head)
    one, again, other = trained(h), trained(h), trained(h, seed=2)
    assert same_weights(one, again) and not same_weights(one, other)
    assert one.steps >= 6000 and len(one.history) == one.steps // (128 * 16)


@pytest.mark.parametrize(
    "h",
    [
        Hyperparameters(rollout_bars=64),
        Hyperparameters(rollout_bars=64, policy="mlp", head="dirichlet"),
        Hyperparameters(rollout_bars=64, lr_schedule="exponential", accounts_per_group=4, kl_target=0.005),
    ],
)
def test_a_training_interrupted_at_any_update_and_continued_ends_in_the_same_weights(h: Hyperparameters) -> None:
    """In the same bits: weights, Adam's moments, environments, generators, normalisers and the schedule all go on."""
    stored: list[bytes] = []

    def keep(stats: ppo.UpdateStats, pack: Callable[[], bytes]) -> None:
        stored.append(pack())

    whole = trained(h, steps=5 * 64 * 16, on_update=keep)
    assert len(stored) == 5
    for packed in stored:
        continued = trained(h, steps=5 * 64 * 16, resume=packed)
        assert same_weights(whole, continued)
        assert continued.scales == whole.scales
        assert [s.value_loss for s in continued.history] == [s.value_loss for s in whole.history]


def test_a_checkpoint_of_another_training_is_refused_with_what_differs() -> None:
    stored: list[bytes] = []
    trained(Hyperparameters(), steps=100, on_update=lambda stats, pack: stored.append(pack()))
    with pytest.raises(CheckpointRefused, match=r"seed: stored 1, now 2"):
        trained(Hyperparameters(), steps=100, seed=2, resume=stored[0])
    with pytest.raises(CheckpointRefused, match=r"'gamma': 0\.97"):
        trained(Hyperparameters(gamma=0.97), steps=100, resume=stored[0])
    later = replace(problem(), market=problem().market.to("cpu"))
    later.market.market[-1, -1] += 1.0
    for other in (later, replace(problem(), initial_cash=1e6), replace(problem(), ranges=(range(100),))):
        with pytest.raises(CheckpointRefused, match="problem_sha256"):
            trained(Hyperparameters(), steps=100, on=other, resume=stored[0])
    for damaged in (b"", stored[0][: len(stored[0]) // 2], b"x" * 100):
        with pytest.raises(CheckpointRefused, match="not a checkpoint"):
            trained(Hyperparameters(), steps=100, resume=damaged)


def test_a_loss_that_is_no_longer_finite_ends_the_training_by_name() -> None:
    with pytest.raises(ppo.TrainingDiverged, match="not finite") as caught:
        trained(Hyperparameters(learning_rate=float("inf")), steps=20_000)
    assert "learning_rate" in str(caught.value.hint)


def test_a_callback_that_raises_stops_the_training_at_once() -> None:
    seen: list[ppo.UpdateStats] = []

    def stop(stats: ppo.UpdateStats, pack: Callable[[], bytes]) -> None:
        seen.append(stats)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(Hyperparameters(), steps=10**9, on_update=stop)
    assert len(seen) == 1


def test_what_the_normalisers_learned_is_handed_over_with_the_weights() -> None:
    made = trained(Hyperparameters())
    assert made.scales["reward_count"] > made.steps - 1 and made.scales["value_deviation"] > 0
    assert math.sqrt(made.scales["reward_square"] / made.scales["reward_count"]) < 0.1  # a bar's log return


@pytest.mark.parametrize(
    ("name", "done", "expected"),
    [
        ("linear", 0.0, 1.0), ("linear", 0.25, 0.775), ("linear", 1.0, 0.1),
        ("cosine", 0.0, 1.0), ("cosine", 0.5, 0.55), ("cosine", 1.0, 0.1),
        ("exponential", 0.0, 1.0), ("exponential", 0.5, math.sqrt(0.1)), ("exponential", 1.0, 0.1),
    ],
)  # fmt: skip
def test_the_learning_rate_follows_its_schedule_from_one_to_its_final_share(
    name: str, done: float, expected: float
) -> None:
    assert ppo.schedule(name, done, final=0.1) == pytest.approx(expected)
    assert ppo.schedule(name, done, final=1.0) == pytest.approx(1.0)
