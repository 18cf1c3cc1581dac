"""Studies of known truth: 30 parameters of every kind, of which k move the score, drawn at random."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from daemon.advisor.records import Bounds, Machine, Material, Trial

N_PARAMETERS = 30
BOUNDS: Mapping[str, Bounds] = {
    f"p{i:02d}": (
        Bounds(low=1e-6, high=1e-3, log=True) if i % 5 == 0
        else Bounds(choices=("a", "b", "c", "d")) if i % 5 == 1
        else Bounds(choices=(True, False)) if i == 7
        else Bounds(low=2.0, high=10.0) if i % 5 == 3  # whole numbers
        else Bounds(low=0.0, high=1.0)
    )
    for i in range(N_PARAMETERS)
}  # fmt: skip
Effect = Callable[[Mapping[str, Any]], float]
# what truly matters, when k of them do: lower, one choice, higher, the middle of the range, lower
EFFECTS: tuple[tuple[str, Effect], ...] = (
    ("p00", lambda p: -1.0 * (np.log10(p["p00"]) + 4.5)),
    ("p01", lambda p: 1.8 * (p["p01"] == "b")),
    ("p02", lambda p: 3.0 * p["p02"]),
    ("p04", lambda p: -14.0 * (p["p04"] - 0.5) ** 2),
    ("p03", lambda p: -0.35 * p["p03"]),
)


def draw(rng: np.random.Generator) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, bound in BOUNDS.items():
        if bound.choices:
            found[name] = bound.choices[int(rng.integers(len(bound.choices)))]
        elif bound.log:
            found[name] = float(10 ** rng.uniform(-6, -3))
        elif bound.high == 10.0:
            found[name] = int(rng.integers(2, 11))
        else:
            found[name] = float(rng.uniform())
    return found


def trials(seed: int, *, n: int, k: int) -> tuple[Trial, ...]:
    """n random trials whose score is the sum of the first k effects and noise of SD 1."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(n):
        parameters = draw(rng)
        score = float(rng.normal()) + sum(effect(parameters) for _, effect in EFFECTS[:k])
        made.append(
            Trial(
                number=number, state="COMPLETE", score=score, parameters=parameters, seconds=60.0, failure=None,
                began_s=30.0 * number,
            )
        )  # fmt: skip
    return tuple(made)


def material(made: tuple[Trial, ...], bounds: Mapping[str, Bounds] = BOUNDS, **facts: Any) -> Material:
    given: dict[str, Any] = {
        "study": "s", "at_utc": "2026-01-01 00:00 UTC", "score_name": "t-statistic", "sampling_sd": 1.0,
        "machine": Machine(workers=2, target=2 * max(1, len(made)), now_s=30.0 * len(made)),
    }  # fmt: skip
    return Material(trials=made, bounds=bounds, **{**given, **facts})
