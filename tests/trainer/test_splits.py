"""Who may read which bars."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import random_bars

from features.errors import ConfigurationError
from trainer.splits import roles, walk_forward

BARS = random_bars(1, n_bars=4000)


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
