"""The torch twins of `features.actor`'s networks, the critics beside them, and the noise that training explores with.

Tensor names and shapes are those of `features.actor.weight_shapes`, so exporting is renaming nothing. Every network
takes the market once per group of accounts, (D, M), and the accounts, (D, A, K); whatever depends on the market alone
is computed once per group.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from features.observation import ACCOUNT_FIELDS, Layout
from trainer.heads import DirichletHead, GaussianHead
from trainer.space import Hyperparameters

INITIAL_SPEED = -2.0  # sigmoid = 0.12: a fresh policy moves slowly, so exploring does not burn the account in fees


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """Which part of a stacked observation a policy reads: the newest `lookback` of its `stack_bars` rows.

    The observation stays as the feature spec lays it out; rows that are not read have weight 0 in the export.
    """

    layout: Layout
    stack_bars: int = 1
    lookback: int = 1

    def __post_init__(self) -> None:
        assert 1 <= self.lookback <= self.stack_bars, f"{self.lookback} of {self.stack_bars} stacked rows"

    @property
    def asset(self) -> slice:
        """Columns of one ticker's features; rows are stacked oldest first."""
        return self._newest(self.layout.n_asset_features)

    @property
    def shared(self) -> slice:
        return self._newest(self.layout.n_shared_features)

    @property
    def market_columns(self) -> list[int]:
        """Columns of the market block, ticker by ticker, then shared."""
        n, f, g = self.layout.n_assets, self.layout.n_asset_features, self.layout.n_shared_features
        return [i * f + c for i in range(n) for c in range(f)[self.asset]] + [n * f + c for c in range(g)[self.shared]]

    def _newest(self, columns: int) -> slice:
        return slice(columns // self.stack_bars * (self.stack_bars - self.lookback), columns)


def linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class _Market(nn.Module):
    """The layers that see the market alone: (D, M) → per-asset (D, N, W) and pooled (D, W)."""

    def __init__(self, sight: Sight, width: int) -> None:
        super().__init__()
        self.sight, self.layout = sight, sight.layout
        self._features = len(range(self.layout.n_asset_features)[sight.asset])
        self._shared = len(range(self.layout.n_shared_features)[sight.shared])
        self.asset_encoder = linear(self._features + self._shared, width, math.sqrt(2))
        self.market_encoder = linear(2 * width, width, math.sqrt(2))

    def trunk(self, market: Tensor) -> tuple[Tensor, Tensor]:
        n, f = self.layout.n_assets, self.layout.n_asset_features
        asset = market[..., : n * f].reshape(*market.shape[:-1], n, f)[..., self.sight.asset]
        shared = market[..., n * f :][..., self.sight.shared].unsqueeze(-2).expand(*asset.shape[:-1], self._shared)
        encoded = torch.tanh(self.asset_encoder(torch.cat([asset, shared], dim=-1)))
        pooled = encoded.mean(dim=-2, keepdim=True).expand_as(encoded)
        per_asset = torch.tanh(self.market_encoder(torch.cat([encoded, pooled], dim=-1)))
        return per_asset, per_asset.mean(dim=-2)


class PerAssetPolicy(_Market):
    """The mean of the raw output. (D, M) and (D, A, N + 3) → (D, A, N + 2)."""

    def __init__(self, sight: Sight, width: int) -> None:
        super().__init__(sight, width)
        account = len(ACCOUNT_FIELDS)
        self.asset_head = linear(width + 1 + account, width, math.sqrt(2))
        self.asset_logit = linear(width, 1, 0.01)
        self.cash_head = linear(width + account, width, math.sqrt(2))
        self.cash_out = linear(width, 2, 0.01)
        with torch.no_grad():
            self.cash_out.bias[1] = INITIAL_SPEED

    def forward(self, market: Tensor, account: Tensor) -> Tensor:
        per_asset, pooled = self.trunk(market)
        n = self.layout.n_assets
        held, state = account[..., :n], account[..., n:]
        # a head's first layer is linear, so the market's part of it is computed once per bar, not once per account
        width = per_asset.shape[-1]
        weight = self.asset_head.weight
        from_market = nn.functional.linear(per_asset, weight[:, :width], self.asset_head.bias)
        from_state = nn.functional.linear(state, weight[:, width + 1 :])
        headed = torch.tanh(
            from_market.unsqueeze(-3) + held.unsqueeze(-1) * weight[:, width] + from_state.unsqueeze(-2)
        )
        logits = self.asset_logit(headed).squeeze(-1)
        weight = self.cash_head.weight
        centre = nn.functional.linear(pooled, weight[:, :width], self.cash_head.bias)
        from_state = nn.functional.linear(state, weight[:, width:])
        tail = self.cash_out(torch.tanh(centre.unsqueeze(-2) + from_state))
        return torch.cat([logits, tail], dim=-1)

    def export(self) -> dict[str, NDArray[np.float32]]:
        """Weights under the names of `features.actor.weight_shapes`."""
        weights = _arrays(self)
        seen = [*range(self.layout.n_asset_features)[self.sight.asset]]
        seen += [self.layout.n_asset_features + c for c in range(self.layout.n_shared_features)[self.sight.shared]]
        inputs = self.layout.n_asset_features + self.layout.n_shared_features
        weights["asset_encoder.weight"] = _spread(weights["asset_encoder.weight"], seen, inputs)
        return weights


class PerAssetValue(_Market):
    """State value in normalised units: (D, M) and (D, A, N + 3) → (D, A)."""

    def __init__(self, sight: Sight, width: int) -> None:
        super().__init__(sight, width)
        inputs = width + self.layout.n_assets + len(ACCOUNT_FIELDS)
        self.value_head = linear(inputs + width, width, math.sqrt(2))
        self.value_out = linear(width, 1, 1.0)

    def forward(self, market: Tensor, account: Tensor) -> Tensor:
        per_asset, pooled = self.trunk(market)
        n, width = self.layout.n_assets, pooled.shape[-1]
        # what is held, as the sum of the holdings' own market states: equivariant under permutation of the tickers
        exposure = torch.einsum("...an,...nw->...aw", account[..., :n], per_asset)
        ordered = account[..., :n].sort(dim=-1).values
        weight = self.value_head.weight
        centre = nn.functional.linear(pooled, weight[:, :width], self.value_head.bias)
        own = nn.functional.linear(torch.cat([exposure, ordered, account[..., n:]], dim=-1), weight[:, width:])
        value: Tensor = self.value_out(torch.tanh(centre.unsqueeze(-2) + own)).squeeze(-1)
        return value


class _Dense(nn.Module):
    """Two hidden layers over market and account; the first layer's market part is computed once per group."""

    def __init__(self, market_columns: list[int], account_size: int, width: int) -> None:
        super().__init__()
        self._columns = market_columns
        self.hidden_1 = linear(len(market_columns) + account_size, width, math.sqrt(2))
        self.hidden_2 = linear(width, width, math.sqrt(2))

    def hidden(self, market: Tensor, account: Tensor) -> Tensor:
        seen = market if len(self._columns) == market.shape[-1] else market[..., self._columns]
        weight, m = self.hidden_1.weight, len(self._columns)
        from_market = nn.functional.linear(seen, weight[:, :m], self.hidden_1.bias)
        from_account = nn.functional.linear(account, weight[:, m:])
        return torch.tanh(self.hidden_2(torch.tanh(from_market.unsqueeze(-2) + from_account)))


class MlpPolicy(_Dense):
    """The mean of the raw output, or of any other action. (D, M) and (D, A, K) → (D, A, action_size)."""

    def __init__(
        self, market_columns: list[int], account_size: int, width: int, *, market_size: int, actions: int
    ) -> None:
        super().__init__(market_columns, account_size, width)
        self._market_size, self._account_size = market_size, account_size
        self.out = linear(width, actions, 0.01)

    def forward(self, market: Tensor, account: Tensor) -> Tensor:
        mean: Tensor = self.out(self.hidden(market, account))
        return mean

    def export(self) -> dict[str, NDArray[np.float32]]:
        """Weights under the names of `features.actor.weight_shapes`."""
        weights = _arrays(self)
        seen = [*self._columns, *range(self._market_size, self._market_size + self._account_size)]
        inputs = self._market_size + self._account_size
        weights["hidden_1.weight"] = _spread(weights["hidden_1.weight"], seen, inputs)
        return weights


class MlpValue(_Dense):
    """State value in normalised units: (D, M) and (D, A, K) → (D, A)."""

    def __init__(self, market_columns: list[int], account_size: int, width: int) -> None:
        super().__init__(market_columns, account_size, width)
        self.value_out = linear(width, 1, 1.0)

    def forward(self, market: Tensor, account: Tensor) -> Tensor:
        value: Tensor = self.value_out(self.hidden(market, account)).squeeze(-1)
        return value


class Agent(nn.Module):
    """What is trained: the policy's mean, the noise around it and the value of a state. Only the mean is exported."""

    def __init__(
        self, *, policy: PerAssetPolicy | MlpPolicy, head: GaussianHead | DirichletHead,
        critic: PerAssetValue | MlpValue,
    ) -> None:  # fmt: skip
        super().__init__()
        self.policy, self.head, self.critic = policy, head, critic

    @classmethod
    def for_portfolio(cls, layout: Layout, h: Hyperparameters, *, stack_bars: int = 1) -> "Agent":
        """The networks that `h` names, freshly initialised from torch's global generator."""
        sight = Sight(layout=layout, stack_bars=stack_bars, lookback=h.lookback)
        policy: PerAssetPolicy | MlpPolicy
        critic: PerAssetValue | MlpValue
        if h.policy == "mlp":
            columns, account = sight.market_columns, layout.n_assets + len(ACCOUNT_FIELDS)
            policy = MlpPolicy(columns, account, h.width, market_size=layout.market_size, actions=layout.action_size)
            with torch.no_grad():
                policy.out.bias[-1] = INITIAL_SPEED
            critic = MlpValue(columns, account, h.width)
        else:
            policy, critic = PerAssetPolicy(sight, h.width), PerAssetValue(sight, h.width)
        head = (DirichletHead if h.head == "dirichlet" else GaussianHead)(layout.action_size, h.initial_log_std)
        return cls(policy=policy, head=head, critic=critic)


def _arrays(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    return {n: t.detach().cpu().numpy().astype(np.float32) for n, t in module.state_dict().items()}


def _spread(weight: NDArray[np.float32], columns: list[int], inputs: int) -> NDArray[np.float32]:
    """weight (W, len(columns)) as (W, inputs): zero where the policy does not look."""
    full = np.zeros((len(weight), inputs), dtype=np.float32)
    full[:, columns] = weight
    return full
