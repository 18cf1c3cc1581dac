"""What a study's returns say about its search, as plain numbers for readers who do not train: `python -m trainer evidence`.

The advisor asks for them as a program and never computes them itself: one implementation judges and reports.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.files import write_atomic
from trainer.arrays import npz
from trainer.baselines import FIXED_BASELINE
from trainer.gates import MEAN_BLOCK_BARS, PBO_MIN_TRIALS
from trainer.ledger import TrialLedger
from trainer.overfitting import SAME_BET, clusters, correlations, count_trials, cscv, kinds_of
from trainer.resampling import resampled_paths
from trainer.score import SECONDS_PER_YEAR
from trainer.sharpe import (
    annualised,
    deflated_sharpe,
    expected_max_normal,
    min_backtest_length_years,
    moments,
    sharpe,
    varies,
)

Float = NDArray[np.float64]
SAMPLED = 200  # trials whose returns are compared: 12,870 halves of them take 20 MB an array
CELLS = 4_000_000  # at most so many returns in memory
BEST = 50  # trials among which different bets are looked for
MEMBERS = 5
TARGET_ANNUAL_SHARPE = 1.0  # what MinBTL budgets for, as in its paper
POINTS = 240  # of a curve that is drawn
BAND_PATHS = 200
COMPARED = "compared.npz"
LOGIT_EDGES = np.linspace(-6.0, 6.0, 25)


def gather(
    state_dir: Path,
    study: str,
    trials: Sequence[Mapping[str, Any]],
    *,
    timeframe_s: int,
    rng: np.random.Generator,
) -> dict[str, Any] | None:
    """trials: the study's scored ones. None before two of them have left their returns."""
    folder = state_dir / "trials" / study
    trials = [t for t in trials if (folder / str(t["number"]) / "returns.npz").exists()]
    if len(trials) < 2:
        return None
    best = sorted(trials, key=lambda t: (-t["score"], t["number"]))
    first = _returns(folder, best[0])
    used = _sample(sorted(trials, key=lambda t: t["number"]), best[0], len(first))
    returns = np.stack([_returns(folder, t) for t in used], axis=1)
    ledger = TrialLedger(state_dir / "ledger.jsonl")
    n_ever, variance = ledger.count(), ledger.sharpe_variance(study=study, timeframe_s=timeframe_s)
    counts = count_trials(returns, np.array([t["score"] for t in used]), n_ever=n_ever)
    record: dict[str, Any] = {
        "n_bars": len(first), "n_sampled": len(used), "best": best[0]["number"],
        "counts": {n: getattr(counts, n) for n in ("raw", "clusters", "participation", "autocorrelation")},
        **budget(n_ever, len(first) * timeframe_s / SECONDS_PER_YEAR),
    }  # fmt: skip
    compared, beatable = _compared(folder)
    record |= _deflated(first, variance, record["counts"], SECONDS_PER_YEAR / timeframe_s)
    record |= _overfitting(returns, beatable)
    record |= _distinct(folder, best[:BEST], compared)
    record["equity"] = _equity(compared, timeframe_s, rng)
    return record


def budget(n_ever: int, years: float) -> dict[str, Any]:
    """How many trials `years` of judged bars can bear, and how many were started."""
    allowed = _allowed(years)
    return {
        "years": years, "n_ever": n_ever, "target_annual_sharpe": TARGET_ANNUAL_SHARPE,
        "years_needed": min_backtest_length_years(n_ever, TARGET_ANNUAL_SHARPE), "trials_allowed": allowed,
        "trials_left": allowed - n_ever,
        "chance_annual_sharpe": float(annualised(expected_max_normal(n_ever), 1.0 / years)),
    }  # fmt: skip


def save_compared(folder: Path, returns: Mapping[str, Float], *, bounds: Collection[str]) -> None:
    """Keep the returns (T,) of the candidate judged last, named first, and of its baselines on the same bars.

    folder: the study's, for another study's bars are others, though there be as many. bounds: baselines with hindsight.
    """
    data = npz(
        names=np.array(list(returns)), returns=np.stack(list(returns.values())),
        bound=np.array([n in bounds for n in returns]),
    )  # fmt: skip
    write_atomic(folder / COMPARED, data)


def _compared(folder: Path) -> tuple[dict[str, Float], dict[str, Float]]:
    """Everything that was kept, and of it the baselines without hindsight."""
    path = folder / COMPARED
    if not path.exists():
        return {}, {}
    with np.load(path) as stored:
        kept = dict(zip((str(n) for n in stored["names"]), stored["returns"], strict=True))
        baselines = {n: r for (n, r), bound in list(zip(kept.items(), stored["bound"], strict=True))[1:] if not bound}
    return kept, baselines


def _returns(folder: Path, trial: Mapping[str, Any]) -> Float:
    with np.load(folder / str(trial["number"]) / "returns.npz") as stored:
        found: Float = stored["returns"]
    return found


def _sample(trials: Sequence[Mapping[str, Any]], best: Mapping[str, Any], n_bars: int) -> list[Mapping[str, Any]]:
    """The best and as many others as fit, evenly over the search, in the order they ran."""
    room = max(2, min(SAMPLED, CELLS // n_bars, len(trials)))
    kept = {trials[i]["number"] for i in np.linspace(0, len(trials) - 1, room).round().astype(int)} | {best["number"]}
    return [t for t in trials if t["number"] in kept]


def _allowed(years: float) -> int:
    """The most trials whose MinBTL is not longer than what there is."""
    low, high = 1, 2
    while min_backtest_length_years(high, TARGET_ANNUAL_SHARPE) <= years and high < 10**9:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (middle, high) if min_backtest_length_years(middle, TARGET_ANNUAL_SHARPE) <= years else (low, middle)
        )
    return low


def _deflated(
    returns: Float, variance: float | None, counts: Mapping[str, float], bars_per_year: float
) -> dict[str, Any]:
    """dsr by way of counting; dsr_curve: [N, DSR]; the best trial's annual Sharpe ratio."""
    if not varies(returns) or variance is None:
        return {"dsr": {}, "dsr_curve": [], "best_annual_sharpe": None}
    sr, (skew, kurtosis) = sharpe(returns), moments(returns)

    def dsr(n: float) -> float:
        return deflated_sharpe(
            sr, n_trials=max(1, round(n)), trial_variance=variance, n=len(returns), skew=skew, kurtosis=kurtosis
        )[0]

    top = max(100.0, 10.0 * counts["raw"])
    curve = [[n, dsr(n)] for n in sorted({round(10 ** (k / 8)) for k in range(int(8 * math.log10(top)) + 1)})]
    return {
        "dsr": {n: dsr(c) for n, c in counts.items()}, "dsr_curve": curve,
        "best_annual_sharpe": float(annualised(sr, bars_per_year)),
    }  # fmt: skip


def _overfitting(returns: Float, baselines: Mapping[str, Float]) -> dict[str, Any]:
    """pbo, pbo_persistence, logits: as gate G3 sees them, None before a first judgement; pbo_trials: over all trials."""
    found: dict[str, Any] = dict.fromkeys(("pbo", "pbo_trials", "pbo_persistence", "pbo_loss", "n_kinds")) | {
        "logits": []
    }
    if returns.shape[1] < PBO_MIN_TRIALS or returns.shape[0] < 32:
        return found
    alike = cscv(returns)
    found |= {"pbo_trials": alike.pbo, "pbo_loss": alike.loss}
    baseline = baselines.get(FIXED_BASELINE)
    if baseline is None or len(baseline) != len(returns):
        return found
    label = kinds_of(returns, baseline)
    gated = cscv(returns, kinds=label, instead=np.stack(list(baselines.values()), axis=1))
    counts, _ = np.histogram(np.clip(gated.logits, -5.99, 5.99), LOGIT_EDGES)
    shares = counts / len(gated.logits)
    return found | {
        "pbo": gated.pbo, "pbo_persistence": gated.persistence, "n_kinds": int(label.max()) + 1,
        "logits": [[float(a), float(b), float(s)] for a, b, s in zip(LOGIT_EDGES, LOGIT_EDGES[1:], shares, strict=False)],
    }  # fmt: skip


def _distinct(folder: Path, best: Sequence[Mapping[str, Any]], compared: Mapping[str, Float]) -> dict[str, Any]:
    """Which of the best trials are different bets, by the returns they have beyond 1/N, and how alike those remain."""
    baseline = compared.get(FIXED_BASELINE)
    returns = [_returns(folder, t) for t in best]
    if baseline is None or len(baseline) != len(returns[0]):
        return {"distinct_best": [], "distinct_correlation": None}
    correlation = correlations(np.stack(returns, axis=1) - baseline[:, None])
    labels = clusters(correlation, at_least=SAME_BET)
    _, firsts = np.unique(labels, return_index=True)
    chosen = sorted(int(i) for i in firsts)[:MEMBERS]
    apart = correlation[np.ix_(chosen, chosen)][np.triu_indices(len(chosen), 1)]
    return {
        "distinct_best": [{"number": best[i]["number"], "score": best[i]["score"]} for i in chosen],
        "distinct_correlation": float(apart.mean()) if len(apart) else None,
    }  # fmt: skip


def _equity(compared: Mapping[str, Float], timeframe_s: int, rng: np.random.Generator) -> dict[str, Any]:
    """Wealth of 1 at the start, by name, thinned; low and high: 90 % band of the candidate under the block bootstrap."""
    if not compared:
        return {}
    names = list(compared)
    length = len(compared[names[0]])
    at = np.unique(np.linspace(0, length, min(POINTS, length + 1)).round().astype(int))
    wealth = {n: np.concatenate([[1.0], np.cumprod(1.0 + r)]) for n, r in compared.items()}
    paths = resampled_paths(
        np.log1p(compared[names[0]]), at=at, mean_block=MEAN_BLOCK_BARS, n_resamples=BAND_PATHS, rng=rng
    )
    low, high = np.exp(np.quantile(paths, [0.05, 0.95], axis=0))
    drawdown = {n: w / np.maximum.accumulate(w) - 1.0 for n, w in wealth.items()}
    return {
        "candidate": names[0], "days": (at * timeframe_s / 86_400).tolist(),
        "wealth": {n: w[at].tolist() for n, w in wealth.items()}, "low": low.tolist(), "high": high.tolist(),
        "drawdown": {n: d[at].tolist() for n, d in drawdown.items()},
    }  # fmt: skip
