"""Each gate passes what has earned it and refuses what has not, by its number."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from trainer import gates
from trainer.evaluate import Run
from trainer.gates import Comparison
from trainer.overfitting import TrialCounts, cscv


def run_of(returns: np.ndarray, name: str = "x") -> Run:
    equity = 10_000 * np.concatenate([[1.0], np.cumprod(1 + returns)])
    return Run(
        name=name, returns=returns, equity=equity, cash_weight=np.zeros(len(returns)), turnover=1.0, fees=0.0, n_fills=1
    )


def comparison(seeds: list[np.ndarray], *others: np.ndarray) -> Comparison:
    named = {f"b{i}": run_of(o, f"b{i}") for i, o in enumerate(others)}
    return Comparison(fee_bps=25.0, policies=tuple(run_of(s) for s in seeds), baselines=named)


def market(n: int = 4000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.005, n)


def test_the_first_gate_passes_only_what_beats_every_baseline_and_names_the_closest() -> None:
    rng = np.random.default_rng(0)
    good = [market() + rng.normal(0.0004, 0.002, 4000) for _ in range(3)]
    assert gates.beats_every_baseline(comparison(good, market(), np.zeros(4000)), np.random.default_rng(1)).passed
    better_baseline = np.mean(good, axis=0) + 0.0003
    gate = gates.beats_every_baseline(comparison(good, market(), better_baseline), np.random.default_rng(1))
    assert not gate.passed and "closest: b1" in gate.what


def test_the_first_gate_judges_the_mean_over_seeds_and_not_the_luckiest() -> None:
    rng = np.random.default_rng(3)
    lucky, others = market() + 0.0006, [market() + rng.normal(-0.0004, 0.001, 4000) for _ in range(4)]
    assert gates.beats_every_baseline(comparison([lucky], market()), np.random.default_rng(1)).passed
    assert not gates.beats_every_baseline(comparison([lucky, *others], market()), np.random.default_rng(1)).passed


def counts(raw: float, *estimates: float) -> TrialCounts:
    clusters, participation, autocorrelation = estimates
    return TrialCounts(raw=raw, clusters=clusters, participation=participation, autocorrelation=autocorrelation)


def test_the_deflated_sharpe_gate_gets_harder_with_every_trial_and_discards_one_count() -> None:
    run = run_of(np.random.default_rng(1).normal(0.00025, 0.005, 6000))
    spread = 1.7e-4
    values = [
        gates.deflated([run], counts=counts(1e6, n, n, n), trial_variance=spread, threshold=0.95).value
        for n in (2, 20, 2000)
    ]
    assert values[0] > values[1] > values[2]  # type: ignore[operator]
    gate = gates.deflated([run], counts=counts(2000, 20, 5, 2), trial_variance=spread, threshold=0.95)
    assert gate.value == values[1]
    assert "raw 2000: " in gate.what and "clusters 20: " in gate.what
    flat = gates.deflated([run_of(np.zeros(100))], counts=counts(5, 5, 5, 5), trial_variance=0.005, threshold=0.95)
    assert not flat.passed and flat.value is None
    assert gates.deflated([run], counts=counts(1, 1, 1, 1), trial_variance=None, threshold=0.95).value is None


def test_one_good_seed_of_three_does_not_carry_the_deflated_sharpe() -> None:
    rng = np.random.default_rng(2)
    good, poor = run_of(rng.normal(0.001, 0.005, 6000)), run_of(rng.normal(-0.0005, 0.005, 6000))
    how: dict[str, Any] = {"counts": counts(4, 4, 4, 4), "trial_variance": 5e-5, "threshold": 0.95}
    assert gates.deflated([good, good, poor], **how).passed
    assert not gates.deflated([good, poor, poor], **how).passed


def third(returns: np.ndarray, *others: np.ndarray) -> tuple[gates.Gate, ...]:
    """G3 of trials whose market is `market()`, beside cash and `others`."""
    beside = {"1/N": market(len(returns)), "cash": np.zeros(len(returns))} | {f"b{i}": o for i, o in enumerate(others)}
    return gates.overfitting(returns, {n: run_of(r, n) for n, r in beside.items()}, baseline="1/N")


def test_too_few_trials_for_an_overfitting_estimate_is_not_a_pass() -> None:
    assert not any(g.passed for g in third(np.random.default_rng(0).normal(size=(1000, 3))))


def test_a_search_without_skill_fails_the_third_gate_and_one_with_a_truly_best_trial_passes_both_its_numbers() -> None:
    rng = np.random.default_rng(4)
    useless = rng.normal(0, 0.01, (3200, 20))
    assert not all(g.passed for g in third(useless))
    skilled = useless + np.linspace(-0.002, 0.002, 20)
    assert [g.passed for g in third(skilled)] == [True, True]
    dominated = useless.copy()
    dominated[:, 7] += 0.002
    assert [g.passed for g in third(dominated)] == [True, True]


def copies(base: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """(T, n · strategies) trials that correlate at .96 with others of their kind."""
    return np.repeat(base, n, axis=1) + rng.normal(0, 0.002, (len(base), n * base.shape[1]))


def test_near_copies_of_one_good_strategy_pass_the_third_gate_which_shows_what_the_paper_says_of_them() -> None:
    rng = np.random.default_rng(6)
    chance, slope = third(copies(market(3200)[:, None] + rng.normal(0.001, 0.01, (3200, 1)), 150, rng))
    assert (chance.value, chance.passed, slope.passed) == (0.0, True, True)
    assert "1 kinds of 150 trials and the best baseline" in chance.what
    plain = float(chance.what.partition("alike: ")[2][:4])
    assert plain > gates.PBO_LIMIT


def test_a_converged_search_passes_the_third_gate_when_what_it_left_behind_is_worse() -> None:
    rng = np.random.default_rng(7)
    found, tried = copies(rng.normal(0.001, 0.01, (3200, 1)), 120, rng), rng.normal(0, 0.01, (3200, 30))
    assert [g.passed for g in third(np.column_stack([found, tried]))] == [True, True]


def test_useless_copies_that_luck_takes_past_the_third_gate_fail_the_first_and_the_fourth() -> None:
    """One kind against the best baseline: a Sharpe ratio of .84 standard errors is enough for G3, and for no other gate."""
    lucky = np.random.default_rng(1).normal(0, 0.01, 1600)
    lucky += 0.9 * 0.01 / 40 - lucky.mean()
    trials = copies(lucky[:, None], 20, np.random.default_rng(2))
    chance, _ = third(trials)
    assert chance.passed and "1 kinds of 20" in chance.what
    judged = comparison(list(trials[:, :5].T), market(1600), np.zeros(1600))
    assert not gates.beats_every_baseline(judged, np.random.default_rng(1)).passed
    assert not gates.superior(trials, judged.baselines, np.random.default_rng(1)).passed


def test_the_fourth_gate_needs_a_strategy_above_every_baseline_after_the_luck_of_many() -> None:
    rng = np.random.default_rng(5)
    base = {"one": run_of(market()), "two": run_of(market(seed=9))}
    luck = market()[:, None] + rng.normal(0, 0.003, (4000, 40))
    assert not gates.superior(luck, base, np.random.default_rng(1)).passed
    good = market()[:, None] + rng.normal(0.0015, 0.003, (4000, 1))
    gate = gates.superior(np.column_stack([luck, good]), base, np.random.default_rng(1))
    assert gate.passed and "41 strategies" in gate.what


def test_a_strategy_that_is_the_baseline_is_no_evidence_against_it() -> None:
    base = {"cash": run_of(np.zeros(500))}
    assert gates.superior(np.zeros((500, 3)), base, np.random.default_rng(1)).value == 1.0


def test_the_worst_seed_and_the_share_of_seeds_decide_the_fifth_gate() -> None:
    floor, up, down = (run_of(np.full(100, x)) for x in (0.0, 0.001, -0.001))
    four_of_five = gates.steady([up] * 4 + [down], baseline=floor, drawdowns=[0.1, 0.6], limit=0.5)
    assert [(g.value, g.passed) for g in four_of_five] == [(0.6, False), (0.8, True)]
    three_of_five = gates.steady([up] * 3 + [down] * 2, baseline=floor, drawdowns=[0.1], limit=0.5)
    assert [(g.value, g.passed) for g in three_of_five] == [(0.1, True), (0.6, False)]


@pytest.mark.parametrize(("excess", "passed"), [(0.0002, True), (-0.0001, False), (-0.001, False)])
def test_the_holdout_gate_refuses_a_loss_to_the_fixed_baseline(excess: float, passed: bool) -> None:  # noqa: FBT001
    rng = np.random.default_rng(2)
    seen = comparison([market(1500) + excess + rng.normal(0, 0.001, 1500)], market(1500))
    loss, _ = gates.holdout(seen, baseline="b0", opening=1, lower_quartile=-1.0, rng=np.random.default_rng(3))
    assert loss.passed is passed


def test_the_holdout_must_not_fall_below_what_validation_promised() -> None:
    seen = comparison([market(1500) + 0.0002], market(1500))
    how: dict[str, Any] = {"baseline": "b0", "opening": 1, "rng": np.random.default_rng(3)}
    assert [g.passed for g in gates.holdout(seen, lower_quartile=0.0001, **how)] == [True, True]
    assert [g.passed for g in gates.holdout(seen, lower_quartile=0.0003, **how)] == [True, False]


def test_no_gate_passes_a_number_that_is_not_one() -> None:
    nan: Any = float("nan")
    floor = run_of(np.zeros(100))
    assert not gates.steady([floor], baseline=floor, drawdowns=[0.1, nan], limit=0.5)[0].passed
    assert not gates.parity(0, 0).passed
    assert not gates.parity(10, 1).passed


def test_log_wealth_decides_and_not_the_sum_of_returns_at_every_gate_that_compares() -> None:
    """What swings by a tenth and gains nothing on average loses half a percent of log wealth a bar, and cash beats it."""
    swings, idle = np.random.default_rng(0).choice([-0.1, 0.1], 4000), np.zeros(4000)
    swings -= swings.mean() - 0.001  # a gain on average, and still a loss of wealth
    rng = np.random.default_rng(1)
    assert gates.beats_every_baseline(comparison([idle], swings), rng).passed
    assert gates.superior(idle[:, None], {"swings": run_of(swings)}, rng).passed
    assert (gates.superior(swings[:, None], {"cash": run_of(idle)}, rng).value or 0.0) > 0.9
    _, share = gates.steady([run_of(swings)], baseline=run_of(idle), drawdowns=[0.1], limit=0.5)
    assert share.value == 0.0
    both = Comparison(fee_bps=0.0, policies=(run_of(swings), run_of(idle), run_of(idle)), baselines={})
    assert both.growth() == pytest.approx(np.log1p(swings) / 3)  # the mean of three, not their median


def shifted_to(t: float, n: int = 4000) -> np.ndarray:
    """Returns whose log mean is `t` standard errors."""
    noise = np.random.default_rng(8).normal(0, 0.005, n)
    return np.expm1(noise - noise.mean() + t * noise.std(ddof=1) / np.sqrt(n))


@pytest.mark.parametrize(("t", "passed"), [(1.7, True), (0.9, False)])  # one-sided p of about .04 and .18
def test_one_chance_in_six_is_too_much_for_the_first_and_the_fourth_gate(t: float, passed: bool) -> None:  # noqa: FBT001
    judged = comparison([shifted_to(t)], np.zeros(4000))
    first = gates.beats_every_baseline(judged, np.random.default_rng(1))
    fourth = gates.superior(shifted_to(t)[:, None], judged.baselines, np.random.default_rng(1))
    assert (first.passed, fourth.passed) == (passed, passed)


def test_every_further_baseline_makes_the_first_gate_harder() -> None:
    def value(n: int) -> float:
        others = [np.zeros(4000)] * n
        return gates.beats_every_baseline(comparison([shifted_to(1.7)], *others), np.random.default_rng(1)).value or 0.0

    assert value(3) == pytest.approx(3 * value(1))


def test_the_deflated_sharpe_is_that_of_returns_with_their_own_skew_and_tails_and_the_lower_median_of_seeds() -> None:
    """Bailey & Lopez de Prado 2014 written out: 1 in 50 bars loses much, the rest gain a little."""
    returns = np.where(np.arange(3000) % 50 == 0, -0.02, 0.001)
    z = (returns - returns.mean()) / returns.std()
    sr, skew, kurtosis = returns.mean() / returns.std(ddof=1), (z**3).mean(), (z**4).mean()
    normal, gamma = NormalDist(), 0.5772156649015329
    best = (1 - gamma) * normal.inv_cdf(1 - 1 / 6) + gamma * normal.inv_cdf(1 - 1 / (6 * math.e))
    spread = math.sqrt(1 - skew * sr + (kurtosis - 1) / 4 * sr**2)
    expected = normal.cdf((sr - math.sqrt(0.02) * best) * math.sqrt(2999) / spread)
    how: dict[str, Any] = {"counts": counts(9, 5.6, 2, 2), "trial_variance": 0.02}
    gate = gates.deflated([run_of(returns)], **how, threshold=expected - 1e-12)
    assert 0.05 < expected < 0.95 and gate.value == pytest.approx(expected) and gate.passed
    better = run_of(returns + 0.001)
    two, three = (gates.deflated(runs, **how, threshold=0.5) for runs in ([better, run_of(returns)], [better] * 3))
    assert two.value == gate.value and (three.value or 0.0) > (gate.value or 0.0)
    assert gates.deflated([better, run_of(np.zeros(3000))], **how, threshold=0.5).value is None


@pytest.mark.parametrize(("n", "estimable"), [(7, False), (8, True)])
def test_from_eight_trials_on_overfitting_can_be_estimated(n: int, estimable: bool) -> None:  # noqa: FBT001
    chance, *_ = third(np.random.default_rng(0).normal(0, 0.01, (1600, n)))
    assert (chance.value is not None) is estimable


@pytest.mark.parametrize(("seed", "slope_passed"), [(9, True), (7, False)])  # PBO .30 and .40, slope .09 and -.05
def test_what_is_overfitted_three_times_in_ten_fails_the_third_gate_which_measures_what_cscv_does(
    seed: int, slope_passed: bool  # noqa: FBT001
) -> None:  # fmt: skip
    trials = np.random.default_rng(seed).normal(0, 0.01, (1600, 12))
    trials[:, 0] += 0.0005
    chance, slope = third(trials)
    measured = cscv(trials, kinds=np.arange(12), instead=np.stack([market(1600), np.zeros(1600)], axis=1))
    assert (chance.value, slope.value) == (measured.pbo, measured.persistence)
    assert (chance.passed, slope.passed) == (False, slope_passed)


def test_seven_seeds_of_nine_are_too_few_and_a_seed_that_only_equals_the_baseline_does_not_beat_it() -> None:
    floor, up, down = (run_of(np.full(100, x)) for x in (0.0, 0.001, -0.001))
    drawdown, share = gates.steady([up] * 7 + [down] * 2, baseline=floor, drawdowns=[0.6, 0.5, 0.1], limit=0.6)
    assert (drawdown.value, drawdown.passed, share.passed) == (0.6, True, False)
    _, equal = gates.steady([floor], baseline=floor, drawdowns=[0.1], limit=0.5)
    assert (equal.value, equal.passed) == (0.0, False)
    nan: Any = float("nan")
    assert not gates.steady([up], baseline=floor, drawdowns=[nan, 0.1], limit=0.5)[0].passed


def test_what_passes_the_first_opening_of_the_holdout_may_fail_a_later_one() -> None:
    """A t-value of 0.5: about three resamples in ten of a centred excess lie below its loss, seven above."""
    seen = comparison([shifted_to(0.5)], np.zeros(4000))
    passed = [
        gates.holdout(seen, baseline="b0", opening=k, lower_quartile=-1.0, rng=np.random.default_rng(3))[0].passed
        for k in (1, 5, 9)
    ]
    assert passed == [True, True, False]  # bounds of .1, .5 and .9 against a p of about .7


def test_no_opening_of_the_holdout_asks_for_more_than_certainty() -> None:
    sure = comparison([np.full(200, 0.001)], np.zeros(200))
    gate, _ = gates.holdout(sure, baseline="b0", opening=15, lower_quartile=0.0, rng=np.random.default_rng(3))
    assert gate.passed and gate.threshold == "> 0, and p of a loss ≥ 1.0"


@pytest.mark.parametrize("t", [0.0, -0.3])
def test_a_holdout_that_gains_nothing_fails_however_likely_that_is(t: float) -> None:
    excess = np.zeros(4000) if t == 0 else shifted_to(t)
    seen = comparison([excess], np.zeros(4000))
    loss, _ = gates.holdout(seen, baseline="b0", opening=1, lower_quartile=-1.0, rng=np.random.default_rng(3))
    assert not loss.passed


def test_the_holdout_shows_basis_points_of_mean_log_return_and_takes_just_the_lower_quartile() -> None:
    returns = np.expm1(np.array([0.0, 0.0, 0.0006] * 500))
    seen, how = comparison([returns], np.zeros(1500)), {"baseline": "b0", "opening": 1}
    per_bar = float(np.log1p(returns).mean())
    _, gate = gates.holdout(seen, lower_quartile=per_bar, rng=np.random.default_rng(3), **how)  # type: ignore[arg-type]
    assert gate.passed and gate.value == pytest.approx(2.0) and gate.threshold == "≥ 2"


def test_the_verdict_says_of_each_gate_whether_it_passed() -> None:
    passed, failed = gates.verdict_text([gates.parity(5, 0), gates.parity(5, 1)]).splitlines()[1:]
    assert passed.split()[:3] == ["G7", "pass", "0"] and failed.split()[:3] == ["G7", "FAIL", "1"]
