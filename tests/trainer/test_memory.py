"""Memory: what a worker needs of it, what becomes of a trial that gets none, and of a process that gives none back."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_worker import records, settings, worker

from daemon.child.config import parse
from daemon.child.exits import EXIT_RECYCLE
from features.files import Lock
from trainer import ppo
from trainer import worker as worker_module
from trainer.ledger import TrialLedger
from trainer.memory import grown_bytes, out_of_memory, smaller
from trainer.shared_market import mapped
from trainer.space import Hyperparameters
from trainer.vector_env import Problem


def refusal() -> RuntimeError:
    """What torch really raises when the processor's memory is refused."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


def test_every_way_of_refusing_memory_is_recognised_and_nothing_else() -> None:
    with pytest.raises(MemoryError) as caught:
        np.empty(2**60, dtype=np.uint8)
    assert out_of_memory(caught.value) and out_of_memory(refusal()) and out_of_memory(torch.OutOfMemoryError("CUDA"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) and not out_of_memory(
        ValueError()
    )


def test_smaller_is_the_next_choice_of_the_space_and_ends_at_its_edge() -> None:
    sizes, chosen = [], Hyperparameters(minibatch=4096)
    while (less := smaller(chosen)) is not None:
        chosen = less
        sizes.append(chosen.minibatch)
    assert sizes == [2048, 1024, 512]


def test_a_trial_that_does_not_fit_fails_as_oom_and_is_tried_once_with_a_smaller_minibatch_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = ppo.train_portfolio, refusal()

    def tight(problem: Problem, h: Hyperparameters, **arguments: Any) -> ppo.TrainedPolicy:
        if h.minibatch > 512:
            raise refused
        return real(problem, h, **arguments)

    monkeypatch.setattr(ppo, "train_portfolio", tight)
    with Lock(tmp_path / "run" / "worker-0.lock"):
        assert worker(tmp_path, settings(target_trials=2, train_steps=2000)).run()
    first, second = records(tmp_path)
    assert (first["state"], first["failure"], first.get("score")) == ("FAIL", "oom", None)
    assert second["state"] == "COMPLETE"
    assert (first["parameters"]["minibatch"], second["parameters"]["minibatch"]) == (1024, 512)
    assert {k: v for k, v in first["parameters"].items() if k != "minibatch"} == {
        k: v for k, v in second["parameters"].items() if k != "minibatch"
    }
    assert TrialLedger(tmp_path / "ledger.jsonl").count() == 2


def test_memory_that_is_always_refused_costs_one_retry_per_trial_and_no_crash_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = refusal()

    def none(*_: Any, **__: Any) -> ppo.TrainedPolicy:
        raise refused

    monkeypatch.setattr(ppo, "train_portfolio", none)
    with Lock(tmp_path / "run" / "worker-0.lock"):
        assert worker(tmp_path, settings(target_trials=4)).run()
    found = records(tmp_path)
    assert [r["failure"] for r in found] == ["oom"] * 4
    assert [r["parameters"]["minibatch"] for r in found[:2]] == [1024, 512]
    without = [{k: v for k, v in r["parameters"].items() if k != "minibatch"} for r in found]
    assert without[0] == without[1] != without[2]  # the third is a new proposal, not a third try


@given(
    level=st.integers(10**8, 10**9), noise=st.lists(st.integers(-(10**7), 10**7), min_size=5, max_size=40),
    spike=st.integers(0, 39),
)  # fmt: skip
def test_noise_and_a_single_spike_are_no_leak(level: int, noise: list[int], spike: int) -> None:
    after = [level + n for n in noise]
    after[spike % len(after)] += 10**10
    assert grown_bytes(after) <= 2 * 10**7


@given(step=st.integers(1, 10**8), n=st.integers(5, 100))
def test_growth_from_trial_to_trial_is_seen(step: int, n: int) -> None:
    assert grown_bytes([10**9 + step * k for k in range(n)]) == step * (n - 4)


def test_a_worker_that_leaks_ends_between_two_trials_with_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = iter(range(10**9, 10**12, 10**9))
    monkeypatch.setattr(worker_module, "resident_bytes", lambda: next(held))
    monkeypatch.setattr(
        ppo, "train_portfolio", lambda *_, **__: (_ for _ in ()).throw(ppo.TrainingDiverged("no matter"))
    )
    with Lock(tmp_path / "run" / "worker-0.lock"):
        leaking = worker(tmp_path, settings(target_trials=20))
        assert leaking.run() is False and leaking.recycle
    assert [r["state"] for r in records(tmp_path)] == ["FAIL"] * 5  # each ended; none is left running


def test_the_process_says_by_its_exit_that_it_wants_to_be_started_again(tmp_path: Path) -> None:
    """A real worker process that leaks 60 MB in every trial."""
    write = tmp_path / "config.json"
    record = json.loads(settings(target_trials=20).to_json())
    record["study"] |= {"recycle_growth_bytes": 50_000_000, "train_steps": 100}
    write.write_text(json.dumps(record))
    code = (
        "import sys; from trainer import ppo; from trainer.__main__ import main\n"
        "kept = []\n"
        "def leaking(*_, **__): kept.append(bytearray(b'x' * 60_000_000)); raise ppo.TrainingDiverged('no matter')\n"
        "ppo.train_portfolio = leaking\n"
        "sys.exit(main(['work', '--config', sys.argv[1], '--state-dir', sys.argv[2], '--name', 'worker-0']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(write), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == EXIT_RECYCLE, done.stderr
    assert len(records(tmp_path)) == 5


def test_a_worker_on_four_years_of_seven_coins_with_1024_accounts_stays_under_700_mb(tmp_path: Path) -> None:
    """A real worker process: one trial of the default network, four updates on 35,000 bars, a judged half year."""
    config = parse({
        "market": {"source": "simulated"},
        "simulation": {"bars": 42_000},
        "data": {"n_folds": 1, "judge_start_utc": "2025-01-20T00:00:00Z"},
        "study": {"name": "s", "target_trials": 1, "train_steps": 4 * 128 * 1024, "accounts": 1024},
        "promotion": {"automatic": False},
    })  # fmt: skip
    (tmp_path / "config.json").write_text(config.to_json())
    code = (
        "import re, sys; from pathlib import Path; from trainer.__main__ import main\n"
        "assert main(['work', '--config', sys.argv[1], '--state-dir', sys.argv[2], '--name', 'worker-0']) == 0\n"
        "print(*re.findall(r'Vm(?:HWM|RSS):\\s+(\\d+) kB', Path('/proc/self/status').read_text()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "config.json"), str(tmp_path)], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    (record,) = records(tmp_path)
    (fold,) = (tmp_path / "folds" / "s").iterdir()
    market = mapped(fold)
    assert record["state"] == "COMPLETE" and market is not None and market.n_bars >= 35_000
    peak, now = (int(kb) * 1024 / 1e6 for kb in done.stdout.split())
    print(
        f"\n{market.n_bars:,} bars of 7 coins, 1,024 accounts: at most {peak:.0f} MB resident, {now:.0f} MB at the end"
    )
    assert now <= peak < 700.0
