"""Online portfolio selection: the literature's markets as bars, and its strategies as generators.

Protocol of Li & Hoi 2014 ("Online Portfolio Selection: A Survey"): at the close of day t a portfolio b is chosen and
held over day t+1, whose price relatives are x; wealth grows by b·x. A strategy is a generator that yields b (N,) and is
sent x (N,); it yields None to leave the holdings alone.
"""

from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from world import REAL

from features.bars import Bars

Float = NDArray[np.float64]
Strategy = Generator[Float | None, Float, None]
DATA = REAL.parent
DAY_S = 86_400


def data_path(name: str) -> Path:
    return DATA / f"{name}.csv.gz"


def classic_bars(name: str) -> Bars:
    """A data set as daily bars that open at the previous close: to fill at the next open is to fill at this close.

    The files hold cumulative price relatives from the end of day 1; the bar before it is worth 1 everywhere.
    """
    table = pd.read_csv(data_path(name))
    close = np.vstack([np.ones(table.shape[1]), table.to_numpy(float)])
    opened = np.vstack([close[:1], close[:-1]])
    return Bars(
        tickers=tuple(table.columns), timeframe_s=DAY_S, close_time_s=DAY_S * np.arange(1, len(close) + 1, dtype=np.int64),
        open=opened, close=close, high=np.maximum(opened, close), low=np.minimum(opened, close),
        volume=np.ones_like(close), filled=np.zeros(close.shape, dtype=bool),
    )  # fmt: skip


def relatives(bars: Bars) -> Float:
    """(T - 1, N) close over previous close."""
    return bars.close[1:] / bars.close[:-1]


def on_simplex(v: Float) -> Float:
    """The point of the simplex nearest to `v` (N,) (Duchi et al. 2008, "Efficient Projections onto the l1-Ball")."""
    descending = np.sort(v)[::-1]
    excess = np.cumsum(descending) - 1.0
    kept = np.count_nonzero(descending * np.arange(1, len(v) + 1) > excess)
    return np.maximum(v - excess[kept - 1] / kept, 0.0)


def hold(b: Float) -> Strategy:
    """Bought once, never touched again."""
    yield b
    while True:
        yield None


def rebalanced(b: Float) -> Strategy:
    """Constant proportions (CRP), restored every day."""
    while True:
        yield b


def eg(n: int, *, eta: float = 0.05) -> Strategy:
    """Exponentiated gradient (Helmbold et al. 1998)."""
    b = np.full(n, 1.0 / n)
    while True:
        x = yield b
        b = b * np.exp(eta * x / (b @ x))
        b /= b.sum()


def pamr(n: int, *, epsilon: float = 0.5) -> Strategy:
    """Passive aggressive mean reversion (Li et al. 2012): away from what has just risen."""
    b = np.full(n, 1.0 / n)
    while True:
        x = yield b
        away = x - x.mean()
        step = max(0.0, b @ x - epsilon) / max(away @ away, 1e-300)
        b = on_simplex(b - step * away)


def olmar2(n: int, *, alpha: float = 0.5, epsilon: float = 10.0) -> Strategy:
    """On-line moving average reversion with an exponential average (Li & Hoi 2012, OLMAR-2)."""
    b, predicted = np.full(n, 1.0 / n), np.ones(n)
    while True:
        x = yield b
        predicted = alpha + (1.0 - alpha) * predicted / x
        towards = predicted - predicted.mean()
        step = max(0.0, epsilon - b @ predicted) / max(towards @ towards, 1e-300)
        b = on_simplex(b + step * towards)


def best_constant(x: Float) -> Float:
    """(N,) proportions of the best CRP in hindsight over relatives (T, N): a concave problem, solved to its optimum."""
    solved = minimize(
        lambda b: -np.log(x @ b).sum() / len(x), np.full(x.shape[1], 1.0 / x.shape[1]), method="SLSQP",
        jac=lambda b: -(x / (x @ b)[:, None]).mean(axis=0), bounds=[(0.0, 1.0)] * x.shape[1],
        constraints={"type": "eq", "fun": lambda b: b.sum() - 1.0, "jac": np.ones_like},
        options={"ftol": 1e-15, "maxiter": 1000},
    )  # fmt: skip
    return on_simplex(solved.x)


def strategies(bars: Bars) -> dict[str, Callable[[], Strategy]]:
    """Those of vectors.json, by their names there."""
    n = bars.n_tickers
    even = np.full(n, 1.0 / n)
    return {
        "Market": lambda: hold(even),
        "Best": lambda: hold(np.eye(n)[int((bars.close[-1] / bars.close[0]).argmax())]),
        "UCRP": lambda: rebalanced(even),
        "EG_eta_0_05": lambda: eg(n),
        "BCRP": lambda: rebalanced(best_constant(relatives(bars))),
        "PAMR_eps_0_5": lambda: pamr(n),
        "OLMAR2_alpha_0_5_eps_10": lambda: olmar2(n),
    }
