"""Trials an hour: the default configuration, and the predecessor's budget beside its 14.4."""

import os
import platform

import pytest
import torch

from daemon.child.clock import SystemClock
from daemon.child.config import parse
from trainer.bench import BARS, Case, market, training_rate
from trainer.space import defaults

pytestmark = pytest.mark.bench
WORKERS = 2
PREDECESSOR_STEPS, PREDECESSOR_BARS, PREDECESSOR_PER_HOUR = 87_000, 1680, 14.4  # on one 8 GB card, three workers


@pytest.fixture(autouse=True, scope="module")
def _hardware() -> None:
    torch.set_num_threads(1)
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


def test_the_default_configuration_with_two_workers() -> None:
    """A process on a core of its own each; judging apart, none pruned."""
    config = parse({})
    usual = defaults("per_asset")
    found = training_rate(
        market(config, BARS), Case(policy="per_asset", width=usual.width, rollout_bars=usual.rollout_bars),
        config.study.accounts, SystemClock(), case_s=10.0,
    )  # fmt: skip
    steps = config.data.n_folds * config.study.train_steps
    print(
        f"default: {found.samples_per_s:,.0f} samples/s a worker, {WORKERS * 3600 * found.samples_per_s / steps:.1f} trials"
    )
    print(
        f"an hour of {steps:,} account-steps; {found.limit_share:.0%} of the time would do for its matrix products alone"
    )


def test_the_predecessors_budget_with_two_workers() -> None:
    """Two layers of 1,280 over seven tickers and its eleven columns. Its updates made 16 passes; these make the default's."""
    config = parse({"features": {"preset": "classic"}})
    found = training_rate(
        market(config, PREDECESSOR_BARS), Case(policy="mlp", width=1280, rollout_bars=16), config.study.accounts,
        SystemClock(), case_s=10.0,
    )  # fmt: skip
    per_hour = WORKERS * 3600 * found.samples_per_s / PREDECESSOR_STEPS
    passes = defaults("mlp").epochs
    print(
        f"predecessor's: {found.samples_per_s:,.0f} samples/s a worker at {passes} passes, {per_hour:.0f} trials an hour"
    )
    print(
        f"({per_hour * passes / 16:.0f} at 16), against {PREDECESSOR_PER_HOUR}; {found.limit_share:.0%} of the products' limit"
    )
