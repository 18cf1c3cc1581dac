"""Strategies a policy has to beat, run through the same account. Each is a function of the past alone."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.bars import Bars
from features.ledger import Ledger
from trainer.evaluate import Arena, Run, Target, run_targets

Float = NDArray[np.float64]
DAY_S = 86_400
FIXED_BASELINE = "1/N daily"  # the one every trial is scored against (docs/decisions.md)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """`bound` marks a strategy that uses hindsight: shown for scale, never something to beat."""

    name: str
    target: Callable[[Bars, range], Target]
    bound: bool = False


def baselines(bars: Bars) -> tuple[Baseline, ...]:
    """Cash, holding Bitcoin, 1/N held and rebalanced, inverse volatility, momentum, trend, random.

    Holding any other single coin is a bound: to name the one that will do well takes hindsight.
    """
    month = max(2, 30 * DAY_S // bars.timeframe_s)
    coins = tuple(Baseline(name=f"hold {t}", target=_hold_one(i), bound=t != "BTC") for i, t in enumerate(bars.tickers))
    return (
        Baseline(name="cash", target=lambda _b, _w: lambda _k, _l: None),
        *coins,
        Baseline(name="1/N hold", target=_hold(lambda b, k: _equal(b))),
        Baseline(name=FIXED_BASELINE, target=_daily(lambda b, k: _equal(b))),
        Baseline(name="inverse volatility 30 d", target=_daily(lambda b, k: _inverse_volatility(b, k, month))),
        Baseline(name="momentum 30 d top 3", target=_daily(lambda b, k: _momentum(b, k, month, fall_to_cash=False))),
        Baseline(
            name="momentum 30 d top 3 or cash", target=_daily(lambda b, k: _momentum(b, k, month, fall_to_cash=True))
        ),
        Baseline(name="trend SMA 30 d", target=_daily(lambda b, k: _trend(b, k, month))),
        Baseline(name="random weights daily", target=_daily(_random)),
        Baseline(name="best coin in hindsight", target=_hindsight, bound=True),
    )


def run_baselines(bars: Bars, window: range, arena: Arena, *, only: str | None = None) -> dict[str, Run]:
    """Name → run of every baseline (or `only` one) over `window`, without the policy's limits. Bounds included."""
    return {
        b.name: run_targets(b.name, b.target(bars, window), bars, window, arena.unlimited())
        for b in baselines(bars)
        if only in (None, b.name)
    }


def bound_names(bars: Bars) -> frozenset[str]:
    return frozenset(b.name for b in baselines(bars) if b.bound)


def _equal(bars: Bars) -> Float:
    return np.full(bars.n_tickers, 1.0 / bars.n_tickers)


def _hold(weights: Callable[[Bars, int], Float]) -> Callable[[Bars, range], Target]:
    """Bought at the first close and never touched again; what an outage kept back, of the cash, once it can be had."""

    def bind(bars: Bars, _: range) -> Target:
        def target(k: int, ledger: Ledger) -> Float | None:
            held, wanted = ledger.quantity_array() > 0, weights(bars, k)
            return np.where(held, ledger.weights(bars.close[k]), wanted) if (wanted[~held] > 0).any() else None

        return target

    return bind


def _hold_one(i: int) -> Callable[[Bars, range], Target]:
    return _hold(lambda bars, _: np.eye(bars.n_tickers)[i])


def _daily(weights: Callable[[Bars, int], Float]) -> Callable[[Bars, range], Target]:
    """Rebalanced at the first close and then at every midnight UTC."""

    def bind(bars: Bars, window: range) -> Target:
        def target(k: int, _: Ledger) -> Float | None:
            due = k == window.start or int(bars.close_time_s[k]) % DAY_S == 0
            return weights(bars, k) if due else None

        return target

    return bind


def _past(bars: Bars, k: int, n: int) -> Float:
    """Closes (≤ n + 1, N) up to and including bar k."""
    return bars.close[max(0, k - n) : k + 1]


def _inverse_volatility(bars: Bars, k: int, n: int) -> Float:
    past = _past(bars, k, n)
    if len(past) < 3:
        return _equal(bars)
    inverse = 1.0 / np.maximum(np.diff(np.log(past), axis=0).std(axis=0), 1e-6)
    weights: Float = inverse / inverse.sum()
    return weights


def _momentum(bars: Bars, k: int, n: int, *, fall_to_cash: bool) -> Float:
    """The three that rose most, in equal parts; one that fell is held as cash instead if `fall_to_cash`."""
    past = _past(bars, k, n)
    change = past[-1] / past[0] - 1.0
    top = np.argsort(-change, kind="stable")[: min(3, bars.n_tickers)]
    weights = np.zeros(bars.n_tickers)
    weights[top] = np.where((change[top] > 0) | (not fall_to_cash), 1.0 / len(top), 0.0)
    return weights


def _trend(bars: Bars, k: int, n: int) -> Float:
    past = _past(bars, k, n)
    return np.where(past[-1] > past.mean(axis=0), 1.0 / bars.n_tickers, 0.0)


def _random(bars: Bars, k: int) -> Float:
    # seeded by the bar, so that it is one fixed strategy and not another one in every run
    return np.random.default_rng(int(bars.close_time_s[k])).dirichlet(np.ones(bars.n_tickers))


def _hindsight(bars: Bars, window: range) -> Target:
    growth = bars.close[window.stop - 1] / bars.close[window.start]
    return _hold_one(int(growth.argmax()))(bars, window)
