"""How far a trial goes is decided by numbers alone."""

from hypothesis import given
from hypothesis import strategies as st

from daemon.advisor.experiment import outcome
from trainer.rungs import screened

scores = st.lists(st.integers(-9, 9).map(float), max_size=30)


@given(scores, st.integers(-9, 9), st.floats(0.01, 1.0), st.integers(0, 12))
def test_a_screened_trial_goes_on_exactly_among_the_best_share_so_far(
    earlier: list[float], score: int, keep: float, spared: int
) -> None:
    said = screened(float(score), earlier, keep=keep, spared=spared)
    better = sum(e >= score for e in earlier)
    assert said.rank == better + 1 and said.of == len(earlier) + 1
    assert said.passed == (len(earlier) < spared or better < keep * (len(earlier) + 1))
    assert said.passed or earlier  # the first always goes on


@given(scores, st.floats(0.01, 1.0))
def test_the_best_so_far_goes_on_and_an_equal_one_after_it_ranks_behind(earlier: list[float], keep: float) -> None:
    best = max(earlier, default=0.0) + 1.0
    assert screened(best, earlier, keep=keep, spared=0).passed
    assert screened(best, [*earlier, best], keep=keep, spared=0).rank == 2


def test_in_a_pair_the_half_that_was_screened_loses_to_the_one_with_a_score_and_two_say_nothing() -> None:
    """Both halves meet the same bar in an order that a coin chose, so neither is favoured."""
    scored, given_up = {"score": 1.0}, {"failure": "screened", "screening": {"score": 9.0}}
    assert outcome(scored, given_up) == ("win", None) and outcome(given_up, scored) == ("loss", None)
    assert outcome(given_up, given_up) == ("void", None)
