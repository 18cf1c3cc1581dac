"""What a judgement shows beside its gates: costs, intervals against every baseline, regimes. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.evaluate import Run, pooled
from trainer.regimes import log_wealth_by_regime
from trainer.replicates import Interval, improvement_interval, iqm_interval

Float = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AtFee:
    """The candidate at one fee, mean over seeds. turnover_per_year: traded value over equity; fees: share of the start."""

    fee_bps: float
    log_wealth: float
    turnover_per_year: float
    fees: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """The candidate's excess log wealth per fold over one baseline: IQM over seeds and folds, 95 % intervals.

    improvement: probability that a seed of it ends a fold above the baseline.
    """

    baseline: str
    excess: Interval
    improvement: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class InRegime:
    """Log wealth while the market's own past month said so: the candidate's, mean over seeds, and the baseline's."""

    regime: str
    bars: int
    log_wealth: float
    baseline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One candidate beside the baselines."""

    candidate: str
    n_seeds: int
    n_folds: int
    fixed_baseline: str
    fee_bps: float
    costs: tuple[AtFee, ...]
    against: tuple[Against, ...]
    regimes: tuple[InRegime, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        lines = [f"{self.candidate}: {self.n_seeds} seed(s) x {self.n_folds} folds", ""]
        lines.append(f"{'fee, bp a side':<28}{'log wealth':>12}{'turnover/yr':>13}{'fees %':>9}")
        lines += [
            f"{c.fee_bps:<28g}{c.log_wealth:>12.3f}{c.turnover_per_year:>13.1f}{100 * c.fees:>9.2f}" for c in self.costs
        ]
        lines += ["", f"{f'against, at {self.fee_bps:g} bp':<28}{'excess log wealth a fold':>26}{'P(improvement)':>26}"]
        lines += [f"{a.baseline:<28}{_interval(a.excess, '+.3f'):>26}{_interval(a.improvement, '.2f'):>26}"
                  for a in self.against]  # fmt: skip
        if self.n_seeds == 1:
            lines.append("one seed: no interval can be given")
        lines += ["", f"{'regime of the past month':<28}{'bars':>8}{'log wealth':>12}{self.fixed_baseline:>14}"]
        lines += [f"{r.regime:<28}{r.bars:>8}{r.log_wealth:>12.3f}{r.baseline:>14.3f}" for r in self.regimes]
        return "\n".join(lines)


def report(
    name: str, runs: Mapping[float, Sequence[Sequence[Run]]], baselines: Mapping[str, Sequence[Run]], *, fee_bps: float,
    fixed_baseline: str, regime: NDArray[np.str_], bars_per_year: float, rng: np.random.Generator,
) -> Report:  # fmt: skip
    """runs: fee → [seed][fold]; baselines: name → [fold] at `fee_bps`; regime: (T,) known before each pooled return."""
    at = runs[fee_bps]
    seeds = [pooled(name, folds) for folds in at]
    fixed = pooled(fixed_baseline, baselines[fixed_baseline])
    ours = _log_wealth(at)
    return Report(
        candidate=name, n_seeds=len(at), n_folds=len(at[0]), fixed_baseline=fixed_baseline, fee_bps=fee_bps,
        costs=tuple(_at_fee(fee, [pooled(name, f) for f in runs[fee]], bars_per_year) for fee in sorted(runs)),
        against=tuple(_against(ours, b, _log_wealth([baselines[b]]), rng) for b in baselines),
        regimes=_regimes(seeds, fixed, regime),
    )  # fmt: skip


def fold_excess(runs: Sequence[Sequence[Run]], baseline: Sequence[Run]) -> Float:
    """(seeds, folds) excess log return per bar over the baseline."""
    bars = np.array([len(r.returns) for r in baseline])
    excess: Float = (_log_wealth(runs) - _log_wealth([baseline])) / bars
    return excess


def _log_wealth(runs: Sequence[Sequence[Run]]) -> Float:
    """(seeds, folds)."""
    return np.array([[np.log1p(r.returns).sum() for r in folds] for folds in runs])


def _at_fee(fee_bps: float, seeds: Sequence[Run], bars_per_year: float) -> AtFee:
    years = len(seeds[0].returns) / bars_per_year
    return AtFee(
        fee_bps=fee_bps, log_wealth=float(np.mean([np.log1p(s.returns).sum() for s in seeds])),
        turnover_per_year=float(np.mean([s.turnover for s in seeds])) / years,
        fees=float(np.mean([s.fees for s in seeds])),
    )  # fmt: skip


def _against(ours: Float, name: str, theirs: Float, rng: np.random.Generator) -> Against:
    return Against(
        baseline=name, excess=iqm_interval(ours - theirs, n_resamples=RESAMPLES, rng=rng),
        improvement=improvement_interval(ours, theirs, n_resamples=RESAMPLES, rng=rng),
    )  # fmt: skip


def _regimes(seeds: Sequence[Run], fixed: Run, regime: NDArray[np.str_]) -> tuple[InRegime, ...]:
    mine = [log_wealth_by_regime(s.returns, regime) for s in seeds]
    theirs = log_wealth_by_regime(fixed.returns, regime)
    return tuple(
        InRegime(
            regime=name, bars=bars, log_wealth=float(np.mean([m[name][1] for m in mine])), baseline=baseline,
        )
        for name, (bars, baseline) in theirs.items()
    )  # fmt: skip


def _interval(i: Interval, spec: str) -> str:
    return f"{i.value:{spec}} ({i.low:{spec}} … {i.high:{spec}})"
