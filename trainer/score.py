"""What a run was worth, in numbers that carry their unit and cannot be mistaken for one another."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import DataError
from trainer.evaluate import Run
from trainer.sharpe import annualised, sharpe, sharpe_se, varies

SECONDS_PER_YEAR = 365 * 24 * 3600
MOST_A_YEAR = 600.0  # log wealth: a good hour of minutes, compounded for a year, is more than a float holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One run, net of costs. Fractions unless the name says otherwise.

    annual_sortino: mean over the root mean square of losses. calmar: compound return per year over the largest drawdown; 0
    without one. cvar_5pct: mean return of the worst twentieth of bars, per bar.
    """

    name: str
    n_bars: int
    total_return: float
    log_wealth: float
    annual_sharpe: float
    annual_sharpe_se: float
    annual_sortino: float
    calmar: float
    cvar_5pct: float
    max_drawdown: float
    turnover_per_year: float
    fees: float
    time_in_cash: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def score(run: Run, *, timeframe_s: int) -> Score:
    """DataError when any return is not finite: a broken run has no score, not a smaller sample."""
    if len(run.returns) < 2 or not np.isfinite(run.returns).all():
        raise DataError(f"{run.name}: {len(run.returns)} returns, or one that is not finite")
    bars_per_year = SECONDS_PER_YEAR / timeframe_s
    flat = not varies(run.returns)  # cash: no risk, no Sharpe
    peak = np.maximum.accumulate(run.equity)
    log_wealth, drawdown = float(np.log1p(run.returns).sum()), float((1.0 - run.equity / peak).max())
    downside = math.sqrt(float((np.minimum(run.returns, 0.0) ** 2).mean()))
    worst = np.sort(run.returns)[: math.ceil(len(run.returns) / 20)]
    years = len(run.returns) / bars_per_year
    return Score(
        name=run.name, n_bars=len(run.returns), total_return=float(np.prod(1.0 + run.returns) - 1.0),
        log_wealth=log_wealth,
        annual_sharpe=0.0 if flat else annualised(sharpe(run.returns), bars_per_year),
        annual_sharpe_se=0.0 if flat else annualised(sharpe_se(run.returns), bars_per_year),
        annual_sortino=annualised(float(run.returns.mean()) / downside, bars_per_year) if downside > 0.0 else 0.0,
        calmar=math.expm1(min(log_wealth / years, MOST_A_YEAR)) / drawdown if drawdown > 0.0 else 0.0,
        cvar_5pct=float(worst.mean()), max_drawdown=drawdown,
        turnover_per_year=run.turnover * bars_per_year / len(run.returns), fees=run.fees,
        time_in_cash=float((run.cash_weight > 0.95).mean()),
    )  # fmt: skip


def excess_t(policy: NDArray[np.float64], baseline: NDArray[np.float64]) -> float:
    """The study's objective: t-statistic of the per-bar excess log return over the baseline on the same bars.

    policy, baseline: (T,) simple returns. Dimensionless. Zero when the two are the same account.
    """
    if policy.shape != baseline.shape:
        raise DataError(f"{policy.shape[0]} policy returns against {baseline.shape[0]} of the baseline")
    excess = np.log1p(policy) - np.log1p(baseline)
    if not np.isfinite(excess).all():
        raise DataError("an excess return is not finite")
    return sharpe(excess) * math.sqrt(len(excess)) if varies(excess) else 0.0


def table(scores: Sequence[Score], *, title: str) -> str:
    """The scores side by side, best log wealth first, each column with its unit."""
    head = f"{'strategy':<26}{'return %':>10}{'log wealth':>12}{'Sharpe/yr':>11}{'± SE':>7}"
    head += f"{'Sortino':>9}{'Calmar':>8}{'max DD %':>10}{'CVaR %':>8}"
    head += f"{'turnover/yr':>13}{'fees %':>8}{'in cash %':>11}"
    lines = [title, head, "-" * len(head)]
    for s in sorted(scores, key=lambda s: -s.log_wealth):
        lines.append(
            f"{s.name:<26}{100 * s.total_return:>10.1f}{s.log_wealth:>12.3f}{s.annual_sharpe:>11.2f}"
            f"{s.annual_sharpe_se:>7.2f}{s.annual_sortino:>9.2f}{s.calmar:>8.2f}"
            f"{100 * s.max_drawdown:>10.1f}{100 * s.cvar_5pct:>8.2f}{s.turnover_per_year:>13.1f}{100 * s.fees:>8.2f}"
            f"{100 * s.time_in_cash:>11.0f}"
        )
    return "\n".join(lines)
