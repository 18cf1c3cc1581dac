"""The networks and their noise: what is exported is what was trained, and densities are densities."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_env import LIMITS, TICKERS

from daemon.child.search import Network
from features.actor import build_actor, weight_shapes
from features.allocation import Limits, target_weights
from features.observation import Layout
from features.spec import preset
from trainer import policy as networks
from trainer.heads import DirichletHead, GaussianHead
from trainer.policy import Agent, Sight
from trainer.space import Hyperparameters

LAYOUT = Layout.of(preset("stationary", tickers=TICKERS, timeframe_s=3600))
STACKED = Layout.of(preset("stationary", tickers=TICKERS, timeframe_s=3600, stack_bars=3))
FREE = Limits(min_cash_reserve=0.0, max_weight=1.0, no_trade_band=0.0)


def agent(policy: Network, *, width: int = 16, head: str = "gaussian", lookback: int = 0) -> Agent:
    """With weights far from their start; lookback 0 is the unstacked observation."""
    torch.manual_seed(0)
    h = replace(Hyperparameters(), policy=policy, width=width, head=head, lookback=max(1, lookback))
    made = Agent.for_portfolio(STACKED if lookback else LAYOUT, h, stack_bars=3 if lookback else 1)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn_like(p) / max(1.0, width / 16) ** 0.5)
    return made


@pytest.mark.parametrize(
    ("policy", "width", "lookback"),
    [("per_asset", 16, 0), ("per_asset", 16, 2), ("mlp", 16, 0), ("mlp", 64, 1), ("mlp", 2048, 3)],
)
def test_the_torch_policy_and_the_numpy_policy_that_trades_say_the_same(
    policy: Network, width: int, lookback: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "multiplies_bf16", lambda _: False)
    layout = STACKED if lookback else LAYOUT
    ours = agent(policy, width=width, lookback=lookback).policy
    weights = ours.export()
    assert {n: w.shape for n, w in weights.items()} == weight_shapes(policy, layout, width)
    trading = build_actor(policy, layout, width, weights)
    rng = np.random.default_rng(0)
    for _ in range(50):
        observation = rng.normal(size=layout.size).astype(np.float32)
        market, account = observation[: layout.market_size], observation[layout.market_size :]
        with torch.no_grad():
            said = ours(torch.tensor(market)[None], torch.tensor(account)[None, None])[0, 0].numpy()
        assert np.abs(said - trading.act(observation)).max() <= 2e-5


@pytest.mark.parametrize("policy", ["per_asset", "mlp"])
def test_bfloat16_products_of_a_wide_network_move_what_it_says_by_little_of_its_noise(
    policy: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, market, account = agent(policy, width=512), torch.randn(64, LAYOUT.market_size), torch.rand(64, 4, 6)
    said = []
    for native in (False, True):
        monkeypatch.setattr(networks, "multiplies_bf16", lambda _, native=native: native)
        with torch.no_grad():
            said.append((made.policy(market, account), made.critic(market, account)))
    (mean, value), (rough_mean, rough_value) = said
    assert 0 < (rough_mean - mean).abs().max() < 0.05  # the noise deviates by 1
    assert 0 < (rough_value - value).abs().max() < 0.05 * float(value.std())


def test_narrow_networks_and_everything_that_is_no_product_stay_in_float32() -> None:
    with networks.products_of(agent("per_asset", width=32).policy.market_encoder):
        assert not torch.is_autocast_enabled("cpu")
    wide = agent("per_asset", width=256)
    with torch.no_grad():
        assert all(t.dtype == torch.float32 for t in wide.policy.trunk(torch.randn(2, LAYOUT.market_size)))


def test_a_layer_is_squashed_by_the_tanh_of_the_exported_actor() -> None:
    x = torch.linspace(-20.0, 20.0, 4001)
    seen, known = x.clone().requires_grad_(), x.clone().double().requires_grad_()
    found, expected = networks.squashed(seen * 1.0), torch.tanh(known)
    assert np.array_equal(found.detach().numpy(), np.tanh(x.numpy()))
    found.sum().backward()
    expected.sum().backward()
    assert seen.grad is not None and known.grad is not None
    assert float((seen.grad - known.grad).abs().max()) < 5e-7


def test_a_layer_in_bfloat16_is_squashed_to_the_nearest_bfloat16_and_so_is_its_gradient() -> None:
    x = torch.linspace(-6.0, 6.0, 4001).bfloat16()
    seen, known = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = networks.squashed(seen * 1.0), torch.tanh(known)
    assert found.dtype == torch.bfloat16 and torch.equal(found, torch.tanh(x.double()).bfloat16())
    found.sum().backward()
    expected.sum().backward()
    assert seen.grad is not None and torch.equal(seen.grad, known.grad)


@pytest.mark.parametrize("policy", ["per_asset", "mlp"])
def test_no_gradient_is_copied_because_a_layer_wrote_over_a_view(policy: Network) -> None:
    made, market, account = agent(policy), torch.randn(2, LAYOUT.market_size), torch.rand(2, 3, LAYOUT.n_assets + 3)
    waiting, names = [made.policy(market, account).grad_fn, made.critic(market, account).grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None:
            names.add(node.name())
            waiting += [n for n, _ in node.next_functions]
    assert "_TanhBackward" in names and not any("CopySlices" in n for n in names)


@pytest.mark.parametrize("policy", ["per_asset", "mlp"])
def test_a_policy_reads_the_newest_rows_up_to_its_lookback_and_no_others(policy: Network) -> None:
    trading = build_actor(policy, STACKED, 16, agent(policy, lookback=2).policy.export())
    observation = np.random.default_rng(1).normal(size=STACKED.size).astype(np.float32)
    oldest, middle = observation.copy(), observation.copy()
    n, f, g = STACKED.n_assets, STACKED.n_asset_features // 3, STACKED.n_shared_features // 3
    for changed, row in ((oldest, 0), (middle, 1)):
        for i in range(n):
            start = i * 3 * f + row * f
            changed[start : start + f] += 1.0
        changed[n * 3 * f + row * g : n * 3 * f + (row + 1) * g] += 1.0
    assert np.array_equal(trading.act(oldest), trading.act(observation))
    assert not np.array_equal(trading.act(middle), trading.act(observation))


def test_the_per_asset_policy_does_not_care_in_which_order_the_tickers_come() -> None:
    made = agent("per_asset")
    n, f = LAYOUT.n_assets, LAYOUT.n_asset_features
    market, account = torch.randn(1, LAYOUT.market_size), torch.rand(1, 1, n + 3)
    order = torch.tensor([2, 0, 1])
    shuffled = market.clone()
    shuffled[:, : n * f] = market[:, : n * f].reshape(1, n, f)[:, order].reshape(1, -1)
    moved = account.clone()
    moved[..., :n] = account[..., :n][..., order]
    with torch.no_grad():
        plain, permuted = made.policy(market, account), made.policy(shuffled, moved)
        assert torch.allclose(plain[..., :n][..., order], permuted[..., :n], atol=1e-5)
        assert torch.allclose(plain[..., n:], permuted[..., n:], atol=1e-5)
        assert torch.allclose(made.critic(market, account), made.critic(shuffled, moved), atol=1e-5)


@pytest.mark.parametrize("policy", ["per_asset", "mlp"])
def test_an_account_is_judged_alike_alone_and_in_a_group(policy: Network) -> None:
    made, market, account = agent(policy), torch.randn(4, LAYOUT.market_size), torch.rand(4, 6, LAYOUT.n_assets + 3)
    with torch.no_grad():
        for network in (made.policy, made.critic):
            together = network(market, account)
            alone = torch.stack([network(market, account[:, [i]])[:, 0] for i in range(6)], dim=1)
            assert torch.allclose(together, alone, atol=1e-5)


def test_the_log_density_of_the_gaussian_is_that_of_torchs_normal() -> None:
    head = GaussianHead(4, -0.3)
    mean, action = torch.randn(5, 4), torch.randn(5, 4)
    expected = torch.distributions.Normal(mean, head.log_std.exp())
    assert torch.allclose(head.log_prob(action, mean), expected.log_prob(action).sum(-1), atol=1e-5)
    assert torch.allclose(head.entropy(mean), expected.entropy().sum(-1).mean(), atol=1e-5)


def test_the_log_density_of_the_dirichlet_is_that_of_torchs_dirichlet_and_normal() -> None:
    head = DirichletHead(5, -0.3)
    mean = torch.randn(6, 5)
    action = head.sample(mean, torch.Generator().manual_seed(0))
    portfolio = torch.distributions.Dirichlet(head.concentration(mean))
    speed = torch.distributions.Normal(mean[:, -1], head.log_std.exp())
    share = torch.softmax(action[:, :-1], dim=-1)
    expected = portfolio.log_prob(share / share.sum(-1, keepdim=True)) + speed.log_prob(action[:, -1])
    assert torch.allclose(head.log_prob(action, mean), expected, atol=1e-4)
    assert torch.allclose(head.entropy(mean), portfolio.entropy().mean() + speed.entropy().mean(), atol=1e-4)


def test_the_portfolio_that_trades_is_the_mean_of_those_a_dirichlet_policy_explored_with() -> None:
    head, mean = DirichletHead(5, -0.5), torch.tensor([[0.8, -0.4, 0.1, 0.0, 40.0]])  # moves there at once
    action = head.sample(mean.expand(40_000, 5), torch.Generator().manual_seed(1)).double()
    action[:, -1] = 40.0
    flat = torch.zeros((40_000, 3), dtype=torch.float64)
    explored = target_weights(action, flat, FREE).mean(0)
    traded = target_weights(mean.double(), flat[:1], FREE)[0]
    assert (explored - traded).abs().max() < 0.003
    assert float(traded.sum()) < 1.0  # the rest is cash


@pytest.mark.parametrize("head", [GaussianHead(5, -0.5), DirichletHead(5, -0.5)])
def test_whatever_is_sampled_is_a_portfolio_within_the_limits(head: GaussianHead | DirichletHead) -> None:
    mean = 6.0 * torch.randn((2000, 5), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        action = head.sample(mean, torch.Generator().manual_seed(3))
        assert torch.isfinite(action).all() and torch.isfinite(head.log_prob(action, mean)).all()
    weights = target_weights(action.double(), torch.zeros((2000, 3), dtype=torch.float64), LIMITS)
    assert (weights >= 0).all() and (weights <= LIMITS.max_weight + 1e-12).all()
    assert (weights.sum(-1) <= 1.0 - LIMITS.min_cash_reserve + 1e-12).all()


def test_more_noise_is_more_entropy_under_either_head() -> None:
    mean = torch.zeros((3, 5))
    for head in (GaussianHead, DirichletHead):
        assert head(5, -1.5).entropy(mean).item() < head(5, -0.5).entropy(mean).item()


def test_sight_names_the_columns_of_the_newest_rows() -> None:
    layout = Layout(n_assets=2, n_asset_features=6, n_shared_features=3)  # three rows of two and of one column
    assert Sight(layout=layout, stack_bars=3, lookback=2).market_columns == [2, 3, 4, 5, 8, 9, 10, 11, 13, 14]
    assert Sight(layout=layout, stack_bars=3, lookback=3).market_columns == list(range(15))
