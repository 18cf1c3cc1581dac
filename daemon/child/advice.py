"""What advisor and trainer tell each other about advice that is tried: files, so that neither imports the other.

The advisor writes `standing.json`: what to try and what was adopted. The trainer answers with a numbered record per
pair, written before either half is queued; what became of the halves is in the trials' own records.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from features.files import read_json, write_atomic

Arm = Literal["proposal", "control"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Values of one parameter: from low to high, both included, or one of the choices."""

    low: float = 0.0
    high: float = 0.0
    choices: tuple[Any, ...] = ()

    def holds(self, value: Any) -> bool:
        return _among(value, self.choices) if self.choices else self.low <= value <= self.high

    def meets(self, other: "Span") -> bool:
        """Whether the two have a value in common."""
        if self.choices or other.choices:
            return any(_among(c, other.choices) for c in self.choices)
        return self.low <= other.high and other.low <= self.high

    def to_dict(self) -> dict[str, Any]:
        return {"choices": list(self.choices)} if self.choices else {"low": self.low, "high": self.high}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        return cls(**{**record, **({"choices": tuple(record["choices"])} if "choices" in record else {})})


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A proposal to draw pairs from, at most so many: one configuration, or the sampler's draws within ranges.

    paired: False once its proposer has shown its worth; then there is no control.
    """

    proposal: str
    pairs: int
    parameters: Mapping[str, Any] | None = None
    ranges: Mapping[str, Span] = field(default_factory=dict)
    paired: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """sources: in order of age. ranges: adopted, all later draws obey them. target: a stop that was adopted."""

    sources: tuple[Source, ...] = ()
    ranges: Mapping[str, Span] = field(default_factory=dict)
    target: int | None = None

    @classmethod
    def read(cls, state_dir: Path, study: str) -> Self:
        """Empty when the advisor never said anything."""
        path = folder(state_dir, study) / "standing.json"
        if not path.exists():
            return cls()
        record = read_json(path)
        return cls(
            sources=tuple(Source(**{**s, "ranges": spans(s["ranges"])}) for s in record["sources"]),
            ranges=spans(record["ranges"]), target=record["target"],
        )  # fmt: skip

    def write(self, state_dir: Path, study: str) -> None:
        """Only when something is different: the trainer looks at it before every trial."""
        data = json.dumps(asdict(self) | {
            "sources": [asdict(s) | {"ranges": _plain(s.ranges)} for s in self.sources], "ranges": _plain(self.ranges),
        }, indent=1, allow_nan=False).encode()  # fmt: skip
        path = folder(state_dir, study) / "standing.json"
        if not path.exists() or path.read_bytes() != data:
            write_atomic(path, data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    arm: Arm
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two trials on the same folds and the seeds of `seed_number`, in the order in which they are queued.

    The trials carry number and position alone: who trains them is not told which is which.
    """

    number: int
    proposal: str
    seed_number: int
    halves: tuple[Half, ...]

    def write(self, state_dir: Path, study: str) -> None:
        path = folder(state_dir, study) / "pairs" / f"{self.number}.json"
        write_atomic(path, json.dumps(asdict(self), indent=1, allow_nan=False).encode())


def read_pairs(state_dir: Path, study: str) -> list[Pair]:
    """In order of number."""
    records = [read_json(p) for p in (folder(state_dir, study) / "pairs").glob("[0-9]*.json")]
    found = [Pair(**{**r, "halves": tuple(Half(**h) for h in r["halves"])}) for r in records]
    return sorted(found, key=lambda p: p.number)


def on_trial(state_dir: Path, study: str) -> frozenset[tuple[int, int]]:
    """(pair, half) of every trial whose values a proposal chose: together, so they say nothing for each by itself."""
    return frozenset(
        (p.number, position)
        for p in read_pairs(state_dir, study)
        for position, half in enumerate(p.halves)
        if half.arm == "proposal"
    )


def folder(state_dir: Path, study: str) -> Path:
    return state_dir / "advice" / "experiments" / study


def spans(record: Mapping[str, Mapping[str, Any]]) -> dict[str, Span]:
    return {name: Span.from_dict(s) for name, s in record.items()}


Reason = Literal["type", "range", "choice"]


def refusal(value: Any, span: Span, *, integer: bool) -> tuple[Reason, str] | None:
    """Why the value is not allowed, None when it is."""
    if span.choices:
        return None if span.holds(value) else ("choice", f"{value!r} is none of {span.choices}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        return "type", f"{value!r} is not a finite number"
    if integer and value != int(value):
        return "type", f"{value!r} is not a whole number"
    return None if span.holds(value) else ("range", f"{value!r} is outside {span.low} … {span.high}")


def _among(value: Any, choices: Sequence[Any]) -> bool:
    return any(type(c) is type(value) and c == value for c in choices)  # 1 is not True, and a list is nothing


def _plain(ranges: Mapping[str, Span]) -> dict[str, Any]:
    return {name: s.to_dict() for name, s in ranges.items()}
