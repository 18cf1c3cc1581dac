"""The torch twins of `features.actor`'s networks, the critics beside them, and the noise that training explores with.

Tensor names and shapes are those of `features.actor.weight_shapes`, so exporting is renaming nothing. Every network
takes the market once per group of accounts, (D, M), and the accounts, (D, A, K); whatever depends on the market alone
is computed once per group.
"""

import math
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from daemon.child.holds import card_of
from features.actor import account_width
from features.errors import ConfigurationError
from features.observation import ACCOUNT_FIELDS, Layout
from trainer.heads import DirichletHead, GaussianHead
from trainer.space import Hyperparameters

WIDE = 256  # units; below, casting costs what products save
IN_CACHE = 1 << 16  # numbers; float32 copies of so many bfloat16 stay in the cache of a core
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


class Joint(nn.Module):
    """One linear layer over several inputs side by side, its columns kept apart by input.

    Being linear it is the sum of its parts, and a part that the market alone goes into is computed once per bar, not
    once per account. As slices of one matrix their gradients would be put together anew at every step.
    """

    def __init__(self, *inputs: int, outputs: int, gain: float) -> None:
        super().__init__()
        whole = linear(sum(inputs), outputs, gain)
        self.columns = nn.ParameterList(
            part.clone() for part in torch.split(whole.weight.detach(), list(inputs), dim=1)
        )
        self.bias = whole.bias

    def part(self, i: int, x: Tensor, *, biased: bool = False) -> Tensor:
        return nn.functional.linear(x, self.columns[i], self.bias if biased else None)

    @property
    def weight(self) -> Tensor:
        """As one matrix."""
        return torch.cat(list(self.columns), dim=1)


def products_of(layer: nn.Linear | Joint) -> torch.autocast:
    """The precision of a network whose widest layer this is: bfloat16 products where they pay, everything else as it is.

    They do where the processor or the card multiplies bfloat16 by itself and the layer is wide enough for its products
    to be most of the time. Weights, heads, densities, advantages and the optimiser stay in float32.
    """
    device = layer.bias.device.type
    return torch.autocast(device, torch.bfloat16, enabled=len(layer.bias) >= WIDE and multiplies_bf16(device))


def prepare(threads: int, device: str, *, worker: int = 0) -> None:
    """Set up torch in this process: its threads, the worker's card, and TF32 for the products of one that has it.

    ConfigurationError when `device` is a card and torch finds none.
    """
    if device == "cuda":
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order in which the janitor counts the cards
        if not torch.cuda.is_available():
            raise ConfigurationError(
                f"study.device is cuda, but torch {torch.__version__} finds no card",
                hint="install the build of torch for your driver, let the unit see the card (docs/operations.md), or cpu",
            )
        torch.cuda.set_device(card_of(worker, torch.cuda.device_count()))
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")


@cache
def multiplies_bf16(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


class _Tanh(torch.autograd.Function):
    """tanh in the memory of its argument by numpy, whose function the exported actor calls, with the gradient 1 − y².

    torch's own of float32 is MKL's, which some processors run six times slower than numpy's; torch's own of bfloat16
    takes three times as long as going to float32 and back, which gives the same bits.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        whole = x.detach()
        if x.dtype == torch.float32:
            np.tanh(whole.numpy(), out=whole.numpy())
            return x
        for part in torch.split(whole.view(-1), IN_CACHE):
            y = part.float()
            np.tanh(y.numpy(), out=y.numpy())
            part.copy_(y)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        slope: Tensor = torch.ops.aten.tanh_backward(gradient, y)
        return slope


def squashed(x: Tensor) -> Tensor:
    """tanh of x, whose memory it takes."""
    if x.device.type == "cuda":
        return x.tanh_()
    y: Tensor = _Tanh.apply(x)  # type: ignore[no-untyped-call]
    return y


class _Market(nn.Module):
    """The layers that see the market alone: (D, M) → per-asset (D, N, W) and pooled (D, W).

    What all tickers share (the shared features, the mean over the tickers) goes through its part of a layer once.
    """

    def __init__(self, sight: Sight, width: int) -> None:
        super().__init__()
        self.sight, self.layout = sight, sight.layout
        own = len(range(self.layout.n_asset_features)[sight.asset])
        shared = len(range(self.layout.n_shared_features)[sight.shared])
        self.asset_encoder = Joint(own, shared, outputs=width, gain=math.sqrt(2))
        self.market_encoder = Joint(width, width, outputs=width, gain=math.sqrt(2))

    def trunk(self, market: Tensor) -> tuple[Tensor, Tensor]:
        n, f = self.layout.n_assets, self.layout.n_asset_features
        asset = market[..., : n * f].reshape(*market.shape[:-1], n, f)[..., self.sight.asset]
        shared = market[..., n * f :][..., self.sight.shared]
        with products_of(self.market_encoder):
            encoded = _each_and_all(self.asset_encoder, asset, shared)
            per_asset = _each_and_all(self.market_encoder, encoded, encoded.mean(dim=-2)).float()
        return per_asset, per_asset.mean(dim=-2)


def _each_and_all(layer: Joint, each: Tensor, common: Tensor) -> Tensor:
    """tanh of `layer` over each of N rows and what they have in common: (D, N, E) and (D, C) → (D, N, W)."""
    return squashed(layer.part(0, each).add_(layer.part(1, common, biased=True).unsqueeze(-2)))


class PerAssetPolicy(_Market):
    """The mean of the raw output. (D, M) and (D, A, N + 3) → (D, A, N + 2)."""

    def __init__(self, sight: Sight, width: int) -> None:
        super().__init__(sight, width)
        account, small = len(ACCOUNT_FIELDS), account_width(width)
        self.asset_head = Joint(width, 1, account, outputs=small, gain=math.sqrt(2))
        self.asset_logit = linear(small, 1, 0.01)
        self.cash_head = Joint(width, account, outputs=small, gain=math.sqrt(2))
        self.cash_out = linear(small, 2, 0.01)
        with torch.no_grad():
            self.cash_out.bias[1] = INITIAL_SPEED

    def forward(self, market: Tensor, account: Tensor) -> Tensor:
        per_asset, pooled = self.trunk(market)
        n = self.layout.n_assets
        held, state = account[..., :n, None], account[..., n:]
        head = self.asset_head
        around = head.part(0, per_asset, biased=True).unsqueeze(1) + head.part(2, state).unsqueeze(-2)
        hidden = squashed(around.addcmul_(held, head.columns[1].T))
        logits = hidden @ self.asset_logit.weight[0] + self.asset_logit.bias
        tail = self.cash_out(_market_and_account(self.cash_head, pooled, state))
        return torch.cat([logits, tail], dim=-1)

    def export(self) -> dict[str, NDArray[np.float32]]:
        """Weights under the names of `features.actor.weight_shapes`."""
        weights = _arrays(self)
        seen = [*range(self.layout.n_asset_features)[self.sight.asset]]
        seen += [self.layout.n_asset_features + c for c in range(self.layout.n_shared_features)[self.sight.shared]]
        inputs = self.layout.n_asset_features + self.layout.n_shared_features
        weights["asset_encoder.weight"] = _spread(weights["asset_encoder.weight"], seen, inputs)
        return weights


def _market_and_account(layer: Joint, market: Tensor, account: Tensor) -> Tensor:
    """tanh of `layer` over both: (D, ..., W) and (D, A, ..., K) → (D, A, ..., V)."""
    return squashed(layer.part(1, account).add_(layer.part(0, market, biased=True).unsqueeze(1)))


class PerAssetValue(_Market):
    """State value in normalised units: (D, M) and (D, A, N + 3) → (D, A).

    What is held enters as the sum of the holdings' own market states, weighted: equivariant under permutation of the
    tickers. The layer that sees that sum is linear, so it is computed of the states, once per bar, and summed after.
    """

    def __init__(self, sight: Sight, width: int) -> None:
        super().__init__(sight, width)
        small = account_width(width)
        account = self.layout.n_assets + len(ACCOUNT_FIELDS)
        self.value_head = Joint(width, width, account, outputs=small, gain=math.sqrt(2))
        self.value_out = linear(small, 1, 1.0)

    def forward(self, market: Tensor, account: Tensor) -> Tensor:
        per_asset, pooled = self.trunk(market)
        held, state = account[..., : self.layout.n_assets], account[..., self.layout.n_assets :]
        ordered = torch.cat([held.sort(dim=-1).values, state], dim=-1)
        own = torch.baddbmm(self.value_head.part(2, ordered), held, self.value_head.part(1, per_asset))
        hidden = squashed(own.add_(self.value_head.part(0, pooled, biased=True).unsqueeze(1)))
        value: Tensor = self.value_out(hidden).squeeze(-1)
        return value


class _Dense(nn.Module):
    """Two hidden layers over market and account; the first layer's market part is computed once per group."""

    def __init__(self, market_columns: list[int], account_size: int, width: int) -> None:
        super().__init__()
        self._columns = market_columns
        self.hidden_1 = Joint(len(market_columns), account_size, outputs=width, gain=math.sqrt(2))
        self.hidden_2 = linear(width, width, math.sqrt(2))

    def hidden(self, market: Tensor, account: Tensor) -> Tensor:
        seen = market if len(self._columns) == market.shape[-1] else market[..., self._columns]
        with products_of(self.hidden_2):
            first = _market_and_account(self.hidden_1, seen, account)
            second = squashed(self.hidden_2(first.flatten(end_dim=-2)))
        return second.float().view(first.shape)


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


def _arrays(network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Every layer's weight and bias."""
    tensors = {f"{n}.{t}": getattr(layer, t) for n, layer in network.named_children() for t in ("weight", "bias")}
    return {n: t.detach().cpu().numpy().astype(np.float32) for n, t in tensors.items()}


def _spread(weight: NDArray[np.float32], columns: list[int], inputs: int) -> NDArray[np.float32]:
    """weight (W, len(columns)) as (W, inputs): zero where the policy does not look."""
    full = np.zeros((len(weight), inputs), dtype=np.float32)
    full[:, columns] = weight
    return full
