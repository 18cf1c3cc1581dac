"""The hold-out ledger: who opened it, for which artifact, and what was seen. Each opening is charged."""

from pathlib import Path
from typing import Any

from features.chain import HashChain
from features.errors import DataError


class HoldoutToken:
    """Proof that an opening was written down before any hold-out bar is read; only `HoldoutLedger.open` makes one."""

    def __init__(self, *, opening: int, entry: str, ledger: "HoldoutLedger") -> None:
        self.opening = opening
        self._entry, self._ledger = entry, ledger

    def require_open(self) -> None:
        """DataError unless this token's entry stands in the ledger."""
        if not any(r["hash"] == self._entry for r in self._ledger.records()):
            raise DataError("the hold-out was not opened in the ledger", hint="open it through HoldoutLedger.open")


class HoldoutLedger(HashChain):
    """`holdout.jsonl`: one record per opening, one per statistic seen."""

    def open(self, *, artifact: str, closes_s: tuple[int, int], who: str, at_utc: str) -> HoldoutToken:
        """Write down the opening, then hand out the token. DataError when it was opened for this artifact before.

        closes_s: the first and the last bar's.
        """
        if self.was_opened(artifact):
            raise DataError(
                f"artifact {artifact[:12]} was already judged on the hold-out",
                hint="see holdout.jsonl for what was seen",
            )
        self.openings(closes_s)  # a ledger that does not tell is refused before it is charged
        entry = self.append(
            {"event": "opened", "artifact": artifact, "closes_s": list(closes_s), "who": who, "at_utc": at_utc}
        )
        return HoldoutToken(opening=self.openings(closes_s), entry=entry, ledger=self)

    def was_opened(self, artifact: str) -> bool:
        return any(r["event"] == "opened" and r["artifact"] == artifact for r in self.records())

    def verdict(self, artifact: str) -> dict[str, Any] | None:
        """What was seen of this artifact; None when it was never judged here, or died before it was written down."""
        found = (r["statistics"] for r in self.records() if r["event"] == "seen" and r["artifact"] == artifact)
        return next(found, None)

    def seen(self, *, artifact: str, statistics: dict[str, Any]) -> None:
        self.append({"event": "seen", "artifact": artifact, "statistics": statistics})

    def openings(self, closes_s: tuple[int, int]) -> int:
        """How often any of these bars was looked at: every p-value from them is multiplied by that.

        The next study's hold-out begins a little later or has other tickers; it is the same stretch of the market.
        """
        first, last = closes_s
        opened = (r["closes_s"] for r in self.events("opened", telling="closes_s"))
        return sum(a <= last and first <= b for a, b in opened)


def holdout_ledger(state_dir: Path) -> HoldoutLedger:
    return HoldoutLedger(state_dir / "holdout.jsonl")
