"""The candle store when its writer dies at any step, when the disk is full, when two write, and while one reads."""

import errno
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import filling
import numpy as np
import pytest
from filling import HOUR, TICKERS, fill_from
from world import random_bars

from features.bars import Bars, candles_from_bars
from features.store.candles import Candles
from features.store.store import CandleStore

FOREVER = 1 << 62


def revised(bars: Bars) -> Bars:
    """The same market as the venue tells it later: two volumes differ, one candle has appeared, 40 bars more."""
    volume, filled = bars.volume.copy(), bars.filled.copy()
    volume[[10, 300], 0] += 1.0
    filled[np.argmax(bars.filled[:, 1]), 1] = False
    return replace(bars, volume=volume, filled=filled)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two recorded files: what a venue said first, and what it says later."""
    folder = tmp_path_factory.mktemp("market")
    bars = random_bars(3, n_bars=1140, tickers=TICKERS)
    first, later = folder / "first.parquet", folder / "later.parquet"
    candles_from_bars(bars.slice(0, 1100)).to_parquet(first)
    candles_from_bars(revised(bars)).to_parquet(later)
    return first, later


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def states(root: Path) -> dict[str, Candles]:
    store = CandleStore(root)
    return {t: store.shelf("file", HOUR, f"{t}-USDT").candles(after_s=0, until_s=FOREVER) for t in TICKERS}


class Steps:
    """Counts the steps; fails at one of them, as a full disk does."""

    def __init__(self, fail_at: int = -1) -> None:
        self.taken, self.fail_at = 0, fail_at

    def __call__(self, step: str) -> None:
        self.taken += 1
        if self.taken - 1 == self.fail_at:
            raise OSError(errno.ENOSPC, f"no space left at: {step}")


@pytest.fixture(scope="module")
def calm(market: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds what the venue said first."""
    root = tmp_path_factory.mktemp("calm")
    fill_from(root, market[0])
    return root


@pytest.fixture(scope="module")
def undisturbed(market: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The store of a writer that nothing happened to, and the number of steps of its second filling."""
    root, steps = tmp_path_factory.mktemp("undisturbed"), Steps()
    fill_from(root, market[0])
    fill_from(root, market[1], again=True, crash_point=steps)
    return root, steps.taken


def require_whole(root: Path, market: tuple[Path, Path], before: dict[str, Candles], after: dict[str, Candles]) -> None:
    """Every candle is the old word or the new one, and there is one for every time that was answered before."""
    for ticker, seen in states(root).items():
        old, new = before[ticker], after[ticker]
        assert np.isin(old.close_time_s, seen.close_time_s).all() and np.isin(seen.close_time_s, new.close_time_s).all()
        in_new = new.ohlcv[np.searchsorted(new.close_time_s, seen.close_time_s)]
        place = np.minimum(np.searchsorted(old.close_time_s, seen.close_time_s), len(old) - 1)
        assert ((seen.ohlcv == in_new).all(axis=1) | (seen.ohlcv == old.ohlcv[place]).all(axis=1)).all()


def test_a_full_disk_at_any_step_leaves_a_whole_store_and_the_next_filling_ends_as_if_nothing_had_happened(
    market: tuple[Path, Path], calm: Path, undisturbed: tuple[Path, int], tmp_path: Path
) -> None:
    expected, after = files(undisturbed[0]), states(undisturbed[0])
    before = states(calm)
    for step in range(undisturbed[1]):
        root = shutil.copytree(calm, tmp_path / str(step))
        with pytest.raises(OSError, match="no space left"):
            fill_from(root, market[1], again=True, crash_point=Steps(fail_at=step))
        require_whole(root, market, before, after)
        fill_from(root, market[1], again=True)
        assert files(root) == expected, f"step {step}"


def test_a_writer_killed_at_any_step_leaves_a_whole_store_and_the_next_filling_ends_as_if_nothing_had_happened(
    market: tuple[Path, Path], calm: Path, undisturbed: tuple[Path, int], tmp_path: Path
) -> None:
    expected, after = files(undisturbed[0]), states(undisturbed[0])
    before = states(calm)
    for step in range(undisturbed[1]):
        shutil.copytree(calm, tmp_path / str(step))
    command = [sys.executable, "-P", filling.__file__, str(tmp_path), str(market[1]), str(undisturbed[1])]
    subprocess.run(command, check=True, timeout=240)
    for step in range(undisturbed[1]):
        root = tmp_path / str(step)
        require_whole(root, market, before, after)
        fill_from(root, market[1], again=True)
        assert files(root) == expected, f"step {step}"


def test_two_writers_at_once_share_the_work_and_a_reader_meanwhile_sees_only_whole_answers(
    market: tuple[Path, Path], tmp_path: Path
) -> None:
    alone, root = tmp_path / "alone", tmp_path / "shared"
    fill_from(alone, market[0])
    truth = states(alone)
    command = [sys.executable, "-P", filling.__file__, str(root), str(market[0])]
    writers = [subprocess.Popen(command) for _ in range(2)]
    reads, sizes = 0, set()
    store = CandleStore(root)
    while any(writer.poll() is None for writer in writers):
        for ticker in TICKERS:
            shelf = store.shelf("file", HOUR, f"{ticker}-USDT")
            answered = shelf.answered()  # asked first: what it names must be there
            seen = shelf.candles(after_s=0, until_s=FOREVER)
            known = truth[ticker].take(answered.mask(truth[ticker].close_time_s))
            assert seen.between(0, answered.known_until(FOREVER) or 0).sha256() == known.sha256()
            reads += 1
            sizes.add(len(seen))
    assert [writer.wait() for writer in writers] == [0, 0]
    assert files(root) == files(alone)
    assert reads > 10 and len(sizes) > 1
