"""What a CUDA card makes of the environment and of PPO. A program, since no machine of the test suite has a card.

    PYTHONPATH=. python tests/bench/card.py | tee card.txt

Beside torch, numpy, pandas, pyarrow, safetensors, packaging and tqdm it needs the wheels of array-api-compat, ta-lib,
optuna and colorlog (optuna's own needs, alembic and sqlalchemy, are not imported). `--device cpu --quick` rehearses it
without a card. Every section prints as it ends; one that fails prints its error and the next one goes on. Five minutes.
"""

import argparse
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from daemon.child.clock import SystemClock
from daemon.child.config import parse
from daemon.child.search import Network
from trainer.bench import Case, environment_rate, market, training_of, training_rate
from trainer.policy import Agent, prepare
from trainer.ppo import descend, ppo_loss
from trainer.replay import DIRECT, Replay
from trainer.rollout import collect
from trainer.space import Hyperparameters, defaults
from trainer.vector_env import Problem

CLOCK = SystemClock()
NETWORKS: tuple[tuple[Network, int], ...] = tuple((n, w) for n in ("mlp", "per_asset") for w in (64, 256, 1280))


class Bench:
    def __init__(self, device: str, *, quick: bool) -> None:
        self.device, self.quick, self.case_s = device, quick, 0.1 if quick else 1.5
        self.on_cpu = market(parse({}), 2_000 if quick else 35_000)
        self.problem = replace(self.on_cpu, market=self.on_cpu.market.to(device))

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], *, least: int = 5) -> float:
        """Median after a warm-up."""
        work()
        took: list[float] = []
        while len(took) < least or sum(took) < self.case_s:
            self.wait()
            began_s = CLOCK.monotonic_s()
            work()
            self.wait()
            took.append(CLOCK.monotonic_s() - began_s)
        return median(took)

    def recorded(self, work: Callable[[], dict[str, Tensor]]) -> Callable[[], object]:
        """`work` as a recording that has been played once."""
        replay = Replay(torch.device(self.device), ())

        def play() -> object:
            return replay("work", lambda _: work(), {})

        play()
        play()
        return play

    def products(self) -> None:
        """The card's own limit: square products, and those of a minibatch of 16,384 at width 1280."""
        n = 1024 if self.quick else 8192
        for name, kind, precision in (
            ("float32", torch.float32, "highest"), ("tf32", torch.float32, "high"), ("bf16", torch.bfloat16, "high"),
        ):  # fmt: skip
            torch.set_float32_matmul_precision(precision)
            for rows, width in ((n, n), (2 * n, 1280)):
                a = torch.randn(rows, width, device=self.device, dtype=kind)
                b = torch.randn(width, width, device=self.device, dtype=kind)
                took_s = self.seconds(lambda a=a, b=b: a @ b)
                print(
                    f"products {name:<8}{rows:>7} × {width} × {width}{2e-12 * rows * width**2 / took_s:>9.1f} TFLOP/s"
                )

    def environment(self) -> None:
        for accounts in (1_024,) if self.quick else (1_024, 4_096, 16_384, 65_536, 262_144):
            rate = environment_rate(self.problem, accounts, CLOCK, case_s=self.case_s)
            print(f"environment {accounts:>8} accounts{rate:>16,.0f} steps/s{1e6 * accounts / rate:>9.0f} µs a bar")

    def train(self, case: Case, accounts: int) -> None:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        t = training_rate(self.problem, case, accounts, CLOCK, case_s=self.case_s)
        peak = torch.cuda.max_memory_allocated() if self.device == "cuda" else 0
        print(
            f"training {t.policy:<10}{t.width:>5}{accounts:>7} accounts, minibatch{case.minibatch:>7}"
            f"{t.samples_per_s:>12,.0f} samples/s{t.limit_share:>6.0%} of {t.gemm_flop_per_s / 1e12:.1f} TFLOP/s, "
            f"{t.flop_per_sample / 1e6:.1f} MFLOP a sample, peak {peak / 1e6:.0f} MB",
            flush=True,
        )

    def widths(self) -> None:
        for policy, width in NETWORKS[:1] + NETWORKS[3:4] if self.quick else NETWORKS:
            bars, minibatch = (2, 256) if self.quick else (32, 16_384)
            case = Case(policy=policy, width=width, rollout_bars=bars, minibatch=minibatch)
            self.train(case, 128 if self.quick else 4_096)

    def accounts(self) -> None:
        """As it comes (128 accounts, minibatch 1,024), then a minibatch that grows with the accounts."""
        usual: tuple[tuple[Network, int], ...] = (("per_asset", 32), ("mlp", 256))
        for policy, width in usual:
            self.train(Case(policy=policy, width=width, rollout_bars=32), 128)
            for accounts in () if self.quick else (1_024, 4_096, 16_384, 65_536):
                self.train(Case(policy=policy, width=width, rollout_bars=32, minibatch=2 * accounts), accounts)

    def parts(self, h: Hyperparameters, accounts: int) -> tuple[Agent, dict[str, Tensor]]:
        """An agent and one minibatch of a rollout of its own."""
        training = training_of(self.problem, h, accounts)
        rollout = collect(
            training.env, training.agent, h, training.rewards, training.values, training.generator, DIRECT
        )
        names = ("market", "account", "action", "log_prob", "advantage", "value", "target")
        cells = max(1, h.minibatch // h.accounts_per_group)
        return training.agent, {n: getattr(rollout, n).flatten(0, 1)[:cells].clone() for n in names}

    def recordings(self) -> None:
        """Whole updates as the trainer runs them, recorded, beside the same work started kernel by kernel."""
        usual: tuple[tuple[Network, int, int], ...] = (
            ("per_asset", 32, 128), ("per_asset", 32, 4096), ("mlp", 64, 4096), ("mlp", 256, 4096), ("mlp", 1280, 4096),
        )  # fmt: skip
        for policy, width, accounts in usual[:1] if self.quick else usual:
            h = replace(
                defaults(policy), width=width, minibatch=max(1024, 4 * accounts), rollout_bars=2 if self.quick else 64,
                kl_target=float("inf"),
            )  # fmt: skip
            recorded, direct = (training_of(self.problem, h, accounts) for _ in range(2))
            direct.replay = DIRECT
            for _ in range(2):
                recorded.update()
            took_s = [self.seconds(t.update, least=3) for t in (recorded, direct)]
            parts = {}
            for name, training in (("recorded", recorded), ("direct", direct)):
                look = partial(
                    collect, training.env, training.agent, h, training.rewards, training.values, training.generator,
                    training.replay,
                )  # fmt: skip
                parts[name] = self.seconds(look, least=3)
            print(
                f"recorded {policy:<10}{width:>5}{accounts:>7} accounts{training.samples / took_s[0]:>12,.0f} samples/s, "
                f"direct {training.samples / took_s[1]:>10,.0f}, × {took_s[1] / took_s[0]:.1f}; of {1e3 * took_s[0]:.0f} ms "
                f"{1e3 * parts['recorded']:.0f} are the rollout ({1e3 * parts['direct']:.0f} direct)",
                flush=True,
            )

    def ensembles(self) -> None:
        """K trainings' minibatches as one batched network, against one after the other; both recorded."""
        usual: tuple[tuple[Network, int], ...] = (("per_asset", 32), ("mlp", 256))
        for policy, width in usual:
            h = replace(defaults(policy), width=width, rollout_bars=16)
            agent, part = self.parts(h, 128)
            alone = partial(descend, agent, adam(agent.parameters(), self.device), h)
            alone_s = self.seconds(self.recorded(partial(alone, part)), least=20)
            for k in (2,) if self.quick else (1, 4, 16, 64):
                took_s = self.seconds(self.recorded(ensemble(self.problem, h, part, k)), least=20)
                samples = part["log_prob"].numel()
                print(
                    f"ensemble {policy:<10}{width:>5} of {k:>3}: {1e6 * took_s:.0f} µs a minibatch of each, "
                    f"{k * samples / took_s:,.0f} samples/s in all, × {k * alone_s / took_s:.1f} of one after the other"
                )


class _Loss(nn.Module):
    def __init__(self, agent: Agent, h: Hyperparameters) -> None:
        super().__init__()
        self.agent, self.h = agent, h

    def forward(self, part: Mapping[str, Tensor]) -> Tensor:
        mean = self.agent.policy(part["market"], part["account"])
        return ppo_loss(
            log_prob=self.agent.head.log_prob(part["action"], mean), old_log_prob=part["log_prob"],
            advantage=part["advantage"], value=self.agent.critic(part["market"], part["account"]),
            old_value=part["value"], target=part["target"], entropy=self.agent.head.entropy(mean), h=self.h,
        ).total  # fmt: skip


def ensemble(problem: Problem, h: Hyperparameters, part: dict[str, Tensor], k: int) -> Callable[[], dict[str, Tensor]]:
    """A step of k agents, each on the minibatch in an order of its own; checked against the first agent alone."""
    device = problem.market.market.device
    members = []
    for seed in range(k):
        torch.manual_seed(seed)
        members.append(_Loss(Agent.for_portfolio(problem.layout, h).to(device), h))
    one = members[0]
    weights, buffers = stack_module_state(members)  # type: ignore[arg-type]
    parts = {n: torch.stack([t.roll(seed, 0) for seed in range(k)]) for n, t in part.items()}

    def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor], part: dict[str, Tensor]) -> Tensor:
        total: Tensor = functional_call(one, (weights, buffers), (part,))
        return total

    gradients: Any = vmap(grad(loss))
    optimiser = adam(weights.values(), str(device))
    one(part).backward()
    for name, weight in one.named_parameters():
        assert weight.grad is not None
        off = (gradients(weights, buffers, parts)[name][0].detach() - weight.grad).abs().max()
        assert off <= 1e-2 * weight.grad.abs().max() + 1e-6, f"{name}: {off}"

    def step() -> dict[str, Tensor]:
        found = gradients(weights, buffers, parts)
        norm = torch.stack([g.flatten(1).square().sum(1) for g in found.values()]).sum(0).sqrt()
        share = (h.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        for name, weight in weights.items():
            weight.grad = found[name] * share.view(-1, *[1] * (weight.dim() - 1))
        optimiser.step()
        return {"norm": norm}

    return step


def adam(parameters: Iterable[Tensor], device: str) -> torch.optim.Adam:
    """As a training sets it up."""
    return torch.optim.Adam(
        list(parameters), lr=torch.tensor(1e-4, device=device), fused=True, capturable=device != "cpu"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="rehearse: tiny sizes, nothing measured well")
    chosen = parser.parse_args()
    if chosen.device == "cuda":
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    prepare(torch.get_num_threads(), chosen.device)
    bench, failed = Bench(chosen.device, quick=chosen.quick), 0
    sections = [
        bench.products, bench.environment, bench.recordings, bench.widths, bench.accounts, bench.ensembles,
    ]  # fmt: skip
    for section in sections:
        began_s = CLOCK.monotonic_s()
        try:
            section()
        except Exception:  # noqa: BLE001  a lent card is there once: the other sections still count
            traceback.print_exc()
            failed += 1
        print(f"-- {section.__name__}: {CLOCK.monotonic_s() - began_s:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
