"""One simulated market to learn on for four years and to be judged on for the year after, with everything around it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.actor import PolicyKind
from features.allocation import Limits
from features.artifact import PolicyArtifact
from features.bars import Bars
from features.costs import Costs
from features.observation import Layout, market_block
from features.pipeline import FeatureRows, compute
from features.scaling import Scaler
from features.sources.planted import oracle_excess_returns
from features.sources.simulated import World, simulate
from features.spec import FeatureSpec, preset
from features.venue_rules import VenueRules
from trainer.baselines import FIXED_BASELINE, run_baselines
from trainer.evaluate import Arena, Run, run_policy
from trainer.ppo import TrainedPolicy
from trainer.sharpe import annualised, sharpe
from trainer.vector_env import MarketTensors, Problem

TICKERS = ("AAVE", "AVAX", "BTC", "ETH", "LINK", "LTC", "UNI")
TRAIN, JUDGE = 35_000, range(35_200, 43_900)  # four years, then one
COSTS = Costs(fee_bps=25.0, half_spread_bps=2.0, slippage_bps=3.0, max_volume_share=0.05)
LIMITS = Limits(min_cash_reserve=0.02, max_weight=0.5, no_trade_band=0.02)
RULES = VenueRules.uniform("simulated", TICKERS)
ARENA = Arena(initial_cash=10_000.0, costs=COSTS, limits=LIMITS, rules=RULES)
BARS_PER_YEAR = 8760.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningMarket:
    """The scaler has seen the training bars alone."""

    bars: Bars
    spec: FeatureSpec
    rows: FeatureRows
    scaler: Scaler
    problem: Problem

    @classmethod
    def of(cls, world: World, seed: int) -> "LearningMarket":
        bars = simulate(
            world=world, seed=seed, bars=44_000, tickers=TICKERS, timeframe_s=3600, start_s=1_609_459_200,
            oracle_sharpe=10.0,
        )  # fmt: skip
        spec = preset("stationary", tickers=TICKERS, timeframe_s=3600)
        rows, warm = compute(bars, spec), spec.warmup_bars
        scaler = Scaler.fit(rows.slice(0, TRAIN - warm), spec)
        scaled = scaler.transform(rows.slice(0, TRAIN - warm))
        lot, least = RULES.arrays(TICKERS)
        problem = Problem(
            market=MarketTensors.of(market_block(scaled.asset, scaled.shared, 1), bars.slice(warm, TRAIN)),
            layout=Layout.of(spec), limits=LIMITS, costs=COSTS, lot=lot, min_notional=least,
        )  # fmt: skip
        return cls(bars=bars, spec=spec, rows=rows, scaler=scaler, problem=problem)

    def judged(self, trained: TrainedPolicy) -> Run:
        """The year after, traded by what was trained."""
        return self.traded(trained.kind, trained.width, trained.weights, limits=trained.limits)

    def traded(
        self, kind: PolicyKind, width: int, weights: Mapping[str, NDArray[np.float32]], *, limits: Limits = LIMITS
    ) -> Run:
        policy = PolicyArtifact(
            kind=kind, width=width, spec=self.spec, scaler=self.scaler, limits=limits, costs=COSTS, venue_rules=RULES,
            weights=weights, training={},
        )  # fmt: skip
        return run_policy("PPO", policy, self.bars, self.rows, JUDGE, ARENA)

    def baseline(self) -> Run:
        return run_baselines(self.bars, JUDGE, ARENA, only=FIXED_BASELINE)[FIXED_BASELINE]

    def oracle_sharpe(self) -> float:
        """Annual, over 1/N, of a trader who knows the planted signal and pays the same costs."""
        return sharpe_per_year(oracle_excess_returns(self.bars.slice(JUDGE.start, JUDGE.stop)))


def sharpe_per_year(excess: NDArray[np.float64]) -> float:
    return annualised(sharpe(excess), BARS_PER_YEAR)
