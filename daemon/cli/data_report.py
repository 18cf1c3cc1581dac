"""What `data` tells about stored candles: one record per pair, as JSON and as lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from features.bars import utc_text
from features.resample import resample
from features.store.candles import Candles, timeframe_text
from features.store.shelf import Shelf
from features.store.store import CandleStore
from features.venue_rules import VenueRules

MOST_GAPS = 5  # lines a person reads; --json has all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReport:
    """Stored candles of one pair in a range, perhaps made coarser. revisions: of all that is stored."""

    pair: str
    candles: Candles
    revisions: int

    @classmethod
    def of(cls, shelf: Shelf, after_s: int, until_s: int, *, resample_s: int | None) -> Self:
        candles = shelf.candles(after_s=after_s, until_s=until_s)
        if resample_s is not None:
            known = [span for span in shelf.answered().spans if span[1] > after_s and span[0] < until_s]
            parts = [
                resample(candles, timeframe_s=resample_s, after_s=max(a, after_s), until_s=min(b, until_s))
                for a, b in known
            ]
            candles = Candles.joined(parts, timeframe_s=resample_s)
        return cls(pair=shelf.pair, candles=candles, revisions=len(shelf.revisions()))

    @property
    def missing_bars(self) -> int:
        return sum(self.gap_bars(gap) for gap in self.candles.gaps())

    @property
    def filled_share(self) -> float:
        """Of the bars between the first candle and the last, those that have to be filled forward."""
        return self.missing_bars / (self.missing_bars + len(self.candles))

    def gap_bars(self, gap: tuple[int, int]) -> int:
        return (gap[1] - gap[0]) // self.candles.timeframe_s + 1

    def to_dict(self) -> dict[str, Any]:
        return {
            "pair": self.pair, "candles": len(self.candles), "missing_bars": self.missing_bars,
            "first_close_utc": utc_text(int(self.candles.close_time_s[0])),
            "last_close_utc": utc_text(int(self.candles.close_time_s[-1])),
            "gaps": [
                {"first_close_utc": utc_text(g[0]), "last_close_utc": utc_text(g[1]), "bars": self.gap_bars(g)}
                for g in self.candles.gaps()
            ],
            "filled_share": self.filled_share, "revisions": self.revisions, "sha256": self.candles.sha256(),
        }  # fmt: skip


def report_text(heading: dict[str, Any], rows: Sequence[dict[str, Any]], sha256: str, problem: str | None) -> str:
    """After a download or an update."""
    lines = [f"{heading['venue']} {heading['timeframe']}", *(_line(row) + f", {row['added']} new" for row in rows)]
    for row in rows:
        lines += _gap_lines(row)
        lines += [f"  {row['pair']} revised by the venue: {_revision(r)}" for r in row["revised"]]
    lines += [f"trading rules not stored: {problem}"] if problem else []
    return "\n".join([*lines, f"sha256 {sha256}"])


def stored_text(
    heading: dict[str, Any], reports: Sequence[PairReport], others: Sequence[str], rules: VenueRules | None
) -> str:
    rows = [report.to_dict() for report in reports]
    lines = [f"{heading['venue']} {heading['timeframe']}", *map(_line, rows)]
    lines = lines if rows else ["nothing is stored of the configured market; `cappuccinoctl data download` fetches it"]
    for row in rows:
        lines += _gap_lines(row)
    lines += [f"also stored: {', '.join(others)}"] if others else []
    for ticker, rule in () if rules is None else rules.rules:
        lines.append(f"  {ticker}: lot {rule.lot}, tick {rule.tick}, at least {rule.min_notional} a trade")
    return "\n".join(lines) + ("" if rules else "\nno trading rules are stored") + "\n"


def clock_text(offset_s: float | None, problem: str) -> str:
    if problem:
        return f"clock: {problem}"
    return "clock: no venue to compare with" if offset_s is None else f"clock: {offset_s:+.3f} s ahead of the venue's"


def other_shelves(store: CandleStore, mine: set[Shelf]) -> list[str]:
    """`venue timeframe pair` of everything else in the store."""
    return [
        f"{venue} {timeframe_text(s.timeframe_s)} {s.pair}" for venue, s in store.shelves() if s not in mine
    ]  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    return (
        f"  {row['pair']:<12}{row['first_close_utc']} to {row['last_close_utc']}: {row['candles']} candles, "
        f"{row['missing_bars']} missing ({row['filled_share']:.2%}), {row['revisions']} revisions"
    )


def _gap_lines(row: dict[str, Any]) -> list[str]:
    gaps = sorted(row["gaps"], key=lambda gap: -gap["bars"])
    lines = [
        f"  {row['pair']} gap: {g['first_close_utc']} to {g['last_close_utc']}, {g['bars']} bars"
        for g in gaps[:MOST_GAPS]
    ]
    return lines + [f"  {row['pair']}: {len(gaps) - MOST_GAPS} more gaps"] * (len(gaps) > MOST_GAPS)


def _revision(record: dict[str, Any]) -> str:
    return f"{utc_text(record['close_time_s'])} {record['old'] or 'no candle'} → {record['new']}"
