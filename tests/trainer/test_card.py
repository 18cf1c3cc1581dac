"""Training on a card: the same mechanics as on the processor, and recorded the same as done. Skipped without one."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_ppo import problem
from test_worker import records, settings, worker

from trainer import ppo
from trainer.bench import training_of
from trainer.policy import prepare
from trainer.replay import DIRECT
from trainer.space import Hyperparameters, defaults
from trainer.vector_env import STATE, Problem

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no card on this machine")
CASES = {
    "per asset": Hyperparameters(), "dirichlet": Hyperparameters(head="dirichlet"),
    "bfloat16": replace(defaults("mlp"), width=256),
    "a last minibatch of its own size": Hyperparameters(rollout_bars=100, minibatch=192),
}  # fmt: skip


def on_card() -> Problem:
    here = problem()
    return replace(here, market=here.market.to("cuda"))


def trained(h: Hyperparameters, *, updates: int, resume: bytes | None = None, kept: dict[int, bytes] | None = None):  # type: ignore[no-untyped-def]
    def on_update(stats: ppo.UpdateStats, pack) -> None:  # type: ignore[no-untyped-def]
        if kept is not None:
            kept[stats.steps] = pack()

    return ppo.train_portfolio(
        on_card(), h, accounts=32, steps=updates * 32 * h.rollout_bars, seed=1, on_update=on_update,
        monotonic_s=iter(range(10_000)).__next__, resume=resume,
    )  # fmt: skip


def test_a_hundred_bars_are_worth_the_same_on_card_and_processor() -> None:
    here = problem().batched(groups=16, accounts_per_group=8, seed=1)
    there = on_card().batched(groups=16, accounts_per_group=8, seed=1)
    there.restore({n: here.state()[n] for n in STATE} | {"generator": there.generator.get_state()})
    worst = 0.0
    for k in range(100):
        raw = 3.0 * torch.randn((16, 8, here.market.n_assets + 2), generator=torch.Generator().manual_seed(k))
        one, other = here.step(raw), there.step(raw.to("cuda"))
        assert not bool(one.terminated.any() | one.truncated.any())
        assert bool((there.cash >= 0).all() & (there.quantity >= 0).all())
        worst = max(worst, float((one.log_return - other.log_return.cpu()).abs().max()))
    print(f"largest difference of a bar's log return: {worst:.1e}")
    assert worst < 1e-12


@pytest.mark.parametrize("h", CASES.values(), ids=CASES.keys())
def test_a_recorded_training_ends_in_the_weights_of_one_that_is_not(h: Hyperparameters) -> None:
    recorded, done = (training_of(on_card(), h, 32) for _ in range(2))
    done.replay = DIRECT
    for _ in range(5):
        one, other = recorded.update(), done.update()
        assert one["episodes"] == other["episodes"] and one["mean_reward_bps"] == pytest.approx(
            other["mean_reward_bps"]
        )
    apart = max(
        float((a - b).detach().abs().max())
        for a, b in zip(recorded.agent.parameters(), done.agent.parameters(), strict=True)
    )
    print(f"largest difference of a weight: {apart:.1e}")
    assert apart == 0.0


def test_the_recordings_are_really_played_and_the_environment_draws_anew() -> None:
    training = training_of(on_card(), Hyperparameters(rollout_bars=256), 32)
    facts = [training.update() for _ in range(6)]
    seen = training.replay._seen
    assert {key[0] for key in seen} == {"play", "gae", "descend"} and all(seen.values())
    assert len({f["mean_reward_bps"] for f in facts}) == 6 and all(f["episodes"] > 0 for f in facts[2:])


@pytest.mark.parametrize("h", CASES.values(), ids=CASES.keys())
def test_an_interrupted_training_goes_on_to_the_same_weights(h: Hyperparameters) -> None:
    kept: dict[int, bytes] = {}
    whole = trained(h, updates=6, kept=kept)
    for stored in list(kept.values())[:-1]:
        again = trained(h, updates=6, resume=stored)
        assert all(np.array_equal(whole.weights[n], again.weights[n]) for n in whole.weights)


def test_a_training_gives_its_memory_back() -> None:
    held = []
    for _ in range(4):
        trained(Hyperparameters(rollout_bars=64), updates=4)
        gc.collect()
        torch.cuda.empty_cache()
        held.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    print(f"allocated and reserved after each of four trainings: {held}")
    assert held[-1] == held[0]


def test_a_worker_trains_on_its_card(tmp_path) -> None:  # type: ignore[no-untyped-def]
    prepare(1, "cuda", worker=3)
    assert torch.cuda.current_device() == 3 % torch.cuda.device_count()
    config = settings(target_trials=1)
    config = replace(config, study=replace(config.study, device="cuda"))
    worker(tmp_path, config).run()
    assert [r["state"] for r in records(tmp_path)] == ["COMPLETE"]
    assert torch.cuda.max_memory_allocated() > 0
