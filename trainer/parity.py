"""Gate G7: what was evaluated on stored rows is decided again bar by bar, through the stream that trades."""

import numpy as np

from features.artifact import PolicyArtifact
from features.decision import Decider, MarketWindow
from features.ledger import Ledger, plan_orders, simulate_fills
from features.pipeline import FeatureStream
from trainer import gates
from trainer.dataset import Dataset
from trainer.evaluate import Arena, run_policy

DECISIONS = 250


def parity(artifact: PolicyArtifact, dataset: Dataset, where: Arena) -> gates.Gate:
    """Over the end of validation, from a flat start."""
    bars, stop = dataset.bars, dataset.folds[-1].validate.stop
    window = range(max(stop - DECISIONS - 1, 0), stop)
    evaluated = run_policy("parity", artifact, bars, dataset.rows, window, where).decisions
    stack = artifact.spec.stack_bars
    live = FeatureStream(artifact.spec, bars.slice(0, window.start - stack + 1))
    market, decider = MarketWindow(artifact), Decider(artifact)
    account, differing = Ledger.opened(bars.tickers, where.initial_cash), 0
    for k in range(window.start - stack + 1, window.stop - 1):
        block = market.push(live.update(bars.slice(k, k + 1)))
        if block is None:
            continue
        decision = decider.decide(
            market=block, ledger=account, close=bars.close[k], close_time_s=int(bars.close_time_s[k])
        )
        differing += decision != evaluated[k - window.start]
        orders = plan_orders(account, np.array(decision.target), bars.close[k], artifact.venue_rules)
        fills = simulate_fills(account, orders, bars.slice(k + 1, k + 2), artifact.costs, artifact.venue_rules)
        account = account.book(fills).marked(bars.close[k + 1])
    return gates.parity(len(evaluated), differing)
