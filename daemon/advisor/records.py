"""What the analysis is made from: trials, ranges and facts, as plain records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One ended trial. state: COMPLETE, PRUNED or FAIL; score: None without one; began_s: UTC epoch seconds.

    advised: its values are a proposal's on trial, not the search's: it says nothing about other values.
    """

    number: int
    state: str
    score: float | None
    parameters: Mapping[str, Any]
    seconds: float | None
    failure: str | None
    began_s: float | None = None
    advised: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the search allows for one parameter."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the trials ran on. gpus: name, utilisation (0 to 1 or None), bytes used and total, °C or None."""

    workers: int
    target: int
    now_s: float
    free_bytes: int | None = None
    floor_bytes: int = 0
    bytes_per_trial: float | None = None
    gpus: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """All that one analysis looks at.

    score_name: what a score is and in which unit. sampling_sd: how far it moves from bars to other bars as long, None when
    not known; of a t-statistic it is 1. evidence: what the trainer says of the study's returns (`python -m
    trainer evidence`), None when it has none. judgement: champion.json's record. equity: of the judged candidate and its
    baselines, cumulative wealth by name, thinned for drawing.
    """

    study: str
    at_utc: str
    score_name: str
    sampling_sd: float | None
    trials: tuple[Trial, ...]
    bounds: Mapping[str, Bounds]
    machine: Machine
    evidence: Mapping[str, Any] | None = None
    judgement: Mapping[str, Any] | None = None
    equity: Mapping[str, Any] = field(default_factory=dict)
