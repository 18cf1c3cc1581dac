"""Over many studies of known truth: how often the advisor is wrong, and how often it finds what is there."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from simulated_study import BOUNDS, EFFECTS, trials

from daemon.advisor.parameters import ParameterRow, parameter_rows

STUDIES, N_TRIALS = 200, 300
HIGH_IMPACT_PCT = 30.0  # the predecessor's rule: a difference of raw means beyond it is a discovery


@dataclass
class Tally:
    """What came of STUDIES studies in which k parameters matter."""

    k: int
    false_share: list[float] = field(default_factory=list)
    studies_wrong: int = 0
    found: Counter[str] = field(default_factory=Counter)
    inert_verdicts: Counter[str] = field(default_factory=Counter)
    raw_false_share: list[float] = field(default_factory=list)

    def add(self, rows: tuple[ParameterRow, ...]) -> None:
        real = {name for name, _ in EFFECTS[: self.k]}
        findings = {r.name for r in rows if r.is_finding}
        self.false_share.append(len(findings - real) / max(1, len(findings)))
        self.studies_wrong += bool(findings - real)
        self.found.update(findings & real)
        self.inert_verdicts.update(r.verdict for r in rows if r.name not in real)
        raw = {r.name for r in rows if r.raw_mean_pct is not None and abs(r.raw_mean_pct) > HIGH_IMPACT_PCT}
        self.raw_false_share.append(len(raw - real) / max(1, len(raw)))

    def text(self) -> str:
        n = sum(self.inert_verdicts.values())
        power = (
            ", ".join(f"{name} {self.found[name] / STUDIES:.0%}" for name, _ in EFFECTS[: self.k]) or "nothing to find"
        )
        return (
            f"{STUDIES} studies of {N_TRIALS} trials and {len(BOUNDS)} parameters, {self.k} of which matter:\n"
            f"  false discoveries: {np.mean(self.false_share):.2%} of all, in {self.studies_wrong} studies; power: {power}\n"
            "  parameters without effect are called "
            + ", ".join(f"{v} {c / n:.1%}" for v, c in self.inert_verdicts.most_common())
            + f"\n  raw means beyond {HIGH_IMPACT_PCT:.0f} %: {np.mean(self.raw_false_share):.0%} of such discoveries are false"
        )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("k", [0, 3, 5])
def test_at_most_one_discovery_in_twenty_is_false_and_the_real_ones_are_found(k: int) -> None:
    tally = Tally(k=k)
    for seed in range(STUDIES):
        tally.add(parameter_rows(trials(1000 * k + seed, n=N_TRIALS, k=k), BOUNDS, np.random.default_rng(seed)))
    print("\n" + tally.text())
    assert np.mean(tally.false_share) <= 0.05
    assert (
        sum(tally.found.values()) >= 0.5 * STUDIES * k
    )  # on average: the faintest effect is found in a third of the studies
    assert tally.inert_verdicts["inert"] > 0.25 * sum(tally.inert_verdicts.values())
    assert np.mean(tally.raw_false_share) > 0.25  # the rule that the predecessor went by, on the same trials
