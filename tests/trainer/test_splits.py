"""Who may read which bars."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import random_bars

from daemon.child.config import parse
from daemon.child.market import feature_spec
from features.bars import Bars
from features.errors import ConfigurationError
from features.pipeline import compute
from trainer.splits import Roles, cpcv, roles, walk_forward

BARS = random_bars(1, n_bars=4000)
FORGOTTEN = (
    1e-5  # an exponential average never quite forgets: what is left of it after the lookback, in a feature's unit
)
SPEC = feature_spec(parse({"market": {"tickers": ["BTC", "ETH", "LTC"]}}))


def laid(gap: int = 50, share: float = 0.2, judge: int = 2000, warmup: int = 240):  # type: ignore[no-untyped-def]
    return roles(
        BARS, train_start_s=None, judge_start_s=int(BARS.close_time_s[judge]), end_s=None, holdout_share=share,
        gap_bars=gap, warmup_bars=warmup,
    )  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(gap=st.integers(1, 300), share=st.floats(0.05, 0.5), judge=st.integers(1000, 2500), n_folds=st.integers(1, 6))
def test_no_bar_serves_two_roles_and_every_gap_is_kept(gap: int, share: float, judge: int, n_folds: int) -> None:
    roles_ = laid(gap, share, judge)
    folds = walk_forward(roles_, n_folds=n_folds, gap_bars=gap)
    for fold in folds:
        assert fold.train.stop + gap <= fold.validate.start  # what a validation row looks back on was never trained on
        assert fold.train.start >= 240
        assert set(fold.train).isdisjoint(fold.validate)
    assert folds[0].validate.start == judge
    assert folds[-1].validate.stop == roles_.development.stop
    assert roles_.development.stop + gap <= roles_.holdout.start
    assert roles_.holdout.stop == BARS.n_bars
    covered = np.concatenate([list(f.validate) for f in folds])
    assert (np.diff(covered) == 1).all()  # the validation blocks join without overlap


def test_a_layout_without_room_is_refused_with_the_numbers_and_a_remedy() -> None:
    with pytest.raises(ConfigurationError, match="no room for training, validation and hold-out") as caught:
        laid(gap=1900)
    assert "holdout_share" in str(caught.value.hint)
    with pytest.raises(ConfigurationError, match="folds leave a training range"):
        walk_forward(laid(), n_folds=60, gap_bars=50)


@pytest.mark.parametrize(
    ("n_groups", "n_test", "splits", "paths"),
    [(6, 2, 15, 5), (10, 2, 45, 9), (10, 8, 45, 36), (5, 2, 10, 4), (8, 4, 70, 35)],
)
def test_the_splits_and_paths_are_as_many_as_lopez_de_prado_2018_counts(
    n_groups: int, n_test: int, splits: int, paths: int
) -> None:
    found = cpcv(range(7000), n_groups=n_groups, n_test=n_test, purge_bars=0, embargo_bars=0)
    assert len(found) == splits
    for path in range(paths):  # each path judges every bar exactly once
        judged = [b for s in found for t, p in zip(s.tests, s.paths, strict=True) if p == path for b in t]
        assert sorted(judged) == list(range(7000))
    assert {p for s in found for p in s.paths} == set(range(paths))


def test_purge_embargo_and_paths_are_those_of_skfolio() -> None:
    found = cpcv(range(60), n_groups=6, n_test=2, purge_bars=3, embargo_bars=5)  # skfolio 1.12.2
    assert found[0].train == (range(28, 60),)
    assert found[7].tests == (range(10, 20), range(40, 50))
    assert found[7].train == (range(7), range(28, 37), range(58, 60))
    assert [s.paths for s in found] == [
        (0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 2), (3, 3), (4, 3), (4, 4),
    ]  # fmt: skip


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 1000), split=st.integers(0, 14), embargo=st.integers(0, 60))
def test_no_bar_of_a_test_reaches_a_training_row_nor_the_other_way_round(seed: int, split: int, embargo: int) -> None:
    bars = random_bars(seed, n_bars=3000)
    purge = SPEC.lookback_bars + 1
    laid_out = cpcv(range(SPEC.warmup_bars, 3000), n_groups=6, n_test=2, purge_bars=purge, embargo_bars=embargo)[split]
    rows, changed = compute(bars, SPEC), compute(_perturbed(bars, laid_out.tests), SPEC)
    for train in laid_out.train:
        same = slice(train.start - SPEC.warmup_bars, train.stop - SPEC.warmup_bars)
        assert np.abs(rows.asset[same] - changed.asset[same]).max() < FORGOTTEN
        assert np.abs(rows.shared[same] - changed.shared[same]).max() < FORGOTTEN
    test_rows = compute(_perturbed(bars, laid_out.train), SPEC)
    for test in laid_out.tests:
        same = slice(test.start - SPEC.warmup_bars, test.stop - SPEC.warmup_bars)
        assert np.abs(rows.asset[same] - test_rows.asset[same]).max() < FORGOTTEN
    assert np.abs(rows.asset - changed.asset).max() > 1000 * FORGOTTEN  # where the perturbation is seen, it is seen


def _perturbed(bars: Bars, where: tuple[range, ...]) -> Bars:
    """Every price of those bars times a number of its own, and every volume too."""
    factor = np.ones((bars.n_bars, 1))
    for part in where:
        factor[part.start : part.stop, 0] = np.random.default_rng(part.start).uniform(0.8, 1.25, len(part))
    fields = ("open", "high", "low", "close", "volume")
    return replace(bars, filled=np.zeros_like(bars.filled), **{f: getattr(bars, f) * factor for f in fields})


def test_a_split_without_training_bars_is_refused_with_a_remedy() -> None:
    with pytest.raises(ConfigurationError, match="nothing is left to train on"):
        cpcv(range(600), n_groups=6, n_test=2, purge_bars=300, embargo_bars=0)
    with pytest.raises(ConfigurationError, match="test groups"):
        cpcv(range(600), n_groups=2, n_test=2, purge_bars=1, embargo_bars=0)


def test_the_bars_of_every_role_by_hand() -> None:
    """4000 hours. By default: from the first warm bar, the last quarter judges, its tail is held out after the gap."""
    how = {"holdout_share": 0.25, "gap_bars": 50, "warmup_bars": 240}
    found = roles(BARS, train_start_s=None, judge_start_s=None, end_s=None, **how)  # type: ignore[arg-type]
    assert found.judge_start == 240 + 2820  # three quarters of 3760
    assert (found.development, found.holdout) == (range(240, 4000 - 235 - 50), range(4000 - 235, 4000))
    start_s, judge_s, end_s = (int(BARS.close_time_s[i]) for i in (500, 2000, 2999))
    cut = roles(BARS, train_start_s=start_s, judge_start_s=judge_s, end_s=end_s, **how)  # type: ignore[arg-type]
    assert cut.judge_start == 2000  # the bars that close at those moments belong to what they begin and end
    assert (cut.development, cut.holdout) == (range(500, 3000 - 250 - 50), range(2750, 3000))
    early = roles(BARS, train_start_s=int(BARS.close_time_s[3]), judge_start_s=judge_s, end_s=end_s, **how)  # type: ignore[arg-type]
    assert early.development.start == 240  # no bar before the features are warm


@pytest.mark.parametrize(
    ("judge", "end", "share", "fits"),
    [
        (291, 1000, 0.2, True), (290, 1000, 0.2, False), (900, 1000, 0.49, True), (900, 1000, 0.5, False),
        (700, 1000, 0.003, False),
    ],
)  # fmt: skip
def test_training_needs_more_than_a_gap_validation_a_bar_and_the_holdout_two(
    judge: int, end: int, share: float, fits: bool  # noqa: FBT001
) -> None:  # fmt: skip
    def lay() -> object:
        return roles(
            BARS.slice(0, end), train_start_s=None, judge_start_s=int(BARS.close_time_s[judge]), end_s=None,
            holdout_share=share, gap_bars=50, warmup_bars=240,
        )  # fmt: skip

    if fits:
        assert lay()
    else:
        with pytest.raises(ConfigurationError, match="no room"):
            lay()


@pytest.mark.parametrize(
    ("start", "n_folds", "fits"), [(300, 2, True), (301, 2, False), (300, 4, True), (300, 5, False)]
)
def test_a_fold_trains_on_no_less_than_a_gap_and_judges_no_less_than_two_days(
    start: int, n_folds: int, fits: bool  # noqa: FBT001
) -> None:  # fmt: skip
    """Judging from bar 400 to 592: four folds of 48 bars; before the first, a gap of 50 and 50 bars to train on."""
    laid_out = Roles(development=range(start, 592), judge_start=400, holdout=range(700, 800))
    if fits:
        assert len(walk_forward(laid_out, n_folds=n_folds, gap_bars=50)) == n_folds
    else:
        with pytest.raises(ConfigurationError, match="folds leave a training range"):
            walk_forward(laid_out, n_folds=n_folds, gap_bars=50)


def test_the_groups_of_a_cross_validation_lie_within_the_bars_that_may_be_learned_from() -> None:
    found = cpcv(range(100, 160), n_groups=6, n_test=1, purge_bars=2, embargo_bars=3)
    assert [s.tests for s in found] == [(range(a, a + 10),) for a in range(100, 160, 10)]
    assert found[2].train == (range(100, 118), range(135, 160))
    for n_groups, n_test in ((6, 0), (6, 6), (61, 2)):
        with pytest.raises(ConfigurationError, match="test groups"):
            cpcv(range(100, 160), n_groups=n_groups, n_test=n_test, purge_bars=0, embargo_bars=0)


def test_no_empty_range_is_trained_on_where_two_margins_meet() -> None:
    found = cpcv(range(60), n_groups=6, n_test=2, purge_bars=5, embargo_bars=0)
    assert found[6].tests == (range(10, 20), range(30, 40)) and found[6].train == (range(5), range(45, 60))
    assert all(len(train) for s in found for train in s.train)
