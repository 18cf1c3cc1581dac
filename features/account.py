"""Account arithmetic on arrays: how planned trades fill at the next open and what they cost.

Generic over numpy and torch and over a leading batch shape (...). The paper ledger books the same fills in Decimal.
"""

from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from features.allocation import Lots


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """Each (..., N): signed quantity, fill price, their product, fee in quote currency and fee in base units."""

    quantity: Any
    price: Any
    value: Any
    fee_quote: Any
    fee_base: Any


def fill_trades(
    *, delta: Any, cash: Any, quantity: Any, open_price: Any, volume: Any, tradable: Any, lots: Lots,
    fee: Any, price_impact: Any, fee_in_received: bool, max_volume_share: float,
) -> Filled:  # fmt: skip
    """Fill planned trades `delta` (..., N) at the open of the next bar.

    Sells fill first; buys share the cash then at hand, scaled down alike if it does not reach. fee and price_impact
    are fractions, scalars or (..., 1). volume (..., N) is the next bar's; tradable (..., N) is False on filled bars.
    Cash never goes below zero, in float32 either: what rounding could overdraw, 8 (N + 1) units in the last place of
    the cash at hand, is not spent.
    fee_in_received: buys pay the fee in the asset bought, sells in quote currency (the asset received either way).
    """
    xp = array_namespace(delta)
    wanted = xp.where(tradable, xp.maximum(delta, -quantity), 0.0)
    if max_volume_share > 0.0:
        ceiling = max_volume_share * volume
        wanted = lots.whole(wanted.clip(-ceiling, ceiling))
    price = open_price * (1.0 + xp.copysign(price_impact, wanted))
    sold, bought = wanted.clip(None, 0.0), wanted.clip(0.0, None)
    received = -sold * price
    proceeds = xp.sum(received * (1.0 - fee), axis=-1)
    need = xp.sum(bought * price if fee_in_received else bought * price * (1.0 + fee), axis=-1)
    unspent = 8.0 * (delta.shape[-1] + 1) * float(xp.finfo(delta.dtype).eps)
    have = ((cash + proceeds) * (1.0 - unspent)).clip(0.0, None)
    short = need > have
    share = have / need.clip(1e-12, None)
    bought = xp.where(short[..., None], lots.down(bought * share[..., None]), bought)
    done = sold + bought
    value = done * price
    if fee_in_received:
        return Filled(quantity=done, price=price, value=value, fee_quote=received * fee, fee_base=bought * fee)
    return Filled(
        quantity=done, price=price, value=value, fee_quote=xp.abs(value) * fee, fee_base=xp.zeros_like(done)
    )  # fmt: skip


def settle(cash: Any, quantity: Any, filled: Filled) -> tuple[Any, Any]:
    """Cash (...) and quantity (..., N) after the fills."""
    xp = array_namespace(cash)
    spent = xp.sum(filled.value + filled.fee_quote, axis=-1)
    return cash - spent, quantity + filled.quantity - filled.fee_base


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """An account marked at one price, without liquidation cost. value, weights (..., N): of each ticker; the others (...).

    value, equity, peak: quote currency; drawdown: fraction of the peak, to which the present equity counts.
    """

    value: Any
    equity: Any
    peak: Any
    weights: Any
    cash_weight: Any
    drawdown: Any


def worth(*, cash: Any, quantity: Any, price: Any, peak: Any) -> Worth:
    """cash, peak: (...); quantity: (..., N) base units; price: (N,) or (..., N)."""
    xp = array_namespace(cash)
    value = quantity * price
    equity = cash + xp.sum(value, axis=-1)
    peak = xp.maximum(peak, equity)
    return Worth(
        value=value, equity=equity, peak=peak, weights=value / equity[..., None], cash_weight=cash / equity,
        drawdown=1.0 - equity / peak,
    )  # fmt: skip
