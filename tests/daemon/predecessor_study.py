"""The predecessor's study, built to the figures that its report published.

Its best three are those of the report; the others follow the published averages and owe nothing to their scores, except
that the second half of the search descends from good trials, as a sampler's does. Nothing else of it is known.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from daemon.advisor.records import Bounds, Machine, Material, Trial
from trainer.trust import budget

NOW_S = 1_763_244_600.0  # 2025-11-15 22:10 UTC
SCORE = "mean Sharpe ratio of the policy − that of 1/N − 0.1·SD over at most six splits, a pure number"
CLAIMS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "advisor" / "predecessor_claims.json").read_bytes())
N_COMPLETE, N_NUMBERS, N_TOP = 3425, 4199, 343
BARS, TRIALS_A_DAY, MINUTES = 1614, 345, 7.5
BEST = {3358: 0.0737, 4198: 0.0733, 2772: 0.0733}

BOUNDS = {
    "worker_num": Bounds(low=10, high=16), "thread_num": Bounds(low=4, high=15),
    "learning_rate": Bounds(low=1e-6, high=1e-3, log=True), "batch_size": Bounds(choices=(1536, 2048, 3072, 4096)),
    "gamma": Bounds(low=0.88, high=0.99), "net_dimension": Bounds(low=768, high=2048),
    "base_target_step": Bounds(low=256, high=1024), "base_break_step": Bounds(low=50_000, high=200_000),
    "lookback": Bounds(low=1, high=5), "norm_cash_exp": Bounds(low=-16, high=-10),
    "norm_stocks_exp": Bounds(low=-10, high=-5), "norm_tech_exp": Bounds(low=-18, high=-12),
    "norm_reward_exp": Bounds(low=-13, high=-7), "norm_action": Bounds(low=1000, high=25_000),
    "time_decay_floor": Bounds(low=0.0, high=0.5), "clip_range": Bounds(low=0.1, high=0.4),
    "entropy_coef": Bounds(low=1e-5, high=1e-2, log=True), "value_loss_coef": Bounds(low=0.25, high=1.0),
    "max_grad_norm": Bounds(low=0.3, high=2.0), "gae_lambda": Bounds(low=0.9, high=0.99),
    "ppo_epochs": Bounds(low=4, high=16), "kl_target": Bounds(low=0.005, high=0.03, log=True),
    "adam_epsilon": Bounds(low=1e-9, high=1e-5, log=True), "use_lr_schedule": Bounds(choices=(True, False)),
    "lr_schedule_type": Bounds(choices=("linear", "exponential")), "lr_schedule_factor": Bounds(low=0.5, high=0.95),
    "min_cash_reserve": Bounds(low=0.05, high=0.3), "concentration_penalty": Bounds(low=0.0, high=0.1),
    "max_drawdown_penalty": Bounds(low=0.0, high=0.1), "volatility_penalty": Bounds(low=0.0, high=0.05),
    "eval_time_gap": Bounds(low=30, high=120),
}  # fmt: skip
# between neighbouring values of a grid; whatever is not named here is continuous
STEPS = {
    "worker_num": 1, "thread_num": 1, "gamma": 0.01, "net_dimension": 64, "base_target_step": 1, "base_break_step": 10_000,
    "lookback": 1, "norm_cash_exp": 1, "norm_stocks_exp": 1, "norm_tech_exp": 1, "norm_reward_exp": 1,
    "norm_action": 1000, "time_decay_floor": 0.05, "clip_range": 0.05, "value_loss_coef": 0.05, "max_grad_norm": 0.1,
    "gae_lambda": 0.01, "ppo_epochs": 1, "lr_schedule_factor": 0.05, "min_cash_reserve": 0.05,
    "concentration_penalty": 0.01, "max_drawdown_penalty": 0.01, "volatility_penalty": 0.01, "eval_time_gap": 30,
}  # fmt: skip
# published: the average of all trials (of a choice, the share of each), and the values of the best three
AVERAGES = {
    "learning_rate": 2.2e-5, "entropy_coef": 1.32e-4, "kl_target": 0.0093, "min_cash_reserve": 0.074,
    "volatility_penalty": 0.016, "adam_epsilon": 2e-6, "base_break_step": 105_918, "clip_range": 0.307,
    "concentration_penalty": 0.072,
}  # fmt: skip
SHARES = {"batch_size": (0.15, 0.45, 0.23, 0.17), "use_lr_schedule": (0.21, 0.79)}  # indices average 1.42 and .79
TOP_THREE: dict[str, tuple[Any, Any, Any]] = {
    "learning_rate": (1.0e-6, 1.0e-6, 1.0e-6), "gamma": (0.99, 0.99, 0.99), "batch_size": (2048, 2048, 2048),
    "net_dimension": (1280, 1280, 1280), "norm_cash_exp": (-10, -10, -10), "norm_stocks_exp": (-7, -7, -7),
    "norm_tech_exp": (-15, -15, -15), "use_lr_schedule": (False, False, False),
    "entropy_coef": (3.2e-5, 3.1e-5, 3.3e-5), "kl_target": (0.0056, 0.0055, 0.0057), "min_cash_reserve": (0.05, 0.05, 0.05),
    "volatility_penalty": (0.0, 0.0, 0.01), "adam_epsilon": (4e-6, 4e-6, 4e-6),
    "base_break_step": (80_000, 90_000, 90_000), "clip_range": (0.35, 0.35, 0.4),
    "concentration_penalty": (0.09, 0.09, 0.1), "max_drawdown_penalty": (0.1, 0.1, 0.02), "max_grad_norm": (0.7, 0.7, 1.6),
    "ppo_epochs": (8, 10, 12),
}  # fmt: skip
DESCENDED_SHARE = 0.3  # of all trials, in the second half of the search: relatives of the best


def study() -> Material:
    """4,199 trial numbers, 3,425 of them with a score; ended at 345 a day on three workers."""
    rng = np.random.default_rng(20251115)
    done = np.sort(np.concatenate([list(BEST), rng.choice(
        [n for n in range(N_NUMBERS) if n not in BEST], size=N_COMPLETE - len(BEST), replace=False
    )]))  # fmt: skip
    order = {int(n): i for i, n in enumerate(done)}
    relative = np.zeros(N_COMPLETE, dtype=bool)
    late = np.arange(N_COMPLETE // 2, N_COMPLETE)
    relative[rng.choice(late, size=int(DESCENDED_SHARE * N_COMPLETE), replace=False)] = True
    relative[[order[n] for n in BEST]] = False
    columns = {name: _column(name, relative, rng) for name in BOUNDS}
    scores = _scores(rng, [order[n] for n in BEST])
    trials = []
    for number in range(N_NUMBERS):
        i = order.get(number)
        if i is None:
            trials.append(Trial(number=number, state="FAIL", score=None, parameters={}, seconds=None, failure=None))
            continue
        chosen = {name: column[i] for name, column in columns.items()}
        if number in BEST:
            which = list(BEST).index(number)
            chosen |= {name: values[which] for name, values in TOP_THREE.items()}
        ended_s = NOW_S - (N_COMPLETE - 1 - i) * 86_400.0 / TRIALS_A_DAY
        trials.append(Trial(
            number=number, state="COMPLETE", score=BEST.get(number, float(scores[i])), parameters=chosen,
            seconds=60 * MINUTES, failure=None, began_s=ended_s - 60 * MINUTES,
        ))  # fmt: skip
    unknown = dict.fromkeys(
        ("pbo", "pbo_trials", "pbo_persistence", "pbo_loss", "n_kinds", "best_annual_sharpe", "distinct_correlation")
    )
    return Material(
        study="predecessor", at_utc="2025-11-15 22:10 UTC", score_name=SCORE, sampling_sd=None, trials=tuple(trials),
        bounds=BOUNDS, machine=Machine(workers=3, target=5000, now_s=NOW_S, free_bytes=444 * 10**9, gpus=({
            "index": 0, "name": "8 GB card", "utilisation": 0.98, "memory_used_bytes": 3_100_000_000,
            "memory_total_bytes": 8_000_000_000, "temperature_c": 59.0,
        },)),
        evidence={
            **budget(N_COMPLETE, BARS / 8760), **unknown, "n_bars": BARS, "n_sampled": 0, "counts": {}, "dsr": {},
            "dsr_curve": [], "logits": [], "distinct_best": [], "equity": {},
        },
    )  # fmt: skip


def _column(name: str, relative: Any, rng: np.random.Generator) -> list[Any]:
    """A value per completed trial: the published average over all of them, relatives at the best three's."""
    bound = BOUNDS[name]
    best = TOP_THREE.get(name)
    if bound.choices:
        shares = np.array(SHARES.get(name, [1 / len(bound.choices)] * len(bound.choices)))
        if best is not None:  # what the relatives have, the others have less of
            shares = shares - DESCENDED_SHARE * np.array([c == best[0] for c in bound.choices])
        codes = rng.choice(len(bound.choices), size=len(relative), p=shares / shares.sum())
        column = [bound.choices[k] for k in codes]
        return [best[0] if r and best else v for r, v in zip(relative, column, strict=True)]
    grid = _grid(name, bound)
    inherited = np.array(best if best is not None else grid, dtype=float)
    wanted = AVERAGES.get(name)
    if wanted is not None and best is not None:
        wanted = (wanted - DESCENDED_SHARE * float(inherited.mean())) / (1 - DESCENDED_SHARE)
    values = np.where(
        relative, rng.choice(inherited, len(relative)), rng.choice(grid, len(relative), p=_tilted(grid, wanted))
    )
    whole = float(STEPS.get(name, 0.5)).is_integer() and name in STEPS
    return [int(v) if whole else float(f"{v:.6g}") for v in values]


def _grid(name: str, bound: Bounds) -> Any:
    assert bound.low is not None and bound.high is not None
    if name in STEPS:
        return np.arange(bound.low, bound.high + STEPS[name] / 2, STEPS[name])
    return np.geomspace(bound.low, bound.high, 400) if bound.log else np.linspace(bound.low, bound.high, 400)


def _tilted(grid: Any, mean: float | None) -> Any:
    """Weights over the grid, exponentially tilted by rank until they average to `mean`; even without one."""
    rank = np.linspace(-1.0, 1.0, len(grid))
    low, high = (0.0, 0.0) if mean is None else (-60.0, 60.0)
    for _ in range(80):
        middle = (low + high) / 2
        weights = np.exp(middle * rank)
        weights /= weights.sum()
        if mean is None:
            break
        low, high = (middle, high) if float(weights @ grid) < mean else (low, middle)
    return weights


def _scores(rng: np.random.Generator, best: list[int]) -> Any:
    """The published best tenth, .0671 to .0737 with mean .0702, spread evenly; the others below it."""
    others = np.setdiff1d(np.arange(N_COMPLETE), best)
    top = rng.choice(others, size=N_TOP - len(best), replace=False)
    scores = 0.0671 - rng.gamma(2.0, 0.02, size=N_COMPLETE) - 1e-6
    scores[top] = np.linspace(0.0671, 0.0732, len(top))[rng.permutation(len(top))]
    return scores
