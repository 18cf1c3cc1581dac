"""Promotion gates G1–G7 as pure functions of evidence. All must pass; "no champion" is a normal verdict.

A candidate is judged by what its configuration does on fresh seeds, never by the run that made it the best of many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.evaluate import Run
from trainer.overfitting import TrialCounts, cscv, kinds_of
from trainer.resampling import bootstrap_p, bootstrap_p_values, holm, spa_against
from trainer.sharpe import deflated_sharpe, moments, sharpe, varies

Float = NDArray[np.float64]
STRESS_FEES_BPS = (10.0, 25.0)  # every candidate must stand at both, whatever the venue charges
MEAN_BLOCK_BARS = 48.0  # two days: longer than the memory of hourly returns
RESAMPLES = 1000
HOLM_P = 0.10
PBO_LIMIT = 0.20
PBO_MIN_TRIALS = 8
SLOPE_ABOVE = 0.0
SPA_P = 0.10
SEEDS_SHARE = 0.80


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
    """A candidate, one run per seed, beside every baseline on the same bars at one fee."""

    fee_bps: float
    policies: tuple[Run, ...]
    baselines: Mapping[str, Run]

    def growth(self) -> Float:
        """(T,) log return per bar, mean over seeds."""
        mean: Float = np.mean([np.log1p(p.returns) for p in self.policies], axis=0)
        return mean


def beats_every_baseline(comparison: Comparison, rng: np.random.Generator) -> Gate:
    """G1: the largest Holm-adjusted one-sided p that the mean log wealth over seeds is not above a baseline's."""
    growth, names = comparison.growth(), list(comparison.baselines)
    others = np.stack([np.log1p(comparison.baselines[n].returns) for n in names], axis=1)
    adjusted = holm(
        bootstrap_p_values(growth[:, None] - others, mean_block=MEAN_BLOCK_BARS, n_resamples=RESAMPLES, rng=rng)
    )
    worst = int(np.argmax(adjusted))
    what = f"{_seeds(comparison.policies)} at {comparison.fee_bps:g} bp: log wealth {growth.sum():+.3f} above every baseline "
    return Gate(
        gate="G1", what=f"{what}(closest: {names[worst]} {others[:, worst].sum():+.3f})",
        value=adjusted[worst], unit="Holm-adjusted p, stationary bootstrap", threshold=f"< {HOLM_P}",
        passed=adjusted[worst] < HOLM_P,
    )  # fmt: skip


def deflated(
    policies: Sequence[Run], *, counts: TrialCounts, trial_variance: float | None, threshold: float
) -> Gate:  # fmt: skip
    """G2: the median seed's deflated Sharpe ratio, for each way of counting the trials ever started.

    The least favourable count but one decides: the raw count assumes that no two trials were alike. trial_variance: of
    the trials' per-bar Sharpe ratios, None where there are not two.
    """
    if trial_variance is None or not all(varies(p.returns) for p in policies):
        return Gate(
            gate="G2", what="deflated Sharpe ratio: not estimable", value=None, unit="probability",
            threshold=f"≥ {threshold}", passed=False,
        )  # fmt: skip
    gated = counts.least_favourable_but_one()
    shown = ", ".join(
        f"{name} {n:.0f}: {_deflated(policies, n, trial_variance):.3f}"
        for name, n in (
            ("raw", counts.raw), ("clusters", counts.clusters), ("participation", counts.participation),
            ("autocorrelation", counts.autocorrelation),
        )
    )  # fmt: skip
    value = _deflated(policies, gated, trial_variance)
    return Gate(
        gate="G2", what=f"deflated Sharpe ratio at N = {gated:.0f} trials, the least favourable but one of {shown}",
        value=value, unit="probability", threshold=f"≥ {threshold}", passed=value >= threshold,
    )  # fmt: skip


def _deflated(policies: Sequence[Run], n_trials: float, variance: float) -> float:
    """The (lower) median over seeds."""
    found = []
    for run in policies:
        skew, kurtosis = moments(run.returns)
        dsr, _ = deflated_sharpe(
            sharpe(run.returns), n_trials=round(n_trials), trial_variance=variance, n=len(run.returns), skew=skew,
            kurtosis=kurtosis,
        )  # fmt: skip
        found.append(dsr)
    return sorted(found)[(len(found) - 1) // 2]


def overfitting(returns: Float, baselines: Mapping[str, Run], *, baseline: str) -> tuple[Gate, ...]:
    """G3: probability of backtest overfitting, and whether what is good inside halves of the bars is good outside.

    returns: (T, K) of this study's trials. A search fills up with copies of what it found, and which copy is best in one
    half says nothing of the other; so copies count once, and the baseline that looked best stands beside them. baseline:
    the fixed one, beyond which copies are alike too. The paper's number, over all trials alike, is shown.
    """
    n = returns.shape[1]
    if n < PBO_MIN_TRIALS:
        what = f"probability of backtest overfitting: not estimable from {n} trials"
        return (Gate(gate="G3", what=what, value=None, unit="probability", threshold=f"≤ {PBO_LIMIT}", passed=False),)
    label = kinds_of(returns, baselines[baseline].returns)
    found = cscv(returns, kinds=label, instead=np.stack([b.returns for b in baselines.values()], axis=1))
    ranked = f"{label.max() + 1} kinds of {n} trials and the best baseline"
    what = f"probability of backtest overfitting, {ranked} (over all trials alike: {cscv(returns).pbo:.2f}; "
    return (
        Gate(
            gate="G3", what=f"{what}the best loses out of sample: {found.loss:.0%})", value=found.pbo,
            unit="probability", threshold=f"≤ {PBO_LIMIT}", passed=found.pbo <= PBO_LIMIT,
        ),
        Gate(
            gate="G3", what=f"slope of out-of-sample on in-sample Sharpe over the {ranked}", value=found.persistence,
            unit="Sharpe over Sharpe", threshold=f"> {SLOPE_ABOVE:g}", passed=found.persistence > SLOPE_ABOVE,
        ),
    )  # fmt: skip


def superior(returns: Float, baselines: Mapping[str, Run], rng: np.random.Generator) -> Gate:
    """G4: the largest p, over baselines, that none of the search's strategies is truly above it.

    returns: (T, K) of every trial and of the candidate. The search's luck is in the p: with more trials the best of
    them has to be better.
    """
    names = list(baselines)
    p_values = spa_against(
        np.log1p(returns), np.stack([np.log1p(baselines[n].returns) for n in names], axis=1),
        mean_block=MEAN_BLOCK_BARS, n_resamples=RESAMPLES, rng=rng,
    )  # fmt: skip
    worst = int(np.argmax(p_values))
    return Gate(
        gate="G4", what=f"superior predictive ability of {returns.shape[1]} strategies (closest: {names[worst]})",
        value=p_values[worst], unit="p, Hansen's SPA, worst of the baselines", threshold=f"< {SPA_P}",
        passed=p_values[worst] < SPA_P,
    )  # fmt: skip


def steady(parts: Sequence[Run], *, baseline: Run, drawdowns: Sequence[float], limit: float) -> tuple[Gate, ...]:
    """G5: the largest drawdown, and the share of seeds that end above the fixed baseline.

    parts: every seed by itself, those that a candidate averages too: an average may hide that most of them lose.
    drawdowns: of every seed and of the candidate, fractions of the peak.
    """
    worst = float(np.max(drawdowns))
    floor = float(np.log1p(baseline.returns).sum())
    share = float(np.mean([np.log1p(p.returns).sum() > floor for p in parts]))
    return (
        Gate(
            gate="G5", what=f"largest drawdown of the candidate and of each of {_seeds(parts)}", value=worst,
            unit="fraction of the peak", threshold=f"≤ {limit}", passed=worst <= limit,
        ),
        Gate(
            gate="G5", what=f"share of {_seeds(parts)} that beat {baseline.name}", value=share, unit="fraction",
            threshold=f"≥ {SEEDS_SHARE}", passed=share >= SEEDS_SHARE,
        ),
    )  # fmt: skip


def holdout(
    comparison: Comparison, *, baseline: str, opening: int, lower_quartile: float, rng: np.random.Generator,
    quartile_of: str = "validation",
) -> tuple[Gate, ...]:  # fmt: skip
    """G6: on the hold-out, no loss to the fixed baseline, and no less than the lower quartile of what went before.

    Each earlier opening makes it stricter. lower_quartile: excess log return per bar over the baseline, over the seeds
    and blocks of `quartile_of`.
    """
    excess = comparison.growth() - np.log1p(comparison.baselines[baseline].returns)
    # the p of a loss, charged for every opening of this hold-out by Bonferroni
    loss_p = bootstrap_p(-excess, mean_block=MEAN_BLOCK_BARS, n_resamples=RESAMPLES, rng=rng)
    least_p = min(0.1 * opening, 1.0)
    total, per_bar = float(excess.sum()), float(excess.mean())
    return (
        Gate(
            gate="G6", what=f"hold-out, opening {opening}: log wealth over {baseline} (p of a loss {loss_p:.2f})",
            value=total, unit="log wealth", threshold=f"> 0, and p of a loss ≥ {least_p:.1f}",
            passed=total > 0.0 and loss_p >= least_p,
        ),
        Gate(
            gate="G6", what=f"hold-out: excess log return over {baseline} against {quartile_of}'s lower quartile",
            value=1e4 * per_bar, unit="bp per bar", threshold=f"≥ {1e4 * lower_quartile:.4g}",
            passed=per_bar >= lower_quartile,
        ),
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


def _seeds(runs: Sequence[Run]) -> str:
    n = len(runs)
    return f"{n} fresh seeds" if n > 1 else "1 fresh seed"
