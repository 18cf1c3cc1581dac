"""How market features and the account become one vector, for one account and for a batch alike.

Layout of the last axis: asset features of ticker 0, ticker 1, ... (each `stack_bars` rows, oldest first), shared
features, weights per ticker, then the account: cash weight, drawdown, time since the last trade.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from features.account import Worth, worth
from features.spec import FeatureSpec

LAYOUT_VERSION = 1
ACCOUNT_FIELDS = ("cash_weight", "drawdown", "since_trade")
SINCE_TRADE_CAP_BARS = 720.0  # 30 days of hourly bars; longer is the same to the policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Sizes of the observation's blocks."""

    n_assets: int
    n_asset_features: int
    n_shared_features: int

    @classmethod
    def of(cls, spec: FeatureSpec) -> "Layout":
        return cls(
            n_assets=len(spec.tickers),
            n_asset_features=len(spec.asset_columns) * spec.stack_bars,
            n_shared_features=len(spec.shared_columns) * spec.stack_bars,
        )

    @property
    def market_size(self) -> int:
        return self.n_assets * self.n_asset_features + self.n_shared_features

    @property
    def size(self) -> int:
        return self.market_size + self.n_assets + len(ACCOUNT_FIELDS)

    @property
    def action_size(self) -> int:
        """A logit per ticker, one for cash, one for the speed of adjustment (see allocation)."""
        return self.n_assets + 2

    def split(self, observation: Any) -> tuple[Any, Any, Any, Any]:
        """(..., size) → asset (..., N, F), shared (..., G), weights (..., N), account (..., 3)."""
        n, f, g = self.n_assets, self.n_asset_features, self.n_shared_features
        lead = tuple(observation.shape[:-1])
        asset = observation[..., : n * f].reshape((*lead, n, f))
        return asset, observation[..., n * f : n * f + g], observation[..., n * f + g : -3], observation[..., -3:]


def observed_columns(spec: FeatureSpec) -> tuple[str, ...]:
    """The name of every value of the observation, in its order."""
    ages = [f", {n} bars before" if n else "" for n in reversed(range(spec.stack_bars))]
    asset = [f"{t} {c}{age}" for t in spec.tickers for age in ages for c in spec.asset_columns]
    shared = [f"{c}{age}" for age in ages for c in spec.shared_columns]
    return (*asset, *shared, *(f"{t} weight" for t in spec.tickers), *ACCOUNT_FIELDS)


def market_block(asset: NDArray[np.float32], shared: NDArray[np.float32], stack_bars: int) -> NDArray[np.float32]:
    """(R, N, F) and (R, G) scaled rows → (R - stack_bars + 1, market_size): the market half of the observation."""
    n_rows = len(asset) - stack_bars + 1
    stacked = np.concatenate([asset[k : k + n_rows] for k in range(stack_bars)], axis=2)
    shared_stacked = np.concatenate([shared[k : k + n_rows] for k in range(stack_bars)], axis=1)
    return np.concatenate([stacked.reshape(n_rows, -1), shared_stacked], axis=1)


def account_block(*, cash: Any, quantity: Any, price: Any, peak: Any, bars_since_trade: Any) -> Any:
    """The account half of the observation, (..., N + 3) float32, from float64 state of any batch shape.

    cash, peak, bars_since_trade: (...); quantity: (..., N) base units; price: (N,) or (..., N), the closes.
    """
    return account_columns(
        worth(cash=cash, quantity=quantity, price=price, peak=peak), bars_since_trade=bars_since_trade
    )


def account_columns(valued: Worth, *, bars_since_trade: Any) -> Any:
    """`account_block` of an account that is valued already."""
    xp = array_namespace(valued.weights)
    since = xp.log1p(bars_since_trade.clip(0.0, SINCE_TRADE_CAP_BARS)) / float(np.log1p(SINCE_TRADE_CAP_BARS))
    account = [x[..., None] for x in (valued.cash_weight, valued.drawdown, since)]
    return xp.astype(xp.concat([valued.weights, *account], axis=-1), xp.float32)
