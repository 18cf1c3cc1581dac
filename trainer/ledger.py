"""The trial ledger: an append-only, hash-chained record of every trial ever started, on any study.

Its length is the N of every deflated Sharpe ratio; nobody can type that number in.
"""

import math
import statistics
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

    def ended(
        self, *, study: str, number: int, score: float | None, sharpe: float | None, timeframe_s: int, failure: str | None
    ) -> None:  # fmt: skip
        """score is the study's objective, sharpe the per-bar Sharpe of the validation returns, a bar being timeframe_s."""
        self.append({
            "event": "ended", "study": study, "number": number, "score": score, "sharpe": sharpe,
            "timeframe_s": timeframe_s, "failure": failure,
        })  # fmt: skip

    def count(self) -> int:
        """Trials ever started, failed and repeated ones included."""
        return sum(r["event"] == "started" for r in self.records())

    def sharpes(self, *, timeframe_s: int, study: str | None = None) -> list[float]:
        """Sharpe ratio per bar of timeframe_s of every trial that ended with one, on `study` or on any."""
        ended = (r for r in self.events("ended", telling="timeframe_s") if r["sharpe"] is not None)
        return [
            r["sharpe"] * math.sqrt(timeframe_s / r["timeframe_s"]) for r in ended if study in (None, r["study"])
        ]  # fmt: skip

    def sharpe_variance(self, *, study: str, timeframe_s: int) -> float | None:
        """Of all of them, but no less than of `study`'s own; None below two.

        Many trials that are alike on another study would lower it, and their number would make luck cheaper.
        """
        both = (self.sharpes(timeframe_s=timeframe_s), self.sharpes(timeframe_s=timeframe_s, study=study))
        return max((statistics.variance(x) for x in both if len(x) > 1), default=None)
