"""Promotion gates G1–G7 as pure functions of evidence. All must pass; "no champion" is a normal verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.evaluate import Run
from trainer.overfitting import cscv
from trainer.resampling import bootstrap_p, holm
from trainer.sharpe import deflated_sharpe, moments, sharpe, varies

Float = NDArray[np.float64]
STRESS_FEES_BPS = (10.0, 25.0)  # every candidate must stand at both, whatever the venue charges
MEAN_BLOCK_BARS = 48.0  # two days: longer than the memory of hourly returns
RESAMPLES = 1000
HOLM_P = 0.10
PBO_LIMIT = 0.20
PBO_MIN_TRIALS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One gate: what was measured, in which unit, against which threshold, and the verdict."""

    gate: str
    what: str
    value: float | None
    unit: str
    threshold: str
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A candidate beside every baseline on the same bars at one fee."""

    fee_bps: float
    policy: Run
    baselines: Mapping[str, Run]


def beats_every_baseline(comparison: Comparison, rng: np.random.Generator) -> Gate:
    """G1: the largest Holm-adjusted one-sided p that the excess log return over a baseline is not above zero."""
    policy = np.log1p(comparison.policy.returns)
    names = list(comparison.baselines)
    p_values = [
        bootstrap_p(
            policy - np.log1p(comparison.baselines[n].returns),
            mean_block=MEAN_BLOCK_BARS,
            n_resamples=RESAMPLES,
            rng=rng,
        )
        for n in names
    ]
    adjusted, worst = holm(p_values), int(np.argmax(p_values))
    return Gate(
        gate="G1", what=f"beats every baseline at {comparison.fee_bps:g} bp (closest: {names[worst]})",
        value=adjusted[worst], unit="Holm-adjusted p, stationary bootstrap", threshold=f"< {HOLM_P}",
        passed=adjusted[worst] < HOLM_P,
    )  # fmt: skip


def deflated(policy: Run, *, n_trials: int, trial_sharpes: Sequence[float], threshold: float) -> Gate:
    """G2: deflated Sharpe over every trial ever started on this machine."""
    if not varies(policy.returns) or len(trial_sharpes) < 2:
        return Gate(
            gate="G2", what="deflated Sharpe ratio: not estimable", value=None, unit="probability",
            threshold=f"≥ {threshold}", passed=False,
        )  # fmt: skip
    skew, kurtosis = moments(policy.returns)
    dsr, _ = deflated_sharpe(
        sharpe(policy.returns), n_trials=n_trials, trial_variance=float(np.var(trial_sharpes, ddof=1)),
        n=len(policy.returns), skew=skew, kurtosis=kurtosis,
    )  # fmt: skip
    return Gate(
        gate="G2", what=f"deflated Sharpe ratio over {n_trials} trials ever started", value=dsr, unit="probability",
        threshold=f"≥ {threshold}", passed=dsr >= threshold,
    )  # fmt: skip


def overfitting(returns: Float) -> Gate:
    """G3: probability of backtest overfitting among this study's trials. returns: (T, K)."""
    if returns.shape[1] < PBO_MIN_TRIALS:
        what = f"probability of backtest overfitting: not estimable from {returns.shape[1]} trials"
        return Gate(gate="G3", what=what, value=None, unit="probability", threshold=f"≤ {PBO_LIMIT}", passed=False)
    value = cscv(returns).pbo
    return Gate(
        gate="G3", what=f"probability of backtest overfitting, {returns.shape[1]} trials", value=value,
        unit="probability", threshold=f"≤ {PBO_LIMIT}", passed=value <= PBO_LIMIT,
    )  # fmt: skip


def drawdown(worst: float, limit: float) -> Gate:
    """G5: the worst drawdown over validation, as a fraction."""
    return Gate(
        gate="G5", what="largest drawdown in validation", value=worst, unit="fraction of the peak",
        threshold=f"≤ {limit}", passed=worst <= limit,
    )  # fmt: skip


def holdout(comparison: Comparison, *, baseline: str, opening: int, rng: np.random.Generator) -> Gate:
    """G6: on the hold-out, no significant loss to the fixed baseline; each earlier opening makes it stricter."""
    excess = np.log1p(comparison.policy.returns) - np.log1p(comparison.baselines[baseline].returns)
    # the p of a loss, charged for every opening of this hold-out by Bonferroni
    loss_p = bootstrap_p(-excess, mean_block=MEAN_BLOCK_BARS, n_resamples=RESAMPLES, rng=rng)
    total = float(excess.sum())
    return Gate(
        gate="G6", what=f"hold-out, opening {opening}: log wealth over {baseline} (p of a loss {loss_p:.2f})",
        value=total, unit="log wealth", threshold=f"> 0, and p of a loss ≥ {0.1 * opening:.1f}",
        passed=total > 0.0 and loss_p >= min(0.1 * opening, 1.0),
    )  # fmt: skip


def holdout_cut_short() -> Gate:
    """G6 of a candidate for which the hold-out was opened by a judge that died: nobody looks a second time."""
    what = "hold-out: opened before for this artifact, and nothing was written down"
    return Gate(gate="G6", what=what, value=None, unit="log wealth", threshold="> 0", passed=False)


def parity(compared: int, differing: int) -> Gate:
    """G7: decisions re-derived through the live stream, bit for bit."""
    return Gate(
        gate="G7", what=f"{compared} decisions re-derived through the live feature stream", value=float(differing),
        unit="decisions that differ", threshold="= 0", passed=differing == 0 and compared > 0,
    )  # fmt: skip


def verdict_text(gates: Sequence[Gate]) -> str:
    """The gates as a table a person reads."""
    lines = ["gate  verdict  value       threshold                     what"]
    for g in gates:
        value = "—" if g.value is None else f"{g.value:.4g}"
        lines.append(f"{g.gate:<6}{'pass' if g.passed else 'FAIL':<9}{value:<12}{g.threshold:<30}{g.what} [{g.unit}]")
    return "\n".join(lines)
