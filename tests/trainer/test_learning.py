"""Does PPO learn? On ten planted worlds it must find most of what the oracle finds, on ten null worlds nothing.

The seeds were fixed before the first run. What is compared is one year out of sample. Of `planted` the oracle knows the
signal and pays the same costs; both Sharpe ratios are of the return over 1/N. Of `null` every bar's expected return is
zero whatever one holds, so simple returns, not log wealth, tell whether something was found.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from planted_market import ARENA, JUDGE, LearningMarket, sharpe_per_year

from features.sources.simulated import World
from trainer import ppo
from trainer.baselines import FIXED_BASELINE, bound_names, run_baselines
from trainer.evaluate import Run
from trainer.resampling import bootstrap_p
from trainer.score import excess_t, score, table
from trainer.sharpe import sharpe
from trainer.space import Hyperparameters

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

SEEDS = tuple(range(11, 21))
STEPS = 3_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Year:
    """runs: the policy trained with the default hyperparameters, "PPO", and every baseline that is no bound."""

    runs: dict[str, Run]
    policy_sharpe: float
    oracle_sharpe: float

    @property
    def excess(self) -> NDArray[np.float64]:
        """Simple returns of PPO over the fixed baseline, per bar."""
        return self.runs["PPO"].returns - self.runs[FIXED_BASELINE].returns


@cache
def played(world: World, seed: int) -> Year:
    market = LearningMarket.of(world, seed)
    ticks = iter(range(1_000_000))
    trained = ppo.train_portfolio(
        market.problem, Hyperparameters(), accounts=128, steps=STEPS, seed=seed, on_update=lambda stats, pack: None,
        monotonic_s=lambda: float(next(ticks)),
    )  # fmt: skip
    every = {"PPO": market.judged(trained), **run_baselines(market.bars, JUDGE, ARENA)}
    made = Year(
        runs={n: r for n, r in every.items() if n not in bound_names(market.bars)},
        policy_sharpe=sharpe_per_year(every["PPO"].returns - every[FIXED_BASELINE].returns),
        oracle_sharpe=market.oracle_sharpe() if world == "planted" else 0.0,
    )
    print("\n" + table([score(r, timeframe_s=3600) for r in every.values()], title=f"{world}, seed {seed}"))
    print(f"{world} {seed}: Sharpe/yr over {FIXED_BASELINE} {made.policy_sharpe:.2f}, oracle {made.oracle_sharpe:.2f}")
    return made


@cache
def total(world: World) -> dict[str, NDArray[np.float64]]:
    """Per-bar log returns, the ten worlds one after another."""
    years = [played(world, seed) for seed in SEEDS]
    pooled = {n: np.concatenate([np.log1p(y.runs[n].returns) for y in years]) for n in years[0].runs}
    print(f"\n{world}, ten worlds of one year each: log wealth in all, and p that the excess of PPO is luck")
    for name, r in sorted(pooled.items(), key=lambda item: -item[1].sum()):
        excess = pooled["PPO"] - r
        p = (
            bootstrap_p(excess, mean_block=48.0, n_resamples=1000, rng=np.random.default_rng(0))
            if excess.any()
            else 1.0
        )
        print(f"  {name:<26}{r.sum():>8.3f}{p:>8.3f}")
    return pooled


def test_ppo_beats_every_baseline_after_costs_where_a_signal_is_planted() -> None:
    pooled = total("planted")
    wealth = {name: float(r.sum()) for name, r in pooled.items()}
    assert max(wealth, key=wealth.__getitem__) == "PPO", wealth
    assert excess_t(np.expm1(pooled["PPO"]), np.expm1(pooled[FIXED_BASELINE])) > 10.0


def test_ppo_earns_most_of_the_oracles_sharpe_ratio_where_a_signal_is_planted() -> None:
    years = [played("planted", seed) for seed in SEEDS]
    ours, oracle = (float(np.mean([getattr(y, n) for y in years])) for n in ("policy_sharpe", "oracle_sharpe"))
    print(f"\nmean Sharpe/yr over {FIXED_BASELINE}: PPO {ours:.2f}, oracle {oracle:.2f}, share {ours / oracle:.2f}")
    assert ours >= 0.6 * oracle


def test_ppo_finds_nothing_where_there_is_nothing_to_find() -> None:
    pooled = total("null")
    wealth = {name: float(r.sum()) for name, r in pooled.items()}
    assert max(wealth, key=wealth.__getitem__) != "PPO", wealth
    excess = np.concatenate([played("null", seed).excess for seed in SEEDS])
    t = sharpe(excess) * np.sqrt(len(excess))
    print(f"\nnull: t of the simple return over {FIXED_BASELINE} {t:.2f}")
    assert t < 2.0
