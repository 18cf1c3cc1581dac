"""champion.json: what the trader holds and why, replaced as one step, with its history.

The history is a stack of decisions: `promoted` puts a policy on it, `demoted` and `rolled back` take one off. What a
person took off stays off until a person promotes it again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from features.files import Lock, read_json, write_atomic

Action = Literal["judged", "promoted", "demoted", "rolled back"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """champion: artifact id or None; holds: what is traded; gates: of the candidate that was judged last."""

    action: Action
    champion: str | None
    holds: str
    study: str
    trial: int | None
    reason: str
    gates: Sequence[Mapping[str, Any]]


class Pointer:
    """The file, for readers and for whoever decides."""

    def __init__(self, state_dir: Path) -> None:
        self._path, self._lock = state_dir / "champion.json", state_dir / "run" / "champion.lock"

    def read(self) -> dict[str, Any] | None:
        return dict(read_json(self._path)) if self._path.exists() else None

    def decide(self, decision: Decision, *, at_utc: str) -> None:
        """Replace the pointer; the history gains an entry when something other than the reason changes."""
        with Lock(self._lock, wait=True):
            before = self.read() or {"history": []}
            history: list[dict[str, Any]] = before["history"]
            entry = {
                "decided_utc": at_utc, "action": decision.action, "champion": decision.champion, "holds": decision.holds,
                "study": decision.study, "trial": decision.trial,
            }  # fmt: skip
            same = all(before.get(k) == entry[k] for k in ("champion", "holds"))
            if not (same and decision.action == "judged"):
                history = [*history, entry]
            body = {
                "schema": 1, **entry, "reason": decision.reason, "gates": list(decision.gates), "history": history,
            }  # fmt: skip
            write_atomic(self._path, json.dumps(body, indent=1).encode())

    def stack(self) -> list[dict[str, Any]]:
        """The entries of the champions that stand, oldest first; the last is the present one, if there is one."""
        standing: list[dict[str, Any]] = []
        for entry in (self.read() or {"history": []})["history"]:
            if entry["action"] == "demoted" and standing:
                standing.pop()
            elif entry["action"] == "rolled back":
                while standing and standing[-1]["champion"] != entry["champion"]:
                    standing.pop()
            elif entry["action"] == "promoted" and (not standing or standing[-1]["champion"] != entry["champion"]):
                standing.append(entry)
        return standing

    def taken_down(self) -> frozenset[str]:
        """Artifacts that a person demoted or rolled back from and nobody has promoted since."""
        down: set[str] = set()
        champion: str | None = None
        for entry in (self.read() or {"history": []})["history"]:
            if entry["action"] in ("demoted", "rolled back") and champion is not None:
                down.add(champion)
            champion = entry["champion"]
            down.discard(champion or "")
        return frozenset(down)
