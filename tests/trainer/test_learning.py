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

from features.allocation import Limits
from features.artifact import PolicyArtifact
from features.costs import Costs
from features.observation import Layout, market_block
from features.pipeline import compute
from features.scaling import Scaler
from features.sources.planted import oracle_excess_returns
from features.sources.simulated import World, simulate
from features.spec import preset
from features.venue_rules import VenueRules
from trainer import ppo
from trainer.baselines import FIXED_BASELINE, bound_names, run_baselines
from trainer.evaluate import Arena, Run, run_policy
from trainer.resampling import bootstrap_p
from trainer.score import excess_t, score, table
from trainer.sharpe import annualised, sharpe
from trainer.space import Hyperparameters
from trainer.vector_env import MarketTensors, Problem

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

TICKERS = ("AAVE", "AVAX", "BTC", "ETH", "LINK", "LTC", "UNI")
SEEDS = tuple(range(11, 21))
TRAIN, JUDGE = 35_000, range(35_200, 43_900)  # four years, then one
STEPS = 3_000_000
COSTS = Costs(fee_bps=25.0, half_spread_bps=2.0, slippage_bps=3.0, max_volume_share=0.05)
LIMITS = Limits(min_cash_reserve=0.02, max_weight=0.5, no_trade_band=0.02)
BARS_PER_YEAR = 8760.0


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
    bars = simulate(
        world=world,
        seed=seed,
        bars=44_000,
        tickers=TICKERS,
        timeframe_s=3600,
        start_s=1_609_459_200,
        oracle_sharpe=10.0,
    )
    spec = preset("stationary", tickers=TICKERS, timeframe_s=3600)
    rows, warm = compute(bars, spec), spec.warmup_bars
    scaler = Scaler.fit(rows.slice(0, TRAIN - warm), spec)
    scaled = scaler.transform(rows.slice(0, TRAIN - warm))
    rules = VenueRules.uniform("simulated", TICKERS)
    lot, least = rules.arrays(TICKERS)
    problem = Problem(
        market=MarketTensors.of(market_block(scaled.asset, scaled.shared, 1), bars.slice(warm, TRAIN)),
        layout=Layout.of(spec), limits=LIMITS, costs=COSTS, lot=lot, min_notional=least,
    )  # fmt: skip
    ticks = iter(range(1_000_000))
    trained = ppo.train_portfolio(
        problem, Hyperparameters(), accounts=128, steps=STEPS, seed=seed, on_update=lambda stats, pack: None,
        monotonic_s=lambda: float(next(ticks)),
    )  # fmt: skip
    policy = PolicyArtifact(
        kind=trained.kind, width=trained.width, spec=spec, scaler=scaler, limits=trained.limits, costs=COSTS,
        venue_rules=rules, weights=trained.weights, training={},
    )  # fmt: skip
    arena = Arena(initial_cash=10_000.0, costs=COSTS, limits=LIMITS, rules=rules)
    every = {"PPO": run_policy("PPO", policy, bars, rows, JUDGE, arena), **run_baselines(bars, JUDGE, arena)}
    oracle = oracle_excess_returns(bars.slice(JUDGE.start, JUDGE.stop)) if world == "planted" else None
    made = Year(
        runs={n: r for n, r in every.items() if n not in bound_names(bars)},
        policy_sharpe=annualised(sharpe(every["PPO"].returns - every[FIXED_BASELINE].returns), BARS_PER_YEAR),
        oracle_sharpe=0.0 if oracle is None else annualised(sharpe(oracle), BARS_PER_YEAR),
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
