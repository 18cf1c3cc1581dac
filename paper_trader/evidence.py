"""An alarm for losing against a baseline that may be looked at every day, for ever: an e-process, pure.

Null hypothesis: the mean daily difference in log return, paper account less baseline, each day counted as at most
±CLIP, is not negative. For a fixed bet b the wealth Π(1 − b·d/CLIP) is then a supermartingale that starts at 1; the
average over BETS is one too, so the probability that it ever exceeds 1/α is at most α, whatever the stopping rule
(Ville 1939; Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting"). Several bets
because the best one depends on a loss nobody knows beforehand.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

CLIP = 0.10  # daily log difference; more is rare, and one day shall not decide
BETS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """wealth: log of each bet's; days: differences seen; pair: (paper, baseline) equity at the last midnight."""

    wealth: tuple[float, ...] = (0.0,) * len(BETS)
    days: int = 0
    pair: tuple[float, float] | None = None
    highest: float = 1.0

    @property
    def value(self) -> float:
        """The e-value now; `highest` is what the guarantee is about."""
        top = max(self.wealth)
        return math.exp(top) * sum(math.exp(w - top) for w in self.wealth) / len(self.wealth)


def next_day(evidence: Evidence, *, paper: float, baseline: float) -> Evidence:
    """After another midnight with these equities, in the same currency, both positive."""
    if evidence.pair is None:
        return Evidence(pair=(paper, baseline))
    before_paper, before_baseline = evidence.pair
    difference = math.log(paper / before_paper) - math.log(baseline / before_baseline)
    step = max(-1.0, min(1.0, difference / CLIP))
    wealth = tuple(w + math.log1p(-b * step) for w, b in zip(evidence.wealth, BETS, strict=True))
    after = replace(evidence, wealth=wealth, days=evidence.days + 1, pair=(paper, baseline))
    return replace(after, highest=max(evidence.highest, after.value))


def over_days(pairs: Iterable[tuple[float, float]]) -> Evidence:
    """From the (paper, baseline) equities of one midnight after the other."""
    evidence = Evidence()
    for paper, baseline in pairs:
        evidence = next_day(evidence, paper=paper, baseline=baseline)
    return evidence
