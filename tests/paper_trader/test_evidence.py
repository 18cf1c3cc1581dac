"""The loss alarm: quiet for a lifetime where there is nothing, and loud where there is."""

import numpy as np

from paper_trader.evidence import Evidence, next_day, over_days


def walk(rng: np.random.Generator, *, drift: float, days: int, sd: float = 0.03) -> Evidence:
    difference = drift + sd * rng.standard_t(4, days) / np.sqrt(2.0)
    paper = np.exp(np.cumsum(np.concatenate([[0.0], difference])))
    return over_days((float(p), 1.0) for p in paper)


def test_looked_at_every_day_for_two_years_it_cries_wolf_less_often_than_it_promises() -> None:
    """400 accounts as good as 1/N, fat tails: at α = 0.05 at most 5 % may ever be accused (and a margin of 3 sigma)."""
    rng = np.random.default_rng(4)
    accused = sum(walk(rng, drift=0.0, days=730).highest >= 20.0 for _ in range(400))
    assert accused / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert accused > 0  # else it would be no test at all


def test_an_account_that_loses_two_per_cent_a_day_is_accused_within_a_season() -> None:
    rng = np.random.default_rng(5)
    days = []
    for _ in range(50):
        evidence, n, paper = Evidence(), 0, 1.0
        while evidence.highest < 100.0 and n < 1000:
            n, paper = n + 1, paper * float(np.exp(-0.02 + 0.03 * rng.standard_normal()))
            evidence = next_day(evidence, paper=paper, baseline=1.0)
        days.append(n)
    assert 15 < np.median(days) < 60


def test_an_account_that_wins_is_never_accused_and_days_are_counted() -> None:
    evidence = walk(np.random.default_rng(6), drift=0.01, days=400)
    assert evidence.highest < 20.0 and evidence.days == 400


def test_one_disaster_of_a_day_accuses_nobody() -> None:
    assert over_days([(1.0, 1.0), (0.2, 1.0)]).highest < 2.0


def test_stepwise_and_over_all_days_it_is_the_same_number() -> None:
    pairs = [(float(a), float(b)) for a, b in np.exp(np.random.default_rng(7).normal(0, 0.1, (50, 2)))]
    evidence = Evidence()
    for paper, baseline in pairs:
        evidence = next_day(evidence, paper=paper, baseline=baseline)
    assert evidence == over_days(pairs)
