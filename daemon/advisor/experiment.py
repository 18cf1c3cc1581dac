"""Does a proposal beat what the sampler would have done? A bet on every pair, and when it is settled. Pure.

H0: either half of a pair is as likely to win. E = 2^n B(k + 1, n - k + 1) after k wins in n pairs is the wealth of somebody
who bets against H0 with a uniform mixture of odds; under H0 the chance that it *ever* reaches 20 is at most .05 (Ville
1939), so it may be looked at after every pair. It is symmetric: the same bound on the losing side retracts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

THRESHOLD = 20.0
MOST_PAIRS = 100  # 66 of 100 decide; what 100 pairs do not show is not worth the trials

Outcome = Literal["win", "loss", "void"]
Verdict = Literal["adopted", "retracted", "undecided"]


def e_value(wins: int, losses: int) -> float:
    """2^n B(k + 1, n - k + 1); 1 before the first pair."""
    n = wins + losses
    return math.exp(n * math.log(2.0) + math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(n + 2))


def verdict(wins: int, losses: int, voids: int = 0) -> Verdict | None:
    """None while it is open."""
    if e_value(wins, losses) >= THRESHOLD:
        return "adopted" if wins > losses else "retracted"
    return None if wins + losses + voids < MOST_PAIRS else "undecided"


def outcome(proposal: Mapping[str, Any], control: Mapping[str, Any]) -> tuple[Outcome, float | None]:
    """Who won, and the difference of the scores where both have one. Both are records of ended trials.

    A half that was pruned or failed of itself loses to one with a score. Two without a score, equal scores and a half
    that was killed from outside say nothing.
    """
    ours, theirs = proposal.get("score"), control.get("score")
    if "killed" in (proposal.get("failure"), control.get("failure")) or (ours is None and theirs is None):
        return "void", None
    if ours is None or theirs is None:
        return ("loss" if ours is None else "win"), None
    difference = float(ours) - float(theirs)
    return ("void" if difference == 0.0 else "win" if difference > 0.0 else "loss"), difference


def hodges_lehmann(differences: Sequence[float]) -> float | None:
    """Median of the means of every two differences, each with itself included; None without any."""
    if not differences:
        return None
    d = np.asarray(differences, dtype=float)
    first, second = np.triu_indices(len(d))
    return float(np.median((d[first] + d[second]) / 2.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """One pair. trials: numbers of the proposal's half and of the control's."""

    pair: int
    trials: tuple[int, int]
    outcome: Outcome
    difference: float | None
    e: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Where an experiment stands after its pairs so far."""

    wins: int = 0
    losses: int = 0
    voids: int = 0
    path: tuple[Settled, ...] = ()

    @property
    def e(self) -> float:
        return e_value(self.wins, self.losses)

    @property
    def difference(self) -> float | None:
        """Hodges-Lehmann, over the pairs in which both halves have a score."""
        return hodges_lehmann([s.difference for s in self.path if s.difference is not None])

    def after(self, pair: int, trials: tuple[int, int], result: tuple[Outcome, float | None]) -> "Tally":
        won, difference = result
        wins, losses = self.wins + (won == "win"), self.losses + (won == "loss")
        settled = Settled(pair=pair, trials=trials, outcome=won, difference=difference, e=e_value(wins, losses))
        return Tally(wins=wins, losses=losses, voids=self.voids + (won == "void"), path=(*self.path, settled))
