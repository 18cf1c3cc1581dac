"""One analysis of one study: every section of the report as plain records. Pure; numpy only.

Values come from completed trials alone, rates from all of them; parameters are compared as they were decoded, on the
scale they were searched on; nothing is called a finding that chance explains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from daemon.advisor.claims import Contradiction, contradictions
from daemon.advisor.consistency import Agreement, agreement
from daemon.advisor.operations import Operations, operations
from daemon.advisor.parameters import ParameterRow, parameter_rows
from daemon.advisor.records import Material, Trial
from daemon.advisor.routes import Route, routes
from daemon.advisor.scores import ScoreFacts, score_facts


@dataclass(frozen=True, slots=True, kw_only=True)
class TopTrial:
    """One of the best three. seconds: of one worker."""

    number: int
    score: float
    began_s: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What the report says. n_advised: of n_complete, proposals on trial, by which no parameter is judged.

    facts: None before the first score. evidence, judgement: as the trainer wrote them.
    """

    study: str
    at_utc: str
    score_name: str
    sampling_sd: float | None
    n_complete: int
    n_advised: int
    target: int
    facts: ScoreFacts | None
    top_three: tuple[TopTrial, ...]
    agreement: tuple[Agreement, ...]
    rows: tuple[ParameterRow, ...]
    operations: Operations
    routes: tuple[Route, ...]
    evidence: Mapping[str, Any] | None
    judgement: Mapping[str, Any] | None
    contradictions: tuple[Contradiction, ...]

    @property
    def recommended(self) -> Route:
        return next(r for r in self.routes if r.recommended)

    @property
    def findings(self) -> tuple[ParameterRow, ...]:
        return tuple(r for r in self.rows if r.is_finding)


def analyse(
    material: Material, rng: np.random.Generator, claims: Sequence[Mapping[str, Any]] = ()
) -> Analysis:  # fmt: skip
    """Everything that one report says; `rng` draws intervals and random groups, so equal input gives an equal report.

    claims: statements of another report (daemon.advisor.claims), each checked against these trials and the others.
    """
    scored = [t for t in material.trials if t.score is not None]
    searched = [t for t in scored if not t.advised]
    facts = score_facts(scored, material.bounds, rng)
    rows = parameter_rows(searched, material.bounds, rng)
    agreeing = agreement(searched, material.bounds, rng)
    scores = np.array([t.score for t in scored], dtype=float)
    return Analysis(
        study=material.study, at_utc=material.at_utc, score_name=material.score_name,
        sampling_sd=material.sampling_sd, n_complete=len(scored),
        n_advised=len(scored) - len(searched), target=material.machine.target, facts=facts,
        top_three=_top_three(scored), agreement=agreeing, rows=rows,
        operations=operations(material.trials, material.machine, rng),
        routes=routes(facts, scores, rows, material.bounds, material.evidence, rng), evidence=material.evidence,
        judgement=material.judgement,
        contradictions=contradictions(claims, material, facts, rows, agreeing),
    )  # fmt: skip


def _top_three(scored: Sequence[Trial]) -> tuple[TopTrial, ...]:
    best = sorted(scored, key=lambda t: (-(t.score or 0.0), t.number))[:3]
    return tuple(TopTrial(number=t.number, score=t.score or 0.0, began_s=t.began_s, seconds=t.seconds) for t in best)
