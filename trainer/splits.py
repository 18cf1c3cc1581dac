"""Which bars may be learned from, which judge, and the gap between them. Pure; ranges are bar indices."""

from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from features.bars import Bars
from features.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """One contiguous training range and the later contiguous range that judges it."""

    train: range
    validate: range


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """development: all bars the search may read. judge_start: first bar of validation. holdout: the tail."""

    development: range
    judge_start: int
    holdout: range


def roles(
    bars: Bars, *, train_start_s: int | None, judge_start_s: int | None, end_s: int | None, holdout_share: float,
    gap_bars: int, warmup_bars: int,
) -> Roles:  # fmt: skip
    """Lay out the roles; by default everything from the first warm bar, the last quarter judges.

    holdout_share is the share of [judge start, end] held back at its tail, after a gap of `gap_bars`.
    ConfigurationError when a range would be empty.
    """
    close = bars.close_time_s
    end = bars.n_bars if end_s is None else int(np.searchsorted(close, end_s, side="right"))
    start = 0 if train_start_s is None else int(np.searchsorted(close, train_start_s, side="left"))
    start = max(start, warmup_bars)
    judge = start + 3 * (end - start) // 4 if judge_start_s is None else int(np.searchsorted(close, judge_start_s))
    held = round((end - judge) * holdout_share)
    development, holdout = range(start, end - held - gap_bars), range(end - held, end)
    if not start + gap_bars < judge < development.stop or len(holdout) < 2:
        raise ConfigurationError(
            f"no room for training, validation and hold-out: training from bar {start}, validation from {judge}, "
            f"development to {development.stop}, hold-out {holdout.start} to {holdout.stop}, gap {gap_bars}",
            hint="move data.judge_start_utc or data.end_utc, lower data.holdout_share, or give more bars",
        )
    return Roles(development=development, judge_start=judge, holdout=holdout)


def walk_forward(laid: Roles, *, n_folds: int, gap_bars: int) -> tuple[Fold, ...]:
    """Validation cut into `n_folds` equal blocks; each is judged by training on everything before it, less the gap.

    The gap (purge by the feature lookback, or the embargo if longer) keeps every bar that a validation row reads out
    of training; nothing after a validation block is ever trained on, so no further purge is needed.
    """
    edges = np.linspace(laid.judge_start, laid.development.stop, n_folds + 1).astype(int)
    folds = tuple(
        Fold(train=range(laid.development.start, int(a) - gap_bars), validate=range(int(a), int(b)))
        for a, b in pairwise(edges)
    )
    if any(len(f.train) < gap_bars or len(f.validate) < 48 for f in folds):
        raise ConfigurationError(
            f"{n_folds} folds leave a training range under {gap_bars} bars or a validation block under 48",
            hint="lower data.n_folds or give more bars",
        )
    return folds


@dataclass(frozen=True, slots=True, kw_only=True)
class CombinatorialSplit:
    """One split of combinatorial purged cross-validation.

    tests: the judging groups, one episode each. paths: for each of them, the backtest path it belongs to. train:
    contiguous ranges left after purge and embargo, one episode each: blocks are never joined.
    """

    tests: tuple[range, ...]
    paths: tuple[int, ...]
    train: tuple[range, ...]


Split = Fold | CombinatorialSplit


def cpcv(
    development: range, *, n_groups: int, n_test: int, purge_bars: int, embargo_bars: int
) -> tuple[CombinatorialSplit, ...]:
    """All C(n_groups, n_test) splits in lexicographic order; they join into C(n_groups - 1, n_test - 1) paths.

    `purge_bars` (the feature lookback and the bar ahead) leave training on both sides of every test group, so that
    no row of either reads or earns a bar of the other; `embargo_bars` more leave it after the group, where returns
    still remember it. It trains on the test's future: promotion rests on `walk_forward`. ConfigurationError when a
    split keeps nothing to train on. Source: Lopez de Prado 2018, ch. 12.
    """
    if not 0 < n_test < n_groups <= len(development):
        raise ConfigurationError(
            f"{n_test} test groups of {n_groups} over {len(development)} bars",
            hint="take fewer test groups than groups, and no more groups than bars",
        )
    edges = [development.start + i * len(development) // n_groups for i in range(n_groups + 1)]
    seen, splits = [0] * n_groups, []
    for chosen in combinations(range(n_groups), n_test):
        tests = tuple(range(edges[g], edges[g + 1]) for g in chosen)
        train = _purged(development, tests, before=purge_bars, after=purge_bars + embargo_bars)
        if not train:
            raise ConfigurationError(
                f"nothing is left to train on when groups {chosen} of {n_groups} judge",
                hint="lower data.embargo_bars, give more bars, or set promotion.cross_validated = 0",
            )
        splits.append(CombinatorialSplit(tests=tests, paths=tuple(seen[g] for g in chosen), train=train))
        for g in chosen:
            seen[g] += 1
    return tuple(splits)


def _purged(development: range, tests: tuple[range, ...], *, before: int, after: int) -> tuple[range, ...]:
    """What lies between the tests, less the margins; `tests` are in order and disjoint."""
    starts = [development.start, *(t.stop + after for t in tests)]
    stops = [*(t.start - before for t in tests), development.stop]
    return tuple(range(a, b) for a, b in zip(starts, stops, strict=True) if a < b)
