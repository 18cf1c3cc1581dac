"""The torch twin of `features.actor.PerAssetActor`, with exploration noise, and the critic beside it.

Tensor names and shapes are those of `features.actor.weight_shapes`, so exporting is renaming nothing.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from features.observation import ACCOUNT_FIELDS, Layout

INITIAL_SPEED = -2.0  # sigmoid = 0.12: a fresh policy moves slowly, so exploring does not burn the account in fees


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class _Market(nn.Module):
    """The layers that see the market alone: (D, M) → per-asset (D, N, W) and pooled (D, W)."""

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__()
        self.layout = layout
        self.asset_encoder = _linear(layout.n_asset_features + layout.n_shared_features, width, math.sqrt(2))
        self.market_encoder = _linear(2 * width, width, math.sqrt(2))

    def trunk(self, market: Tensor) -> tuple[Tensor, Tensor]:
        n, f = self.layout.n_assets, self.layout.n_asset_features
        asset = market[..., : n * f].reshape(*market.shape[:-1], n, f)
        shared = market[..., n * f :].unsqueeze(-2).expand(*market.shape[:-1], n, self.layout.n_shared_features)
        encoded = torch.tanh(self.asset_encoder(torch.cat([asset, shared], dim=-1)))
        pooled = encoded.mean(dim=-2, keepdim=True).expand_as(encoded)
        per_asset = torch.tanh(self.market_encoder(torch.cat([encoded, pooled], dim=-1)))
        return per_asset, per_asset.mean(dim=-2)


class Actor(_Market):
    """Gaussian over the raw output; the mean is what trades. (D, M) and (D, A, N + 3) → (D, A, N + 2)."""

    def __init__(self, layout: Layout, width: int, initial_log_std: float) -> None:
        super().__init__(layout, width)
        account = len(ACCOUNT_FIELDS)
        self.asset_head = _linear(width + 1 + account, width, math.sqrt(2))
        self.asset_logit = _linear(width, 1, 0.01)
        self.cash_head = _linear(width + account, width, math.sqrt(2))
        self.cash_out = _linear(width, 2, 0.01)
        self.log_std = nn.Parameter(torch.full((layout.action_size,), initial_log_std))
        with torch.no_grad():
            self.cash_out.bias[1] = INITIAL_SPEED

    def forward(self, market: Tensor, account: Tensor) -> Tensor:
        per_asset, pooled = self.trunk(market)
        n, a = self.layout.n_assets, account.shape[-2]
        held, state = account[..., :n], account[..., n:]
        # the head's first layer is linear, so the market's part of it is computed once per bar, not once per account
        width = per_asset.shape[-1]
        weight = self.asset_head.weight
        from_market = nn.functional.linear(per_asset, weight[:, :width], self.asset_head.bias)
        from_state = nn.functional.linear(state, weight[:, width + 1 :])
        headed = torch.tanh(
            from_market.unsqueeze(-3) + held.unsqueeze(-1) * weight[:, width] + from_state.unsqueeze(-2)
        )
        logits = self.asset_logit(headed).squeeze(-1)
        centre = pooled.unsqueeze(-2).expand(*pooled.shape[:-1], a, width)
        tail = self.cash_out(torch.tanh(self.cash_head(torch.cat([centre, state], dim=-1))))
        return torch.cat([logits, tail], dim=-1)

    def export(self) -> dict[str, NDArray[np.float32]]:
        """Weights under the names of `features.actor.weight_shapes`; the noise stays behind."""
        return {
            name: tensor.detach().cpu().numpy().astype(np.float32)
            for name, tensor in self.state_dict().items()
            if name != "log_std"
        }


class Critic(_Market):
    """State value in units of the scaled reward: (D, M) and (D, A, N + 3) → (D, A)."""

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__(layout, width)
        inputs = width + layout.n_assets + len(ACCOUNT_FIELDS)
        self.value_head = _linear(inputs + width, width, math.sqrt(2))
        self.value_out = _linear(width, 1, 1.0)

    def forward(self, market: Tensor, account: Tensor) -> Tensor:
        per_asset, pooled = self.trunk(market)
        a, n = account.shape[-2], self.layout.n_assets
        # what is held, as the sum of the holdings' own market states: equivariant under permutation of the tickers
        exposure = torch.einsum("...an,...nw->...aw", account[..., :n], per_asset)
        centre = pooled.unsqueeze(-2).expand(*pooled.shape[:-1], a, pooled.shape[-1])
        ordered = account[..., :n].sort(dim=-1).values
        headed = torch.tanh(self.value_head(torch.cat([centre, exposure, ordered, account[..., n:]], dim=-1)))
        value: Tensor = self.value_out(headed).squeeze(-1)
        return value
