"""What a language model is asked, and what of its answer is believed: nothing that is not exactly of the form. Pure."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.advisor.proposals import Proposal, Refusal

PROPOSER = "llm"
SEEN = (
    "score_name", "n_complete", "target", "facts", "top_three", "agreement", "rows", "routes", "experiments", "space",
)  # fmt: skip
FIELDS: Mapping[str, Any] = {
    "params": {"type": "object"}, "hypothesis": {"type": "string"}, "predicted_delta": {"type": "number"},
    "confidence": {"type": "number"},
}  # fmt: skip
HYPOTHESIS_LETTERS = 400
SCHEMA: Mapping[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["proposals"],
    "properties": {"proposals": {"type": "array", "items": {
        "type": "object", "additionalProperties": False, "required": list(FIELDS), "properties": dict(FIELDS),
    }}},
}  # fmt: skip
_TASK = (
    "You propose hyperparameter configurations for a reinforcement-learning study. You are given its analysis as JSON. "
    'Answer with JSON alone: {"proposals": [{"params": {...}, "hypothesis": "...", "predicted_delta": 0.0, '
    '"confidence": 0.5}]}. At most %d proposals. params has a value for every name in `space`, inside its range or one '
    "of its choices. hypothesis: one sentence. predicted_delta: by how much its score exceeds that of the sampler's next "
    "trial. confidence: 0 to 1. Each is run beside a control; proposals outside the space are refused and counted."
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """model: as the server names it. proposals: of the right form, not yet held against the space."""

    model: str
    proposals: tuple[Proposal, ...]
    refusals: tuple[Refusal, ...]


def question(analysis: Mapping[str, Any], *, model: str, most: int) -> dict[str, Any]:
    """The request body: the analysis and nothing else of this machine."""
    seen = {key: analysis[key] for key in SEEN if key in analysis}
    return {
        "model": model, "temperature": 0.7, "stream": False,
        "messages": [{"role": "system", "content": _TASK % most},
                     {"role": "user", "content": json.dumps(seen, sort_keys=True)}],
        "response_format": {"type": "json_schema",
                            "json_schema": {"name": "proposals", "strict": True, "schema": dict(SCHEMA)}},
    }  # fmt: skip


def answer(body: bytes, *, most: int) -> Answer:
    """Every proposal of the form; for every other one, and for what follows the first `most`, a refusal."""
    try:
        model, items = _opened(body)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        return Answer(model="", proposals=(), refusals=(_malformed(f"{type(error).__name__}: {error}"),))
    read = [_proposal(item) for item in items[:most]]
    refusals = [r for r in read if isinstance(r, Refusal)]
    refusals += [Refusal(reason="limit", detail=f"{most} are read, {len(items)} came")] * min(len(items[most:]), most)
    return Answer(
        model=model, proposals=tuple(p for p in read if isinstance(p, Proposal)), refusals=tuple(refusals)
    )  # fmt: skip


def _opened(body: bytes) -> tuple[str, list[Any]]:
    """The model's name and the items of its list, out of the two envelopes."""
    envelope = _strict(body.decode())
    inner = _strict(envelope["choices"][0]["message"]["content"])
    if set(inner) != {"proposals"} or not isinstance(inner["proposals"], list):
        raise ValueError("not {proposals: [...]}")
    return plain(str(envelope.get("model", "")), 80), inner["proposals"]


def plain(text: str, letters: int) -> str:
    """One line of printable text: no escape sequence reaches a terminal, no markup a page."""
    kept = "".join(c if c.isprintable() and c not in "<>`|*[]\\" else " " for c in text[: 4 * letters])
    return " ".join(kept.split())[:letters]


def _proposal(item: Any) -> Proposal | Refusal:
    if not isinstance(item, dict) or set(item) != set(FIELDS):
        return _malformed(f"the fields are not {', '.join(FIELDS)}")
    params, delta, confidence = item["params"], item["predicted_delta"], item["confidence"]
    if not isinstance(params, dict) or not isinstance(item["hypothesis"], str):
        return _malformed("params is no object, or hypothesis no text")
    if not _is_number(delta) or not _is_number(confidence) or not 0 <= confidence <= 1:
        return _malformed("predicted_delta or confidence is no number in range")
    return Proposal(
        kind="enqueue", proposer=PROPOSER, parameters=params, hypothesis=plain(item["hypothesis"], HYPOTHESIS_LETTERS),
        predicted_delta=float(delta), confidence=float(confidence),
    )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _strict(text: str) -> dict[str, Any]:
    """An object without a name twice and without numbers that are none; ValueError otherwise."""
    found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)
    if not isinstance(found, dict):
        raise ValueError("not an object")  # noqa: TRY004  to whoever sent it, one kind of wrong
    return found


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{plain(text, 20)} is too large")
    return value


def _malformed(why: str) -> Refusal:
    return Refusal(reason="malformed", detail=plain(why, 160))
