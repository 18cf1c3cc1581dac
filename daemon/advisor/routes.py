"""Where to go from here: five routes, each with its criterion and what it is expected to bring. Pure.

A gain is the rise of the *true* score of whatever one would pick, after AHEAD more trials: simulated from the
normal-normal model that also shrinks the best score, so a lucky trial brings nothing. Five routes share one budget and
one currency, and doing nothing brings 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from daemon.advisor.effects import Float
from daemon.advisor.parameters import MIN_TRIALS, ParameterRow, shown, top_mask
from daemon.advisor.records import Bounds
from daemon.advisor.scores import AHEAD, ScoreFacts

DRAWS = 2000
REPLICATED = 10  # best configurations that are run again
ENSEMBLE_MIN = 3  # members that are different bets
WORTH = 0.05  # of the spread of the scores: a smaller expected gain is not worth a night

Name = Literal["exploit", "broad", "replicate", "ensemble", "stop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Expected rise of the true score, and the 5 and 95 % points of what may come of it."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """criterion: fixed beforehand; met: whether it holds now. gain: None where it cannot be estimated."""

    name: Name
    action: str
    criterion: str
    met: bool
    gain: Gain | None
    recommended: bool = False


def routes(
    facts: ScoreFacts | None, scores: Float, rows: Sequence[ParameterRow], bounds: Mapping[str, Bounds],
    evidence: Mapping[str, Any] | None, rng: np.random.Generator,
) -> tuple[Route, ...]:  # fmt: skip
    """All five, in fixed order; at most one is recommended."""
    gains = _Gains.of(facts, scores, rng)
    findings = [r for r in rows if r.is_finding]
    noisy = facts is not None and facts.noise.sd is not None and facts.noise.sd > facts.top_sd
    equal = facts is not None and _all_equal(facts)
    members = [] if evidence is None else evidence.get("distinct_best", [])
    spent = evidence is not None and evidence["trials_left"] <= 0
    few = facts is None or facts.n < MIN_TRIALS
    made = [
        Route(
            name="exploit", action=_ranges(findings, bounds),
            criterion="a parameter matters or its range is too narrow (q < .05, effect ≥ .33)", met=bool(findings),
            gain=gains.exploit() if gains and findings else None,
        ),
        Route(
            name="broad", action=f"Go on, a fifth of the next {AHEAD} trials drawn at random over the whole space",
            criterion=f"fewer than {MIN_TRIALS} scores, or trials left in the budget and an open tail",
            met=few or (not spent and facts is not None and (facts.regret is None or facts.regret > 0.0)),
            gain=gains.broad() if gains else None,
        ),
        Route(
            name="replicate",
            action=f"Run the best {REPLICATED} again, {AHEAD // REPLICATED} fresh seeds each, and compare means",
            criterion="noise of one run exceeds the spread of the best tenth or was never measured, and trials differ beyond it",
            met=not few and not equal and (noisy or facts is None or facts.noise.source != "replicates"),
            gain=gains.replicate() if gains else None,
        ),
        Route(
            name="ensemble", action=_members(members),
            criterion=f"{ENSEMBLE_MIN} or more of the best are different bets (excess returns correlate below .5)",
            met=len(members) >= ENSEMBLE_MIN, gain=gains.ensemble(members, evidence) if gains and evidence else None,
        ),
        Route(
            name="stop", action="Stop searching; validate what there is on bars that no trial has seen",
            criterion="the trials that the data can bear are spent, or no other route is worth its trials",
            met=spent, gain=Gain(mean=0.0, low=0.0, high=0.0),
        ),
    ]  # fmt: skip
    return tuple(_recommend(made, facts, few=few))


def _recommend(made: Sequence[Route], facts: ScoreFacts | None, *, few: bool) -> list[Route]:
    """Broad while nothing is known; else the met route with the largest worthwhile gain; else stop."""
    pick: Name = "broad" if few else "stop"
    if not few and facts is not None:
        worth = [(r.gain.mean, r.name) for r in made if r.met and r.gain and r.gain.mean > WORTH * facts.sd]
        if worth:
            pick = max(worth)[1]
    return [replace(r, met=r.met or r.name == pick, recommended=r.name == pick) for r in made]


def _all_equal(facts: ScoreFacts) -> bool:
    """Whether replicates explain the whole spread of the scores: then there is nothing to choose between."""
    noise = facts.noise
    return noise.source == "replicates" and noise.high is not None and noise.high >= facts.sd


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gains:
    """The model: true scores N(mean, true_var) over the space, a run adds noise_var; means: posterior of every trial."""

    mean: float
    true_var: float
    noise_var: float
    local_var: float
    means: Float
    top: Float
    rng: np.random.Generator

    @classmethod
    def of(cls, facts: ScoreFacts | None, scores: Float, rng: np.random.Generator) -> "_Gains | None":
        if facts is None or facts.keep is None or facts.noise.sd is None or facts.sd == 0.0:
            return None
        means = facts.mean + facts.keep * (scores - facts.mean)
        return cls(
            mean=facts.mean, true_var=facts.keep * facts.sd**2, noise_var=facts.noise.sd**2,
            local_var=min(facts.noise.local_sd**2, facts.keep * facts.sd**2), means=means, top=means[top_mask(scores)],
            rng=rng,
        )  # fmt: skip

    def broad(self) -> Gain:
        centre = np.full((DRAWS, AHEAD), self.mean)
        return self._searched(centre, np.full((DRAWS, AHEAD), self.true_var))

    def exploit(self) -> Gain:
        centre = self.rng.choice(self.top, size=(DRAWS, AHEAD))
        return self._searched(centre, np.full((DRAWS, AHEAD), self._posterior_var + self.local_var))

    def replicate(self) -> Gain:
        best = np.sort(self.means)[::-1][:REPLICATED]
        centre = np.tile(best, (DRAWS, 1))
        runs = AHEAD // REPLICATED
        return self._picked(centre, np.full(centre.shape, self._posterior_var), self.noise_var / runs, standing=None)

    def ensemble(self, members: Sequence[Mapping[str, Any]], evidence: Mapping[str, Any]) -> Gain | None:
        """Means of equal weights: the noise of the excess returns falls with the correlation between members."""
        together = evidence.get("distinct_correlation")
        if together is None or len(members) < ENSEMBLE_MIN:
            return None
        k = len(members)
        scores = np.array([m["score"] for m in members])
        keep = self.true_var / (self.true_var + self.noise_var) if self.true_var + self.noise_var > 0 else 0.0
        centre = self.mean + keep * (scores - self.mean)
        true = centre + math.sqrt(self._posterior_var) * self.rng.normal(size=(DRAWS, k))
        whole = true.mean(axis=1) / math.sqrt(max(together + (1 - together) / k, 1 / k))
        gain = whole - float(self.means.max())
        return _gain(gain)

    @property
    def _posterior_var(self) -> float:
        total = self.true_var + self.noise_var
        return self.true_var * self.noise_var / total if total > 0 else 0.0

    def _searched(self, centre: Float, variance: Float) -> Gain:
        return self._picked(centre, variance, self.noise_var, standing=float(self.means.max()))

    def _picked(self, centre: Float, variance: Float, noise_var: float, *, standing: float | None) -> Gain:
        """Draw truths, observe them, pick the best posterior mean (or what stands): how the pick's truth differs."""
        true = centre + np.sqrt(variance) * self.rng.normal(size=centre.shape)
        seen = true + math.sqrt(noise_var) * self.rng.normal(size=centre.shape)
        keep = variance / np.maximum(variance + noise_var, 1e-300)
        believed = centre + keep * (seen - centre)
        row, pick = np.arange(len(true)), believed.argmax(axis=1)
        # against what would be picked today; a new pick that is no better than it leaves it in place
        today = true[:, 0] if standing is None else np.full(len(true), standing)
        better = believed[row, pick] > (believed[:, 0] if standing is None else standing)
        return _gain(np.where(better, true[row, pick] - today, 0.0))


def _gain(drawn: Float) -> Gain:
    low, high = np.quantile(drawn, [0.05, 0.95])
    return Gain(mean=float(drawn.mean()), low=float(low), high=float(high))


def _ranges(findings: Sequence[ParameterRow], bounds: Mapping[str, Bounds]) -> str:
    """The top group's 5–95 % of what matters; wider where the top group crowds a bound."""
    if not findings:
        return "Nothing to exploit: no parameter stands out"
    parts = [_range(r, bounds[r.name]) for r in findings]
    return "Search within " + "; ".join(parts)


def _range(row: ParameterRow, bound: Bounds) -> str:
    if bound.choices:
        return f"{row.name} = {row.top}"
    assert row.low is not None and row.high is not None and bound.low is not None and bound.high is not None
    low, high = row.low, row.high
    if "lower" in row.edge:
        low = bound.low / (bound.high / bound.low) ** 0.5 if bound.log else bound.low - (bound.high - bound.low) / 2
        low = max(low, 0.0) if bound.low >= 0.0 else low  # what was never negative stays so
    if "upper" in row.edge:
        high = bound.high * (bound.high / bound.low) ** 0.5 if bound.log else bound.high + (bound.high - bound.low) / 2
    widened = " (wider than now: check that such values make sense)" if low < bound.low or high > bound.high else ""
    return f"{row.name} {shown(low)} … {shown(high)}{widened}"


def _members(members: Sequence[Mapping[str, Any]]) -> str:
    if len(members) < ENSEMBLE_MIN:
        return "Nothing to combine: the best trials are one bet, or their returns are not known"
    numbers = ", ".join(str(m["number"]) for m in members)
    return f"Average the target weights of trials {numbers}; judge the ensemble as its own candidate"
