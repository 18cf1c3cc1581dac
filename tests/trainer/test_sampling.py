"""A sampler that looks at part of a long history: nothing changes for short ones, and the best are never left out."""

import numpy as np
import optuna
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from trainer.sampling import HISTORY, KEPT_BEST, ThinnedTPE, thinned

STATES = {"c": TrialState.COMPLETE, "p": TrialState.PRUNED, "r": TrialState.RUNNING}


def trials(states: str, rng: np.random.Generator) -> list[FrozenTrial]:
    made = []
    for number, letter in enumerate(states):
        score = float(rng.normal())
        trial = create_trial(
            state=STATES[letter], value=score if letter == "c" else None,
            intermediate_values={1: score} if letter == "p" else {},
        )  # fmt: skip
        trial.number = number
        made.append(trial)
    return made


def searched(sampler: type[optuna.samplers.TPESampler], n: int) -> list[dict[str, float]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize", sampler=sampler(n_startup_trials=5, multivariate=True, constant_liar=True, seed=3)
    )
    for _ in range(n):
        trial = study.ask()
        x, y = trial.suggest_float("x", -1, 1), trial.suggest_categorical("y", (1, 2, 3))
        study.tell(trial, -(x**2) + y)
    return [t.params for t in study.trials]


def test_a_short_study_is_searched_as_tpe_searches_it() -> None:
    assert searched(ThinnedTPE, 25) == searched(optuna.samplers.TPESampler, 25)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3 * HISTORY), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_of_a_long_one_all_that_run_the_best_and_an_even_part_of_the_rest_are_shown(
    n: int, run: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    history = trials("".join(rng.permutation([*rng.choice(["c", "c", "p"], n), *"r" * run])), rng)
    shown = thinned(history)
    numbers = [t.number for t in shown]
    assert numbers == sorted(numbers) and set(numbers) <= set(range(len(history)))
    ended = [t for t in shown if t.state != TrialState.RUNNING]
    assert len(shown) - len(ended) == run
    assert len(ended) == n if n <= HISTORY else HISTORY // 2 < len(ended) <= HISTORY
    best = sorted((t for t in history if t.state == TrialState.COMPLETE), key=lambda t: -t.value)[:KEPT_BEST]
    assert {t.number for t in best} <= set(numbers)
    for half in (range(len(history) // 2), range(len(history) // 2, len(history))):  # neither the old nor the new alone
        assert sum(k in half for k in numbers) >= min(len(half), (HISTORY - KEPT_BEST) // 4)
