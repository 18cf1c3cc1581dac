"""How much of the best result the search made itself."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataError
from trainer.overfitting import (
    clusters,
    correlations,
    count_trials,
    cscv,
    effective_trials,
    kinds_of,
    participation_ratio,
)


def _lcg(rows: int, columns: int) -> np.ndarray:
    x, values = 12345, []
    for _ in range(rows * columns):
        x = (1103515245 * x + 12345) % 2**31
        values.append(x / 2**31 - 0.5)
    return np.array(values).reshape(rows, columns)


PBO_CASES = {
    "noise": (0.15714285714285714, 0.9642443491389886),
    "col3_plus_0_5": (0.0, 2.3025850929940446),
}  # purgedcv 0.1.11


@pytest.mark.parametrize("case", PBO_CASES)
def test_the_probability_of_backtest_overfitting_agrees_with_an_independent_implementation(case: str) -> None:
    returns = _lcg(240, 10)
    if case == "col3_plus_0_5":
        returns[:, 3] += 0.5
    found = cscv(returns, n_blocks=8)
    assert (found.pbo, found.logits.mean()) == pytest.approx(PBO_CASES[case], abs=1e-12)


@pytest.mark.parametrize(("n_blocks", "n"), [(8, 70), (14, 3432), (16, 12870)])  # the paper misprints 12780
def test_every_half_of_the_blocks_is_tried_once(n_blocks: int, n: int) -> None:
    assert len(cscv(_lcg(64, 3), n_blocks=n_blocks).logits) == n == math.comb(n_blocks, n_blocks // 2)


def test_useless_strategies_have_a_pbo_near_one_half_and_a_dominating_one_near_zero() -> None:
    rng = np.random.default_rng(3)
    useless = rng.normal(size=(4000, 20))
    found = cscv(useless)
    assert 0.2 < found.pbo < 0.8
    useless[:, 7] += 0.2
    found = cscv(useless)
    assert (found.pbo, found.loss) == (0.0, 0.0)
    assert found.slope == pytest.approx(-1.0, abs=0.1) and found.persistence > 0.2  # the best of every half: see Cscv


def test_persistence_is_the_slope_over_trials_whatever_their_bars_did() -> None:
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(3200, 40))
    assert abs(cscv(noise).persistence) < 0.6
    skilled = cscv(noise + rng.normal(0, 0.2, 40))
    assert 0.7 < skilled.persistence < 1.0
    assert cscv(noise - noise.mean(axis=0)).persistence < -0.9


def test_a_search_that_fits_noise_shows_a_falling_slope_and_losses_out_of_sample() -> None:
    # the mean of each strategy is taken out, so what one half gained the other half lost
    noise = np.random.default_rng(8).normal(size=(1600, 30))
    found = cscv(noise - noise.mean(axis=0))
    assert found.slope < 0.0
    assert found.loss == 1.0
    assert found.pbo > 0.9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8))
def test_the_order_of_trials_and_their_common_scale_do_not_matter(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    returns = rng.normal(size=(80, k))
    found, shuffled = cscv(returns, n_blocks=8), cscv(3.0 * returns[:, rng.permutation(k)], n_blocks=8)
    assert shuffled.pbo == pytest.approx(found.pbo, abs=1e-12)
    assert shuffled.slope == pytest.approx(found.slope, abs=1e-9)


def test_a_trial_that_never_trades_has_a_sharpe_of_zero_and_breaks_nothing() -> None:
    returns = np.random.default_rng(1).normal(-0.5, 1.0, (160, 3))
    returns[:, 1] = 0.0
    assert cscv(returns, n_blocks=8).loss == 0.0  # cash is the best, and it does not lose


def test_a_trial_that_is_in_cash_for_half_of_the_time_has_a_sharpe_of_zero_there_whatever_rounding_leaves() -> None:
    returns = np.random.default_rng(2).normal(0.05, 1.0, (320, 6))
    returns[:160, 0] = 0.0
    found = [cscv(scale * returns, n_blocks=8) for scale in (1.0, 1e-3, 7.0)]
    assert 0.01 < abs(found[0].persistence) < 10.0
    assert [f.persistence for f in found] == pytest.approx([found[0].persistence] * 3)
    assert len({f.pbo for f in found}) == 1


@pytest.mark.parametrize("broken", [np.zeros((100, 1)), np.zeros((10, 4)), np.full((100, 3), np.nan)])
def test_returns_that_cannot_be_halved_are_refused(broken: np.ndarray) -> None:
    with pytest.raises(DataError):
        cscv(broken)


def _families(n_families: int, size: int, *, noise: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(6)
    base = np.repeat(rng.normal(size=(2000, n_families)), size, axis=1)
    return base + noise * rng.normal(size=base.shape)


def searched(n_kinds: int, copies: int, rng: np.random.Generator, *, skill: float = 0.0) -> dict[str, np.ndarray]:
    """Trials of which copies correlate at .96, a market they do not follow, and what they are ranked against."""
    base = rng.normal(skill, 1.0, (800, n_kinds))
    returns = np.repeat(base, copies, axis=1) + rng.normal(0, 0.2, (800, n_kinds * copies))
    market = rng.normal(0, 1.0, 800)
    return {
        "returns": returns,
        "kinds": kinds_of(returns, market),
        "instead": np.column_stack([market, np.zeros(800), rng.normal(-0.1, 1.0, (800, 4))]),
    }


@pytest.mark.parametrize(("n_kinds", "copies"), [(150, 1), (20, 1), (10, 15), (3, 50), (1, 150)])
def test_noise_is_overfitted_as_often_as_not_however_often_it_was_copied_and_whatever_poor_baselines_there_are(
    n_kinds: int, copies: int
) -> None:
    found = [cscv(**searched(n_kinds, copies, np.random.default_rng(s)), n_blocks=8).pbo for s in range(40)]
    assert 0.4 < np.mean(found) < 0.6
    assert np.mean(np.array(found) <= 0.2) < 0.3  # luck, more so the fewer there are: the paper's number of 3 kinds too


def test_what_a_skilled_strategy_is_worth_does_not_depend_on_how_often_it_was_copied() -> None:
    for copies in (1, 120):
        rng = np.random.default_rng(1)
        good, poor = searched(1, copies, rng, skill=0.3), searched(30, 1, rng)
        returns, market = np.column_stack([good["returns"], poor["returns"]]), good["instead"][:, 0]
        by_kind = cscv(returns, kinds=kinds_of(returns, market), instead=good["instead"], n_blocks=8)
        assert (by_kind.pbo, by_kind.persistence > 0.3) == (0.0, True)
    assert cscv(returns, n_blocks=8).pbo > 0.2  # of 120 equals among 150 trials it is chance which one is best


def test_kinds_of_one_trial_each_and_nothing_instead_are_the_papers_ranks() -> None:
    returns = _lcg(240, 10)
    plain, labelled = cscv(returns, n_blocks=8), cscv(returns, kinds=np.arange(10), n_blocks=8)
    assert labelled.logits.tolist() == plain.logits.tolist() and labelled.persistence == plain.persistence


def test_copies_are_alike_with_the_market_and_without_it() -> None:
    rng = np.random.default_rng(4)
    market = rng.normal(size=2000)
    held, idle = market[:, None] + 0.1 * rng.normal(size=(2000, 3)), 0.01 * rng.normal(size=(2000, 3))
    same = market + 0.5 * rng.normal(size=2000)
    assert kinds_of(held, market).tolist() == [
        0,
        1,
        2,
    ]  # alike in what they earn, not in what they earn beyond the market
    assert kinds_of(idle, market).tolist() == [0, 1, 2]  # the other way round
    assert kinds_of(np.stack([same, same + 0.01 * rng.normal(size=2000)], axis=1), market).tolist() == [0, 0]


def test_near_copies_count_as_one_bet_and_independent_trials_as_many() -> None:
    copies = correlations(_families(5, 8))
    assert len(np.unique(clusters(copies))) == 5
    assert participation_ratio(copies) == pytest.approx(5, rel=0.2)
    alone = correlations(np.random.default_rng(2).normal(size=(4000, 40)))
    assert len(np.unique(clusters(alone))) == 40
    assert participation_ratio(alone) == pytest.approx(40, rel=0.05)


def test_identical_trials_are_one_bet_and_one_that_never_moves_is_another() -> None:
    same = np.tile(np.random.default_rng(2).normal(size=(100, 1)), (1, 6))
    assert participation_ratio(correlations(same)) == pytest.approx(1.0)
    assert clusters(correlations(np.column_stack([same, np.zeros(100)]))).tolist() == [0] * 6 + [1]


def _clusters_by_their_definition(correlation: np.ndarray, at_least: float) -> list[int]:
    members = [[k] for k in range(len(correlation))]
    while len(members) > 1:
        pairs = [(i, j) for i in range(len(members)) for j in range(i + 1, len(members))]
        link = {(i, j): correlation[np.ix_(members[i], members[j])].mean() for i, j in pairs}
        i, j = max(pairs, key=lambda p: link[p])
        if link[i, j] < at_least:
            break
        members[i] += members.pop(j)
    label = {k: n for n, group in enumerate(sorted(members, key=min)) for k in group}
    return [label[k] for k in range(len(correlation))]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), k=st.integers(1, 24), at_least=st.sampled_from([-1.0, 0.1, 0.5, 0.875]))
def test_clusters_are_those_of_average_linkage_written_out(seed: int, k: int, at_least: float) -> None:
    rng = np.random.default_rng(seed)
    bets = rng.normal(size=(50, 4))[:, rng.integers(0, 4, size=k)]
    correlation = correlations(bets + rng.choice([0.1, 1.0]) * rng.normal(size=(50, k)))
    assert clusters(correlation, at_least=at_least).tolist() == _clusters_by_their_definition(correlation, at_least)


def test_thousands_of_trials_are_the_few_bets_that_they_are() -> None:
    rng = np.random.default_rng(0)
    returns = rng.normal(size=(500, 20))[:, rng.integers(0, 20, size=3000)] + 0.3 * rng.normal(size=(500, 3000))
    assert len(np.unique(clusters(correlations(returns)))) == 20


def test_one_of_the_four_counts_may_be_discarded_but_not_two() -> None:
    returns = _families(5, 8)
    counts = count_trials(returns, np.random.default_rng(1).normal(size=40), n_ever=400)
    assert counts.raw == 400
    assert counts.clusters == 50  # five bets among forty trials, and four hundred were started
    ordered = sorted([counts.raw, counts.clusters, counts.participation, counts.autocorrelation])
    assert counts.least_favourable_but_one() == ordered[2]


def test_scores_that_drift_are_fewer_trials_than_scores_that_do_not() -> None:
    rng = np.random.default_rng(0)
    assert effective_trials(rng.normal(size=400).cumsum()) < 20
    assert effective_trials(rng.normal(size=400)) > 200
    assert effective_trials(np.ones(50)) == 1.0
    assert effective_trials(np.array([1.0, 2.0])) == 2.0


def alike(correlation: float, *, n: int = 400) -> np.ndarray:
    """Two series that correlate so, to the last digit."""
    a, b = np.linalg.qr(np.random.default_rng(3).normal(size=(n, 3)) - 0.0)[0].T[:2]
    a, b = a - a.mean(), b - b.mean()
    b -= a * (a @ b) / (a @ a)
    a, b = a / np.sqrt(a @ a), b / np.sqrt(b @ b)
    return np.stack([a, correlation * a + math.sqrt(1 - correlation**2) * b], axis=1)


@pytest.mark.parametrize(("correlation", "n_bets", "n_kinds"), [(0.47, 2, 2), (0.53, 1, 2), (0.85, 1, 2), (0.9, 1, 1)])
def test_half_correlated_is_one_bet_and_from_seven_eighths_on_it_is_a_copy(
    correlation: float, n_bets: int, n_kinds: int
) -> None:
    returns = alike(correlation)
    assert len(np.unique(clusters(correlations(returns)))) == n_bets
    assert len(np.unique(kinds_of(returns, np.zeros(400)))) == n_kinds


def test_a_cluster_counts_by_its_members() -> None:
    """Two copies and a third that correlates with them at .6, and a fourth with the third at .9 and with them at .2."""
    correlation = np.array([[1.0, 0.99, 0.6, 0.2], [0.99, 1.0, 0.6, 0.2], [0.6, 0.6, 1.0, 0.59], [0.2, 0.2, 0.59, 1.0]])
    assert clusters(correlation).tolist() == [0, 0, 0, 1]  # (.2 + .2 + .59) / 3, where halves would be .395


def test_sixteen_blocks_of_two_bars_are_the_least_and_the_usual() -> None:
    assert len(cscv(_lcg(32, 2)).logits) == 12870
    for returns, n_blocks in ((_lcg(31, 2), 16), (_lcg(320, 1), 16), (_lcg(320, 3), 7)):
        with pytest.raises(DataError, match="even number of blocks"):
            cscv(returns, n_blocks=n_blocks)
    with pytest.raises(DataError, match="not finite"):
        cscv(np.where(np.arange(96).reshape(32, 3) == 7, np.inf, 0.01))


def test_the_rank_of_the_chosen_by_hand() -> None:
    """Each earns in one half of the bars what the others do not: ranks of the best of one half in the other."""
    noise = 0.001 * np.array([1.0, -1.0] * 4)

    def found(*blocks: tuple[float, float], **how: np.ndarray) -> list[float]:
        returns = np.stack([np.repeat(b, 4) + noise for b in blocks], axis=1)
        made = cscv(returns, n_blocks=2, **how)
        assert made.pbo == np.mean(made.logits <= 0)
        return [round(float(1 / (1 + np.exp(-x))), 9) for x in made.logits]

    # three trials; the best of the first half is second of the other one, and the other way round: a rank of 2 in 4
    assert found((0.3, 0.2), (0.2, 0.3), (0.1, 0.1)) == [0.5, 0.5]
    assert found((0.3, 0.3), (0.2, 0.1), (0.1, 0.2)) == [0.75, 0.75]
    assert found((0.3, 0.3), (0.3, 0.3), (0.1, 0.1)) == [0.625, 0.625]  # equals share their places: 2.5 in 4
    # two copies of the best count as one: two kinds, and of 3 the second place
    assert found((0.3, 0.3), (0.31, 0.29), (0.1, 0.1), kinds=np.array([0, 0, 1])) == [0.666666667, 0.666666667]
    # half of the second kind is below the first trial: 1.5 in 3; of the other half's best all of the first kind is above
    assert found((0.4, 0.2), (0.3, 0.1), (0.2, 0.4), kinds=np.array([0, 1, 1])) == [0.5, 0.333333333]
    # cash and the better of two baselines beside them: only the better one of the chosen half is ranked
    beside = np.stack([np.repeat((0.25, 0.25), 4) + noise, np.repeat((-0.5, 0.5), 4) + noise], axis=1)
    assert found((0.3, 0.2), (0.1, 0.1), instead=beside) == [0.5, 0.75]


def test_bars_that_fill_no_block_are_left_out_at_the_end() -> None:
    returns = _lcg(240, 10)
    longer = cscv(np.vstack([returns, 100.0 * _lcg(7, 10)]), n_blocks=8)
    assert longer.logits.tolist() == cscv(returns, n_blocks=8).logits.tolist()


def test_the_autocorrelation_of_scores_by_hand() -> None:
    """0 0 1 1: the first lag is (.25 - .25 + .25) / 1, the second negative; so 4 / (1 + 2 · .25)."""
    assert effective_trials(np.array([0.0, 0.0, 1.0, 1.0])) == pytest.approx(4 / 1.5)
    assert effective_trials(np.array([0.0, 1.0, 0.0, 1.0])) == 4.0
    assert effective_trials(np.array([0.0, 0.0, 9.0])) == 3.0


def test_every_count_is_carried_over_to_all_trials_ever_started_and_never_below_those_at_hand() -> None:
    returns, scores = _families(5, 8), np.random.default_rng(1).normal(size=40).cumsum()
    ratio, effective = participation_ratio(correlations(returns)), effective_trials(scores)
    for n_ever, scale in ((400, 10.0), (10, 1.0)):
        counts = count_trials(returns, scores, n_ever=n_ever)
        assert (counts.raw, counts.clusters) == (n_ever, 5 * scale)
        assert (counts.participation, counts.autocorrelation) == pytest.approx((scale * ratio, scale * effective))


def test_persistence_is_the_slope_over_kinds_and_the_best_baseline_written_out() -> None:
    """Of a kind the mean of its members counts; of the baselines the one that is best in the half that is looked at."""
    rng, kinds = np.random.default_rng(2), np.array([0, 0, 1, 2, 1, 1])
    returns, instead = rng.normal(0.1, 1.0, (40, 6)) + 0.2 * kinds, rng.normal(0.0, 1.0, (40, 2))
    moved, square = 0.0, 0.0
    for half in combinations(range(4), 2):
        inside, outside = (
            np.concatenate([np.arange(10 * b, 10 * b + 10) for b in range(4) if (b in half) is chosen])
            for chosen in (True, False)
        )
        mine, other = (
            [r[rows].mean(axis=0) / r[rows].std(axis=0, ddof=1) for r in (returns, instead)]
            for rows in (inside, outside)
        )
        best = int(np.argmax(mine[1]))
        x, y = (np.array([*(found[0][kinds == k].mean() for k in range(3)), found[1][best]]) for found in (mine, other))
        moved, square = moved + float((x - x.mean()) @ y), square + float((x - x.mean()) @ (x - x.mean()))
    assert cscv(returns, kinds=kinds, instead=instead, n_blocks=4).persistence == pytest.approx(moved / square)
