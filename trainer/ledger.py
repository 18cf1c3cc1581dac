"""The trial ledger: an append-only, hash-chained record of every trial ever started, on any study.

Its length is the N of every deflated Sharpe ratio; nobody can type that number in.
"""

from collections.abc import Mapping
from typing import Any

from features.chain import HashChain


class TrialLedger(HashChain):
    """`ledger.jsonl`: one record when a trial starts, one when it ends."""

    def started(self, *, study: str, number: int, data_sha256: str, parameters: Mapping[str, Any], at_utc: str) -> None:
        self.append({
            "event": "started", "study": study, "number": number, "data_sha256": data_sha256,
            "parameters": dict(parameters), "at_utc": at_utc,
        })  # fmt: skip

    def ended(self, *, study: str, number: int, score: float | None, sharpe: float | None, failure: str | None) -> None:
        """score is the study's objective, sharpe the per-bar Sharpe of the validation returns."""
        self.append({
            "event": "ended", "study": study, "number": number, "score": score, "sharpe": sharpe, "failure": failure,
        })  # fmt: skip

    def count(self) -> int:
        """Trials ever started, failed and repeated ones included."""
        return sum(r["event"] == "started" for r in self.records())

    def sharpes(self) -> list[float]:
        """Per-bar Sharpe of every trial that ended with one."""
        return [r["sharpe"] for r in self.records() if r["event"] == "ended" and r["sharpe"] is not None]
