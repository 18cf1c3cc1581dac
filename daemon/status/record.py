"""The status as frozen records: what goes over the control socket, into status.json and out of `status --json`.

Schema 1. Within a schema keys are only ever added, so a reader ignores keys it does not know; a change of meaning is
a new schema, which an older reader refuses by name.
"""

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from types import UnionType
from typing import Any, Literal

from features.errors import CappuccinoError

SCHEMA = 1
STALE_S = 30.0  # a record older than this is no sign of life
Level = Literal["fail", "warn", "info"]


class OtherSchema(CappuccinoError):
    """The record was written by a version that means something else by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """The supervisor. down: nobody listens; stale: somebody does and says nothing; age_s: of a record from disk."""

    state: str
    pid: int
    up_s: float
    written_utc: str
    finished: bool = False
    down: bool = False
    stale: bool = False
    age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One child. for_s: in this state; silent_s: since it last got something done; note, facts: from its last beat.

    failures: in a row; restarts: after deaths, within the last hour; flapping: several of them.

    next_start_s: until it is started again, None where nothing but an operator would; at the earliest, as starts are paced.
    reason: why it was given up, "" otherwise. rss_bytes: of its own process, 0 before the first look and without one.
    """

    name: str
    kind: str
    state: str
    pid: int | None = None
    for_s: float = 0.0
    failures: int = 0
    restarts: int = 0
    flapping: bool = False
    next_start_s: float | None = None
    silent_s: float = 0.0
    last_exit: str = ""
    reason: str = ""
    ready: bool = False
    rss_bytes: int | None = None
    note: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best trial so far. dsr: deflated Sharpe ratio, a probability; None until this very trial was judged."""

    number: int
    score: float
    artifact: str
    dsr: float | None = None
    dsr_threshold: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast trials end. busy: share of the workers' time spent in trials; eta: 90 % interval, seconds from now."""

    median_s: float | None = None
    per_hour: float | None = None
    busy: float | None = None
    eta_s: float | None = None
    eta_low_s: float | None = None
    eta_high_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The search. given_up: screened or pruned, worse than others; handed_back: killed in the middle, and tried again."""

    name: str
    target: int
    complete: int
    running: int
    given_up: int
    failed: int
    handed_back: int
    samples_per_s: float | None
    best: Best | None
    pace: Pace

    @property
    def finished(self) -> int:
        """Trials that count towards the target."""
        return self.complete + self.given_up + self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """The last judgement. champion: artifact id, or None when no candidate passed; holds: what is traded instead."""

    champion: str | None
    holds: str
    study: str
    trial: int | None
    decided_utc: str
    reason: str
    failed_gates: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """The paper account as the trader last wrote it. Money in quote currency; drawdown and return as fractions.

    decision_age_s: since the bar of the last decision closed, None in a replay, where bars are not of today. waiting: why
    the newest bar was not decided on, "" otherwise. latency: bar at hand to orders acknowledged. shadows: name → return.
    loss_evidence: highest e-value so far against "does not lose to 1/N", after so many days; losing: beyond its limit.
    """

    state: str
    reason: str = ""
    artifact: str | None = None
    champion: bool = False
    last_close_utc: str | None = None
    equity: float | None = None
    cash: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    drawdown: float = 0.0
    return_since_start: float = 0.0
    started_with: float = 0.0
    decisions: int = 0
    fills: int = 0
    orders_open: int = 0
    mismatches: int = 0
    processed_bars: int = 0
    total_bars: int | None = None
    last_decision_utc: str | None = None
    decision_age_s: float | None = None
    waiting: str = ""
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    clock_offset_s: float | None = None
    drill_utc: str | None = None
    drill_age_s: float | None = None
    drill_passed: bool | None = None
    shadows: Mapping[str, float] = field(default_factory=dict)
    loss_evidence: float = 1.0
    loss_days: int = 0
    losing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The advisor's newest analysis, in one line."""

    summary: str
    created_utc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One file system that the state directory uses. used_by: names of what lies on it, "." for the directory itself."""

    path: str
    used_by: tuple[str, ...]
    free_bytes: int
    total_bytes: int
    below_warning: bool
    below_floor: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One card, as the last reading had it. age_s: of that reading."""

    index: int
    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    utilisation: float | None = None
    temperature_c: float | None = None
    age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something a person should know. remedy: what to do about it."""

    level: Level
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    schema: int
    daemon: Daemon
    children: tuple[Child, ...]
    study: Study
    champion: Champion | None
    paper: Paper | None
    advice: Advice | None
    disks: tuple[Disk, ...]
    gpus: tuple[Gpu, ...]
    alerts: tuple[Alert, ...]
    state_dir: str


def parse(record: Mapping[str, Any]) -> Status:
    """A status from its JSON form. Raises OtherSchema."""
    if record.get("schema") != SCHEMA:
        raise OtherSchema(
            f"the status has schema {record.get('schema')!r}, this cappuccinoctl reads {SCHEMA}",
            hint="daemon and cappuccinoctl are of different versions: restart the daemon",
        )
    status: Status = _build(Status, record)
    return status


def known(kind: type, record: Mapping[str, Any]) -> dict[str, Any]:
    """Those entries of `record` that `kind` has a field for."""
    return {n: record[n] for n in _types(kind) if n in record}


def last_known(status: Status, *, down: bool, age_s: float) -> Status:
    """The same record as what is left of a daemon that is down, or that does not answer."""
    children = tuple(replace(c, state="down", pid=None) for c in status.children) if down else status.children
    return replace(
        status, children=children, daemon=replace(status.daemon, down=down, stale=not down, age_s=round(age_s, 1))
    )


def _build(kind: Any, value: Any) -> Any:
    """`value` as the annotated type: records from mappings, tuples from lists, the rest as it is."""
    if value is None:
        return None
    if typing.get_origin(kind) in (typing.Union, UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if isinstance(kind, type) and is_dataclass(kind):
        types = _types(kind)
        return kind(**{n: _build(types[n], value[n]) for n in types if n in value})
    if typing.get_origin(kind) is tuple:
        return tuple(_build(typing.get_args(kind)[0], v) for v in value)
    return value


@cache
def _types(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}
