"""Inference in numpy: the policy as it trades. No torch, no GPU, no pickle.

Architecture `per_asset` (permutation-equivariant; Zaheer et al. 2017, "Deep Sets"), one encoder shared by all
tickers:

    e_i = tanh(W_e [asset_i, shared])                     market only
    h_i = tanh(W_h [e_i, mean_j e_j])                     market only
    z_i = tanh(W_z [h_i, weight_i, account]);  logit_i = w_l . z_i
    c   = tanh(W_c [mean_j h_j, account]);     (cash logit, speed) = W_o c

The first two layers see the market alone, so a batch of accounts on the same bar may share them.

Architecture `mlp` (the predecessor's shape: two hidden layers over the whole observation, the tickers in their order):

    raw = W_3 tanh(W_2 tanh(W_1 observation))

The raw output means the same for both: its softmax is the portfolio aimed at (see `allocation`). It is the mean of the
exploring policy, whichever noise that was trained with: a Gaussian around the raw output, or a Dirichlet around the
portfolio, whose mean is that softmax.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from features.errors import ContractMismatch
from features.observation import ACCOUNT_FIELDS, Layout

F32 = NDArray[np.float32]
Weights = Mapping[str, F32]
PolicyKind = Literal["per_asset", "mlp", "constant"]
ACCOUNT_WIDTH = 32


class Actor(Protocol):
    """Deterministic policy: observation (..., size) float32 → raw output (..., action_size) float64.

    Each of several observations gets bit for bit what it gets alone.
    """

    def act(self, observation: F32) -> NDArray[np.float64]: ...


def account_width(width: int) -> int:
    """Of the layers of a `per_asset` network that see the account: a handful of numbers, met anew by every account."""
    return min(width, ACCOUNT_WIDTH)


def weight_shapes(kind: PolicyKind, layout: Layout, width: int) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor a policy of this kind carries."""
    if kind == "constant":
        return {"raw": (layout.action_size,)}
    account = len(ACCOUNT_FIELDS)
    linear = (
        {"hidden_1": (width, layout.size), "hidden_2": (width, width), "out": (layout.action_size, width)}
        if kind == "mlp"
        else {
            "asset_encoder": (width, layout.n_asset_features + layout.n_shared_features),
            "market_encoder": (width, 2 * width),
            "asset_head": (account_width(width), width + 1 + account),
            "asset_logit": (1, account_width(width)),
            "cash_head": (account_width(width), width + account),
            "cash_out": (2, account_width(width)),
        }
    )
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in linear.items():
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = (shape[0],)
    return shapes


class _Network:
    """Dense layers by name."""

    def __init__(self, layout: Layout, weights: Weights) -> None:
        self._layout = layout
        # transposed once: a @ w beats w @ a on row vectors of several tickers
        self._w = {n: np.ascontiguousarray(t.T if t.ndim == 2 else t) for n, t in weights.items()}

    def _linear(self, name: str, x: F32) -> F32:
        out: F32 = x @ self._w[f"{name}.weight"] + self._w[f"{name}.bias"]
        return out

    def _layer(self, name: str, x: F32) -> F32:
        out: F32 = np.tanh(self._linear(name, x))
        return out


class PerAssetActor(_Network):
    """One encoder for all tickers; the order of the tickers does not matter."""

    def act(self, observation: F32) -> NDArray[np.float64]:
        asset, shared, held, account = self._layout.split(observation)
        everyone = np.ones((self._layout.n_assets, 1), dtype=np.float32)
        encoded = self._layer("asset_encoder", _join(asset, everyone * shared[..., None, :]))
        pooled = everyone * encoded.mean(axis=-2, keepdims=True, dtype=np.float32)
        market = self._layer("market_encoder", _join(encoded, pooled))
        headed = self._layer("asset_head", _join(market, held[..., None], everyone * account[..., None, :]))
        logits = self._linear("asset_logit", headed)
        centre = market.mean(axis=-2, keepdims=True, dtype=np.float32)
        cash = self._layer("cash_head", _join(centre, account[..., None, :]))
        tail = self._linear("cash_out", cash)
        return _join(logits[..., 0], tail[..., 0, :]).astype(np.float64)


class MlpActor(_Network):
    """Two hidden layers over the whole observation."""

    def act(self, observation: F32) -> NDArray[np.float64]:
        # a product per observation: of several rows at once it may round otherwise
        hidden = self._layer("hidden_2", self._layer("hidden_1", observation[..., None, :]))
        raw: NDArray[np.float64] = self._linear("out", hidden)[..., 0, :].astype(np.float64)
        return raw


class ConstantActor:
    """Aims at the same portfolio for ever: how a baseline travels through the same path as a policy."""

    def __init__(self, weights: Weights) -> None:
        self._raw = weights["raw"].astype(np.float64)

    def act(self, observation: F32) -> NDArray[np.float64]:
        return np.broadcast_to(self._raw, (*observation.shape[:-1], len(self._raw)))


def _join(*parts: F32) -> F32:
    return np.concatenate(parts, axis=-1)


def constant_raw(asset_weights: NDArray[np.float64]) -> F32:
    """Raw output whose softmax is `asset_weights` (N,) plus cash, adjusted to at once."""
    cash = max(0.0, 1.0 - float(asset_weights.sum()))
    logits = np.log(np.clip(np.append(asset_weights, cash), 1e-12, 1.0))
    return np.append(logits, 30.0).astype(np.float32)


def build_actor(kind: PolicyKind, layout: Layout, width: int, weights: Weights) -> Actor:
    """The actor for `weights`; ContractMismatch lists every tensor whose name or shape is off."""
    expected = weight_shapes(kind, layout, width)
    differences = [f"{n}: expected {s}, missing" for n, s in expected.items() if n not in weights]
    differences += [f"{n}: not expected" for n in weights if n not in expected]
    differences += [
        f"{n}: expected {s}, got {weights[n].shape}"
        for n, s in expected.items()
        if n in weights and weights[n].shape != s
    ]
    if differences:
        raise ContractMismatch(f"the weights do not fit a {kind} policy of width {width}", differences=differences)
    if kind == "constant":
        return ConstantActor(weights)
    return MlpActor(layout, weights) if kind == "mlp" else PerAssetActor(layout, weights)
