"""What a card records, held here to what a recording needs, on the processor; test_card.py plays it on a card."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ppo import problem
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from daemon.child.exits import EXIT_CONFIGURATION
from trainer.__main__ import main
from trainer.bench import training_of
from trainer.ppo import Training
from trainer.replay import DIRECT, Replay
from trainer.space import Hyperparameters, defaults

LOOKS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "unique")


class Looks(TorchDispatchMode):
    """Notes every operation that has to wait for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in LOOKS or masked:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class Watching(Replay):
    """Does the work as a recording would find it: notes the looks, and the places of what the work changes."""

    def __init__(self, training: Training) -> None:
        super().__init__(torch.device("cpu"), ())
        self.training, self.looks, self.done = training, [], set[str]()

    def places(self) -> dict[str, int]:
        training = self.training
        moments = {f"{i}.{n}": t for i, m in enumerate(training.optimiser.state.values()) for n, t in m.items()}
        env = {n: getattr(training.env, n) for n in ("cash", "quantity", "peak", "bar", "until", "end", "fee")}
        return {n: t.data_ptr() for n, t in {**dict(training.agent.named_parameters()), **moments, **env}.items()}

    def __call__(self, name: str, work: Any, inputs: Any) -> dict[str, Tensor]:
        before = self.places()
        with Looks() as looks:
            results: dict[str, Tensor] = work(inputs)
        self.looks += [f"{name}: {look}" for look in looks.seen]
        if name in self.done or name != "descend":  # the first step makes the optimiser's moments
            assert self.places() == before, name
        self.done.add(name)
        return results


CASES = {
    "per asset": defaults("per_asset"), "mlp": replace(defaults("mlp"), width=64),
    "dirichlet": replace(defaults("per_asset"), head="dirichlet", reward_drawdown_penalty=0.1),
    "alone on its bars": replace(defaults("per_asset"), accounts_per_group=1),
}  # fmt: skip


@pytest.mark.parametrize("h", CASES.values(), ids=CASES.keys())
def test_what_is_recorded_looks_at_no_number_and_leaves_what_it_changes_in_place(h: Hyperparameters) -> None:
    training = training_of(problem(), replace(h, rollout_bars=200, minibatch=512), 16)
    here = training.env
    training.env = problem().batched(groups=here.groups, accounts_per_group=here.per_group, seed=1, on_card=True)
    watching = Watching(training)
    training.replay = watching
    assert sum(training.update()["episodes"] for _ in range(3)) > 0  # accounts began anew under the watch
    assert watching.done == {"play", "gae", "descend"} and watching.looks == []


def test_the_watch_sees_a_look() -> None:
    x = torch.ones(3)
    with Looks() as looks:
        assert bool(x.any()) and float(x.sum()) == 3.0 and len(x[x > 0]) == 3 and len(x.nonzero()) == 3
    assert len(looks.seen) == 4


def test_on_tensors_without_a_look_the_environment_steps_and_begins_anew_as_on_arrays_with_one() -> None:
    looking, blind = (problem().batched(groups=6, accounts_per_group=4, seed=5, on_card=on) for on in (False, True))
    reopened = 0
    for k in range(900):
        blind.restore(looking.state())
        raw = 3.0 * torch.randn((6, 4, looking.market.n_assets + 2), generator=torch.Generator().manual_seed(k))
        one, other = looking.step(raw), blind.step(raw)
        assert torch.allclose(one.reward, other.reward, rtol=0.0, atol=1e-12)
        assert torch.allclose(one.final.account, other.final.account, rtol=0.0, atol=1e-6)
        assert torch.allclose(looking.observe().account, blind.observe().account, rtol=0.0, atol=1e-6)
        for name, tensor in looking.state().items():
            assert name == "generator" or torch.allclose(tensor, blind.state()[name], rtol=1e-12, atol=1e-12), name
        reopened += int((one.truncated | one.terminated).sum())
    assert reopened > 20


def test_on_the_processor_work_is_just_done() -> None:
    seen = []
    for n in (1.0, 2.0, 3.0):
        seen.append(float(DIRECT("w", lambda x: {"y": 2 * x["x"]}, {"x": torch.tensor(n)})["y"]))
    assert seen == [2.0, 4.0, 6.0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_is_not_there_is_said_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = tmp_path / "given.toml"
    given.write_text('[study]\ndevice = "cuda"\n')
    for verb in ("bench", "work"):
        assert (
            main([verb, "--config", str(given), "--state-dir", str(tmp_path), "--name", "worker-0"])
            == EXIT_CONFIGURATION
        )
        said = capsys.readouterr().err
        assert "study.device is cuda, but torch" in said and "or cpu" in said
