"""A fold's market is in memory once, whoever trains on it, and comes out the same to the bit wherever it lies."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mounts import fill, mounted
from structlog.testing import capture_logs
from test_worker import settings

from daemon.child.clock import SystemClock
from daemon.child.logs import get_logger
from daemon.child.progress import Progress
from features.files import Lock, write_atomic
from trainer.dataset import load_dataset
from trainer.shared_market import SharedMarkets, mapped, packed
from trainer.space import Hyperparameters
from trainer.training import Trainer
from trainer.vector_env import MarketTensors

WHAT = {"a": "market"}
MAPS_IT = (
    "import sys; from pathlib import Path; from trainer.shared_market import mapped\n"
    "market = mapped(Path(sys.argv[1])); print(market.n_bars, flush=True); sys.stdin.read()"
)


def numbers(rows: int) -> MarketTensors:
    generator = torch.Generator().manual_seed(rows)
    return MarketTensors(
        market=torch.randn((rows, 116), generator=generator),
        bars=torch.randn((rows, 29), generator=generator, dtype=torch.float64),
    )


def shared(folder: Path, **changes: object) -> SharedMarkets:
    return SharedMarkets(folder, **{"lock": folder.parent / "l.lock", "pause": list, "log": get_logger(), **changes})  # type: ignore[arg-type]


def same(a: MarketTensors, b: MarketTensors) -> bool:
    return torch.equal(a.market, b.market) and torch.equal(a.bars, b.bars)


def never() -> MarketTensors:
    raise AssertionError("it was there")


def mappings_kb(pid: int | str, path: Path) -> dict[str, int]:
    """What the kernel counts for the file in that process, over all its mappings."""
    total: dict[str, int] = {}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            inside = line.endswith(str(path))
        elif inside and rest[-1] == "kB":
            total[first[:-1]] = total.get(first[:-1], 0) + int(rest[0])
    return total


def test_two_processes_hold_one_copy_between_them(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_atomic(path, packed(numbers(35_000)))
    held = mapped(path)
    assert held is not None
    with subprocess.Popen(
        [sys.executable, "-c", MAPS_IT, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "35000\n"  # its checksum agrees: it has read all of it
        for pid in ("self", other.pid):
            kb = mappings_kb(pid, path)
            assert kb["Rss"] > 20_000 and kb["Pss"] == pytest.approx(kb["Rss"] / 2, rel=0.02)
            assert kb["Private_Dirty"] == kb["Anonymous"] == 0
        other.communicate("")


def test_a_training_on_the_shared_file_ends_in_the_policy_of_one_in_memory_and_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, clock = settings(train_steps=4000), SystemClock()
    dataset = load_dataset(config, tmp_path, clock)

    def trained() -> str:
        trainer = Trainer(
            config=config, state_dir=tmp_path, dataset=dataset, clock=clock, progress=Progress(None), log=get_logger(),
            should_stop=lambda: False,
        )  # fmt: skip
        return trainer.train(
            Hyperparameters(), dataset.folds[0], seed=5, note="", checkpoint=tmp_path / "c"
        ).artifact_id  # fmt: skip

    first = trained()
    (path,) = (tmp_path / "folds" / "s").iterdir()
    before = path.read_bytes()
    blocks = dataset.blocks
    monkeypatch.setattr(dataset, "blocks", never)
    assert trained() == first and path.read_bytes() == before
    monkeypatch.setattr(dataset, "blocks", blocks)
    monkeypatch.setattr(SharedMarkets, "market", lambda self, what, make: make())
    assert trained() == first


def test_who_waited_for_another_to_make_it_makes_nothing(tmp_path: Path) -> None:
    lock, folder = tmp_path / "l.lock", tmp_path / "folds"
    made = shared(folder).market(WHAT, lambda: numbers(50))
    (path,) = folder.iterdir()
    path.rename(tmp_path / "kept")
    other = Lock(lock)
    other.__enter__()

    def pause() -> None:
        (tmp_path / "kept").rename(path)
        other.__exit__(None, None, None)

    assert same(shared(folder, pause=pause).market(WHAT, never), made)


@pytest.mark.parametrize("kept", [0, 100, -1], ids=["empty", "torn", "flipped"])
def test_a_damaged_file_is_noticed_and_made_anew(tmp_path: Path, kept: int) -> None:
    folder = tmp_path / "folds"
    shared(folder).market(WHAT, lambda: numbers(50))
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:kept] if kept >= 0 else whole[:-1] + bytes([whole[-1] ^ 1]))
    with capture_logs() as said:
        assert same(shared(folder).market(WHAT, lambda: numbers(50)), numbers(50))
    assert {s["event"] for s in said} == {"fold.damaged"} and path.read_bytes() == whole


def test_a_full_disk_costs_the_sharing_alone_and_is_said_once(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "disk", size_mib=1) as disk:
        filler = fill(disk)
        markets = shared(disk / "folds", lock=tmp_path / "l.lock")
        with capture_logs() as said:
            for _ in range(2):
                assert same(markets.market(WHAT, lambda: numbers(50)), numbers(50))
        assert [s["event"] for s in said] == ["fold.not_shared"] and not list((disk / "folds").iterdir())
        filler.unlink()
        assert same(markets.market(WHAT, lambda: numbers(50)), markets.market(WHAT, never))
