"""Does PPO learn? On three planted worlds it must beat every baseline after costs, on three null worlds it must not.

What is compared is the log wealth of one year out of sample, summed over the three worlds, because one world's market
can by chance favour holding cash or one coin. The seeds were fixed before the first run.
"""

from functools import cache

import numpy as np
import pytest
import torch

from features.allocation import Limits
from features.artifact import PolicyArtifact
from features.costs import Costs
from features.observation import Layout, market_block
from features.pipeline import compute
from features.scaling import Scaler
from features.sources.simulated import World, simulate
from features.spec import preset
from features.venue_rules import VenueRules
from trainer import ppo
from trainer.baselines import bound_names, run_baselines
from trainer.evaluate import Arena, Run, run_policy
from trainer.resampling import bootstrap_p
from trainer.score import excess_t, score, table
from trainer.space import Hyperparameters
from trainer.vector_env import MarketTensors

TICKERS = ("AAVE", "AVAX", "BTC", "ETH", "LINK", "LTC", "UNI")
SEEDS = (11, 12, 13)
TRAIN, JUDGE = 35_000, range(35_200, 43_900)  # four years, then one
STEPS = 1_200_000
COSTS = Costs(fee_bps=25.0, half_spread_bps=2.0, slippage_bps=3.0, max_volume_share=0.05)
LIMITS = Limits(min_cash_reserve=0.02, max_weight=0.5, no_trade_band=0.02)


def played(world: World, seed: int) -> dict[str, Run]:
    """The policy trained with the default hyperparameters, and every baseline, over the year after training."""
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
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ticks = iter(range(1_000_000))
    trained = ppo.train(
        market=MarketTensors.of(market_block(scaled.asset, scaled.shared, 1), bars.slice(warm, TRAIN)),
        layout=Layout.of(spec), limits=LIMITS, costs=COSTS, lot=lot, min_notional=least,
        hyperparameters=Hyperparameters(), accounts=128, steps=STEPS, seed=seed, on_update=lambda _: None,
        monotonic_s=lambda: float(next(ticks)),
    )  # fmt: skip
    torch.set_num_threads(threads)
    policy = PolicyArtifact(
        kind="per_asset", width=trained.width, spec=spec, scaler=scaler, limits=LIMITS, costs=COSTS, venue_rules=rules,
        weights=trained.weights, training={},
    )  # fmt: skip
    arena = Arena(initial_cash=10_000.0, costs=COSTS, limits=LIMITS, rules=rules)
    runs = {"PPO": run_policy("PPO", policy, bars, rows, JUDGE, arena), **run_baselines(bars, JUDGE, arena)}
    print("\n" + table([score(r, timeframe_s=3600) for r in runs.values()], title=f"{world}, seed {seed}"))
    return {n: r for n, r in runs.items() if n not in bound_names(bars)}


@cache
def total(world: World) -> dict[str, np.ndarray]:
    """Per-bar log returns, the three worlds one after another."""
    each = [played(world, seed) for seed in SEEDS]
    pooled = {name: np.concatenate([np.log1p(runs[name].returns) for runs in each]) for name in each[0]}
    print(f"\n{world}, three worlds of one year each: log wealth in all, and p that the excess of PPO is luck")
    for name, r in sorted(pooled.items(), key=lambda item: -item[1].sum()):
        excess = pooled["PPO"] - r
        p = (
            bootstrap_p(excess, mean_block=48.0, n_resamples=1000, rng=np.random.default_rng(0))
            if name != "PPO"
            else 1.0
        )
        print(f"  {name:<26}{r.sum():>8.3f}" + ("" if name == "PPO" else f"{p:>8.3f}"))
    return pooled


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ppo_beats_every_baseline_after_costs_where_a_signal_is_planted() -> None:
    wealth = {name: float(r.sum()) for name, r in total("planted").items()}
    assert max(wealth, key=wealth.__getitem__) == "PPO", wealth
    pooled = total("planted")
    assert excess_t(np.expm1(pooled["PPO"]), np.expm1(pooled["1/N daily"])) > 5.0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ppo_beats_not_every_baseline_where_there_is_nothing_to_find() -> None:
    pooled = total("null")
    wealth = {name: float(r.sum()) for name, r in pooled.items()}
    assert max(wealth, key=wealth.__getitem__) != "PPO", wealth
    assert excess_t(np.expm1(pooled["PPO"]), np.expm1(pooled["1/N daily"])) < 3.0
