"""The bet on advice: its error is held however often it is looked at, and what is better is found."""

import json
from pathlib import Path

import numpy as np
import pytest

from daemon.advisor.experiment import MOST_PAIRS, Tally, e_value, hodges_lehmann, outcome, verdict

VECTORS = json.loads((Path(__file__).parents[4] / "shared" / "vectors.json").read_text())["evalue_beta11"]
LIFETIMES = 1000


def test_the_e_value_is_that_of_the_vectors() -> None:
    for name, expected in VECTORS.items():
        if "/" in name:
            wins, n = map(int, name.split("/"))
            assert e_value(wins, n - wins) == pytest.approx(expected, abs=5e-5)
            assert e_value(n - wins, wins) == pytest.approx(e_value(wins, n - wins))  # the mirrored bound
    assert e_value(0, 0) == 1.0


def test_under_the_null_the_e_value_is_a_fair_bet() -> None:
    """E of the next pair, averaged over its two outcomes, is E of now: what makes looking free."""
    for wins in range(12):
        for losses in range(12):
            following = (e_value(wins + 1, losses) + e_value(wins, losses + 1)) / 2
            assert following == pytest.approx(e_value(wins, losses))


# what the shell asks after every pair, for every count it can meet
VERDICTS = np.array([
    [{"adopted": 1, "retracted": -1}.get(str(verdict(w, n)), 0) for n in range(MOST_PAIRS + 1)] for w in range(MOST_PAIRS + 1)
])  # fmt: skip


def lives(p_win: float, seed: int, p_void: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(verdict, pairs) of LIFETIMES experiments, each looked at after every pair until it is decided or over."""
    rng = np.random.default_rng(seed)
    told = rng.random((LIFETIMES, MOST_PAIRS)) >= p_void
    won = (rng.random((LIFETIMES, MOST_PAIRS)) < p_win) & told
    wins, losses = won.cumsum(axis=1), (~won & told).cumsum(axis=1)
    found = VERDICTS[wins, losses]
    first = np.where((found != 0).any(axis=1), (found != 0).argmax(axis=1), MOST_PAIRS - 1)
    return found[np.arange(LIFETIMES), first], first + 1


def test_advice_that_is_no_better_is_adopted_in_at_most_one_life_of_twenty() -> None:
    """A against A, looked at after every pair; with voids and without."""
    for p_void in (0.0, 0.2):
        ended, _ = lives(0.5, seed=1, p_void=p_void)
        adopted, retracted = (ended == 1).mean(), (ended == -1).mean()
        print(f"A/A, {LIFETIMES} lifetimes, {p_void:.0%} void: adopted {adopted:.1%}, retracted {retracted:.1%}")
        assert adopted <= 0.05 and retracted <= 0.05


def test_a_better_proposer_is_adopted_and_a_worse_one_retracted() -> None:
    for p_win in (0.9, 0.8, 0.7, 0.65):
        ended, pairs = lives(p_win, seed=2)
        share, median = (ended == 1).mean(), np.median(pairs[ended == 1])
        print(f"wins {p_win:.0%} of its pairs: adopted {share:.1%} within {MOST_PAIRS}, median of {median:.0f} pairs")
        assert (ended == -1).mean() <= 0.01
        assert share > {0.9: 0.99, 0.8: 0.98, 0.7: 0.85, 0.65: 0.55}[p_win]
    worse, _ = lives(0.2, seed=3)
    assert (worse == -1).mean() > 0.99 and not (worse == 1).any()


def test_of_proposals_whose_scores_are_higher_by_a_standard_deviation_the_difference_is_told_too() -> None:
    """Scores with the noise of one run, a tenth of the halves failing on either side."""
    rng = np.random.default_rng(4)
    ended, pairs, told = [], [], []
    for _ in range(300):
        tally = Tally()
        while (found := verdict(tally.wins, tally.losses, tally.voids)) is None:
            scores = [s if rng.random() > 0.1 else None for s in (rng.normal(1.0), rng.normal(0.0))]
            tally = tally.after(len(tally.path), (0, 1), outcome({"score": scores[0]}, {"score": scores[1]}))
        ended.append(found)
        pairs.append(len(tally.path))
        told.append(tally.difference)
    print(f"one SD better: adopted {ended.count('adopted') / 300:.1%}, median of {np.median(pairs):.0f} pairs, "
          f"difference {np.mean(told):+.2f} (true +1, larger where it ended early)")  # fmt: skip
    assert ended.count("adopted") > 270 and "retracted" not in ended
    assert 0.9 < np.mean(told) < 1.5


def test_a_half_without_a_score_loses_and_a_pair_that_says_nothing_is_void() -> None:
    scored, pruned, killed = {"score": 1.0}, {"failure": "pruned"}, {"failure": "killed"}
    assert outcome(scored, {"score": 0.25}) == ("win", 0.75)
    assert outcome(pruned, scored) == ("loss", None) and outcome(scored, pruned) == ("win", None)
    assert outcome(pruned, pruned) == outcome(killed, scored) == outcome(scored, killed) == ("void", None)
    assert outcome(scored, scored) == ("void", 0.0)


def test_the_difference_is_the_median_of_pairwise_means() -> None:
    assert hodges_lehmann([]) is None
    assert hodges_lehmann([1.0, 2.0, 9.0]) == pytest.approx(np.median([1, 2, 9, 1.5, 5, 5.5]))
    assert hodges_lehmann([0.1] * 20 + [1e9]) == pytest.approx(0.1)  # one wild pair moves nothing


def test_what_a_hundred_pairs_do_not_show_is_given_up() -> None:
    assert verdict(0, 0, MOST_PAIRS) == "undecided" and verdict(50, 50) == "undecided"
    assert verdict(49, 50) is None and verdict(8, 0) == "adopted" and verdict(0, 8) == "retracted"
