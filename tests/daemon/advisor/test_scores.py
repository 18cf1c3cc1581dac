"""What the best of many is worth, how noisy one run is, where the tail ends, and which route pays."""

from dataclasses import replace

import numpy as np
import pytest
from simulated_study import BOUNDS, draw, material, trials

from daemon.advisor.analysis import analyse
from daemon.advisor.consistency import P, agreement
from daemon.advisor.records import Trial
from daemon.advisor.scores import expected_max, noise_of, score_facts, tail_end

RNG = np.random.default_rng


def replicated(
    seed: int, *, noise: float, spread: float, n: int = 60, times: int = 3
) -> tuple[list[Trial], np.ndarray]:
    """`times` runs of each of n configurations whose true scores have SD `spread`; the truth per trial."""
    rng = np.random.default_rng(seed)
    truth, made = rng.normal(0.0, spread, n), []
    for c in range(n):
        parameters = draw(rng)
        for _ in range(times):
            made.append(Trial(
                number=len(made), state="COMPLETE", score=float(truth[c] + rng.normal(0, noise)), parameters=parameters,
                seconds=1.0, failure=None,
            ))  # fmt: skip
    return made, np.repeat(truth, times)


def test_noise_comes_from_replicates_and_its_interval_holds_the_truth() -> None:
    held = 0
    for seed in range(100):
        found = noise_of(replicated(seed, noise=0.7, spread=1.0, n=20)[0], BOUNDS)
        assert found.source == "replicates" and found.degrees == 40
        assert found.low is not None and found.high is not None
        held += found.low <= 0.7 <= found.high
    assert held >= 90


def test_without_replicates_the_noise_is_bounded_and_said_to_be() -> None:
    found = noise_of(trials(1, n=300, k=3), BOUNDS)
    assert found.source == "nearest neighbours" and found.sd is not None and found.sd > 0.9
    assert noise_of(trials(1, n=10, k=3), BOUNDS).source == "unknown"


def test_the_shrunken_best_is_what_the_best_turns_out_to_be_worth() -> None:
    """The winner of 60 noisy trials disappoints by about one standard deviation; its shrunken score does not."""
    raw, shrunken, held = [], [], 0
    for seed in range(100):
        made, truth = replicated(seed, noise=1.0, spread=1.0, n=60, times=2)
        facts = score_facts(made, BOUNDS, RNG(0))
        assert facts is not None and facts.shrunken is not None
        assert facts.shrunken_low is not None and facts.shrunken_high is not None
        worth = float(truth[facts.best_number])
        raw.append(facts.best - worth)
        shrunken.append(facts.shrunken - worth)
        held += facts.shrunken_low <= worth <= facts.shrunken_high
    assert np.mean(raw) > 1.0
    assert abs(np.mean(shrunken)) < 0.2
    assert held >= 85


def test_the_tail_of_a_bounded_score_ends_near_its_bound_and_an_open_one_is_called_open() -> None:
    bounded = tail_end(np.random.default_rng(0).beta(2, 2, 3000), RNG(1))
    assert bounded is not None and bounded.end == pytest.approx(1.0, abs=0.1)
    assert bounded.low is not None and bounded.low <= 1.05
    opened = tail_end(np.random.default_rng(0).standard_t(2, 3000), RNG(1))
    assert opened is not None and opened.end is None
    assert tail_end(np.ones(100), RNG(1)) is None
    assert tail_end(np.arange(10.0), RNG(1)) is None


@pytest.mark.parametrize(("n", "expected"), [(1, 0.0), (10, 1.5746), (100, 2.5306), (1000, 3.2551), (3425, 3.5902)])
def test_what_luck_alone_gives_is_the_expected_best_of_so_many(n: int, expected: float) -> None:
    """Bailey, Borwein, Lopez de Prado & Zhu 2014."""
    assert expected_max(n) == pytest.approx(expected, abs=1e-4)


def test_random_search_makes_no_agreement_of_the_best_three() -> None:
    """Lessons: "the top three are remarkably consistent" was said of three that chance and descent explain."""
    tight = total = 0
    for seed in range(30):
        found = agreement(trials(seed, n=200, k=0), BOUNDS, RNG(seed))
        tight, total = tight + sum(a.p_neighbours < P for a in found), total + len(found)
    assert tight / total < 0.08


def test_relatives_agree_by_descent_and_a_parameter_that_chose_them_agrees_by_itself() -> None:
    made = list(trials(4, n=400, k=0))
    parent = made[0].parameters
    rng = np.random.default_rng(1)
    for i in range(300, 400):  # a family: everything inherited but p04, which is drawn, and on which the score hangs
        child = {**parent, "p04": float(rng.uniform())}
        made[i] = replace(made[i], parameters=child, score=10.0 - 100.0 * abs(child["p04"] - 0.5))
    found = {a.name: a for a in agreement(made, BOUNDS, RNG(2))}
    assert found["p02"].p_all < P <= found["p02"].p_neighbours
    assert found["p04"].p_neighbours < P


def test_few_trials_are_told_to_go_on_and_noise_to_be_replicated() -> None:
    few = analyse(material(trials(1, n=20, k=3)), RNG(0))
    assert few.recommended.name == "broad"
    noisy = analyse(material(tuple(replicated(2, noise=1.0, spread=1.0, n=60, times=2)[0])), RNG(0))
    gain = next(r.gain for r in noisy.routes if r.name == "replicate")
    assert gain is not None and gain.mean > 0.2


def test_a_planted_parameter_is_exploited_within_the_best_tenths_range() -> None:
    made = analyse(material(trials(2, n=400, k=1)), RNG(0))
    exploit = next(r for r in made.routes if r.name == "exploit")
    assert exploit.met and "p00" in exploit.action
    assert exploit.gain is not None
    assert sum(r.recommended for r in made.routes) == 1


def test_scores_of_pure_noise_are_not_worth_another_trial() -> None:
    """120 configurations run three times each, all truly equal: no route brings anything, so stop."""
    made = analyse(material(tuple(replicated(5, noise=1.0, spread=0.0, n=120)[0])), RNG(0))
    assert made.recommended.name == "stop"
    assert made.facts is not None and made.facts.keep is not None and made.facts.keep < 0.2


def test_a_route_keeps_what_it_promises() -> None:
    """Replicating the ten best five times and taking the best mean: the true gain, over 200 worlds of known truth."""
    promised, kept = [], []
    for seed in range(200):
        made, truth = replicated(seed, noise=1.0, spread=1.0, n=100, times=2)
        first = [t for t in made if t.number % 2 == 0]  # one run of each is what the search saw
        facts = score_facts(made, BOUNDS, RNG(0))
        assert facts is not None
        rng, scores = np.random.default_rng(seed + 10_000), np.array([t.score for t in first])
        order = np.argsort(-scores)[:10]
        seen = truth[::2][order] + rng.normal(0, 1 / np.sqrt(5), 10)
        believed = 0.5 * scores[order] + (0.5 / (0.5 + 0.2)) * (seen - 0.5 * scores[order])
        kept.append(truth[::2][order][believed.argmax()] - truth[::2][order][0])
        if seed < 20:
            from daemon.advisor.routes import routes

            gains = routes(facts, scores, (), BOUNDS, None, RNG(seed))
            found = next(r.gain for r in gains if r.name == "replicate")
            assert found is not None
            promised.append(found.mean)
    assert np.mean(promised) == pytest.approx(np.mean(kept), abs=0.15)
