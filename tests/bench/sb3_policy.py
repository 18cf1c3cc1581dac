"""Our `per_asset` network inside stable-baselines3: what its trainer makes of the same network."""

from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from features.observation import Layout
from trainer.policy import PerAssetPolicy, PerAssetValue, Sight


class _Networks(nn.Module):
    """An observation is a bar's market with one account; what stable-baselines3 calls latents are mean and value."""

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__()
        sight = Sight(layout=layout)
        self._market = layout.market_size
        self.policy, self.critic = PerAssetPolicy(sight, width), PerAssetValue(sight, width)
        self.latent_dim_pi, self.latent_dim_vf = layout.action_size, 1

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(seen), self.forward_critic(seen)

    def forward_actor(self, seen: Tensor) -> Tensor:
        mean: Tensor = self.policy(seen[:, : self._market], seen[:, None, self._market :])[:, 0]
        return mean

    def forward_critic(self, seen: Tensor) -> Tensor:
        value: Tensor = self.critic(seen[:, : self._market], seen[:, None, self._market :])
        return value


class PerAssetInSb3(ActorCriticPolicy):
    def __init__(self, *args: Any, layout: Layout, width: int, **kwargs: Any) -> None:
        self._networks = (layout, width)
        super().__init__(*args, **kwargs)

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = _Networks(*self._networks)  # type: ignore[assignment]

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.action_net, self.value_net = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1), eps=1e-5)
